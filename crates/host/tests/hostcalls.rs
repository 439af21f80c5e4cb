//! What hostcalls answer, in tables: the statuses of spec: proxy-wasm-host §4, and what they ask of the embedder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

mod harness;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use harness::{Log, Script, SharedTable, Stream, run_stream};
use wasmgate_host::{
    Direction, Effect, GrpcStatus, HttpCallResponse, Limits, MetricType, Process, QueueConsumer, QueueToken,
    StreamAction, Vm, encode_pairs,
};

/// Data for [`Script::module`] as a WAT string: every byte escaped.
fn wat(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\{b:02x}")).collect()
}

/// A block of data and where its parts are.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    /// Adds a part; its address and length as arguments.
    fn add(&mut self, bytes: &[u8]) -> [i64; 2] {
        let at = 1024 + self.0.len();
        self.0.extend_from_slice(bytes);
        [i64::try_from(at).unwrap(), i64::try_from(bytes.len()).unwrap()]
    }

    fn pairs(&mut self, pairs: &[(&str, &str)]) -> [i64; 2] {
        let mut out = Vec::new();
        encode_pairs(&mut out, &|each| pairs.iter().for_each(|(k, v)| each(k.as_bytes(), v.as_bytes())));
        self.add(&out)
    }
}

const REQUEST_HEADERS: (&str, usize, bool) = ("proxy_on_request_headers", 3, true);

