//! The load generators: wrk for HTTP/1.1, h2load for HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;
use wasmgate_testkit::peers::process::{ChildGuard, command_on_core, require_program};

use crate::case::{Case, Plugin, Protocol, Proxy, Scenario};
use crate::interrupt;

/// Connections of an HTTP/1.1 run.
const HTTP1_CONNECTIONS: u32 = 16;
/// Connections of an HTTP/2 run.
const HTTP2_CONNECTIONS: u32 = 4;
/// Streams in flight on each of them.
const HTTP2_STREAMS: u32 = 16;
/// What a generator may need beyond its window, for starting, ending and writing its figures.
const EXTRA_TIME: Duration = Duration::from_secs(20);

/// Makes wrk print its figures in one line that needs no guessing of units.
const WRK_SCRIPT: &str = r#"
done = function(summary, latency, requests)
  io.write(string.format(
    'FIGURES {"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.timeout, summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
"#;

/// Makes wrk ask for the hosts of a list in turn, each with a path of its own prefix.
const HOSTS_SCRIPT: &str = r"
local requests, count = {}, 0
init = function(args)
  for at, host in ipairs(hosts) do
    requests[at] = wrk.format('GET', '/r0/status', {['Host'] = host})
  end
end
request = function()
  count = count % #requests + 1
  return requests[count]
end
";

/// What a generator saw in one window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    /// Complete answers.
    pub(crate) requests: u32,
    /// Answers per second.
    pub(crate) rps: f64,
    /// The median time from request to answer, in microseconds.
    pub(crate) p50_us: u32,
    /// The 99th percentile of the same.
    pub(crate) p99_us: u32,
}

/// Both generators, on the core that they share with the backend.
#[derive(Debug)]
pub(crate) struct Generators {
    wrk: PathBuf,
    h2load: PathBuf,
    core: u32,
    dir: TempDir,
}

impl Generators {
    /// Finds the generators.
    pub(crate) fn new(core: u32) -> io::Result<Self> {
        let dir = TempDir::with_prefix("wasmgate-bench-")?;
        std::fs::write(dir.path().join("figures.lua"), WRK_SCRIPT)?;
        Ok(Self {
            wrk: require_program("wrk", "wrk")?,
            h2load: require_program("h2load", "nghttp2-client")?,
            core,
            dir,
        })
    }

    /// Sends requests for `seconds`; an answer that is not what the case expects is an error.
    pub(crate) fn run(&self, case: Case, address: SocketAddr, seconds: u32) -> io::Result<Figures> {
        match case.protocol {
            Protocol::Http1 => self.run_wrk(case, address, seconds),
            Protocol::Http2 => self.run_h2load(case, address, seconds),
        }
    }

    /// Sends requests over HTTP/1.1 that ask for these hosts in turn.
    pub(crate) fn run_hosts(
        &self,
        address: SocketAddr,
        seconds: u32,
        hosts: &[String],
    ) -> io::Result<Figures> {
        let list: Vec<String> = hosts.iter().map(|host| format!("'{host}'")).collect();
        let script = self.dir.path().join("hosts.lua");
        std::fs::write(&script, format!("hosts = {{{}}}\n{HOSTS_SCRIPT}{WRK_SCRIPT}", list.join(",")))?;
        let (scenario, protocol, proxy) = (Scenario::Allowed, Protocol::Http1, Proxy::Wasmgate);
        let case = Case { scenario, protocol, access_log: false, proxy, plugin: Plugin::None };
        self.run_script(&script, case, address, seconds)
    }

    fn run_wrk(&self, case: Case, address: SocketAddr, seconds: u32) -> io::Result<Figures> {
        self.run_script(&self.dir.path().join("figures.lua"), case, address, seconds)
    }

    fn run_script(
        &self,
        script: &Path,
        case: Case,
        address: SocketAddr,
        seconds: u32,
    ) -> io::Result<Figures> {
        let mut arguments = vec![
            "-t1".to_owned(),
            format!("-c{HTTP1_CONNECTIONS}"),
            format!("-d{seconds}s"),
            "-s".to_owned(),
        ];
        arguments.push(script.display().to_string());
        let output = self.generate(&self.wrk, arguments, case, address, seconds)?;
        wrk_figures(&output, case)
    }

    fn run_h2load(&self, case: Case, address: SocketAddr, seconds: u32) -> io::Result<Figures> {
        let log = self.dir.path().join("h2load.log");
        match std::fs::remove_file(&log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let arguments = vec![
            "-t1".to_owned(),
            format!("-c{HTTP2_CONNECTIONS}"),
            format!("-m{HTTP2_STREAMS}"),
            format!("-D{seconds}"),
            format!("--log-file={}", log.display()),
        ];
        self.generate(&self.h2load, arguments, case, address, seconds)?;
        h2load_figures(&std::fs::read_to_string(&log)?, case, seconds)
    }

    fn generate(
        &self,
        program: &Path,
        mut arguments: Vec<String>,
        case: Case,
        address: SocketAddr,
        seconds: u32,
    ) -> io::Result<String> {
        if case.scenario == Scenario::Allowed {
            arguments.extend(["-H".to_owned(), "allow: true".to_owned()]);
        }
        arguments.push(format!("http://{address}/status/418"));
        let mut command = command_on_core(program, Some(self.core));
        command.args(arguments);
        let mut child = ChildGuard::spawn("load", command)?;
        let status = child.wait(Instant::now() + Duration::from_secs(seconds.into()) + EXTRA_TIME)?;
        interrupt::check()?;
        let output = child.stdout()?;
        if !status.success() {
            let stderr = child.stderr()?;
            return Err(io::Error::other(format!(
                "{} ended with {status}\n{output}{stderr}",
                program.display()
            )));
        }
        Ok(output)
    }
}

/// The line that [`WRK_SCRIPT`] prints. `status` counts answers of 400 and more.
#[derive(Debug, Deserialize)]
struct WrkLine {
    requests: u32,
    duration_us: u32,
    connect: u32,
    read: u32,
    write: u32,
    timeout: u32,
    status: u32,
    p50_us: u32,
    p99_us: u32,
}

fn wrk_figures(output: &str, case: Case) -> io::Result<Figures> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("FIGURES "))
        .ok_or_else(|| io::Error::other(format!("wrk printed no figures: {output}")))?;
    let line: WrkLine = serde_json::from_str(line)?;
    let refused = match case.scenario {
        Scenario::Allowed => 0,
        Scenario::Denied => line.requests,
    };
    if line.requests == 0
        || line.status != refused
        || line.connect + line.read + line.write + line.timeout > 0
    {
        return Err(io::Error::other(format!("not the answers of {case}: {line:?}")));
    }
    let rps = f64::from(line.requests) * 1e6 / f64::from(line.duration_us.max(1));
    Ok(Figures { requests: line.requests, rps, p50_us: line.p50_us, p99_us: line.p99_us })
}

