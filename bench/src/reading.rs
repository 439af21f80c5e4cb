//! Figures of single proxies beside the rows, and how they are taken.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmgate_testkit::peers::process::cpu_time;

use crate::case::Proxy;
use crate::disturbance::{self, DISTURBED_FROM, Watch};
use crate::interrupt;
use crate::part::Part;

/// A figure of one proxy, or why there is none.
#[derive(Debug, Serialize)]
pub(crate) struct Reading {
    pub(crate) part: Part,
    pub(crate) what: &'static str,
    pub(crate) proxy: Proxy,
    pub(crate) unit: &'static str,
    pub(crate) value: Option<f64>,
    /// The share of the machine's cores that processes outside the benchmark used meanwhile, where it matters.
    pub(crate) share_of_others: Option<f64>,
    pub(crate) error: Option<String>,
}

impl Reading {
    /// Whether others used so much of the machine that the figure is not to be relied on.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.share_of_others.is_some_and(|share| share >= DISTURBED_FROM)
    }
}

/// What a part says of a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) share_of_others: Option<f64>,
}

/// Takes what a part says of each of these proxies. One that fails leaves a note, and the others are measured all the
/// same.
pub(crate) fn take(
    part: Part,
    proxies: impl IntoIterator<Item = Proxy>,
    mut measure: impl FnMut(Proxy) -> io::Result<Vec<Figure>>,
) -> Vec<Reading> {
    let mut readings = Vec::new();
    for proxy in proxies {
        eprintln!("{part}: {proxy}");
        match interrupt::check().and_then(|()| measure(proxy)) {
            Ok(figures) => readings.extend(figures.into_iter().map(|figure| Reading {
                part,
                what: figure.what,
                proxy,
                unit: figure.unit,
                value: Some(figure.value),
                share_of_others: figure.share_of_others,
                error: None,
            })),
            Err(error) => {
                eprintln!("  failed: {error}");
                readings.push(failure(part, proxy, &error));
            }
        }
    }
    readings
}

/// The note of a proxy that could not be measured.
pub(crate) fn failure(part: Part, proxy: Proxy, error: &io::Error) -> Reading {
    Reading {
        part,
        what: "all",
        proxy,
        unit: "",
        value: None,
        share_of_others: None,
        error: Some(error.to_string()),
    }
}

/// A window in which something was done to a proxy.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// What came of it.
    pub(crate) result: T,
    /// What the proxy used.
    pub(crate) cpu: Duration,
    /// The share of the machine's cores that processes outside the benchmark used meanwhile.
    pub(crate) share_of_others: f64,
}

/// Does the work once, and again while others disturb it and the deadline has not passed; the least disturbed window
/// counts. `bystanders` are further processes of the benchmark.
pub(crate) fn quietest<T>(
    deadline: Instant,
    pids: &[u32],
    bystanders: &[u32],
    mut work: impl FnMut() -> io::Result<T>,
) -> io::Result<Window<T>> {
    let mut window = || {
        let watch = Watch::begin([pids, bystanders].concat())?;
        let before = cpu_time(pids)?;
        let result = work()?;
        let cpu = cpu_time(pids)?.saturating_sub(before);
        Ok::<_, io::Error>(Window { result, cpu, share_of_others: watch.share_of_others()? })
    };
    let mut best = window()?;
    while best.share_of_others >= DISTURBED_FROM && Instant::now() < deadline {
        disturbance::wait_for_quiet(deadline)?;
        let again = window()?;
        if again.share_of_others < best.share_of_others {
            best = again;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_fails_does_not_keep_the_others_from_being_measured() {
        let readings = take(Part::Idle, [Proxy::Nginx, Proxy::Envoy], |proxy| match proxy {
            Proxy::Nginx => Err(io::Error::other("no luck")),
            _ => Ok(vec![Figure { what: "x", unit: "KiB", value: 2.0, share_of_others: Some(0.5) }]),
        });
        let [nginx, envoy] = readings.as_slice() else { panic!("{readings:?}") };
        assert_eq!((nginx.value, nginx.error.as_deref()), (None, Some("no luck")));
        assert_eq!((envoy.value, envoy.is_disturbed()), (Some(2.0), true));
    }

    #[test]
    fn a_quiet_window_is_the_only_one() {
        let mut count = 0;
        let window = quietest(Instant::now(), &[std::process::id()], &[], || {
            count += 1;
            Ok(count)
        });
        assert_eq!(window.unwrap().result, 1);
    }
}
