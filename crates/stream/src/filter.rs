//! One step of a chain.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::data::StreamData;
use crate::direction::Direction;
use crate::reply::LocalReply;

/// What to do with headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersAction {
    /// Pass them on.
    Continue,
    /// Hold them; body and trailers callbacks keep coming.
    StopIteration,
    /// Hold everything; a body over the limit is an error.
    StopAllAndBuffer,
    /// Hold everything; a body over the limit is back-pressure.
    StopAllAndWatermark,
}

/// What to do with a piece of body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAction {
    /// Pass it on.
    Continue,
    /// Hold it; the next callback sees all that is held.
    StopAndBuffer,
    /// Hold it under back-pressure; the next callback sees only what is new.
    StopAndWatermark,
    /// Drop it.
    StopNoBuffer,
}

/// What to do with trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailersAction {
    /// Pass them on.
    Continue,
    /// Hold them and what was held before them.
    StopIteration,
}

/// What else a filter asks for, carried out in order after its action has been applied.
#[derive(Debug)]
pub enum Then {
    /// Go on with a paused direction; no effect on one that is not paused.
    Continue(Direction),
    /// Answer here. The first reply of a stream wins.
    LocalReply(Box<LocalReply>),
    /// Reset the stream.
    Reset {
        /// Response code details.
        details: &'static str,
    },
    /// Send these bytes to the client after the response head, before what is held; with `true` they are the last ones.
    Inject(Box<(Bytes, bool)>),
    /// What a filter holds of a TCP connection goes on.
    ContinueConnection(Direction),
    /// Send what has passed and close a TCP connection.
    CloseConnection,
    /// Never call this filter again and release all that it holds: its plug-in has failed and is optional.
    Bypass,
}

/// A filter's answer to an event.
#[derive(Debug)]
pub struct Verdict<A> {
    /// What to do with the event.
    pub action: A,
    /// What to do after that.
    pub then: SmallVec<[Then; 1]>,
}

impl<A> Verdict<A> {
    /// An action and nothing else.
    pub fn new(action: A) -> Self {
        Self { action, then: SmallVec::new() }
    }
}

/// Which events a filter looks at; the others pass it without a call and without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Request body.
    pub request_body: bool,
    /// Request trailers.
    pub request_trailers: bool,
    /// Response headers.
    pub response_headers: bool,
    /// Response body.
    pub response_body: bool,
    /// Response trailers.
    pub response_trailers: bool,
}

/// A step of the chain. Each call gets the stream's data and gives it back.
///
/// A filter sees request headers first; one that a chain never reached sees only [`Filter::end`].
pub trait Filter {
    /// Constant for the life of the filter.
    fn interest(&self) -> Interest;

    /// Request headers are complete.
    fn request_headers(
        &mut self,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>);

    /// Response headers are complete.
    fn response_headers(
        &mut self,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>);

    /// The current body view ([`StreamData::body`]) has changed.
    fn data(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<DataAction>);

    /// Trailers are complete.
    fn trailers(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
    ) -> (Box<StreamData>, Verdict<TrailersAction>);

    /// The stream is over. Called exactly once, whatever happened.
    fn end(&mut self, data: Box<StreamData>) -> Box<StreamData>;
}
