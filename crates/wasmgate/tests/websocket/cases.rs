//! The cases, by the sections of Autobahn's test suite: what a client sends and what it gets.

mod deflated;
mod large;
mod texts;

use crate::frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};

/// How the endpoint ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It answers the client's close with this frame.
    Closes(Frame),
    /// It fails the connection with this code, whatever the client has sent behind the reason for it.
    Fails(u16),
    /// It has nothing to say: the client has gone.
    Silent,
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) path: &'static str,
    /// What the client offers.
    pub(crate) extensions: Option<&'static str>,
    pub(crate) sent: Vec<u8>,
    /// It is sent in pieces of so many bytes.
    pub(crate) chop: Option<usize>,
    /// The client says that nothing follows as soon as all is sent.
    pub(crate) half_closes: bool,
    /// Frames before the last one. Of compressed ones the endpoint's record is compared only.
    pub(crate) wanted: Vec<Frame>,
    pub(crate) end: End,
}

impl Case {
    /// Frames that are right; a close is added.
    pub(crate) fn good(id: impl Into<String>, frames: &[Frame], wanted: &[Frame]) -> Self {
        let close = Frame::close(1000, b"");
        let all = [frames, std::slice::from_ref(&close)].concat();
        Self { end: End::Closes(close), ..Self::new(id, &all, wanted) }
    }

    /// Frames of which one makes the endpoint fail the connection.
    pub(crate) fn bad(id: impl Into<String>, frames: &[Frame], wanted: &[Frame], code: u16) -> Self {
        Self { end: End::Fails(code), ..Self::new(id, frames, wanted) }
    }

    fn new(id: impl Into<String>, frames: &[Frame], wanted: &[Frame]) -> Self {
        let mut sent = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            // A mask costs time, and shows nothing more on a large frame.
            let is_large = frame.payload.len() > 64 << 10;
            let mask =
                if is_large { [0; 4] } else { (0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)).to_be_bytes() };
            frame.write(Some(mask), &mut sent);
        }
        Self {
            id: id.into(),
            path: "/",
            extensions: None,
            sent,
            chop: None,
            half_closes: false,
            wanted: wanted.to_vec(),
            end: End::Silent,
        }
    }

    pub(crate) fn chopped(mut self, bytes: usize) -> Self {
        self.chop = Some(bytes);
        self
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut out = Vec::new();
    framing(&mut out);
    pings(&mut out);
    reserved(&mut out);
    fragments(&mut out);
    texts::cases(&mut out);
    closes(&mut out);
    large::cases(&mut out);
    deflated::cases(&mut out);
    raw(&mut out);
    out
}

fn star(length: usize) -> String {
    "*".repeat(length)
}

/// Section 1.
fn framing(out: &mut Vec<Case>) {
    for (i, length) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        let both = [Frame::text(&star(length)), Frame::new(BINARY, vec![0xfe; length])];
        for (kind, frame) in both.into_iter().enumerate() {
            let (kind, i) = (kind + 1, i + 1);
            let case = Case::good(
                format!("1.{kind}.{i}"),
                std::slice::from_ref(&frame),
                std::slice::from_ref(&frame),
            );
            if length <= 128 {
                out.push(Case { id: format!("1.{kind}.{i} bytes"), ..case.clone() }.chopped(1));
            } else {
                out.push(Case { id: format!("1.{kind}.{i} chops"), ..case.clone() }.chopped(997));
            }
            out.push(case);
        }
    }
}

/// Section 2.
fn pings(out: &mut Vec<Case>) {
    let binary = [0, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0, 0xff];
    let ping = |payload: &[u8]| Frame::new(PING, payload);
    let pong = |payload: &[u8]| Frame::new(PONG, payload);
    for (id, payload) in
        [("2.1", &b""[..]), ("2.2", b"Hello, world!"), ("2.3", &binary), ("2.4", &[0xfe; 125])]
    {
        out.push(Case::good(id, &[ping(payload)], &[pong(payload)]));
    }
    out.push(Case::bad("2.5", &[ping(&[0xfe; 126])], &[], 1002));
    out.push(Case::good("2.6", &[ping(&[0xfe; 125])], &[pong(&[0xfe; 125])]).chopped(1));
    out.push(Case::good("2.7", &[pong(b"")], &[]));
    out.push(Case::good("2.8", &[pong(b"unsolicited pong payload")], &[]));
    out.push(Case::good("2.9", &[pong(b"unsolicited"), ping(b"ping payload")], &[pong(b"ping payload")]));
    let ten = |kind: u8| (0..10).map(|i| Frame::new(kind, format!("payload-{i}"))).collect::<Vec<_>>();
    out.push(Case::good("2.10", &ten(PING), &ten(PONG)));
    out.push(Case::good("2.11", &ten(PING), &ten(PONG)).chopped(1));
}

