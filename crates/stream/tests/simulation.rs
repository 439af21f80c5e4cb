//! A seeded simulator: random filters, random peers, random faults. Whatever they do, what comes out is a message, and
//! nothing is lost or doubled that nobody dropped. A failing seed is printed; `SEED=n cargo test` replays it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use smallvec::SmallVec;
use wasmgate_stream::{
    DataAction, Direction, Filter, HeadersAction, Interest, LocalReply, RequestHead, ResponseHead, Stream,
    StreamData, StreamInfo, StreamLimits, StreamState, Then, TrailersAction, Verdict,
};

const SEEDS: u64 = 512;

/// A filter that decides by dice. It never drops data unless it is told to be lossy.
struct Dice {
    random: fastrand::Rng,
    lossy: bool,
    ended: std::rc::Rc<std::cell::Cell<u32>>,
    interest: Interest,
}

impl Dice {
    fn then(&mut self) -> SmallVec<[Then; 1]> {
        let mut then = SmallVec::new();
        match self.random.u32(0..40) {
            0..=7 => then.push(Then::Continue(Direction::Request)),
            8..=15 => then.push(Then::Continue(Direction::Response)),
            16 if self.lossy => then.push(Then::Reset { details: "dice" }),
            17 if self.lossy => then.push(Then::LocalReply(Box::new(LocalReply::new(
                StatusCode::FORBIDDEN,
                "",
                "dice",
                "no",
            )))),
            18 => then.push(Then::Bypass),
            _ => {}
        }
        then
    }

    fn headers(&mut self) -> Verdict<HeadersAction> {
        let action = match self.random.u32(0..8) {
            0 => HeadersAction::StopIteration,
            1 => HeadersAction::StopAllAndBuffer,
            2 => HeadersAction::StopAllAndWatermark,
            _ => HeadersAction::Continue,
        };
        Verdict { action, then: self.then() }
    }
}

impl Filter for Dice {
    fn interest(&self) -> Interest {
        self.interest
    }

    fn request_headers(
        &mut self,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        let verdict = self.headers();
        (data, verdict)
    }

    fn response_headers(
        &mut self,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        let verdict = self.headers();
        (data, verdict)
    }

    fn data(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<DataAction>) {
        assert!(data.body(direction).is_some(), "a body callback has a body");
        let action = match self.random.u32(0..8) {
            0 => DataAction::StopAndBuffer,
            1 => DataAction::StopAndWatermark,
            2 if self.lossy => DataAction::StopNoBuffer,
            _ => DataAction::Continue,
        };
        let verdict = Verdict { action, then: self.then() };
        (data, verdict)
    }

    fn trailers(
        &mut self,
        _: Direction,
        data: Box<StreamData>,
    ) -> (Box<StreamData>, Verdict<TrailersAction>) {
        let action =
            if self.random.u32(0..4) == 0 { TrailersAction::StopIteration } else { TrailersAction::Continue };
        let verdict = Verdict { action, then: self.then() };
        (data, verdict)
    }

    fn end(&mut self, data: Box<StreamData>) -> Box<StreamData> {
        self.ended.set(self.ended.get() + 1);
        data
    }
}

/// One direction's message as it goes in: pieces, then an end or trailers.
struct Script {
    pieces: Vec<Bytes>,
    trailers: bool,
    sent_headers: bool,
    done: bool,
}

impl Script {
    fn new(random: &mut fastrand::Rng) -> Self {
        let count = random.usize(0..6);
        let pieces = (0..count)
            .map(|_| (0..random.usize(0..2000)).map(|_| random.u8(..)).collect::<Vec<u8>>().into())
            .collect();
        Self { pieces, trailers: random.u32(0..4) == 0, sent_headers: false, done: false }
    }

    fn is_bodiless(&self) -> bool {
        self.pieces.is_empty() && !self.trailers
    }

    fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

/// What has come out of a direction.
#[derive(Default, Debug)]
struct Got {
    headers: bool,
    bytes: Vec<u8>,
    end: bool,
    trailers: bool,
}

impl Got {
    fn is_complete(&self) -> bool {
        self.end || self.trailers
    }
}

fn stream(
    random: &mut fastrand::Rng,
    lossy: bool,
    ended: &std::rc::Rc<std::cell::Cell<u32>>,
) -> (Stream<Dice>, u32) {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let info = StreamInfo::new(SystemTime::UNIX_EPOCH, 1, (address, address), &"".into());
    let head = RequestHead::new(Method::POST, "/".parse().unwrap(), None, HeaderMap::new());
    let count = random.u32(0..4);
    let filters = (0..count).map(|_| Dice {
        random: random.fork(),
        lossy,
        ended: std::rc::Rc::clone(ended),
        interest: Interest {
            request_body: random.bool(),
            request_trailers: random.bool(),
            response_headers: random.bool(),
            response_body: random.bool(),
            response_trailers: random.bool(),
        },
    });
    let filters: Vec<Dice> = filters.collect();
    (Stream::new(Box::new(StreamData::new(head, info)), filters, StreamLimits::default()), count)
}

fn feed(stream: &mut Stream<Dice>, script: &mut Script, direction: Direction, random: &mut fastrand::Rng) {
    if script.done {
        return;
    }
    if !script.sent_headers {
        script.sent_headers = true;
        script.done = script.is_bodiless();
        return match direction {
            Direction::Request => stream.request_headers(script.done),
            Direction::Response => {
                stream.response_headers(ResponseHead::new(StatusCode::OK, HeaderMap::new()), script.done);
            }
        };
    }
    if script.pieces.is_empty() && script.trailers {
        script.done = true;
        return match direction {
            Direction::Request => stream.request_trailers(HeaderMap::new()),
            Direction::Response => stream.response_trailers(HeaderMap::new()),
        };
    }
    let piece = if script.pieces.is_empty() { Bytes::new() } else { script.pieces.remove(0) };
    // The end comes with the last piece or as a frame of its own.
    let end = script.pieces.is_empty() && !script.trailers && random.bool();
    let end = end || (piece.is_empty() && script.pieces.is_empty() && !script.trailers);
    script.done = end;
    match direction {
        Direction::Request => stream.request_data(piece, end),
        Direction::Response => stream.response_data(piece, end),
    }
}

fn take(stream: &mut Stream<Dice>, got: &mut Got, direction: Direction) {
    let headers = match direction {
        Direction::Request => stream.take_request_headers(),
        Direction::Response => stream.take_response_headers(),
    };
    if let Some(end) = headers {
        assert!(!got.headers, "headers come once");
        got.headers = true;
        got.end = end;
    }
    loop {
        let data = match direction {
            Direction::Request => stream.pop_request_data(),
            Direction::Response => stream.pop_response_data(),
        };
        let Some(data) = data else { break };
        assert!(got.headers && !got.is_complete(), "data comes after headers and before the end: {got:?}");
        got.bytes.extend_from_slice(&data.bytes);
        got.end = data.end;
    }
    let trailers = match direction {
        Direction::Request => stream.take_request_trailers(),
        Direction::Response => stream.take_response_trailers(),
    };
    if trailers.is_some() {
        assert!(got.headers && !got.is_complete(), "trailers come last: {got:?}");
        got.trailers = true;
    }
}

fn simulate(seed: u64, lossy: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let ended = std::rc::Rc::default();
    let (mut stream, filters) = stream(&mut random, lossy, &ended);
    let (mut request, mut response) = (Script::new(&mut random), Script::new(&mut random));
    let (request_bytes, response_bytes) = (request.bytes(), response.bytes());
    let (mut up, mut down) = (Got::default(), Got::default());
    for _ in 0..60 {
        match random.u32(0..10) {
            0..=3 => feed(&mut stream, &mut request, Direction::Request, &mut random),
            4..=7 if up.headers => feed(&mut stream, &mut response, Direction::Response, &mut random),
            8 => take(&mut stream, &mut up, Direction::Request),
            _ => take(&mut stream, &mut down, Direction::Response),
        }
        take(&mut stream, &mut up, Direction::Request);
    }
    take(&mut stream, &mut down, Direction::Response);
    if !lossy && stream.state() == StreamState::Open {
        assert!(request_bytes.starts_with(&up.bytes), "nothing is lost, doubled or reordered on the way up");
        assert!(
            response_bytes.starts_with(&down.bytes),
            "nothing is lost, doubled or reordered on the way down"
        );
        if up.is_complete() {
            assert_eq!(up.bytes.len(), request_bytes.len(), "the end comes after everything");
        }
        if down.is_complete() {
            assert_eq!(down.bytes.len(), response_bytes.len());
        }
    }
    if filters == 0 && request.done && response.done {
        assert!(up.is_complete() && down.is_complete(), "without filters nothing stops");
    }
    stream.end();
    stream.end();
    assert_eq!(ended.get(), filters, "every filter is told the end exactly once");
}

#[test]
fn random_filters_and_peers_never_break_a_message() {
    let seeds = match std::env::var("SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    for seed in seeds {
        for lossy in [false, true] {
            let run = std::panic::catch_unwind(|| simulate(seed, lossy));
            assert!(run.is_ok(), "SEED={seed} lossy={lossy}");
        }
    }
}
