//! How much of the machine went to somebody else while a row was measured.
//!
//! Another process on either core takes caches and time slices from the proxy and from the load, and can double the
//! CPU time per request. A benchmark cannot prevent that, but it must know.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use wasmgate_testkit::peers::process::{cpu_time, from_ticks};

/// From here on a window is measured again while there is time, and marked when there is none.
pub(crate) const DISTURBED_FROM: f64 = 0.05;

use crate::interrupt;

/// How long nobody else may have worked before a window begins.
const QUIET_TIME: Duration = Duration::from_millis(500);

/// A window in which everything that belongs to the benchmark is known.
#[derive(Debug)]
pub(crate) struct Watch {
    pids: Vec<u32>,
    start: Instant,
    busy: Duration,
    ours: Duration,
}

impl Watch {
    /// Begins to watch. `pids` are the processes of the benchmark that live longer than the window; children that
    /// start and end within it (the load generator) are known from their parent.
    pub(crate) fn begin(pids: Vec<u32>) -> io::Result<Self> {
        let (busy, ours) = (busy_time()?, own_time(&pids)?);
        Ok(Self { pids, start: Instant::now(), busy, ours })
    }

    /// The share of all cores that others have used since.
    pub(crate) fn share_of_others(&self) -> io::Result<f64> {
        let busy = busy_time()?.saturating_sub(self.busy);
        let ours = own_time(&self.pids)?.saturating_sub(self.ours);
        let available = self.start.elapsed().as_secs_f64() * f64::from(cores()?);
        Ok(busy.saturating_sub(ours).as_secs_f64() / available.max(f64::MIN_POSITIVE))
    }
}

/// Waits until the machine is quiet, or the deadline passes. The benchmark must not load it meanwhile: two that wait
/// for each other under load would never end.
pub(crate) fn wait_for_quiet(deadline: Instant) -> io::Result<()> {
    while Instant::now() < deadline {
        let watch = Watch::begin(Vec::new())?;
        std::thread::sleep(QUIET_TIME);
        interrupt::check()?;
        if watch.share_of_others()? < DISTURBED_FROM {
            break;
        }
    }
    Ok(())
}

/// What all processes of the machine have used, from the first line of `/proc/stat`: user, nice, system, irq and
/// softirq. The last two are in it because loopback traffic is softirq work, which the scheduler charges to the
/// process that it interrupts.
fn busy_time() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let mut fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let processes = ticks(fields.by_ref().take(3));
    // Between them stand idle and iowait.
    Ok(processes + ticks(fields.skip(2).take(2)))
}

/// The cores that [`busy_time`] is of; `available_parallelism` would count those that this thread may use.
fn cores() -> io::Result<u32> {
    let stat = fs::read_to_string("/proc/stat")?;
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    Ok(u32::try_from(cores).unwrap_or(u32::MAX).max(1))
}

/// What the benchmark itself, its ended children and `pids` have used.
fn own_time(pids: &[u32]) -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The command's name may hold anything; after it utime, stime, cutime and cstime are fields 12 to 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    Ok(ticks(fields.split_whitespace().skip(11).take(4)) + cpu_time(pids)?)
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    from_ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_is_not_somebody_elses() {
        let before = own_time(&[]).unwrap();
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {}
        assert!(own_time(&[]).unwrap().saturating_sub(before) >= Duration::from_millis(50));
        assert!(busy_time().unwrap() >= own_time(&[]).unwrap());
        assert!(cores().unwrap() >= 1);
    }
}
