//! Log, time, configuration, status, properties (spec: proxy-wasm-host §4.2, §14).

use super::{Answer, status};
use crate::abi::{LogLevel, Status};
use crate::memory::{Call, give, give_scratch, read, split, write_u32, write_u64};
use crate::property::{PropertyValue, split_path};
use crate::state::VmState;
use crate::stream::StreamContext;

pub(crate) fn log<S: StreamContext>(mut caller: Call<'_, S>, level: u32, ptr: u32, len: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(level) = LogLevel::from_guest(level) else { return status(Status::BadArgument) };
    let Some(message) = read(memory, ptr, len) else { return status(Status::InvalidMemoryAccess) };
    state.log(level, message);
    status(Status::Ok)
}

pub(crate) fn get_log_level<S: StreamContext>(mut caller: Call<'_, S>, level_out: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let level = state.services.log_level() as u32;
    status(if write_u32(memory, level_out, level) { Status::Ok } else { Status::InvalidMemoryAccess })
}

pub(crate) fn get_time<S: StreamContext>(mut caller: Call<'_, S>, time_out: u32) -> Answer {
    let (memory, state) = split(&mut caller);
    let now = state.services.unix_nanos();
    status(if write_u64(memory, time_out, now) { Status::Ok } else { Status::InvalidMemoryAccess })
}

/// ABI 0.1.0 only: the plug-in configuration.
pub(crate) fn get_configuration<S: StreamContext>(
    mut caller: Call<'_, S>,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let configuration = caller.data().plugin.configuration.clone();
    status(give(&mut caller, &configuration, ptr_out, len_out)?)
}

/// The state of the last call-out; there was none.
pub(crate) fn get_status<S: StreamContext>(
    mut caller: Call<'_, S>,
    code_out: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, _) = split(&mut caller);
    if !write_u32(memory, code_out, 0) {
        return status(Status::InvalidMemoryAccess);
    }
    status(give(&mut caller, &[], ptr_out, len_out)?)
}

/// Attribute roots that exist only as objects: reading one as a whole cannot be encoded.
const OBJECTS: [&[u8]; 7] =
    [b"request", b"response", b"connection", b"upstream", b"source", b"destination", b"xds"];

pub(crate) fn get_property<S: StreamContext>(
    mut caller: Call<'_, S>,
    path: u32,
    path_len: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    if path_len as usize > state.limits.property_path_bytes_max {
        return status(Status::BadArgument);
    }
    let Some(path) = read(memory, path, path_len) else { return status(Status::InvalidMemoryAccess) };
    if path.is_empty() {
        return status(Status::SerializationFailure);
    }
    let segments = split_path(path);
    if let [only] = segments.as_slice()
        && OBJECTS.contains(only)
    {
        return status(Status::SerializationFailure);
    }
    let found = find_property(state, &segments);
    drop(segments);
    let Some(value) = found else { return status(Status::NotFound) };
    let mut scratch = std::mem::take(&mut state.scratch);
    value.encode(&mut scratch);
    status(give_scratch(&mut caller, scratch, ptr_out, len_out)?)
}

fn find_property<S: StreamContext>(state: &VmState<S>, segments: &[&[u8]]) -> Option<PropertyValue> {
    let plugin = &state.plugin;
    match segments {
        [b"plugin_name"] => return Some(PropertyValue::text(&plugin.name)),
        [b"plugin_root_id"] => return Some(PropertyValue::text(&plugin.root_id)),
        [b"plugin_vm_id"] => return Some(PropertyValue::text(&plugin.vm_id)),
        _ => {}
    }
    let stream = state.stream.as_ref()?;
    stream.property(segments).or_else(|| match segments {
        // Some plug-ins pass one dotted string; Envoy does not resolve it, other hosts do.
        [only] if only.contains(&b'.') => {
            let dotted: smallvec::SmallVec<[&[u8]; 4]> = only.split(|b| *b == b'.').collect();
            stream.property(&dotted)
        }
        _ => None,
    })
}

pub(crate) fn set_property<S: StreamContext>(
    mut caller: Call<'_, S>,
    path: u32,
    path_len: u32,
    value: u32,
    value_len: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let (Some(path), Some(value)) = (read(memory, path, path_len), read(memory, value, value_len)) else {
        return status(Status::InvalidMemoryAccess);
    };
    let Some(stream) = state.stream.as_mut() else { return status(Status::NotFound) };
    let over = path.len() > state.limits.property_path_bytes_max
        || value.len() > state.limits.property_value_bytes_max;
    if over || !stream.set_property(path, value) {
        // Ok all the same: the Rust SDK traps on anything else.
        state.log(LogLevel::Warn, b"set_property refused: the stream holds no more properties of this size");
    }
    status(Status::Ok)
}

/// A function that the ABI knows and this host does not provide yet. Said once per VM, because a status alone tells
/// a user nothing.
pub(crate) fn unsupported<S: StreamContext>(mut caller: Call<'_, S>, name: &'static str) -> Answer {
    let (_, state) = split(&mut caller);
    if !state.unsupported.contains(&name) {
        state.unsupported.push(name);
        let text = format!("{name} is not provided by this version of the host, it answers InternalFailure");
        state.log(LogLevel::Error, text.as_bytes());
    }
    status(Status::InternalFailure)
}

/// No foreign function exists yet; a guest that asks for one gets the answer for an unknown name.
pub(crate) fn call_foreign_function<S: StreamContext>(
    mut caller: Call<'_, S>,
    _name: u32,
    _name_len: u32,
    _args: u32,
    _args_len: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, _) = split(&mut caller);
    for out in [ptr_out, len_out] {
        if out != 0 {
            write_u32(memory, out, 0);
        }
    }
    status(Status::NotFound)
}
