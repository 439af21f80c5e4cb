//! The host against compiled modules: what loads, what is refused and with which words, what hostcalls answer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use harness::{Log, PRELUDE, Stream, module, start};
use wasmgate_host::{
    AbiVersion, Direction, Engine, FailureReason, HeadersAction, Limits, Module, Process, StartError,
    StreamAction, Vm,
};

/// What a callback returned and asked for, or why it failed.
type Result<T> = std::result::Result<T, FailureReason>;

/// Runs `proxy_on_request_headers` once; the guest's result and the stream afterwards.
fn request(
    vm: &mut Vm<Box<Stream>>,
    stream: Stream,
) -> (Box<Stream>, Result<(HeadersAction, Vec<StreamAction>)>) {
    let (stream, id) = vm.create_stream(Box::new(stream));
    let id = match id {
        Ok(id) => id,
        Err(e) => return (stream, Err(e.reason.clone())),
    };
    let (stream, outcome) = vm.on_request_headers(id, stream, 1, true);
    (stream, outcome.map(|o| (o.action, o.actions.into_vec())).map_err(|e| e.reason.clone()))
}

#[test]
fn what_is_no_plug_in_says_what_it_is() {
    let error = |wat: &str| module(wat).map(|m| m.abi()).unwrap_err().to_string();
    assert!(error("(module)").contains("missing or unknown Proxy-Wasm ABI version"));
    assert!(error("(module (func (export \"_start\")))").contains("-buildmode=c-shared"));
    assert!(
        error("(module (func (export \"proxy_abi_version_0_3_0\")))")
            .contains("unsupported Proxy-Wasm ABI version 0.3.0")
    );
    assert!(
        error("(module (func (export \"proxy_abi_version_0_2_1\")))").contains("no memory named \"memory\"")
    );
    assert!(
        error("(module (func (export \"proxy_abi_version_0_2_1\")) (memory (export \"memory\") 1))")
            .contains("neither proxy_on_memory_allocate nor malloc")
    );
    let signature = format!("(module {PRELUDE} (func (export \"proxy_on_log\") (param i64)))");
    assert!(error(&signature).contains(
        "bad function signature for proxy_on_log: the module exports i64 -> void, the ABI wants i32 -> void"
    ));
    let missing = format!(
        "(module (import \"env\" \"a\" (func)) (import \"wasi_snapshot_preview1\" \"b\" (func)) {PRELUDE})"
    );
    assert!(error(&missing).starts_with("missing import: env.a (void -> void), wasi_snapshot_preview1.b (void -> void); no Proxy-Wasm host provides it"));
    for (start, text) in [
        (
            "(func (export \"_initialize\") (param i32))",
            "for _initialize: the module exports i32 -> void, the ABI wants void -> void",
        ),
        ("(func (export \"_start\") (result i32) i32.const 0)", "for _start"),
        ("(func (export \"_initialize\")) (func (export \"main\") (result i32) i32.const 0)", "for main"),
    ] {
        let found = error(&format!("(module {PRELUDE} {start})"));
        assert!(found.contains("bad function signature") && found.contains(text), "{found}");
    }
    let global = "(module (func (export \"proxy_abi_version_0_2_1\")) (memory (export \"memory\") 1) (global (export \"malloc\") i32 (i32.const 0)))";
    assert!(error(global).contains("neither proxy_on_memory_allocate nor malloc"));
    let mismatch = format!(
        "(module (import \"env\" \"proxy_log\" (func (param i64) (result i32))) (import \"env\" \"proxy_done\" (func)) {PRELUDE})"
    );
    assert_eq!(
        error(&mismatch),
        "import type mismatch: env.proxy_log, the module wants i64 -> i32, the host has i32 i32 i32 -> i32; env.proxy_done, the module wants void -> void, the host has void -> i32"
    );
    let engine = Engine::new().unwrap();
    for (bytes, text) in [
        (&b""[..], "only 0 bytes"),
        (b"<!doctype html>", "first bytes are not"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (b"\0asm\x01\0\0\0\xff", "not a valid"),
    ] {
        let error = Module::<Box<Stream>>::new(&engine, bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn every_abi_version_is_known() {
    for (marker, version) in [
        ("0_1_0", AbiVersion::V0_1_0),
        ("0_2_0", AbiVersion::V0_2_0),
        ("0_2_1", AbiVersion::V0_2_1),
        ("0_2_100", AbiVersion::V0_2_100),
    ] {
        let wat = format!("(module {})", PRELUDE.replace("0_2_1", marker));
        assert_eq!(module(&wat).unwrap().abi(), version);
    }
}

#[test]
fn functions_without_a_result_link_in_both_shapes() {
    for result in ["", "(result i32)"] {
        let imports = format!(
            "(import \"env\" \"proxy_continue_request\" (func {result})) (import \"env\" \"proxy_clear_route_cache\" (func {result}))"
        );
        module(&format!("(module {imports} {PRELUDE})")).unwrap();
    }
}

#[test]
fn all_46_functions_of_wasi_are_there_under_both_names() {
    // Name and parameters: i is i32, l is i64. All but proc_exit return i32.
    const FUNCTIONS: &str = "args_get ii,args_sizes_get ii,environ_get ii,environ_sizes_get ii,clock_res_get ii,clock_time_get ili,\
        fd_advise illi,fd_allocate ill,fd_close i,fd_datasync i,fd_fdstat_get ii,fd_fdstat_set_flags ii,fd_fdstat_set_rights ill,\
        fd_filestat_get ii,fd_filestat_set_size il,fd_filestat_set_times illi,fd_pread iiili,fd_prestat_get ii,fd_prestat_dir_name iii,\
        fd_pwrite iiili,fd_read iiii,fd_readdir iiili,fd_renumber ii,fd_seek ilii,fd_sync i,fd_tell ii,fd_write iiii,\
        path_create_directory iii,path_filestat_get iiiii,path_filestat_set_times iiiilli,path_link iiiiiii,path_open iiiiillii,\
        path_readlink iiiiii,path_remove_directory iii,path_rename iiiiii,path_symlink iiiii,path_unlink_file iii,poll_oneoff iiii,\
        proc_exit i,proc_raise i,random_get ii,sched_yield ,sock_accept iii,sock_recv iiiiii,sock_send iiiii,sock_shutdown ii";
    let functions: Vec<&str> = FUNCTIONS.split(',').collect();
    assert_eq!(functions.len(), 46);
    for name in ["wasi_snapshot_preview1", "wasi_unstable"] {
        let import = |f: &&str| {
            let (function, types) = f.trim().split_once(' ').unwrap_or((f.trim(), ""));
            let params: String = types.chars().map(|c| if c == 'l' { " i64" } else { " i32" }).collect();
            let result = if function == "proc_exit" { "" } else { "(result i32)" };
            format!("(import \"{name}\" \"{function}\" (func (param{params}) {result}))")
        };
        let imports: String = functions.iter().map(import).collect();
        module(&format!("(module {imports} {PRELUDE})")).unwrap();
        let old = format!(
            "(import \"{name}\" \"path_link\" (func (param i32 i32 i32 i32 i32 i32) (result i32)))
             (import \"{name}\" \"path_symlink\" (func (param i32 i32 i32 i32) (result i32)))"
        );
        module(&format!("(module {old} {PRELUDE})")).unwrap();
    }
}

#[test]
fn a_header_is_found_in_any_case_and_a_missing_one_is_not_found() {
    let imports = r#"(import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))"#;
    let code = r#"(data (i32.const 16) "X-Name")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $get (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 0) (i32.const 4))
          (drop (call $log (i32.const 2) (i32.load (i32.const 0)) (i32.load (i32.const 4)))))"#;
    let (mut vm, log) = start(imports, code);
    let stream = Stream { headers: vec![(b"x-name".to_vec(), b"value".to_vec())], ..Stream::default() };
    // The callback's result is the hostcall's status: 0 is Continue, 1 (not found) is Pause.
    assert_eq!(request(&mut vm, stream).1.unwrap().0, HeadersAction::Continue);
    assert_eq!(*log.lines.lock().unwrap(), ["info: value"]);
    assert_eq!(request(&mut vm, Stream::default()).1.unwrap().0, HeadersAction::StopAllAndWatermark);
}

#[test]
fn bad_pointers_are_statuses_and_not_crashes() {
    let imports = r#"(import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
        (import "env" "proxy_send_local_response" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    let code = r#"(func $check (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $check (call $log (i32.const 2) (i32.const -1) (i32.const 10)) (i32.const 6))
          (call $check (call $log (i32.const 9) (i32.const 0) (i32.const 1)) (i32.const 2))
          (call $check (call $pairs (i32.const 0) (i32.const -2) (i32.const 0)) (i32.const 6))
          (call $check (call $pairs (i32.const 99) (i32.const 0) (i32.const 4)) (i32.const 2))
          (call $check (call $send (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 65535) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const -1)) (i32.const 6))
          i32.const 0)"#;
    let (mut vm, _) = start(imports, code);
    assert_eq!(request(&mut vm, Stream::default()).1.unwrap().0, HeadersAction::Continue);
}

#[test]
fn a_local_reply_overrides_the_result_and_the_first_one_wins() {
    let imports = r#"(import "env" "proxy_send_local_response" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))"#;
    let code = r#"(data (i32.const 16) "first one\00second")
        (func $reply (param i32 i32 i32) (drop (call $send (local.get 0) (local.get 1) (local.get 2) (local.get 1) (local.get 2) (i32.const 0) (i32.const 0) (i32.const 7))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $reply (i32.const 403) (i32.const 16) (i32.const 9))
          (call $reply (i32.const 500) (i32.const 26) (i32.const 6))
          (drop (call $continue (i32.const 1)))
          i32.const 0)"#;
    let (mut vm, _) = start(imports, code);
    let (action, actions) = request(&mut vm, Stream::default()).1.unwrap();
    assert_eq!(action, HeadersAction::StopAllAndWatermark);
    let [StreamAction::LocalReply(reply), StreamAction::Continue(Direction::Response)] = actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (reply.status, reply.details.as_str(), &reply.body[..], reply.grpc_status),
        (403, "first_one", &b"first one"[..], Some(7))
    );
}

#[test]
fn a_trap_poisons_the_vm_and_names_the_function() {
    let code = r#"(func $deep unreachable) (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $deep) i32.const 0)"#;
    let (mut vm, _) = start("", code);
    let failed = request(&mut vm, Stream::default()).1.unwrap_err();
    assert!(matches!(failed, FailureReason::Trap(_)), "{failed}");
    let failure = Arc::clone(vm.failure().unwrap());
    assert_eq!(failure.function, "proxy_on_request_headers");
    assert!(failure.frames[0].contains("deep"), "{:?}", failure.frames);
    assert!(request(&mut vm, Stream::default()).1.is_err(), "it is never entered again");
}

#[test]
fn a_loop_meets_its_deadline_and_recursion_its_stack() {
    let engine = Engine::new().unwrap();
    let limits = Limits { callback_time_max: Duration::from_millis(50), ..Limits::default() };
    for (body, label) in [("(loop $l (br $l))", "cpu"), ("(call $r)", "stack")] {
        let code = format!(
            "(func $r (call $r)) (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) {body} i32.const 0)"
        );
        let module =
            Module::new(&engine, &wat::parse_str(format!("(module {PRELUDE} {code})")).unwrap()).unwrap();
        let mut vm =
            Vm::start(&module, Arc::default(), &Process::new(Arc::new(Log::default())), limits).unwrap();
        assert_eq!(request(&mut vm, Stream::default()).1.unwrap_err().label(), label);
    }
}

#[test]
fn start_up_that_loops_rejects_or_leaves_is_an_error() {
    let engine = Engine::new().unwrap();
    let limits = Limits { start_time_max: Duration::from_millis(50), ..Limits::default() };
    let start = |imports: &str, code: &str| {
        let module: Module<Box<Stream>> =
            Module::new(&engine, &wat::parse_str(format!("(module {imports} {PRELUDE} {code})")).unwrap())
                .unwrap();
        Vm::start(&module, Arc::default(), &Process::new(Arc::new(Log::default())), limits).map(|_| ())
    };
    let exit = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    assert!(
        start("", "(func (export \"_initialize\") (loop $l (br $l)))")
            .unwrap_err()
            .to_string()
            .contains("limit: cpu")
    );
    assert!(
        start("", "(func (export \"_initialize\") unreachable)")
            .unwrap_err()
            .to_string()
            .contains("Function: _initialize failed")
    );
    assert!(matches!(
        start("", "(func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) i32.const 0)"),
        Err(StartError::VmStartFalse { .. })
    ));
    assert!(matches!(
        start("", "(func (export \"proxy_on_configure\") (param i32 i32) (result i32) i32.const 0)"),
        Err(StartError::ConfigureFalse { .. })
    ));
    start(exit, "(func (export \"_start\") (call $exit (i32.const 0)))").unwrap();
    assert!(
        start(exit, "(func (export \"_start\") (call $exit (i32.const 3)))")
            .unwrap_err()
            .to_string()
            .contains("proc_exit(3)")
    );
}

#[test]
fn imported_memories_and_tables_are_fresh_for_each_vm() {
    let prelude = PRELUDE.replace("(memory (export \"memory\") 1)", "");
    let code = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (i32.sub (i32.load (i32.const 0)) (i32.const 1)))"#;
    let imports = r#"(import "env" "memory" (memory 1)) (import "env" "table" (table 2 funcref))"#;
    let module = module(&format!("(module {imports} {prelude} {code})")).unwrap();
    for _ in 0..2 {
        let process = Process::new(Arc::new(Log::default()));
        let mut vm = Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap();
        assert_eq!(vm.memory_bytes(), 65536);
        let action = |vm: &mut Vm<Box<Stream>>| request(vm, Stream::default()).1.unwrap().0;
        assert_eq!(action(&mut vm), HeadersAction::Continue, "the counter of a fresh memory is 0");
        assert_eq!(action(&mut vm), HeadersAction::StopAllAndWatermark);
    }
    let global = format!("(module (import \"env\" \"g\" (global i32)) {PRELUDE})");
    let error = harness::module(&global).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("missing import: env.g (a global); no Proxy-Wasm host provides it"), "{error}");
}

