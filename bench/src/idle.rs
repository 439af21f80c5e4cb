//! What an idle keep-alive connection costs in memory.

use std::io;
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wasmgate_testkit::peers::process::rss_mib;

use crate::bench::Bench;
use crate::case::Proxy;
use crate::interrupt;
use crate::part::Part;
use crate::reading::{Figure, Reading, failure, take};
use crate::stage::Stage;
use crate::transfer;

pub(crate) const RSS: &str = "RSS of each of 10,000 idle connections";

/// Connections, each of which has made one request.
const CONNECTIONS: u32 = 10_000;
/// Descriptors that the benchmark and a proxy need beside those.
const DESCRIPTORS_MORE: u64 = 1000;

/// Measures every proxy.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    let proxies = bench.those_of(&[Proxy::Nginx, Proxy::Envoy, Proxy::Wasmgate]);
    match raise_descriptors() {
        Ok(()) => take(Part::Idle, proxies, |proxy| hold(bench, proxy)),
        Err(error) => proxies.into_iter().map(|proxy| failure(Part::Idle, proxy, &error)).collect(),
    }
}

/// Proxies inherit the limit.
fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let needed = u64::from(CONNECTIONS) + DESCRIPTORS_MORE;
    if maximum.is_some_and(|maximum| maximum < needed) {
        return Err(io::Error::other(format!(
            "the hard limit of descriptors (ulimit -Hn) is below {needed}"
        )));
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum.or(Some(needed)), maximum })?)
}

fn hold(bench: &Bench, proxy: Proxy) -> io::Result<Vec<Figure>> {
    let running = Stage::new(bench.backend().listener()).start(bench, proxy)?;
    let address = running.listener();
    // What the first requests need once is not a connection's.
    drop(connect(address, 16)?);
    let pids = running.pids();
    let before_mib = rss_mib(&pids)?;
    let held = connect(address, CONNECTIONS)?;
    let after_mib = rss_mib(&pids)?;
    drop(held);
    let value = (after_mib - before_mib) * 1024.0 / f64::from(CONNECTIONS);
    Ok(vec![Figure { what: RSS, unit: "KiB", value, share_of_others: None }])
}

fn connect(address: SocketAddr, count: u32) -> io::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        interrupt::check()?;
        let mut stream = transfer::connect(address)?;
        transfer::get(&mut stream, "bench.example")?;
        held.push(stream);
    }
    Ok(held)
}
