//! Active health checks: Istio has no field for them, so annotations of the `DestinationRule` ask for them.

use std::time::Duration;

use crate::decode::Sink;
use crate::meta::{ObjectMeta, Position};
use crate::policy::{HealthCheck, HealthProbe};
use crate::quantity;

const PREFIX: &str = "wasmgate.dev/";
const ANNOTATIONS: [&str; 9] = [
    "wasmgate.dev/health-check",
    "wasmgate.dev/health-check-path",
    "wasmgate.dev/health-check-host",
    "wasmgate.dev/health-check-service",
    "wasmgate.dev/health-check-port",
    "wasmgate.dev/health-check-interval",
    "wasmgate.dev/health-check-timeout",
    "wasmgate.dev/healthy-threshold",
    "wasmgate.dev/unhealthy-threshold",
];
/// More often than this an endpoint would mostly answer probes.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The check that annotations ask for.
pub(super) fn check(meta: &ObjectMeta, at: Position, sink: &mut Sink<'_>) -> Option<HealthCheck> {
    let field = |key: &str| format!("metadata.annotations[{key}]");
    let known = ANNOTATIONS.join(", ");
    for key in meta.annotations.keys().filter(|k| k.starts_with(PREFIX)) {
        if !ANNOTATIONS.contains(&key.as_str()) {
            sink.warn(at, &field(key), &format!("unknown annotation, it is ignored; known: {known}"));
        }
    }
    let get = |name: &str| meta.annotations.get(&format!("{PREFIX}{name}")).map(String::as_str);
    let mut wrong = |name: &str, text: &str, wanted: &str| {
        sink.error(at, &field(&format!("{PREFIX}{name}")), &format!("{text:?} is not {wanted}"));
    };
    let kind = match get("health-check") {
        Some(kind @ ("http" | "tcp" | "grpc")) => kind,
        Some(other) => {
            wrong("health-check", other, "one of http, tcp and grpc");
            return None;
        }
        None => {
            for key in meta.annotations.keys().filter(|k| ANNOTATIONS.contains(&k.as_str())) {
                sink.warn(at, &field(key), "has no effect without wasmgate.dev/health-check");
            }
            return None;
        }
    };
    let mut time = |name: &str, default: Duration, min: Duration| match get(name) {
        None => default,
        Some(text) => match quantity::fractional_duration(text).filter(|d| *d >= min) {
            Some(duration) => duration,
            None => {
                wrong(name, text, &format!("a duration of at least {min:?}"));
                default
            }
        },
    };
    let interval = time("health-check-interval", Duration::from_secs(10), INTERVAL_MIN);
    let timeout = time("health-check-timeout", Duration::from_secs(1), Duration::from_millis(1));
    let mut count = |name: &str, default: u32| match get(name).map(|t| (t, t.parse::<u32>())) {
        None => default,
        Some((_, Ok(n))) if n > 0 => n,
        Some((text, _)) => {
            wrong(name, text, "a number from 1 on");
            default
        }
    };
    let (healthy_threshold, unhealthy_threshold) =
        (count("healthy-threshold", 2), count("unhealthy-threshold", 3));
    let port = get("health-check-port").and_then(|text| {
        let port = text.parse::<u16>().ok().filter(|p| *p > 0);
        if port.is_none() {
            wrong("health-check-port", text, "a port: 1 to 65535");
        }
        port
    });
    let path = get("health-check-path").unwrap_or("/");
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        wrong("health-check-path", path, "a path: it begins with '/' and has no blanks");
    }
    let host = get("health-check-host");
    if let Some(host) = host.filter(|h| h.is_empty() || !h.bytes().all(|b| b.is_ascii_graphic())) {
        wrong("health-check-host", host, "a host");
    }
    let probe = match kind {
        "http" => HealthProbe::Http { path: path.to_owned(), host: host.map(str::to_owned) },
        "grpc" => HealthProbe::Grpc(get("health-check-service").unwrap_or_default().to_owned()),
        _ => HealthProbe::Tcp,
    };
    Some(HealthCheck { probe, interval, timeout, healthy_threshold, unhealthy_threshold, port })
}
