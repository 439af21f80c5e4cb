//! Heads and bodies that must agree whatever filters do, and where pieces go that a filter injects.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use smallvec::smallvec;
use wasmgate_stream::{
    DataAction, Direction, Filter, HeadersAction, Interest, Parking as _, RequestHead, ResponseHead, Stream,
    StreamData, StreamInfo, StreamLimits, Then, TrailersAction, Verdict,
};

type Data = Box<StreamData>;
type Trace = Rc<RefCell<Vec<String>>>;
type OnHead = fn(&mut StreamData) -> Verdict<HeadersAction>;

/// Notes what it sees, and does one thing with the response's head.
struct Step {
    name: &'static str,
    trace: Trace,
    on_head: OnHead,
}

impl Step {
    fn note(&self, text: &str) {
        self.trace.borrow_mut().push(format!("{} {text}", self.name));
    }
}

impl Filter for Step {
    fn interest(&self) -> Interest {
        Interest { response_headers: true, response_body: true, ..Interest::default() }
    }

    fn request_headers(&mut self, data: Data, _: bool) -> (Data, Verdict<HeadersAction>) {
        (data, Verdict::new(HeadersAction::Continue))
    }

    fn response_headers(&mut self, mut data: Data, end: bool) -> (Data, Verdict<HeadersAction>) {
        self.note(&format!("head {end}"));
        let verdict = (self.on_head)(&mut data);
        (data, verdict)
    }

    fn data(&mut self, direction: Direction, data: Data, end: bool) -> (Data, Verdict<DataAction>) {
        let text = String::from_utf8_lossy(data.body(direction).unwrap()).into_owned();
        self.note(&format!("{text:?} {end}"));
        (data, Verdict::new(DataAction::Continue))
    }

    fn trailers(&mut self, _: Direction, data: Data) -> (Data, Verdict<TrailersAction>) {
        (data, Verdict::new(TrailersAction::Continue))
    }

    fn end(&mut self, data: Data) -> Data {
        data
    }
}

fn passes(_: &mut StreamData) -> Verdict<HeadersAction> {
    Verdict::new(HeadersAction::Continue)
}

fn holds(_: &mut StreamData) -> Verdict<HeadersAction> {
    Verdict::new(HeadersAction::StopAllAndWatermark)
}

fn inject(text: &'static str, end: bool) -> Then {
    Then::Inject(Box::new((Bytes::from_static(text.as_bytes()), end)))
}

/// A stream whose request has gone upstream; the first filter is the one nearest to the client.
fn stream(method: Method, heads: &[OnHead]) -> (Stream<Step>, Trace) {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let info = StreamInfo::new(SystemTime::now(), 1, (address, address), &"".into());
    let request = RequestHead::new(method, "/".parse().unwrap(), None, HeaderMap::new());
    let trace = Trace::default();
    let step =
        |(name, on_head): (&'static str, &OnHead)| Step { name, trace: Rc::clone(&trace), on_head: *on_head };
    let filters = ["a", "b", "c"].into_iter().zip(heads).map(step);
    let mut stream = Stream::new(Box::new(StreamData::new(request, info)), filters, StreamLimits::default());
    stream.request_headers(true);
    assert_eq!(stream.take_request_headers(), Some(true));
    (stream, trace)
}

fn answer(stream: &mut Stream<Step>, length: Option<&'static str>, pieces: &[&'static str]) {
    let mut headers = HeaderMap::new();
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
    }
    stream.response_headers(ResponseHead::new(StatusCode::OK, headers), pieces.is_empty());
    for (i, piece) in pieces.iter().enumerate() {
        stream.response_data(Bytes::from_static(piece.as_bytes()), i + 1 == pieces.len());
    }
}

/// What the client gets: status, lengths, body; or that the stream was reset.
fn received(stream: &mut Stream<Step>) -> String {
    let Some(end) = stream.take_response_headers() else { return "nothing".to_owned() };
    let head = stream.data().response.as_ref().unwrap();
    let lengths: Vec<&str> =
        head.headers.get_all(CONTENT_LENGTH).iter().map(|v| v.to_str().unwrap()).collect();
    let mut out = format!("{} {lengths:?}", head.status.unwrap().as_u16());
    if end {
        return out;
    }
    while let Some(data) = stream.pop_response_data() {
        out.push_str(&format!(" {}", String::from_utf8_lossy(&data.bytes)));
        if data.end {
            out.push_str(" end");
        }
    }
    out
}

