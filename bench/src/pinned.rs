//! Work of the benchmark's own process on the load's core, so that it takes nothing from the proxy.

use std::io;
use std::process::Command;

/// Does the work on a thread of that core; the threads that it starts inherit it.
pub(crate) fn on_core<T: Send>(core: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            pin(core)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the benchmark died")))
    })
}

fn pin(core: u32) -> io::Result<()> {
    // A link to `PID/task/TID`.
    let this_thread = std::fs::read_link("/proc/thread-self")?;
    let tid = this_thread.file_name().unwrap_or_default();
    let output = Command::new("taskset").arg("-cp").arg(core.to_string()).arg(tid).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}