/// From h2load's log of single requests, which its summary has no percentiles of: start in microseconds, status,
/// duration in microseconds.
fn h2load_figures(log: &str, case: Case, seconds: u32) -> io::Result<Figures> {
    let expected = case.expected_status().to_string();
    let mut durations_us = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let (status, duration) =
            (fields.next(), fields.next().and_then(|duration| duration.parse::<u32>().ok()));
        match (status, duration) {
            (Some(status), Some(duration)) if status == expected => durations_us.push(duration),
            _ => return Err(io::Error::other(format!("not an answer of {case}: {line:?}"))),
        }
    }
    durations_us.sort_unstable();
    let requests = u32::try_from(durations_us.len()).unwrap_or(u32::MAX);
    let (Some(p50_us), Some(p99_us)) = (percentile(&durations_us, 50), percentile(&durations_us, 99)) else {
        return Err(io::Error::other(format!("h2load got no answer of {case}")));
    };
    Ok(Figures { requests, rps: f64::from(requests) / f64::from(seconds), p50_us, p99_us })
}

/// The smallest value that at least `percent` of the sorted values do not exceed.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Case {
        Case::all().into_iter().find(|case| case.to_string() == name).unwrap()
    }

    #[test]
    fn wrk_figures_are_taken_only_when_every_answer_was_the_expected_one() {
        let line = |status: u32| {
            format!(
                "noise\nFIGURES {{\"requests\":600,\"duration_us\":2000000,\"connect\":0,\"read\":0,\"write\":0,\
                 \"timeout\":0,\"status\":{status},\"p50_us\":40,\"p99_us\":90}}\n"
            )
        };
        let allowed = case("allowed/http1/log-off/nginx/none");
        let denied = case("denied/http1/log-off/nginx/native");
        let figures = Figures { requests: 600, rps: 300.0, p50_us: 40, p99_us: 90 };
        assert_eq!(wrk_figures(&line(0), allowed).unwrap(), figures);
        assert_eq!(wrk_figures(&line(600), denied).unwrap(), figures);
        assert!(wrk_figures(&line(1), allowed).is_err());
        assert!(wrk_figures(&line(599), denied).is_err());
    }

    #[test]
    fn h2load_percentiles_come_from_its_log_and_a_wrong_status_is_an_error() {
        let allowed = case("allowed/http2/log-off/nginx/none");
        let log: String = (1..=200).rev().map(|us| format!("1795530082424330\t200\t{us}\n")).collect();
        let figures = Figures { requests: 200, rps: 100.0, p50_us: 100, p99_us: 198 };
        assert_eq!(h2load_figures(&log, allowed, 2).unwrap(), figures);
        assert!(h2load_figures(&format!("{log}1\t503\t4\n"), allowed, 2).is_err());
        assert!(h2load_figures("", allowed, 2).is_err());
    }
}
