//! Log, time, configuration, status, properties (spec: proxy-wasm-host §4.2, §14).

use super::{Answer, status};
use crate::abi::{LogLevel, Status};
use crate::effects::Effect;
use crate::memory::{Call, give, give_scratch, read, split, write_u32, write_u64};
use crate::pairs::encode_pairs;
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

/// ABI 0.1.0: the plug-in configuration. Envoy answers the VM configuration outside of `proxy_on_configure`, which no
/// plug-in can want.
pub(crate) fn get_configuration<S: StreamContext>(
    mut caller: Call<'_, S>,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let configuration = caller.data().plugin.configuration.clone();
    status(give(&mut caller, &configuration, ptr_out, len_out)?)
}

/// How the call-out ended that the current callback is about.
pub(crate) fn get_status<S: StreamContext>(
    mut caller: Call<'_, S>,
    code_out: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    if !write_u32(memory, code_out, state.view.status) {
        return status(Status::InvalidMemoryAccess);
    }
    let message = state.view.status_message.clone();
    status(give(&mut caller, &message, ptr_out, len_out)?)
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
    // A path of that length leads nowhere; a Rust plug-in dies of other statuses.
    if path_len as usize > state.limits.property_path_bytes_max {
        return status(Status::NotFound);
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
    let found = match segments.as_slice() {
        // Higress: the size of the linear memory, for plug-ins that ask to be replaced when it has grown.
        [b"plugin_vm_memory"] => Some(PropertyValue::Int(i64::try_from(memory.len()).unwrap_or(i64::MAX))),
        segments => find_property(state, segments),
    };
    drop(segments);
    let Some(value) = found else { return status(Status::NotFound) };
    let mut scratch = std::mem::take(&mut state.scratch);
    if !value.encode(&mut scratch) {
        state.scratch = scratch;
        return status(Status::SerializationFailure);
    }
    status(give_scratch(&mut caller, scratch, ptr_out, len_out)?)
}

/// An attribute of the plug-in, the process or the stream.
pub(crate) fn find_property<S: StreamContext>(
    state: &VmState<S>,
    segments: &[&[u8]],
) -> Option<PropertyValue> {
    let plugin = &state.plugin;
    match segments {
        [b"plugin_name"] => return Some(PropertyValue::text(&plugin.name)),
        [b"plugin_root_id"] => return Some(PropertyValue::text(&plugin.root_id)),
        [b"plugin_vm_id"] => return Some(PropertyValue::text(&plugin.vm_id)),
        _ => {}
    }
    if let Some(value) = state.services.property(plugin, segments) {
        return Some(value);
    }
    let stream = state.target()?;
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
    if path == b"wasm_need_rebuild" {
        let asked = state.effects.iter().any(|effect| matches!(effect, Effect::Rebuild));
        if value == b"true" && state.has_root() && !asked {
            state.note(Effect::Rebuild, 0);
        }
        return status(Status::Ok);
    }
    if state.foreign.is_read_only(path) && state.target().is_some_and(|s| s.property(&[path]).is_some()) {
        return status(Status::BadArgument);
    }
    let (path_max, value_max) = (state.limits.property_path_bytes_max, state.limits.property_value_bytes_max);
    let Some(stream) = state.target_mut() else { return status(Status::NotFound) };
    let over = path.len() > path_max || value.len() > value_max;
    if over || !stream.set_property(path, value) {
        // Ok all the same: the Rust SDK traps on anything else.
        state.log(LogLevel::Warn, b"set_property refused: the stream holds no more properties of this size");
    }
    status(Status::Ok)
}

/// Higress: the endpoints of the request's cluster.
pub(crate) fn get_upstream_hosts<S: StreamContext>(
    mut caller: Call<'_, S>,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (_, state) = split(&mut caller);
    let cluster = state.target().and_then(|s| s.property(&[b"xds", b"cluster_name"]));
    let hosts = match &cluster {
        Some(PropertyValue::Bytes(name)) => {
            state.services.upstream_hosts(&state.plugin, &String::from_utf8_lossy(name))
        }
        _ => Vec::new(),
    };
    let mut encoded = Vec::new();
    encode_pairs(&mut encoded, &|each| {
        for host in &hosts {
            let health = if host.healthy { "Healthy" } else { "Unhealthy" };
            let value = format!("{{\"health_status\":\"{health}\"}}");
            each(host.address.as_bytes(), value.as_bytes());
        }
    });
    status(give(&mut caller, &encoded, ptr_out, len_out)?)
}
