//! Answers 403 unless a request carries `allow: true`.
//!
//! The configuration may replace the answer's body: `{"body": "..."}`.

use log::debug;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

const BODY: &str = "Forbidden by ASM Wasm Plugin";

proxy_wasm::main! {{
    // Everything is handed over; the host's own level decides what is shown.
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root { body: BODY.to_owned() }));
}}

struct Root {
    body: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        if size > 0 {
            let text = self.get_plugin_configuration().unwrap_or_default();
            match body_of(&String::from_utf8_lossy(&text)) {
                Some(body) => self.body = body,
                None => {
                    log::error!("the configuration must be an object with a string \"body\"");
                    return false;
                }
            }
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { body: self.body.clone() }))
    }
}

/// The value of `"body"` in a flat JSON object: enough for one string without escapes.
fn body_of(json: &str) -> Option<String> {
    let (_, rest) = json.split_once("\"body\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(body, _)| body.to_owned())
}

struct Stream {
    body: String,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let allow = self.get_http_request_header("allow").unwrap_or_default();
        if allow == "true" {
            return Action::Continue;
        }
        debug!("request header: 'allow' is {allow}, only true can passthrough");
        self.send_http_response(403, vec![("Content-Type", "text/plain")], Some(self.body.as_bytes()));
        Action::Pause
    }
}
