//! The kinds of clients.

use std::fmt;
use std::time::Duration;

/// What a client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// GET over one HTTP/1.1 connection.
    KeepAlive,
    /// GET over an HTTP/1.1 connection of its own.
    Connection,
    /// Four GETs at the same time over one HTTP/2 connection.
    Http2,
    /// GET over a TLS connection of its own, with the tickets of those before.
    TlsResumed,
    /// GET over a TLS connection of its own, without a ticket.
    TlsFull,
    /// GET over one HTTP/2 connection over TLS.
    TlsHttp2,
    /// A request without permission, over HTTP/1.1 and HTTP/2: the plug-in's 403.
    Denied,
    /// An upload of up to 256 KiB, with a length or without.
    Upload,
    /// A body of 1 MiB.
    Download,
    /// A response that takes more than a second.
    Slow,
    /// A WebSocket that lives for seconds.
    WebSocket,
    /// A TCP connection that lives for seconds.
    Tcp,
    /// A client that leaves in the middle of a request or a response.
    Leaving,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::KeepAlive,
        Self::Connection,
        Self::Http2,
        Self::TlsResumed,
        Self::TlsFull,
        Self::TlsHttp2,
        Self::Denied,
        Self::Upload,
        Self::Download,
        Self::Slow,
        Self::WebSocket,
        Self::Tcp,
        Self::Leaving,
    ];

    /// How many clients of this kind there are.
    #[must_use]
    pub fn clients(self) -> usize {
        match self {
            Self::KeepAlive | Self::Denied | Self::Slow | Self::WebSocket | Self::Tcp => 4,
            Self::Connection | Self::Http2 | Self::Upload | Self::Leaving => 2,
            Self::TlsResumed | Self::TlsFull | Self::TlsHttp2 | Self::Download => 1,
        }
    }

    /// How long after the beginning of one exchange the next one begins, at least: a rate that two cores bear, which the
    /// gateway's build, the clients and the endpoints share.
    #[must_use]
    pub fn pace(self) -> Duration {
        Duration::from_millis(match self {
            Self::KeepAlive => 40,
            Self::Connection | Self::Http2 | Self::TlsHttp2 | Self::Denied => 100,
            Self::TlsResumed | Self::Upload | Self::Leaving => 200,
            Self::TlsFull | Self::Download => 500,
            Self::Slow | Self::WebSocket | Self::Tcp => 100,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeepAlive => "keep-alive",
            Self::Connection => "connection each",
            Self::Http2 => "HTTP/2",
            Self::TlsResumed => "TLS, resumed",
            Self::TlsFull => "TLS, full handshake",
            Self::TlsHttp2 => "HTTP/2 over TLS",
            Self::Denied => "denied",
            Self::Upload => "upload",
            Self::Download => "download of 1 MiB",
            Self::Slow => "slow response",
            Self::WebSocket => "WebSocket",
            Self::Tcp => "TCP",
            Self::Leaving => "leaving",
        })
    }
}
