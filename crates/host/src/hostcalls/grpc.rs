//! gRPC call-outs (spec: proxy-wasm-host §9.2, §9.3).

use std::time::Duration;

use bytes::Bytes;

use super::calls::{open, pair_bytes, timeout};
use super::{Answer, outgoing_pairs, status, text};
use crate::abi::Status;
use crate::calls::{CallKind, GrpcLookup};
use crate::effects::{CallToken, Effect, GrpcCall, GrpcTarget, HeaderPairs, UpstreamState};
use crate::memory::{Call, read, split, write_u32};
use crate::proto;
use crate::state::VmState;
use crate::stream::StreamContext;

/// What the `svc` parameter names.
struct Service {
    cluster: String,
    authority: String,
    timeout: Option<Duration>,
    metadata: HeaderPairs,
    state: UpstreamState,
}

/// A cluster's name, or a serialized `envoy.config.core.v3.GrpcService`. The name is tried first: some names are valid
/// protobuf, and Envoy, which tries protobuf first, dies of those.
///
/// # Errors
/// [`Status::ParseFailure`] when it is neither, or names no cluster that is known.
fn service<S>(state: &VmState<S>, svc: &[u8]) -> Result<Service, Status> {
    let lookup = |name: &str| match state.services.upstream(&state.plugin, name) {
        UpstreamState::Unknown => None,
        known => Some(known),
    };
    if let Some((name, known)) = text(svc).and_then(|name| Some((name, lookup(name)?))) {
        let (cluster, authority) = (name.to_owned(), name.to_owned());
        return Ok(Service { cluster, authority, timeout: None, metadata: Vec::new(), state: known });
    }
    let message = proto::fields(svc).ok_or(Status::ParseFailure)?;
    // 1: envoy_grpc {1: cluster_name, 2: authority}; 3: timeout; 5: initial_metadata {1: key, 2: value}
    let target = proto::fields(proto::bytes(&message, 1)).ok_or(Status::ParseFailure)?;
    let cluster = text(proto::bytes(&target, 1)).unwrap_or_default().to_owned();
    let known = lookup(&cluster).ok_or(Status::ParseFailure)?;
    let authority = match text(proto::bytes(&target, 2)) {
        Some("") | None => cluster.clone(),
        Some(authority) => authority.to_owned(),
    };
    let mut metadata = Vec::new();
    for (number, field) in &message {
        if let (5, proto::Field::Bytes(header)) = (number, field) {
            let header = proto::fields(header).ok_or(Status::ParseFailure)?;
            let name = proto::bytes(&header, 1).to_ascii_lowercase();
            let value = proto::bytes(&header, 2);
            if super::is_header_name(&name) && super::is_header_value(value) {
                metadata.push((name, value.to_vec()));
            }
        }
    }
    let timeout = match proto::bytes(&message, 3) {
        [] => None,
        duration => {
            let duration = proto::fields(duration).ok_or(Status::ParseFailure)?;
            let nanos = u32::try_from(proto::number(&duration, 2)).unwrap_or(0).min(999_999_999);
            Some(Duration::new(proto::number(&duration, 1), nanos))
        }
    };
    Ok(Service { cluster, authority, timeout, metadata, state: known })
}

type Range = (u32, u32);

/// The parameters that both functions share.
struct Parameters {
    svc: Range,
    service: Range,
    method: Range,
    metadata: Range,
    token_out: u32,
}

/// What is called, and how long its service wants to be waited for.
fn target<S>(
    state: &mut VmState<S>,
    memory: &[u8],
    p: &Parameters,
) -> Result<(GrpcTarget, Option<Duration>), Status> {
    let get = |range: Range| read(memory, range.0, range.1).ok_or(Status::InvalidMemoryAccess);
    let (svc, name, method) = (get(p.svc)?, get(p.service)?, get(p.method)?);
    let own = get(p.metadata)?;
    let service = service(state, svc)?;
    let (Some(name), Some(method)) = (path_segment(name), path_segment(method)) else {
        return Err(Status::InternalFailure);
    };
    let mut metadata = service.metadata;
    // The only status for a list that cannot be read which a Rust guest survives.
    metadata.extend(outgoing_pairs(state, "grpc call", own).map_err(|_| Status::InternalFailure)?);
    metadata.retain(|(name, _)| !is_reserved(name));
    if !state.has_root() || service.state == UpstreamState::NoHealthyHost {
        return Err(Status::InternalFailure);
    }
    let target = GrpcTarget {
        cluster: service.cluster,
        authority: service.authority,
        service: name,
        method,
        metadata,
    };
    Ok((target, service.timeout))
}

/// A name that becomes part of a path.
fn path_segment(bytes: &[u8]) -> Option<String> {
    /// Longer than any name of a service.
    const BYTES_MAX: usize = 1024;
    let valid = (1..=BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#'));
    text(bytes).filter(|_| valid).map(str::to_owned)
}

/// What the transport sets by itself.
fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b":")
        || matches!(
            name,
            b"te"
                | b"content-type"
                | b"content-length"
                | b"grpc-timeout"
                | b"connection"
                | b"transfer-encoding"
        )
}

