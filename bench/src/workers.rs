//! Two workers against one, and what they need of memory.
//!
//! A machine of two cores cannot give two workers a core each beside the load. So what a request costs is compared: two
//! workers that cost as much per request as one give twice as much.

use std::io;
use std::path::Path;

use wasmgate_testkit::peers::process::rss_mib;

use crate::bench::Bench;
use crate::case::{Case, Plugin, Protocol, Proxy, Scenario};
use crate::part::Part;
use crate::proxy::{Running, Wasmgate};
use crate::reading::{Figure, Reading, take};

pub(crate) const CAPACITY: &str = "what two workers give ÷ one, by CPU per request";
pub(crate) const RSS_COMPILED: &str = "RSS idle, two workers, Go plug-in compiled at this start";
pub(crate) const RSS_IDLE: &str = "RSS idle, two workers, Go plug-in compiled before";
pub(crate) const RSS_LOADED: &str = "RSS after load, two workers, Go plug-in";

/// How long a window is.
const SECONDS: u32 = 4;

/// Measures Wasmgate.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    take(Part::Workers, bench.those_of(&[Proxy::Wasmgate]), |_| workers(bench))
}

fn workers(bench: &Bench) -> io::Result<Vec<Figure>> {
    let one = cost(bench, 1)?;
    let two = cost(bench, 2)?;
    let share_of_others = Some(one.1.max(two.1));
    let mut figures =
        vec![Figure { what: CAPACITY, unit: "×", value: 2.0 * one.0 / two.0, share_of_others }];
    if bench.module(Plugin::Go).is_some() {
        let cache = tempfile::TempDir::with_prefix("wasmgate-bench-")?;
        let fresh = start(bench, 2, Plugin::Go, cache.path())?;
        let value = rss_mib(&fresh.pids())?;
        figures.push(Figure { what: RSS_COMPILED, unit: "MiB", value, share_of_others: None });
        drop(fresh);
        let running = start(bench, 2, Plugin::Go, cache.path())?;
        let value = rss_mib(&running.pids())?;
        figures.push(Figure { what: RSS_IDLE, unit: "MiB", value, share_of_others: None });
        bench.generators().run(case(Plugin::Go), running.listener(), SECONDS)?;
        let value = rss_mib(&running.pids())?;
        figures.push(Figure { what: RSS_LOADED, unit: "MiB", value, share_of_others: None });
    }
    Ok(figures)
}

/// CPU time per request, and the share of others.
fn cost(bench: &Bench, workers: u16) -> io::Result<(f64, f64)> {
    let running = start(bench, workers, Plugin::None, &bench.dir().join("cache"))?;
    let load = |seconds| bench.generators().run(case(Plugin::None), running.listener(), seconds);
    load(1)?;
    let window = bench.watch(&running, || load(SECONDS))?;
    Ok((window.cpu.as_secs_f64() / f64::from(window.result.requests), window.share_of_others))
}

/// A Wasmgate on any core, as it is in production.
fn start(bench: &Bench, workers: u16, plugin: Plugin, cache: &Path) -> io::Result<Running> {
    let mut options = bench.wasmgate_options(plugin, cache.to_path_buf())?;
    options.workers = workers;
    Ok(Running::Wasmgate(Wasmgate::start(&options)?))
}

fn case(plugin: Plugin) -> Case {
    let (scenario, protocol, proxy) = (Scenario::Allowed, Protocol::Http1, Proxy::Wasmgate);
    Case { scenario, protocol, access_log: false, proxy, plugin }
}
