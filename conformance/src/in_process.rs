//! Our host without a socket: the interpreter's VM, the filter and the stream machine in this process. What a request
//! becomes on the wire is the business of codecs, which are not part of it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use wasmgate_artifact::{Fetcher, FetcherOptions, ModuleSource, PullMode, Store};
use wasmgate_host::{
    Engine, Limits, LogLevel, LogSource, PluginContext, Process, PropertyValue, Services, UpstreamHost,
    UpstreamState,
};
use wasmgate_plugin::calls::{Effect, HttpCall, HttpCallResponse};
use wasmgate_plugin::{
    CallRunner, Compiler, FailStrategy, ManagerOptions, PluginDefinition, PluginFilter, PluginManager,
    PluginWorker, StreamPort, VmHandle, WorkerPlugin,
};
use wasmgate_stream::{
    LocalReply, RequestHead, ResponseHead, Stream, StreamData, StreamInfo, StreamLimits, StreamState,
};

use crate::case::{Case, Message};
use crate::endpoint::Arrived;
use crate::run::Seen;

/// The only cluster.
const CLUSTER: &str = "outbound|8000||httpbin.default.svc.cluster.local";
/// Nothing has moved for so long: nothing will.
const IDLE: Duration = Duration::from_millis(500);
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A VM with the interpreter.
pub struct InProcess {
    runtime: tokio::runtime::Runtime,
    tasks: tokio::task::LocalSet,
    plugin: Rc<WorkerPlugin>,
    log: Arc<Mutex<String>>,
    endpoint: SocketAddr,
    _manager: PluginManager,
    _cache: CacheFolder,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

/// Removed at the end.
struct CacheFolder(PathBuf);

impl Drop for CacheFolder {
    fn drop(&mut self) {
        // What stays is in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl InProcess {
    /// Starts the VM with the scripts of all cases.
    ///
    /// # Errors
    /// The plug-in cannot be loaded.
    pub fn start(module: &Path, configuration: &str, endpoint: SocketAddr) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cache = CacheFolder(std::env::temp_dir().join(format!(
            "wasmgate-conformance-{}-{:x}",
            std::process::id(),
            fastrand::u64(..)
        )));
        let store = Arc::new(Store::open(&cache.0).map_err(io::Error::other)?);
        let fetcher =
            Fetcher::new(Arc::clone(&store), FetcherOptions::default()).map_err(io::Error::other)?;
        let engine = Engine::new().map_err(io::Error::other)?;
        let log = Arc::new(Mutex::new(String::new()));
        let process = Process::new(Arc::new(Log { text: Arc::clone(&log), endpoint }));
        let manager = {
            let _in_runtime = runtime.enter();
            PluginManager::new(ManagerOptions {
                engine,
                fetcher: Arc::new(fetcher),
                compiler: Compiler::InProcess,
                process,
                workers: 1,
            })
        };
        let definition = Arc::new(definition(module, configuration));
        let tasks = tokio::task::LocalSet::new();
        let version = tasks.block_on(&runtime, async {
            let mut changes = manager.changes();
            manager.apply(&[Arc::clone(&definition)]);
            let ready = async {
                loop {
                    let view = manager.view();
                    if let Some(version) = view.get(&definition.name).and_then(|v| v.serving.clone()) {
                        return Ok(version);
                    }
                    if view.get(&definition.name).is_some_and(|v| v.settled) {
                        return Err(io::Error::other(format!("{:?}", manager.status())));
                    }
                    changes.changed().await.map_err(io::Error::other)?;
                }
            };
            tokio::time::timeout(START_TIME_MAX, ready).await.map_err(io::Error::other)?
        })?;
        let plugin = {
            let _in_runtime = runtime.enter();
            let _in_tasks = tasks.enter();
            WorkerPlugin::new(version, PluginWorker::new(0, Rc::new(Calls)))
        };
        Ok(Self { runtime, tasks, plugin, log, endpoint, _manager: manager, _cache: cache })
    }

