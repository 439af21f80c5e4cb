//! Formats of the access log, and lines of streams whose every word is hostile.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use arbitrary::Unstructured;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use wasmgate_proxy::fuzzing::log_line;
use wasmgate_proxy::{LogContext, LogFormat};
use wasmgate_stream::{RequestHead, ResponseHead, StreamData, StreamInfo};

/// Pieces that formats are made of.
const WORDS: &[&str] = &[
    "%REQ(:PATH)%",
    "%REQ(X-A?:AUTHORITY):4%",
    "%RESP(X-A)%",
    "%TRAILER(X-A):0%",
    "%FILTER_STATE(x)%",
    "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "%START_TIME(%s %f)%",
    "%START_TIME%",
    "%DURATION%",
    "%REQ(X-A)%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%UPSTREAM_HOST%",
    "%RESPONSE_CODE_DETAILS%",
    "%PROTOCOL%",
    "%ENVIRONMENT(A)%",
    "%HOSTNAME%",
    "%GRPC_STATUS%",
    "%DYNAMIC_METADATA(a:b)%",
    "%ROUTE_NAME%:3",
    "%%",
    "%",
    "(",
    ")",
    "):1%",
    ":",
    "?",
    "\n",
    "\"",
    "\\",
    "é",
    "\u{7f}",
    "\0",
    "%REQ(",
    "X-A",
    "null",
    "\u{2028}",
];

/// What parses writes lines: one for each stream, whatever stands in it; in JSON, if that is the format.
pub fn access_log_format(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let hostile = stream(bytes.arbitrary::<u8>().unwrap_or(9).into(), data);
    is_json(&log_line(None, &hostile));
    for format in istio() {
        let line = log_line(Some(format), &hostile);
        assert_eq!(breaks(&line), 1, "{}", String::from_utf8_lossy(&line));
    }
    let words = text(&mut bytes);
    let plain = String::from_utf8_lossy(data);
    for format in [plain.as_ref(), &words] {
        is_a_line(format, &hostile);
        if let Ok(format) = LogFormat::json(format, &context()) {
            is_json(&log_line(Some(&format), &hostile));
        }
        let document =
            serde_json::json!({"a": format, format: [format, {"b": [1.5, null, true, format]}]}).to_string();
        match (LogFormat::text(format, &context()), LogFormat::json(&document, &context())) {
            (Ok(_), Ok(format)) => is_json(&log_line(Some(&format), &hostile)),
            (text, json) => assert_eq!(text.is_ok(), json.is_ok(), "{format:?} as text and in JSON"),
        }
    }
}

/// A line of text ends with a break, and no value adds another one.
fn is_a_line(format: &str, hostile: &StreamData) {
    let Ok(parsed) = LogFormat::text(format, &context()) else { return };
    let line = log_line(Some(&parsed), hostile);
    assert_eq!(line.last(), Some(&b'\n'), "{format:?}");
    let harmless = breaks(&log_line(Some(&parsed), &stream(1, b"a")));
    assert_eq!(breaks(&line), harmless, "{format:?}: {}", String::from_utf8_lossy(&line));
    if !format.contains('\n') {
        assert_eq!(harmless, 1, "{format:?}");
    }
}

fn is_json(line: &[u8]) {
    let text = std::str::from_utf8(line).expect("text");
    assert!(text.ends_with('\n') && breaks(line) == 1, "{text:?}");
    assert!(!text.trim_end_matches('\n').contains(|c| c < ' '), "{text:?}");
    if let Err(e) = serde_json::from_str::<serde_json::Value>(text) {
        panic!("{e}: {text}");
    }
}

fn breaks(line: &[u8]) -> usize {
    line.iter().filter(|b| **b == b'\n').count()
}

fn text(bytes: &mut Unstructured<'_>) -> String {
    let mut out = String::new();
    while !bytes.is_empty() && out.len() < 400 {
        match bytes.choose(WORDS) {
            Ok(word) => out.push_str(word),
            Err(_) => break,
        }
    }
    out
}

fn context() -> LogContext {
    LogContext { hostname: "a\"\n".to_owned(), environment: vec![("A".to_owned(), "\u{1}\\".to_owned())] }
}

fn istio() -> &'static [LogFormat] {
    static FORMATS: OnceLock<[LogFormat; 2]> = OnceLock::new();
    FORMATS.get_or_init(|| {
        let both = [LogFormat::istio_text(&context()), LogFormat::istio_json(&context())];
        both.map(|format| format.expect("Istio's formats"))
    })
}

/// A stream in which everything that comes from outside is so many of the bytes again and again, as far as HTTP allows.
fn stream(length: usize, data: &[u8]) -> StreamData {
    let raw: Vec<u8> = data.iter().copied().take(length.max(1)).collect();
    let value: Vec<u8> = raw.iter().copied().filter(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)).collect();
    let value = HeaderValue::from_bytes(&value).expect("a value without control characters");
    let mut headers = HeaderMap::new();
    for name in ["x-a", "user-agent", "x-request-id", "x-forwarded-for", "x-b3-traceid", "grpc-status"] {
        headers.insert(HeaderName::from_static(name), value.clone());
    }
    let mut head = RequestHead::new(Method::GET, Uri::default(), Some(value.clone()), headers.clone());
    head.set_path(value);
    let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut info = StreamInfo::new(UNIX_EPOCH, 7, (address(1), address(2)), &Arc::from(""));
    let text = String::from_utf8_lossy(&raw);
    info.route_name = text.as_ref().into();
    info.cluster_name = text.as_ref().into();
    info.response_code_details = text.to_string().into();
    info.upstream_failure = Some(text.as_ref().into());
    info.duration = Some(Duration::from_millis(data.len() as u64));
    let mut stream = StreamData::new(head, info);
    stream.response = Some(ResponseHead::new(StatusCode::OK, headers.clone()));
    stream.response_trailers = Some(headers);
    assert!(stream.properties.set(b"x", &raw) && stream.properties.set(b"wasm.x", &raw));
    stream
}
