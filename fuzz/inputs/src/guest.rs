//! Guests that turn their configuration into hostcalls.

use std::fmt::Write as _;
use std::sync::Arc;

use wasmgate_host::{
    CallToken, Engine, HttpCallResponse, Module, PluginContext, Process, SharedState, SystemServices, Vm,
};

use crate::limits;
use crate::stream::Stream;

/// Every function that a plug-in can import: module, name, parameters (`L` is an `i64`, `i` an `i32`), whether it answers.
const FUNCTIONS: &[(&str, &str, &str, bool)] = &[
    ("env", "proxy_log", "iii", true),
    ("env", "proxy_get_log_level", "i", true),
    ("env", "proxy_get_current_time_nanoseconds", "i", true),
    ("env", "proxy_get_configuration", "ii", true),
    ("env", "proxy_get_status", "iii", true),
    ("env", "proxy_set_tick_period_milliseconds", "i", true),
    ("env", "proxy_set_effective_context", "i", true),
    ("env", "proxy_done", "", true),
    ("env", "proxy_get_property", "iiii", true),
    ("env", "proxy_set_property", "iiii", true),
    ("env", "proxy_get_buffer_bytes", "iiiii", true),
    ("env", "proxy_get_buffer_status", "iii", true),
    ("env", "proxy_set_buffer_bytes", "iiiii", true),
    ("env", "proxy_get_header_map_pairs", "iii", true),
    ("env", "proxy_get_header_map_size", "ii", true),
    ("env", "proxy_set_header_map_pairs", "iii", true),
    ("env", "proxy_get_header_map_value", "iiiii", true),
    ("env", "proxy_add_header_map_value", "iiiii", true),
    ("env", "proxy_replace_header_map_value", "iiiii", true),
    ("env", "proxy_remove_header_map_value", "iii", true),
    ("env", "proxy_continue_stream", "i", true),
    ("env", "proxy_close_stream", "i", true),
    ("env", "proxy_send_local_response", "iiiiiiii", true),
    ("env", "proxy_http_call", "iiiiiiiiii", true),
    ("env", "proxy_grpc_call", "iiiiiiiiiiii", true),
    ("env", "proxy_grpc_stream", "iiiiiiiii", true),
    ("env", "proxy_grpc_send", "iiii", true),
    ("env", "proxy_grpc_cancel", "i", true),
    ("env", "proxy_grpc_close", "i", true),
    ("env", "proxy_set_shared_data", "iiiii", true),
    ("env", "proxy_get_shared_data", "iiiii", true),
    ("env", "proxy_register_shared_queue", "iii", true),
    ("env", "proxy_resolve_shared_queue", "iiiii", true),
    ("env", "proxy_enqueue_shared_queue", "iii", true),
    ("env", "proxy_dequeue_shared_queue", "iii", true),
    ("env", "proxy_define_metric", "iiii", true),
    ("env", "proxy_increment_metric", "iL", true),
    ("env", "proxy_record_metric", "iL", true),
    ("env", "proxy_get_metric", "ii", true),
    ("env", "proxy_call_foreign_function", "iiiiii", true),
    ("wasi_snapshot_preview1", "fd_write", "iiii", true),
    ("wasi_snapshot_preview1", "fd_read", "iiii", true),
    ("wasi_snapshot_preview1", "fd_fdstat_get", "ii", true),
    ("wasi_snapshot_preview1", "args_sizes_get", "ii", true),
    ("wasi_snapshot_preview1", "environ_get", "ii", true),
    ("wasi_snapshot_preview1", "environ_sizes_get", "ii", true),
    ("wasi_snapshot_preview1", "clock_time_get", "iLi", true),
    ("wasi_snapshot_preview1", "clock_res_get", "ii", true),
    ("wasi_snapshot_preview1", "random_get", "ii", true),
    ("wasi_snapshot_preview1", "poll_oneoff", "iiii", true),
    ("wasi_snapshot_preview1", "proc_exit", "i", false),
];

/// What each module begins with. The allocator gives out the same page again and again: a guest may lie about that, too.
const PRELUDE: &str = r#"
    (memory (export "memory") 2)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 65536)
"#;

/// The configuration at address 65536, its length in `$length`.
const CONFIGURATION: &str = r#"
    (drop (call $configuration (i32.const 7) (i32.const 0) (i32.const 60000) (i32.const 0) (i32.const 4)))
    (local.set $length (i32.load (i32.const 4)))
"#;

const IMPORT_CONFIGURATION: &str = r#"(import "env" "proxy_get_buffer_bytes" (func $configuration (param i32 i32 i32 i32 i32) (result i32)))"#;

fn build(engine: &Engine, wat: &str) -> Module<Box<Stream>> {
    Module::new(engine, &wat::parse_str(wat).expect("the module is written well")).expect("and loads")
}

fn params(kinds: &str) -> String {
    kinds.chars().map(|kind| if kind == 'L' { " i64" } else { " i32" }).collect()
}