    /// What the plug-in has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a case.
    ///
    /// # Errors
    /// The case's request cannot be expressed.
    pub fn run(&self, case: &Case, run: &str) -> io::Result<Seen> {
        let head = request_head(&case.request, &case.id, run)?;
        let route: Arc<str> = "httpbin".into();
        let client = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let info = StreamInfo {
            route_name: Arc::clone(&route),
            virtual_host_name: "*:80".into(),
            cluster_name: CLUSTER.into(),
            upstream_endpoints: 1,
            ..StreamInfo::new(SystemTime::now(), 1, (client, self.endpoint), &"".into())
        };
        let port = Rc::new(StreamPort::default());
        let filter = PluginFilter::new(Rc::clone(&self.plugin), Rc::clone(&port), 0);
        let mut request: Vec<Bytes> = pieces(&case.request).collect();
        request.reverse();
        let mut exchange = Exchange {
            stream: Stream::new(Box::new(StreamData::new(head, info)), [filter], StreamLimits::default()),
            port,
            request,
            response: Vec::new(),
            case,
            endpoint: self.endpoint,
            arrived: None,
            is_request_over: false,
            is_answered: false,
            answer: None,
            body: Vec::new(),
            is_over: false,
        };
        self.tasks.block_on(&self.runtime, async {
            self.plugin.ready().await;
            exchange.stream.request_headers(exchange.request.is_empty());
            exchange.drive().await;
        });
        Ok(exchange.seen())
    }
}

/// One request through the stream machine.
struct Exchange<'c> {
    stream: Stream<PluginFilter>,
    port: Rc<StreamPort>,
    /// What the client still sends, the next piece last.
    request: Vec<Bytes>,
    /// What the endpoint still sends.
    response: Vec<Bytes>,
    case: &'c Case,
    endpoint: SocketAddr,
    arrived: Option<Arrived>,
    is_request_over: bool,
    is_answered: bool,
    answer: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    is_over: bool,
}

