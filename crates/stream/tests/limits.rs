//! How much of a body filters may hold.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use wasmgate_stream::{
    DataAction, Direction, Filter, HeadersAction, Interest, RequestHead, Stream, StreamData, StreamInfo,
    StreamLimits, TrailersAction, Verdict,
};

/// Holds the whole request body, and asks for a limit of its own.
struct Holds(Option<usize>);

impl Filter for Holds {
    fn interest(&self) -> Interest {
        Interest { request_body: true, ..Interest::default() }
    }

    fn request_headers(
        &mut self,
        mut data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        data.request_buffer_bytes_max = self.0;
        (data, Verdict::new(HeadersAction::Continue))
    }

    fn response_headers(
        &mut self,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        (data, Verdict::new(HeadersAction::Continue))
    }

    fn data(
        &mut self,
        _: Direction,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<DataAction>) {
        (data, Verdict::new(DataAction::StopAndBuffer))
    }

    fn trailers(
        &mut self,
        _: Direction,
        data: Box<StreamData>,
    ) -> (Box<StreamData>, Verdict<TrailersAction>) {
        (data, Verdict::new(TrailersAction::Continue))
    }

    fn end(&mut self, data: Box<StreamData>) -> Box<StreamData> {
        data
    }
}

/// The largest body that is held.
fn held(asked: Option<usize>) -> usize {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let info = StreamInfo::new(SystemTime::UNIX_EPOCH, 1, (address, address), &"".into());
    let limits = StreamLimits { buffer_bytes_max: 100, buffer_bytes_ceiling: 200, ..StreamLimits::default() };
    let is_held = |size: usize| {
        let request = RequestHead::new(Method::POST, "/".parse().unwrap(), None, HeaderMap::new());
        let data = Box::new(StreamData::new(request, info.clone()));
        let mut stream = Stream::new(data, [Holds(asked)], limits);
        stream.request_headers(false);
        (0..size).for_each(|_| stream.request_data(Bytes::from_static(b"x"), false));
        let status = stream.data().response.as_ref().and_then(|r| r.status);
        assert!([None, Some(StatusCode::PAYLOAD_TOO_LARGE)].contains(&status));
        status.is_none()
    };
    (0..300).take_while(|size| is_held(*size)).last().unwrap()
}

#[test]
fn a_filter_raises_and_lowers_its_streams_limit_up_to_the_ceiling() {
    assert_eq!(held(None), 100);
    assert_eq!(held(Some(150)), 150);
    assert_eq!(held(Some(10)), 10);
    assert_eq!(held(Some(usize::MAX)), 200);
}
