//! What Wasmgate is meant to reach beside its peers, and whether it does.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bodies;
use crate::case::{Plugin, Protocol, Proxy, Scenario};
use crate::handshakes;
use crate::idle;
use crate::latency;
use crate::many_routes;
use crate::messages;
use crate::part::Part;
use crate::reading::Reading;
use crate::report::Row;
use crate::workers;

/// What became of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// What it compares was left out or failed.
    NotMeasured,
}

/// Which side of its bound a figure should be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    AtMost,
    AtLeast,
}

/// A bar.
#[derive(Debug, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) measured: Option<f64>,
    pub(crate) side: Side,
    pub(crate) bound: f64,
    pub(crate) verdict: Verdict,
    /// Others kept the machine busy while one of its figures was taken.
    pub(crate) is_disturbed: bool,
}

/// A figure and whether it was disturbed.
type Taken = Option<(f64, bool)>;

fn bar(what: impl Into<String>, unit: &'static str, side: Side, bound: f64, taken: Taken) -> Bar {
    let verdict = match (taken, side) {
        (None, _) => Verdict::NotMeasured,
        (Some((value, _)), Side::AtMost) if value <= bound => Verdict::Met,
        (Some((value, _)), Side::AtLeast) if value >= bound => Verdict::Met,
        (Some(_), _) => Verdict::Missed,
    };
    let (measured, is_disturbed) = (taken.map(|(value, _)| value), taken.is_some_and(|(_, by)| by));
    Bar { what: what.into(), unit, measured, side, bound, verdict, is_disturbed }
}

fn divided(ours: Taken, theirs: Taken) -> Taken {
    let ((ours, our_noise), (theirs, their_noise)) = (ours?, theirs?);
    (theirs > 0.0).then(|| (ours / theirs, our_noise || their_noise))
}

/// All bars.
pub(crate) fn judge(rows: &[Row], readings: &[Reading]) -> Vec<Bar> {
    let mut bars = of_rows(rows);
    bars.extend(of_readings(readings));
    bars
}

/// CPU time per request. nginx and HAProxy run no plug-in: ours with one is compared with theirs without.
fn of_rows(rows: &[Row]) -> Vec<Bar> {
    use Plugin::{Go, None};
    use Protocol::{Http1, Http2};
    use Proxy::{Envoy, Haproxy, Nginx};
    use Scenario::{Allowed, Denied};
    let specified = [
        (Allowed, Http1, false, None, Nginx, None, 1.0),
        (Allowed, Http1, true, None, Nginx, None, 1.0),
        (Allowed, Http1, false, None, Envoy, None, 0.45),
        (Allowed, Http1, true, None, Envoy, None, 0.45),
        (Allowed, Http1, false, Go, Nginx, None, 1.1),
        (Allowed, Http1, true, Go, Nginx, None, 1.1),
        (Allowed, Http1, false, Go, Envoy, Go, 0.42),
        (Allowed, Http1, true, Go, Envoy, Go, 0.42),
        (Allowed, Http2, false, None, Haproxy, None, 1.1),
        (Denied, Http1, false, Go, Envoy, Go, 0.45),
        (Denied, Http2, false, Go, Envoy, Go, 0.45),
    ];
    specified
        .into_iter()
        .map(|(scenario, protocol, access_log, plugin, peer, peer_plugin, bound)| {
            let cpu = |proxy: Proxy, plugin: Plugin| {
                let wanted = (scenario, protocol, access_log, proxy, plugin);
                let row = rows.iter().find(|row| {
                    (row.scenario, row.protocol, row.access_log, row.proxy, row.plugin) == wanted
                })?;
                Some((row.cpu_us_per_request?, row.is_disturbed()))
            };
            let log = if access_log { "on" } else { "off" };
            let what = format!(
                "CPU per request, {scenario}, {protocol}, log {log}: plug-in {plugin} ÷ {peer}, plug-in {peer_plugin}"
            );
            let ratio = divided(cpu(Proxy::Wasmgate, plugin), cpu(peer, peer_plugin));
            bar(what, "×", Side::AtMost, bound, ratio)
        })
        .collect()
}

/// Ours divided by a peer's, and ours alone.
fn of_readings(readings: &[Reading]) -> Vec<Bar> {
    let taken = |part: Part, what: &str, proxy: Proxy| -> Taken {
        let reading = readings.iter().find(|r| (r.part, r.what, r.proxy) == (part, what, proxy))?;
        Some((reading.value?, reading.is_disturbed()))
    };
    let mut bars = Vec::new();
    for (part, what, peer, side, bound) in COMPARED {
        let ratio = divided(taken(part, what, Proxy::Wasmgate), taken(part, what, peer));
        bars.push(bar(format!("{part}: {what} ÷ {peer}"), "×", side, bound, ratio));
    }
    for (part, what, unit, side, bound) in ALONE {
        bars.push(bar(format!("{part}: {what}"), unit, side, bound, taken(part, what, Proxy::Wasmgate)));
    }
    bars
}

