//! Every function that a guest can import, for every version of the ABI: only behaviour depends on the version, so
//! that a module never fails to link for a function that exists (spec: proxy-wasm-host §1.2, §4.0).

use std::collections::BTreeSet;

use wasmtime::{FuncType, Linker, Val, ValType};

use crate::abi::{LogLevel, Status};
use crate::exports::is_allowed;
use crate::hostcalls::{buffers, calls, control, foreign, general, grpc, headers, metrics, redis, shared};
use crate::memory::{Call, split};
use crate::state::VmState;
use crate::stream::StreamContext;
use crate::wasi;

type Result = wasmtime::Result<()>;

const ENV: &str = "env";

/// Functions that the specification declares without a result and SDKs with one: whichever the module asks for.
pub(crate) const EITHER_ARITY: [&str; 3] =
    ["proxy_continue_request", "proxy_continue_response", "proxy_clear_route_cache"];

pub(crate) fn base<S: StreamContext>(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<VmState<S>>> {
    let mut linker = Linker::new(engine);
    define_stream(&mut linker)?;
    define_general(&mut linker)?;
    define_calls(&mut linker)?;
    define_process(&mut linker)?;
    define_toolchain(&mut linker)?;
    wasi::define(&mut linker)?;
    Ok(linker)
}

fn define_stream<S: StreamContext>(l: &mut Linker<VmState<S>>) -> Result {
    l.func_wrap(ENV, "proxy_get_header_map_value", headers::get_value::<S>)?;
    l.func_wrap(ENV, "proxy_get_header_map_pairs", headers::get_pairs::<S>)?;
    l.func_wrap(ENV, "proxy_get_header_map_size", headers::get_size::<S>)?;
    l.func_wrap(ENV, "proxy_set_header_map_pairs", headers::set_pairs::<S>)?;
    l.func_wrap(ENV, "proxy_add_header_map_value", headers::add_value::<S>)?;
    l.func_wrap(ENV, "proxy_replace_header_map_value", headers::replace_value::<S>)?;
    l.func_wrap(ENV, "proxy_remove_header_map_value", headers::remove_value::<S>)?;
    l.func_wrap(ENV, "proxy_get_buffer_bytes", buffers::get_bytes::<S>)?;
    l.func_wrap(ENV, "proxy_get_buffer_status", buffers::get_status::<S>)?;
    l.func_wrap(ENV, "proxy_set_buffer_bytes", buffers::set_bytes::<S>)?;
    l.func_wrap(ENV, "proxy_continue_stream", control::continue_stream::<S>)?;
    l.func_wrap(ENV, "proxy_close_stream", control::close_stream::<S>)?;
    l.func_wrap(ENV, "proxy_continue_request", control::continue_request::<S>)?;
    l.func_wrap(ENV, "proxy_continue_response", control::continue_response::<S>)?;
    l.func_wrap(ENV, "proxy_clear_route_cache", control::clear_route_cache::<S>)?;
    l.func_wrap(ENV, "proxy_send_local_response", control::send_local_response::<S>)?;
    l.func_wrap(ENV, "proxy_set_effective_context", control::set_effective_context::<S>)?;
    l.func_wrap(ENV, "proxy_done", control::done::<S>)?;
    Ok(())
}

fn define_general<S: StreamContext>(l: &mut Linker<VmState<S>>) -> Result {
    l.func_wrap(ENV, "proxy_log", general::log::<S>)?;
    l.func_wrap(ENV, "proxy_get_log_level", general::get_log_level::<S>)?;
    l.func_wrap(ENV, "proxy_get_current_time_nanoseconds", general::get_time::<S>)?;
    l.func_wrap(ENV, "proxy_get_configuration", general::get_configuration::<S>)?;
    l.func_wrap(ENV, "proxy_get_status", general::get_status::<S>)?;
    l.func_wrap(ENV, "proxy_get_property", general::get_property::<S>)?;
    l.func_wrap(ENV, "proxy_set_property", general::set_property::<S>)?;
    l.func_wrap(ENV, "proxy_call_foreign_function", foreign::call::<S>)?;
    Ok(())
}

fn define_calls<S: StreamContext>(l: &mut Linker<VmState<S>>) -> Result {
    l.func_wrap(ENV, "proxy_http_call", calls::http_call::<S>)?;
    l.func_wrap(ENV, "proxy_grpc_call", grpc::call::<S>)?;
    l.func_wrap(ENV, "proxy_grpc_stream", grpc::stream::<S>)?;
    l.func_wrap(ENV, "proxy_grpc_send", grpc::send::<S>)?;
    l.func_wrap(ENV, "proxy_grpc_cancel", grpc::cancel::<S>)?;
    l.func_wrap(ENV, "proxy_grpc_close", grpc::close::<S>)?;
    l.func_wrap(ENV, "envoy_resolve_dns", calls::resolve_dns::<S>)?;
    l.func_wrap(ENV, "proxy_redis_init", redis::init::<S>)?;
    l.func_wrap(ENV, "proxy_redis_call", redis::call::<S>)?;
    l.func_wrap(ENV, "proxy_inject_encoded_data_to_filter_chain", control::inject_encoded_data::<S>)?;
    l.func_wrap(ENV, "proxy_get_upstream_hosts", general::get_upstream_hosts::<S>)?;
    l.func_wrap(ENV, "proxy_set_upstream_override_host", control::set_upstream_override_host::<S>)?;
    Ok(())
}

/// What reaches beyond the VM: timers, shared data and queues, metrics.
fn define_process<S: StreamContext>(l: &mut Linker<VmState<S>>) -> Result {
    l.func_wrap(ENV, "proxy_set_tick_period_milliseconds", calls::set_tick_period::<S>)?;
    l.func_wrap(ENV, "proxy_set_shared_data", shared::set_data::<S>)?;
    l.func_wrap(ENV, "proxy_get_shared_data", shared::get_data::<S>)?;
    l.func_wrap(ENV, "proxy_register_shared_queue", shared::register_queue::<S>)?;
    l.func_wrap(ENV, "proxy_resolve_shared_queue", shared::resolve_queue::<S>)?;
    l.func_wrap(ENV, "proxy_enqueue_shared_queue", shared::enqueue::<S>)?;
    l.func_wrap(ENV, "proxy_dequeue_shared_queue", shared::dequeue::<S>)?;
    l.func_wrap(ENV, "proxy_define_metric", metrics::define::<S>)?;
    l.func_wrap(ENV, "proxy_increment_metric", metrics::increment::<S>)?;
    l.func_wrap(ENV, "proxy_record_metric", metrics::record::<S>)?;
    l.func_wrap(ENV, "proxy_get_metric", metrics::get::<S>)?;
    Ok(())
}

/// What tool chains import beside the ABI.
fn define_toolchain<S: StreamContext>(l: &mut Linker<VmState<S>>) -> Result {
    l.func_wrap(ENV, "pthread_equal", |a: u32, b: u32| u32::from(a == b))?;
    l.func_wrap(ENV, "emscripten_notify_memory_growth", |_: u32| {})?;
    l.func_wrap(
        ENV,
        "abort",
        |mut c: Call<'_, S>, message: u32, _: u32, line: u32, column: u32| -> Result {
            let (memory, state) = split(&mut c);
            let text = assemblyscript_string(memory, message).unwrap_or_default();
            state.abort = Some(format!("{text} at {line}:{column}"));
            Err(wasmtime::Error::msg("abort"))
        },
    )?;
    Ok(())
}

