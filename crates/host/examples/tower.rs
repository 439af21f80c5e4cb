//! A tower layer that puts one plug-in around a service: `cargo run --example tower -- plugin.wasm`.
//!
//! The plug-in sees the request's headers before the service, and the response's after it. Whatever it changes goes on,
//! and what it answers itself never reaches the service.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use tower::{Layer, Service, ServiceExt as _};
use wasmgate_host::{
    EditOutcome, Engine, HeaderEdit, Limits, MapType, Module, Outcome, PluginContext, Process, StreamAction,
    StreamContext, SystemServices, Vm,
};

/// What the plug-in sees of one exchange.
#[derive(Default)]
struct Exchange {
    method: String,
    path: String,
    request: HeaderMap,
    response: Option<(StatusCode, HeaderMap)>,
}

impl Exchange {
    fn headers_mut(&mut self, map: MapType) -> Option<&mut HeaderMap> {
        match map {
            MapType::RequestHeaders => Some(&mut self.request),
            MapType::ResponseHeaders => self.response.as_mut().map(|(_, headers)| headers),
            _ => None,
        }
    }
}

/// Moved into the VM for each callback: a pointer.
struct Stream(Box<Exchange>);

impl StreamContext for Stream {
    fn has_map(&self, map: MapType) -> bool {
        map == MapType::RequestHeaders || (map == MapType::ResponseHeaders && self.0.response.is_some())
    }
    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let mut found = false;
        self.for_each_header(map, &mut |n, value| {
            if n == name && !std::mem::replace(&mut found, true) {
                out.extend_from_slice(value);
            }
        });
        found
    }
    fn for_each_header(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        let headers = match (map, &self.0.response) {
            (MapType::RequestHeaders, _) => {
                each(b":method", self.0.method.as_bytes());
                each(b":path", self.0.path.as_bytes());
                &self.0.request
            }
            (MapType::ResponseHeaders, Some((status, headers))) => {
                each(b":status", status.as_str().as_bytes());
                headers
            }
            _ => return,
        };
        headers.iter().for_each(|(name, value)| each(name.as_ref(), value.as_ref()));
    }
    fn edit_headers(&mut self, map: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        let Some(headers) = self.0.headers_mut(map) else { return EditOutcome::Unavailable };
        let parse =
            |name, value| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
        match edit {
            HeaderEdit::Add(name, value) => parse(name, value).map(|(n, v)| _ = headers.append(n, v)),
            HeaderEdit::Replace(name, value) => parse(name, value).map(|(n, v)| _ = headers.insert(n, v)),
            HeaderEdit::Remove(name) => {
                HeaderName::from_bytes(name).ok().map(|name| _ = headers.remove(name))
            }
            HeaderEdit::SetAll(pairs) => {
                let regular = pairs.iter().filter(|(name, _)| !name.starts_with(b":"));
                let all: Option<HeaderMap> = regular.map(|(name, value)| parse(name, value)).collect();
                all.map(|all| *headers = all)
            }
        }
        .map_or(EditOutcome::Unsafe, |()| EditOutcome::Done)
    }
}

/// Puts a plug-in around services. All of them share one VM: a real server has one per thread.
#[derive(Clone)]
pub(crate) struct PluginLayer(Arc<Mutex<Vm<Stream>>>);

impl PluginLayer {
    pub(crate) fn new(wasm: &[u8]) -> Result<Self, Box<dyn Error>> {
        let module = Module::new(&Engine::new()?, wasm)?;
        let plugin = Arc::new(PluginContext { name: "example".to_owned(), ..PluginContext::default() });
        let vm = Vm::start(&module, plugin, &Process::new(Arc::new(SystemServices)), Limits::default())?;
        Ok(Self(Arc::new(Mutex::new(vm))))
    }
}

impl<S> Layer<S> for PluginLayer {
    type Service = PluginService<S>;
    fn layer(&self, inner: S) -> PluginService<S> {
        PluginService { vm: Arc::clone(&self.0), inner }
    }
}

/// A service behind a plug-in.
#[derive(Clone)]
pub(crate) struct PluginService<S> {
    vm: Arc<Mutex<Vm<Stream>>>,
    inner: S,
}

type Answer = Response<Full<Bytes>>;

impl<S, B> Service<Request<B>> for PluginService<S>
where
    S: Service<Request<B>, Response = Answer> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is used, a clone stays behind.
        let spare = self.inner.clone();
        let (mut inner, vm) = (std::mem::replace(&mut self.inner, spare), Arc::clone(&self.vm));
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let exchange = Exchange {
                method: parts.method.to_string(),
                path: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
                request: parts.headers,
                response: None,
            };
            let lock = || vm.lock().unwrap_or_else(PoisonError::into_inner);
            let (stream, created) = lock().create_stream(Stream(Box::new(exchange)));
            let Ok(id) = created else { return Ok(refused()) };
            let count = stream.0.request.len() + 2;
            let (mut stream, outcome) = lock().on_request_headers(id, stream, count, true);
            let mut response = match outcome.map(reply) {
                Ok(None) => {
                    parts.headers = std::mem::take(&mut stream.0.request);
                    inner.call(Request::from_parts(parts, body)).await?
                }
                Ok(Some(reply)) => reply,
                Err(_) => refused(),
            };
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            stream.0.response = Some((status, headers));
            let (stream, outcome) = lock().on_response_headers(id, stream, 1, false);
            let replaced = outcome.ok().and_then(reply);
            let (mut stream, _) = lock().end_stream(id, stream);
            if let Some((_, headers)) = stream.0.response.take() {
                *response.headers_mut() = headers;
            }
            Ok(replaced.unwrap_or(response))
        })
    }
}

/// A VM that has failed answers nothing any more: a real server would start the next one.
fn refused() -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// What the plug-in answers itself, if it does.
fn reply<A>(outcome: Outcome<A>) -> Option<Answer> {
    outcome.actions.into_iter().find_map(|action| {
        let StreamAction::LocalReply(reply) = action else { return None };
        let mut response = Response::new(Full::from(reply.body));
        *response.status_mut() = StatusCode::from_u16(reply.status).ok()?;
        for (name, value) in &reply.headers {
            response
                .headers_mut()
                .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(response)
    })
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, clippy::print_stdout, reason = "the test of this file uses the layer; here it is shown")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name a module")?;
    let hello = tower::service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::from("hello\n")))
    });
    let service = PluginLayer::new(&std::fs::read(path)?)?.layer(hello);
    for allow in ["false", "true"] {
        let request = Request::get("/").header("allow", allow).body(())?;
        println!("allow: {allow} gets {:?}", service.clone().oneshot(request).await?);
    }
    Ok(())
}