#[test]
fn a_length_that_a_filter_sets_is_made_right_or_left_out() {
    let set: [(&str, OnHead, &str); 5] = [
        ("nothing", passes, "200 [\"10\"] 0123456789 end"),
        (
            "another beside it",
            |data| {
                let headers = &mut data.response.as_mut().unwrap().headers;
                headers.append(CONTENT_LENGTH, HeaderValue::from_static("3"));
                passes(data)
            },
            "200 [\"10\"] 0123456789 end",
        ),
        (
            "a shorter one",
            |data| {
                let headers = &mut data.response.as_mut().unwrap().headers;
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
                passes(data)
            },
            "200 [\"10\"] 0123456789 end",
        ),
        (
            "one that is no number to everybody",
            |data| {
                let headers = &mut data.response.as_mut().unwrap().headers;
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("+10"));
                passes(data)
            },
            "200 [\"10\"] 0123456789 end",
        ),
        (
            "none",
            |data| {
                data.response.as_mut().unwrap().headers.remove(CONTENT_LENGTH);
                passes(data)
            },
            "200 [] 0123456789 end",
        ),
    ];
    for (what, on_head, wanted) in set {
        let (mut stream, _) = stream(Method::GET, &[on_head]);
        answer(&mut stream, Some("10"), &["0123456789"]);
        assert_eq!(received(&mut stream), wanted, "{what}");
    }
    // In pieces, nobody knows yet.
    let (mut stream, _) = stream(Method::GET, &[set[2].1]);
    stream.response_headers(
        ResponseHead::new(StatusCode::OK, HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(10))])),
        false,
    );
    stream.response_data(Bytes::from_static(b"01234"), false);
    assert_eq!(received(&mut stream), "200 [] 01234");
}

#[test]
fn an_answer_that_may_have_no_body_has_none() {
    for (status, lengths) in [(204, "[]"), (304, "[\"10\"]"), (103, "[]")] {
        let (mut stream, _) = stream(Method::GET, &[passes]);
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(10))]);
        stream.response_headers(ResponseHead::new(StatusCode::OK, headers), false);
        stream.data_mut().response.as_mut().unwrap().status = Some(StatusCode::from_u16(status).unwrap());
        stream.response_data(Bytes::from_static(b"0123456789"), true);
        assert_eq!(received(&mut stream), format!("{status} {lengths}"));
        assert_eq!(stream.pop_response_data(), None);
    }
    // A filter has made a GET of the client's HEAD, and the endpoint answers that.
    let (mut head, _) = stream(Method::HEAD, &[passes]);
    answer(&mut head, Some("10"), &["0123456789"]);
    assert_eq!(received(&mut head), "200 [\"10\"]");
    // And a HEAD of its GET: the length has nothing to follow it.
    let (mut get, _) = stream(Method::GET, &[passes]);
    answer(&mut get, Some("10"), &[]);
    assert_eq!(received(&mut get), "200 [\"0\"]");
}

#[test]
fn what_is_injected_follows_the_head() {
    let (mut stream, trace) = stream(
        Method::GET,
        &[passes, |_| Verdict { action: HeadersAction::Continue, then: smallvec![inject("first", false)] }],
    );
    answer(&mut stream, None, &["rest"]);
    assert_eq!(received(&mut stream), "200 [] first rest end");
    let wanted = ["b head false", "a head false", "a \"first\" false", "b \"rest\" true", "a \"rest\" true"];
    assert_eq!(*trace.borrow(), wanted);
}

#[test]
fn an_injected_end_voids_what_comes_behind_it() {
    // The filter nearest to the endpoint holds everything; the next one ends the response.
    let (mut stream, trace) = stream(Method::GET, &[passes, passes, passes]);
    answer(&mut stream, None, &["one"]);
    // `answer` has ended it: begin anew with one that goes on.
    drop((stream, trace));
    let (mut stream, trace) = self::stream(Method::GET, &[passes, passes, passes]);
    stream.response_headers(ResponseHead::new(StatusCode::OK, HeaderMap::new()), false);
    stream.response_data(Bytes::from_static(b"one"), false);
    stream.run_outside(1, smallvec![inject("over", true)]);
    stream.response_data(Bytes::from_static(b"never"), true);
    stream.run_outside(2, smallvec![Then::Continue(Direction::Response), inject("never", false)]);
    assert_eq!(received(&mut stream), "200 [] one over end");
    assert!(!trace.borrow().iter().any(|line| line.contains("never")), "{trace:?}");
    // A head that another filter holds: nothing can go before it.
    let (mut stream, _) = self::stream(Method::GET, &[passes, passes, holds]);
    answer(&mut stream, None, &["held"]);
    stream.run_outside(1, smallvec![inject("too early", true)]);
    assert_eq!(received(&mut stream), "nothing");
    stream.run_outside(2, smallvec![Then::Continue(Direction::Response)]);
    assert_eq!(received(&mut stream), "200 [] held end");
}