/// Sections 3 and 4.
fn reserved(out: &mut Vec<Case>) {
    let hello = Frame::text("Hello, world!");
    let ping = Frame::new(PING, "");
    for bits in 1..=7 {
        let bad = match bits {
            5 => Frame::new(BINARY, vec![0, 0xff, 0xfe]),
            6 => ping.clone(),
            7 => Frame::close(1000, b""),
            _ => hello.clone(),
        };
        let bad = bad.reserved(bits);
        out.push(Case::bad(format!("3.{bits} alone"), std::slice::from_ref(&bad), &[], 1002));
        let frames = [hello.clone(), bad, ping.clone()];
        let case = Case::bad(format!("3.{bits}"), &frames, std::slice::from_ref(&hello), 1002);
        out.push(Case { id: format!("3.{bits} bytes"), ..case.clone() }.chopped(1));
        out.push(case);
    }
    for opcode in (3..=7).chain(11..=15) {
        let id = |what: &str| format!("4.{} opcode {opcode}{what}", if opcode < 8 { 1 } else { 2 });
        let bad = Frame::new(opcode, "reserved opcode payload");
        out.push(Case::bad(id(" empty"), &[Frame::new(opcode, "")], &[], 1002));
        out.push(Case::bad(id(""), std::slice::from_ref(&bad), &[], 1002));
        let frames = [hello.clone(), bad, ping.clone()];
        let case = Case::bad(id(" behind text"), &frames, std::slice::from_ref(&hello), 1002);
        out.push(Case { id: id(" bytes"), ..case.clone() }.chopped(1));
        out.push(case);
    }
    // What no client may send: frames without a mask.
    let mut bare = Case::bad("4.3 no mask", &[], &[], 1002);
    hello.write(None, &mut bare.sent);
    out.push(bare);
}

/// Section 5.
fn fragments(out: &mut Vec<Case>) {
    let begin = |text: &str| Frame::text(text).more();
    let middle = |text: &str| Frame::new(CONTINUATION, text).more();
    let last = |text: &str| Frame::new(CONTINUATION, text);
    let (ping, pong) = (|text: &str| Frame::new(PING, text), |text: &str| Frame::new(PONG, text));
    let text = Frame::text;
    let both = "fragment1fragment2";
    for (id, frames, wanted, code) in [
        ("5.1", vec![ping("fragment1").more(), last("fragment2")], vec![], 1002),
        ("5.2", vec![pong("fragment1").more(), last("fragment2")], vec![], 1002),
        ("5.3", vec![begin("fragment1"), last("fragment2")], vec![text(both)], 0),
        ("5.6", vec![begin("fragment1"), ping("p"), last("fragment2")], vec![pong("p"), text(both)], 0),
        ("5.9", vec![last("nothing"), text("Hello")], vec![], 1002),
        ("5.12", vec![middle("nothing"), text("Hello")], vec![], 1002),
        ("5.15", vec![begin("fragment1"), last("fragment2"), middle("3"), text("4")], vec![text(both)], 1002),
        ("5.16", vec![middle("1"), begin("2"), last("3"), middle("4")], vec![], 1002),
        ("5.17", vec![last("1"), begin("2"), last("3"), last("4")], vec![], 1002),
        ("5.18", vec![begin("fragment1"), text("fragment2")], vec![], 1002),
        (
            "5.19",
            vec![begin("1"), middle("2"), ping("a"), middle("3"), middle("4"), ping("b"), last("5")],
            vec![pong("a"), pong("b"), text("12345")],
            0,
        ),
        ("5.21", vec![begin(""), middle(""), last("")], vec![text("")], 0),
        ("5.22", vec![begin("1"), last("2"), begin("3"), last("4")], vec![text("12"), text("34")], 0),
    ] {
        let case = match code {
            0 => Case::good(id, &frames, &wanted),
            code => Case::bad(id, &frames, &wanted, code),
        };
        out.push(Case { id: format!("{id} bytes"), ..case.clone() }.chopped(1));
        out.push(Case { id: format!("{id} chops"), ..case.clone() }.chopped(7));
        out.push(case);
    }
}

