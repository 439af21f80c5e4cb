//! From the command line to the settings of the data path.

use std::sync::Arc;

use http::HeaderValue;
use wasmgate_proxy::{AccessLogSink, LogContext, LogFormat, Settings};

use crate::cli::{ConfigArguments, ProcessArguments};
use crate::error::CommandError;
use crate::run::host_env;

/// The command line as it was understood, for `/server_info`.
pub(crate) fn options(
    config: &ConfigArguments,
    process: &ProcessArguments,
    workers: usize,
) -> serde_json::Value {
    serde_json::json!({
        "config": config.config,
        "namespace": config.namespace,
        "root_namespace": config.root_namespace,
        "labels": config.labels.0,
        "cache_dir": config.cache_dir,
        "insecure_registry": config.insecure_registry,
        "allow_host_env": config.allow_host_env,
        "plugin_log_limit": config.plugin_log_limit,
        "admin": process.admin.to_string(),
        "workers": workers,
        "access_log": process.access_log,
        "access_log_format": process.access_log_format,
        "dns_server": process.dns_server,
        "locality": config.locality,
        "server_header": process.server_header,
        "startup_wait": process.startup_wait.as_secs(),
        "stream_idle_timeout": process.stream_idle_timeout.as_secs(),
        "max_connections": process.max_connections,
        "max_memory": process.max_memory,
        "max_request_body": process.max_request_body,
        "trusted_hops": process.trusted_hops,
        "accept_http_10": process.accept_http_10,
        "tls_handshake_timeout": process.tls_handshake_timeout.as_secs(),
        "delayed_close_timeout": process.delayed_close_timeout.as_secs(),
        "drain_time": process.drain_time.as_secs(),
        "drain_delay": process.drain_delay.as_secs(),
    })
}

pub(crate) fn worker_count(process: &ProcessArguments) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    process.workers.map_or_else(cores, usize::from)
}

/// Raises the limit of descriptors as far as the system lets us; the limit.
fn descriptors_max() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(e) => {
            tracing::warn!(target: "main", "the limit of open descriptors cannot be raised: {e}");
            limit.current
        }
    }
}

/// The format of the access log; `None` for the default one.
fn log_format(format: &str, environment: &[(String, String)]) -> Result<Option<LogFormat>, CommandError> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let context = LogContext { hostname, environment: environment.to_vec() };
    let text;
    let format = match format.strip_prefix('@') {
        Some(path) => {
            text = std::fs::read_to_string(path).map_err(|source| CommandError::Io {
                what: format!("--access-log-format: cannot read {path}"),
                source,
            })?;
            text.as_str()
        }
        None => format,
    };
    let parsed = match format {
        "asm" => return Ok(None),
        "istio" => LogFormat::istio_text(&context),
        "istio-json" => LogFormat::istio_json(&context),
        json if json.trim_start().starts_with('{') => LogFormat::json(json, &context),
        text if text.contains('%') => LogFormat::text(text, &context),
        other => {
            return Err(CommandError::LogFormat(format!(
                "{other:?} is no format: asm, istio, istio-json, a text or a JSON object with operators like %RESPONSE_CODE%, or @FILE"
            )));
        }
    };
    parsed.map(Some).map_err(|e| CommandError::LogFormat(e.to_string()))
}

pub(crate) fn settings(
    config: &ConfigArguments,
    process: &ProcessArguments,
) -> Result<Settings, CommandError> {
    let descriptors = descriptors_max();
    // One for the client, one for the endpoint.
    let connections = process.max_connections.or_else(|| descriptors.map(|d| d / 2)).unwrap_or(u64::MAX);
    let workers = worker_count(process) as u64;
    let access_log = match process.access_log.as_str() {
        "off" => None,
        "-" => Some(AccessLogSink::stdout().map_err(CommandError::io("cannot start the access log"))?),
        path => Some(AccessLogSink::file(path.as_ref())?),
    };
    let server = match process.server_header.as_str() {
        "" => None,
        name => Some(HeaderValue::from_str(name).map_err(|e| CommandError::Io {
            what: format!("--server-header {name:?}"),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, e),
        })?),
    };
    Ok(Settings {
        server,
        access_log,
        access_log_format: log_format(&process.access_log_format, &host_env(config))?.map(Arc::new),
        trusted_hops: process.trusted_hops,
        accepts_http10: process.accept_http_10,
        request_body_bytes_max: process.max_request_body.map(|mib| mib << 20),
        memory_bytes_max: process.max_memory.map(|mib| mib << 20),
        connections_max: connections.div_ceil(workers.max(1)),
        tls_handshake_time_max: process.tls_handshake_timeout,
        delayed_close_max: process.delayed_close_timeout,
        drain_time_max: process.drain_time,
        stream_idle_max: process.stream_idle_timeout,
        ..Settings::default()
    })
}
