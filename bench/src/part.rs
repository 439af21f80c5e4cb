//! The parts of the benchmark beside its rows, each of which can be left out or run alone.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A part. Its name is what `--only` and `--skip` are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Times to the first answer and of a swap of the plug-in.
    Startup,
    /// Calls between host and guest, in process.
    Calls,
    /// 1 GiB through a plug-in that reads each piece.
    Streaming,
    /// TLS 1.3 handshakes, and 256 MiB over TLS, per CPU second.
    Tls,
    /// 1 GiB down and up without a plug-in: bytes per CPU second, and memory.
    Bodies,
    /// Memory of 10,000 idle keep-alive connections.
    Idle,
    /// 10,000 routes against ten, and how long a change of one of them takes.
    Routes,
    /// Two workers against one, and their memory with the Go plug-in.
    Workers,
    /// Messages of one gRPC stream, HTTP/2 on both sides.
    Grpc,
    /// Small WebSocket messages.
    Websocket,
    /// p99 of an open loop at 70 % of what the slowest proxy can do.
    Latency,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}
