//! Section 6: what is UTF-8 and what is not, as Markus Kuhn's test file has it.

use super::Case;
use crate::frame::{CONTINUATION, Frame, TEXT};

const VALID: &[&str] = &[
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0",
    "\u{80}",
    "\u{800}",
    "\u{10000}",
    "\u{7f}",
    "\u{7ff}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{1fffe}",
    "\u{1ffff}",
    "\u{8fffe}",
    "\u{feff}",
    "\u{ffef}",
    "Hello\u{fdd0}",
];

const INVALID: &[&[u8]] = &[
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
    // First sequences of lengths that do not exist, and last ones that are beyond.
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xfb\xbf\xbf\xbf\xbf",
    b"\xfd\xbf\xbf\xbf\xbf\xbf",
    b"\xf4\x90\x80\x80",
    // Continuations of nothing.
    b"\x80",
    b"\xbf",
    b"\x80\xbf",
    b"\x80\xbf\x80\xbf\x80\xbf\x80\xbf",
    // Beginnings that nothing continues.
    b"\xc0 \xc1 \xc2 \xc3 ",
    b"\xe0 \xe1 \xe2 \xe3 ",
    b"\xf0 \xf1 \xf2 \xf3 ",
    b"\xf8 \xf9 \xfa \xfb ",
    b"\xfc \xfd ",
    b"\xce\xba\xe1\xbd",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    // Longer than they need to be.
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xfc\x80\x80\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    // Surrogates, alone and in pairs.
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xae\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xed\xaf\xbf\xed\xbf\xbf",
];

pub(super) fn cases(out: &mut Vec<Case>) {
    for (i, text) in VALID.iter().enumerate() {
        let wanted = [Frame::text(text)];
        out.push(Case::good(format!("6.2 text {i}"), &wanted, &wanted));
        out.push(Case::good(format!("6.2 text {i} in bytes"), &bytes(text.as_bytes()), &wanted));
    }
    for (i, text) in INVALID.iter().enumerate() {
        out.push(Case::bad(format!("6.3 bytes {i}"), &[Frame::new(TEXT, *text)], &[], 1007));
        out.push(Case::bad(format!("6.3 bytes {i} one by one"), &bytes(text), &[], 1007));
        // 6.4: the endpoint need not wait for the rest.
        let begun = [Frame::new(TEXT, *text).more(), Frame::new(CONTINUATION, "rest")];
        out.push(Case::bad(format!("6.4 bytes {i} and more"), &begun, &[], 1007));
    }
}

/// A message of fragments of a byte each.
fn bytes(text: &[u8]) -> Vec<Frame> {
    let last = text.len().saturating_sub(1);
    let fragment = |(i, byte): (usize, &u8)| {
        let frame = Frame::new(if i == 0 { TEXT } else { CONTINUATION }, [*byte]);
        if i == last { frame } else { frame.more() }
    };
    text.iter().enumerate().map(fragment).collect()
}
