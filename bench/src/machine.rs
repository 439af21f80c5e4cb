//! What the figures were measured on and with.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use wasmgate_testkit::peers::{envoy_install, haproxy, nginx};

use crate::bench::Bench;
use crate::case::Proxy;

/// The machine and the versions of everything that took part.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu_model: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The load average of the last minute when the benchmark started; anything much above 0 taints the figures.
    pub(crate) load_average: f64,
    pub(crate) versions: BTreeMap<String, String>,
}

impl Machine {
    /// Looks at this machine. What cannot be found out is left empty: it must not keep the rows from being measured.
    pub(crate) fn inspect(bench: &Bench) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let memory_kib =
            value(&meminfo, "MemTotal").split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        let mut versions = BTreeMap::new();
        let mut note = |name: &str, version: io::Result<String>| {
            versions.insert(name.to_owned(), version.unwrap_or_else(|error| error.to_string()));
        };
        note("nginx", nginx::version());
        if bench.uses(Proxy::Haproxy) {
            note("haproxy", haproxy::version());
        }
        if let Some(envoy) = bench.envoy_binary() {
            note("envoy", envoy_install::version(envoy));
        }
        if bench.uses(Proxy::Wasmgate) {
            note("wasmgate", stated_version(bench.wasmgate_binary(), "--version"));
        }
        note("wrk", stated_version(Path::new("wrk"), "-v"));
        note("h2load", stated_version(Path::new("h2load"), "--version"));
        Self {
            cpu_model: value(&cpuinfo, "model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            load_average: loadavg
                .split_whitespace()
                .next()
                .and_then(|load| load.parse::<f64>().ok())
                .unwrap_or(0.0),
            versions,
        }
    }
}

/// The proxy's core, and the core of the load generator and the backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) proxy: u32,
    pub(crate) load: u32,
}

impl Cores {
    /// The first two cores that this process may use, which in a container need not be 0 and 1.
    pub(crate) fn pick() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let mut cores = parse_core_list(value(&status, "Cpus_allowed_list")).into_iter();
        match (cores.next(), cores.next()) {
            (Some(proxy), Some(load)) => Ok(Self { proxy, load }),
            _ => Err(io::Error::other(
                "two cores are needed: one for the proxy, one for the load and the backend",
            )),
        }
    }
}

/// The kernel's form of a list of cores, as in `0-3,8`.
fn parse_core_list(list: &str) -> Vec<u32> {
    let mut cores = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// The first value of `key` in one of the kernel's `key: value` files.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map_or("", |(_, value)| value.trim())
}

/// The version in the first line that the program prints, without its name and copyright.
fn stated_version(program: &Path, flag: &str) -> io::Result<String> {
    // wrk ends with status 1 after printing its version, so the status says nothing.
    let output = Command::new(program).arg(flag).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let version = line.split_once(' ').map_or(line, |(_, version)| version);
    Ok(version.split(" Copyright").next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_of_the_kernel_are_understood() {
        assert_eq!(parse_core_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_core_list("7"), [7]);
        assert!(parse_core_list("").is_empty());
    }

    #[test]
    fn values_are_found_by_their_exact_key() {
        assert_eq!(value("Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\n", "Cpus_allowed_list"), "0-1");
        assert_eq!(value("model name\t: A CPU\nmodel name\t: B\n", "model name"), "A CPU");
    }
}
