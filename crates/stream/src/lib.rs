//! The filter chain: one HTTP stream through N filters.
//!
//! [`Stream`] is a sans-I/O state machine. It is fed with what the two peers send (headers, data, trailers, resets),
//! drives the [`Filter`]s, and holds what may go on to the other side until somebody takes it. It does no I/O, reads
//! no clock and knows no Wasm. Not taking its output is back-pressure: [`Stream::wants_request`] and
//! [`Stream::wants_response`] say when to stop reading.
//!
//! [`Connection`] is the same for a TCP connection.
//!
//! Where to start reading: `machine` is spec: proxy-wasm-host §7.3 in code, `direction` the state that one filter
//! has in one direction.
#![warn(missing_docs)]

mod buffer;
mod connection;
mod data;
mod direction;
mod filter;
mod head;
mod machine;
mod outlet;
mod output;
mod parked;
mod reply;

pub use connection::{Connection, NetworkAction, NetworkFilter};
pub use data::{PeerCertificate, PropertyStore, StreamData, StreamInfo, TlsInfo};
pub use direction::Direction;
pub use filter::{DataAction, Filter, HeadersAction, Interest, Then, TrailersAction, Verdict};
pub use head::{EditError, RequestHead, ResponseHead, is_header_text};
pub use machine::{Stream, StreamLimits, StreamState};
pub use output::DataOut;
pub use parked::{Parked, Parking};
pub use reply::{LocalReply, grpc_status};
