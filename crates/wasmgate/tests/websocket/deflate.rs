//! permessage-deflate (RFC 7692 §7.2), on either side.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What every compressed message ends with, and is sent without.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Both directions of a connection, with the dictionary that goes on from message to message unless it was agreed otherwise.
pub(crate) struct Deflate {
    compress: Compress,
    decompress: Decompress,
    keeps: bool,
}

impl Deflate {
    pub(crate) fn new(keeps: bool) -> Self {
        let compress = Compress::new(Compression::fast(), false);
        Self { compress, decompress: Decompress::new(false), keeps }
    }

    pub(crate) fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.keeps {
            self.compress.reset();
        }
        let mut out = Vec::with_capacity(message.len() + 1024);
        let begin = self.compress.total_in();
        loop {
            let done = (self.compress.total_in() - begin) as usize;
            self.compress.compress_vec(&message[done..], &mut out, FlushCompress::Sync).unwrap();
            let is_all = (self.compress.total_in() - begin) as usize == message.len();
            if is_all && out.len() < out.capacity() {
                break;
            }
            out.reserve(1024);
        }
        assert_eq!(out.split_off(out.len() - TAIL.len()), TAIL);
        out
    }

    /// `None`: it is no compressed message.
    pub(crate) fn inflate(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if !self.keeps {
            self.decompress.reset(false);
        }
        let message = [message, &TAIL].concat();
        let mut out = Vec::with_capacity(message.len() * 4);
        let begin = self.decompress.total_in();
        loop {
            let done = (self.decompress.total_in() - begin) as usize;
            self.decompress.decompress_vec(&message[done..], &mut out, FlushDecompress::Sync).ok()?;
            let is_all = (self.decompress.total_in() - begin) as usize == message.len();
            if is_all && out.len() < out.capacity() {
                return Some(out);
            }
            out.reserve(out.capacity().max(1024));
        }
    }
}
