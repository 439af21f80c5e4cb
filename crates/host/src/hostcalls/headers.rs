//! Header maps (spec: proxy-wasm-host §4.4).

use smallvec::SmallVec;

use super::{Answer, is_header_name, is_header_value, status};
use crate::abi::{AbiVersion, LogLevel, MapType, Status};
use crate::memory::{Call, give_scratch, read, split, write_u32};
use crate::pairs::{decode_pairs, encode_pairs};
use crate::state::VmState;
use crate::stream::{EditOutcome, HeaderEdit, StreamContext};

/// Names are looked up in lower case, whatever the guest wrote.
fn lower_case(name: &[u8]) -> SmallVec<[u8; 32]> {
    let mut out = SmallVec::from_slice(name);
    out.make_ascii_lowercase();
    out
}

/// Maps that show an answer and cannot be changed.
fn is_of_call(map: MapType) -> bool {
    matches!(
        map,
        MapType::GrpcReceiveInitialMetadata
            | MapType::GrpcReceiveTrailingMetadata
            | MapType::HttpCallResponseHeaders
            | MapType::HttpCallResponseTrailers
    )
}

pub(crate) fn get_value<S: StreamContext>(
    mut caller: Call<'_, S>,
    map: u32,
    key: u32,
    key_len: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(map) = MapType::from_guest(map) else { return status(Status::BadArgument) };
    let Some(name) = read(memory, key, key_len) else { return status(Status::InvalidMemoryAccess) };
    let mut scratch = std::mem::take(&mut state.scratch);
    scratch.clear();
    let found = if is_of_call(map) {
        let pairs = state.view.map(map);
        let value = pairs.and_then(|p| p.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)));
        value.is_some_and(|(_, v)| {
            scratch.extend_from_slice(v);
            true
        })
    } else {
        state.target().is_some_and(|s| s.header(map, &lower_case(name), &mut scratch))
    };
    if !found && state.abi != AbiVersion::V0_1_0 {
        state.scratch = scratch;
        return status(Status::NotFound);
    }
    status(give_scratch(&mut caller, scratch, ptr_out, len_out)?)
}

pub(crate) fn get_pairs<S: StreamContext>(
    mut caller: Call<'_, S>,
    map: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (_, state) = split(&mut caller);
    let Some(map) = MapType::from_guest(map) else { return status(Status::BadArgument) };
    let mut scratch = std::mem::take(&mut state.scratch);
    scratch.clear();
    if let Some(pairs) = state.view.map(map) {
        encode_pairs(&mut scratch, &|each| pairs.iter().for_each(|(k, v)| each(k, v)));
    } else if let Some(stream) = state.target().filter(|s| s.has_map(map)) {
        encode_pairs(&mut scratch, &|each| stream.for_each_header(map, each));
    }
    status(give_scratch(&mut caller, scratch, ptr_out, len_out)?)
}

/// The size of the encoding that [`get_pairs`] gives, as the specification wants; Envoy answers another number.
pub(crate) fn get_size<S: StreamContext>(mut caller: Call<'_, S>, map: u32, size_out: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(map) = MapType::from_guest(map) else { return status(Status::BadArgument) };
    let (mut size, mut count) = (4_usize, 0_usize);
    let mut add = |key: &[u8], value: &[u8]| {
        size += 8 + key.len() + 1 + value.len() + 1;
        count += 1;
    };
    if let Some(pairs) = state.view.map(map) {
        pairs.iter().for_each(|(k, v)| add(k, v));
    } else if let Some(stream) = state.target().filter(|s| s.has_map(map)) {
        stream.for_each_header(map, &mut add);
    } else {
        return status(Status::BadArgument);
    }
    let size = if count == 0 { 0 } else { u32::try_from(size).unwrap_or(u32::MAX) };
    status(if write_u32(memory, size_out, size) { Status::Ok } else { Status::InvalidMemoryAccess })
}

