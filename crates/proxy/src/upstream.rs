//! The upstream side: an HTTP/1.1 client codec, HTTP/2 streams, connections and their pools.
//!
//! The HTTP/1.1 codec is ours and not hyper's because hyper's client costs two thirds of a proxied request (DESIGN §10), and
//! because it needs headers by value while filters still want to read them. It is as strict as the front door:
//! whatever could be read in two ways is an error.

pub(crate) mod active;
mod admin_address;
pub(crate) mod balance;
pub(crate) mod chunked;
pub(crate) mod cluster;
mod connect;
pub(crate) mod connection;
pub(crate) mod counters;
pub(crate) mod encode;
pub(crate) mod hash_key;
pub(crate) mod head;
mod host;
pub(crate) mod host_state;
pub(crate) mod http2;
mod ledger;
mod proxy_header;
mod registry;
mod socket;
pub(crate) mod state;
mod tls;

pub(crate) use active::ActiveUpstream;
pub(crate) use cluster::{Acquired, WorkerCluster};
pub(crate) use connect::{Spoken, TlsFailure};
pub(crate) use connection::{Received, UpstreamConnection, UpstreamError};
pub(crate) use hash_key::source_key;
pub(crate) use host::{ActiveRequest, Host};
pub(crate) use http2::{Http2Stream, Place};
pub(crate) use ledger::{ActiveRetry, OpenConnection};
pub(crate) use proxy_header::header as proxy_header;
pub(crate) use registry::ClusterRegistry;
pub(crate) use socket::UpstreamSocket;
pub(crate) use state::Outcome;
