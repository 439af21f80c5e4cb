//! A downstream connection as hyper wants it: with bytes that were read to tell the protocol put before the rest.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};
use tokio::time::Sleep;

use crate::settings::Settings;
use crate::transport::Transport;

/// What every HTTP/2 connection begins with.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection speaks HTTP/2 with prior knowledge, and what was read to find out.
pub(crate) async fn detect(stream: &mut Transport) -> io::Result<(bool, Bytes)> {
    let mut read = BytesMut::with_capacity(8 << 10);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok((false, read.freeze()));
        }
        let seen = read.len().min(H2_PREFACE.len());
        if read.get(..seen) != H2_PREFACE.get(..seen) {
            return Ok((false, read.freeze()));
        }
        if read.len() >= H2_PREFACE.len() {
            return Ok((true, read.freeze()));
        }
    }
}

/// What a connection and its streams tell each other. hyper wants a connection that it may give away to be `Send`.
#[derive(Debug, Default)]
pub(crate) struct ConnectionNotes {
    /// Answer in HTTP/1.1 whatever the client spoke: RFC 9110 §2.5 wants the server's own version, hyper uses the
    /// client's.
    pub(crate) answer_as_http11: AtomicBool,
    /// The client has read nothing for so long that the connection was given up.
    pub(crate) is_stalled: AtomicBool,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct DownstreamIo {
    stream: Transport,
    prefix: Bytes,
    notes: Arc<ConnectionNotes>,
    delayed_close_max: Duration,
    /// Runs once our side has said that nothing follows.
    closing: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
    /// Runs while the client takes no byte of what it is to get.
    stall: Option<Pin<Box<Sleep>>>,
}

impl DownstreamIo {
    pub(crate) fn new(
        stream: Transport,
        prefix: Bytes,
        notes: Arc<ConnectionNotes>,
        settings: &Settings,
    ) -> Self {
        Self {
            stream,
            prefix,
            notes,
            delayed_close_max: settings.delayed_close_max,
            closing: None,
            stall_max: settings.stream_idle_max,
            stall: None,
        }
    }

    /// The same, or an error once the client has taken nothing for too long: neither hyper nor a stream looks at a
    /// response that waits for it.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        if self.stall_max.is_zero() {
            return Poll::Pending;
        }
        let limit = self.stall_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        self.notes.is_stalled.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has read nothing for too long")))
    }

    /// Throws away what still comes, until the client closes: a connection that is closed with bytes unread is reset,
    /// and the reset can overtake the answer to an upload that was denied.
    fn poll_last_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        /// Then others have their turn.
        const READS_MAX: usize = 16;
        let mut bytes = [0; 4096];
        for _ in 0..READS_MAX {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Read for DownstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let take = self.prefix.len().min(buf.remaining());
            buf.put_slice(self.prefix.get(..take).unwrap_or_default());
            self.prefix.advance(take);
            if self.prefix.is_empty() {
                // Its buffer is not kept for as long as the connection lasts.
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let mut io = hyper_util::rt::TokioIo::new(&mut self.stream);
        Pin::new(&mut io).poll_read(cx, buf)
    }
}

impl Write for DownstreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.notes.answer_as_http11.load(Ordering::Relaxed)
            && let Some(rest) = buf.strip_prefix(b"HTTP/1.0")
        {
            let patched = [b"HTTP/1.1", rest].concat();
            let written = Pin::new(&mut self.stream).poll_write(cx, &patched);
            if matches!(written, Poll::Ready(Ok(_))) {
                self.notes.answer_as_http11.store(false, Ordering::Relaxed);
            }
            return self.unless_stalled(cx, written);
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.unless_stalled(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stream.holds_back() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            // TLS has a last word, which takes a client that reads.
            ready!(self.unless_stalled(cx, shut))?;
            if self.delayed_close_max.is_zero() {
                return Poll::Ready(Ok(()));
            }
            let limit = self.delayed_close_max;
            self.closing = Some(Box::pin(tokio::time::sleep(limit)));
        }
        let over = self.closing.as_mut().is_none_or(|limit| limit.as_mut().poll(cx).is_ready());
        if over { Poll::Ready(Ok(())) } else { self.poll_last_bytes(cx).map(Ok) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.notes.answer_as_http11.load(Ordering::Relaxed) {
            let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.unless_stalled(cx, written)
    }
}
