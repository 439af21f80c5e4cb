//! Sections 12 and 13: what is agreed on end to end is nothing to the gateway.

use super::Case;
use super::large::fragments;
use crate::deflate::Deflate;
use crate::frame::{Frame, TEXT};

/// Messages of a connection: the later ones refer to the earlier ones, where that was agreed on.
const MESSAGES: usize = 10;

pub(super) fn cases(out: &mut Vec<Case>) {
    let offers = [
        ("12.1", "permessage-deflate", true),
        ("13.1", "permessage-deflate; server_no_context_takeover; client_no_context_takeover", false),
    ];
    for (id, offer, keeps) in offers {
        for (i, length) in
            [16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072].into_iter().enumerate()
        {
            for size in [None, Some(256), Some(32 << 10)] {
                if size.is_some_and(|size| size >= length) {
                    continue;
                }
                let text: String = json(length);
                let (mut ours, mut theirs) = (Deflate::new(keeps), Deflate::new(keeps));
                let mut frames = Vec::new();
                for _ in 0..MESSAGES {
                    let frame = Frame::new(TEXT, ours.deflate(text.as_bytes())).reserved(4);
                    frames.extend(size.map_or_else(|| vec![frame.clone()], |size| fragments(&frame, size)));
                }
                let answer = |_| Frame::new(TEXT, theirs.deflate(text.as_bytes())).reserved(4);
                let wanted: Vec<Frame> = (0..MESSAGES).map(answer).collect();
                let in_fragments = size.map_or_else(String::new, |size| format!(" in {size}"));
                let case = Case::good(format!("{id}.{}{in_fragments}", i + 1), &frames, &wanted);
                out.push(Case { extensions: Some(offer), ..case });
            }
        }
    }
}

/// Something that can be compressed, not too well.
fn json(length: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(7692);
    let mut out = String::new();
    while out.len() < length {
        out.push_str(&format!("{{\"id\": {}, \"name\": \"user-{:x}\"}},", rng.u16(..), rng.u64(..)));
    }
    out.truncate(length);
    out
}
