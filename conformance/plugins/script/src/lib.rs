//! An interpreter: carries out the hostcalls that its configuration lists for each callback, and logs what each answered.
//!
//! The configuration is text. `script NAME` begins a script; every further line is `CALLBACK OPERATION ARGUMENT…`. A
//! request chooses its script with the header `x-script`. Arguments are percent-encoded; `-` stands for the empty one.
//! `CALLBACK@2` is the second call only, `CALLBACK@end` the one with end of stream. The hostcalls are called as the ABI has
//! them, without an SDK between: an SDK would stop at a status that it does not expect.

mod abi;
mod operations;

use std::cell::RefCell;
use std::collections::HashMap;

/// One line of a script.
#[derive(Clone, Debug)]
struct Step {
    callback: String,
    /// `None`: every call.
    which: Option<Which>,
    operation: String,
    arguments: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    Nth(usize),
    End,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    case: String,
    script: String,
    trace: String,
    calls: HashMap<String, usize>,
}

#[derive(Default)]
struct Root {
    scripts: HashMap<String, Vec<Step>>,
    streams: HashMap<u32, Stream>,
    /// Call-out token → stream.
    tokens: HashMap<u32, u32>,
}

thread_local! {
    static ROOT: RefCell<Root> = RefCell::default();
}

/// What one callback works with.
struct Turn {
    context: u32,
    /// The last token, number or size that a hostcall gave, for `$`.
    last: u32,
    result: u32,
    trace: String,
}

fn decode(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex: String = bytes.by_ref().take(2).map(char::from).collect();
            out.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    out
}

fn parse(text: &str) -> HashMap<String, Vec<Step>> {
    let (mut scripts, mut current) = (HashMap::new(), String::new());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "script" {
            current = words.next().unwrap_or_default().to_owned();
            scripts.entry(current.clone()).or_insert_with(Vec::new);
            continue;
        }
        let (callback, which) = match first.split_once('@') {
            Some((callback, "end")) => (callback, Some(Which::End)),
            Some((callback, n)) => (callback, n.parse().ok().map(Which::Nth)),
            None => (first, None),
        };
        let step = Step {
            callback: callback.to_owned(),
            which,
            operation: words.next().unwrap_or_default().to_owned(),
            arguments: words.map(decode).collect(),
        };
        scripts.entry(current.clone()).or_insert_with(Vec::new).push(step);
    }
    scripts
}

/// Runs what the stream's script has for a callback; the callback's result.
fn run(context: u32, callback: &str, shown: &str, end: bool) -> u32 {
    let steps = ROOT.with_borrow_mut(|root| {
        let stream = root.streams.get_mut(&context)?;
        let count = stream.calls.entry(callback.to_owned()).or_default();
        *count += 1;
        let n = *count;
        let script = root.scripts.get(&stream.script)?;
        let fits = |s: &&Step| {
            s.callback == callback
                && match s.which {
                    None => true,
                    Some(Which::Nth(wanted)) => wanted == n,
                    Some(Which::End) => end,
                }
        };
        Some(script.iter().filter(fits).cloned().collect::<Vec<_>>())
    });
    let mut turn = Turn { context, last: 0, result: 0, trace: format!(" {callback}{shown}") };
    for step in steps.unwrap_or_default() {
        operations::run(&mut turn, &step.operation, &step.arguments);
    }
    let (result, trace) = (turn.result, turn.trace);
    ROOT.with_borrow_mut(|root| {
        if let Some(stream) = root.streams.get_mut(&context) {
            stream.trace.push_str(&trace);
        }
    });
    result
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut memory = Vec::with_capacity(size);
    let pointer = memory.as_mut_ptr();
    std::mem::forget(memory);
    pointer
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    if parent != 0 {
        ROOT.with_borrow_mut(|root| root.streams.insert(context, Stream::default()));
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_: u32, _: u32) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_: u32, _: u32) -> u32 {
    let text = abi::buffer(7, 0, u32::MAX).1.unwrap_or_default();
    let scripts = parse(&configuration(&text));
    ROOT.with_borrow_mut(|root| root.scripts = scripts);
    1
}

/// The configuration is the text itself, or a JSON object with the text in `script`.
fn configuration(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let Some((_, rest)) = text.split_once("\"script\":\"") else { return text };
    let mut out = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            _ => out.push(c),
        }
    }
    out
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _: u32, end: u32) -> u32 {
    let get = |name: &str| abi::header(0, name.as_bytes()).1.map(|v| String::from_utf8_lossy(&v).into_owned());
    let (script, case) = (get("x-script").unwrap_or_default(), get("x-case").unwrap_or_default());
    ROOT.with_borrow_mut(|root| {
        if let Some(stream) = root.streams.get_mut(&context) {
            (stream.script, stream.case) = (script, case);
        }
    });
    run(context, "request_headers", &format!("({end})"), end != 0)
}

macro_rules! bodies {
    ($($export:ident = $name:literal;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $export(context: u32, size: u32, end: u32) -> u32 {
            run(context, $name, &format!("({size},{end})"), end != 0)
        }
    )*};
}

macro_rules! trailers {
    ($($export:ident = $name:literal;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $export(context: u32, count: u32) -> u32 {
            run(context, $name, &format!("({count})"), true)
        }
    )*};
}

bodies! { proxy_on_request_body = "request_body"; proxy_on_response_body = "response_body"; }
trailers! { proxy_on_request_trailers = "request_trailers"; proxy_on_response_trailers = "response_trailers"; }

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context: u32, _: u32, end: u32) -> u32 {
    run(context, "response_headers", &format!("({end})"), end != 0)
}

/// The stream that made a call, with which the script goes on.
fn answered(token: u32, callback: &str, shown: &str) {
    if let Some(context) = ROOT.with_borrow_mut(|root| root.tokens.get(&token).copied()) {
        run(context, callback, shown, true);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(_: u32, token: u32, headers: u32, body: u32, trailers: u32) {
    let shown = format!("({},{body},{trailers})", u32::from(headers > 0));
    answered(token, "http_call_response", &shown);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(_: u32, token: u32, size: u32) {
    answered(token, "grpc_receive", &format!("({size})"));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(_: u32, token: u32, status: u32) {
    answered(token, "grpc_close", &format!("({status})"));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    run(context, "log", "", true);
    let said = ROOT.with_borrow_mut(|root| {
        let stream = root.streams.get_mut(&context)?;
        (!stream.case.is_empty()).then(|| format!("trace {}:{}", stream.case, stream.trace))
    });
    if let Some(said) = said {
        abi::log(2, said.as_bytes());
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(_: u32) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    ROOT.with_borrow_mut(|root| {
        root.streams.remove(&context);
        root.tokens.retain(|_, stream| *stream != context);
    });
}
