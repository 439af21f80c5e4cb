//! Continue, close, local replies (spec: proxy-wasm-host §4.5, §8).

use bytes::Bytes;

use super::{Answer, is_header_name, is_header_value, status};
use crate::abi::{LogLevel, Status, StreamType};
use crate::actions::{Direction, LocalReply, StreamAction};
use crate::memory::{Call, read, split};
use crate::pairs::decode_pairs;
use crate::state::VmState;
use crate::stream::StreamContext;

pub(crate) fn continue_stream<S: StreamContext>(caller: Call<'_, S>, stream_type: u32) -> Answer {
    match StreamType::from_guest(stream_type) {
        Some(StreamType::HttpRequest) => queue(caller, StreamAction::Continue(Direction::Request)),
        Some(StreamType::HttpResponse) => queue(caller, StreamAction::Continue(Direction::Response)),
        // TCP directions: nothing to continue on an HTTP stream.
        Some(StreamType::Downstream | StreamType::Upstream) => status(Status::Ok),
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
        Some(StreamType::Downstream | StreamType::Upstream) => status(Status::Ok),
        None => status(Status::BadArgument),
    }
}

pub(crate) fn clear_route_cache<S: StreamContext>(mut caller: Call<'_, S>) -> Answer {
    if let Some(stream) = caller.data_mut().stream.as_mut() {
        stream.clear_route_cache();
    }
    status(Status::Ok)
}

/// Every context is its own effective context; naming another is refused until call-outs exist.
pub(crate) fn set_effective_context<S: StreamContext>(_: Call<'_, S>, context: u32) -> Answer {
    status(if context == 0 { Status::Ok } else { Status::BadArgument })
}

/// No root context waits for this call: the host never keeps a root whose `proxy_on_done` said false.
pub(crate) fn done<S: StreamContext>(_: Call<'_, S>) -> Answer {
    status(Status::NotFound)
}

fn queue<S: StreamContext>(mut caller: Call<'_, S>, action: StreamAction) -> Answer {
    let state = caller.data_mut();
    if state.stream.is_some() && !state.push(action) {
        state.log(LogLevel::Warn, b"too many stream actions in one callback, this one is left out");
    }
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
    if state.stream.is_none() {
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
        details: String::from_utf8_lossy(details)
            .chars()
            .map(|c| if c.is_whitespace() { '_' } else { c })
            .collect(),
        headers,
        body: Bytes::copy_from_slice(body),
        grpc_status: (grpc_status <= 16).then_some(grpc_status),
    };
    // The first one wins; the running callback's own return value no longer counts.
    if !state.entry.reply_pending && state.push(StreamAction::LocalReply(Box::new(reply))) {
        state.entry.reply_pending = true;
    }
    status(Status::Ok)
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The headers of a reply without those that the proxy sets itself or that would corrupt it.
fn reply_headers<S: StreamContext>(state: &mut VmState<S>, encoded: &[u8]) -> Result<Pairs, Status> {
    let pairs = decode_pairs(encoded, state.limits.pairs).map_err(|e| {
        state.log(LogLevel::Warn, format!("send_local_response refused: {e}").as_bytes());
        Status::BadArgument
    })?;
    let mut kept = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        let framing = matches!(
            name.as_slice(),
            b"connection" | b"transfer-encoding" | b"content-length" | b"keep-alive"
        );
        if name.starts_with(b":") || framing {
            continue;
        }
        if is_header_name(&name) && is_header_value(value) {
            kept.push((name, value.to_vec()));
        } else {
            let text = format!(
                "local response header left out, it would corrupt the message: {}",
                name.escape_ascii()
            );
            state.log(LogLevel::Warn, text.as_bytes());
        }
    }
    Ok(kept)
}
