//! Call-outs of plug-ins: requests that a VM makes of its own (spec: proxy-wasm-host §9).

mod grpc;
mod http;
mod redis;

use std::rc::{Rc, Weak};
use std::time::Duration;

use wasmgate_plugin::calls::{CallToken, Effect};
use wasmgate_plugin::{CallRunner, VmHandle};

use crate::upstream::{Host, OpenConnection, Spoken, UpstreamSocket, WorkerCluster};
use crate::worker::WorkerContext;

/// How long a name may take to resolve.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(10);
/// What a guest is told of a resolved address' life: the system's resolver does not say.
const RESOLVED_TTL_SECONDS: u32 = 30;

/// Makes call-outs on one worker.
pub(crate) struct Callouts {
    worker: Weak<WorkerContext>,
    grpc: grpc::Streams,
    redis: Rc<redis::Clients>,
}

impl Callouts {
    pub(crate) fn new(worker: Weak<WorkerContext>) -> Self {
        Self { worker, grpc: grpc::Streams::default(), redis: Rc::default() }
    }
}

/// An endpoint of a cluster that a call-out names.
struct Target {
    worker: Rc<WorkerContext>,
    cluster: Rc<WorkerCluster>,
    host: Rc<Host>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoTarget {
    /// The worker is ending.
    Ended,
    /// The cluster has vanished since the hostcall, or has no endpoint.
    NoHost,
}

impl Target {
    fn find(worker: &Weak<WorkerContext>, cluster: &str) -> Result<Self, NoTarget> {
        let worker = worker.upgrade().ok_or(NoTarget::Ended)?;
        let generation = worker.generation();
        let cluster = generation.cluster_named(cluster).ok_or(NoTarget::NoHost)?;
        let Some(host) = cluster.pick(None, &[]) else {
            cluster.count(|c| c.unhealthy.increment());
            return Err(NoTarget::NoHost);
        };
        Ok(Self { worker, cluster, host })
    }

    fn count(&self, count: impl FnOnce(&crate::ClusterCounters)) {
        self.cluster.count(count);
    }

    /// A connection of its own.
    async fn connect(&self, protocol: Spoken) -> std::io::Result<(UpstreamSocket, OpenConnection)> {
        let (socket, open) = self.cluster.open(&self.host, None, protocol);
        Ok((self.cluster.noted(&self.host, socket.await)?, open))
    }
}

impl CallRunner for Callouts {
    fn start(&self, effect: Effect, vm: VmHandle) {
        let worker = Weak::clone(&self.worker);
        match effect {
            Effect::HttpCall(call) => {
                let token = call.token;
                tokio::task::spawn_local(async move {
                    let response = http::call(&worker, *call).await;
                    vm.http_call_response(token, response);
                });
            }
            Effect::GrpcCall(call) => {
                tokio::task::spawn_local(self.grpc.call(worker, *call, vm));
            }
            Effect::GrpcStream(token, target) => self.grpc.open(worker, token, *target, vm),
            Effect::GrpcSend(token, message, last) => self.grpc.send(&vm, token, message, last),
            Effect::GrpcHalfClose(token) => self.grpc.half_close(&vm, token),
            Effect::GrpcCancel(token) => self.grpc.cancel(&vm, token),
            Effect::ResolveDns(token, name) => {
                tokio::task::spawn_local(resolve(token, name, vm));
            }
            Effect::RedisInit(options) => {
                if let Some(plugin) = vm.plugin() {
                    self.redis.init(plugin, *options);
                }
            }
            Effect::RedisCall(token, cluster, query) => {
                let redis = Rc::clone(&self.redis);
                // Without a VM there is nobody to answer.
                let Some(plugin) = vm.plugin() else { return };
                tokio::task::spawn_local(async move {
                    let reply = redis.call(&worker, plugin, &cluster, query).await;
                    vm.redis_call_response(token, reply);
                });
            }
            // The VM's cell sees to these by itself.
            Effect::Tick(_) | Effect::Done | Effect::Rebuild => {}
        }
    }
}

/// Asks the system's resolver, away from this thread.
async fn resolve(token: CallToken, name: String, vm: VmHandle) {
    let found = tokio::time::timeout(RESOLVE_TIME_MAX, tokio::net::lookup_host((name.as_str(), 0))).await;
    let mut addresses: Vec<_> = match found {
        Ok(Ok(found)) => found.map(|a| (a.ip(), RESOLVED_TTL_SECONDS)).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    addresses.dedup();
    vm.resolve_dns(token, &addresses);
}