/// What is compared with a peer.
const COMPARED: [(Part, &str, Proxy, Side, f64); 10] = [
    (Part::Tls, handshakes::HANDSHAKES, Proxy::Nginx, Side::AtLeast, 1.0),
    (Part::Tls, handshakes::BULK, Proxy::Nginx, Side::AtLeast, 0.9),
    (Part::Bodies, bodies::DOWN, Proxy::Nginx, Side::AtLeast, 1.0),
    (Part::Bodies, bodies::UP, Proxy::Nginx, Side::AtLeast, 1.0),
    (Part::Grpc, messages::GRPC, Proxy::Envoy, Side::AtMost, 0.5),
    (Part::Grpc, messages::GRPC_BURST, Proxy::Envoy, Side::AtMost, 0.5),
    (Part::Websocket, messages::WEBSOCKET, Proxy::Envoy, Side::AtMost, 0.5),
    (Part::Latency, latency::P99, Proxy::Nginx, Side::AtMost, 1.0),
    (Part::Latency, latency::P99, Proxy::Haproxy, Side::AtMost, 1.0),
    (Part::Latency, latency::P99, Proxy::Envoy, Side::AtMost, 1.0),
];

/// What has a bound of its own.
const ALONE: [(Part, &str, &str, Side, f64); 9] = [
    (Part::Bodies, bodies::GROWTH_DOWN, "MiB", Side::AtMost, 16.0),
    (Part::Bodies, bodies::GROWTH_UP, "MiB", Side::AtMost, 16.0),
    (Part::Idle, idle::RSS, "KiB", Side::AtMost, 12.0),
    (Part::Routes, many_routes::COST, "×", Side::AtMost, 1.05),
    (Part::Routes, many_routes::CHANGE, "ms", Side::AtMost, 50.0),
    (Part::Routes, many_routes::P99, "×", Side::AtMost, 1.1),
    (Part::Workers, workers::CAPACITY, "×", Side::AtLeast, 1.8),
    (Part::Workers, workers::RSS_COMPILED, "MiB", Side::AtMost, 40.0),
    (Part::Workers, workers::RSS_IDLE, "MiB", Side::AtMost, 40.0),
];

/// The table.
pub(crate) fn table(text: &mut String, bars: &[Bar]) {
    text.push_str("### Bars\n\n| what | measured | bound | |\n|---|---:|---:|---|\n");
    for bar in bars {
        let sign = match bar.side {
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        };
        let measured =
            bar.measured.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} {}", bar.unit));
        let verdict = match bar.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::NotMeasured => "not measured",
        };
        let noise = if bar.is_disturbed { " \\*" } else { "" };
        let _ = writeln!(
            text,
            "| {} | {measured}{noise} | {sign} {} {} | {verdict} |",
            bar.what, bar.bound, bar.unit
        );
    }
    if bars.iter().any(|bar| bar.is_disturbed) {
        text.push_str("\n\\* other processes kept the machine busy: not to be relied on\n");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::report::Sample;

    fn row(name: &str, cpu_us_per_request: f64, share_of_others: f64) -> Row {
        let case = Case::all().into_iter().find(|case| case.to_string() == name).unwrap();
        let mut row = Row::new(case);
        row.add(Sample {
            cpu_us_per_request,
            rps: 1.0,
            p50_us: 1,
            p99_us: 2,
            rss_mib: 3.0,
            rss_idle_mib: 3.0,
            share_of_others,
        });
        row
    }

    #[test]
    fn a_bar_is_met_missed_or_not_measured_and_tells_of_noise() {
        let rows = [
            row("allowed/http1/log-off/nginx/none", 15.0, 0.0),
            row("allowed/http1/log-off/envoy/none", 50.0, 0.5),
            row("allowed/http1/log-off/wasmgate/none", 18.0, 0.0),
        ];
        let bars = judge(&rows, &[]);
        let verdicts: Vec<_> = bars.iter().take(4).map(|bar| (bar.verdict, bar.is_disturbed)).collect();
        let expected = [
            (Verdict::Missed, false),
            (Verdict::NotMeasured, false),
            (Verdict::Met, true),
            (Verdict::NotMeasured, false),
        ];
        assert_eq!(verdicts, expected);
        let mut text = String::new();
        table(&mut text, &bars);
        assert!(text.contains("none ÷ nginx, plug-in none | 1.20 × | ≤ 1 × | missed |\n"), "{text}");
        assert!(text.contains("none ÷ envoy, plug-in none | 0.36 × \\* | ≤ 0.45 × | met |\n"), "{text}");
    }

    #[test]
    fn every_bar_of_a_reading_compares_or_bounds_it() {
        assert_eq!(judge(&[], &[]).len(), 11 + COMPARED.len() + ALONE.len());
        assert_eq!(bar("x", "", Side::AtLeast, 1.8, Some((1.79, false))).verdict, Verdict::Missed);
        assert_eq!(bar("x", "", Side::AtLeast, 1.8, Some((1.8, false))).verdict, Verdict::Met);
    }
}
