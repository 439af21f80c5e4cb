//! Child processes that end with the value that owns them, and what the kernel says about their use of the machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a child may take to end after SIGTERM before it gets SIGKILL. Envoy with a plug-in in an endless loop
/// needs the latter.
const TERMINATION_GRACE: Duration = Duration::from_secs(3);

/// How often a condition is looked at: fine enough for start-up times in milliseconds, coarse enough to leave the
/// machine to whoever is being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A child process that is ended and reaped when the guard is dropped.
///
/// Its standard output and error go to files in a directory of its own, which goes with the guard. The files are
/// opened for appending, so a child that reopens `/dev/stdout` does not overwrite them.
#[derive(Debug)]
pub struct ChildGuard {
    name: String,
    child: Child,
    dir: TempDir,
}

impl ChildGuard {
    /// Starts `command` with an empty standard input.
    ///
    /// # Errors
    /// When the directory cannot be made or the program cannot be started; the message names the program.
    pub fn spawn(name: &str, command: Command) -> io::Result<Self> {
        Self::spawn_in(name, command, TempDir::with_prefix(format!("wasmgate-{name}-"))?)
    }

    /// Like [`ChildGuard::spawn`], with a directory that already holds the child's configuration.
    ///
    /// # Errors
    /// When the files cannot be made or the program cannot be started; the message names the program.
    pub fn spawn_in(name: &str, mut command: Command, dir: TempDir) -> io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(append(&dir.path().join("stdout"))?)
            .stderr(append(&dir.path().join("stderr"))?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name} did not start: {error}")))?;
        Ok(Self { name: name.to_owned(), child, dir })
    }

    /// The process id of the child.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child and everything it started that still runs, the child first.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        process_tree(self.pid())
    }

    /// The directory of the child's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the child has written to standard output so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stdout(&self) -> io::Result<String> {
        read_lossy(&self.dir.path().join("stdout"))
    }

    /// What the child has written to standard error so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stderr(&self) -> io::Result<String> {
        read_lossy(&self.dir.path().join("stderr"))
    }

    /// The exit status if the child has ended.
    ///
    /// # Errors
    /// Whatever the kernel answers to the wait.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when it still runs at the deadline (it goes on until the guard is dropped).
    pub fn wait(&mut self, deadline: Instant) -> io::Result<ExitStatus> {
        match wait_until(deadline, || self.child.try_wait().transpose()) {
            Some(status) => status,
            None => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} still runs", self.name))),
        }
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// When the child ends first, or the deadline passes; the message ends with the last lines of standard error.
    pub fn wait_ready(&mut self, deadline: Instant, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        let outcome = wait_until(deadline, || match self.child.try_wait() {
            Ok(Some(status)) => Some(Err(format!("ended with {status}"))),
            Err(error) => Some(Err(error.to_string())),
            Ok(None) => ready().then_some(Ok(())),
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(how)) => Err(self.failure(&how)),
            None => Err(self.failure("was not ready in time")),
        }
    }

    /// Asks the child to end, and makes it and its descendants end when they do not; does nothing when it has ended.
    pub fn stop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let descendants: Vec<(u32, Option<String>)> =
            self.pids().into_iter().skip(1).map(|pid| (pid, start_tick(pid))).collect();
        signal(self.child.id(), Signal::TERM);
        if self.wait(Instant::now() + TERMINATION_GRACE).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A master that had to be killed leaves its workers behind. The start time tells them from a stranger that
        // got the number since.
        for (pid, started) in descendants {
            if started.is_some() && start_tick(pid) == started {
                signal(pid, Signal::KILL);
            }
        }
    }

    fn failure(&self, how: &str) -> io::Error {
        let stderr = self.stderr().unwrap_or_default();
        let lines: Vec<&str> = stderr.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        io::Error::other(format!("{} {how}\n{tail}", self.name))
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command that runs `program` on one core only, or anywhere for `None`.
///
/// `taskset` replaces itself by the program, so the process id is the program's.
#[must_use]
pub fn command_on_core(program: &Path, core: Option<u32>) -> Command {
    match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Where `name` is installed: in `PATH`, or in the directories that Debian keeps from ordinary users' `PATH`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// [`find_program`], with an error that says which Debian package has it.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when it is not installed.
pub fn require_program(name: &str, debian_package: &str) -> io::Result<PathBuf> {
    find_program(name).ok_or_else(|| {
        let message = format!("{name} is not installed: apt-get install {debian_package}");
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// Looks at `condition` until it answers something or `deadline` passes; it is looked at once at least.
pub fn wait_until<T>(deadline: Instant, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(answer) = condition() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// `pid` and its descendants that run now, parents before children.
#[must_use]
pub fn process_tree(pid: u32) -> Vec<u32> {
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        next += 1;
        for thread in threads(parent) {
            let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
            tree.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    tree
}

/// The CPU time (user and system) that these processes have used.
///
/// The scheduler's account of the running threads is exact to the nanosecond but forgets a thread when it ends; the
/// account of the whole process forgets nothing but counts in ticks of 10 ms. The larger one is nearer to the truth.
///
/// # Errors
/// When one of the processes has ended.
pub fn cpu_time(pids: &[u32]) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for &pid in pids {
        // utime and stime; the fields are counted from the end of the command's name.
        let in_ticks =
            stat_fields(pid).ok_or_else(|| gone(pid))?.split_whitespace().skip(11).take(2).map(number).sum();
        let running = threads(pid).into_iter().map(|thread| {
            // A thread may end between the listing and the reading.
            let schedstat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            schedstat.split_whitespace().next().map_or(0, number)
        });
        total += from_ticks(in_ticks).max(Duration::from_nanos(running.sum()));
    }
    Ok(total)
}

/// A count of the kernel's clock ticks, 10 ms each on all architectures that the gateway is built for.
#[must_use]
pub fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(10))
}

/// The resident memory of these processes in MiB; pages that several of them share count for each.
///
/// # Errors
/// When one of the processes has ended.
pub fn rss_mib(pids: &[u32]) -> io::Result<f64> {
    let mut kib = 0_u32;
    for &pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| gone(pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or_else(|| gone(pid))?;
        kib += line.split_whitespace().next().and_then(|kib| kib.parse::<u32>().ok()).unwrap_or(0);
    }
    Ok(f64::from(kib) / 1024.0)
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

/// When `pid` was started, in the kernel's own count; with the number it names a process for good.
fn start_tick(pid: u32) -> Option<String> {
    stat_fields(pid)?.split_whitespace().nth(19).map(str::to_owned)
}

/// The fields of `/proc/PID/stat` from the third on: the second, the command's name in parentheses, may hold anything.
fn stat_fields(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')').map(|(_, fields)| fields.to_owned())
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Sends a signal; it fails only for a process that has just ended, which is what is wanted.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn gone(pid: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended"))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn read_lossy(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_gone_after_the_drop() {
        let script = "trap '' TERM; echo up; while :; do sleep 0.01; done";
        let mut guard = ChildGuard::spawn("stubborn", shell(script)).unwrap();
        let pid = guard.pid();
        let stdout = guard.dir().join("stdout");
        let up = || fs::read_to_string(&stdout).is_ok_and(|text| text == "up\n");
        guard.wait_ready(Instant::now() + Duration::from_secs(5), up).unwrap();
        drop(guard);
        assert!(rss_mib(&[pid]).is_err());
    }

    #[test]
    fn a_child_that_ends_early_is_reported_with_its_last_words() {
        let mut guard = ChildGuard::spawn("short", shell("echo no luck >&2; exit 3")).unwrap();
        let error = guard.wait_ready(Instant::now() + Duration::from_secs(5), || false).unwrap_err();
        assert!(error.to_string().contains("short ended with exit status: 3\nno luck"), "{error}");
    }

    #[test]
    fn cpu_time_grows_with_work_and_covers_children() {
        let guard = ChildGuard::spawn("busy", shell("sh -c 'while :; do :; done' & wait")).unwrap();
        let used = wait_until(Instant::now() + Duration::from_secs(10), || {
            let pids = guard.pids();
            (pids.len() == 2 && cpu_time(&pids).ok()? > Duration::from_millis(20)).then_some(pids)
        });
        let pids = used.unwrap();
        assert!(rss_mib(&pids).unwrap() > 0.1);
        // The shell does not pass SIGTERM on, so the grandchild would outlive it.
        drop(guard);
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(
            wait_until(deadline, || pids.iter().all(|pid| rss_mib(&[*pid]).is_err()).then_some(())).is_some()
        );
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = require_program("no-such-program", "some-package").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed: apt-get install some-package");
        assert!(find_program("sh").is_some());
    }
}
