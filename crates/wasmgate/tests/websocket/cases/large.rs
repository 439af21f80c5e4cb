//! Sections 9 and 10: large messages, whole and in fragments, and many small ones.

use super::{Case, star};
use crate::frame::{BINARY, CONTINUATION, Frame, TEXT};

const MIB: usize = 1 << 20;

pub(super) fn cases(out: &mut Vec<Case>) {
    for (i, length) in [64 << 10, 256 << 10, MIB, 4 * MIB, 8 * MIB, 16 * MIB].into_iter().enumerate() {
        let i = i + 1;
        both(out, |kind| format!("9.{kind}.{i}"), length, |frame| vec![frame]);
    }
    let sizes = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, MIB, 2 * MIB];
    for (i, size) in sizes.into_iter().enumerate() {
        // Autobahn sends 4 MiB in each of them.
        both(out, |kind| format!("9.{}.{}", kind + 2, i + 1), 2 * MIB, |frame| fragments(&frame, size));
    }
    for (i, size) in [64, 128, 256, 512, 1024, 2048].into_iter().enumerate() {
        let from = out.len();
        both(out, |kind| format!("9.{}.{}", kind + 4, i + 1), 256 << 10, |frame| vec![frame]);
        out[from..].iter_mut().for_each(|case| case.chop = Some(size));
    }
    for (i, length) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
        let text = vec![Frame::text(&star(length)); 250];
        out.push(Case::good(format!("9.7.{}", i + 1), &text, &text));
        let binary = vec![Frame::new(BINARY, vec![0xfe; length]); 250];
        out.push(Case::good(format!("9.8.{}", i + 1), &binary, &binary));
    }
    let text = Frame::text(&star(64 << 10));
    out.push(Case::good("10.1.1", &fragments(&text, 1300), &[text]));
}

/// A text and a binary message.
fn both(out: &mut Vec<Case>, id: impl Fn(u8) -> String, length: usize, split: impl Fn(Frame) -> Vec<Frame>) {
    let mut rng = fastrand::Rng::with_seed(length as u64);
    let block: Vec<u8> = (0..4099).map(|_| rng.u8(b' '..b'~')).collect();
    let payload: Vec<u8> = block.iter().copied().cycle().take(length).collect();
    for kind in [TEXT, BINARY] {
        let frame = Frame::new(kind, payload.clone());
        out.push(Case::good(id(kind), &split(frame.clone()), &[frame]));
    }
}

pub(super) fn fragments(frame: &Frame, size: usize) -> Vec<Frame> {
    let count = frame.payload.len().div_ceil(size).max(1);
    let part = |i: usize| {
        let end = frame.payload.len().min((i + 1) * size);
        let opcode = if i == 0 { frame.opcode } else { CONTINUATION };
        let reserved = if i == 0 { frame.reserved } else { 0 };
        Frame { is_last: i + 1 == count, reserved, opcode, payload: frame.payload[i * size..end].to_vec() }
    };
    (0..count).map(part).collect()
}
