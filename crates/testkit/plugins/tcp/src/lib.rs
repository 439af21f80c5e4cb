//! A plug-in of `type: NETWORK`: waits for whole lines, does what a line tells it, and writes them in capitals.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, PeerType, Status};

const AUTH: &str = "outbound|80||auth.default.svc.cluster.local";

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root { asks: false, elsewhere: false }));
}}

struct Root {
    asks: bool,
    elsewhere: bool,
}

/// `1: string path, 2: string value`, both shorter than 128 bytes.
fn set_filter_state(path: &str, value: &str) -> Result<Option<Vec<u8>>, Status> {
    let mut arguments = Vec::new();
    for (field, text) in [(1, path), (2, value)] {
        arguments.extend([field << 3 | 2, text.len() as u8]);
        arguments.extend_from_slice(text.as_bytes());
    }
    hostcalls::call_foreign_function("set_envoy_filter_state", Some(&arguments))
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        self.asks = String::from_utf8_lossy(&configuration).contains("ask");
        self.elsewhere = String::from_utf8_lossy(&configuration).contains("elsewhere");
        true
    }

    fn create_stream_context(&self, _: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Connection { asks: self.asks, elsewhere: self.elsewhere }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}

struct Connection {
    asks: bool,
    elsewhere: bool,
}

impl Connection {
    fn ask(&self) {
        let headers = vec![(":method", "GET"), (":path", "/may-i"), (":authority", "auth")];
        let called = self.dispatch_http_call(AUTH, headers, None, vec![], Duration::from_secs(5));
        log::info!("tcp asks: {called:?}");
    }
}

impl Context for Connection {
    fn on_http_call_response(&mut self, _: u32, _: usize, body: usize, _: usize) {
        log::info!("tcp is answered with {body} bytes");
        self.resume_downstream();
    }
}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> Action {
        let source = self.get_property(vec!["source", "address"]).unwrap_or_default();
        let path = self.get_property(vec!["request", "path"]);
        log::info!("tcp connection from {}, path {path:?}", String::from_utf8_lossy(&source));
        if self.elsewhere {
            let set = set_filter_state("envoy.tcp_proxy.cluster", AUTH);
            log::info!("tcp goes elsewhere: {set:?}");
        }
        if self.asks {
            self.ask();
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        let data = self.get_downstream_data(0, size).unwrap_or_default();
        if data.last() != Some(&b'\n') && !end {
            return Action::Pause;
        }
        match data.as_slice() {
            b"close\n" => {
                self.close_downstream();
                return Action::Pause;
            }
            b"panic\n" => panic!("tcp panics"),
            b"ask\n" => {
                self.ask();
                return Action::Pause;
            }
            // Of HTTP streams: without effect here.
            b"http\n" => {
                let _ = hostcalls::send_http_response(403, vec![], Some(b"no"));
                let _ = hostcalls::reset_http_request();
                self.set_downstream_data(0, size, b"STILL THERE\n");
            }
            _ => self.set_downstream_data(0, size, &data.to_ascii_uppercase()),
        }
        Action::Continue
    }

    fn on_upstream_data(&mut self, size: usize, _: bool) -> Action {
        if size > 0 {
            self.set_upstream_data(0, 0, b"<");
        }
        Action::Continue
    }

    fn on_downstream_close(&mut self, peer: PeerType) {
        log::info!("tcp downstream closed, peer {}", peer as u32);
    }

    fn on_upstream_close(&mut self, peer: PeerType) {
        log::info!("tcp upstream closed, peer {}", peer as u32);
    }

    fn on_log(&mut self) {
        log::info!("tcp logs");
    }
}
