//! What has passed the chain and waits to be taken.

use bytes::Bytes;
use smallvec::SmallVec;

/// A piece of body that may go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// May be empty when `end` is set.
    pub bytes: Bytes,
    /// Nothing follows, no trailers either.
    pub end: bool,
}

/// The far end of one direction.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Headers wait to be taken; the value tells whether they end the stream.
    pub(crate) headers: Option<bool>,
    pub(crate) headers_taken: bool,
    chunks: SmallVec<[Bytes; 2]>,
    pub(crate) queued_bytes: usize,
    /// The last chunk has been queued.
    pub(crate) ended: bool,
    /// Trailers wait to be taken.
    pub(crate) trailers: bool,
}

impl Output {
    pub(crate) fn push(&mut self, bytes: Bytes, end: bool) {
        self.queued_bytes += bytes.len();
        if !bytes.is_empty() {
            self.chunks.push(bytes);
        }
        self.ended |= end;
    }

    pub(crate) fn pop(&mut self) -> Option<DataOut> {
        if !self.headers_taken {
            return None;
        }
        if self.chunks.is_empty() {
            // The end without data is a frame of its own, given once.
            let end = std::mem::take(&mut self.ended);
            return end.then(|| DataOut { bytes: Bytes::new(), end: true });
        }
        let bytes = self.chunks.remove(0);
        self.queued_bytes -= bytes.len();
        let end = self.chunks.is_empty() && std::mem::take(&mut self.ended);
        Some(DataOut { bytes, end })
    }

    pub(crate) fn is_single(&self) -> bool {
        self.ended && self.chunks.len() == 1
    }

    pub(crate) fn has_data(&self) -> bool {
        !self.chunks.is_empty() || self.ended
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { headers_taken: self.headers_taken, ..Self::default() };
    }
}