#[test]
fn headers_callbacks_of_either_arity_are_called() {
    for params in ["i32 i32", "i32 i32 i32"] {
        for marker in ["0_1_0", "0_2_1"] {
            let code = format!(
                "(func (export \"proxy_on_request_headers\") (param {params}) (result i32) i32.const 1)"
            );
            let module = module(&format!("(module {} {code})", PRELUDE.replace("0_2_1", marker))).unwrap();
            let process = Process::new(Arc::new(Log::default()));
            let mut vm = Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap();
            let (action, _) = request(&mut vm, Stream::default()).1.unwrap();
            assert_eq!(action, HeadersAction::StopAllAndWatermark);
        }
    }
}

#[test]
fn what_a_plug_in_may_not_use_does_nothing() {
    let wat = format!(
        r#"(module (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        {PRELUDE}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.ne (call $log (i32.const 2) (i32.const 0) (i32.const 0)) (i32.const 10)) (then unreachable))
          (if (i32.ne (call $write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8)) (i32.const 76)) (then unreachable))
          i32.const 1)
        (func (export "proxy_on_log") (param i32) unreachable))"#
    );
    let engine = Engine::new().unwrap();
    let compiled = wasmtime::Module::new(engine.wasmtime(), wat::parse_str(wat).unwrap()).unwrap();
    let allowed = BTreeSet::from(["proxy_on_request_headers".to_owned()]);
    let module: Module<Box<Stream>> = Module::restricted(&engine, compiled, allowed).unwrap();
    assert!(module.callbacks().request_headers && !module.callbacks().end);
    let log = Arc::new(Log::default());
    let process = Process::new(Arc::clone(&log) as _);
    let mut vm = Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap();
    let (stream, id) = vm.create_stream(Box::default());
    let id = id.unwrap();
    let (stream, outcome) = vm.on_request_headers(id, stream, 1, true);
    assert_eq!(outcome.unwrap().action, HeadersAction::StopAllAndWatermark);
    vm.end_stream(id, stream).1.unwrap();
    assert_eq!(
        *log.lines.lock().unwrap(),
        [
            "error: Attempted call to restricted proxy-wasm capability: proxy_log",
            "error: Attempted call to restricted WASI capability: fd_write"
        ]
    );
}

