//! Sends the command in a request's `x-redis` header to Redis and answers with its reply.

use std::cell::RefCell;
use std::collections::HashMap;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

const CLUSTER: &str = "outbound|80||auth.default.svc.cluster.local";
const REDIS_REPLY: u32 = 9;

// The SDK does not know these: they are Higress'.
extern "C" {
    fn proxy_redis_init(
        cluster: *const u8,
        cluster_len: usize,
        user: *const u8,
        user_len: usize,
        password: *const u8,
        password_len: usize,
        timeout_ms: u32,
    ) -> u32;
    fn proxy_redis_call(cluster: *const u8, cluster_len: usize, query: *const u8, query_len: usize, token: *mut u32) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> u32;
}

thread_local! {
    /// Call-out → stream.
    static WAITING: RefCell<HashMap<u32, u32>> = RefCell::default();
}

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        let configuration = String::from_utf8_lossy(&configuration).into_owned();
        let password = configuration.split('"').nth(3).unwrap_or_default();
        let cluster = format!("{CLUSTER}?db=3");
        // The host reads what the pointers say during the call only.
        let status = unsafe {
            proxy_redis_init(cluster.as_ptr(), cluster.len(), "".as_ptr(), 0, password.as_ptr(), password.len(), 2000)
        };
        log::info!("redis init: {status}");
        status == 0
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream(id)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream(u32);

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(command) = self.get_http_request_header("x-redis") else { return Action::Continue };
        let words: Vec<&str> = command.split(' ').collect();
        let mut query = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| query.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        let mut token = 0;
        // As above.
        let status = unsafe {
            proxy_redis_call(CLUSTER.as_ptr(), CLUSTER.len(), query.as_ptr(), query.len(), &mut token)
        };
        if status != 0 {
            self.send_http_response(500, vec![], Some(format!("refused: {status}").as_bytes()));
            return Action::Pause;
        }
        WAITING.with_borrow_mut(|waiting| waiting.insert(token, self.0));
        Action::Pause
    }
}

#[no_mangle]
pub extern "C" fn proxy_on_redis_call_response(_: u32, token: u32, status: u32, size: usize) {
    let Some(stream) = WAITING.with_borrow_mut(|waiting| waiting.remove(&token)) else { return };
    let (mut data, mut len) = (std::ptr::null_mut(), 0);
    // The host puts the reply where this module's allocator wants it.
    let reply = unsafe {
        let given = proxy_get_buffer_bytes(REDIS_REPLY, 0, size, &mut data, &mut len) == 0 && !data.is_null();
        if given { Vec::from_raw_parts(data, len, len) } else { Vec::new() }
    };
    if hostcalls::set_effective_context(stream).is_ok() {
        let body = format!("{status}:{}", String::from_utf8_lossy(&reply));
        let _ = hostcalls::send_http_response(200, vec![], Some(body.as_bytes()));
    }
}
