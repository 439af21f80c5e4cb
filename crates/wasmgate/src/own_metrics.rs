//! Metrics that plug-ins define themselves, as Envoy shows them.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeMetric as _;
use prometheus_client::metrics::gauge::ConstGauge;
use wasmgate_host::{HistogramSnapshot, Metric, MetricRegistry, MetricType};

/// Name and value of each, with Envoy's prefix.
pub(crate) fn flat(registry: &MetricRegistry) -> impl Iterator<Item = (String, String)> {
    registry.all().into_iter().map(|(name, metric)| {
        let value = match (metric.get(), metric.histogram()) {
            // A gauge below zero shows as what it is; Envoy prints its two's complement.
            (Some(value), _) if metric.kind() == MetricType::Gauge => value.cast_signed().to_string(),
            (Some(value), _) => value.to_string(),
            (None, Some(histogram)) => format!("count={} sum={}", histogram.count, histogram.sum),
            (None, None) => String::new(),
        };
        (format!("wasmcustom.{}", name.escape_default()), value)
    })
}

/// All of them for Prometheus.
pub(crate) fn collector(registry: &MetricRegistry) -> PluginCollector {
    PluginCollector(shown(registry.all()))
}

/// A plug-in's own metrics by the names that Prometheus shows: the plug-in's, with `_` for what Prometheus does not take.
/// Envoy does the same. Names of ours cannot be taken; of two names that become the same, the first stays.
fn shown(all: Vec<(String, Metric)>) -> BTreeMap<String, Metric> {
    let mut out = BTreeMap::new();
    for (name, metric) in all {
        let mut shown: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if shown.is_empty()
            || shown.starts_with(|c: char| c.is_ascii_digit())
            || shown.starts_with("wasmgate_")
        {
            shown.insert_str(0, "wasmcustom_");
        }
        out.entry(shown).or_insert(metric);
    }
    out
}

/// Gives plug-ins' own metrics to the encoder.
#[derive(Debug)]
pub(crate) struct PluginCollector(BTreeMap<String, Metric>);

impl prometheus_client::collector::Collector for PluginCollector {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        const HELP: &str = "Defined by a plug-in";
        for (name, metric) in &self.0 {
            if let Some(HistogramSnapshot { buckets, sum, count }) = metric.histogram() {
                let kind = prometheus_client::metrics::MetricType::Histogram;
                let mut encoder = encoder.encode_descriptor(name, HELP, None, kind)?;
                let bounds = HistogramSnapshot::BOUNDS.iter().map(|b| *b as f64).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(buckets).collect();
                encoder.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
                    sum as f64, count, &buckets, None,
                )?;
            } else if let Some(value) = metric.get() {
                // Without a type the name stays as it is: counters would get an ending that dashboards do not know.
                let kind = prometheus_client::metrics::MetricType::Unknown;
                let encoder = encoder.encode_descriptor(name, HELP, None, kind)?;
                ConstGauge::new(value.cast_signed()).encode(encoder)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_plug_ins_but_never_ours() {
        let registry = MetricRegistry::default();
        let define =
            |name: &str| drop(wasmgate_host::MetricRegistry::define(&registry, MetricType::Counter, name));
        ["a.b", "a_b", "1st", "", "wasmgate_requests", "é"].into_iter().for_each(define);
        let names: Vec<_> = shown(registry.all()).into_keys().collect();
        assert_eq!(names, ["_", "a_b", "wasmcustom_", "wasmcustom_1st", "wasmcustom_wasmgate_requests"]);
    }
}
