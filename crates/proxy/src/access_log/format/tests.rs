use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Uri};
use wasmgate_stream::{RequestHead, ResponseHead, StreamData, StreamInfo};

use super::*;

fn context() -> LogContext {
    LogContext { hostname: "edge-1".to_owned(), environment: vec![("REGION".to_owned(), "eu".to_owned())] }
}

fn data() -> StreamData {
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("curl \"8\""));
    headers.insert("x-long", HeaderValue::from_static("abcdefgh"));
    let authority = Some(HeaderValue::from_static("a.test"));
    let mut head = RequestHead::new(Method::GET, Uri::default(), authority, headers);
    head.set_path(HeaderValue::from_static("/p?q=1"));
    let addresses = ("10.0.0.9:4321".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let mut info = StreamInfo::new(UNIX_EPOCH, 7, addresses, &Arc::from(""));
    info.route_name = "route".into();
    info.cluster_name = "outbound|80||a".into();
    info.upstream_host = Some("10.1.0.1:8080".parse().unwrap());
    info.response_code_details = "via_upstream".into();
    info.upstream_attempts = 2;
    info.duration = Some(Duration::from_millis(42));
    info.response_begun = Some(Duration::from_millis(30));
    let mut data = StreamData::new(head, info);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    data.response = Some(ResponseHead::new(http::StatusCode::OK, headers));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("5"));
    data.response_trailers = Some(trailers);
    assert!(data.properties.set(b"user", b"anna\n"));
    data
}

fn entry(data: &StreamData) -> Entry<'_> {
    Entry {
        data: Some(data),
        downstream_local: data.info.downstream_local,
        downstream_remote: data.info.downstream_remote,
        start: UNIX_EPOCH + Duration::from_nanos(1_795_332_568_862_345_678),
        duration_ms: 42,
        status: 200,
        flags: "UF,URX",
        details: "",
        bytes_sent: 0,
    }
}

fn line(format: &LogFormat) -> String {
    let data = data();
    let mut out = Vec::new();
    format.write(&mut out, &entry(&data));
    String::from_utf8(out).unwrap()
}

#[test]
fn every_operator_has_its_value() {
    for (format, wanted) in [
        ("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)%", "GET /p?q=1 a.test"),
        ("%REQ(x-none?User-Agent)%", "curl \"8\""),
        ("%REQ(X-LONG):3%|%REQ(X-LONG):30%", "abc|abcdefgh"),
        ("%RESP(content-type)% %RESP(x-none)%", "text/plain -"),
        ("%TRAILER(grpc-status)% %GRPC_STATUS%", "5 5"),
        ("%START_TIME%", "2026-11-22T07:29:28.862Z"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2026/11/22T07:29:28+0000 1795332568"),
        ("%START_TIME(%b %3f %6f %f)%", "Nov 862 862345 862345678"),
        ("%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%", "42 30 12 -"),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "200 UF,URX via_upstream"),
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS%", "10.1.0.1:8080 8080 -"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.9 80"),
        ("%FILTER_STATE(wasm.user:PLAIN)% %FILTER_STATE(user)%", "anna\\x0a anna\\x0a"),
        ("%ROUTE_NAME% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "route outbound|80||a 2"),
        ("%HOSTNAME% %ENVIRONMENT(REGION)% %DYNAMIC_METADATA(a:b)%", "edge-1 eu -"),
        ("100%% %PROTOCOL%", "100% HTTP/1.1"),
    ] {
        let format = LogFormat::text(format, &context()).unwrap();
        assert_eq!(line(&format), format!("{wanted}\n"));
    }
}

#[test]
fn json_has_numbers_nulls_and_escapes() {
    let format = r#"{"status":"%RESPONSE_CODE%","agent":"%REQ(USER-AGENT)%","none":"%REQ(X-NONE)%","mixed":"%REQ(:METHOD)% \"%REQ(X-NONE)%\"","state":"%FILTER_STATE(user)%","list":["%DURATION%",1,true],"more":{"a":{}}}"#;
    let format = LogFormat::json(format, &context()).unwrap();
    let wanted = r#"{"status":200,"agent":"curl \"8\"","none":null,"mixed":"GET \"-\"","state":"anna\u000a","list":[42,1,true],"more":{"a":{}}}"#;
    assert_eq!(line(&format), format!("{wanted}\n"));
    let parsed: Json = serde_json::from_str(&line(&format)).unwrap();
    assert_eq!(parsed["state"], "anna\n");
}

#[test]
fn istios_formats_are_formats() {
    let text = line(&LogFormat::istio_text(&context()).unwrap());
    let begin = "[2026-11-22T07:29:28.862Z] \"GET /p?q=1 HTTP/1.1\" 200 UF,URX via_upstream - \"-\" 0 0 42 - \"-\" \"curl \"8\"\" \"-\" \"a.test\" \"10.1.0.1:8080\" outbound|80||a - 10.0.0.1:80 10.0.0.9:4321 - route\n";
    assert_eq!(text, begin);
    let json: Json = serde_json::from_str(&line(&LogFormat::istio_json(&context()).unwrap())).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 24);
    assert_eq!((&json["response_code"], &json["request_id"]), (&Json::from(200), &Json::Null));
}

#[test]
fn what_is_wrong_is_said() {
    for (format, wanted) in [
        ("%NONSENSE%", "%NONSENSE% is no operator; BYTES_RECEIVED, "),
        ("%DURATION", "the operator %DURATION… has no end"),
        ("%REQ(X", "has no end"),
        ("%REQ%", "%REQ(…)% needs a parameter"),
        ("%REQ(a b)%", "\"a b\" is no header name"),
        ("%REQ(X):many%", "\"many\" in %REQ(X):many% is no length"),
        ("%DURATION(ms)%", "%DURATION% has no parameter"),
        ("%START_TIME(%Q)%", "%Q of START_TIME is not supported"),
        ("%ENVIRONMENT(HOME)%", "not allowed by --allow-host-env HOME"),
    ] {
        let error = LogFormat::text(format, &context()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{format}: {error}");
    }
    assert!(LogFormat::json("[1]", &context()).unwrap_err().to_string().contains("a JSON object is wanted"));
    assert!(LogFormat::json("{", &context()).unwrap_err().to_string().contains("no JSON"));
}
