//! A running nginx: a reverse proxy to compare with, or a backend that costs next to nothing.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{ChildGuard, command_on_core, require_program};

/// nginx closes a connection after 1000 requests by default, which would count as the proxy's work in a benchmark.
const REQUESTS_PER_CONNECTION_MAX: u32 = 1_000_000_000;

/// Connections at the same time, unless somebody wants more.
const CONNECTIONS_MAX: u32 = 4096;

/// The JSON access log, with those of Istio's fields that nginx knows, buffered as Envoy buffers its own.
const LOG_FORMAT: &str = r#"log_format istio escape=json '{"bytes_received":"$request_length","bytes_sent":"$body_bytes_sent","downstream_local_address":"$server_addr:$server_port","downstream_remote_address":"$remote_addr:$remote_port","duration":"$request_time","method":"$request_method","path":"$request_uri","protocol":"$server_protocol","request_id":"$request_id","response_code":"$status","start_time":"$time_iso8601","upstream_host":"$upstream_addr","upstream_response_time":"$upstream_response_time","user_agent":"$http_user_agent","x_forwarded_for":"$http_x_forwarded_for","authority_for":"$http_host"}';"#;

/// How nginx is started as a proxy.
#[derive(Debug, Clone)]
pub struct NginxProxy {
    /// The HTTP/1.1 port on 127.0.0.1.
    pub port: u16,
    /// A second port for HTTP/2 with prior knowledge: nginx 1.22 cannot do both on one.
    pub h2_port: Option<u16>,
    /// The backend, to which 64 idle connections are kept.
    pub upstream: SocketAddr,
    /// Answer 403 with this body unless the request has `allow: true`.
    pub deny_body: Option<String>,
    /// The file of the JSON access log, or none.
    pub access_log: Option<PathBuf>,
    /// The files of a certificate and its key: the HTTP/1.1 port speaks TLS 1.3 only, without resumption.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Bodies of any size pass as they come and never touch a disk.
    pub streams_bodies: bool,
    /// Connections of clients and to the backend at the same time.
    pub connections_max: u32,
    /// The core that it runs on, or any.
    pub core: Option<u32>,
}

impl NginxProxy {
    /// A plain proxy on any core.
    #[must_use]
    pub fn new(port: u16, upstream: SocketAddr) -> Self {
        Self {
            port,
            h2_port: None,
            upstream,
            deny_body: None,
            access_log: None,
            tls: None,
            streams_bodies: false,
            connections_max: CONNECTIONS_MAX,
            core: None,
        }
    }

    fn http_block(&self) -> String {
        let mut block = format!(
            "upstream backend {{ server {}; keepalive 64; keepalive_requests {REQUESTS_PER_CONNECTION_MAX}; \
             keepalive_timeout 1h; }}\n",
            self.upstream
        );
        let log = match &self.access_log {
            Some(path) => format!("{LOG_FORMAT}\naccess_log {} istio buffer=64k flush=1s;\n", path.display()),
            None => "access_log off;\n".to_owned(),
        };
        block.push_str(&log);
        let h2 =
            self.h2_port.map(|port| format!("listen 127.0.0.1:{port} http2 reuseport;")).unwrap_or_default();
        let deny = self
            .deny_body
            .as_ref()
            .map(|body| format!("if ($http_allow != \"true\") {{ return 403 \"{body}\"; }}"))
            .unwrap_or_default();
        let ssl = if self.tls.is_some() { " ssl" } else { "" };
        let tls = self.tls.as_ref().map_or_else(String::new, |(certificate, key)| {
            format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; ssl_session_cache off; \
                 ssl_session_tickets off;",
                certificate.display(),
                key.display()
            )
        });
        let streams = if self.streams_bodies {
            "client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;"
        } else {
            ""
        };
        let _ = write!(
            block,
            "server {{\n listen 127.0.0.1:{}{ssl} reuseport;\n {h2}\n {tls}\n {streams}\n default_type text/plain;\n location / {{\n  {deny}\n  \
             proxy_pass http://backend;\n  proxy_http_version 1.1;\n  proxy_set_header Host $http_host;\n  \
             proxy_set_header Connection \"\";\n }}\n}}\n",
            self.port
        );
        block
    }
}

/// How nginx is started as a backend.
#[derive(Debug, Clone)]
pub struct NginxBackend {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// What every request is answered with, status 200. No double quotes, dollar signs or backslashes.
    pub body: String,
    /// The core that it runs on, or any.
    pub core: Option<u32>,
}

