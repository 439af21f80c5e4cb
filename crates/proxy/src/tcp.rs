//! TCP connections: from accept to the last byte, through the plug-ins of `type: NETWORK`.

mod proxied;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use wasmgate_config::TcpTarget;
use wasmgate_stream::{StreamInfo, TlsInfo};

use self::proxied::{Proxied, Upstream, count};
use crate::phase::{PhaseReceiver, drained};
use crate::transport::Transport;
use crate::worker::WorkerContext;
use crate::worker_generation::WorkerGeneration;

/// Serves a connection of a TCP listener until both sides are closed.
pub(crate) async fn serve(
    worker: &Rc<WorkerContext>,
    generation: &Rc<WorkerGeneration>,
    (listener, target): (usize, &Arc<TcpTarget>),
    (client, tls): (Transport, Option<Arc<TlsInfo>>),
    addresses: (SocketAddr, SocketAddr),
    mut drain: PhaseReceiver,
) {
    let cluster = target.cluster(fastrand::u64(..)).and_then(|c| generation.cluster(c));
    let info = StreamInfo {
        route_name: Arc::clone(&target.route_name),
        cluster_name: cluster.as_ref().map_or_else(|| worker.no_name(), |c| Arc::clone(&c.config.name)),
        upstream_endpoints: count(cluster.as_deref()),
        ..info(worker, addresses, tls)
    };
    let mut proxied = Proxied::new((worker, generation), listener, client, info, addresses).await;
    proxied.cluster = cluster;
    // Nothing tells where a connection could be cut: it may go on for as long as a drain takes.
    let drain_time_max = worker.settings.drain_time_max;
    let cut_off = async {
        drained(&mut drain).await;
        tokio::time::sleep(drain_time_max).await;
    };
    tokio::select! {
        () = poll_fn(|cx| proxied.poll(cx)) => {}
        () = cut_off => {}
    }
    proxied.finish();
    proxied.discard_last_bytes().await;
}

/// Passes what a client of an HTTP listener sends, and what it gets, through the plug-ins of connections.
pub(crate) async fn filter(
    worker: &Rc<WorkerContext>,
    generation: &Rc<WorkerGeneration>,
    listener: usize,
    (client, server, http_over): (Transport, DuplexStream, oneshot::Receiver<Infallible>),
    (addresses, tls): ((SocketAddr, SocketAddr), Option<Arc<TlsInfo>>),
) {
    let info = info(worker, addresses, tls);
    let mut proxied = Proxied::new((worker, generation), listener, client, info, addresses).await;
    proxied.upstream = Upstream::Here(server);
    proxied.http_over = Some(http_over);
    // Each of its requests has a line.
    proxied.is_logged = false;
    poll_fn(|cx| proxied.poll(cx)).await;
    proxied.finish();
    // HTTP, too, sees that the connection is over.
    proxied.upstream = Upstream::Failed;
    proxied.discard_last_bytes().await;
}

fn info(
    worker: &WorkerContext,
    addresses: (SocketAddr, SocketAddr),
    tls: Option<Arc<TlsInfo>>,
) -> StreamInfo {
    let id = worker.next_connection_id();
    StreamInfo { tls, ..StreamInfo::new(SystemTime::now(), id, addresses, &worker.no_name()) }
}
