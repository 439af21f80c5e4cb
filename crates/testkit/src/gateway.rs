//! The real binary on a folder of manifests of its own.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{RawAnswer, once, request};
use crate::manifests;
use crate::peers::ports::{PortLease, free_port};
use crate::peers::process::{ChildGuard, wait_until};

/// How long anything that a test waits for may take. A machine under load is slow; a test that waits in vain fails all
/// the same.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug)]
pub struct GatewayBuilder {
    program: PathBuf,
    manifests: Vec<(String, String)>,
    arguments: Vec<String>,
    workers: u16,
    patience: Duration,
}

impl GatewayBuilder {
    /// The program `wasmgate` with a Gateway on a leased port, two workers and no other manifest.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self {
            program: program.into(),
            manifests: Vec::new(),
            arguments: Vec::new(),
            workers: 2,
            patience: PATIENCE,
        }
    }

    /// Adds a manifest.
    #[must_use]
    pub fn manifest(mut self, name: &str, text: impl Into<String>) -> Self {
        self.manifests.push((name.to_owned(), text.into()));
        self
    }

    /// Adds a route that sends everything to an endpoint.
    #[must_use]
    pub fn backend(self, endpoint: SocketAddr) -> Self {
        self.manifest("route.yaml", manifests::route())
            .manifest("backend.yaml", manifests::service_entry(endpoint))
    }

    /// Sets the number of workers.
    #[must_use]
    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    /// Sets how long it may take to get ready.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Adds an argument to the command line.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; with its log.
    pub fn run(self) -> io::Result<RunningGateway> {
        let deadline = Instant::now() + self.patience;
        let gateway = self.spawn()?;
        let ready = wait_until(deadline, || gateway.admin_get("/ready").ok().filter(|a| a.status == 200));
        match ready {
            Some(_) => Ok(gateway),
            None => Err(io::Error::other(format!("not ready: {}", gateway.log()))),
        }
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn spawn(self) -> io::Result<RunningGateway> {
        let dir = TempDir::with_prefix("wasmgate-test-")?;
        let config = dir.path().join("config");
        std::fs::create_dir(&config)?;
        let lease = PortLease::new()?;
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        std::fs::write(config.join("gateway.yaml"), manifests::gateway(lease.port()))?;
        for (name, text) in &self.manifests {
            std::fs::write(config.join(name), text)?;
        }
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(&config).arg("--admin").arg(admin.to_string());
        command.arg("--workers").arg(self.workers.to_string());
        if !self.arguments.iter().any(|a| a == "--cache-dir") {
            command.arg("--cache-dir").arg(dir.path().join("cache"));
        }
        command.args(["--drain-time", "5"]).args(&self.arguments);
        let program = self.program;
        let arguments = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let child = ChildGuard::spawn("wasmgate", command)?;
        let address = lease.address();
        Ok(RunningGateway { child, program, arguments, config, address, admin, _lease: lease, dir })
    }
}

/// A gateway that runs. Ends when it is dropped.
#[derive(Debug)]
pub struct RunningGateway {
    child: ChildGuard,
    program: PathBuf,
    arguments: Vec<std::ffi::OsString>,
    config: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
    _lease: PortLease,
    dir: TempDir,
}

impl RunningGateway {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder of its own, beside that of the manifests.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Starts another process with the same arguments, which becomes the one that this is; the one before is returned.
    ///
    /// # Errors
    /// The system's.
    pub fn start_another(&mut self, more: &[&str]) -> io::Result<ChildGuard> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(more);
        let next = ChildGuard::spawn("wasmgate", command)?;
        Ok(std::mem::replace(&mut self.child, next))
    }

    /// Where its admin interface listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its folder of manifests.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process.
    #[must_use]
    pub fn child(&self) -> &ChildGuard {
        &self.child
    }

    /// Its process, to wait for or to end.
    pub fn child_mut(&mut self) -> &mut ChildGuard {
        &mut self.child
    }

    /// Sends a GET over a connection of its own.
    ///
    /// # Errors
    /// The connection's.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<RawAnswer> {
        once(self.address, &request("GET", path, headers, ""))
    }

    /// Asks the admin interface.
    ///
    /// # Errors
    /// The connection's.
    pub fn admin_get(&self, path: &str) -> io::Result<RawAnswer> {
        once(self.admin, &request("GET", path, &[("connection", "close")], ""))
    }

    /// Tells the admin interface.
    ///
    /// # Errors
    /// The connection's.
    pub fn admin_post(&self, path: &str) -> io::Result<RawAnswer> {
        once(self.admin, &request("POST", path, &[("connection", "close"), ("content-length", "0")], ""))
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.stderr().unwrap_or_default()
    }

    /// Its access log lines.
    #[must_use]
    pub fn access_log(&self) -> Vec<String> {
        self.child.stdout().unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits for a line in the log.
    ///
    /// # Errors
    /// When it does not come; with the log.
    pub fn wait_for_log(&self, text: &str) -> io::Result<String> {
        let line = wait_until(Instant::now() + PATIENCE, || {
            self.log().lines().find(|l| l.contains(text)).map(str::to_owned)
        });
        line.ok_or_else(|| io::Error::other(format!("the log never said {text:?}: {}", self.log())))
    }

    /// Writes a manifest as an editor does: in one step.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let temporary = self.config.join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text)?;
        std::fs::rename(temporary, self.config.join(name))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.config.join(name))
    }

    /// What `/plugins` says of one plug-in.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<serde_json::Value> {
        let answer = self.admin_get("/plugins").ok()?;
        let json: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        json.get("plugins")?
            .as_array()?
            .iter()
            .find(|p| p.get("name").and_then(|n| n.as_str()) == Some(name))
            .cloned()
    }

    /// Waits until a plug-in's field has a value.
    ///
    /// # Errors
    /// When that does not happen; with what it was last.
    pub fn wait_for_plugin(&self, name: &str, field: &str, value: &str) -> io::Result<serde_json::Value> {
        let reached = wait_until(Instant::now() + PATIENCE, || {
            self.plugin(name).filter(|p| p.get(field).is_some_and(|f| f.as_str() == Some(value)))
        });
        reached.ok_or_else(|| {
            io::Error::other(format!(
                "{name}: {field} is never {value:?}: {:?}\n{}",
                self.plugin(name),
                self.log()
            ))
        })
    }

    /// Waits until an answer satisfies a condition.
    ///
    /// # Errors
    /// When that does not happen; with the last answer.
    pub fn wait_for_answer(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        is_right: impl Fn(&RawAnswer) -> bool,
    ) -> io::Result<RawAnswer> {
        let answer =
            wait_until(Instant::now() + PATIENCE, || self.get(path, headers).ok().filter(|a| is_right(a)));
        answer
            .ok_or_else(|| io::Error::other(format!("never: {:?}\n{}", self.get(path, headers), self.log())))
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.pid()).unwrap_or_default());
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        self.child.wait(Instant::now() + PATIENCE)
    }
}