#[test]
fn a_capability_that_does_not_exist_is_refused() {
    let engine = Engine::new().unwrap();
    let wat = format!(
        "(module {PRELUDE} (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export \"proxy_on_log\") (param i32)) (func (export \"of_this_module\")))"
    );
    let wasm = wat::parse_str(wat).unwrap();
    let load = |names: &[&str]| {
        let compiled = wasmtime::Module::new(engine.wasmtime(), &wasm).unwrap();
        let allowed = names.iter().map(|n| (*n).to_owned()).collect();
        Module::<Box<Stream>>::restricted(&engine, compiled, allowed)
    };
    let error = load(&["proxy_on_request_header", "proxy_log", "sock_open_all"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "allowed capabilities: there is no function proxy_on_request_header; did you mean \
         proxy_on_request_headers?, there is no function sock_open_all"
    );
    let all = ["proxy_on_log", "fd_write", "envoy_on_resolve_dns", "of_this_module"];
    assert_eq!(load(&all).unwrap().silenced_callbacks(), ["proxy_on_request_headers"]);
    assert_eq!(load(&[]).unwrap().silenced_callbacks(), [""; 0]);
}

#[test]
fn a_panic_at_the_start_is_told_with_its_message_and_what_to_do() {
    let wat = format!(
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        {PRELUDE}
        (data (i32.const 100) "\6e\00\00\00\2b\00\00\00" )
        (data (i32.const 110) "panic: nil dereference\n\ngoroutine 1:\nmain.go\n")
        (func (export "_initialize"))
        (func (export "proxy_on_context_create") (param i32 i32)
          (drop (call $write (i32.const 2) (i32.const 100) (i32.const 1) (i32.const 8)))
          (call $exit (i32.const 2))))"#
    );
    let engine = Engine::new().unwrap();
    let module: Module<Box<Stream>> = Module::new(&engine, &wat::parse_str(wat).unwrap()).unwrap();
    let process = Process::new(Arc::new(Log::default()) as _);
    let error = Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap_err().to_string();
    let first = error.lines().next().unwrap();
    assert_eq!(
        first,
        "Function: proxy_on_context_create failed: proc_exit(2); its last log line: panic: nil dereference; nothing \
         seems to be registered: main() does not run in a plug-in that is built as a reactor, so register in init() \
         (Go: func init() { proxywasm.SetVMContext(…) })"
    );
}

#[test]
fn a_module_that_begins_over_the_limit_says_so() {
    let module = module("(module (memory (export \"memory\") 3) (func (export \"proxy_abi_version_0_2_1\")) (func (export \"malloc\") (param i32) (result i32) i32.const 8))").unwrap();
    let process = Process::new(Arc::new(Log::default()) as _);
    let limits = Limits { memory_bytes_max: 2 << 16, ..Limits::default() };
    let error = Vm::start(&module, Arc::default(), &process, limits).unwrap_err().to_string();
    assert_eq!(error, "the module starts with 196608 bytes of memory, more than the limit of 131072");
}
