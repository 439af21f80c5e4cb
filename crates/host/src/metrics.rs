//! Metrics that plug-ins define: one value per name for the whole process (spec: proxy-wasm-host §4.6).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::MetricType;

/// Bounds of a [`MetricRegistry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MetricLimits {
    /// Metrics of the process. Further ones count, but are not shown.
    pub metrics_max: usize,
    /// Bytes of a name. Longer ones count, but are not shown.
    pub name_bytes_max: usize,
}

impl Default for MetricLimits {
    fn default() -> Self {
        Self { metrics_max: 10_000, name_bytes_max: 1024 }
    }
}

/// One metric. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metric(Arc<Value>);

#[derive(Debug)]
struct Value {
    kind: MetricType,
    value: AtomicU64,
    histogram: Option<Mutex<HistogramSnapshot>>,
}

/// A histogram's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Number of samples not above each of [`HistogramSnapshot::BOUNDS`]; the last one counts the rest.
    pub buckets: [u64; HistogramSnapshot::BOUNDS.len() + 1],
    /// Sum of all samples.
    pub sum: u64,
    /// Number of samples.
    pub count: u64,
}

impl HistogramSnapshot {
    /// Upper bounds of the buckets: Envoy's.
    pub const BOUNDS: [u64; 18] = [
        1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000,
        1_800_000, 3_600_000,
    ];

    fn record(&mut self, sample: u64) {
        let at = Self::BOUNDS.iter().position(|bound| sample <= *bound).unwrap_or(Self::BOUNDS.len());
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum = self.sum.wrapping_add(sample);
        self.count += 1;
    }
}

impl Metric {
    fn new(kind: MetricType) -> Self {
        let histogram = (kind == MetricType::Histogram).then(Mutex::default);
        Self(Arc::new(Value { kind, value: AtomicU64::new(0), histogram }))
    }

    /// What kind it is.
    pub fn kind(&self) -> MetricType {
        self.0.kind
    }

    /// The value of a counter or gauge; a gauge below zero is its two's complement. `None` for a histogram.
    pub fn get(&self) -> Option<u64> {
        self.0.histogram.is_none().then(|| self.0.value.load(Ordering::Relaxed))
    }

    /// A histogram's content; `None` for the other kinds.
    pub fn histogram(&self) -> Option<HistogramSnapshot> {
        self.0.histogram.as_ref().map(|h| lock(h).clone())
    }

    /// Adds to a counter or gauge; false when this kind cannot, or a counter would shrink.
    pub(crate) fn increment(&self, offset: i64) -> bool {
        let allowed = match self.0.kind {
            MetricType::Counter => offset > 0,
            MetricType::Gauge => true,
            MetricType::Histogram => false,
        };
        if allowed {
            // Two's complement: adding a negative number is adding its bits.
            self.0.value.fetch_add(offset.cast_unsigned(), Ordering::Relaxed);
        }
        allowed
    }

    /// Adds to a counter, sets a gauge, records a sample.
    pub(crate) fn record(&self, value: u64) {
        match (self.0.kind, &self.0.histogram) {
            (MetricType::Counter, _) => {
                self.0.value.fetch_add(value, Ordering::Relaxed);
            }
            (MetricType::Histogram, Some(histogram)) => lock(histogram).record(value),
            (MetricType::Gauge | MetricType::Histogram, _) => self.0.value.store(value, Ordering::Relaxed),
        }
    }
}

/// The process' metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MetricRegistry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    limits: MetricLimits,
    metrics: Mutex<BTreeMap<(String, u32), Metric>>,
}

impl MetricRegistry {
    /// No metrics.
    pub fn new(limits: MetricLimits) -> Self {
        Self(Arc::new(Inner { limits, metrics: Mutex::default() }))
    }

    /// The metric of a name and kind, made if it does not exist. With `false` it is not shown, because a limit is hit.
    pub fn define(&self, kind: MetricType, name: &str) -> (Metric, bool) {
        let mut metrics = lock(&self.0.metrics);
        let key = (name.to_owned(), kind as u32);
        if let Some(metric) = metrics.get(&key) {
            return (metric.clone(), true);
        }
        let metric = Metric::new(kind);
        let shown = metrics.len() < self.0.limits.metrics_max && name.len() <= self.0.limits.name_bytes_max;
        if shown {
            metrics.insert(key, metric.clone());
        }
        (metric, shown)
    }

    /// Every metric by name.
    pub fn all(&self) -> Vec<(String, Metric)> {
        lock(&self.0.metrics).iter().map(|((name, _), metric)| (name.clone(), metric.clone())).collect()
    }
}

