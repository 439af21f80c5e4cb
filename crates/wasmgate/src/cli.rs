//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::CommandError;
use crate::logging::{Level, LogFormat};
use crate::{check, demo, run};

/// A gateway that Proxy-Wasm plug-ins extend: Istio's WasmPlugin manifests and images, without the ways in which a bad
/// plug-in takes a gateway down.
#[derive(Debug, Parser)]
#[command(name = "wasmgate", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    ///
    /// Reads the manifests of one or more folders (or single files), fetches and starts the plug-ins that they name,
    /// opens their listeners, and follows every change of the files. A manifest that is wrong is reported with
    /// file:line:column, and what served before goes on serving. SIGTERM and SIGINT end it gracefully.
    #[command(
        after_long_help = "Example:\n  wasmgate run --config examples/header-authorization\n  curl -XPOST 'localhost:15000/logging?wasm=debug'   # see what plug-ins log"
    )]
    Run(Box<RunArguments>),
    /// Tell everything that `run` would refuse or warn about, without opening a listener.
    ///
    /// Exit status: 0 when nothing is wrong (warnings are fine unless --strict is given), 1 when something is, 2 when the manifests cannot be
    /// read at all. Plug-ins are fetched, compiled and started once, unless --offline is given.
    Check(CheckArguments),
    /// See it all at once: a registry, a backend, a plug-in and the gateway in one process.
    ///
    /// Packages the header-authorization plug-in as an image, pushes it to a registry on loopback that asks for
    /// credentials, applies the manifests of examples/header-authorization, and prints what to type. Ctrl-C ends it
    /// and leaves nothing behind.
    Demo(DemoArguments),
    /// Print a completion script for a shell, e.g. `source <(wasmgate completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Compile one module; `run` starts this as a child with limits.
    #[command(hide = true)]
    CompileModule {
        /// Input, output, memory in bytes, CPU time in seconds.
        arguments: Vec<String>,
    },
}

/// What `run` and `check` share: which manifests, for which gateway.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArguments {
    /// A folder of manifests (*.yaml, *.yml, *.json, not recursive) or a single file. May be repeated.
    #[arg(long, required = true, value_name = "DIR")]
    pub(crate) config: Vec<PathBuf>,

    /// Namespace of this gateway: plug-ins of this namespace and of the root namespace apply to it.
    #[arg(long, default_value = "istio-system")]
    pub(crate) namespace: String,

    /// Namespace whose plug-ins apply to every gateway.
    #[arg(long, default_value = "istio-system")]
    pub(crate) root_namespace: String,

    /// Labels of this gateway, which the selectors of plug-ins see.
    #[arg(long, default_value = "istio=ingressgateway", value_name = "KEY=VALUE,…", value_parser = parse_labels)]
    pub(crate) labels: Labels,

    /// Where this gateway runs: of endpoints whose health is watched, those that are nearer get the requests.
    #[arg(long, value_name = "REGION/ZONE/SUBZONE")]
    pub(crate) locality: Option<String>,

    /// Where modules and compiled code are kept. Default: wasmgate below the user's cache folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// A registry (host:port) that has no TLS. Registries on this machine need not be named. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) insecure_registry: Vec<String>,

    /// An environment variable of this process that plug-ins may ask for with valueFrom: HOST. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host_env: Vec<String>,

    /// What each plug-in may log, KiB a second, and four seconds' worth at once; further lines are left out and
    /// counted. 0: no limit.
    #[arg(long, default_value_t = 1024, value_name = "KIB")]
    pub(crate) plugin_log_limit: u32,
}

/// Labels as clap wants a value of one argument.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(pub(crate) BTreeMap<String, String>);

fn parse_labels(text: &str) -> Result<Labels, String> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
        labels.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(Labels(labels))
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,

    #[command(flatten)]
    pub(crate) process: ProcessArguments,
}

