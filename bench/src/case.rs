//! The rows of the benchmark.

use std::fmt;

use serde::Serialize;

/// What the client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// `allow: true`: the request goes to the backend, 135 bytes come back.
    Allowed,
    /// No header: the proxy answers 403 by itself.
    Denied,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proxy {
    Nginx,
    Haproxy,
    Envoy,
    Wasmgate,
}

/// What checks the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plugin {
    /// Nothing.
    None,
    /// The proxy's own configuration language (nginx `if`, HAProxy `http-request deny`).
    Native,
    /// The header-authorization plug-in, built from Go.
    Go,
    /// The header-authorization plug-in, built from Rust.
    Rust,
}

/// What the client speaks; upstream it is always HTTP/1.1 with keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http1,
    /// Cleartext, prior knowledge.
    Http2,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) scenario: Scenario,
    pub(crate) protocol: Protocol,
    pub(crate) access_log: bool,
    pub(crate) proxy: Proxy,
    pub(crate) plugin: Plugin,
}

impl Case {
    /// All rows, those that are compared with one another in sequence.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (scenario, protocol, access_log) in [
            (Scenario::Allowed, Protocol::Http1, false),
            (Scenario::Allowed, Protocol::Http1, true),
            (Scenario::Allowed, Protocol::Http2, false),
            (Scenario::Denied, Protocol::Http1, false),
            (Scenario::Denied, Protocol::Http2, false),
        ] {
            for proxy in [Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy, Proxy::Wasmgate] {
                for plugin in [Plugin::None, Plugin::Native, Plugin::Go, Plugin::Rust] {
                    let case = Self { scenario, protocol, access_log, proxy, plugin };
                    if case.makes_sense() {
                        cases.push(case);
                    }
                }
            }
        }
        cases
    }

    /// The status that every answer must have.
    pub(crate) fn expected_status(&self) -> u16 {
        match self.scenario {
            Scenario::Allowed => 200,
            Scenario::Denied => 403,
        }
    }

    fn makes_sense(&self) -> bool {
        let native = matches!(self.proxy, Proxy::Nginx | Proxy::Haproxy);
        let can_run_it = match self.plugin {
            Plugin::None => true,
            Plugin::Native => native,
            Plugin::Go | Plugin::Rust => !native,
        };
        let can_deny = self.scenario == Scenario::Allowed || self.plugin != Plugin::None;
        // HAProxy has no access log in a file of its own, and one plug-in shows what the log adds to one.
        let log_is_of_interest = !self.access_log
            || (self.proxy != Proxy::Haproxy && matches!(self.plugin, Plugin::None | Plugin::Go));
        can_run_it && can_deny && log_is_of_interest
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = if self.access_log { "on" } else { "off" };
        let (scenario, protocol) = (self.scenario, self.protocol);
        write!(f, "{scenario}/{protocol}/log-{log}/{}/{}", self.proxy, self.plugin)
    }
}

/// The names as they stand in the report.
macro_rules! display_in_lower_case {
    ($($name:ty),*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{self:?}").to_lowercase())
            }
        })*
    };
}

display_in_lower_case!(Scenario, Proxy, Plugin, Protocol);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_rows_for_every_comparison_and_none_that_cannot_be() {
        let names: Vec<String> = Case::all().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), 37);
        assert!(names.contains(&"allowed/http1/log-on/nginx/none".to_owned()));
        assert!(names.contains(&"denied/http2/log-off/wasmgate/rust".to_owned()));
        assert!(!names.iter().any(|name| name.contains("denied") && name.ends_with("none")));
        assert!(!names.iter().any(|name| name.contains("log-on/haproxy")));
    }
}
