//! Does what a request's `x-edge` header, or the configuration, tells it. Tests use it to misbehave on purpose.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root { configuration: String::new() }));
}}

struct Root {
    configuration: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.configuration = text(self.get_plugin_configuration());
        if self.configuration.contains("reject") {
            log::error!("edge does not like its configuration");
            return false;
        }
        while self.configuration.contains("loop-at-start") {
            std::hint::black_box(0);
        }
        if self.configuration.contains("panic-at-start") {
            panic!("edge panics while it starts");
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { order: String::new(), configuration: self.configuration.clone() }))
    }
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

struct Stream {
    order: String,
    configuration: String,
}

impl Stream {
    fn obey(&mut self, phase: &str) {
        let order = self.order.strip_prefix(phase).and_then(|o| o.strip_prefix(':')).unwrap_or_default();
        match order {
            "panic" => panic!("edge panics in {phase}"),
            "loop" => loop {
                std::hint::black_box(0);
            },
            "leak" => loop {
                std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
            },
            "exit" => std::process::exit(3),
            _ => {}
        }
    }

    fn is(&self, order: &str) -> bool {
        self.order == order
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.order = self.get_http_request_header("x-edge").unwrap_or_default();
        self.obey("request");
        match self.order.as_str() {
            "inject-request" => {
                let _ = hostcalls::add_map_value(MapType::HttpRequestHeaders, "x-a", "1\r\nx-injected: 1");
            }
            "huge-header" => {
                let _ = hostcalls::add_map_value(MapType::HttpRequestHeaders, "x-huge", &"x".repeat(1 << 20));
            }
            "inject-response" => self.send_http_response(200, vec![("x-a", "1\r\nx-injected: 1"), ("x-b", "2")], Some(b"ok")),
            "status-1000" => self.send_http_response(1000, vec![], Some(b"odd")),
            "log-injection" => log::info!("one\n2026-01-01T00:00:00.000000Z\terror\tforged\x1b[31m"),
            "path" => self.set_http_request_header(":path", Some("/rewritten?by=edge")),
            "drop-path" => self.set_http_request_header(":path", None),
            "property" => {
                let route = text(self.get_property(vec!["xds", "route_name"]));
                let cluster = text(self.get_property(vec!["cluster_name"]));
                let name = text(self.get_property(vec!["plugin_name"]));
                let env = std::env::var("EDGE").unwrap_or_default();
                let body = format!("{route} {cluster} {name} {env} {}", self.configuration);
                self.send_http_response(200, vec![], Some(body.as_bytes()));
            }
            "set-property" => {
                self.set_property(vec!["edge"], Some(b"kept"));
                let body = text(self.get_property(vec!["edge"]));
                self.send_http_response(200, vec![], Some(body.as_bytes()));
            }
            "pause" => {
                log::info!("edge pauses");
                return Action::Pause;
            }
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.obey("request-body");
        if self.is("buffer-body") {
            if !end {
                return Action::Pause;
            }
            let body = text(self.get_http_request_body(0, size));
            self.send_http_response(200, vec![], Some(format!("{} bytes", body.len()).as_bytes()));
        }
        if self.is("grow-body") && end {
            let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, usize::MAX, b"much longer than what the client has sent");
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.obey("response");
        if self.is("response-header") {
            self.add_http_response_header("x-edge-seen", "1");
            self.set_http_response_header("server", None);
        }
        if self.is("rechunk") {
            self.set_http_response_header("content-length", None);
        }
        if self.is("replace-response") {
            self.send_http_response(511, vec![("x-local", "1")], Some(b"replaced"));
        }
        if self.is("drop-status") {
            self.set_http_response_header(":status", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, _: usize, end: bool) -> Action {
        self.obey("response-body");
        if self.is("rechunk") {
            if !end {
                return Action::Pause;
            }
            let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, usize::MAX, b"a body of another length");
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        // A request that was answered before it came here.
        if self.order.is_empty() {
            self.order = self.get_http_request_header("x-edge").unwrap_or_default();
        }
        self.obey("log");
        if self.is("say-end") {
            log::info!("edge sees the end of {}", self.get_http_request_header(":path").unwrap_or_default());
        }
    }
}
