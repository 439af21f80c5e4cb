//! What a plug-in asks of the process around it, beyond the stream at hand: call-outs, timers, queues
//! (spec: proxy-wasm-host §4.6, §9). A hostcall only notes an effect; the embedder takes it after the callback has
//! returned, carries it out and reports back through the VM.

use std::time::Duration;

use bytes::Bytes;

/// Header or trailer pairs in order, names in lower case.
pub type HeaderPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A call-out of one VM. Never used twice by a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallToken(pub(crate) u32);

/// A shared queue of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueToken(pub(crate) u32);

/// An HTTP request that a plug-in sends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpCall {
    /// Names the answer.
    pub token: CallToken,
    /// The cluster's name as the plug-in gave it; [`crate::Services::upstream`] knows it.
    pub cluster: String,
    /// Pseudo headers included: `:method`, `:path` and `:authority` are there.
    pub headers: HeaderPairs,
    /// May be empty.
    pub body: Bytes,
    /// May be empty.
    pub trailers: HeaderPairs,
    /// How long the plug-in waits; never more than [`crate::Limits::call_time_max`].
    pub timeout: Duration,
}

/// The answer to an [`HttpCall`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCallResponse {
    /// `:status` included.
    pub headers: HeaderPairs,
    /// The whole body.
    pub body: Bytes,
    /// May be empty.
    pub trailers: HeaderPairs,
}

/// A gRPC method of a service that a cluster provides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcTarget {
    /// The cluster's name.
    pub cluster: String,
    /// `:authority`; the cluster's name if the plug-in gave none.
    pub authority: String,
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// Sent as headers, after the service's own.
    pub metadata: HeaderPairs,
}

/// A unary gRPC call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcCall {
    /// Names the answer.
    pub token: CallToken,
    /// What is called.
    pub target: GrpcTarget,
    /// The request message, without frame header.
    pub message: Bytes,
    /// How long the plug-in waits; never more than [`crate::Limits::call_time_max`].
    pub timeout: Duration,
    /// Whether the plug-in named a timeout, which is then told to the server.
    pub has_timeout: bool,
}

/// How a gRPC call or stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcStatus {
    /// 0 is success.
    pub code: u32,
    /// May be empty.
    pub message: Vec<u8>,
}

/// A Redis server's credentials and patience (Higress).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// The cluster's name.
    pub cluster: String,
    /// Empty: none.
    pub user: String,
    /// Empty: none.
    pub password: String,
    /// Database number.
    pub database: u32,
    /// For one command.
    pub timeout: Duration,
}

/// Something that the embedder does for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answered by [`crate::Vm::on_http_call_response`].
    HttpCall(Box<HttpCall>),
    /// Answered by [`crate::Vm::on_grpc_receive`] or [`crate::Vm::on_grpc_close`].
    GrpcCall(Box<GrpcCall>),
    /// Answered by any number of gRPC callbacks, the last of which is [`crate::Vm::on_grpc_close`].
    GrpcStream(CallToken, Box<GrpcTarget>),
    /// A message for an open stream; with `true` the last one.
    GrpcSend(CallToken, Bytes, bool),
    /// No more messages on an open stream.
    GrpcHalfClose(CallToken),
    /// Gives a call or stream up. There is no callback any more.
    GrpcCancel(CallToken),
    /// Answered by [`crate::Vm::on_resolve_dns`].
    ResolveDns(CallToken, String),
    /// Replaces what is known of a Redis cluster on this worker.
    RedisInit(Box<RedisOptions>),
    /// A complete RESP request for a cluster, answered by [`crate::Vm::on_redis_call_response`].
    RedisCall(CallToken, String, Bytes),
    /// Call [`crate::Vm::on_tick`] in this rhythm from now on, or no more.
    Tick(Option<Duration>),
    /// The root context that asked for time in [`crate::Vm::begin_stop`] needs no more.
    Done,
    /// Make a new VM take this one's place for new streams (Higress' `wasm_need_rebuild`).
    Rebuild,
}

/// What a cluster can do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamState {
    /// Calls can be made.
    Available,
    /// It is known and has no endpoint that could answer.
    NoHealthyHost,
    /// There is no cluster of this name, or the plug-in may not call it.
    Unknown,
}
