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
    /// A filter has changed the body: a length that was announced may be wrong.
    pub(crate) edited: bool,
    /// The length that the message came with.
    pub(crate) original_length: Option<u64>,
    /// Body bytes that the head, which is on its way, still promises.
    pub(crate) promised: Option<u64>,
}

/// The body and the length that its head announces do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LengthMismatch;

impl Output {
    pub(crate) fn push(&mut self, bytes: Bytes, end: bool) {
        self.queued_bytes += bytes.len();
        if !bytes.is_empty() {
            self.chunks.push(bytes);
        }
        self.ended |= end;
    }

    /// The next piece.
    ///
    /// # Errors
    /// When it would make the message longer or shorter than its head says.
    pub(crate) fn pop(&mut self) -> Result<Option<DataOut>, LengthMismatch> {
        if !self.headers_taken {
            return Ok(None);
        }
        let data = if self.chunks.is_empty() {
            // The end without data is a frame of its own, given once.
            if !std::mem::take(&mut self.ended) {
                return Ok(None);
            }
            DataOut { bytes: Bytes::new(), end: true }
        } else {
            let bytes = self.chunks.remove(0);
            self.queued_bytes -= bytes.len();
            let end = self.chunks.is_empty() && std::mem::take(&mut self.ended);
            DataOut { bytes, end }
        };
        if let Some(promised) = &mut self.promised {
            *promised = promised.checked_sub(data.bytes.len() as u64).ok_or(LengthMismatch)?;
            if data.end && *promised > 0 {
                return Err(LengthMismatch);
            }
        }
        Ok(Some(data))
    }

    /// No body may follow the head.
    pub(crate) fn discard_body(&mut self) {
        (self.queued_bytes, self.ended, self.trailers) = (0, false, false);
        self.chunks.clear();
    }

    /// Whether the end of the body, with or without trailers, has been reached.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended || self.trailers
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
