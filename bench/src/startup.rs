//! The time from the start of a process to its first answer, and from a changed manifest to the new plug-in's.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmgate_testkit::peers::envoy::Envoy;
use wasmgate_testkit::peers::probe;
use wasmgate_testkit::peers::process::ChildGuard;

use crate::arguments::Arguments;
use crate::bench::{Bench, DENY_BODY};
use crate::case::{Plugin, Proxy};
use crate::interrupt;
use crate::proxy::{Wasmgate, WasmgateOptions};
use crate::report::median;

/// How often each time is taken.
const REPETITIONS: usize = 3;

/// How long a first answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// The new plug-in's answer: as long as the old one's, so that one module can be made of the other.
const SWAPPED_BODY: &str = "Forbidden by the new version";

/// What was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// A new process answers the first proxied request, with the plug-in in force.
    Start,
    /// A running gateway answers with the new plug-in for the first time.
    Swap,
}

/// A time of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Startup {
    pub(crate) event: Event,
    pub(crate) proxy: Proxy,
    pub(crate) plugin: Plugin,
    /// Whether the module had been compiled by an earlier process; `None` where nothing is kept between processes.
    pub(crate) module_cached: Option<bool>,
    /// The median.
    pub(crate) milliseconds: Option<f64>,
    pub(crate) error: Option<String>,
}

/// Takes all times. The proxies may use every core, as they do in production, because compiling is what counts here.
pub(crate) fn measure(bench: &Bench, arguments: &Arguments) -> Vec<Startup> {
    let mut times = Vec::new();
    for plugin in [Plugin::None, Plugin::Go, Plugin::Rust].into_iter().filter(|plugin| arguments.has(*plugin))
    {
        if bench.uses(Proxy::Envoy) {
            times.push(entry(Event::Start, Proxy::Envoy, plugin, None, || envoy_start(bench, plugin)));
        }
        if !bench.uses(Proxy::Wasmgate) {
            continue;
        }
        if bench.module(plugin).is_none() {
            let start = || wasmgate_start(bench, plugin, false);
            times.push(entry(Event::Start, Proxy::Wasmgate, plugin, None, start));
            continue;
        }
        for cached in [false, true] {
            let start = || wasmgate_start(bench, plugin, cached);
            times.push(entry(Event::Start, Proxy::Wasmgate, plugin, Some(cached), start));
        }
        for cached in [false, true] {
            let swap = || wasmgate_swap(bench, plugin, cached);
            times.push(entry(Event::Swap, Proxy::Wasmgate, plugin, Some(cached), swap));
        }
    }
    times
}

fn entry(
    event: Event,
    proxy: Proxy,
    plugin: Plugin,
    module_cached: Option<bool>,
    mut take: impl FnMut() -> io::Result<Duration>,
) -> Startup {
    let times: io::Result<Vec<f64>> = (0..REPETITIONS)
        .map(|_| interrupt::check().and_then(|()| take()).map(|time| time.as_secs_f64() * 1e3))
        .collect();
    let (milliseconds, error) = match times {
        Ok(times) => (median(times), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Startup { event, proxy, plugin, module_cached, milliseconds, error }
}

fn envoy_start(bench: &Bench, plugin: Plugin) -> io::Result<Duration> {
    let options = bench.envoy_options(plugin)?;
    let bootstrap = options.config.to_bootstrap();
    let start = Instant::now();
    let mut envoy = Envoy::spawn(&options, &bootstrap)?;
    let listener = envoy.listener();
    first_answer(envoy.child_mut(), listener, plugin, start)
}

fn wasmgate_start(bench: &Bench, plugin: Plugin, cached: bool) -> io::Result<Duration> {
    let options = bench.wasmgate_options(plugin, fresh_cache(bench)?)?;
    if cached {
        drop(Wasmgate::start(&options)?);
    }
    let start = Instant::now();
    let mut wasmgate = Wasmgate::spawn(&options)?;
    first_answer(wasmgate.child_mut(), listener(&options), plugin, start)
}

/// The time of a swap to a module with another answer. Not one request may fail meanwhile, and none may pass.
fn wasmgate_swap(bench: &Bench, plugin: Plugin, cached: bool) -> io::Result<Duration> {
    let mut options = bench.wasmgate_options(plugin, fresh_cache(bench)?)?;
    let old = options.plugin.take().ok_or_else(|| io::Error::other("there is no module to swap"))?;
    let new = swapped_module(&old, bench.dir())?;
    if cached {
        options.plugin = Some(new.clone());
        drop(Wasmgate::start(&options)?);
    }
    options.plugin = Some(old);
    let wasmgate = Wasmgate::start(&options)?;
    options.plugin = Some(new);
    let start = Instant::now();
    wasmgate.apply(&options)?;
    loop {
        interrupt::check()?;
        let answer = probe::get(listener(&options), "/", &[], Duration::from_secs(5))?;
        match (answer.status, answer.text().as_str()) {
            (403, SWAPPED_BODY) => return Ok(start.elapsed()),
            (403, DENY_BODY) if start.elapsed() < ANSWER_TIME_MAX => {
                std::thread::sleep(Duration::from_millis(1));
            }
            (status, body) => return Err(io::Error::other(format!("during a swap: {status} {body:?}"))),
        }
    }
}

/// Waits for a request to be proxied. The plug-in must be in force by then: a gateway that lets the first requests
/// through has not started, it has failed.
fn first_answer(
    child: &mut ChildGuard,
    listener: SocketAddr,
    plugin: Plugin,
    start: Instant,
) -> io::Result<Duration> {
    let ask = |headers: &[(&str, &str)]| probe::get(listener, "/", headers, Duration::from_secs(5));
    child.wait_ready(start + ANSWER_TIME_MAX, || {
        ask(&[("allow", "true")]).is_ok_and(|answer| answer.status == 200)
    })?;
    let time = start.elapsed();
    let denied = ask(&[])?.status == 403;
    if denied != (plugin != Plugin::None) {
        return Err(io::Error::other("the first request was answered before the plug-in was in force"));
    }
    Ok(time)
}

/// The module with another answer in its data: a new version without a compiler.
fn swapped_module(module: &Path, dir: &Path) -> io::Result<PathBuf> {
    let (new, count) = replace_all(fs::read(module)?, DENY_BODY.as_bytes(), SWAPPED_BODY.as_bytes());
    if count == 0 {
        return Err(io::Error::other(format!("{} does not hold the answer {DENY_BODY:?}", module.display())));
    }
    let path = dir.join("swapped.wasm");
    fs::write(&path, new)?;
    Ok(path)
}

/// Replaces every `old` by `new`, which is as long, and says how many there were.
fn replace_all(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> (Vec<u8>, usize) {
    let found: Vec<usize> =
        bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old).map(|(at, _)| at).collect();
    for at in &found {
        if let Some(target) = bytes.get_mut(*at..at + new.len()) {
            target.copy_from_slice(new);
        }
    }
    (bytes, found.len())
}

fn fresh_cache(bench: &Bench) -> io::Result<PathBuf> {
    let dir = bench.dir().join("startup-cache");
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&dir)?;
    Ok(dir)
}

fn listener(options: &WasmgateOptions) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], options.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_answer_takes_the_old_ones_place_byte_for_byte() {
        assert_eq!(SWAPPED_BODY.len(), DENY_BODY.len());
        let (bytes, count) = replace_all(b"..old..old".to_vec(), b"old", b"new");
        assert_eq!((bytes.as_slice(), count), (b"..new..new".as_slice(), 2));
    }
}
