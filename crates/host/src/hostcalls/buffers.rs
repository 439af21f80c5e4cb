//! Buffers (spec: proxy-wasm-host §4.3).

use bytes::{Bytes, BytesMut};

use super::{Answer, status};
use crate::abi::{BufferType, LogLevel, Status};
use crate::memory::{Call, give, read, split, write_u32};
use crate::state::VmState;
use crate::stream::StreamContext;

/// What a buffer holds now; `None` when it is not there.
fn content<S: StreamContext>(state: &VmState<S>, buffer: BufferType) -> Option<Bytes> {
    match buffer {
        BufferType::VmConfiguration => Some(state.plugin.vm_configuration.clone()),
        BufferType::PluginConfiguration => Some(state.plugin.configuration.clone()),
        BufferType::RequestBody
        | BufferType::ResponseBody
        | BufferType::DownstreamData
        | BufferType::UpstreamData => {
            // Never NotFound: guests treat a missing body as an empty one.
            Some(state.target().and_then(|s| s.body(buffer)).unwrap_or_default())
        }
        BufferType::HttpCallResponseBody
        | BufferType::GrpcReceiveBuffer
        | BufferType::CallData
        | BufferType::RedisCallResponse => state.view.buffer(buffer).cloned(),
    }
}

pub(crate) fn get_bytes<S: StreamContext>(
    mut caller: Call<'_, S>,
    buffer: u32,
    start: u32,
    max: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (_, state) = split(&mut caller);
    let Some(buffer) = BufferType::from_guest(buffer) else { return status(Status::BadArgument) };
    let Some(bytes) = content(state, buffer) else { return status(Status::NotFound) };
    let start = (start as usize).min(bytes.len());
    let end = start.saturating_add(max as usize).min(bytes.len());
    let part = bytes.get(start..end).unwrap_or_default();
    status(give(&mut caller, part, ptr_out, len_out)?)
}

pub(crate) fn get_status<S: StreamContext>(
    mut caller: Call<'_, S>,
    buffer: u32,
    len_out: u32,
    flags_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(buffer) = BufferType::from_guest(buffer) else { return status(Status::BadArgument) };
    let Some(bytes) = content(state, buffer) else { return status(Status::NotFound) };
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let written = write_u32(memory, len_out, len) && write_u32(memory, flags_out, 0);
    status(if written { Status::Ok } else { Status::InvalidMemoryAccess })
}

/// Replaces `size` bytes at `start`; unlike Envoy also in the middle.
pub(crate) fn set_bytes<S: StreamContext>(
    mut caller: Call<'_, S>,
    buffer: u32,
    start: u32,
    size: u32,
    ptr: u32,
    len: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(data) = read(memory, ptr, len) else { return status(Status::InvalidMemoryAccess) };
    let buffer = match BufferType::from_guest(buffer) {
        Some(
            buffer @ (BufferType::RequestBody
            | BufferType::ResponseBody
            | BufferType::DownstreamData
            | BufferType::UpstreamData),
        ) => buffer,
        // The answer of a call-out: there is none here, or it cannot be written.
        Some(BufferType::HttpCallResponseBody) if state.view.http_body.is_none() => {
            return status(Status::NotFound);
        }
        Some(_) | None => return status(Status::BadArgument),
    };
    let Some(current) = state.target().and_then(|s| s.body(buffer)) else {
        return status(Status::BadArgument);
    };
    if current.len().saturating_add(data.len()) > state.limits.body_bytes_max {
        let text =
            format!("set_buffer_bytes refused: a body of more than {} bytes", state.limits.body_bytes_max);
        state.log(LogLevel::Warn, text.as_bytes());
        return status(Status::BadArgument);
    }
    let changed = splice(&current, start as usize, size as usize, data);
    let set = state.target_mut().is_some_and(|s| s.set_body(buffer, changed));
    status(if set { Status::Ok } else { Status::BadArgument })
}

fn splice(current: &[u8], start: usize, size: usize, data: &[u8]) -> Bytes {
    let start = start.min(current.len());
    let end = start.saturating_add(size).min(current.len());
    let (head, tail) = (current.get(..start).unwrap_or_default(), current.get(end..).unwrap_or_default());
    let mut out = BytesMut::with_capacity(head.len() + data.len() + tail.len());
    out.extend_from_slice(head);
    out.extend_from_slice(data);
    out.extend_from_slice(tail);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::splice;

    #[test]
    fn every_row_of_the_replacement_table() {
        let max = u32::MAX as usize;
        assert_eq!(splice(b"abc", 0, 0, b"X"), "Xabc", "prepend");
        assert_eq!(splice(b"abc", 0, max, b"X"), "X", "replace all");
        assert_eq!(splice(b"abc", 0, 2, b"X"), "Xc", "replace the head");
        assert_eq!(splice(b"abc", max, 0, b"X"), "abcX", "append");
        assert_eq!(splice(b"abc", 3, 9, b"X"), "abcX", "append at the end");
        assert_eq!(splice(b"abc", 1, 1, b"XY"), "aXYc", "replace in the middle");
        assert_eq!(splice(b"abc", 0, max, b""), "", "erase");
    }
}
