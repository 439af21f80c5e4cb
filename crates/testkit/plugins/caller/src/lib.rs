//! Uses everything that reaches beyond the stream at hand: call-outs, timers, shared data and queues, metrics, foreign
//! functions. A request's `x-call` header says what.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType};

const CLUSTER: &str = "outbound|8000||httpbin.default.svc.cluster.local";
const AUTH: &str = "outbound|80||auth.default.svc.cluster.local";
const PENDING: &str = "pending";

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root { configuration: String::new(), queue: 0, ticks: 0 }));
}}

extern "C" {
    fn proxy_get_upstream_hosts(data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_upstream_override_host(address: *const u8, size: usize) -> u32;
}

/// The pair list as it comes.
fn upstream_hosts() -> Option<Vec<u8>> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // The host puts the list where this module's allocator wants it.
    unsafe { (proxy_get_upstream_hosts(&mut data, &mut size) == 0).then(|| Vec::from_raw_parts(data, size, size)) }
}

struct Root {
    configuration: String,
    queue: u32,
    ticks: u32,
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, _: usize) {
        let status = text(self.get_http_call_response_header(":status").map(String::into_bytes));
        log::info!("root call answered {status} with {headers} headers and {body} bytes");
    }

    fn on_done(&mut self) -> bool {
        if self.configuration.contains("last-words") {
            let headers = vec![(":method", "POST"), (":path", "/last-words"), (":authority", "x")];
            let called = self.dispatch_http_call(CLUSTER, headers, None, vec![], Duration::from_secs(5));
            log::info!("root is told to end, last call: {called:?}");
            self.configuration = "ending".to_owned();
            self.set_tick_period(Duration::from_millis(20));
            return false;
        }
        true
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.configuration = text(self.get_plugin_configuration());
        if self.configuration.contains("tick") {
            self.set_tick_period(Duration::from_millis(20));
        }
        if self.configuration.contains("queue") {
            self.queue = self.register_shared_queue("work");
        }
        if self.configuration.contains("call") {
            let headers = vec![(":method", "GET"), (":path", "/configure"), (":authority", "x")];
            let called = self.dispatch_http_call(CLUSTER, headers, None, vec![], Duration::from_secs(5));
            log::info!("call while configuring: {called:?}");
        }
        true
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        if self.configuration == "ending" {
            log::info!("root is done");
            self.done();
            return;
        }
        // Streams that pause leave their number; the tick resumes them.
        if let (Some(bytes), cas) = self.get_shared_data(PENDING) {
            for id in bytes.chunks_exact(4).filter_map(|c| c.try_into().ok()).map(u32::from_le_bytes) {
                match hostcalls::set_effective_context(id) {
                    Ok(()) => {
                        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, "x-ticked", Some("yes"));
                        let _ = hostcalls::resume_http_request();
                    }
                    Err(status) => log::info!("stream {id} is over: {status:?}"),
                }
            }
            let _ = self.set_shared_data(PENDING, Some(b""), cas);
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(item)) = self.dequeue_shared_queue(queue) {
            log::info!("queue gave {}", text(Some(item)));
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, order: String::new(), left: 0, total: 0 }))
    }
}

struct Stream {
    id: u32,
    order: String,
    left: usize,
    total: usize,
}

impl Stream {
    fn call(&self, cluster: &str, path: &str, timeout_ms: u64) -> Result<u32, proxy_wasm::types::Status> {
        let headers = vec![(":method", "POST"), (":path", path), (":authority", "auth.test"), ("x-from", "caller")];
        self.dispatch_http_call(cluster, headers, Some(b"ask"), vec![], Duration::from_millis(timeout_ms))
    }

    fn answer(&self, status: u32, body: &str) {
        self.send_http_response(status, vec![], Some(body.as_bytes()));
    }

    fn add(&self, key: &str) -> u32 {
        loop {
            let (value, cas) = self.get_shared_data(key);
            let n = value.and_then(|v| v.try_into().ok()).map_or(0, u32::from_le_bytes) + 1;
            if self.set_shared_data(key, Some(&n.to_le_bytes()), cas).is_ok() {
                return n;
            }
        }
    }

    fn leave_number(&self) {
        loop {
            let (bytes, cas) = self.get_shared_data(PENDING);
            let mut bytes = bytes.unwrap_or_default();
            bytes.extend_from_slice(&self.id.to_le_bytes());
            if self.set_shared_data(PENDING, Some(&bytes), cas).is_ok() {
                return;
            }
        }
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _: u32, headers: usize, body: usize, _: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        let said = text(self.get_http_call_response_body(0, body));
        self.left = self.left.saturating_sub(1);
        self.total += 1;
        match self.order.as_str() {
            "panic" => panic!("caller panics in its call's answer"),
            "auth" | "auth-body" if status == "200" => {
                self.set_http_request_header("x-user", Some(said.trim()));
                self.resume_http_request();
            }
            "auth" | "auth-body" => self.answer(403, &format!("auth says {status} {said}")),
            "many" if self.left > 0 => {}
            "many" => self.answer(200, &format!("{} answers", self.total)),
            "response" => {
                self.set_http_response_header("x-called", Some(&status));
                self.resume_http_response();
            }
            _ => self.answer(200, &format!("{status} {headers} {body} {said}")),
        }
    }

    fn on_grpc_call_response(&mut self, _: u32, code: u32, size: usize) {
        let message = text(self.get_grpc_call_response_body(0, size));
        let (_, words) = hostcalls::get_grpc_status().unwrap_or((0, None));
        self.answer(200, &format!("grpc {code} {message}{}", words.unwrap_or_default()));
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        let message = text(self.get_grpc_stream_message_body_compat(size));
        log::info!("stream {token} says {message}");
        self.total += 1;
        if self.total == 2 {
            self.close_grpc_stream(token);
        }
    }

