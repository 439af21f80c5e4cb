//! p99 of an open loop: requests come when they are due, whether the ones before have been answered or not.
//!
//! All proxies get the same rate, 70 % of what the slowest can do. A request that is due while its connection waits
//! for an answer counts from when it was due.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::case::Proxy;
use crate::interrupt;
use crate::load::percentile;
use crate::part::Part;
use crate::reading::{Figure, Reading, take};
use crate::stage::Stage;
use crate::transfer;

pub(crate) const P99: &str = "p99 at 70 % of the slowest's saturation";
const P50: &str = "p50 at 70 % of the slowest's saturation";
const RATE: &str = "saturation, HTTP/1.1 without a plug-in";

const CONNECTIONS: u32 = 32;
const SHARE: f64 = 0.7;
const SATURATION_SECONDS: u32 = 2;
const WARM_UP: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(4);
/// How much longer than its window a loop may take. Beyond, a queue grew from beginning to end, and a percentile says
/// how long the window was.
const OVERRUN_MAX: Duration = Duration::from_millis(400);

/// What a loop has seen.
#[derive(Debug)]
struct Times {
    /// From when each request was due to its answer.
    sorted_us: Vec<u32>,
    /// From the end of the window to the last answer.
    overrun: Duration,
}

/// Measures every proxy.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    let proxies = bench.those_of(&[Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy, Proxy::Wasmgate]);
    let stage = Stage::new(bench.backend().listener());
    let hosts = ["bench.example".to_owned()];
    let mut readings = take(Part::Latency, proxies.clone(), |proxy| {
        let running = stage.start(bench, proxy)?;
        let load = |seconds| bench.generators().run_hosts(running.listener(), seconds, &hosts);
        load(1)?;
        let window = bench.watch(&running, || load(SATURATION_SECONDS))?;
        let share_of_others = Some(window.share_of_others);
        Ok(vec![Figure { what: RATE, unit: "1/s", value: window.result.rps, share_of_others }])
    });
    let slowest = readings.iter().filter_map(|reading| reading.value).reduce(f64::min);
    let Some(rate) = slowest.map(|slowest| slowest * SHARE) else { return readings };
    readings.extend(take(Part::Latency, proxies, |proxy| {
        let running = stage.start(bench, proxy)?;
        let address = running.listener();
        open_loop(address, rate, WARM_UP)?;
        let window = bench.watch(&running, || open_loop(address, rate, WINDOW))?;
        let share_of_others = Some(window.share_of_others);
        let Times { sorted_us, overrun } = window.result;
        if overrun > OVERRUN_MAX {
            return Err(io::Error::other(format!(
                "{rate:.0} requests a second were too many for proxy or load"
            )));
        }
        let figure = |what, percent| {
            let value = percentile(&sorted_us, percent).map_or(0.0, f64::from);
            Figure { what, unit: "µs", value, share_of_others }
        };
        Ok(vec![figure(P50, 50), figure(P99, 99)])
    }));
    readings
}

/// Asks at a steady rate over [`CONNECTIONS`] for a while.
fn open_loop(address: SocketAddr, rate: f64, time: Duration) -> io::Result<Times> {
    let between = Duration::from_secs_f64(1.0 / rate.max(1.0));
    let start = Instant::now() + Duration::from_millis(20);
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let first = start + between * number;
                scope.spawn(move || ask(address, first, between * CONNECTIONS, start + time))
            })
            .collect();
        for connection in connections {
            let times = connection.join().unwrap_or_else(|_| Err(io::Error::other("a connection died")))?;
            all.extend(times);
        }
        Ok::<_, io::Error>(())
    })?;
    let overrun = Instant::now().saturating_duration_since(start + time);
    all.sort_unstable();
    Ok(Times { sorted_us: all, overrun })
}

/// One connection, whose requests are due at regular times.
fn ask(address: SocketAddr, first: Instant, between: Duration, end: Instant) -> io::Result<Vec<u32>> {
    let mut stream = transfer::connect(address)?;
    let mut times = Vec::new();
    let mut due = first;
    while due < end {
        interrupt::check()?;
        // Sleeping is exact to some 0.1 ms, which is nobody's but the generator's: the same for all proxies.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        transfer::get(&mut stream, "bench.example")?;
        times.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        due += between;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_request_that_is_kept_waiting_by_another_counts_from_when_it_was_due() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        });
        let (start, between) = (Instant::now(), Duration::from_millis(10));
        let times = ask(address, start, between, start + between * 5).unwrap();
        assert_eq!(times.len(), 5);
        // Answers are 20 ms apart at least, so the fifth comes 100 ms after the start and was due after 40 ms.
        assert!(times.last().is_some_and(|time| *time >= 60_000), "{times:?}");
    }
}
