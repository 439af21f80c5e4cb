//! What a callback asks of the proxy, carried out after it has returned (spec: proxy-wasm-host §6.8).

use bytes::Bytes;
use smallvec::SmallVec;

/// One of the two directions of an HTTP stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Downstream to upstream.
    Request,
    /// Upstream to downstream.
    Response,
}

/// An answer that a plug-in gives itself instead of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status, 200 to 599; anything else that a guest asks for becomes 500.
    pub status: u16,
    /// Becomes the response code details; white space is replaced by `_`. May be empty.
    pub details: String,
    /// Header pairs in the guest's order. Pseudo headers and framing headers are already left out.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body; may be empty.
    pub body: Bytes,
    /// A gRPC status from 0 to 16, for requests that are gRPC.
    pub grpc_status: Option<u32>,
}

/// A piece of the response body that a plug-in sends before what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The bytes; may be empty.
    pub data: Bytes,
    /// Nothing follows.
    pub end: bool,
}

/// Something that a plug-in asked for during a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAction {
    /// Go on with a direction that is paused; without effect on one that is not.
    Continue(Direction),
    /// Answer the request here. The first reply of a stream wins.
    LocalReply(Box<LocalReply>),
    /// Reset the stream.
    Close,
    /// Send bytes to the client that did not come from upstream (Higress). In a box: every callback moves the place
    /// where an action could be.
    Inject(Box<Injection>),
    /// Go on with a direction of a TCP connection that is paused.
    ContinueConnection(Direction),
    /// Flush and close a TCP connection; the direction names the side that the plug-in spoke of.
    CloseConnection(Direction),
}

/// The actions of one callback, in order.
pub type Actions = SmallVec<[StreamAction; 1]>;
