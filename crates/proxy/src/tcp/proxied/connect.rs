//! Which endpoint a connection is connected to, and how.

use std::io;
use std::task::{Context, Poll};

use wasmgate_config::{HashKey, LoadBalancer};

use super::{Proxied, Upstream, count};
use crate::transport::Transport;
use crate::upstream::{ActiveRequest, Outcome, Spoken, TlsFailure, source_key};

impl Proxied<'_> {
    pub(super) fn connect(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.upstream {
            Upstream::Waiting if self.connection.is_ready() && !self.connection.is_closing() => {
                if let Some(data) = self.connection.data_mut()
                    && let Some(name) = data.cluster_override.take()
                {
                    self.cluster = self.generation.cluster_named(&name);
                    data.info.cluster_name = name.into();
                    data.info.upstream_endpoints = count(self.cluster.as_deref());
                }
                let Some(cluster) = self.cluster.clone() else {
                    self.fail("NR");
                    return true;
                };
                let key = match &cluster.config.policy.balance {
                    LoadBalancer::Hash(HashKey::SourceIp, _) => Some(source_key(self.addresses.0.ip())),
                    _ => None,
                };
                let Some(host) = cluster.pick(key, &[]) else {
                    cluster.count(|c| c.unhealthy.increment());
                    self.fail("UH");
                    return true;
                };
                if !cluster.admits_connection() || !cluster.admits_request() {
                    cluster.count(|c| c.pending_overflow.increment());
                    self.fail("UO");
                    return true;
                }
                let address = host.address();
                let (connect, open) = cluster.open(&host, Some(self.addresses), Spoken::Tcp);
                self.active = Some((ActiveRequest::new(&cluster, &host), open));
                if let Some(data) = self.connection.data_mut() {
                    data.info.upstream_host = Some(address);
                    data.info.upstream_attempts = 1;
                }
                self.upstream = Upstream::Connecting(Box::pin(connect));
                true
            }
            Upstream::Connecting(connect) => match connect.as_mut().poll(cx) {
                Poll::Ready(Ok(socket)) => {
                    if let Some((active, _)) = &self.active {
                        active.observe(Outcome::Connected);
                    }
                    if let Some(data) = self.connection.data_mut() {
                        data.info.upstream_local = socket.local();
                    }
                    self.upstream = Upstream::Connected(Transport::Upstream(Box::new(socket)));
                    true
                }
                Poll::Ready(Err(e)) => {
                    if let (Some(cluster), Some((active, _))) = (&self.cluster, self.active.take()) {
                        active.observe(Outcome::Failed);
                        let _ = cluster.noted::<()>(active.host(), Err(io::Error::from(e.kind())));
                    }
                    if let Some(data) = self.connection.data_mut() {
                        data.info.upstream_failure = TlsFailure::of(&e);
                    }
                    let cluster = self.cluster.as_ref().map_or("", |cluster| &cluster.config.name);
                    tracing::debug!(target: "http", "cannot connect to an endpoint of {cluster}: {e}");
                    self.fail("UF");
                    true
                }
                Poll::Pending => false,
            },
            Upstream::Waiting | Upstream::Here(_) | Upstream::Connected(_) | Upstream::Failed => false,
        }
    }
}
