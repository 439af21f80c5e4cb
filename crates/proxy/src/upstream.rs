//! The upstream side: an HTTP/1.1 client codec, HTTP/2 streams, connections and their pools.
//!
//! The HTTP/1.1 codec is ours and not hyper's because hyper's client costs two thirds of a proxied request (DESIGN §10), and
//! because it needs headers by value while filters still want to read them. It is as strict as the front door:
//! whatever could be read in two ways is an error.

pub(crate) mod active;
pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod encode;
pub(crate) mod head;
pub(crate) mod http2;
pub(crate) mod pool;

pub(crate) use active::ActiveUpstream;
pub(crate) use connection::{Received, UpstreamConnection, UpstreamError};
pub(crate) use http2::{Http2Pool, Http2Settings, Http2Stream, Place};
pub(crate) use pool::Pool;
