//! 10,000 routes on 1,000 hosts with 1,000 clusters against ten, and how a change of one of them shows.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmgate_testkit::peers::nginx::{Nginx, NginxBackend};
use wasmgate_testkit::peers::ports::PortLease;

use crate::bench::Bench;
use crate::case::{Plugin, Proxy};
use crate::interrupt;
use crate::part::Part;
use crate::proxy::{Running, Wasmgate};
use crate::reading::{Figure, Reading, take};
use crate::report::median;
use crate::transfer;

pub(crate) const COST: &str = "CPU per request with 10,000 routes ÷ ten";
pub(crate) const CHANGE: &str = "one changed route of 10,000, to the first request that sees it";
pub(crate) const P99: &str = "p99 while routes change ÷ without";

const HOSTS: u32 = 1000;
const HOSTS_OF_A_FILE: u32 = 100;
const ROUTES_OF_A_HOST: u32 = 10;
/// The hosts that are asked for, in both set-ups: each so many.
const ASKED_EACH: u32 = 100;
/// How long a window is.
const SECONDS: u32 = 3;
/// How often a change is timed.
const CHANGES: usize = 7;
/// What lies between two changes.
const PAUSE: Duration = Duration::from_millis(400);
const CHANGE_TIME_MAX: Duration = Duration::from_secs(20);
/// The body of the backend that the changed route leads to and away from.
const OTHER: &str = "the other backend";
/// The file and the host that change.
const CHANGED_FILE: &str = "changed.yaml";
const CHANGED_HOST: &str = "changed.example.com";

/// Measures Wasmgate.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    take(Part::Routes, bench.those_of(&[Proxy::Wasmgate]), |_| routes(bench))
}

fn routes(bench: &Bench) -> io::Result<Vec<Figure>> {
    let port = bench.backend().listener().port();
    let asked = || (0..HOSTS).step_by(usize::try_from(ASKED_EACH).unwrap_or(1));
    let few: String = asked().map(|host| manifests(host, 1, port)).collect();
    let hosts: Vec<String> = asked().map(host_name).collect();
    let load = || bench.generators().run_hosts(bench.address(), SECONDS, &hosts);

    let running = start(bench, vec![("few.yaml".to_owned(), few)])?;
    load()?;
    let few = bench.watch(&running, load)?;
    drop(running);

    let lease = PortLease::new()?;
    let other = NginxBackend { port: lease.port(), body: OTHER.to_owned(), core: Some(bench.cores().load) };
    let _other = Nginx::backend(&other)?;
    let mut files: Vec<(String, String)> = (0..HOSTS / HOSTS_OF_A_FILE)
        .map(|file| {
            let hosts = file * HOSTS_OF_A_FILE..(file + 1) * HOSTS_OF_A_FILE;
            let text = hosts.map(|host| manifests(host, ROUTES_OF_A_HOST, port)).collect();
            (format!("hosts-{file}.yaml"), text)
        })
        .collect();
    files.push(("other.yaml".to_owned(), service_entry("other", lease.port())));
    files.push((CHANGED_FILE.to_owned(), changed(false)));
    let running = start(bench, files)?;
    load()?;
    let many = bench.watch(&running, load)?;
    let Running::Wasmgate(wasmgate) = &running else { return Err(io::Error::other("not Wasmgate")) };
    let change = time_changes(bench, wasmgate)?;
    let changing = bench.watch(&running, || while_changing(wasmgate, load))?;

    let cost = |window: &crate::reading::Window<crate::load::Figures>| {
        window.cpu.as_secs_f64() / f64::from(window.result.requests)
    };
    let noise = |other: f64| Some(many.share_of_others.max(other));
    Ok(vec![
        Figure {
            what: COST,
            unit: "×",
            value: cost(&many) / cost(&few),
            share_of_others: noise(few.share_of_others),
        },
        Figure { what: CHANGE, unit: "ms", value: change, share_of_others: None },
        Figure {
            what: P99,
            unit: "×",
            value: f64::from(changing.result.p99_us) / f64::from(many.result.p99_us.max(1)),
            share_of_others: noise(changing.share_of_others),
        },
    ])
}

fn start(bench: &Bench, files: Vec<(String, String)>) -> io::Result<Running> {
    let mut options = bench.wasmgate_options(Plugin::None, bench.dir().join("cache"))?;
    options.files = files;
    options.core = Some(bench.cores().proxy);
    Ok(Running::Wasmgate(Wasmgate::start(&options)?))
}

/// The median time from the change of a file to the first request that sees it, in milliseconds.
fn time_changes(bench: &Bench, wasmgate: &Wasmgate) -> io::Result<f64> {
    let mut client = transfer::connect(bench.address())?;
    let mut times = Vec::new();
    for count in 0..CHANGES {
        let is_other = count % 2 == 0;
        let start = Instant::now();
        wasmgate.write(CHANGED_FILE, &changed(is_other))?;
        while (transfer::get(&mut client, CHANGED_HOST)? == OTHER.as_bytes()) != is_other {
            interrupt::check()?;
            if start.elapsed() > CHANGE_TIME_MAX {
                return Err(io::Error::other("a changed route never shows"));
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(PAUSE);
    }
    median(times).ok_or_else(|| io::Error::other("nothing was changed"))
}

/// Does the work while a route changes again and again.
fn while_changing<T>(wasmgate: &Wasmgate, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut is_other = false;
            while !is_over.load(Ordering::Relaxed) {
                is_other = !is_other;
                wasmgate.write(CHANGED_FILE, &changed(is_other))?;
                std::thread::sleep(PAUSE);
            }
            Ok::<_, io::Error>(())
        });
        let result = work();
        is_over.store(true, Ordering::Relaxed);
        changes.join().unwrap_or_else(|_| Err(io::Error::other("nothing changes")))?;
        result
    })
}

fn host_name(host: u32) -> String {
    format!("host-{host}.example.com")
}

/// A host with its routes and its cluster.
fn manifests(host: u32, routes: u32, port: u16) -> String {
    let name = format!("host-{host}");
    let mut text = format!("{}  rules:\n", route(&name, &host_name(host)));
    for route in 0..routes {
        let _ = write!(
            text,
            "  - matches: [{{path: {{type: PathPrefix, value: /r{route}}}}}]\n    {}",
            backend(&name)
        );
    }
    text + &service_entry(&name, port)
}

/// The route that changes, to the one backend or the other.
fn changed(is_other: bool) -> String {
    let service = if is_other { "other" } else { "httpbin" };
    format!("{}  rules:\n  - {}", route("changed", CHANGED_HOST), backend(service))
}

fn route(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{name: ingress, namespace: istio-system}}]\n  hostnames: [{host}]\n"
    )
}

fn backend(service: &str) -> String {
    format!(
        "backendRefs: [{{group: networking.istio.io, kind: Hostname, name: {service}.default.svc.cluster.local, port: 8000}}]\n"
    )
}

fn service_entry(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  hosts: [{name}.default.svc.cluster.local]\n  resolution: STATIC\n  \
         ports: [{{number: 8000, name: http, protocol: HTTP, targetPort: {port}}}]\n  \
         endpoints: [{{address: 127.0.0.1}}]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_routes_and_its_cluster() {
        let text = manifests(7, 10, 1);
        assert_eq!(text.matches("  - matches:").count(), 10);
        assert_eq!(text.matches("host-7.default.svc.cluster.local").count(), 11);
        assert!(text.contains("hostnames: [host-7.example.com]"));
    }
}