/// Runs the steps once in request headers and gives the VM back.
fn in_request_headers(steps: &[harness::Step<'_>], data: &Data) -> (Vm<Box<Stream>>, Arc<Log>, Box<Stream>) {
    let (name, params, result) = REQUEST_HEADERS;
    let script = Script::default().on(name, params, result, steps);
    let (mut vm, log) = script.start(&wat(&data.0), Limits::default());
    let stream = Stream { headers: vec![(b"a".to_vec(), b"1".to_vec())], ..Stream::default() };
    let (stream, ..) = run_stream(&mut vm, stream);
    log.assert_as_expected();
    (vm, log, stream)
}

#[test]
#[should_panic(expected = "0:01=02")]
fn a_status_that_differs_is_noticed() {
    in_request_headers(&[("proxy_log", &[2, 0, 0], 0), ("proxy_log", &[9, 0, 0], 0)], &Data::default());
}

#[test]
fn an_http_call_is_checked_and_handed_to_the_embedder() {
    let mut data = Data::default();
    let [web, web_len] = data.add(b"web");
    let [down, down_len] = data.add(b"down");
    let [h, h_len] = data.pairs(&[
        (":method", "GET"),
        (":path", "/x"),
        (":authority", "a"),
        ("X-Key", "v"),
        ("bad name", "v"),
    ]);
    let [no_path, no_path_len] = data.pairs(&[(":method", "GET"), (":authority", "a"), ("host", "b")]);
    let [body, body_len] = data.add(b"hello");
    let call = "proxy_http_call";
    let (mut vm, log, _) = in_request_headers(
        &[
            (call, &[web, web_len, h, h_len, body, body_len, 0, 0, 250, 0], 0),
            (call, &[web, web_len, h, h_len, 0, 0, 0, 0, 0, 8], 0),
            (call, &[down, down_len, h, h_len, 0, 0, 0, 0, 5, 4], 10),
            (call, &[body, body_len, h, h_len, 0, 0, 0, 0, 5, 4], 2),
            (call, &[web, web_len, no_path, no_path_len, 0, 0, 0, 0, 5, 4], 2),
            (call, &[web, web_len, body, body_len, 0, 0, 0, 0, 5, 4], 2),
            (call, &[web, web_len, h, h_len, 0, 0, 0, 0, -1, 4], 2),
            (call, &[web, web_len, h, h_len, 0, 0, 0, 0, 5, 65535], 6),
            (call, &[-1, 9, h, h_len, 0, 0, 0, 0, 5, 4], 6),
        ],
        &data,
    );
    let effects = vm.take_effects();
    let [Effect::HttpCall(first), Effect::HttpCall(second)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (first.cluster.as_str(), &first.body[..], first.timeout),
        ("web", &b"hello"[..], Duration::from_millis(250))
    );
    let names: Vec<_> = first.headers.iter().map(|(n, _)| String::from_utf8_lossy(n).into_owned()).collect();
    assert_eq!(names, [":method", ":path", ":authority", "x-key"]);
    assert_eq!(second.timeout, Limits::default().call_time_max, "0 is the host's limit, not for ever");
    assert_ne!(first.token, second.token);
    let lines = log.lines.lock().unwrap().join("\n");
    assert!(lines.contains("there is no cluster \"hello\""), "{lines}");
    assert!(lines.contains("http_call refused: no :path"), "{lines}");
}

#[test]
fn an_answer_shows_in_its_callback_and_nowhere_else() {
    let mut data = Data::default();
    let [web, web_len] = data.add(b"web");
    let [h, h_len] = data.pairs(&[(":method", "GET"), (":path", "/"), (":authority", "a")]);
    let [status, status_len] = data.add(b":STATUS");
    let get_value = "proxy_get_header_map_value";
    let script = Script::default()
        .on(
            REQUEST_HEADERS.0,
            3,
            true,
            &[
                ("proxy_http_call", &[web, web_len, h, h_len, 0, 0, 0, 0, 0, 0], 0),
                ("proxy_http_call", &[web, web_len, h, h_len, 0, 0, 0, 0, 0, 0], 0),
                (get_value, &[6, status, status_len, 0, 4], 1),
                ("proxy_get_buffer_bytes", &[4, 0, 100, 0, 4], 1),
            ],
        )
        .on("proxy_on_http_call_response", 5, false, &[("proxy_log", &[2, 1100, 0], 0)]);
    let (mut vm, log) = script.start(&wat(&data.0), Limits::default());
    run_stream(&mut vm, Stream::default());
    log.assert_as_expected();
    let effects = vm.take_effects();
    let tokens: Vec<_> = effects
        .iter()
        .map(|e| if let Effect::HttpCall(call) = e { call.token } else { panic!("{e:?}") })
        .collect();
    assert_eq!(vm.open_calls(), 2);
    let response = HttpCallResponse {
        headers: vec![(b":status".to_vec(), b"200".to_vec())],
        body: Bytes::from_static(b"body"),
        trailers: Vec::new(),
    };
    vm.on_http_call_response(tokens[0], Some(response.clone())).unwrap();
    vm.on_http_call_response(tokens[0], Some(response)).unwrap();
    vm.on_http_call_response(tokens[1], None).unwrap();
    assert_eq!(vm.open_calls(), 0);
    let calls = log.lines.lock().unwrap().len();
    assert_eq!(calls, 2, "an answer that comes twice is dropped");
}

#[test]
fn maps_buffers_and_status_of_answers() {
    let mut data = Data::default();
    let [svc, svc_len] = data.add(b"web");
    let [name, name_len] = data.add(b"pkg.Service");
    let [method, method_len] = data.add(b"Call");
    let [key, key_len] = data.add(b"K");
    let [h, h_len] = data.pairs(&[(":method", "GET"), (":path", "/"), (":authority", "a")]);
    let (get, value) = ("proxy_get_header_map_value", "proxy_get_header_map_pairs");
    let script = Script::default()
        .on(
            REQUEST_HEADERS.0,
            3,
            true,
            &[
                ("proxy_grpc_stream", &[svc, svc_len, name, name_len, method, method_len, 0, 0, 0], 0),
                (
                    "proxy_grpc_call",
                    &[svc, svc_len, name, name_len, method, method_len, 0, 0, key, key_len, 70, 4],
                    0,
                ),
                ("proxy_http_call", &[svc, svc_len, h, h_len, 0, 0, 0, 0, 0, 8], 0),
                (value, &[4, 0, 4], 0),
                ("proxy_get_header_map_size", &[5, 0], 2),
                ("proxy_add_header_map_value", &[6, key, key_len, key, key_len], 2),
                ("proxy_get_buffer_bytes", &[5, 0, 100, 0, 4], 0),
            ],
        )
        .on(
            "proxy_on_grpc_receive_initial_metadata",
            3,
            false,
            &[(get, &[4, key, key_len, 0, 4], 0), (get, &[5, key, key_len, 0, 4], 1)],
        )
        .on(
            "proxy_on_grpc_receive",
            3,
            false,
            &[("proxy_get_buffer_bytes", &[5, 0, 100, 0, 4], 0), ("proxy_log", &[2, 1024, 3], 0)],
        )
        .on(
            "proxy_on_grpc_receive_trailing_metadata",
            3,
            false,
            &[(get, &[5, key, key_len, 0, 4], 0), ("proxy_get_header_map_size", &[5, 0], 0)],
        )
        .on(
            "proxy_on_grpc_close",
            3,
            false,
            &[("proxy_get_status", &[0, 4, 8], 0), ("proxy_log", &[1, 1024, 3], 0)],
        )
        .on(
            "proxy_on_http_call_response",
            5,
            false,
            &[
                (get, &[6, key, key_len, 0, 4], 0),
                (get, &[7, key, key_len, 0, 4], 1),
                ("proxy_get_buffer_bytes", &[4, 0, 100, 0, 4], 0),
                ("proxy_set_buffer_bytes", &[4, 0, 1, key, key_len], 2),
                ("proxy_get_buffer_status", &[4, 0, 4], 0),
            ],
        );
    let (mut vm, log) = script.start(&wat(&data.0), Limits::default());
    run_stream(&mut vm, Stream::default());
    log.assert_as_expected();
    let effects = vm.take_effects();
    let [Effect::GrpcStream(stream, target), Effect::GrpcCall(call), Effect::HttpCall(http)] =
        effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (target.cluster.as_str(), target.service.as_str(), target.method.as_str(), target.authority.as_str()),
        ("web", "pkg.Service", "Call", "web")
    );
    assert_eq!(
        (&call.message[..], call.timeout, call.has_timeout),
        (&b"K"[..], Duration::from_millis(70), true)
    );
    let pair = || vec![(b"k".to_vec(), b"v".to_vec())];
    vm.on_grpc_initial_metadata(*stream, pair()).unwrap();
    vm.on_grpc_receive(*stream, Bytes::from_static(b"m"), false).unwrap();
    vm.on_grpc_trailing_metadata(*stream, pair()).unwrap();
    vm.on_grpc_close(*stream, GrpcStatus { code: 7, message: b"no".to_vec() }).unwrap();
    vm.on_grpc_receive(*stream, Bytes::from_static(b"late"), false).unwrap();
    vm.on_grpc_receive(call.token, Bytes::from_static(b"m"), true).unwrap();
    vm.on_grpc_close(call.token, GrpcStatus::default()).unwrap();
    let answer = HttpCallResponse { headers: pair(), body: Bytes::from_static(b"b"), trailers: Vec::new() };
    vm.on_http_call_response(http.token, Some(answer)).unwrap();
    log.assert_as_expected();
    let told =
        log.lines.lock().unwrap().iter().map(|l| l.split(':').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(told, ["info", "debug", "info"], "two messages and one end");
}

#[test]
fn grpc_tokens_of_the_wrong_kind_and_services_that_cannot_be_found() {
    let mut data = Data::default();
    let [svc, svc_len] = data.add(b"web");
    let [none, none_len] = data.add(b"envoy");
    // GrpcService{1: EnvoyGrpc{1: "web", 2: "auth.example"}, 3: Duration{2: 5000000}, 5: HeaderValue{1: "K", 2: "v"}}
    let [proto, proto_len] = data.add(
        b"\x0a\x13\x0a\x03web\x12\x0cauth.example\x1a\x05\x10\xc0\x96\xb1\x02\x2a\x06\x0a\x01K\x12\x01v",
    );
    let [other, other_len] = data.add(b"\x0a\x04\x0a\x02no");
    let [name, name_len] = data.add(b"pkg.Service");
    let [method, method_len] = data.add(b"Call");
    let (call, stream) = ("proxy_grpc_call", "proxy_grpc_stream");
    let (mut vm, ..) = in_request_headers(
        &[
            (stream, &[svc, svc_len, name, name_len, method, method_len, 0, 0, 0], 0),
            (call, &[proto, proto_len, name, name_len, method, method_len, 0, 0, 0, 0, 0, 4], 0),
            (call, &[none, none_len, name, name_len, method, method_len, 0, 0, 0, 0, 0, 4], 4),
            (call, &[other, other_len, name, name_len, method, method_len, 0, 0, 0, 0, 0, 4], 4),
            (stream, &[none, none_len, name, name_len, method, method_len, 0, 0, 0], 4),
            (call, &[svc, svc_len, name, name_len, 1024, 0, 0, 0, 0, 0, 0, 4], 10),
            // The stream's number is 6, the call's 5.
            ("proxy_grpc_send", &[6, name, name_len, 0], 0),
            ("proxy_grpc_send", &[5, name, name_len, 0], 2),
            ("proxy_grpc_send", &[4, name, name_len, 0], 2),
            ("proxy_grpc_send", &[0xff00, name, name_len, 0], 2),
            ("proxy_grpc_send", &[0xff02, name, name_len, 0], 1),
            ("proxy_grpc_send", &[6, -1, 9, 0], 6),
            ("proxy_grpc_close", &[6], 0),
            ("proxy_grpc_send", &[6, name, name_len, 0], 2),
            ("proxy_grpc_close", &[6], 0),
            ("proxy_grpc_close", &[0xff00], 2),
            ("proxy_grpc_close", &[0xff01], 1),
            ("proxy_grpc_cancel", &[5], 0),
            ("proxy_grpc_cancel", &[5], 1),
            ("proxy_grpc_cancel", &[0xff00], 2),
            ("proxy_grpc_cancel", &[0xff02], 1),
        ],
        &data,
    );
    let effects = vm.take_effects();
    let [
        Effect::GrpcStream(opened, _),
        Effect::GrpcCall(unary),
        Effect::GrpcSend(sent, _, false),
        Effect::GrpcHalfClose(closed),
        Effect::GrpcCancel(cancelled),
    ] = effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!((sent, closed, *cancelled), (opened, opened, unary.token));
    assert_eq!(
        (unary.target.authority.as_str(), unary.timeout, unary.has_timeout),
        ("auth.example", Duration::from_millis(5), true)
    );
    assert_eq!(unary.target.metadata, [(b"k".to_vec(), b"v".to_vec())]);
    assert_eq!(vm.open_calls(), 1, "the half-closed stream");
}

#[test]
fn shared_data_and_queues() {
    let mut data = Data::default();
    let [k, k_len] = data.add(b"key");
    let [q, q_len] = data.add(b"queue");
    let (set, get) = ("proxy_set_shared_data", "proxy_get_shared_data");
    let steps: &[harness::Step<'_>] = &[
        (get, &[k, k_len, 0, 4, 8], 1),
        (set, &[k, k_len, q, q_len, 0], 0),
        (get, &[k, k_len, 0, 4, 8], 0),
        (get, &[k, k_len, 0, 4, 65535], 6),
        (set, &[k, k_len, q, q_len, 1], 0),
        (set, &[k, k_len, q, q_len, 1], 8),
        // A null pointer of no length removes.
        (set, &[k, k_len, 0, 0, 2], 0),
        (get, &[k, k_len, 0, 4, 8], 1),
        (set, &[k, k_len, k, 0, 0], 0),
        (get, &[k, k_len, 0, 4, 8], 0),
        (set, &[-1, 5, q, q_len, 0], 6),
        ("proxy_resolve_shared_queue", &[0, 0, q, q_len, 0], 1),
        ("proxy_register_shared_queue", &[q, q_len, 0], 0),
        ("proxy_resolve_shared_queue", &[0, 0, q, q_len, 0], 0),
        ("proxy_resolve_shared_queue", &[k, k_len, q, q_len, 0], 1),
        ("proxy_dequeue_shared_queue", &[1, 0, 4], 7),
        ("proxy_enqueue_shared_queue", &[1, k, k_len], 0),
        ("proxy_enqueue_shared_queue", &[9, k, k_len], 1),
        ("proxy_enqueue_shared_queue", &[0, k, k_len], 1),
        ("proxy_dequeue_shared_queue", &[1, 65535, 4], 6),
        ("proxy_dequeue_shared_queue", &[1, 0, 4], 0),
        ("proxy_dequeue_shared_queue", &[9, 0, 4], 1),
    ];
    in_request_headers(steps, &data);
}

#[derive(Default)]
struct Told(Mutex<Vec<QueueToken>>);

impl QueueConsumer for Told {
    fn queue_ready(&self, token: QueueToken) {
        self.0.lock().unwrap().push(token);
    }
}

#[test]
fn a_vm_that_waits_for_its_turn_takes_no_queue_away() {
    let mut data = Data::default();
    let [q, q_len] = data.add(b"queue");
    let script = Script::default()
        .on("proxy_on_context_create", 2, false, &[("proxy_register_shared_queue", &[q, q_len, 0], 0)])
        .on("proxy_on_queue_ready", 2, false, &[("proxy_dequeue_shared_queue", &[1, 0, 4], 0)]);
    let module = script.module(&wat(&data.0));
    let log = Arc::new(Log::default());
    let process = Process::new(Arc::clone(&log) as _);
    let start = || Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap();
    let (mut first, mut spare) = (start(), start());
    let told = Arc::new(Told::default());
    first.set_queue_consumer(Arc::clone(&told) as _);
    let space = process.shared.namespace("");
    let token = space.find_queue(b"queue").unwrap();
    space.enqueue(token, b"item");
    assert_eq!(*told.0.lock().unwrap(), [token], "the spare has registered later and is not served");
    first.on_queue_ready(token).unwrap();
    let last = Arc::new(Told::default());
    spare.set_queue_consumer(Arc::clone(&last) as _);
    space.enqueue(token, b"item");
    assert_eq!((told.0.lock().unwrap().len(), last.0.lock().unwrap().len()), (1, 1));
    spare.on_queue_ready(token).unwrap();
    log.assert_as_expected();
}

#[test]
fn metrics() {
    let mut data = Data::default();
    let [n, n_len] = data.add(b"name");
    let (define, increment, record, get) =
        ("proxy_define_metric", "proxy_increment_metric", "proxy_record_metric", "proxy_get_metric");
    let log = Arc::new(Log::default());
    let process = Process::new(Arc::clone(&log) as _);
    let script = Script::default().on(
        REQUEST_HEADERS.0,
        3,
        true,
        &[
            (define, &[0, n, n_len, 0], 0),
            (define, &[1, n, n_len, 0], 0),
            (define, &[2, n, n_len, 0], 0),
            (define, &[3, n, n_len, 0], 2),
            (define, &[0, n, n_len, 65535], 6),
            (increment, &[4, 5], 0),
            (increment, &[4, -1], 2),
            (increment, &[4, 0], 2),
            (record, &[4, 2], 0),
            (increment, &[9, -3], 0),
            (increment, &[14, 1], 2),
            (record, &[14, 3], 0),
            (get, &[4, 16], 0),
            (get, &[14, 16], 2),
            (get, &[4, 65530], 6),
            (increment, &[400, 1], 1),
            (increment, &[402, 1], 2),
            (record, &[402, 1], 1),
            (get, &[401, 16], 1),
            (get, &[402, 16], 2),
        ],
    );
    let mut vm =
        Vm::start(&script.module(&wat(&data.0)), Arc::default(), &process, Limits::default()).unwrap();
    run_stream(&mut vm, Stream::default());
    log.assert_as_expected();
    let values: Vec<_> = process.metrics.all().into_iter().map(|(_, m)| (m.kind(), m.get())).collect();
    assert_eq!(
        values,
        [
            (MetricType::Counter, Some(7)),
            (MetricType::Gauge, Some(3_u64.wrapping_neg())),
            (MetricType::Histogram, None)
        ]
    );
}

#[test]
fn timers_count_once_and_not_faster_than_the_limit() {
    let (mut vm, ..) = in_request_headers(
        &[("proxy_set_tick_period_milliseconds", &[5], 0), ("proxy_set_tick_period_milliseconds", &[7], 0)],
        &Data::default(),
    );
    assert_eq!(vm.take_effects(), [Effect::Tick(Some(Duration::from_millis(7)))]);
    let limits = Limits { tick_period_min: Duration::from_millis(100), ..Limits::default() };
    for (asked, period) in [(1, Some(Duration::from_millis(100))), (0, None)] {
        let script = Script::default().on(
            "proxy_on_tick",
            1,
            false,
            &[("proxy_set_tick_period_milliseconds", &[asked], 0)],
        );
        let (mut vm, _) = script.start("", limits);
        vm.on_tick().unwrap();
        assert_eq!(vm.take_effects(), [Effect::Tick(period)]);
    }
}

#[test]
fn another_context_is_changed_and_continued_from_a_tick() {
    let mut data = Data::default();
    let [n, n_len] = data.add(b"x-user");
    let effective = "proxy_set_effective_context";
    let add: &[i64] = &[0, n, n_len, n, n_len];
    // The stream's number is 2.
    let script = Script::default().on(
        "proxy_on_tick",
        1,
        false,
        &[
            ("proxy_add_header_map_value", add, 2),
            (effective, &[2], 0),
            ("proxy_add_header_map_value", add, 0),
            ("proxy_continue_stream", &[0], 0),
            (effective, &[99], 2),
            ("proxy_add_header_map_value", add, 0),
            (effective, &[1], 0),
            ("proxy_add_header_map_value", add, 2),
            (effective, &[0], 0),
        ],
    );
    let (mut vm, log) = script.start(&wat(&data.0), Limits::default());
    let table = SharedTable::default();
    vm.set_streams(Box::new(table.clone()));
    let (stream, id) = vm.create_stream(Box::default());
    let id = id.unwrap();
    table.0.lock().unwrap().idle.push((id, stream));
    vm.on_tick().unwrap();
    log.assert_as_expected();
    let table = table.0.lock().unwrap();
    assert_eq!(table.idle[0].1.headers.len(), 2);
    assert_eq!(table.asked, [(id, vec![StreamAction::Continue(Direction::Request)])]);
}

#[test]
fn foreign_functions() {
    let mut data = Data::default();
    let mut name = |text: &str| data.add(text.as_bytes());
    let [compress, compress_len] = name("compress");
    let [uncompress, uncompress_len] = name("uncompress");
    let [create, create_len] = name("expr_create");
    let [evaluate, evaluate_len] = name("expr_evaluate");
    let [delete, delete_len] = name("expr_delete");
    let [state, state_len] = name("set_envoy_filter_state");
    let [declare, declare_len] = name("declare_property");
    let [verify, verify_len] = name("verify_signature");
    let [route, route_len] = name("clear_route_cache");
    let [good, good_len] =
        name("request.headers['a'] == '1' && request.size > 4 && request.path.startsWith('/')");
    let [zero, zero_len] = name("1 / 0");
    let [bad, bad_len] = name("1 +");
    let [loops, loops_len] = name("[1].all(a, [1].all(b, [1].all(c, true)))");
    let [pattern, pattern_len] = name("request.path.matches(request.method)");
    let zeros = vec!["0"; 600].join(",");
    let costly = format!("[{zeros}].all(a, [{zeros}].all(b, '/'.matches('x')))");
    let [costly, costly_len] = name(&costly);
    let [t0, _] = data.add(&0_u32.to_le_bytes());
    let [t1, _] = data.add(&1_u32.to_le_bytes());
    let [t2, _] = data.add(&2_u32.to_le_bytes());
    let [t3, _] = data.add(&3_u32.to_le_bytes());
    let [known, known_len] = data.add(b"\x0a\x05known\x12\x01v");
    let [known_bad, known_bad_len] = data.add(b"\x0a\x05known\x12\x03bad");
    let [unknown, unknown_len] = data.add(b"\x0a\x05other");
    let [once, once_len] = data.add(b"\x0a\x04once\x10\x01");
    let [once_name, once_name_len] = data.add(b"once");
    let call = "proxy_call_foreign_function";
    let (_, _, stream) = in_request_headers(
        &[
            (call, &[good, 3, 0, 0, 0, 0], 1),
            (call, &[compress, compress_len, good, good_len, 0, 4], 0),
            (call, &[compress, compress_len, good, good_len, 0, 0], 0),
            (call, &[compress, compress_len, good, good_len, 4, 65535], 6),
            (call, &[uncompress, uncompress_len, good, good_len, 0, 4], 3),
            (call, &[create, create_len, good, good_len, 0, 4], 0),
            (call, &[create, create_len, zero, zero_len, 0, 4], 0),
            (call, &[create, create_len, bad, bad_len, 0, 4], 2),
            (call, &[create, create_len, 0, 0, 0, 4], 2),
            (call, &[create, create_len, loops, loops_len, 0, 4], 0),
            (call, &[create, create_len, pattern, pattern_len, 0, 4], 2),
            (call, &[create, create_len, costly, costly_len, 0, 4], 0),
            (call, &[evaluate, evaluate_len, t0, 4, 0, 4], 0),
            (call, &[evaluate, evaluate_len, t1, 4, 0, 4], 10),
            (call, &[evaluate, evaluate_len, t2, 4, 0, 4], 0),
            (call, &[evaluate, evaluate_len, t3, 4, 0, 4], 10),
            (call, &[evaluate, evaluate_len, t0, 3, 0, 4], 2),
            (call, &[delete, delete_len, t0, 4, 0, 4], 0),
            (call, &[delete, delete_len, t0, 4, 0, 4], 0),
            (call, &[delete, delete_len, t0, 2, 0, 4], 2),
            (call, &[evaluate, evaluate_len, t0, 4, 0, 4], 1),
            (call, &[state, state_len, known, known_len, 0, 4], 0),
            (call, &[state, state_len, known_bad, known_bad_len, 0, 4], 2),
            (call, &[state, state_len, unknown, unknown_len, 0, 4], 1),
            (call, &[state, state_len, t1, 3, 0, 4], 2),
            (call, &[declare, declare_len, once, once_len, 0, 4], 0),
            (call, &[declare, declare_len, once, once_len, 0, 4], 2),
            ("proxy_set_property", &[once_name, once_name_len, good, 1], 0),
            ("proxy_set_property", &[once_name, once_name_len, good, 1], 2),
            (call, &[verify, verify_len, once, once_len, 0, 4], 0),
            (call, &[route, route_len, 0, 0, 0, 4], 0),
        ],
        &data,
    );
    assert!(stream.route_cleared);
}

#[test]
fn a_root_context_that_wants_time_gets_it_until_it_says_done() {
    let code = r#"(func (export "proxy_on_done") (param i32) (result i32) (call $expect (i32.const 1)) i32.const 0)
        (func $expect (param i32) (if (i32.ne (call $done) (local.get 0)) (then unreachable)))
        (func (export "proxy_on_tick") (param i32) (drop (call $done)))"#;
    let imports = r#"(import "env" "proxy_done" (func $done (result i32)))"#;
    // Before it is told to end there is nothing to be done with.
    let (mut vm, _) = harness::start(imports, code);
    vm.on_tick().unwrap();
    assert!(vm.take_effects().is_empty());
    let waits = code.replace("(call $expect (i32.const 1))", "");
    let (mut vm, _) = harness::start(imports, &waits);
    assert!(!vm.begin_stop());
    vm.on_tick().unwrap();
    assert_eq!(vm.take_effects(), [Effect::Done]);
    vm.stop();
    let at_once = code.replace("(call $expect (i32.const 1))", "(call $expect (i32.const 0))");
    let (mut vm, _) = harness::start(imports, &at_once);
    assert!(vm.begin_stop(), "done within on_done is the same as true");
}

#[test]
fn before_the_root_exists_nothing_can_be_asked_for() {
    let imports = r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
        (import "env" "proxy_http_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;
    let code = r#"(func (export "_initialize")
        (if (i32.ne (call $tick (i32.const 5)) (i32.const 10)) (then unreachable)))"#;
    let (mut vm, _) = harness::start(imports, code);
    assert!(vm.take_effects().is_empty());
}

#[test]
fn what_a_guest_hands_over_is_bounded() {
    let mut data = Data::default();
    let [web, web_len] = data.add(b"web");
    let [h, h_len] = data.pairs(&[(":method", "GET"), (":path", "/x"), (":authority", "a")]);
    let [large, large_len] =
        data.pairs(&[(":method", "GET"), (":path", "/x"), (":authority", "a"), ("x-large", "0123456789")]);
    let [compress, compress_len] = data.add(b"compress");
    let [declare, declare_len] = data.add(b"declare_property");
    let [ok_name, ok_name_len] = data.add(b"\x0a\x0812345678");
    let [long_name, long_name_len] = data.add(b"\x0a\x09123456789");
    let [rebuild, rebuild_len] = data.add(b"wasm_need_rebuild");
    let [yes, yes_len] = data.add(b"true");
    let (call, foreign) = ("proxy_http_call", "proxy_call_foreign_function");
    let steps: [harness::Step<'_>; 11] = [
        (call, &[web, web_len, large, large_len, 0, 0, 0, 0, 5, 4], 10),
        (call, &[web, web_len, h, h_len, 0, 0, 0, 0, 5, 4], 0),
        (call, &[web, web_len, h, h_len, 0, 0, 0, 0, 5, 4], 10),
        (foreign, &[compress, compress_len, 1024, 13, 0, 0], 2),
        (foreign, &[compress, compress_len, 1024, 12, 0, 0], 0),
        (foreign, &[declare, declare_len, long_name, long_name_len, 0, 0], 2),
        (foreign, &[declare, declare_len, ok_name, ok_name_len, 0, 0], 0),
        ("proxy_get_property", &[1024, 9, 0, 4], 1),
        ("proxy_set_header_map_pairs", &[0, large, large_len], 0),
        ("proxy_set_property", &[rebuild, rebuild_len, yes, yes_len], 0),
        ("proxy_set_property", &[rebuild, rebuild_len, yes, yes_len], 0),
    ];
    let (name, params, result) = REQUEST_HEADERS;
    let limits = Limits {
        call_bytes_max: 32,
        foreign_argument_bytes_max: 12,
        property_path_bytes_max: 8,
        header_value_bytes_max: 9,
        ..Limits::default()
    };
    let (mut vm, log) = Script::default().on(name, params, result, &steps).start(&wat(&data.0), limits);
    run_stream(&mut vm, Stream::default());
    log.assert_as_expected();
    let rebuilds = vm.take_effects().into_iter().filter(|e| matches!(e, Effect::Rebuild)).count();
    assert_eq!(rebuilds, 1, "asking twice changes nothing");
    let lines = log.lines.lock().unwrap().join("\n");
    assert!(lines.contains("left out 1 pairs that would corrupt the message or are too large"), "{lines}");
}

#[test]
fn an_item_that_cannot_be_handed_over_stays_in_its_queue() {
    let wat = r#"(module
        (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
        (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
        (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (global $full (mut i32) (i32.const 0))
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) (global.get $full))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $register (i32.const 64) (i32.const 1) (i32.const 0)))
          (drop (call $enqueue (i32.load (i32.const 0)) (i32.const 64) (i32.const 3)))
          (if (i32.ne (call $dequeue (i32.load (i32.const 0)) (i32.const 4) (i32.const 8)) (i32.const 6)) (then unreachable))
          (global.set $full (i32.const 128))
          (if (i32.ne (call $dequeue (i32.load (i32.const 0)) (i32.const 4) (i32.const 8)) (i32.const 0)) (then unreachable))
          (if (i32.ne (i32.load (i32.const 8)) (i32.const 3)) (then unreachable))
          (if (i32.ne (call $dequeue (i32.load (i32.const 0)) (i32.const 4) (i32.const 8)) (i32.const 7)) (then unreachable))
          (i32.const 0)))"#;
    let module = harness::module(wat).unwrap();
    let process = Process::new(Arc::new(Log::default()) as _);
    let mut vm = Vm::start(&module, Arc::default(), &process, Limits::default()).unwrap();
    let (stream, id) = vm.create_stream(Box::default());
    vm.on_request_headers(id.unwrap(), stream, 1, true).1.unwrap();
}