    fn on_grpc_stream_close(&mut self, _: u32, code: u32) {
        self.answer(200, &format!("stream ended with {code} after {}", self.total));
    }
}

impl Stream {
    fn get_grpc_stream_message_body_compat(&self, size: usize) -> Option<Vec<u8>> {
        hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size).ok().flatten()
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.order = self.get_http_request_header("x-call").unwrap_or_default();
        match self.order.as_str() {
            "auth" | "panic" | "show" => {
                let path = self.get_http_request_header("x-auth-path").unwrap_or_else(|| "/auth".to_owned());
                match self.call(AUTH, &path, 5000) {
                    Ok(_) => return Action::Pause,
                    Err(status) => self.answer(500, &format!("{status:?}")),
                }
            }
            "slow" => {
                let _ = self.call(AUTH, "/slow", 100);
                return Action::Pause;
            }
            "many" => {
                self.left = (0..10).filter(|i| self.call(AUTH, &format!("/{i}"), 5000).is_ok()).count();
                return Action::Pause;
            }
            "unknown" => {
                let status = self.call("no-such-cluster", "/", 100);
                self.answer(200, &format!("{status:?}"));
            }
            "tick" => {
                self.leave_number();
                return Action::Pause;
            }
            "count" => {
                let n = self.add("count");
                self.answer(200, &n.to_string());
            }
            "enqueue" => match self.resolve_shared_queue("", "work") {
                Some(queue) => {
                    let _ = self.enqueue_shared_queue(queue, Some(b"an item"));
                    self.answer(200, "queued");
                }
                None => self.answer(404, "no queue"),
            },
            "metric" => {
                let counter = hostcalls::define_metric(MetricType::Counter, "caller.requests").unwrap();
                hostcalls::increment_metric(counter, 3).unwrap();
                let gauge = hostcalls::define_metric(MetricType::Gauge, "caller-level").unwrap();
                hostcalls::increment_metric(gauge, -2).unwrap();
                let histogram = hostcalls::define_metric(MetricType::Histogram, "caller.size").unwrap();
                hostcalls::record_metric(histogram, 40).unwrap();
                self.answer(200, &hostcalls::get_metric(counter).unwrap().to_string());
            }
            "foreign" => {
                let small = hostcalls::call_foreign_function("compress", Some(&[b'a'; 2000])).unwrap().unwrap();
                let again = hostcalls::call_foreign_function("uncompress", Some(&small)).unwrap().unwrap();
                let source = b"request.headers['x-call'] == 'foreign' && connection.id > 0u";
                let token = hostcalls::call_foreign_function("expr_create", Some(source)).unwrap().unwrap();
                let value = hostcalls::call_foreign_function("expr_evaluate", Some(&token));
                self.answer(200, &format!("{} {} {value:?}", small.len() < 100, again.len()));
            }
            "grpc" | "grpc-fail" => {
                let method = if self.order == "grpc" { "Echo" } else { "Fail" };
                let metadata = vec![("x-meta", &b"m"[..])];
                match self.dispatch_grpc_call(AUTH, "test.Service", method, metadata, Some(b"hello"), Duration::from_secs(5)) {
                    Ok(_) => return Action::Pause,
                    Err(status) => self.answer(500, &format!("{status:?}")),
                }
            }
            "grpc-stream" => match self.open_grpc_stream(AUTH, "test.Service", "Chat", vec![]) {
                Ok(token) => {
                    self.send_grpc_stream_message(token, Some(b"one"), false);
                    self.send_grpc_stream_message(token, Some(b"two"), false);
                    return Action::Pause;
                }
                Err(status) => self.answer(500, &format!("{status:?}")),
            },
            "pin" => match text(upstream_hosts()) {
                hosts if !hosts.contains("Healthy") => self.answer(500, &hosts),
                hosts => {
                    let wanted = self.get_http_request_header("x-pin").unwrap_or_default();
                    let _ = unsafe { proxy_set_upstream_override_host(wanted.as_ptr(), wanted.len()) };
                    self.set_http_request_header("x-known", Some(if hosts.contains(&wanted) { "yes" } else { "no" }));
                }
            },
            "big-body" => {
                let limit = self.get_http_request_header("x-limit").unwrap_or_default();
                self.set_property(vec!["set_decoder_buffer_limit"], Some(limit.as_bytes()));
            }
            "keep-route" => {
                self.set_property(vec!["clear_route_cache"], Some(b"off"));
                self.set_http_request_header(":path", Some("/nowhere"));
            }
            "change-route" => self.set_http_request_header(":path", Some("/nowhere")),
            "memory" => {
                let size = self.get_property(vec!["plugin_vm_memory"]).unwrap();
                self.answer(200, &u64::from_le_bytes(size.try_into().unwrap()).to_string());
            }
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, _: usize, end: bool) -> Action {
        if self.order == "big-body" && !end {
            return Action::Pause;
        }
        if self.order == "auth-body" {
            if end && self.left == 0 {
                self.left = 1;
                let _ = self.call(AUTH, "/auth", 5000);
            }
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.order == "response" && self.call(AUTH, "/response", 5000).is_ok() {
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, _: usize, end: bool) -> Action {
        if self.order == "trailers" && end {
            self.add_http_response_trailer("x-trailer", "added");
        }
        if self.order == "inject" && end {
            // 1: string body, 2: bool endstream
            let _ = hostcalls::call_foreign_function("inject_encoded_data_to_filter_chain", Some(b"\x0a\x08injected\x10\x01"));
            return Action::Pause;
        }
        Action::Continue
    }
}
