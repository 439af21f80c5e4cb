//! One connection to an endpoint.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::UPGRADE;
use http::{HeaderMap, Method};
use wasmgate_stream::RequestHead;

use super::chunked::{Chunk, ChunkError};
use super::encode::{self, BodyFraming, CHUNK_END, EncodeError, LAST_CHUNK};
use super::head::{self, Framing, Head, HeadError};
use super::{OpenConnection, UpstreamSocket};

/// Size of a read, bytes: grows while the endpoint fills it.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 128 << 10;
/// Parts of one vectored write.
const WRITE_SLICES: usize = 16;

/// What went wrong with a connection; it cannot be used again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the endpoint closed the connection")]
    Closed,
    #[error("{0}")]
    Head(#[from] HeadError),
    #[error("{0}")]
    Chunk(#[from] ChunkError),
    #[error("{0}")]
    Http2(hyper::Error),
    #[error("the request body is longer or shorter than its content-length")]
    RequestLength,
}

impl UpstreamError {
    /// Whether an endpoint that speaks HTTP/2 has said, or cannot but be, that it has not begun with the request.
    pub(crate) fn is_refused_unseen(&self) -> bool {
        let Self::Http2(error) = self else { return false };
        let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
        let is_refused = source.is_some_and(|e| {
            e.reason() == Some(h2::Reason::REFUSED_STREAM) || (e.is_go_away() && e.is_remote())
        });
        error.is_canceled() || is_refused
    }
}

/// A piece of a response.
#[derive(Debug)]
pub(crate) enum Received {
    /// Body bytes; with `true` the last ones.
    Data(Bytes, bool),
    /// The body is over.
    End,
    /// The body is over, and these follow it.
    Trailers(HeaderMap),
}

/// A connection and the exchange on it.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    socket: UpstreamSocket,
    _open: OpenConnection,
    pub(crate) opened: Instant,
    /// Exchanges that were begun on it.
    pub(crate) requests: u32,
    pub(crate) address: SocketAddr,
    pub(crate) local: Option<SocketAddr>,
    /// Has served a request before: it may have been closed while it was idle.
    pub(crate) reused: bool,
    pub(crate) idle_since: Instant,
    input: BytesMut,
    read_bytes: usize,
    output: VecDeque<Bytes>,
    request: BodyFraming,
    request_done: bool,
    /// The end of the request is the end of what this side sends.
    is_raw: bool,
    response: Framing,
    keep_alive: bool,
    head_done: bool,
    response_done: bool,
    /// Any byte of the response has arrived.
    pub(crate) answered: bool,
}

impl UpstreamConnection {
    pub(crate) fn new(
        socket: UpstreamSocket,
        address: SocketAddr,
        now: Instant,
        open: OpenConnection,
    ) -> Self {
        let local = socket.local();
        Self {
            socket,
            _open: open,
            opened: now,
            requests: 0,
            address,
            local,
            reused: false,
            idle_since: now,
            input: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            output: VecDeque::new(),
            request: BodyFraming::Empty,
            request_done: false,
            is_raw: false,
            response: Framing::Empty,
            keep_alive: false,
            head_done: false,
            response_done: false,
            answered: false,
        }
    }

