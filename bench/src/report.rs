//! The rows, the ratios between them, and the bars that they are held against.

use serde::{Serialize, Serializer};

use crate::bars::{self, Bar};
use crate::calls::Figure;
use crate::case::{Case, Plugin, Protocol, Proxy, Scenario};
use crate::disturbance::DISTURBED_FROM;
use crate::machine::Machine;
use crate::reading::Reading;
use crate::startup::Startup;
use crate::streaming::Streaming;

/// Ours with the Go plug-in may cost at most this share of Envoy without any.
const BAR_GO_TO_ENVOY: f64 = 0.6;

/// One window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cpu_us_per_request: f64,
    pub(crate) rps: f64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    pub(crate) rss_mib: f64,
    pub(crate) rss_idle_mib: f64,
    /// The share of the machine's cores that processes outside the benchmark used meanwhile.
    pub(crate) share_of_others: f64,
}

/// A row of the report: the medians of its rounds, or why there are none.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) proxy: Proxy,
    pub(crate) plugin: Plugin,
    pub(crate) protocol: Protocol,
    #[serde(serialize_with = "on_or_off")]
    pub(crate) access_log: bool,
    pub(crate) cpu_us_per_request: Option<f64>,
    pub(crate) rps: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) rss_mib: Option<f64>,
    pub(crate) rss_idle_mib: Option<f64>,
    /// The median share of the machine's cores that processes outside the benchmark used meanwhile.
    pub(crate) share_of_others: Option<f64>,
    pub(crate) rounds: usize,
    pub(crate) error: Option<String>,
    #[serde(skip)]
    samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(case: Case) -> Self {
        Self {
            scenario: case.scenario,
            proxy: case.proxy,
            plugin: case.plugin,
            protocol: case.protocol,
            access_log: case.access_log,
            cpu_us_per_request: None,
            rps: None,
            p50_us: None,
            p99_us: None,
            rss_mib: None,
            rss_idle_mib: None,
            share_of_others: None,
            rounds: 0,
            error: None,
            samples: Vec::new(),
        }
    }

    /// Takes one more window into the medians.
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
        self.rounds = self.samples.len();
        let median_of = |value: fn(&Sample) -> f64| median(self.samples.iter().map(value).collect());
        self.cpu_us_per_request = median_of(|sample| sample.cpu_us_per_request);
        self.rps = median_of(|sample| sample.rps);
        self.p50_us = median_of(|sample| f64::from(sample.p50_us));
        self.p99_us = median_of(|sample| f64::from(sample.p99_us));
        self.rss_mib = median_of(|sample| sample.rss_mib);
        self.rss_idle_mib = median_of(|sample| sample.rss_idle_mib);
        self.share_of_others = median_of(|sample| sample.share_of_others);
    }

    /// Whether others used so much of the machine that the figures are not to be relied on.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.share_of_others.is_some_and(|share| share >= DISTURBED_FROM)
    }

    /// Whether the two rows differ only in who answers.
    pub(crate) fn is_comparable_to(&self, other: &Self) -> bool {
        (self.scenario, self.protocol, self.access_log) == (other.scenario, other.protocol, other.access_log)
    }
}

/// CPU time per request of ours, divided by a peer's.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) scenario: Scenario,
    pub(crate) protocol: Protocol,
    #[serde(serialize_with = "on_or_off")]
    pub(crate) access_log: bool,
    /// Ours.
    pub(crate) plugin: Plugin,
    pub(crate) peer: Proxy,
    pub(crate) peer_plugin: Plugin,
    pub(crate) cpu_ratio: f64,
    /// The most it may be, where there is a bar.
    pub(crate) bar: Option<f64>,
}

impl Ratio {
    /// Whether the bar is met, where there is one.
    pub(crate) fn passes(&self) -> Option<bool> {
        self.bar.map(|bar| self.cpu_ratio <= bar)
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) startup: Vec<Startup>,
    pub(crate) calls: Vec<Figure>,
    pub(crate) streaming: Option<Streaming>,
    pub(crate) readings: Vec<Reading>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) bars: Vec<Bar>,
}