/// An AssemblyScript string: UTF-16, its length in bytes stands before it.
fn assemblyscript_string(memory: &[u8], ptr: u32) -> Option<String> {
    const BYTES_MAX: u32 = 4096;
    let len = crate::memory::read(memory, ptr.checked_sub(4)?, 4)?.first_chunk::<4>()?;
    let bytes = crate::memory::read(memory, ptr, u32::from_le_bytes(*len).min(BYTES_MAX))?;
    let units = bytes.chunks_exact(2).filter_map(|c| c.first_chunk::<2>()).map(|c| u16::from_le_bytes(*c));
    Some(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// Functions that some tool chains declare with fewer parameters than WASI has (spec: proxy-wasm-host §1.2).
pub(crate) const OLD_WASI: [&str; 2] = ["path_link", "path_symlink"];

/// Whatever their type: there are no paths, so they fail.
pub(crate) fn define_old_wasi<S: StreamContext>(
    l: &mut Linker<VmState<S>>,
    (module, name): (&str, &str),
    ty: &FuncType,
) -> Result {
    const ENOTSUP: i32 = 58;
    let is_number = ty.results().all(|t| matches!(t, ValType::I32));
    if !wasi::MODULES.contains(&module) || !is_number {
        return Ok(());
    }
    l.allow_shadowing(true);
    l.func_new(module, name, ty.clone(), |_, _, results| {
        results.iter_mut().for_each(|result| *result = Val::I32(ENOTSUP));
        Ok(())
    })?;
    l.allow_shadowing(false);
    Ok(())
}

/// Replaces a function that a plug-in may not use by one that says so (spec: proxy-wasm-host §1.8).
pub(crate) fn restrict<S: StreamContext>(
    l: &mut Linker<VmState<S>>,
    (module, name): (&str, &str),
    ty: &FuncType,
    allowed: &BTreeSet<String>,
) -> Result {
    const ENOTCAPABLE: i32 = 76;
    let is_wasi = wasi::MODULES.contains(&module);
    if is_allowed(allowed, name) || !(is_wasi || name.starts_with("proxy_")) {
        return Ok(());
    }
    let (family, answer) =
        if is_wasi { ("WASI", ENOTCAPABLE) } else { ("proxy-wasm", Status::InternalFailure as u32 as i32) };
    let text = format!("Attempted call to restricted {family} capability: {name}");
    l.allow_shadowing(true);
    l.func_new(module, name, ty.clone(), move |mut c: Call<'_, S>, _, results| {
        c.data_mut().log(LogLevel::Error, text.as_bytes());
        if let Some(result) = results.first_mut() {
            *result = Val::I32(answer);
        }
        Ok(())
    })?;
    l.allow_shadowing(false);
    Ok(())
}

/// Redefines a function of [`EITHER_ARITY`] without a result.
pub(crate) fn define_without_result<S: StreamContext>(l: &mut Linker<VmState<S>>, name: &str) -> Result {
    l.allow_shadowing(true);
    let call: fn(Call<'_, S>) -> crate::hostcalls::Answer = match name {
        "proxy_continue_request" => control::continue_request,
        "proxy_continue_response" => control::continue_response,
        _ => control::clear_route_cache,
    };
    l.func_wrap(ENV, name, move |c: Call<'_, S>| -> Result { call(c).map(|_| ()) })?;
    l.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

    use std::collections::BTreeSet;

    use crate::abi::MapType;
    use crate::engine::Engine;
    use crate::exports::SIGNATURES;
    use crate::stream::{EditOutcome, HeaderEdit, StreamContext};

    struct Nothing;

    impl StreamContext for Nothing {
        fn has_map(&self, _: MapType) -> bool {
            false
        }

        fn header(&self, _: MapType, _: &[u8], _: &mut Vec<u8>) -> bool {
            false
        }

        fn for_each_header(&self, _: MapType, _: &mut dyn FnMut(&[u8], &[u8])) {}

        fn edit_headers(&mut self, _: MapType, _: HeaderEdit<'_>) -> EditOutcome {
            EditOutcome::Unavailable
        }
    }

    /// Names in backticks on the page.
    fn documented() -> BTreeSet<&'static str> {
        include_str!("../../../docs/hostcalls.md").split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn every_function_is_documented() {
        let engine = Engine::new().unwrap();
        let known = crate::module::function_names::<Nothing>(&engine).unwrap();
        // The arms of the match over foreign functions.
        let arms = include_str!("foreign.rs").split("b\"").skip(1).filter_map(|rest| rest.split('"').next());
        let documented = documented();
        let missing: Vec<_> = known
            .iter()
            .map(String::as_str)
            .chain(SIGNATURES.iter().map(|s| s.name))
            .chain(arms)
            .filter(|name| !documented.contains(name))
            .collect();
        assert_eq!(missing, [""; 0], "docs/hostcalls.md");
    }
}