pub(crate) fn set_pairs<S: StreamContext>(mut caller: Call<'_, S>, map: u32, ptr: u32, len: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(map) = MapType::from_guest(map) else { return status(Status::BadArgument) };
    let Some(encoded) = read(memory, ptr, len) else { return status(Status::InvalidMemoryAccess) };
    let pairs = match decode_pairs(encoded, state.limits.pairs) {
        Ok(pairs) => pairs,
        Err(e) => {
            state.log(LogLevel::Warn, format!("set_header_map_pairs refused: {e}").as_bytes());
            return status(Status::BadArgument);
        }
    };
    let names: Vec<_> = pairs.iter().map(|(key, _)| lower_case(key)).collect();
    let mut kept = Vec::with_capacity(pairs.len());
    let mut unsafe_pairs = 0_usize;
    for (name, (_, value)) in names.iter().zip(&pairs) {
        let fits = value.len() <= state.limits.header_value_bytes_max;
        if is_header_name(name) && is_header_value(value) && fits {
            kept.push((&name[..], *value));
        } else {
            unsafe_pairs += 1;
        }
    }
    if unsafe_pairs > 0 {
        let text = format!(
            "set_header_map_pairs left out {unsafe_pairs} pairs that would corrupt the message or are too large"
        );
        state.log(LogLevel::Warn, text.as_bytes());
    }
    status(apply(state, map, HeaderEdit::SetAll(&kept)))
}

pub(crate) fn add_value<S: StreamContext>(
    caller: Call<'_, S>,
    map: u32,
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
) -> Answer {
    edit(caller, map, (key, key_len), (value, value_len), |n, v| HeaderEdit::Add(n, v))
}

pub(crate) fn replace_value<S: StreamContext>(
    caller: Call<'_, S>,
    map: u32,
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
) -> Answer {
    edit(caller, map, (key, key_len), (value, value_len), |n, v| HeaderEdit::Replace(n, v))
}

pub(crate) fn remove_value<S: StreamContext>(
    caller: Call<'_, S>,
    map: u32,
    key: u32,
    key_len: u32,
) -> Answer {
    edit(caller, map, (key, key_len), (0, 0), |name, _| HeaderEdit::Remove(name))
}

fn edit<S: StreamContext>(
    mut caller: Call<'_, S>,
    map: u32,
    key: (u32, u32),
    value: (u32, u32),
    make: for<'e> fn(&'e [u8], &'e [u8]) -> HeaderEdit<'e>,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(map) = MapType::from_guest(map) else { return status(Status::BadArgument) };
    let (Some(name), Some(value)) = (read(memory, key.0, key.1), read(memory, value.0, value.1)) else {
        return status(Status::InvalidMemoryAccess);
    };
    let name = lower_case(name);
    if !is_header_name(&name) || !is_header_value(value) {
        let text = format!("header edit refused, it would corrupt the message: {}", name.escape_ascii());
        state.log(LogLevel::Warn, text.as_bytes());
        // Not BadArgument: see EditOutcome::Unsafe.
        return status(Status::Ok);
    }
    let edit = make(&name, value);
    let grows = !matches!(edit, HeaderEdit::Remove(_));
    let too_large = value.len() > state.limits.header_value_bytes_max;
    if grows && (too_large || !has_room(state, map, name.len() + value.len())) {
        let text =
            format!("header edit refused, it is larger than a message may be: {}", name.escape_ascii());
        state.log(LogLevel::Warn, text.as_bytes());
        return status(Status::Ok);
    }
    status(apply(state, map, edit))
}

/// Whether a map may grow by so many bytes: what a guest adds is the host's memory, not its own.
fn has_room<S: StreamContext>(state: &VmState<S>, map: MapType, more: usize) -> bool {
    let Some(stream) = state.target().filter(|s| s.has_map(map)) else { return true };
    let (mut bytes, mut count) = (more, 1);
    stream.for_each_header(map, &mut |name, value| {
        bytes += name.len() + value.len();
        count += 1;
    });
    // A replacement is counted as if it added: it matters only at the limit.
    bytes <= state.limits.header_map_bytes_max && count <= state.limits.pairs.count_max
}

fn apply<S: StreamContext>(state: &mut VmState<S>, map: MapType, edit: HeaderEdit<'_>) -> Status {
    if is_of_call(map) {
        return Status::BadArgument;
    }
    let Some(stream) = state.target_mut() else { return Status::BadArgument };
    let outcome = stream.edit_headers(map, edit);
    match outcome {
        EditOutcome::Done => {
            // Routing is redone with the changed headers; ABI 0.2.100 has the same default.
            if map == MapType::RequestHeaders {
                stream.clear_route_cache();
            }
            Status::Ok
        }
        EditOutcome::Unsafe => {
            let text = format!("edit of {map:?} refused, it would corrupt the message");
            state.log(LogLevel::Warn, text.as_bytes());
            Status::Ok
        }
        EditOutcome::TooLate => {
            let text = format!("edit of {map:?} came too late: the message has already been passed on");
            state.log(LogLevel::Debug, text.as_bytes());
            Status::Ok
        }
        EditOutcome::Unavailable => Status::BadArgument,
    }
}
