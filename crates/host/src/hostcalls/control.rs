//! Continue, close, local replies (spec: proxy-wasm-host §4.5, §8).

use bytes::Bytes;

use super::{Answer, outgoing_pairs, status};
use crate::abi::{LogLevel, Status, StreamType};
use crate::actions::{Direction, Injection, LocalReply, StreamAction};
use crate::effects::{Effect, HeaderPairs};
use crate::memory::{Call, read, split};
use crate::state::{Phase, VmState};
use crate::stream::StreamContext;

pub(crate) fn continue_stream<S: StreamContext>(caller: Call<'_, S>, stream_type: u32) -> Answer {
    match StreamType::from_guest(stream_type) {
        Some(StreamType::HttpRequest) => queue(caller, StreamAction::Continue(Direction::Request)),
        Some(StreamType::HttpResponse) => queue(caller, StreamAction::Continue(Direction::Response)),
        Some(StreamType::Downstream) => queue(caller, StreamAction::ContinueConnection(Direction::Request)),
        Some(StreamType::Upstream) => queue(caller, StreamAction::ContinueConnection(Direction::Response)),
        None => status(Status::BadArgument),
    }
}

pub(crate) fn continue_request<S: StreamContext>(caller: Call<'_, S>) -> Answer {
    queue(caller, StreamAction::Continue(Direction::Request))
}

pub(crate) fn continue_response<S: StreamContext>(caller: Call<'_, S>) -> Answer {
    queue(caller, StreamAction::Continue(Direction::Response))
}

pub(crate) fn close_stream<S: StreamContext>(caller: Call<'_, S>, stream_type: u32) -> Answer {
    match StreamType::from_guest(stream_type) {
        Some(StreamType::HttpRequest | StreamType::HttpResponse) => queue(caller, StreamAction::Close),
        Some(StreamType::Downstream) => queue(caller, StreamAction::CloseConnection(Direction::Request)),
        Some(StreamType::Upstream) => queue(caller, StreamAction::CloseConnection(Direction::Response)),
        None => status(Status::BadArgument),
    }
}

pub(crate) fn clear_route_cache<S: StreamContext>(mut caller: Call<'_, S>) -> Answer {
    if let Some(stream) = caller.data_mut().target_mut() {
        stream.clear_route_cache();
    }
    status(Status::Ok)
}

/// Makes the hostcalls that follow act on another context of this VM (spec: proxy-wasm-host §4.1).
pub(crate) fn set_effective_context<S: StreamContext>(mut caller: Call<'_, S>, context: u32) -> Answer {
    let known = caller.data_mut().set_effective(context);
    status(if known { Status::Ok } else { Status::BadArgument })
}

/// The root context that asked for time in `proxy_on_done` needs no more.
pub(crate) fn done<S: StreamContext>(mut caller: Call<'_, S>) -> Answer {
    let state = caller.data_mut();
    if state.phase != Phase::Stopping {
        return status(Status::NotFound);
    }
    state.phase = Phase::Stopped;
    state.effects.push(Effect::Done);
    status(Status::Ok)
}

/// Higress: another piece of response body for the client.
pub(crate) fn inject_encoded_data<S: StreamContext>(
    mut caller: Call<'_, S>,
    body: u32,
    body_len: u32,
    end: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(body) = read(memory, body, body_len) else { return status(Status::InvalidMemoryAccess) };
    inject(state, body, end != 0);
    status(Status::Ok)
}

/// Queues a piece of response body.
pub(crate) fn inject<S>(state: &mut VmState<S>, body: &[u8], end: bool) {
    if !state.has_room(body.len()) {
        state.log(LogLevel::Warn, b"injected data refused: more than one callback may pass on");
        return;
    }
    state.effect_bytes += body.len();
    let injection = Injection { data: Bytes::copy_from_slice(body), end };
    state.push(StreamAction::Inject(Box::new(injection)));
}

/// Higress: the endpoint that the request goes to.
pub(crate) fn set_upstream_override_host<S: StreamContext>(
    mut caller: Call<'_, S>,
    address: u32,
    address_len: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(address) = read(memory, address, address_len) else {
        return status(Status::InvalidMemoryAccess);
    };
    if !state.target_mut().is_some_and(|s| s.set_upstream_override(address)) {
        state
            .log(LogLevel::Warn, b"upstream override refused: no such address, or the request is on its way");
    }
    status(Status::Ok)
}

fn queue<S: StreamContext>(mut caller: Call<'_, S>, action: StreamAction) -> Answer {
    caller.data_mut().push(action);
    status(Status::Ok)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's own parameter list")]
pub(crate) fn send_local_response<S: StreamContext>(
    mut caller: Call<'_, S>,
    code: u32,
    details: u32,
    details_len: u32,
    body: u32,
    body_len: u32,
    headers: u32,
    headers_len: u32,
    grpc_status: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let parts = (
        read(memory, details, details_len),
        read(memory, body, body_len),
        read(memory, headers, headers_len),
    );
    let (Some(details), Some(body), Some(headers)) = parts else {
        return status(Status::InvalidMemoryAccess);
    };
    if !state.target().is_some_and(StreamContext::takes_replies) {
        return status(Status::Ok);
    }
    let headers = match reply_headers(state, headers) {
        Ok(headers) => headers,
        Err(bad) => return status(bad),
    };
    if body.len() > state.limits.local_reply_bytes_max {
        let limit = state.limits.local_reply_bytes_max;
        let text = format!("local response body cut at {limit} bytes");
        state.log(LogLevel::Warn, text.as_bytes());
    }
    let body = body.get(..state.limits.local_reply_bytes_max).unwrap_or(body);
    let reply = LocalReply {
        status: u16::try_from(code).ok().filter(|c| (200..600).contains(c)).unwrap_or(500),
        details: String::from_utf8_lossy(
            details.get(..state.limits.local_reply_details_bytes_max).unwrap_or(details),
        )
        .chars()
        .map(|c| if c.is_whitespace() { '_' } else { c })
        .collect(),
        headers,
        body: Bytes::copy_from_slice(body),
        grpc_status: (grpc_status <= 16).then_some(grpc_status),
    };
    // The first one wins; the running callback's own return value no longer counts.
    let replied = state.target_entry().is_some_and(|entry| entry.reply_pending);
    if !replied
        && state.push(StreamAction::LocalReply(Box::new(reply)))
        && let Some(entry) = state.target_entry()
    {
        entry.reply_pending = true;
    }
    status(Status::Ok)
}

/// The headers of a reply without those that the proxy sets itself.
fn reply_headers<S>(state: &mut VmState<S>, encoded: &[u8]) -> Result<HeaderPairs, Status> {
    let mut pairs = outgoing_pairs(state, "send_local_response", encoded)?;
    pairs.retain(|(name, _)| {
        let framing = matches!(
            name.as_slice(),
            b"connection" | b"transfer-encoding" | b"content-length" | b"keep-alive"
        );
        !name.starts_with(b":") && !framing
    });
    Ok(pairs)
}
