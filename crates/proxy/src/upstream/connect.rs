//! How a connection to an endpoint is made.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wasmgate_config::{ProxyProtocol, TcpKeepalive};

use super::UpstreamSocket;
use super::proxy_header;
use super::tls::ClientTls;

/// What is to be opened.
pub(super) struct Opening {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Arc<ClientTls>>,
    pub(super) keepalive: Option<TcpKeepalive>,
    /// Until it stands, TLS included.
    pub(super) time_max: Duration,
    /// Tells the endpoint of this client, and of the address that it has connected to, or that it is on behalf of nobody.
    pub(super) proxy_header: Option<(ProxyProtocol, Option<(SocketAddr, SocketAddr)>)>,
    pub(super) protocol: Spoken,
}

/// What is spoken on a connection: TLS offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// Whatever the client speaks.
    Tcp,
}

/// Opens it.
pub(super) async fn open(opening: Opening) -> io::Result<UpstreamSocket> {
    let time_max = opening.time_max;
    match tokio::time::timeout(time_max, establish(opening)).await {
        Ok(opened) => opened,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn establish(opening: Opening) -> io::Result<UpstreamSocket> {
    if let Some(ClientTls::Unusable(reason)) = opening.tls.as_deref() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, TlsFailure(reason.to_string())));
    }
    let mut stream = TcpStream::connect(opening.address).await?;
    stream.set_nodelay(true)?;
    if let Some(keepalive) = opening.keepalive {
        let mut wanted = socket2::TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            wanted = wanted.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            wanted = wanted.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            wanted = wanted.with_retries(probes);
        }
        socket2::SockRef::from(&stream).set_tcp_keepalive(&wanted)?;
    }
    if let Some((version, client)) = opening.proxy_header {
        stream.write_all(&proxy_header::header(version, client)).await?;
    }
    let Some(ClientTls::Ready(configs, name)) = opening.tls.as_deref() else {
        return Ok(UpstreamSocket::Tcp(stream));
    };
    let connector = TlsConnector::from(Arc::clone(configs.of(opening.protocol)));
    let stream = connector.connect(name.clone(), stream).await.map_err(|e| match e.get_ref() {
        Some(inner) if inner.is::<rustls::Error>() => io::Error::new(e.kind(), TlsFailure(inner.to_string())),
        _ => e,
    })?;
    Ok(UpstreamSocket::Tls(Box::new(stream)))
}

/// Why there is no TLS: for the log, not for clients.
#[derive(Debug, thiserror::Error)]
#[error("TLS_error:{0}")]
pub(crate) struct TlsFailure(String);

impl TlsFailure {
    /// What kept TLS from being established, if that is what an error tells.
    pub(crate) fn of(error: &io::Error) -> Option<Box<str>> {
        let failure = error.get_ref()?.downcast_ref::<Self>()?;
        Some(failure.to_string().into())
    }
}
