//! Frames (RFC 6455 §5.2), right or wrong: whoever writes one says what is in it.

use std::fmt;
use std::io::{self, Read};

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Larger than anything that is sent here.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) is_last: bool,
    /// The three reserved bits.
    pub(crate) reserved: u8,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { is_last: true, reserved: 0, opcode, payload: payload.into() }
    }

    pub(crate) fn text(payload: &str) -> Self {
        Self::new(TEXT, payload)
    }

    /// With a status code and a reason.
    pub(crate) fn close(code: u16, reason: &[u8]) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes(), reason].concat())
    }

    pub(crate) fn more(mut self) -> Self {
        self.is_last = false;
        self
    }

    pub(crate) fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    /// Writes the frame; clients mask, servers do not.
    pub(crate) fn write(&self, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_last) << 7 | self.reserved << 4 | self.opcode);
        let masked = if mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            length @ 0..=125 => out.push(masked | length as u8),
            length @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask.into_iter().flatten());
        let from = out.len();
        out.extend_from_slice(&self.payload);
        if let Some(mask) = mask {
            apply(mask, &mut out[from..]);
        }
    }

    /// The next frame and whether it is masked. `None`: nothing follows.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<(Self, bool)>> {
        let mut two = [0; 2];
        if input.read(&mut two[..1])? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut two[1..])?;
        let [first, second] = two;
        let length = match second & 0x7f {
            126 => {
                let mut length = [0; 2];
                input.read_exact(&mut length)?;
                u16::from_be_bytes(length).into()
            }
            127 => {
                let mut length = [0; 8];
                input.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            length => length.into(),
        };
        if length > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        let is_masked = second & 0x80 != 0;
        let mut mask = [0; 4];
        if is_masked {
            input.read_exact(&mut mask)?;
        }
        let mut payload = vec![0; length as usize];
        input.read_exact(&mut payload)?;
        apply(mask, &mut payload);
        let frame =
            Self { is_last: first & 0x80 != 0, reserved: first >> 4 & 7, opcode: first & 15, payload };
        Ok(Some((frame, is_masked)))
    }
}

fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    let word = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap());
    let mut words = bytes.chunks_exact_mut(8);
    for eight in &mut words {
        let masked = u64::from_ne_bytes(eight.try_into().unwrap()) ^ word;
        eight.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.is_last { "" } else { "…" };
        let begin = self.payload[..self.payload.len().min(40)].escape_ascii();
        write!(f, "{}/{}{more} {} bytes {begin}", self.opcode, self.reserved, self.payload.len())
    }
}
