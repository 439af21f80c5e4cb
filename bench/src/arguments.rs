//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::case::{Case, Plugin, Proxy};
use crate::part::Part;

/// Runs nginx, HAProxy, Envoy and Wasmgate in turn and prints what a request costs each.
///
/// Everything is on 127.0.0.1. Needs two cores, and the Debian packages wrk, nghttp2-client, nginx, haproxy and
/// python3-venv (for Envoy, which comes from PyPI). The exit status is not 0 when a row failed or a bar said
/// FAIL. The bars of calls between host and guest depend on the machine: they are printed as met or missed, and no more.
#[derive(Debug, Parser)]
#[command(name = "wasmgate-bench", version)]
pub(crate) struct Arguments {
    /// The gateway's binary, a release build
    #[arg(long, value_name = "FILE", default_value = "target/release/wasmgate")]
    pub(crate) wasmgate: PathBuf,

    /// The header-authorization plug-in built from Go; without it there are no rows for it
    #[arg(long, value_name = "FILE")]
    pub(crate) go_plugin: Option<PathBuf>,

    /// The header-authorization plug-in built from Rust; without it there are no rows for it
    #[arg(long, value_name = "FILE")]
    pub(crate) rust_plugin: Option<PathBuf>,

    /// The plug-in of bench/plugins/calls; without it calls between host and guest are not timed
    #[arg(long, value_name = "FILE")]
    pub(crate) calls_plugin: Option<PathBuf>,

    /// How long each window is measured, after a second of warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,

    /// How often all rows are measured in turn; a row is the median of its rounds
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// How long a row is measured again and again because other processes kept the machine busy
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) patience: u32,

    /// Measure only rows and parts whose name contains one of these. A row's name is like
    /// allowed/http1/log-off/envoy/go; the parts are those of --skip
    #[arg(long, value_name = "SUBSTRING,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Leave parts out
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    pub(crate) skip: Vec<Part>,

    /// Leave nginx out (it still serves as the backend)
    #[arg(long)]
    pub(crate) skip_nginx: bool,

    /// Leave HAProxy out
    #[arg(long)]
    pub(crate) skip_haproxy: bool,

    /// Leave Envoy out
    #[arg(long)]
    pub(crate) skip_envoy: bool,

    /// Leave Wasmgate out, to look at the peers alone
    #[arg(long)]
    pub(crate) skip_wasmgate: bool,

    /// Leave the times to the first answer and of a swap, and the gigabyte through a plug-in out
    #[arg(long)]
    pub(crate) skip_startup: bool,

    /// Where Envoy is installed when it is not there yet
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    pub(crate) peers_dir: PathBuf,

    /// Where report.json and report.md go
    #[arg(long, value_name = "DIR", default_value = "bench/out")]
    pub(crate) out: PathBuf,
}

impl Arguments {
    /// Whether this run has to do with a proxy at all.
    pub(crate) fn uses(&self, proxy: Proxy) -> bool {
        match proxy {
            Proxy::Nginx => !self.skip_nginx,
            Proxy::Haproxy => !self.skip_haproxy,
            Proxy::Envoy => !self.skip_envoy,
            Proxy::Wasmgate => !self.skip_wasmgate,
        }
    }

    /// Whether the plug-in is there to be measured.
    pub(crate) fn has(&self, plugin: Plugin) -> bool {
        match plugin {
            Plugin::None | Plugin::Native => true,
            Plugin::Go => self.go_plugin.is_some(),
            Plugin::Rust => self.rust_plugin.is_some(),
        }
    }

    /// Whether the part is to be measured.
    pub(crate) fn runs(&self, part: Part) -> bool {
        let is_left_out = self.skip.contains(&part)
            || (self.skip_startup && matches!(part, Part::Startup | Part::Streaming));
        !is_left_out && self.is_named(&part.to_string())
    }

    fn is_named(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }

    /// Whether the row is to be measured.
    pub(crate) fn selects(&self, case: &Case) -> bool {
        self.uses(case.proxy) && self.has(case.plugin) && self.is_named(&case.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command_line: &[&str]) -> Vec<String> {
        let arguments = Arguments::try_parse_from(["wasmgate-bench"].iter().chain(command_line)).unwrap();
        Case::all().iter().filter(|case| arguments.selects(case)).map(ToString::to_string).collect()
    }

    #[test]
    fn rows_are_selected_by_name_and_by_what_is_there() {
        assert_eq!(
            names(&["--only", "denied/http1", "--go-plugin", "x", "--skip-wasmgate"]),
            [
                "denied/http1/log-off/nginx/native",
                "denied/http1/log-off/haproxy/native",
                "denied/http1/log-off/envoy/go"
            ]
        );
        assert!(names(&[]).iter().all(|name| !name.ends_with("/go") && !name.ends_with("/rust")));
    }

    #[test]
    fn parts_are_selected_like_rows_and_left_out_by_name() {
        let parts = |command_line: &[&str]| -> Vec<Part> {
            let arguments = Arguments::try_parse_from(["wasmgate-bench"].iter().chain(command_line)).unwrap();
            let all = <Part as clap::ValueEnum>::value_variants();
            all.iter().copied().filter(|part| arguments.runs(*part)).collect()
        };
        assert_eq!(parts(&["--only", "tls,idle"]), [Part::Tls, Part::Idle]);
        assert!(names(&["--only", "tls,idle"]).is_empty());
        assert!(parts(&["--only", "denied/http1"]).is_empty());
        assert!(!parts(&["--skip", "tls,idle"]).contains(&Part::Idle));
        assert!(!parts(&["--skip-startup"]).contains(&Part::Streaming));
    }
}