impl Exchange<'_> {
    async fn drive(&mut self) {
        loop {
            let over = tokio::time::timeout(IDLE, poll_fn(|cx| self.poll(cx))).await.is_ok();
            if over {
                break;
            }
            // As a gateway does with streams that nothing moves.
            self.port.unpark(&mut self.stream);
            if self.answer.is_some() || self.stream.state() != StreamState::Open {
                self.stream.reset("stream_idle_timeout");
            } else {
                self.stream.local_reply(reply(504, "stream timeout"));
            }
        }
        self.stream.data_mut().info.duration = Some(Duration::from_micros(1));
        self.stream.end();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.port.unpark(&mut self.stream);
        while self.step() {}
        if self.is_over || self.stream.state() == StreamState::Reset {
            return Poll::Ready(());
        }
        self.port.park(&mut self.stream, cx.waker());
        Poll::Pending
    }

    /// Moves something; false when nothing can be moved.
    fn step(&mut self) -> bool {
        if self.is_open() && self.send_request() {
            return true;
        }
        if self.stream.wants_request()
            && let Some(piece) = self.request.pop()
        {
            self.stream.request_data(piece, self.request.is_empty());
            return true;
        }
        if self.is_open() && self.is_request_over && !self.is_answered {
            self.is_answered = true;
            self.answer_request();
            return true;
        }
        if self.stream.wants_response()
            && let Some(piece) = self.response.pop()
        {
            let end = self.response.is_empty();
            if end {
                self.stream.data_mut().info.backend_latency = Some(Duration::from_micros(1));
            }
            self.stream.response_data(piece, end);
            return true;
        }
        self.take_response()
    }

    fn is_open(&self) -> bool {
        self.stream.state() == StreamState::Open
    }

    /// Chain → endpoint.
    fn send_request(&mut self) -> bool {
        if let Some(end) = self.stream.take_request_headers() {
            let request = &self.stream.data().request;
            let get = |name: &[u8]| {
                request.get(name).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
            };
            let mut headers = to_map(&request.headers);
            headers.insert("host".to_owned(), get(b":authority"));
            if !end && !headers.contains_key("content-length") {
                headers.insert("transfer-encoding".to_owned(), "chunked".to_owned());
            }
            let refused = match (request.method.is_none(), request.path().is_none()) {
                (true, _) => Some((503, "missing required header: :method")),
                (_, true) => Some((404, "")),
                _ => None,
            };
            if let Some((status, text)) = refused {
                self.stream.local_reply(reply(status, text));
                return true;
            }
            if end && request.method.as_ref().is_some_and(|m| *m == Method::POST || *m == Method::PUT) {
                headers.insert("content-length".to_owned(), "0".to_owned());
            }
            let line = format!("{} {} HTTP/1.1", get(b":method"), get(b":path"));
            self.arrived = Some(Arrived { line, headers, body: String::new() });
            let info = &mut self.stream.data_mut().info;
            info.upstream_host = Some(self.endpoint);
            info.upstream_local = Some(self.endpoint);
            info.upstream_attempts = 1;
            info.upstream_ready = Some(Duration::ZERO);
            self.is_request_over = end;
            return true;
        }
        if let Some(data) = self.stream.pop_request_data() {
            if let Some(arrived) = &mut self.arrived {
                arrived.body.push_str(&String::from_utf8_lossy(&data.bytes));
            }
            self.is_request_over |= data.end;
            return true;
        }
        let trailers = self.stream.take_request_trailers().is_some();
        self.is_request_over |= trailers;
        trailers
    }

    /// The endpoint has the request.
    fn answer_request(&mut self) {
        let message = &self.case.response;
        if message.closes {
            let text = "upstream connect error or disconnect/reset before headers. reset reason: connection \
                        termination";
            return self.stream.local_reply(reply(503, text));
        }
        let status = message.status.split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(200);
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let mut headers = HeaderMap::new();
        for (name, value) in &message.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let mut body: Vec<Bytes> = pieces(message).collect();
        if body.is_empty() {
            body.push(Bytes::from_static(b"fine"));
        }
        if message.chunks.is_empty() && !bodiless {
            headers.insert("content-length", HeaderValue::from(body.iter().map(Bytes::len).sum::<usize>()));
        }
        headers.insert("x-envoy-upstream-service-time", HeaderValue::from_static("0"));
        body.reverse();
        let is_head = self.stream.data().request.method == Some(Method::HEAD);
        let end = bodiless || is_head;
        if !end {
            self.response = body;
        }
        self.stream.data_mut().info.response_code_details = "via_upstream".into();
        self.stream.response_headers(ResponseHead::new(status, headers), end);
    }

    /// Chain → client.
    fn take_response(&mut self) -> bool {
        if let Some(end) = self.stream.take_response_headers() {
            if let Some(response) = &self.stream.data().response {
                let mut headers = response.headers.clone();
                let status = response.status.unwrap_or_default();
                let is_replied = self.stream.state() == StreamState::Replied;
                if is_replied && !self.request.is_empty() {
                    headers.insert("connection", HeaderValue::from_static("close"));
                }
                match (end, headers.contains_key("content-length")) {
                    (false, false) => {
                        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
                    }
                    (true, false) if is_replied && !matches!(status.as_u16(), 204 | 304) => {
                        headers.insert("content-length", HeaderValue::from_static("0"));
                    }
                    _ => {}
                }
                self.answer = Some((status, headers));
            }
            self.is_over = end;
            return true;
        }
        if let Some(data) = self.stream.pop_response_data() {
            self.body.extend_from_slice(&data.bytes);
            self.is_over |= data.end;
            return true;
        }
        let trailers = self.stream.take_response_trailers().is_some();
        self.is_over |= trailers;
        trailers
    }

    fn seen(self) -> Seen {
        let answer = self.answer.filter(|_| self.is_over);
        let text = String::from_utf8_lossy(&self.body).into_owned();
        Seen {
            answer: answer.map(|(status, headers)| (status.as_u16(), to_map(&headers), text)),
            arrived: self.arrived,
            trace: None,
        }
    }
}

/// What a gateway answers by itself.
fn reply(status: u16, text: &'static str) -> LocalReply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = LocalReply::new(status, "", "", text);
    if !text.is_empty() {
        reply.headers.push((b"content-length".to_vec(), text.len().to_string().into_bytes()));
        reply.headers.push((b"content-type".to_vec(), b"text/plain".to_vec()));
    }
    reply
}

fn pieces(message: &Message) -> impl Iterator<Item = Bytes> {
    let body = Some(&message.body).filter(|body| !body.is_empty());
    let end = (!message.chunks.is_empty()).then(Bytes::new);
    let chunks: Vec<Bytes> =
        body.into_iter().chain(&message.chunks).map(|piece| piece.clone().into_bytes().into()).collect();
    chunks.into_iter().chain(end)
}

