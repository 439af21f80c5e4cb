//! A client's socket, from which the beginning can be read twice.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What happens to the beginning of what a client sends.
#[derive(Debug)]
enum Beginning {
    /// It is kept, for whoever will have the connection in the end.
    Recorded(BytesMut),
    /// It is read once more.
    Replayed(Bytes),
}

/// The socket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    stream: TcpStream,
    beginning: Option<Beginning>,
}

impl ClientSocket {
    /// Keeps what is read.
    pub(crate) fn recording(stream: TcpStream) -> Self {
        Self { stream, beginning: Some(Beginning::Recorded(BytesMut::new())) }
    }

    /// Keeps nothing more: whoever has read it has it.
    pub(crate) fn stop_recording(&mut self) {
        self.beginning = None;
    }

    /// Begins from the beginning.
    pub(crate) fn replaying(self) -> Self {
        let beginning = match self.beginning {
            Some(Beginning::Recorded(bytes)) => Some(Beginning::Replayed(bytes.freeze())),
            other => other,
        };
        Self { beginning, ..self }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match &mut this.beginning {
            None => Pin::new(&mut this.stream).poll_read(cx, buffer),
            Some(Beginning::Replayed(bytes)) => {
                let take = bytes.len().min(buffer.remaining());
                buffer.put_slice(bytes.get(..take).unwrap_or_default());
                bytes.advance(take);
                if bytes.is_empty() {
                    this.beginning = None;
                }
                Poll::Ready(Ok(()))
            }
            Some(Beginning::Recorded(bytes)) => {
                let before = buffer.filled().len();
                let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
                // The hello of a client ends somewhere: rustls reads no more than 64 KiB of it.
                bytes.extend_from_slice(buffer.filled().get(before..).unwrap_or_default());
                polled
            }
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