/// A guest whose configuration is a list of calls: a byte for the function, and twelve words of three bytes.
pub(crate) fn hostcalls_module(engine: &Engine) -> Module<Box<Stream>> {
    let (mut imports, mut cases) = (String::new(), String::new());
    for (index, (module, name, kinds, answers)) in FUNCTIONS.iter().enumerate() {
        let result = if *answers { "(result i32)" } else { "" };
        let _ = writeln!(
            imports,
            r#"(import "{module}" "{name}" (func $f{index} (param{}) {result}))"#,
            params(kinds)
        );
        let arguments: String = kinds
            .chars()
            .enumerate()
            .map(|(i, kind)| {
                let word = format!(
                    "(i32.shr_s (i32.shl (i32.load offset={} (local.get $at)) (i32.const 8)) (i32.const 8))",
                    1 + 3 * i
                );
                if kind == 'L' { format!("(i64.extend_i32_s {word})") } else { word }
            })
            .collect();
        let call = format!("(call $f{index} {arguments})");
        let call = if *answers { format!("(drop {call})") } else { call };
        let _ = writeln!(cases, "(if (i32.eq (local.get $function) (i32.const {index})) (then {call}))");
    }
    let count = FUNCTIONS.len();
    build(
        engine,
        &format!(
            r#"(module {IMPORT_CONFIGURATION} {imports} {PRELUDE}
            (func $run (local $length i32) (local $at i32) (local $end i32) (local $function i32)
              {CONFIGURATION}
              (local.set $at (i32.const 65536))
              (local.set $end (i32.add (i32.const 65536) (local.get $length)))
              (loop $next
                (if (i32.lt_u (local.get $at) (local.get $end)) (then
                  (local.set $function (i32.rem_u (i32.load8_u (local.get $at)) (i32.const {count})))
                  {cases}
                  (local.set $at (i32.add (local.get $at) (i32.const 37)))
                  (br $next)))))
            {CALLBACKS})"#
        ),
    )
}

/// A guest that reads and writes the property that its configuration names.
pub(crate) fn property_module(engine: &Engine) -> Module<Box<Stream>> {
    build(
        engine,
        &format!(
            r#"(module {IMPORT_CONFIGURATION}
            (import "env" "proxy_get_property" (func $get (param i32 i32 i32 i32) (result i32)))
            (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
            {PRELUDE}
            (func $run (local $length i32)
              {CONFIGURATION}
              (drop (call $get (i32.const 65536) (local.get $length) (i32.const 8) (i32.const 12)))
              {CONFIGURATION}
              (drop (call $set (i32.const 65536) (local.get $length) (i32.const 65536) (local.get $length)))
              (drop (call $get (i32.const 65536) (local.get $length) (i32.const 8) (i32.const 12))))
            {CALLBACKS})"#
        ),
    )
}

/// A guest whose configuration is an expression.
pub(crate) fn expression_module(engine: &Engine) -> Module<Box<Stream>> {
    build(
        engine,
        &format!(
            r#"(module {IMPORT_CONFIGURATION}
            (import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
            {PRELUDE}
            (data (i32.const 100) "expr_create") (data (i32.const 120) "expr_evaluate") (data (i32.const 140) "expr_delete")
            (func $run (local $length i32)
              {CONFIGURATION}
              (drop (call $foreign (i32.const 100) (i32.const 11) (i32.const 65536) (local.get $length) (i32.const 8) (i32.const 12)))
              (i32.store (i32.const 200) (i32.load (i32.const 65536)))
              (drop (call $foreign (i32.const 120) (i32.const 13) (i32.const 200) (i32.const 4) (i32.const 8) (i32.const 12)))
              (drop (call $foreign (i32.const 140) (i32.const 11) (i32.const 200) (i32.const 4) (i32.const 8) (i32.const 12))))
            {CALLBACKS})"#
        ),
    )
}

/// The guest does the same in every callback.
const CALLBACKS: &str = r#"
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $run) (i32.const 0))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $run) (i32.const 1))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $run) (i32.const 0))
    (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) (call $run))
    (func (export "proxy_on_tick") (param i32) (call $run))
    (func (export "proxy_on_log") (param i32) (call $run))
    (func (export "proxy_on_done") (param i32) (result i32) (call $run) (i32.const 1))
"#;

/// What random modules export: the shape of a plug-in.
pub(crate) fn shape() -> Vec<u8> {
    wat::parse_str(
        r#"(module
        (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) i32.const 0)
        (func (export "_initialize"))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 1)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_log") (param i32)))"#,
    )
    .expect("the module is written well")
}

/// What random modules may import.
pub(crate) fn imports() -> Vec<u8> {
    let mut wat = String::from("(module ");
    for (module, name, kinds, answers) in FUNCTIONS {
        let result = if *answers { "(result i32)" } else { "" };
        let _ = write!(wat, r#"(import "{module}" "{name}" (func (param{}) {result}))"#, params(kinds));
    }
    wat.push(')');
    wat::parse_str(wat).expect("the module is written well")
}

/// A guest that has started, or has not.
pub(crate) struct Guest(Option<Vm<Box<Stream>>>);

impl Guest {
    pub(crate) fn start(module: &Module<Box<Stream>>, configuration: &[u8]) -> Self {
        let plugin = PluginContext {
            name: "fuzz".to_owned(),
            configuration: configuration.to_vec().into(),
            ..PluginContext::default()
        };
        let mut process = Process::new(Arc::new(SystemServices));
        process.shared = SharedState::default();
        Self(Vm::start(module, Arc::new(plugin), &process, limits()).ok())
    }

    /// A stream from its beginning to its end, and whatever the guest started meanwhile.
    pub(crate) fn exchange(self) {
        let Some(mut vm) = self.0 else { return };
        let (stream, created) = vm.create_stream(Stream::new());
        let Ok(id) = created else { return };
        let (stream, _) = vm.on_request_headers(id, stream, 4, false);
        let (stream, _) = vm.on_request_body(id, stream, 6, true);
        let (stream, _) = vm.on_response_headers(id, stream, 1, true);
        for effect in vm.take_effects() {
            if let wasmgate_host::Effect::HttpCall(call) = effect {
                let token: CallToken = call.token;
                let response = HttpCallResponse::default();
                vm.on_http_call_response(token, Some(response)).ok();
            }
        }
        vm.on_tick().ok();
        let (_, _) = vm.end_stream(id, stream);
        drop(vm.take_effects());
        vm.stop();
    }
}
