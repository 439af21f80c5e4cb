//! What the fuzz targets need of the inside of this crate: thin wrappers, for nobody else, and changed whenever what they
//! wrap changes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use wasmgate_config::ProxyProtocol;
use wasmgate_stream::StreamData;

use crate::access_log::{self, Entry, LogFormat};
use crate::{proxy_protocol, request, upstream};

/// A target as the chain and the upstream see it. `None`: it has no form that everybody reads alike, and is refused.
#[must_use]
pub fn normalise(path_and_query: &str) -> Option<String> {
    let normal = request::normalise(path_and_query).ok()?;
    Some(normal.unwrap_or_else(|| path_and_query.to_owned()))
}

/// Takes a header of the PROXY protocol off the input: the client, if it says one.
///
/// # Errors
/// There is none, or it is wrong.
pub fn take_proxy_header(input: &mut &[u8]) -> io::Result<Option<SocketAddr>> {
    let read = pin!(proxy_protocol::read(input));
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => Err(io::Error::other("a slice is always ready")),
    }
}

/// The header that endpoints get.
#[must_use]
pub fn proxy_header(version: ProxyProtocol, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    upstream::proxy_header(version, Some((client, local)))
}

/// The line of a stream in the access log. Without a format: the one that is used by default.
#[must_use]
pub fn log_line(format: Option<&LogFormat>, data: &StreamData) -> Vec<u8> {
    let entry = Entry {
        data: Some(data),
        downstream_local: data.info.downstream_local,
        downstream_remote: data.info.downstream_remote,
        start: UNIX_EPOCH + Duration::from_nanos(1_795_332_568_862_345_678),
        duration_ms: 42,
        status: 200,
        flags: "UF,URX",
        details: "",
        bytes_sent: 0,
    };
    let mut out = Vec::new();
    match format {
        Some(format) => format.write(&mut out, &entry),
        None => access_log::format(&mut out, &entry),
    }
    out
}