impl NginxBackend {
    fn http_block(&self) -> String {
        format!(
            "access_log off;\nserver {{\n listen 127.0.0.1:{} reuseport backlog=4096;\n default_type text/plain;\n \
             location / {{ return 200 \"{}\"; }}\n}}\n",
            self.port, self.body
        )
    }
}

/// An nginx with one worker that runs until it is dropped.
#[derive(Debug)]
pub struct Nginx {
    child: ChildGuard,
    listener: SocketAddr,
    h2_listener: Option<SocketAddr>,
}

impl Nginx {
    /// Starts a proxy and waits until it accepts connections.
    ///
    /// # Errors
    /// When nginx is missing, or ends, with its last words.
    pub fn proxy(options: &NginxProxy) -> io::Result<Self> {
        let mut nginx =
            Self::start(&options.http_block(), options.port, options.core, options.connections_max)?;
        nginx.h2_listener = options.h2_port.map(loopback);
        Ok(nginx)
    }

    /// Starts a backend and waits until it accepts connections.
    ///
    /// # Errors
    /// When nginx is missing, or ends, with its last words.
    pub fn backend(options: &NginxBackend) -> io::Result<Self> {
        Self::start(&options.http_block(), options.port, options.core, CONNECTIONS_MAX)
    }

    /// Starts whatever the contents of an `http` block say, and waits until it accepts connections on `port`.
    ///
    /// # Errors
    /// When nginx is missing, or ends, with its last words.
    pub fn with_http_block(http_block: &str, port: u16) -> io::Result<Self> {
        Self::start(http_block, port, None, CONNECTIONS_MAX)
    }

    /// Where HTTP/1.1 clients connect.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Where HTTP/2 clients connect.
    #[must_use]
    pub fn h2_listener(&self) -> Option<SocketAddr> {
        self.h2_listener
    }

    /// The master process; the worker is its child.
    #[must_use]
    pub fn child(&self) -> &ChildGuard {
        &self.child
    }

    fn start(http_block: &str, port: u16, core: Option<u32>, connections_max: u32) -> io::Result<Self> {
        let program = require_program("nginx", "nginx")?;
        let dir = TempDir::with_prefix("wasmgate-nginx-")?;
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config(http_block, dir.path(), connections_max))?;
        let mut command = command_on_core(&program, core);
        command.arg("-c").arg(&file).arg("-p").arg(dir.path()).args(["-e", "stderr"]);
        let mut child = ChildGuard::spawn_in("nginx", command, dir)?;
        let listener = loopback(port);
        child.wait_ready(Instant::now() + Duration::from_secs(10), || {
            std::net::TcpStream::connect(listener).is_ok()
        })?;
        Ok(Self { child, listener, h2_listener: None })
    }
}

/// The version of the installed nginx.
///
/// # Errors
/// When it is missing.
pub fn version() -> io::Result<String> {
    let output = Command::new(require_program("nginx", "nginx")?).arg("-v").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(text.trim().rsplit('/').next().unwrap_or_default().to_owned())
}

fn config(http_block: &str, dir: &Path, connections_max: u32) -> String {
    let mut temp_paths = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temp_paths, "{kind}_temp_path {}/{kind};", dir.display());
    }
    // `user` lets the worker write its log into our directory when the test runs as root; otherwise nginx ignores it.
    format!(
        "daemon off;\nuser root root;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections {connections_max}; }}\nhttp {{\nkeepalive_timeout 1h;\n\
         keepalive_requests {REQUESTS_PER_CONNECTION_MAX};\n{temp_paths}{http_block}}}\n",
        dir = dir.display()
    )
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::ports::PortLease;
    use crate::peers::probe;

    #[test]
    #[ignore = "needs nginx installed; `make bench` installs it and checks the same answers"]
    fn a_proxy_with_the_check_passes_true_and_denies_the_rest() {
        let (front, back) = (PortLease::new().unwrap(), PortLease::new().unwrap());
        let backend = NginxBackend { port: back.port(), body: "hello".to_owned(), core: None };
        let _backend = Nginx::backend(&backend).unwrap();
        let mut options = NginxProxy::new(front.port(), back.address());
        options.deny_body = Some("no".to_owned());
        let nginx = Nginx::proxy(&options).unwrap();
        let ask = |headers: &[(&str, &str)]| {
            let answer = probe::get(nginx.listener(), "/", headers, Duration::from_secs(5)).unwrap();
            (answer.status, answer.text())
        };
        assert_eq!(ask(&[("allow", "true")]), (200, "hello".to_owned()));
        assert_eq!(ask(&[("allow", "TRUE")]), (403, "no".to_owned()));
        assert_eq!(nginx.child().pids().len(), 2, "a master and a worker");
    }
}
