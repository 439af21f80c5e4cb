//! Proxies for the parts: the same set-up for each of them, with what the part needs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use wasmgate_testkit::peers::envoy::Envoy;
use wasmgate_testkit::peers::haproxy::{Haproxy, HaproxyOptions};
use wasmgate_testkit::peers::nginx::{Nginx, NginxProxy};
use wasmgate_testkit::tls::Identity;

use crate::bench::Bench;
use crate::case::{Plugin, Proxy};
use crate::manifests;
use crate::proxy::{Running, Wasmgate};

/// More connections than any part opens; nginx and Wasmgate are told.
const CONNECTIONS_MAX: u32 = 15_000;

/// What a part needs of a proxy, which has one worker on the proxy's core and no plug-in.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) upstream: SocketAddr,
    /// The listener's certificate, where it speaks TLS.
    pub(crate) identity: Option<Identity>,
    /// The backend speaks HTTP/2 with prior knowledge.
    pub(crate) is_upstream_http2: bool,
}

impl Stage {
    /// HTTP/1.1 on both sides.
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self { upstream, identity: None, is_upstream_http2: false }
    }

    /// Starts a proxy on the benchmark's port.
    pub(crate) fn start(&self, bench: &Bench, proxy: Proxy) -> io::Result<Running> {
        let core = Some(bench.cores().proxy);
        Ok(match proxy {
            Proxy::Nginx => Running::Nginx(Nginx::proxy(&NginxProxy {
                tls: self.tls_files(bench)?,
                streams_bodies: true,
                connections_max: CONNECTIONS_MAX,
                core,
                ..NginxProxy::new(bench.port(), self.upstream)
            })?),
            Proxy::Haproxy => Running::Haproxy(Haproxy::start(&HaproxyOptions {
                core,
                ..HaproxyOptions::new(bench.port(), self.upstream)
            })?),
            Proxy::Envoy => {
                let mut options = bench.envoy_options(Plugin::None)?;
                options.config.upstream = self.upstream;
                options.config.tls = self.tls_files(bench)?;
                options.config.is_upstream_http2 = self.is_upstream_http2;
                options.core = core;
                Running::Envoy(Envoy::start(&options)?)
            }
            Proxy::Wasmgate => {
                let mut options = bench.wasmgate_options(Plugin::None, bench.dir().join("cache"))?;
                options.backend_port = self.upstream.port();
                options.secret =
                    self.identity.as_ref().map(|identity| identity.secret(manifests::SECRET, &[]));
                options.is_upstream_http2 = self.is_upstream_http2;
                options.arguments = vec!["--max-connections".to_owned(), CONNECTIONS_MAX.to_string()];
                options.core = core;
                Running::Wasmgate(Wasmgate::start(&options)?)
            }
        })
    }

    /// The certificate and its key in files.
    fn tls_files(&self, bench: &Bench) -> io::Result<Option<(PathBuf, PathBuf)>> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let (certificate, key) = (bench.dir().join("tls.crt"), bench.dir().join("tls.key"));
        std::fs::write(&certificate, &identity.certificate)?;
        std::fs::write(&key, &identity.key)?;
        Ok(Some((certificate, key)))
    }
}