/// Section 7.
fn closes(out: &mut Vec<Case>) {
    let hello = Frame::text("Hello World!");
    let close = Frame::close(1000, b"");
    let closed = |id: String, frames: &[Frame], wanted: &[Frame], answer: Frame| Case {
        end: End::Closes(answer),
        ..Case::bad(id, frames, wanted, 0)
    };
    let large = Frame::text(&star(256 << 10));
    let begun = [hello.clone().more(), close.clone(), Frame::new(CONTINUATION, "fragment2")];
    for (id, frames, wanted) in [
        ("7.1.1", vec![hello.clone(), close.clone()], vec![hello.clone()]),
        ("7.1.2", vec![close.clone(), close.clone()], vec![]),
        ("7.1.3", vec![close.clone(), Frame::new(PING, "")], vec![]),
        ("7.1.4", vec![close.clone(), hello.clone()], vec![]),
        ("7.1.5", begun.to_vec(), vec![]),
        ("7.1.6", vec![large.clone(), close.clone(), Frame::new(PING, "")], vec![large]),
    ] {
        out.push(closed(id.to_owned(), &frames, &wanted, close.clone()));
    }
    out.push(closed("7.3.1".to_owned(), &[Frame::new(CLOSE, "")], &[], Frame::new(CLOSE, "")));
    out.push(Case::bad("7.3.2", &[Frame::new(CLOSE, "a")], &[], 1002));
    for (id, reason) in [("7.3.3", &b""[..]), ("7.3.4", b"Hello World!"), ("7.3.5", &[b'*'; 123])] {
        out.push(closed(id.to_owned(), &[Frame::close(1000, reason)], &[], close.clone()));
    }
    out.push(Case::bad("7.3.6", &[Frame::close(1000, &[b'*'; 124])], &[], 1002));
    out.push(Case::bad("7.5.1", &[Frame::close(1000, b"\xce\xba\xed\xa0\x80edited")], &[], 1007));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        out.push(closed(
            format!("7.7 code {code}"),
            &[Frame::close(code, b"")],
            &[],
            Frame::close(code, b""),
        ));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        out.push(Case::bad(format!("7.9 code {code}"), &[Frame::close(code, b"reason")], &[], 1002));
    }
    // A client that says with TCP, too, that nothing follows; and one that says it with TCP only.
    let mut half = Case::good("7.15 half close", std::slice::from_ref(&hello), std::slice::from_ref(&hello));
    half.half_closes = true;
    out.push(half);
    let mut gone = Case::bad("7.16 no close", std::slice::from_ref(&hello), std::slice::from_ref(&hello), 0);
    (gone.half_closes, gone.end) = (true, End::Silent);
    out.push(gone);
}

/// Bytes that are no frames, or come at once with the heads.
fn raw(out: &mut Vec<Case>) {
    let mut rng = fastrand::Rng::with_seed(6455);
    for i in 0..20 {
        let mut case = Case::bad(format!("raw {i}"), &[], &[], 0);
        let length = rng.usize(0..if i < 10 { 200 } else { 100_000 });
        case.sent = (0..length).map(|_| rng.u8(..)).collect();
        (case.path, case.half_closes, case.end) = ("/raw", true, End::Silent);
        out.push(case);
    }
    let http = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for (i, bytes) in http.into_iter().enumerate() {
        let mut case = Case::bad(format!("raw http {i}"), &[], &[], 0);
        case.sent = bytes.into();
        (case.path, case.half_closes, case.end) = ("/raw", true, End::Silent);
        out.push(case);
    }
    let greeted =
        Case::good("greets", &[Frame::new(TEXT, "a")], &[Frame::text("welcome"), Frame::new(TEXT, "a")]);
    out.push(Case { path: "/greets", ..greeted });
}
