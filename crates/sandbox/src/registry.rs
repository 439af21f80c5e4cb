//! An OCI registry in memory (spec: wasmplugin-and-routing §2.7), with credentials and with faults on demand.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;

use crate::server::{Body, Handler, Server};

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Everybody.
    #[default]
    None,
    /// User and password with every request.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// User and password for a token, the token with every request.
    Bearer {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with a status and, if given, `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// Waits before it answers.
    Slow(Duration),
    /// Breaks off in the middle of the body.
    Truncated,
    /// Sends other bytes of the same length.
    Corrupt,
    /// Never stops sending.
    Endless,
    /// Sends the client elsewhere; to the same address it is a loop.
    Redirect(String),
}

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// Manifests.
    Manifest,
    /// Layers and configurations.
    Blob,
    /// The token service.
    Token,
}

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Who may come in.
    pub authentication: Authentication,
}

/// A running registry. Ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    authentication: Authentication,
    blobs: Mutex<HashMap<String, Bytes>>,
    /// By `repository/reference`; the media type and the bytes.
    manifests: Mutex<HashMap<String, (String, Bytes)>>,
    fault: Mutex<Option<(FaultTarget, Fault)>>,
    requests: Mutex<Vec<String>>,
    address: Mutex<Option<SocketAddr>>,
}

const UPLOAD_BYTES_MAX: usize = 64 << 20;
const TOKEN: &str = "sandbox-token";

impl Registry {
    /// Starts one.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(listen: SocketAddr, options: RegistryOptions) -> io::Result<Self> {
        let state = Arc::new(State { authentication: options.authentication, ..State::default() });
        let server = Server::start(listen, Arc::clone(&state)).await?;
        *state.address.lock() = Some(server.address);
        Ok(Self { server, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// What goes wrong from now on; `None` for nothing.
    pub fn set_fault(&self, fault: Option<(FaultTarget, Fault)>) {
        *self.state.fault.lock() = fault;
    }

    /// Every request so far, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().clone()
    }
}

impl Handler for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        self.requests.lock().push(format!("{} {path}", request.method()));
        if path == "/token" {
            return match self.fault_for(FaultTarget::Token).await {
                Some(response) => response,
                None => self.token(&request),
            };
        }
        if let Some(refused) = self.refuse(&request) {
            return refused;
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such path");
        };
        if rest.is_empty() {
            return plain(StatusCode::OK, Bytes::new());
        }
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            return self.manifest(request, &format!("{repository}/{reference}"), repository).await;
        }
        if rest.contains("/blobs/uploads/") {
            return self.upload(request, rest).await;
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            return self.blob(&request, digest).await;
        }
        error(StatusCode::NOT_FOUND, "NAME_INVALID", "no such path")
    }
}

impl State {
    /// Answers requests without the right credential.
    fn refuse(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (wanted, challenge) = match &self.authentication {
            Authentication::None => return None,
            Authentication::Basic { username, password } => {
                (basic(username, password), "Basic realm=\"sandbox\"".to_owned())
            }
            Authentication::Bearer { .. } => {
                let address = (*self.address.lock())?;
                (
                    format!("Bearer {TOKEN}"),
                    format!(
                        "Bearer realm=\"http://{address}/token\",service=\"sandbox\",scope=\"repository:any:pull\""
                    ),
                )
            }
        };
        if given == wanted {
            return None;
        }
        let mut response = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
        if let Ok(value) = HeaderValue::from_str(&challenge) {
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        Some(response)
    }

    fn token(&self, request: &Request<Incoming>) -> Response<Body> {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match &self.authentication {
            Authentication::Bearer { username, password } if given == basic(username, password) => plain(
                StatusCode::OK,
                serde_json::json!({ "token": TOKEN, "expires_in": 300 }).to_string().into(),
            ),
            _ => error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "incorrect username or password"),
        }
    }

    async fn manifest(&self, request: Request<Incoming>, name: &str, repository: &str) -> Response<Body> {
        if request.method() == Method::PUT {
            let media_type = request
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let bytes = read(request).await;
            let digest = digest(&bytes);
            let mut manifests = self.manifests.lock();
            manifests.insert(format!("{repository}/{digest}"), (media_type.clone(), bytes.clone()));
            manifests.insert(name.to_owned(), (media_type, bytes));
            return created(&format!("/v2/{repository}/manifests/{digest}"));
        }
        let found = self.manifests.lock().get(name).cloned();
        let Some((media_type, bytes)) = found else {
            return error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let digest = digest(&bytes);
        let mut response = self.send(FaultTarget::Manifest, request.method(), bytes).await;
        if response.status() == StatusCode::OK {
            for (key, value) in [("content-type", media_type), ("docker-content-digest", digest)] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(key, value);
                }
            }
        }
        response
    }

    async fn blob(&self, request: &Request<Incoming>, digest: &str) -> Response<Body> {
        let found = self.blobs.lock().get(digest).cloned();
        match found {
            Some(bytes) => self.send(FaultTarget::Blob, request.method(), bytes).await,
            None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
        }
    }

    async fn upload(&self, request: Request<Incoming>, rest: &str) -> Response<Body> {
        let repository = rest.split("/blobs/uploads/").next().unwrap_or_default();
        if request.method() == Method::POST {
            let mut response = plain(StatusCode::ACCEPTED, Bytes::new());
            if let Ok(value) = HeaderValue::from_str(&format!("/v2/{repository}/blobs/uploads/1?state=x")) {
                response.headers_mut().insert(LOCATION, value);
            }
            return response;
        }
        let query = request.uri().query().unwrap_or_default().replace("%3A", ":");
        let wanted = query.split('&').find_map(|p| p.strip_prefix("digest=")).unwrap_or_default().to_owned();
        let bytes = read(request).await;
        if digest(&bytes) != wanted {
            return error(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                "provided digest did not match uploaded content",
            );
        }
        self.blobs.lock().insert(wanted.clone(), bytes);
        created(&format!("/v2/{repository}/blobs/{wanted}"))
    }

    async fn fault_for(&self, target: FaultTarget) -> Option<Response<Body>> {
        let fault = self.fault.lock().clone().filter(|(t, _)| *t == target).map(|(_, f)| f)?;
        match fault {
            Fault::Status(code, retry_after) => {
                let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let name = if code == 429 { "TOOMANYREQUESTS" } else { "DENIED" };
                let mut response = error(status, name, "on purpose");
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                Some(response)
            }
            Fault::Slow(wait) => {
                tokio::time::sleep(wait).await;
                None
            }
            Fault::Redirect(to) => {
                let mut response = plain(StatusCode::TEMPORARY_REDIRECT, Bytes::new());
                response.headers_mut().insert(LOCATION, HeaderValue::from_str(&to).ok()?);
                Some(response)
            }
            Fault::Truncated | Fault::Corrupt | Fault::Endless => None,
        }
    }

    async fn send(&self, target: FaultTarget, method: &Method, bytes: Bytes) -> Response<Body> {
        if let Some(response) = self.fault_for(target).await {
            return response;
        }
        if method == Method::HEAD {
            return plain(StatusCode::OK, Bytes::new());
        }
        let fault = self.fault.lock().clone().filter(|(t, _)| *t == target).map(|(_, f)| f);
        match fault {
            Some(Fault::Corrupt) => {
                plain(StatusCode::OK, bytes.iter().map(|b| b ^ 1).collect::<Vec<u8>>().into())
            }
            Some(Fault::Truncated) => {
                Response::new(Pieces::new(bytes.slice(..bytes.len() / 2), Some(1), true).boxed())
            }
            Some(Fault::Endless) => {
                Response::new(Pieces::new(Bytes::from(vec![b' '; 64 << 10]), None, false).boxed())
            }
            _ => plain(StatusCode::OK, bytes),
        }
    }
}

/// A body that repeats a piece, ends too early, or never ends.
struct Pieces {
    piece: Bytes,
    left: Option<usize>,
    breaks_off: bool,
}

impl Pieces {
    fn new(piece: Bytes, left: Option<usize>, breaks_off: bool) -> Self {
        Self { piece, left, breaks_off }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match self.left {
            Some(0) if self.breaks_off => Some(Err(io::ErrorKind::ConnectionReset.into())),
            Some(0) => None,
            Some(n) => {
                self.left = Some(n - 1);
                Some(Ok(Frame::data(self.piece.clone())))
            }
            None => Some(Ok(Frame::data(self.piece.clone()))),
        };
        std::task::Poll::Ready(next)
    }
}

async fn read(request: Request<Incoming>) -> Bytes {
    let limited = http_body_util::Limited::new(request.into_body(), UPLOAD_BYTES_MAX);
    limited.collect().await.map(|b| b.to_bytes()).unwrap_or_default()
}

fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

fn created(location: &str) -> Response<Body> {
    let mut response = plain(StatusCode::CREATED, Bytes::new());
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    plain(status, serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string().into())
}
