//! The upstream side: an HTTP/1.1 client codec, connections and their pool.
//!
//! The codec is ours and not hyper's because hyper's client costs two thirds of a proxied request (DESIGN §10), and
//! because it needs headers by value while filters still want to read them. It is as strict as the front door:
//! whatever could be read in two ways is an error.

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod encode;
pub(crate) mod head;
pub(crate) mod pool;

pub(crate) use connection::{Received, UpstreamConnection, UpstreamError};
pub(crate) use pool::Pool;
