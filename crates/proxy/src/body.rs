//! The response body as hyper pulls it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::exchange::Exchange;

/// A response body.
#[derive(Debug)]
pub(crate) enum ProxyBody {
    /// There is none.
    Empty,
    /// All of it is here: the exchange is over already.
    Full(Option<Bytes>),
    /// It is still coming; polling it drives the exchange.
    Streaming(Box<Exchange>),
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Streaming(exchange) => exchange.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Streaming(exchange) => exchange.is_finished(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            // Not exact: a message without content-length stays one, chunked as it came.
            Self::Full(_) | Self::Streaming(_) => SizeHint::default(),
        }
    }
}
