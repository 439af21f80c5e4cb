//! Modules that mean harm: each is refused, or contained, with a reason that names the limit.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::{Log, PRELUDE, Stream, module, run_stream};
use wasmgate_host::{Engine, FailureReason, HeadersAction, Limits, Module, Process, StartError, Vm};

const MARKER: &str = r#"(func (export "proxy_abi_version_0_2_1"))"#;

fn vm(wat: &str) -> Result<Vm<Box<Stream>>, StartError> {
    let process = Process::new(Arc::new(Log::default()) as _);
    Vm::start(&module(wat).unwrap(), Arc::default(), &process, Limits::default())
}

#[test]
fn an_embedder_that_does_nothing_about_it_has_a_clock() {
    // As in the examples: no word about time.
    let code = "(func (export \"proxy_on_tick\") (param i32) (loop (br 0)))";
    let wat = format!("(module {PRELUDE} {code})");
    let module = Module::<Box<Stream>>::new(&Engine::new().unwrap(), &wat::parse_str(wat).unwrap()).unwrap();
    let limits = Limits { callback_time_max: Duration::from_millis(50), ..Limits::default() };
    let process = Process::new(Arc::new(wasmgate_host::SystemServices));
    let mut vm = Vm::start(&module, Arc::default(), &process, limits).unwrap();
    let failure = vm.on_tick().unwrap_err();
    assert_eq!(failure.reason.label(), "cpu");
}

#[test]
fn tables_count_together() {
    let tables = "(table 600000 funcref)".repeat(2);
    let wat = format!("(module {PRELUDE} {tables})");
    let module = Module::<Box<Stream>>::new(&Engine::new().unwrap(), &wat::parse_str(wat).unwrap()).unwrap();
    let process = Process::new(Arc::new(wasmgate_host::SystemServices));
    let refused = Vm::start(&module, Arc::default(), &process, Limits::default()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("table"), "{refused}");
}

#[test]
fn an_allocator_that_lies_gets_a_status_and_nothing_is_written() {
    // Nowhere, past the end, across the end; and one page too far, as a signed number would have it.
    for lie in ["0", "-1", "65530", "65536", "-65536"] {
        let mut vm = vm(&format!(
            r#"(module (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1) {MARKER}
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const {lie}))
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (i32.store (i32.const 8) (i32.const 77))
              (if (i32.ne (call $pairs (i32.const 0) (i32.const 8) (i32.const 12)) (i32.const 6)) (then unreachable))
              (if (i32.ne (i32.load (i32.const 8)) (i32.const 77)) (then unreachable))
              (i32.const 0)))"#
        ))
        .unwrap();
        let stream = Stream { headers: vec![(b"a".to_vec(), b"b".to_vec())], ..Stream::default() };
        assert_eq!(run_stream(&mut vm, stream).1, HeadersAction::Continue, "{lie}");
    }
}

#[test]
fn an_allocator_that_calls_back_is_not_entered_again() {
    let mut vm = vm(&format!(
        r#"(module (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 64) "a") {MARKER} (global $depth (mut i32) (i32.const 0))
        (func $read (result i32) (call $get (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 4)))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32)
          (global.set $depth (i32.add (global.get $depth) (i32.const 1)))
          (if (i32.gt_u (global.get $depth) (i32.const 1)) (then unreachable))
          (if (i32.ne (call $read) (i32.const 6)) (then unreachable))
          (i32.const 128))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.ne (call $read) (i32.const 0)) (then unreachable))
          (i32.const 0)))"#
    ))
    .unwrap();
    let stream = Stream { headers: vec![(b"a".to_vec(), b"b".to_vec())], ..Stream::default() };
    assert_eq!(run_stream(&mut vm, stream).1, HeadersAction::Continue);
}

#[test]
fn memories_and_tables_end_at_their_limits() {
    let wat = |memory: &str, more: &str| {
        format!(
            r#"(module (memory (export "memory") {memory}) {more} {MARKER}
            (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#
        )
    };
    let error = vm(&wat("65536", "")).unwrap_err().to_string();
    assert_eq!(error, "the module starts with 4294967296 bytes of memory, more than the limit of 536870912");
    let error = vm(&wat("1", "(table 9000000 funcref)")).unwrap_err().to_string();
    assert!(error.contains("table"), "{error}");
    // What asks for more gets what memory.grow gives when there is none; what then falls over it says why.
    let grows = r#"(func (export "_initialize")
        (if (i32.ne (memory.grow (i32.const 60000)) (i32.const -1)) (then (return)))
        unreachable)"#;
    let error = vm(&wat("1", grows)).unwrap_err();
    assert!(
        matches!(&error, StartError::Failed { failure, .. } if matches!(failure.reason, FailureReason::MemoryLimit(_))),
        "{error}"
    );
}

#[test]
fn start_sections_and_recursion_end_by_themselves() {
    let engine = Engine::new().unwrap();
    let limits = Limits { start_time_max: Duration::from_millis(100), ..Limits::default() };
    let start = |code: &str| {
        let wat = format!(
            r#"(module (memory (export "memory") 1) {MARKER}
            (func (export "malloc") (param i32) (result i32) (i32.const 0)) {code})"#
        );
        let module: Module<Box<Stream>> = Module::new(&engine, &wat::parse_str(wat).unwrap()).unwrap();
        let process = Process::new(Arc::new(Log::default()) as _);
        Vm::start(&module, Arc::default(), &process, limits).map(drop).unwrap_err().to_string()
    };
    assert!(start("(func $spin (loop (br 0))) (start $spin)").contains("limit: cpu"));
    assert!(start("(func $deep (call $deep)) (start $deep)").contains("limit: stack"));
}

#[test]
fn a_million_exports_are_refused_and_a_hundred_thousand_are_just_many() {
    let wat = |count: usize| {
        let exports: String = (0..count).map(|i| format!("(export \"e{i}\" (func $f))")).collect();
        format!(
            r#"(module (memory (export "memory") 1) {MARKER} (func $f) {exports}
            (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#
        )
    };
    assert!(vm(&wat(100_000)).is_ok());
    let error = module(&wat(1_000_000)).unwrap_err().to_string();
    assert!(error.contains("exports count"), "{error}");
}
