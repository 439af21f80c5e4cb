//! What a script can ask for.

use crate::abi::{self, *};
use crate::{ROOT, Turn};

/// A value in the trace: what could be mistaken for the trace itself is escaped.
fn shown(value: &[u8]) -> String {
    const BYTES_MAX: usize = 120;
    let mut out = String::new();
    for byte in value.iter().take(BYTES_MAX) {
        match byte {
            b'%' | b' ' => out.push_str(&format!("%{byte:02x}")),
            0x21..=0x7e => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    if value.len() > BYTES_MAX {
        out.push_str(&format!("…{}", value.len()));
    }
    out
}

/// `k=v,k=v` as the ABI's pair list; a single `!` makes one that is malformed.
fn pairs(text: &[u8]) -> Vec<u8> {
    if text == b"!" {
        return b"\x05\0\0\0\x01\0\0\0".to_vec();
    }
    let list: Vec<(Vec<u8>, Vec<u8>)> = text
        .split(|b| *b == b',')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let at = p.iter().position(|b| *b == b'=').unwrap_or(p.len());
            (p[..at].to_vec(), p.get(at + 1..).unwrap_or_default().to_vec())
        })
        .collect();
    let mut out = (list.len() as u32).to_le_bytes().to_vec();
    for (key, value) in &list {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (key, value) in list {
        out.extend_from_slice(&key);
        out.push(0);
        out.extend_from_slice(&value);
        out.push(0);
    }
    out
}

/// The pairs of a map, as `k=v,k=v`, without those that each proxy sets in its own way.
fn listed(encoded: &[u8]) -> String {
    let word = |at: usize| encoded.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap())) as usize;
    let count = word(0);
    let mut at = 4 + count * 8;
    let mut out = Vec::new();
    for i in 0..count {
        let (key_len, value_len) = (word(4 + i * 8), word(8 + i * 8));
        let key = encoded.get(at..at + key_len).unwrap_or_default();
        let value = encoded.get(at + key_len + 1..at + key_len + 1 + value_len).unwrap_or_default();
        at += key_len + value_len + 2;
        let own = [&b"x-request-id"[..], b"x-forwarded-for", b"date", b"server", b"x-envoy-upstream-service-time", b"x-case", b"x-script"];
        if !own.contains(&key) {
            out.push(format!("{}={}", shown(key), shown(value)));
        }
    }
    out.join(",")
}

impl Turn {
    fn say(&mut self, operation: &str, status: u32) {
        self.trace.push_str(&format!(" {operation}={status}"));
    }

    fn say_value(&mut self, operation: &str, (status, value): (u32, Option<Vec<u8>>)) {
        self.say(operation, status);
        if let Some(value) = value {
            self.trace.push(':');
            self.trace.push_str(&shown(&value));
        }
    }

    /// A number, or `$` for the last one that a hostcall gave.
    fn number(&self, argument: Option<&Vec<u8>>) -> u32 {
        let text = argument.map(|a| String::from_utf8_lossy(a).into_owned()).unwrap_or_default();
        match text.as_str() {
            "$" => self.last,
            "self" => self.context,
            text => text.parse::<i64>().unwrap_or(0) as u32,
        }
    }
}