#[expect(clippy::too_many_arguments, reason = "the ABI's own parameter list")]
pub(crate) fn call<S: StreamContext>(
    mut caller: Call<'_, S>,
    svc: u32,
    svc_len: u32,
    service: u32,
    service_len: u32,
    method: u32,
    method_len: u32,
    metadata: u32,
    metadata_len: u32,
    message: u32,
    message_len: u32,
    timeout_ms: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let p = Parameters {
        svc: (svc, svc_len),
        service: (service, service_len),
        method: (method, method_len),
        metadata: (metadata, metadata_len),
        token_out,
    };
    let written = write_u32(memory, token_out, 0);
    let (Some(body), true) = (read(memory, message, message_len), written) else {
        return status(Status::InvalidMemoryAccess);
    };
    let opened = target(state, memory, &p).and_then(|(target, service_timeout)| {
        if !state.has_room(body.len() + pair_bytes(&target.metadata)) {
            return Err(Status::InternalFailure);
        }
        let token = open(state, CallKind::Grpc)?;
        let limit = state.limits.call_time_max;
        let timeout = match (timeout_ms, service_timeout) {
            (0, Some(wanted)) => wanted.min(limit),
            _ => timeout(state, timeout_ms),
        };
        let has_timeout = timeout_ms > 0 || service_timeout.is_some();
        Ok(GrpcCall { token, target, message: Bytes::copy_from_slice(body), timeout, has_timeout })
    });
    let call = match opened {
        Ok(call) => call,
        Err(refused) => return status(refused),
    };
    write_u32(memory, p.token_out, call.token.0);
    let bytes = call.message.len() + pair_bytes(&call.target.metadata);
    state.note(Effect::GrpcCall(Box::new(call)), bytes);
    status(Status::Ok)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's own parameter list")]
pub(crate) fn stream<S: StreamContext>(
    mut caller: Call<'_, S>,
    svc: u32,
    svc_len: u32,
    service: u32,
    service_len: u32,
    method: u32,
    method_len: u32,
    metadata: u32,
    metadata_len: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let p = Parameters {
        svc: (svc, svc_len),
        service: (service, service_len),
        method: (method, method_len),
        metadata: (metadata, metadata_len),
        token_out,
    };
    if !write_u32(memory, token_out, 0) {
        return status(Status::InvalidMemoryAccess);
    }
    let opened = target(state, memory, &p)
        .and_then(|(target, _)| match state.has_room(pair_bytes(&target.metadata)) {
            true => Ok(target),
            false => Err(Status::InternalFailure),
        })
        .and_then(|target| Ok((target, open(state, CallKind::GrpcStream)?)));
    let (target, token) = match opened {
        Ok(opened) => opened,
        Err(refused) => return status(refused),
    };
    write_u32(memory, p.token_out, token.0);
    let bytes = pair_bytes(&target.metadata);
    state.note(Effect::GrpcStream(token, Box::new(target)), bytes);
    status(Status::Ok)
}

pub(crate) fn send<S: StreamContext>(
    mut caller: Call<'_, S>,
    token: u32,
    message: u32,
    message_len: u32,
    end: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(message) = read(memory, message, message_len) else {
        return status(Status::InvalidMemoryAccess);
    };
    status(match state.calls.grpc(token) {
        GrpcLookup::Stream(false) if state.has_room(message.len()) => {
            if end != 0 {
                state.calls.half_close(CallToken(token));
            }
            let effect = Effect::GrpcSend(CallToken(token), Bytes::copy_from_slice(message), end != 0);
            state.note(effect, message.len());
            Status::Ok
        }
        // Nothing may follow the last message.
        GrpcLookup::Stream(_) | GrpcLookup::Call | GrpcLookup::WrongKind => Status::BadArgument,
        // A unary call has no more messages, whether it is known or not.
        GrpcLookup::Unknown if token & 3 == CallKind::Grpc as u32 => Status::BadArgument,
        GrpcLookup::Unknown => Status::NotFound,
    })
}

pub(crate) fn cancel<S: StreamContext>(mut caller: Call<'_, S>, token: u32) -> Answer {
    let state = caller.data_mut();
    status(match state.calls.grpc(token) {
        GrpcLookup::Stream(_) | GrpcLookup::Call => {
            state.calls.close(CallToken(token));
            state.effects.push(Effect::GrpcCancel(CallToken(token)));
            Status::Ok
        }
        GrpcLookup::WrongKind => Status::BadArgument,
        GrpcLookup::Unknown => Status::NotFound,
    })
}

/// Of a stream: nothing more is sent. Of a call: the same as [`cancel`].
pub(crate) fn close<S: StreamContext>(mut caller: Call<'_, S>, token: u32) -> Answer {
    let state = caller.data_mut();
    match state.calls.grpc(token) {
        GrpcLookup::Stream(false) => {
            state.calls.half_close(CallToken(token));
            state.effects.push(Effect::GrpcHalfClose(CallToken(token)));
            status(Status::Ok)
        }
        GrpcLookup::Stream(true) => status(Status::Ok),
        GrpcLookup::Call | GrpcLookup::Unknown | GrpcLookup::WrongKind => cancel(caller, token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_change_the_path_is_refused() {
        assert_eq!(path_segment(b"helloworld.Greeter").as_deref(), Some("helloworld.Greeter"));
        for bad in [&b""[..], b"a/b", b"a b", b"a?b", b"a\r\nb", b"\xff"] {
            assert_eq!(path_segment(bad), None, "{bad:?}");
        }
    }
}
