//! A running HAProxy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{ChildGuard, command_on_core, require_program};

/// How HAProxy is started.
#[derive(Debug, Clone)]
pub struct HaproxyOptions {
    /// The HTTP/1.1 port on 127.0.0.1.
    pub port: u16,
    /// A second port for HTTP/2 with prior knowledge.
    pub h2_port: Option<u16>,
    /// The backend; idle connections to it are shared by all clients (`http-reuse always`).
    pub upstream: SocketAddr,
    /// Answer 403 with this body unless the request has `allow: true`.
    pub deny_body: Option<String>,
    /// The core that it runs on, or any.
    pub core: Option<u32>,
}

impl HaproxyOptions {
    /// A plain proxy on any core.
    #[must_use]
    pub fn new(port: u16, upstream: SocketAddr) -> Self {
        Self { port, h2_port: None, upstream, deny_body: None, core: None }
    }

    fn config(&self) -> String {
        let h2 = self.h2_port.map(|port| format!(" bind 127.0.0.1:{port} proto h2\n")).unwrap_or_default();
        let deny = self
            .deny_body
            .as_ref()
            .map(|body| {
                format!(
                    " http-request deny deny_status 403 content-type text/plain string \"{body}\" \
                     unless {{ req.hdr(allow) -m str true }}\n"
                )
            })
            .unwrap_or_default();
        format!(
            "global\n nbthread 1\n maxconn 4096\n\ndefaults\n mode http\n timeout connect 5s\n timeout client 1h\n \
             timeout server 1h\n option http-keep-alive\n http-reuse always\n\nfrontend ingress\n \
             bind 127.0.0.1:{port}\n{h2}{deny} default_backend httpbin\n\nbackend httpbin\n server httpbin \
             {upstream}\n",
            port = self.port,
            upstream = self.upstream
        )
    }
}

/// A HAProxy with one thread that runs until it is dropped.
#[derive(Debug)]
pub struct Haproxy {
    child: ChildGuard,
    listener: SocketAddr,
    h2_listener: Option<SocketAddr>,
}

impl Haproxy {
    /// Starts HAProxy and waits until it accepts connections.
    ///
    /// # Errors
    /// When HAProxy is missing, or ends, with its last words.
    pub fn start(options: &HaproxyOptions) -> io::Result<Self> {
        let program = require_program("haproxy", "haproxy")?;
        let dir = TempDir::with_prefix("wasmgate-haproxy-")?;
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, options.config())?;
        let mut command = command_on_core(&program, options.core);
        // One process in the foreground, without a master.
        command.arg("-db").arg("-f").arg(&file);
        let mut child = ChildGuard::spawn_in("haproxy", command, dir)?;
        let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        child.wait_ready(Instant::now() + Duration::from_secs(10), || {
            std::net::TcpStream::connect(listener).is_ok()
        })?;
        let h2_listener = options.h2_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Self { child, listener, h2_listener })
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

    /// The process.
    #[must_use]
    pub fn child(&self) -> &ChildGuard {
        &self.child
    }
}

/// The version of the installed HAProxy.
///
/// # Errors
/// When it is missing.
pub fn version() -> io::Result<String> {
    let output = Command::new(require_program("haproxy", "haproxy")?).arg("-v").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().nth(2).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::nginx::{Nginx, NginxBackend};
    use crate::peers::ports::PortLease;
    use crate::peers::probe;

    #[test]
    #[ignore = "needs haproxy and nginx installed; `make bench` installs them and checks the same answers"]
    fn a_proxy_with_the_check_passes_true_and_denies_the_rest() {
        let (front, back) = (PortLease::new().unwrap(), PortLease::new().unwrap());
        let backend = NginxBackend { port: back.port(), body: "hello".to_owned(), core: None };
        let _backend = Nginx::backend(&backend).unwrap();
        let mut options = HaproxyOptions::new(front.port(), back.address());
        options.deny_body = Some("no".to_owned());
        let haproxy = Haproxy::start(&options).unwrap();
        let ask = |headers: &[(&str, &str)]| {
            let answer = probe::get(haproxy.listener(), "/", headers, Duration::from_secs(5)).unwrap();
            (answer.status, answer.text())
        };
        assert_eq!(ask(&[("allow", "true")]), (200, "hello".to_owned()));
        assert_eq!(ask(&[]), (403, "no".to_owned()));
    }
}