/// How the process behaves, whatever its manifests say.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProcessArguments {
    /// Address of the admin interface. Whoever can reach it controls the gateway.
    #[arg(long, default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,

    /// Number of workers (data-path threads). Default: one per core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,

    /// Level of all loggers; the admin interface changes single ones later.
    #[arg(long, default_value = "info")]
    pub(crate) log_level: Level,

    /// Format of the log on standard error.
    #[arg(long, default_value = "istio")]
    pub(crate) log_format: LogFormat,

    /// Access log: `-` for standard output, `off`, or a file that is appended to.
    #[arg(long, default_value = "-", value_name = "WHERE")]
    pub(crate) access_log: String,

    /// How lines of the access log look: `asm` (JSON with 25 fields, all of them strings), `istio` (Istio's text),
    /// `istio-json`, a text or a JSON object with Envoy's command operators (`%REQ(:METHOD)% %RESPONSE_CODE%`), or @FILE
    /// with one.
    #[arg(long, default_value = "asm", value_name = "FORMAT")]
    pub(crate) access_log_format: String,

    /// Value of the `server` response header; empty to pass the upstream's on.
    #[arg(long, default_value = "wasmgate", value_name = "NAME")]
    pub(crate) server_header: String,

    /// How long to wait at start for plug-ins before their fail strategy applies.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) startup_wait: Duration,

    /// A stream on which nothing moves for so long is ended (504, or a reset once the response has begun); 0: never.
    #[arg(long, default_value = "300", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) stream_idle_timeout: Duration,

    /// Connections of clients at the same time; further ones are closed at once. Default: half of the descriptors that the
    /// process may open, whose limit is raised as far as the system allows.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_connections: Option<u64>,

    /// A DNS server for the names of endpoints, instead of those that the system uses. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns_server: Vec<SocketAddr>,

    /// Proxies in front of this gateway whose word counts: the client is whom the last but so many (the N-th from the
    /// right) of x-forwarded-for names, and x-forwarded-proto is kept. Envoy's xff_num_trusted_hops.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) trusted_hops: u32,

    /// Serve HTTP/1.0, which is otherwise answered with 426, as by Envoy.
    #[arg(long)]
    pub(crate) accept_http_10: bool,

    /// Memory that the process may take, MiB: from 90 % of it on connections end after their next answer, from 95 % on
    /// further requests are answered with 503. Default: no bound.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) max_memory: Option<u64>,

    /// Size of a request body, MiB; over it 413. Default: no bound, as in Envoy.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) max_request_body: Option<u64>,

    /// How long a client may take to establish TLS.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) tls_handshake_timeout: Duration,

    /// How long a connection that is closed here waits for the client to close it, so that a denied upload reads its
    /// answer and not a reset; 0: not at all.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) delayed_close_timeout: Duration,

    /// Where processes meet to take over from each other: a Unix socket. Started while another one runs with the same
    /// path, this process gets its listening sockets, and once it serves the other one lets its connections end and
    /// stops: a new version of the program takes over without refusing anybody.
    #[arg(long, value_name = "PATH")]
    pub(crate) takeover: Option<PathBuf>,

    /// How long after SIGTERM connections are still accepted: /ready says 503 at once, and answers ask clients to leave.
    /// Give it as long as whoever sends clients here takes to notice.
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_delay: Duration,

    /// How long connections may go on after SIGTERM.
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) drain_time: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<u32>()
        .map(|s| Duration::from_secs(s.into()))
        .map_err(|_| format!("{text:?} is no number of seconds"))
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,

    /// Do not fetch and start plug-ins: only what the manifests themselves tell.
    #[arg(long)]
    pub(crate) offline: bool,

    /// Take warnings for errors: a field that is misspelt, a plug-in that applies to nothing.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArguments {
    /// Address of the gateway.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,

    /// Address of the admin interface.
    #[arg(long, default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,

    /// Address of the registry; if it is taken, another port.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    pub(crate) registry: SocketAddr,

    /// Address of the backend; if it is taken, another port.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub(crate) backend: SocketAddr,
}

impl ValueEnum for Level {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        let value = clap::builder::PossibleValue::new(self.as_str());
        Some(if *self == Self::Warning { value.alias("warn") } else { value })
    }
}

/// Exit status of a command that could not do its work at all.
const EXIT_FAILURE: u8 = 2;

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(arguments) => block_on(run::run(&arguments)),
        Command::Check(arguments) => block_on(check::check(&arguments)),
        Command::Demo(arguments) => block_on(demo::demo(&arguments)),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "wasmgate",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::CompileModule { arguments } => compile_module(&arguments),
    };
    result.unwrap_or_else(|e| {
        say_error(&format!("error: {e}"));
        ExitCode::from(EXIT_FAILURE)
    })
}

/// How long work that cannot be interrupted (a guest that is starting, a disk) may hold up the end of the process.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

fn block_on(command: impl Future<Output = Result<ExitCode, CommandError>>) -> Result<ExitCode, CommandError> {
    let runtime = runtime()?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN_TIME_MAX);
    result
}

/// The control runtime: two threads, the data path has its own.
fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start the control runtime"))
}

fn compile_module(arguments: &[String]) -> Result<ExitCode, CommandError> {
    let engine = wasmgate_host::Engine::without_clock()?;
    let status = wasmgate_artifact::run_compile_child(engine.wasmtime(), arguments, &mut say_error);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(EXIT_FAILURE)))
}

/// Writes a line to standard error, for messages that are not the log's.
pub(crate) fn say_error(line: &str) {
    use std::io::Write as _;
    // There is nobody left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a line to standard output.
pub(crate) fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn labels_are_pairs() {
        let labels = parse_labels("istio=ingressgateway, app=x").unwrap().0;
        assert_eq!(labels.get("app").map(String::as_str), Some("x"));
        assert!(parse_labels("istio").unwrap_err().contains("KEY=VALUE"));
    }
}
