//! HTTP call-outs. What goes wrong before the endpoint has answered becomes an answer of its own, as from Envoy: plug-ins
//! look at `:status` (spec: proxy-wasm-host §9.1).

use std::future::poll_fn;
use std::rc::Weak;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use wasmgate_config::UpstreamProtocol;
use wasmgate_plugin::calls::{HeaderPairs, HttpCall, HttpCallResponse};
use wasmgate_stream::RequestHead;

use super::{NoTarget, Target};
use crate::upstream::{
    ActiveRequest, ActiveUpstream, Http2Stream, Outcome, Received, Spoken, UpstreamConnection,
};
use crate::worker::WorkerContext;

/// What a plug-in gets for an answer, or why there is none.
enum CallError {
    /// Nothing of an answer has come.
    Early(StatusCode, &'static str),
    /// The answer broke off, or is larger than it may be.
    Late,
}

/// Makes a call; `None` when its answer broke off.
pub(super) async fn call(worker: &Weak<WorkerContext>, call: HttpCall) -> Option<HttpCallResponse> {
    let timeout = call.timeout;
    let result = match tokio::time::timeout(timeout, exchange(worker, call)).await {
        Ok(result) => result,
        Err(_) => Err(CallError::Early(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")),
    };
    match result {
        Ok(response) => Some(response),
        Err(CallError::Early(status, text)) => Some(made_up(status, text)),
        Err(CallError::Late) => None,
    }
}

/// An answer that no endpoint gave.
fn made_up(status: StatusCode, text: &'static str) -> HttpCallResponse {
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    HttpCallResponse {
        headers: vec![
            pair(":status", status.as_str()),
            pair("content-length", &text.len().to_string()),
            pair("content-type", "text/plain"),
        ],
        body: Bytes::from_static(text.as_bytes()),
        trailers: Vec::new(),
    }
}

const RESET: CallError = CallError::Early(
    StatusCode::SERVICE_UNAVAILABLE,
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
);
const CONNECT: CallError = CallError::Early(
    StatusCode::SERVICE_UNAVAILABLE,
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
);
const OVERFLOW: CallError = CallError::Early(
    StatusCode::SERVICE_UNAVAILABLE,
    "upstream connect error or disconnect/reset before headers. reset reason: overflow",
);

async fn exchange(worker: &Weak<WorkerContext>, call: HttpCall) -> Result<HttpCallResponse, CallError> {
    let target = Target::find(worker, &call.cluster).map_err(|no| match no {
        NoTarget::NoHost => CallError::Early(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream"),
        NoTarget::Ended => CallError::Late,
    })?;
    let head = head(&call.headers, call.body.len()).ok_or(CallError::Late)?;
    let method = head.method.clone().unwrap_or(Method::GET);
    if !target.cluster.admits_request() {
        target.count(|c| c.pending_overflow.increment());
        return Err(OVERFLOW);
    }
    let active = ActiveRequest::new(&target.cluster, &target.host);
    let result = send(&target, &head, &call, &method).await;
    active.observe(match &result {
        Ok((status, _)) => Outcome::Status(status.as_u16()),
        Err(_) => Outcome::Failed,
    });
    result.map(|(_, response)| response)
}

type Answer = (StatusCode, HttpCallResponse);

async fn send(
    target: &Target,
    head: &RequestHead,
    call: &HttpCall,
    method: &Method,
) -> Result<Answer, CallError> {
    let request = Request { head, body: &call.body, trailers: &call.trailers, method };
    if target.cluster.config.protocol == UpstreamProtocol::Http2 {
        return http2(target, &request).await;
    }
    if let Some(connection) = target.host.take_idle() {
        match on_connection(target, connection, &request).await {
            // An idle connection may have been closed under us: nobody has seen the request.
            Err(Failed { unseen: true, .. }) if method.is_idempotent() => {}
            other => return other.map_err(|f| f.error),
        }
    }
    let (socket, open) = target.connect(Spoken::Http1).await.map_err(|_| CONNECT)?;
    let connection = UpstreamConnection::new(socket, target.host.address(), Instant::now(), open);
    let connection = Box::new(connection);
    on_connection(target, connection, &request).await.map_err(|f| f.error)
}

/// What is sent.
struct Request<'r> {
    head: &'r RequestHead,
    body: &'r Bytes,
    trailers: &'r HeaderPairs,
    method: &'r Method,
}

/// The same on a connection that is shared, over which trailers can be sent.
async fn http2(target: &Target, request: &Request<'_>) -> Result<Answer, CallError> {
    let mut is_first = true;
    loop {
        let place = match target.cluster.take_place(&target.host).filter(|_| is_first) {
            Some(place) => place,
            None => {
                let place = target.cluster.acquire_place(&target.host, None).map_err(|_| OVERFLOW)?;
                place.await.map_err(|_| CONNECT)?
            }
        };
        let trailers = trailers(request.trailers);
        let end = request.body.is_empty() && trailers.is_empty();
        let mut stream = Http2Stream::start(place, request.head, end, None).map_err(|_| CallError::Late)?;
        if !end {
            stream.queue(request.body.clone(), trailers.is_empty());
        }
        if !trailers.is_empty() {
            stream.queue_trailers(trailers);
        }
        match receive(target, &mut ActiveUpstream::Http2(Box::new(stream)), request.method).await {
            Err(Failed { unseen: true, .. }) if is_first => is_first = false,
            other => return other.map_err(|f| f.error),
        }
    }
}

/// Trailers that HTTP can carry.
fn trailers(pairs: &HeaderPairs) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            let _ = out.try_append(name, value);
        }
    }
    out
}