    /// Whether an idle connection still stands.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.socket.is_alive()
    }

    /// Begins an exchange for a client's request.
    pub(crate) fn start(
        &mut self,
        request: &RequestHead,
        end: bool,
        attempt: u32,
    ) -> Result<(), EncodeError> {
        self.begin(request, end, Some(attempt), false)
    }

    /// Begins an exchange that asks for another protocol.
    pub(crate) fn start_switch(&mut self, request: &RequestHead, attempt: u32) -> Result<(), EncodeError> {
        self.begin(request, false, Some(attempt), true)
    }

    /// Begins an exchange for a call-out, to whose headers nothing is added.
    pub(crate) fn start_call(&mut self, request: &RequestHead, end: bool) -> Result<(), EncodeError> {
        self.begin(request, end, None, false)
    }

    fn begin(
        &mut self,
        request: &RequestHead,
        end: bool,
        attempt: Option<u32>,
        switches: bool,
    ) -> Result<(), EncodeError> {
        // A filter that takes the wish away leaves a request without a body.
        let (asked, switches) = (switches, switches && request.headers.contains_key(UPGRADE));
        let end = end || (asked && !switches);
        let mut out = BytesMut::with_capacity(1024);
        self.request = encode::head(&mut out, request, end, attempt, switches)?;
        self.requests = self.requests.saturating_add(1);
        self.output.clear();
        self.output.push_back(out.freeze());
        self.request_done = end;
        self.is_raw = self.request == BodyFraming::Raw;
        (self.head_done, self.response_done, self.answered) = (false, false, false);
        Ok(())
    }

    /// Queues a piece of the request body.
    pub(crate) fn queue(&mut self, bytes: Bytes, end: bool) -> Result<(), UpstreamError> {
        match &mut self.request {
            BodyFraming::Empty if bytes.is_empty() => {}
            BodyFraming::Empty => return Err(UpstreamError::RequestLength),
            BodyFraming::Length(left) => {
                // Bytes beyond the length would be the beginning of somebody else's request.
                *left = left.checked_sub(bytes.len() as u64).ok_or(UpstreamError::RequestLength)?;
                if end && *left > 0 {
                    return Err(UpstreamError::RequestLength);
                }
                if !bytes.is_empty() {
                    self.output.push_back(bytes);
                }
            }
            BodyFraming::Raw => {
                if !bytes.is_empty() {
                    self.output.push_back(bytes);
                }
            }
            BodyFraming::Chunked => {
                if !bytes.is_empty() {
                    self.output.push_back(encode::chunk_start(bytes.len()));
                    self.output.push_back(bytes);
                    self.output.push_back(CHUNK_END);
                }
                if end {
                    self.output.push_back(LAST_CHUNK);
                }
            }
        }
        self.request_done |= end;
        Ok(())
    }

    /// Pieces that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.output.len()
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            let slices = slices.get(..used).unwrap_or_default();
            let written = ready!(self.socket.poll_write_pieces(cx, slices))?;
            self.consume(written);
        }
        ready!(self.socket.poll_flush_held(cx))?;
        if self.request_done && self.is_raw {
            // Nothing else would tell the endpoint that nothing follows.
            ready!(self.socket.shutdown_write(cx))?;
            self.is_raw = false;
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, mut written: usize) {
        while let Some(front) = self.output.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.output.pop_front();
        }
    }

    /// Reads more input; `false` at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.input.reserve(self.read_bytes);
        let before = self.input.len();
        let read = ready!(self.socket.poll_fill(cx, &mut self.input))?;
        self.answered |= read > 0;
        if before == 0 && read >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(read > 0))
    }

    /// The response head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        bytes_max: usize,
    ) -> Poll<Result<Head, UpstreamError>> {
        loop {
            if !self.input.is_empty()
                && let Some(mut head) =
                    head::take(&mut self.input, method, bytes_max, self.request == BodyFraming::Raw)?
            {
                self.head_done = true;
                self.keep_alive = head.keep_alive;
                self.response = std::mem::replace(&mut head.framing, Framing::Empty);
                self.response_done = matches!(self.response, Framing::Empty);
                return Poll::Ready(Ok(head));
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(Err(UpstreamError::Closed));
            }
        }
    }

    pub(crate) fn is_head_done(&self) -> bool {
        self.head_done
    }

    /// Whether the response is complete.
    pub(crate) fn is_response_done(&self) -> bool {
        self.response_done
    }

    /// The next piece of the response body.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, UpstreamError>> {
        loop {
            match &mut self.response {
                Framing::Empty => {
                    self.response_done = true;
                    return Poll::Ready(Ok(Received::End));
                }
                Framing::Length(left) => {
                    if !self.input.is_empty() {
                        let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                        *left -= take as u64;
                        self.response_done = *left == 0;
                        return Poll::Ready(Ok(Received::Data(
                            self.input.split_to(take).freeze(),
                            self.response_done,
                        )));
                    }
                }
                Framing::Chunked(decoder) => match decoder.decode(&mut self.input)? {
                    Chunk::Data(bytes) => return Poll::Ready(Ok(Received::Data(bytes, false))),
                    Chunk::End => {
                        self.response_done = true;
                        return Poll::Ready(Ok(Received::End));
                    }
                    Chunk::Incomplete => {}
                },
                Framing::UntilClose => {
                    if !self.input.is_empty() {
                        return Poll::Ready(Ok(Received::Data(self.input.split().freeze(), false)));
                    }
                }
            }
            if !ready!(self.poll_fill(cx))? {
                if matches!(self.response, Framing::UntilClose) {
                    self.response_done = true;
                    return Poll::Ready(Ok(Received::End));
                }
                return Poll::Ready(Err(UpstreamError::Closed));
            }
        }
    }

    /// Whether another exchange can follow: both messages are complete and nothing else has come.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.request_done
            && self.response_done
            && self.output.is_empty()
            && self.input.is_empty()
    }
}