impl Report {
    pub(crate) fn new(
        machine: Machine,
        rows: Vec<Row>,
        startup: Vec<Startup>,
        calls: Vec<Figure>,
        streaming: Option<Streaming>,
        readings: Vec<Reading>,
    ) -> Self {
        let mut ratios = Vec::new();
        for ours in rows.iter().filter(|row| row.proxy == Proxy::Wasmgate) {
            for peer in rows.iter().filter(|row| row.proxy != Proxy::Wasmgate && row.is_comparable_to(ours)) {
                ratios.extend(ratio(ours, peer));
            }
        }
        let bars = bars::judge(&rows, &readings);
        Self { machine, rows, startup, calls, streaming, readings, ratios, bars }
    }

    /// Whether nothing failed and every bar that could be judged was met.
    pub(crate) fn is_good(&self) -> bool {
        self.rows.iter().all(|row| row.error.is_none())
            && self.startup.iter().all(|startup| startup.error.is_none())
            && self.readings.iter().all(|reading| reading.error.is_none())
            && self.streaming.as_ref().is_none_or(Streaming::passes)
            && self.ratios.iter().all(|ratio| ratio.passes() != Some(false))
    }
}

fn ratio(ours: &Row, peer: &Row) -> Option<Ratio> {
    let cpu_ratio = ours.cpu_us_per_request? / peer.cpu_us_per_request?;
    let has_bar = (ours.scenario, ours.protocol, ours.plugin, peer.proxy, peer.plugin)
        == (Scenario::Allowed, Protocol::Http1, Plugin::Go, Proxy::Envoy, Plugin::None);
    Some(Ratio {
        scenario: ours.scenario,
        protocol: ours.protocol,
        access_log: ours.access_log,
        plugin: ours.plugin,
        peer: peer.proxy,
        peer_plugin: peer.plugin,
        cpu_ratio,
        bar: has_bar.then_some(BAR_GO_TO_ENVOY),
    })
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}

fn on_or_off<S: Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *value { "on" } else { "off" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cpu_us_per_request: f64) -> Row {
        let case = Case::all().into_iter().find(|case| case.to_string() == name).unwrap();
        let mut row = Row::new(case);
        row.add(Sample {
            cpu_us_per_request,
            rps: 1.0,
            p50_us: 1,
            p99_us: 2,
            rss_mib: 3.0,
            rss_idle_mib: 3.0,
            share_of_others: 0.0,
        });
        row
    }

    #[test]
    fn a_row_is_the_median_of_its_rounds() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn only_ours_with_the_go_plug_in_to_envoy_without_has_a_bar() {
        let ours = row("allowed/http1/log-off/wasmgate/go", 12.0);
        let envoy = row("allowed/http1/log-off/envoy/none", 20.0);
        assert_eq!(ratio(&ours, &envoy).unwrap().passes(), Some(true));
        assert_eq!(
            ratio(&row("allowed/http1/log-on/wasmgate/go", 12.1), &envoy).unwrap().passes(),
            Some(false)
        );
        assert_eq!(ratio(&ours, &row("allowed/http1/log-off/envoy/go", 1.0)).unwrap().passes(), None);
        assert_eq!(ratio(&ours, &row("allowed/http1/log-off/nginx/none", 1.0)).unwrap().passes(), None);
    }

    #[test]
    fn a_row_in_json_has_the_documented_fields() {
        let value = serde_json::to_value(row("denied/http2/log-off/wasmgate/go", 5.0)).unwrap();
        assert_eq!(value["scenario"], "denied");
        assert_eq!(value["proxy"], "wasmgate");
        assert_eq!(value["plugin"], "go");
        assert_eq!(value["protocol"], "http2");
        assert_eq!(value["access_log"], "off");
        assert_eq!(value["cpu_us_per_request"], 5.0);
    }
}