struct Failed {
    error: CallError,
    /// The endpoint closed the connection before it could have seen the request.
    unseen: bool,
}

async fn on_connection(
    target: &Target,
    mut connection: Box<UpstreamConnection>,
    request: &Request<'_>,
) -> Result<Answer, Failed> {
    let late = |_| Failed { error: CallError::Late, unseen: false };
    connection
        .start_call(request.head, request.body.is_empty())
        .map_err(|_| Failed { error: CallError::Late, unseen: false })?;
    if !request.body.is_empty() {
        connection.queue(request.body.clone(), true).map_err(late)?;
    }
    // After an error the answer may be there all the same: reading tells.
    let _ = poll_fn(|cx| connection.poll_flush(cx)).await;
    let mut upstream = ActiveUpstream::Http1(connection);
    let response = receive(target, &mut upstream, request.method).await?;
    if let ActiveUpstream::Http1(connection) = upstream
        && connection.is_reusable()
    {
        target.cluster.release(&target.host, connection, Instant::now());
    }
    Ok(response)
}

/// The whole answer.
async fn receive(target: &Target, upstream: &mut ActiveUpstream, method: &Method) -> Result<Answer, Failed> {
    let settings = &target.worker.settings;
    let (head_max, body_max) = (settings.response_head_bytes_max, settings.call_response_bytes_max);
    let late = |_| Failed { error: CallError::Late, unseen: false };
    let (status, fields) = match poll_fn(|cx| upstream.poll_head(cx, method, head_max)).await {
        Ok(answer) => answer,
        Err(error) => {
            let unseen = upstream.is_unseen(&error);
            target.count(|c| c.resets.increment());
            return Err(Failed { error: RESET, unseen });
        }
    };
    target.count(|c| c.count_response(status.as_u16()));
    let mut whole = BytesMut::new();
    let mut after = HeaderMap::new();
    let mut done = upstream.is_response_done();
    while !done {
        match poll_fn(|cx| upstream.poll_data(cx)).await.map_err(late)? {
            Received::Trailers(trailers) => {
                after = trailers;
                done = true;
            }
            Received::Data(bytes, end) => {
                if whole.len() + bytes.len() > body_max {
                    return Err(Failed { error: CallError::Late, unseen: false });
                }
                whole.extend_from_slice(&bytes);
                done = end;
            }
            Received::End => done = true,
        }
    }
    let mut headers = vec![(b":status".to_vec(), status.as_str().as_bytes().to_vec())];
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())
    };
    headers.extend(fields.iter().map(pair));
    let trailers = after.iter().map(pair).collect();
    Ok((status, HttpCallResponse { headers, body: whole.freeze(), trailers }))
}

/// The request as a head. The host has seen to it that the three pseudo headers are there.
fn head(pairs: &HeaderPairs, body_len: usize) -> Option<RequestHead> {
    let mut headers = HeaderMap::new();
    let (mut method, mut path, mut authority) = (None, None, None);
    for (name, value) in pairs {
        match name.as_slice() {
            b":method" => method = Method::from_bytes(value).ok(),
            b":path" => path = HeaderValue::from_bytes(value).ok(),
            b":authority" => authority = HeaderValue::from_bytes(value).ok(),
            name if name.starts_with(b":") => {}
            // The body's own length counts.
            b"content-length" => {}
            name => {
                let name = HeaderName::from_bytes(name).ok()?;
                headers.try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
            }
        }
    }
    if body_len > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body_len));
    }
    let path = path?;
    // A path with a blank in it would be two words of the request line.
    if !path.as_bytes().starts_with(b"/") && path != "*" || path.as_bytes().iter().any(|b| *b <= b' ') {
        return None;
    }
    let mut head = RequestHead::new(method?, Uri::default(), Some(authority?), headers);
    head.set_path(path);
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> HeaderPairs {
        pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_request_keeps_its_headers_and_gets_its_length() {
        let given = [
            (":method", "PUT"),
            (":path", "/a?b"),
            (":authority", "h"),
            (":scheme", "https"),
            ("content-length", "3"),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        let head = head(&pairs(&given), 5).unwrap();
        assert_eq!(head.path(), Some(&b"/a?b"[..]));
        assert_eq!(head.method, Some(Method::PUT));
        assert_eq!(head.headers.get("content-length").unwrap(), "5");
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn a_path_that_would_split_the_request_line_is_refused() {
        for path in ["/a b", "a", "/\tx", ""] {
            let given = pairs(&[(":method", "GET"), (":path", path), (":authority", "h")]);
            assert!(head(&given, 0).is_none(), "{path:?}");
        }
    }
}