/// Carries one line out.
pub fn run(turn: &mut Turn, operation: &str, arguments: &[Vec<u8>]) {
    let number = |i: usize| turn.number(arguments.get(i));
    let bytes = |i: usize| arguments.get(i).map_or(&[][..], Vec::as_slice);
    let len = |i: usize| bytes(i).len() as u32;
    let at = |i: usize| bytes(i).as_ptr();
    let mut last = 0_usize;
    // SAFETY (all of them): pointers and lengths are those of slices that live through the call.
    match operation {
        "return" => turn.result = number(0),
        "trap" => std::process::abort(),
        "get" => turn.say_value("get", abi::header(number(0), bytes(1))),
        "pairs" => {
            let (status, value) = giving(|p, s| unsafe { proxy_get_header_map_pairs(number(0), p, s) });
            turn.say("pairs", status);
            if let Some(value) = value {
                turn.trace.push(':');
                turn.trace.push_str(&listed(&value));
            }
        }
        "size" => {
            let status = unsafe { proxy_get_header_map_size(number(0), &mut last) };
            turn.say("size", status);
        }
        "set_pairs" => {
            let encoded = pairs(bytes(1));
            let status = unsafe { proxy_set_header_map_pairs(number(0), encoded.as_ptr(), encoded.len() as u32) };
            turn.say("set_pairs", status);
        }
        "add" => {
            let status = unsafe { proxy_add_header_map_value(number(0), at(1), len(1), at(2), len(2)) };
            turn.say("add", status);
        }
        "replace" => {
            let status = unsafe { proxy_replace_header_map_value(number(0), at(1), len(1), at(2), len(2)) };
            turn.say("replace", status);
        }
        "remove" => {
            let status = unsafe { proxy_remove_header_map_value(number(0), at(1), len(1)) };
            turn.say("remove", status);
        }
        "body" => turn.say_value("body", abi::buffer(number(0), number(1), number(2))),
        "body_status" => {
            let mut flags = 0;
            let status = unsafe { proxy_get_buffer_status(number(0), &mut last, &mut flags) };
            turn.say("body_status", status);
            turn.trace.push_str(&format!(":{last}"));
        }
        "set_body" => {
            let status = unsafe { proxy_set_buffer_bytes(number(0), number(1), number(2), at(3), len(3)) };
            turn.say("set_body", status);
        }
        "property" => {
            let path: Vec<u8> = bytes(0).iter().map(|b| if *b == b'.' { 0 } else { *b }).collect();
            let value = giving(|p, s| unsafe { proxy_get_property(path.as_ptr(), path.len() as u32, p, s) });
            turn.say_value("property", value);
        }
        // Only whether it is there: the value differs from run to run.
        "has_property" => {
            let path: Vec<u8> = bytes(0).iter().map(|b| if *b == b'.' { 0 } else { *b }).collect();
            let (status, value) = giving(|p, s| unsafe { proxy_get_property(path.as_ptr(), path.len() as u32, p, s) });
            turn.say("has_property", status);
            turn.trace.push_str(&format!(":{}", value.is_some_and(|v| !v.is_empty())));
        }
        "set_property" => {
            let status = unsafe { proxy_set_property(at(0), len(0), at(1), len(1)) };
            turn.say("set_property", status);
        }
        "continue" => {
            let status = unsafe { proxy_continue_stream(number(0)) };
            turn.say("continue", status);
        }
        "close" => {
            let status = unsafe { proxy_close_stream(number(0)) };
            turn.say("close", status);
        }
        "reply" => {
            let headers = pairs(bytes(3));
            let grpc = arguments.get(4).map_or(u32::MAX, |a| turn.number(Some(a)));
            let status = unsafe {
                proxy_send_local_response(number(0), at(1), len(1), at(2), len(2), headers.as_ptr(), headers.len() as u32, grpc)
            };
            turn.say("reply", status);
        }
        "say" => {
            let status = abi::log(number(0), bytes(1));
            turn.say("say", status);
        }
        "level" => {
            let status = unsafe { proxy_get_log_level(&mut last) };
            turn.say("level", status);
        }
        "time" => {
            let mut time = 0;
            let status = unsafe { proxy_get_current_time_nanoseconds(&mut time) };
            turn.say("time", status);
            turn.trace.push_str(&format!(":{}", time > 1_600_000_000_000_000_000));
        }
        "tick" => {
            let status = unsafe { proxy_set_tick_period_milliseconds(number(0)) };
            turn.say("tick", status);
        }
        "effective" => {
            let status = unsafe { proxy_set_effective_context(number(0)) };
            turn.say("effective", status);
        }
        "done" => {
            let status = unsafe { proxy_done() };
            turn.say("done", status);
        }
        "status" => {
            let mut code = 0;
            let value = giving(|p, s| unsafe { proxy_get_status(&mut code, p, s) });
            turn.say_value("status", value);
            turn.trace.push_str(&format!("/{code}"));
        }
        // cluster, headers, body, timeout
        "http_call" => {
            let headers = pairs(bytes(1));
            let status = unsafe {
                proxy_http_call(at(0), len(0), headers.as_ptr(), headers.len() as u32, at(2), len(2), at(0), 0, number(3), &mut last)
            };
            called(turn, "http_call", status, last);
        }
        // cluster, service, method, message, timeout
        "grpc_call" => {
            let status = unsafe {
                proxy_grpc_call(at(0), len(0), at(1), len(1), at(2), len(2), at(0), 0, at(3), len(3), number(4), &mut last)
            };
            called(turn, "grpc_call", status, last);
        }
        "grpc_stream" => {
            let status = unsafe { proxy_grpc_stream(at(0), len(0), at(1), len(1), at(2), len(2), at(0), 0, &mut last) };
            called(turn, "grpc_stream", status, last);
        }
        "grpc_send" => {
            let status = unsafe { proxy_grpc_send(number(0), at(1), len(1), number(2)) };
            turn.say("grpc_send", status);
        }
        "grpc_cancel" => {
            let status = unsafe { proxy_grpc_cancel(number(0)) };
            turn.say("grpc_cancel", status);
        }
        "grpc_close" => {
            let status = unsafe { proxy_grpc_close(number(0)) };
            turn.say("grpc_close", status);
        }
        "shared_set" => {
            let status = unsafe { proxy_set_shared_data(at(0), len(0), at(1), len(1), number(2)) };
            turn.say("shared_set", status);
        }
        "shared_get" => {
            let mut cas = 0;
            let value = giving(|p, s| unsafe { proxy_get_shared_data(at(0), len(0), p, s, &mut cas) });
            turn.last = cas as u32;
            turn.say_value("shared_get", value);
        }
        "queue_register" => {
            let status = unsafe { proxy_register_shared_queue(at(0), len(0), &mut last) };
            (turn.last, _) = (last as u32, ());
            turn.say("queue_register", status);
        }
        "queue_resolve" => {
            let status = unsafe { proxy_resolve_shared_queue(at(0), len(0), at(1), len(1), &mut last) };
            turn.last = last as u32;
            turn.say("queue_resolve", status);
        }
        "enqueue" => {
            let status = unsafe { proxy_enqueue_shared_queue(number(0), at(1), len(1)) };
            turn.say("enqueue", status);
        }
        "dequeue" => {
            let value = giving(|p, s| unsafe { proxy_dequeue_shared_queue(number(0), p, s) });
            turn.say_value("dequeue", value);
        }
        "metric_define" => {
            let status = unsafe { proxy_define_metric(number(0), at(1), len(1), &mut last) };
            turn.last = last as u32;
            turn.say("metric_define", status);
        }
        "metric_increment" => {
            let status = unsafe { proxy_increment_metric(number(0), i64::from(number(1) as i32) as u64) };
            turn.say("metric_increment", status);
        }
        "metric_record" => {
            let status = unsafe { proxy_record_metric(number(0), u64::from(number(1))) };
            turn.say("metric_record", status);
        }
        "metric_get" => {
            let mut value = 0;
            let status = unsafe { proxy_get_metric(number(0), &mut value) };
            turn.say("metric_get", status);
            if status == 0 {
                turn.trace.push_str(&format!(":{}", value as i64));
            }
        }
        "foreign" => {
            let value = giving(|p, s| unsafe { proxy_call_foreign_function(at(0), len(0), at(1), len(1), p, s) });
            turn.say_value(&format!("foreign.{}", String::from_utf8_lossy(bytes(0))), value);
        }
        // Numbers for everything, pointers included.
        "raw" => {
            let name = String::from_utf8_lossy(bytes(0)).into_owned();
            let numbers: Vec<u64> = (1..arguments.len())
                .map(|i| String::from_utf8_lossy(bytes(i)).parse::<i64>().unwrap_or(0) as u64)
                .collect();
            match abi::raw(&name, &numbers) {
                Some(status) => turn.say(&name, status),
                None => turn.trace.push_str(&format!(" no-such-function:{name}")),
            }
        }
        other => turn.trace.push_str(&format!(" no-such-operation:{other}")),
    }
}

/// A call-out has been started, or not.
fn called(turn: &mut Turn, operation: &str, status: u32, token: usize) {
    turn.say(operation, status);
    if status == 0 {
        turn.last = token as u32;
        ROOT.with_borrow_mut(|root| root.tokens.insert(token as u32, turn.context));
    }
}
