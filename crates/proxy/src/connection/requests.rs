//! A request of a connection: refused, answered, or the beginning of something else.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, SERVER};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use wasmgate_stream::LocalReply;

use super::Downstream;
use crate::access_log::Entry;
use crate::body::ProxyBody;
use crate::exchange::Exchange;
use crate::reason::{self, Reason};
use crate::request::{self, Edge};
use crate::stats::Overload;

/// Answers a request.
pub(super) async fn handle(
    downstream: Rc<Downstream>,
    mut request: Request<Incoming>,
) -> std::io::Result<Response<ProxyBody>> {
    let protocol = request.version();
    let is_extended = protocol == Version::HTTP_2 && request::take_extended_connect(&mut request);
    let switches = is_extended || request::wants_switch(&request);
    let upgrade = switches.then(|| hyper::upgrade::on(&mut request));
    if downstream.worker.gateway_stats.overload() == Overload::Refuse {
        return Ok(refuse(&downstream, Reason::Overloaded, protocol));
    }
    let edge = Edge {
        peer: &downstream.peer,
        tls: downstream.tls.as_ref(),
        trusted_hops: downstream.worker.settings.trusted_hops,
        accepts_http10: downstream.worker.settings.accepts_http10,
        body_bytes_max: downstream.worker.settings.request_body_bytes_max,
        head_bytes_max: downstream.worker.settings.request_head_bytes_max,
    };
    match request::accept(request, &edge, upgrade.is_some()) {
        Ok(accepted) => {
            let (generation, listener) = downstream.generation();
            let names = listener.and_then(|l| generation.tls(l)).map(|tls| tls.names());
            let tls = downstream.tls.as_ref().zip(names);
            if tls.is_some_and(|(tls, names)| tls.is_misdirected(names, &accepted.head)) {
                return Ok(refuse(&downstream, Reason::Misdirected, protocol));
            }
            generation.plugins_ready(listener).await;
            let mut exchange = Exchange::start(downstream, accepted, protocol);
            let parts = poll_fn(|cx| exchange.poll_head(cx)).await?;
            match upgrade.filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS) {
                // To a CONNECT any success would be the consent that the endpoint has not given.
                None if is_extended && parts.status.is_success() => {
                    let reason = Reason::NotSwitched;
                    exchange.end_unswitched(reason);
                    Ok(answer(exchange.downstream(), reason.reply(), protocol))
                }
                None => Ok(exchange.into_response(parts)),
                Some(upgrade) if is_extended => {
                    tokio::task::spawn_local(exchange.tunnel(upgrade));
                    Ok(parts.into_consent())
                }
                Some(upgrade) => {
                    let downstream = Rc::clone(exchange.downstream());
                    downstream.tunnel.replace(Some((Box::new(exchange), upgrade)));
                    Ok(parts.into_switch())
                }
            }
        }
        Err(reason) => Ok(refuse(&downstream, reason, protocol)),
    }
}

/// Answers a request that never becomes a stream: Envoy calls no plug-in for it either.
fn refuse(downstream: &Downstream, reason: Reason, protocol: Version) -> Response<ProxyBody> {
    let (started, start) = (Instant::now(), std::time::SystemTime::now());
    let reply = reason.reply();
    let (status, flags, details, sent) = (reply.status, reply.flags, reply.details.clone(), reply.body.len());
    downstream.notes.answer_as_http11.store(protocol == Version::HTTP_10, Ordering::Relaxed);
    let response = answer(downstream, reply, protocol);
    count_refused(downstream, (&details, flags, status), (start, started), sent as u64);
    response
}

/// An answer of the gateway's own.
fn answer(downstream: &Downstream, reply: LocalReply, protocol: Version) -> Response<ProxyBody> {
    let worker = &downstream.worker;
    let LocalReply { status, body, .. } = reply;
    let sent = body.len() as u64;
    let mut response =
        Response::new(if body.is_empty() { ProxyBody::Empty } else { ProxyBody::Full(Some(body)) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if sent > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(sent));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(DATE, worker.date.header(std::time::SystemTime::now()));
    if let Some(server) = &worker.settings.server {
        headers.insert(SERVER, server.clone());
    }
    if protocol != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(phrase) = reason::phrase(status) {
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(phrase));
    }
    response
}

/// A request that the codec has refused by itself.
pub(super) fn log_refused(downstream: &Downstream, reason: Reason) {
    let LocalReply { status, flags, details, .. } = reason.reply();
    count_refused(downstream, (&details, flags, status), (std::time::SystemTime::now(), Instant::now()), 0);
}

fn count_refused(
    downstream: &Downstream,
    (details, flags, status): (&str, &str, StatusCode),
    (start, started): (std::time::SystemTime, Instant),
    bytes_sent: u64,
) {
    let worker = &downstream.worker;
    worker.stats.requests.increment();
    worker.stats.count_response(status.as_u16());
    let (generation, listener) = downstream.generation();
    generation.count(listener, None, status.as_u16());
    worker.gateway_stats.count_reply(details);
    worker.log(&Entry {
        data: None,
        downstream_local: downstream.local,
        downstream_remote: downstream.remote,
        start,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        status: status.as_u16(),
        flags,
        details,
        bytes_sent,
    });
}
