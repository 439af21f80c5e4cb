//! The body of a request on its way from the chain to hyper.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

/// A request body on its way to hyper: what the chain has let through, until it is taken.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) frames: VecDeque<Frame<Bytes>>,
    pub(super) is_over: bool,
    /// Nobody wants the answer any more: the stream is to be reset.
    pub(super) is_given_up: bool,
    /// hyper, which waits for more.
    pub(super) taker: Option<Waker>,
    /// The exchange, which waits until there is room.
    pub(super) giver: Option<Waker>,
}

/// Makes hyper reset a stream: without it, it would go on waiting for the request's end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the exchange was given up")]
pub(super) struct GivenUp;

/// hyper's end of a [`Queue`].
#[derive(Debug)]
pub(super) struct RequestBody(pub(super) Rc<RefCell<Queue>>);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut queue = self.0.borrow_mut();
        if queue.is_given_up {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        match queue.frames.pop_front() {
            Some(frame) => {
                if let Some(giver) = queue.giver.take() {
                    giver.wake();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if queue.is_over => Poll::Ready(None),
            None => {
                queue.taker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.borrow();
        queue.is_over && queue.frames.is_empty()
    }
}
