//! What carries a downstream connection's bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::tls::ClientSocket;
use crate::upstream::UpstreamSocket;

/// A connection's bytes, whatever carries them.
#[derive(Debug)]
pub(crate) enum Transport {
    /// The client's socket.
    Tcp(TcpStream),
    /// What TLS, which ends here, carries.
    Tls(Box<TlsStream<ClientSocket>>),
    /// The client's socket, whose TLS somebody else will end.
    Passed(Box<ClientSocket>),
    /// What the listener's plug-ins of connections let through.
    Filtered(DuplexStream),
    /// A connection to an endpoint.
    Upstream(Box<UpstreamSocket>),
}

impl Transport {
    /// Whether what has been written may still be here: it must be flushed.
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Upstream(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Passed(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Upstream(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Filtered(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Passed(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Upstream(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Filtered(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
            Self::Passed(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
            Self::Upstream(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
            Self::Filtered(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Passed(stream) => stream.is_write_vectored(),
            Self::Upstream(stream) => stream.is_write_vectored(),
            Self::Filtered(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Passed(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Upstream(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Filtered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Passed(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Upstream(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Filtered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
