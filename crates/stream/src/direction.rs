//! What one filter holds in one direction.

use crate::buffer::Buffer;

/// One of the two directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Downstream to upstream.
    Request,
    /// Upstream to downstream.
    Response,
}

/// How a filter's direction takes events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything is passed on as the filter says.
    #[default]
    Flowing,
    /// Nothing is passed on, and the filter is not called until somebody continues. `buffer`: a body over the limit
    /// is an error; otherwise it is back-pressure.
    StopAll { buffer: bool },
    /// Something is held, the filter goes on seeing events, and its next Continue releases all of it.
    StopSingle,
}

/// The state of one filter in one direction (spec: proxy-wasm-host §7.3).
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) mode: Mode,
    pub(crate) headers_held: bool,
    /// The headers that are held end the stream.
    pub(crate) headers_end: bool,
    pub(crate) buffer: Buffer,
    /// The last body callback asked to buffer: the next one sees everything.
    pub(crate) accumulating: bool,
    /// The last data frame has arrived and is held here.
    pub(crate) end_held: bool,
    pub(crate) trailers_held: bool,
}

impl Lane {
    /// Whether something waits here for somebody to continue.
    pub(crate) fn is_held(&self) -> bool {
        self.mode != Mode::Flowing
    }

    /// Whether the sender should wait because this filter holds back-pressured data.
    pub(crate) fn is_over(&self, limit: usize) -> bool {
        self.mode != Mode::Flowing && self.buffer.len() >= limit
    }
}
