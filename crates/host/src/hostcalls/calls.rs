//! HTTP call-outs, DNS, timers (spec: proxy-wasm-host §4.6, §9.1, §9.4).

use std::time::Duration;

use bytes::Bytes;

use super::{Answer, outgoing_pairs, status, text};
use crate::abi::{LogLevel, Status};
use crate::calls::CallKind;
use crate::effects::{Effect, HeaderPairs, HttpCall, UpstreamState};
use crate::memory::{Call, read, split, write_u32};
use crate::state::VmState;
use crate::stream::StreamContext;

#[expect(clippy::too_many_arguments, reason = "the ABI's own parameter list")]
pub(crate) fn http_call<S: StreamContext>(
    mut caller: Call<'_, S>,
    cluster: u32,
    cluster_len: u32,
    headers: u32,
    headers_len: u32,
    body: u32,
    body_len: u32,
    trailers: u32,
    trailers_len: u32,
    timeout_ms: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let written = write_u32(memory, token_out, 0);
    let parts = (
        read(memory, cluster, cluster_len),
        read(memory, headers, headers_len),
        read(memory, body, body_len),
        read(memory, trailers, trailers_len),
    );
    let (Some(cluster), Some(headers), Some(body), Some(trailers), true) =
        (parts.0, parts.1, parts.2, parts.3, written)
    else {
        return status(Status::InvalidMemoryAccess);
    };
    let effect = match request(state, cluster, headers, body, trailers, timeout_ms) {
        Ok(effect) => effect,
        Err(refused) => return status(refused),
    };
    let token = effect.token.0;
    let bytes = effect.body.len() + pair_bytes(&effect.headers) + pair_bytes(&effect.trailers);
    state.note(Effect::HttpCall(Box::new(effect)), bytes);
    write_u32(memory, token_out, token);
    status(Status::Ok)
}

fn request<S: StreamContext>(
    state: &mut VmState<S>,
    cluster: &[u8],
    headers: &[u8],
    body: &[u8],
    trailers: &[u8],
    timeout_ms: u32,
) -> Result<HttpCall, Status> {
    // A negative number to the guest.
    if timeout_ms > i32::MAX as u32 {
        return Err(Status::BadArgument);
    }
    let (cluster, upstream) = upstream(state, cluster)?;
    let headers = outgoing_pairs(state, "http_call", headers)?;
    let trailers = outgoing_pairs(state, "http_call", trailers)?;
    for required in [&b":method"[..], b":path", b":authority"] {
        if !headers.iter().any(|(name, _)| name == required) {
            let text = format!("http_call refused: no {}", required.escape_ascii());
            state.log(LogLevel::Warn, text.as_bytes());
            return Err(Status::BadArgument);
        }
    }
    let timeout = timeout(state, timeout_ms);
    let bytes = body.len() + pair_bytes(&headers) + pair_bytes(&trailers);
    if !state.has_root() || upstream == UpstreamState::NoHealthyHost || !state.has_room(bytes) {
        return Err(Status::InternalFailure);
    }
    let token = open(state, CallKind::Http)?;
    Ok(HttpCall { token, cluster, headers, body: Bytes::copy_from_slice(body), trailers, timeout })
}

/// What is known of a cluster that a guest names.
///
/// # Errors
/// [`Status::BadArgument`] when there is none of the name.
pub(crate) fn upstream<S>(state: &mut VmState<S>, cluster: &[u8]) -> Result<(String, UpstreamState), Status> {
    let name = text(cluster).unwrap_or_default();
    match state.services.upstream(&state.plugin, name) {
        UpstreamState::Unknown => {
            let text =
                format!("call-out refused: there is no cluster {:?}", String::from_utf8_lossy(cluster));
            state.log(LogLevel::Warn, text.as_bytes());
            Err(Status::BadArgument)
        }
        known => Ok((name.to_owned(), known)),
    }
}

/// What a list of headers takes of [`crate::Limits::call_bytes_max`].
pub(crate) fn pair_bytes(pairs: &HeaderPairs) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// How long a call-out may take: as long as the guest says, within the limit.
pub(crate) fn timeout<S>(state: &VmState<S>, timeout_ms: u32) -> Duration {
    let max = state.limits.call_time_max;
    if timeout_ms == 0 { max } else { Duration::from_millis(timeout_ms.into()).min(max) }
}

/// A token for a new call.
///
/// # Errors
/// [`Status::InternalFailure`] when too many are under way.
pub(crate) fn open<S>(state: &mut VmState<S>, kind: CallKind) -> Result<crate::CallToken, Status> {
    let max = state.limits.calls_max;
    state.calls.open(kind, max).ok_or_else(|| {
        let text = format!("call-out refused: {max} are under way");
        state.log(LogLevel::Warn, text.as_bytes());
        Status::InternalFailure
    })
}

pub(crate) fn resolve_dns<S: StreamContext>(
    mut caller: Call<'_, S>,
    name: u32,
    name_len: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let written = write_u32(memory, token_out, 0);
    let (Some(name), true) = (read(memory, name, name_len), written) else {
        return status(Status::InvalidMemoryAccess);
    };
    let name = String::from_utf8_lossy(name).into_owned();
    /// The longest name that DNS knows.
    const NAME_BYTES_MAX: usize = 253;
    if !state.has_root() || name.is_empty() || name.len() > NAME_BYTES_MAX || !state.has_room(name.len()) {
        return status(Status::BadArgument);
    }
    let token = match open(state, CallKind::Other) {
        Ok(token) => token,
        Err(refused) => return status(refused),
    };
    state.note(Effect::ResolveDns(token, name), 0);
    write_u32(memory, token_out, token.0);
    status(Status::Ok)
}

pub(crate) fn set_tick_period<S: StreamContext>(mut caller: Call<'_, S>, milliseconds: u32) -> Answer {
    let state = caller.data_mut();
    if !state.has_root() {
        return status(Status::InternalFailure);
    }
    let period = Duration::from_millis(milliseconds.into()).max(state.limits.tick_period_min);
    // Only the last one counts.
    state.effects.retain(|e| !matches!(e, Effect::Tick(_)));
    state.note(Effect::Tick((milliseconds > 0).then_some(period)), 0);
    status(Status::Ok)
}
