//! Retained body bytes.

use bytes::{Bytes, BytesMut};

/// Body bytes that wait. One chunk is kept as it came; only a second one causes a copy.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Bytes);

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn append(&mut self, chunk: Bytes) {
        if self.0.is_empty() {
            self.0 = chunk;
        } else if !chunk.is_empty() {
            let held = std::mem::take(&mut self.0);
            // Grows in place while nobody else holds the bytes: appending n chunks copies each of them once or twice.
            let mut all = held.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            all.extend_from_slice(&chunk);
            self.0 = all.freeze();
        }
    }

    pub(crate) fn set(&mut self, bytes: Bytes) {
        self.0 = bytes;
    }

    pub(crate) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_in_order() {
        let mut buffer = Buffer::default();
        for chunk in ["a", "", "bc", "d"] {
            buffer.append(Bytes::copy_from_slice(chunk.as_bytes()));
        }
        assert_eq!(buffer.len(), 4);
        assert_eq!(buffer.take(), "abcd");
        assert_eq!(buffer.len(), 0);
    }
}