/// Nothing panics while it holds one of these locks; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The metrics that one VM has defined, by the numbers that it was given.
#[derive(Debug, Default)]
pub(crate) struct VmMetrics {
    defined: Vec<(Option<String>, Metric)>,
}

/// What is behind a number.
pub(crate) enum MetricLookup<'m> {
    Found(&'m Metric),
    /// No metric; `true` when the number's lowest bits name a kind that would have been one.
    Missing(bool),
}

impl VmMetrics {
    /// A number for a metric. The same name and kind give the same number.
    pub(crate) fn define(&mut self, registry: &MetricRegistry, kind: MetricType, name: &str) -> (u32, bool) {
        let known = self.defined.iter().position(|(n, m)| n.as_deref() == Some(name) && m.kind() == kind);
        if let Some(index) = known {
            return (Self::id(index, kind), true);
        }
        let (metric, shown) = registry.define(kind, name);
        if !shown {
            // All that is over the limit shares one number per kind, so that a guest cannot make the table grow.
            let index = self.defined.iter().position(|(n, m)| n.is_none() && m.kind() == kind);
            let index = index.unwrap_or_else(|| {
                self.defined.push((None, metric));
                self.defined.len() - 1
            });
            return (Self::id(index, kind), false);
        }
        self.defined.push((Some(name.to_owned()), metric));
        (Self::id(self.defined.len() - 1, kind), true)
    }

    fn id(index: usize, kind: MetricType) -> u32 {
        u32::try_from(index + 1).unwrap_or(u32::MAX >> 2).wrapping_mul(4) | kind as u32
    }

    pub(crate) fn get(&self, id: u32) -> MetricLookup<'_> {
        let found = (id / 4)
            .checked_sub(1)
            .and_then(|index| self.defined.get(index as usize))
            .filter(|(_, metric)| metric.kind() as u32 == id & 3);
        match found {
            Some((_, metric)) => MetricLookup::Found(metric),
            None => MetricLookup::Missing(id & 3 < 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_their_kind_and_the_value_is_the_process() {
        let registry = MetricRegistry::default();
        let (mut a, mut b) = (VmMetrics::default(), VmMetrics::default());
        assert_eq!(a.define(&registry, MetricType::Counter, "c"), (4, true));
        assert_eq!(a.define(&registry, MetricType::Gauge, "c"), (9, true), "another kind is another metric");
        assert_eq!(a.define(&registry, MetricType::Histogram, "h"), (14, true));
        assert_eq!(a.define(&registry, MetricType::Counter, "c"), (4, true), "the same again");
        assert_eq!(b.define(&registry, MetricType::Counter, "c"), (4, true));
        let add = |vm: &VmMetrics, n| matches!(vm.get(4), MetricLookup::Found(m) if m.increment(n));
        assert!(add(&a, 2) && add(&b, 3) && !add(&a, 0) && !add(&a, -1));
        assert!(matches!(a.get(4), MetricLookup::Found(m) if m.get() == Some(5)));
        assert!(matches!(a.get(8), MetricLookup::Missing(true)));
        assert!(matches!(a.get(5), MetricLookup::Missing(true)));
        assert!(matches!(a.get(18), MetricLookup::Missing(false)));
        assert_eq!(registry.all().len(), 3);
    }

    #[test]
    fn what_is_over_the_limit_counts_unseen() {
        let registry = MetricRegistry::new(MetricLimits { metrics_max: 1, name_bytes_max: 3 });
        let mut vm = VmMetrics::default();
        assert!(!vm.define(&registry, MetricType::Counter, "long").1);
        assert!(vm.define(&registry, MetricType::Counter, "a").1);
        let over: Vec<u32> =
            ["b", "d", "e"].iter().map(|n| vm.define(&registry, MetricType::Counter, n).0).collect();
        assert_eq!(over, [4, 4, 4]);
        assert_eq!(registry.all().len(), 1);
        // A guest may call a metric nothing at all.
        let registry = MetricRegistry::new(MetricLimits { metrics_max: 1, name_bytes_max: 3 });
        let mut vm = VmMetrics::default();
        let nameless = vm.define(&registry, MetricType::Counter, "");
        assert_ne!(vm.define(&registry, MetricType::Counter, "b").0, nameless.0);
    }

    #[test]
    fn a_histogram_sorts_its_samples() {
        let (metric, _) = MetricRegistry::default().define(MetricType::Histogram, "h");
        [0, 1, 2, 5_000_000].into_iter().for_each(|sample| metric.record(sample));
        let content = metric.histogram().unwrap();
        assert_eq!((content.count, content.sum), (4, 5_000_003));
        assert_eq!(content.buckets.first(), Some(&2));
        assert_eq!(content.buckets.last(), Some(&1));
        assert_eq!(metric.get(), None);
    }
}
