//! Counters for people (`/stats`, Envoy's names where it has them) and for Prometheus.

mod clusters;
mod tls;
mod traffic;

use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use wasmgate_plugin::PluginState;
use wasmgate_proxy::WorkerStats;

use crate::admin::AdminState;
use crate::own_metrics;

/// One number with its name and labels.
struct Sample {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    labels: Vec<(&'static str, String)>,
    value: u64,
    /// The name in `/stats`.
    flat: String,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn samples(state: &AdminState) -> Vec<Sample> {
    let mut out = Vec::new();
    gateway_samples(state, &mut out);
    tls::samples(state, &mut out);
    traffic::samples(state, &mut out);
    clusters::samples(state, &mut out);
    plugin_samples(state, &mut out);
    out
}

fn counter(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: u64,
    flat: impl Into<String>,
) -> Sample {
    Sample { name, help, is_gauge: false, labels, value, flat: flat.into() }
}

fn gauge(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: u64,
    flat: impl Into<String>,
) -> Sample {
    Sample { name, help, is_gauge: true, labels, value, flat: flat.into() }
}

fn gateway_samples(state: &AdminState, out: &mut Vec<Sample>) {
    let workers = &state.gateway.stats().workers;
    let sum = |pick: fn(&WorkerStats) -> u64| workers.iter().map(|w| pick(w)).sum::<u64>();
    let live = u64::from(state.shared.state() == crate::shared::ServerState::Live);
    out.push(gauge("wasmgate_server_live", "1 while requests are served", vec![], live, "server.live"));
    out.push(gauge(
        "wasmgate_uptime_seconds",
        "Seconds since the process started",
        vec![],
        state.shared.started.elapsed().as_secs(),
        "server.uptime",
    ));
    out.push(gauge(
        "wasmgate_workers",
        "Data-path threads",
        vec![],
        workers.len() as u64,
        "server.concurrency",
    ));
    out.push(gauge(
        "wasmgate_generation",
        "Number of the configuration that serves",
        vec![],
        state.shared.current().generation,
        "server.generation",
    ));
    let errors = state
        .shared
        .current()
        .diagnostics
        .iter()
        .filter(|d| d.severity == wasmgate_config::Severity::Error)
        .count() as u64;
    out.push(gauge(
        "wasmgate_manifest_errors",
        "Errors in manifests now",
        vec![],
        errors,
        "config.manifest_errors",
    ));
    out.push(counter(
        "wasmgate_downstream_connections",
        "Connections accepted",
        vec![],
        sum(|w| w.downstream_connections.get()),
        "http.downstream_cx_total",
    ));
    out.push(gauge(
        "wasmgate_downstream_connections_active",
        "Connections open",
        vec![],
        sum(|w| w.downstream_connections_active.get()),
        "http.downstream_cx_active",
    ));
    out.push(counter(
        "wasmgate_downstream_proxy_header_failures",
        "Connections whose header of the PROXY protocol was missing or wrong",
        vec![],
        sum(|w| w.proxy_header_failures.get()),
        "proxy_proto.errors",
    ));
    out.push(gauge(
        "wasmgate_overload",
        "1: connections end after their next answer; 2: further requests are refused",
        vec![],
        state.gateway.stats().overload() as u64,
        "overload.level",
    ));
    out.push(counter(
        "wasmgate_requests",
        "Requests",
        vec![],
        sum(|w| w.requests.get()),
        "http.downstream_rq_total",
    ));
    out.push(gauge(
        "wasmgate_requests_active",
        "Requests in progress",
        vec![],
        sum(|w| w.requests_active.get()),
        "http.downstream_rq_active",
    ));
    for (i, class) in CLASSES.iter().enumerate() {
        let value = workers.iter().filter_map(|w| w.responses.get(i)).map(wasmgate_proxy::Counter::get).sum();
        out.push(counter(
            "wasmgate_responses",
            "Responses by class of status",
            vec![("class", (*class).to_owned())],
            value,
            format!("http.downstream_rq_{class}"),
        ));
    }
    out.push(counter(
        "wasmgate_stream_resets",
        "Streams without a complete response",
        vec![],
        sum(|w| w.resets.get()),
        "http.downstream_rq_rx_reset",
    ));
    out.push(gauge(
        "wasmgate_upstream_connections_idle",
        "Idle upstream connections",
        vec![],
        sum(|w| w.upstream_idle.get()),
        "cluster.upstream_cx_idle",
    ));
    for (reason, value) in state.gateway.stats().replies() {
        let flat = format!("http.local_reply.{reason}");
        out.push(counter(
            "wasmgate_local_replies",
            "Answers that did not come from an upstream, by response code details",
            vec![("reason", reason)],
            value,
            flat,
        ));
    }
    if let Some(sink) = &state.access_log {
        out.push(counter(
            "wasmgate_access_log_lines_dropped",
            "Access log lines that were lost",
            vec![],
            sink.dropped(),
            "access_log.dropped",
        ));
    }
}

fn plugin_samples(state: &AdminState, out: &mut Vec<Sample>) {
    let mut all_vms = 0_u64;
    for status in state.manager.status() {
        let name = status.name;
        let label = || vec![("plugin", name.clone())];
        let ready = u64::from(matches!(status.state, PluginState::Ready));
        out.push(gauge(
            "wasmgate_plugin_ready",
            "1 while the version that the manifest asks for serves",
            label(),
            ready,
            format!("wasm.{name}.ready"),
        ));
        let vms: usize = status.workers.iter().map(|w| w.vms).sum::<usize>() + status.spare_vms;
        all_vms += vms as u64;
        out.push(gauge(
            "wasmgate_plugin_vms",
            "VMs, spare ones included",
            label(),
            vms as u64,
            format!("wasm.{name}.vm_count"),
        ));
        let memory = status.workers.iter().map(|w| w.memory_bytes as u64).sum();
        out.push(gauge(
            "wasmgate_plugin_memory_bytes",
            "Linear memory of the VMs that serve",
            label(),
            memory,
            format!("wasm.{name}.vm_memory_size"),
        ));
        out.push(counter(
            "wasmgate_plugin_slow_callbacks",
            "Callbacks slower than 50 ms",
            label(),
            status.slow_callbacks,
            format!("wasm.{name}.slow_callbacks"),
        ));
        out.push(counter(
            "wasmgate_plugin_local_replies",
            "Local replies that a plug-in sent",
            label(),
            status.local_replies,
            format!("wasm.{name}.local_replies"),
        ));
        for (reason, value) in &status.faults.by_reason {
            let mut labels = label();
            labels.push(("reason", (*reason).to_owned()));
            out.push(counter(
                "wasmgate_plugin_faults",
                "Failures at run time by reason",
                labels,
                *value,
                format!("wasm.{name}.faults.{reason}"),
            ));
        }
    }
    for (name, stats) in state.manager.stats() {
        let label = || vec![("plugin", name.to_string())];
        let load = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        out.push(counter(
            "wasmgate_plugin_respawns",
            "VMs that replaced a failed one",
            label(),
            load(&stats.respawns),
            format!("wasm.{name}.vm_reload_success"),
        ));
        out.push(counter(
            "wasmgate_plugin_unavailable",
            "Streams that found no VM ready",
            label(),
            load(&stats.unavailable),
            format!("wasm.{name}.vm_reload_backoff"),
        ));
        for (result, value) in
            [("success", load(&stats.fetch_successes)), ("failure", load(&stats.fetch_failures))]
        {
            let mut labels = label();
            labels.push(("result", result.to_owned()));
            out.push(counter(
                "wasmgate_plugin_fetches",
                "Attempts to load a plug-in's module",
                labels,
                value,
                format!("wasm.{name}.remote_load_fetch_{result}"),
            ));
        }
    }
    out.push(gauge("wasmgate_vms", "VMs of all plug-ins", vec![], all_vms, "wasm.wasm_vm_count"));
}

/// Name and value of everything, sorted. What plug-ins define has Envoy's prefix.
pub(crate) fn flat(state: &AdminState) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> =
        samples(state).into_iter().map(|s| (s.flat, s.value.to_string())).collect();
    out.extend(own_metrics::flat(&state.plugin_metrics));
    out.sort();
    out
}

/// Labels of one sample.
#[derive(Debug)]
struct Labels<'s>(&'s [(&'static str, String)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// The samples of one name.
#[derive(Debug)]
struct Group {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    samples: Vec<(Vec<(&'static str, String)>, u64)>,
}

/// Gives the samples to the encoder, those of one name together.
#[derive(Debug)]
struct Collector(Vec<Group>);

impl prometheus_client::collector::Collector for Collector {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        for Group { name, help, is_gauge, samples } in &self.0 {
            let kind = if *is_gauge {
                prometheus_client::metrics::MetricType::Gauge
            } else {
                prometheus_client::metrics::MetricType::Counter
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in samples {
                let family = Labels(labels);
                let encoder = metric.encode_family(&family)?;
                if *is_gauge {
                    ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(encoder)?;
                } else {
                    ConstCounter::new(*value).encode(encoder)?;
                }
            }
        }
        Ok(())
    }
}

/// Prometheus' text format.
pub(crate) fn prometheus(state: &AdminState) -> Result<String, std::fmt::Error> {
    let mut groups: Vec<Group> = Vec::new();
    for Sample { name, help, is_gauge, labels, value, .. } in samples(state) {
        match groups.iter_mut().find(|g| g.name == name) {
            Some(group) => group.samples.push((labels, value)),
            None => groups.push(Group { name, help, is_gauge, samples: vec![(labels, value)] }),
        }
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collector(groups)));
    registry.register_collector(Box::new(own_metrics::collector(&state.plugin_metrics)));
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}