fn to_map(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        out.entry(name.as_str().to_owned())
            .and_modify(|all| *all = format!("{all}|{value}"))
            .or_insert(value);
    }
    out
}

fn request_head(request: &Message, script: &str, run: &str) -> io::Result<RequestHead> {
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    let path = if request.path.is_empty() { "/" } else { &request.path };
    let mut headers = HeaderMap::new();
    let own = [("x-script", script), ("x-case", run), ("x-forwarded-for", "127.0.0.1")];
    let given = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.into_iter().chain(given) {
        let name = HeaderName::try_from(name).map_err(io::Error::other)?;
        headers.append(name, HeaderValue::try_from(value).map_err(io::Error::other)?);
    }
    for (name, value) in [
        ("x-forwarded-proto", "http"),
        ("x-envoy-external-address", "127.0.0.1"),
        ("x-request-id", "in-process"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !request.body.is_empty() {
        headers.insert("content-length", HeaderValue::from(request.body.len()));
    }
    let method = Method::try_from(method).map_err(io::Error::other)?;
    let uri = path.parse().map_err(io::Error::other)?;
    let authority = Some(HeaderValue::from_static("test.example"));
    Ok(RequestHead::new(method, uri, authority, headers))
}

fn definition(module: &Path, configuration: &str) -> PluginDefinition {
    let config = serde_json::json!({ "script": configuration }).to_string();
    let context = PluginContext {
        name: "istio-system.script".to_owned(),
        configuration: config.into(),
        ..PluginContext::default()
    };
    PluginDefinition {
        name: "istio-system.script".into(),
        origin: "the conformance kit".into(),
        source: ModuleSource::File(module.to_owned()),
        pull_mode: PullMode::IfNotPresent,
        revision: None,
        docker_config: None,
        secret_error: None,
        sha256: None,
        context: Arc::new(context),
        limits: Limits::default(),
        allowed_capabilities: std::collections::BTreeSet::new(),
        fail_strategy: FailStrategy::Close,
        phase: "AUTHN",
        priority: None,
    }
}

/// Answers HTTP call-outs as the endpoint of the other hosts does; other call-outs find nobody.
struct Calls;

impl CallRunner for Calls {
    fn start(&self, effect: Effect, vm: VmHandle) {
        let Effect::HttpCall(call) = effect else { return };
        let (token, response) = (call.token, called(&call));
        // Not before the callback that made it is over.
        tokio::task::spawn_local(async move { vm.http_call_response(token, Some(response)) });
    }
}

fn called(call: &HttpCall) -> HttpCallResponse {
    let get = |name: &[u8]| {
        let found = call.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let body = format!("{} {} {}", get(b":method"), get(b":path"), String::from_utf8_lossy(&call.body));
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let headers =
        [pair(":status", "200"), pair("content-length", &body.len().to_string()), pair("x-called", "yes")];
    HttpCallResponse {
        headers: headers.into_iter().collect(),
        body: body.into(),
        trailers: Default::default(),
    }
}

/// Keeps what the plug-in logs, and knows one cluster.
struct Log {
    text: Arc<Mutex<String>>,
    endpoint: SocketAddr,
}

impl Services for Log {
    fn log(&self, _: LogSource<'_>, _: LogLevel, message: &[u8]) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&String::from_utf8_lossy(message));
        text.push('\n');
    }

    fn log_level(&self) -> LogLevel {
        LogLevel::Info
    }

    fn upstream(&self, _: &PluginContext, cluster: &str) -> UpstreamState {
        if cluster == CLUSTER { UpstreamState::Available } else { UpstreamState::Unknown }
    }

    fn upstream_hosts(&self, _: &PluginContext, _: &str) -> Vec<UpstreamHost> {
        vec![UpstreamHost { address: self.endpoint.to_string(), healthy: true }]
    }

    fn property(&self, _: &PluginContext, path: &[&[u8]]) -> Option<PropertyValue> {
        let text = |value: &str| Some(PropertyValue::text(value));
        match path {
            [b"xds", b"node", b"id"] | [b"node", b"id"] => text("in-process"),
            [b"xds", b"node", b"locality"] => text(""),
            [b"xds", b"node", b"metadata"] => Some(PropertyValue::Map(Vec::new())),
            [b"xds", b"listener_direction"] => Some(PropertyValue::Int(2)),
            _ => None,
        }
    }
}
