//! A proxy in front of the endpoint.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::EnvoyConfig;
use wasmgate_testkit::peers::haproxy::{Haproxy, HaproxyOptions};
use wasmgate_testkit::peers::nginx::{Nginx, NginxProxy};
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::peers::{envoy_install, haproxy, nginx, ports};

use crate::case::Protocol;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ours.
    Wasmgate,
    /// nginx as Debian has it.
    Nginx,
    /// HAProxy as Debian has it.
    Haproxy,
    /// Envoy as Istio configures it.
    Envoy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Wasmgate, Self::Nginx, Self::Haproxy, Self::Envoy];

    /// Its name and version, if that can be had.
    #[must_use]
    pub fn version(self) -> String {
        let version = match self {
            Self::Wasmgate => Ok(String::new()),
            Self::Nginx => nginx::version(),
            Self::Haproxy => haproxy::version(),
            Self::Envoy => Ok(envoy_install::ENVOY_VERSION.to_owned()),
        };
        format!("{self} {}", version.unwrap_or_default()).trim().to_owned()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasmgate => "wasmgate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        })
    }
}

#[derive(Debug)]
enum Running {
    Wasmgate(Box<RunningGateway>),
    Nginx(Box<Nginx>),
    Haproxy(Box<Haproxy>),
    Envoy(Box<Envoy>),
}

/// A running proxy.
#[derive(Debug)]
pub struct Host {
    running: Running,
    _leases: Vec<PortLease>,
}

impl Host {
    /// Starts one with everything as it is by default.
    ///
    /// # Errors
    /// The proxy is missing, or does not start.
    pub fn start(kind: Kind, wasmgate: &Path, peers: &Path, endpoint: SocketAddr) -> io::Result<Self> {
        let leases = vec![PortLease::new()?, PortLease::new()?];
        let mut leased = leases.iter().map(PortLease::port);
        let (port, h2_port) = (leased.next().unwrap_or_default(), leased.next());
        let running = match kind {
            Kind::Wasmgate => {
                let program = std::path::absolute(wasmgate)?.display().to_string();
                Running::Wasmgate(Box::new(GatewayBuilder::new(&program).workers(1).backend(endpoint).run()?))
            }
            Kind::Nginx => {
                let options = NginxProxy { h2_port, ..NginxProxy::new(port, endpoint) };
                Running::Nginx(Box::new(Nginx::proxy(&options)?))
            }
            Kind::Haproxy => {
                let options = HaproxyOptions { h2_port, ..HaproxyOptions::new(port, endpoint) };
                Running::Haproxy(Box::new(Haproxy::start(&options)?))
            }
            Kind::Envoy => {
                let binary = envoy_install::install(peers)?;
                let options =
                    EnvoyOptions::new(binary, EnvoyConfig::new(port, ports::free_port()?, endpoint));
                let mut bootstrap = options.config.to_bootstrap();
                let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
                if let Some(manager) = bootstrap.pointer_mut(manager).and_then(|m| m.as_object_mut()) {
                    // It waits for a client to close first, a second by default, in which a close cannot be told from
                    // a connection that stays open.
                    manager.insert("delayed_close_timeout".to_owned(), "0.05s".into());
                }
                Running::Envoy(Box::new(Envoy::start_with_bootstrap(&options, &bootstrap)?))
            }
        };
        Ok(Self { running, _leases: leases })
    }

    /// Where clients of a protocol connect.
    #[must_use]
    pub fn address(&self, protocol: Protocol) -> Option<SocketAddr> {
        match (&self.running, protocol) {
            (Running::Wasmgate(gateway), _) => Some(gateway.address()),
            (Running::Envoy(envoy), _) => Some(envoy.listener()),
            (Running::Nginx(nginx), Protocol::Http1) => Some(nginx.listener()),
            (Running::Nginx(nginx), Protocol::Http2) => nginx.h2_listener(),
            (Running::Haproxy(haproxy), Protocol::Http1) => Some(haproxy.listener()),
            (Running::Haproxy(haproxy), Protocol::Http2) => haproxy.h2_listener(),
        }
    }
}
