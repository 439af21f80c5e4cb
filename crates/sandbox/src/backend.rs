//! An httpbin-like backend: enough to see what a gateway does to a request.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use crate::server::{Body, Handler, Server};

const TEAPOT: &str = r#"
    -=[ teapot ]=-

       _...._
     .'  _ _ `.
    | ."` ^ `". _,
    \_;`"---"`|//
      |       ;/
      \_     _/
        `"""`
"#;

/// Bytes of a request body that are shown.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest delay, seconds.
const DELAY_SECONDS_MAX: u64 = 10;

/// A running backend. Ends when it is dropped.
#[derive(Debug)]
pub struct Backend {
    server: Server,
}

struct Httpbin;

impl Backend {
    /// Starts one. Paths: `/status/N`, `/headers`, `/anything…`, `/delay/N`; everything else is a 404.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        Ok(Self { server: Server::start(listen, Arc::new(Httpbin)).await? })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }
}

impl Handler for Httpbin {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let rest = |prefix: &str| path.strip_prefix(prefix).map(str::to_owned);
        let mut response = if let Some(code) = rest("/status/") {
            status(&code)
        } else if path == "/headers" {
            json(&serde_json::json!({ "headers": headers(&parts.headers) }))
        } else if let Some(seconds) = rest("/delay/") {
            let seconds = seconds.parse().unwrap_or(0).min(DELAY_SECONDS_MAX);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            json(&serde_json::json!({ "headers": headers(&parts.headers) }))
        } else if path == "/anything" || path.starts_with("/anything/") || path == "/post" {
            let body = http_body_util::Limited::new(body, BODY_BYTES_MAX)
                .collect()
                .await
                .map(|b| b.to_bytes())
                .unwrap_or_default();
            json(&serde_json::json!({
                "method": parts.method.as_str(),
                "url": parts.uri.to_string(),
                "headers": headers(&parts.headers),
                "data": String::from_utf8_lossy(&body),
            }))
        } else {
            text(
                StatusCode::NOT_FOUND,
                "text/html; charset=utf-8",
                "<!doctype html>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n",
            )
        };
        let map = response.headers_mut();
        map.insert(SERVER, HeaderValue::from_static("wasmgate-sandbox"));
        map.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        map.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
        response
    }
}

fn status(code: &str) -> Response<Body> {
    match code.parse().ok().and_then(|c: u16| StatusCode::from_u16(c).ok()).filter(|c| c.as_u16() >= 200) {
        Some(StatusCode::IM_A_TEAPOT) => {
            let mut response = Response::new(full(TEAPOT));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response
                .headers_mut()
                .insert("x-more-info", HeaderValue::from_static("http://tools.ietf.org/html/rfc2324"));
            response
        }
        Some(code) => {
            let mut response = Response::new(full(""));
            *response.status_mut() = code;
            response
        }
        None => text(StatusCode::BAD_REQUEST, "text/plain", "Invalid status code"),
    }
}

/// Names in httpbin's spelling: `User-Agent`.
fn headers(map: &http::HeaderMap) -> serde_json::Value {
    let mut out = serde_json::Map::new();
    for (name, value) in map {
        let mut spelled = String::new();
        for word in name.as_str().split('-') {
            let (first, rest) = word.split_at(word.len().min(1));
            // Writing to a String cannot fail.
            let _ = write!(
                spelled,
                "{}{}{rest}",
                if spelled.is_empty() { "" } else { "-" },
                first.to_ascii_uppercase()
            );
        }
        out.insert(spelled, String::from_utf8_lossy(value.as_bytes()).into_owned().into());
    }
    serde_json::Value::Object(out)
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut body = serde_json::to_string_pretty(value).unwrap_or_default();
    body.push('\n');
    text(StatusCode::OK, "application/json", body)
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}
