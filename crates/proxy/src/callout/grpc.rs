//! gRPC call-outs over HTTP/2 (spec: proxy-wasm-host §9.2, §9.3).

mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Request, StatusCode, Uri, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wasmgate_plugin::VmHandle;
use wasmgate_plugin::calls::{CallToken, GrpcCall, GrpcStatus, GrpcTarget};

use self::wire::{Decoder, INTERNAL, OK, UNAVAILABLE, check_head, end_status, framed, pairs, status};
use super::Target;
use crate::connection::LocalExecutor;
use crate::upstream::{ActiveRequest, Outcome, Spoken, WorkerCluster};
use crate::worker::WorkerContext;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

type Messages = mpsc::UnboundedSender<Bytes>;
/// Each is for a cluster as one configuration has it: TLS of another one may differ.
type Connections =
    Rc<RefCell<HashMap<(Arc<str>, SocketAddr), (Weak<WorkerCluster>, http2::SendRequest<Outgoing>)>>>;
/// By VM and token.
type Open = Rc<RefCell<HashMap<(u64, CallToken), OpenStream>>>;

/// A stream that a plug-in has open.
struct OpenStream {
    /// `None` once the plug-in has said that nothing follows.
    messages: Option<Messages>,
    task: AbortHandle,
}

/// The gRPC streams and connections of a worker.
#[derive(Clone, Default)]
pub(super) struct Streams {
    open: Open,
    connections: Connections,
}

/// A request body: messages in their frames, until the sender is gone.
struct Outgoing(mpsc::UnboundedReceiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Streams {
    /// A unary call, from its request to its one callback.
    pub(super) fn call(
        &self,
        worker: Weak<WorkerContext>,
        call: GrpcCall,
        vm: VmHandle,
    ) -> impl Future<Output = ()> + 'static {
        let connections = Rc::clone(&self.connections);
        async move {
            let (token, timeout) = (call.token, call.timeout);
            let result = tokio::time::timeout(timeout, unary(&worker, &connections, call)).await;
            match result.unwrap_or_else(|_| Err(status(UNAVAILABLE, "upstream request timeout"))) {
                Ok(message) => vm.grpc_receive(token, message, true),
                Err(status) => vm.grpc_close(token, status),
            }
        }
    }

    /// Opens a stream.
    pub(super) fn open(
        &self,
        worker: Weak<WorkerContext>,
        token: CallToken,
        target: GrpcTarget,
        vm: VmHandle,
    ) {
        let Some(id) = vm.id() else { return };
        let (messages, outgoing) = mpsc::unbounded_channel();
        let (connections, open) = (Rc::clone(&self.connections), Rc::clone(&self.open));
        let task = tokio::task::spawn_local(async move {
            let end = stream(&worker, &connections, &target, outgoing, token, &vm).await;
            open.borrow_mut().remove(&(id, token));
            vm.grpc_close(token, end);
        });
        let opened = OpenStream { messages: Some(messages), task: task.abort_handle() };
        self.open.borrow_mut().insert((id, token), opened);
    }

    pub(super) fn send(&self, vm: &VmHandle, token: CallToken, message: Bytes, last: bool) {
        let Some(id) = vm.id() else { return };
        if let Some(stream) = self.open.borrow_mut().get_mut(&(id, token)) {
            if let Some(messages) = &stream.messages {
                // Without a receiver the stream is over, which its own task tells.
                let _ = messages.send(framed(&message));
            }
            if last {
                stream.messages = None;
            }
        }
    }

    pub(super) fn half_close(&self, vm: &VmHandle, token: CallToken) {
        let Some(id) = vm.id() else { return };
        if let Some(stream) = self.open.borrow_mut().get_mut(&(id, token)) {
            stream.messages = None;
        }
    }

    /// A stream is reset; a unary call's answer finds nobody.
    pub(super) fn cancel(&self, vm: &VmHandle, token: CallToken) {
        let Some(id) = vm.id() else { return };
        if let Some(stream) = self.open.borrow_mut().remove(&(id, token)) {
            stream.task.abort();
        }
    }
}

async fn unary(
    worker: &Weak<WorkerContext>,
    connections: &Connections,
    call: GrpcCall,
) -> Result<Bytes, GrpcStatus> {
    let (messages, outgoing) = mpsc::unbounded_channel();
    // The receiver is in our hands.
    let _ = messages.send(framed(&call.message));
    drop(messages);
    let timeout = call.has_timeout.then_some(call.timeout);
    let (head, mut body, max) = send(worker, connections, &call.target, timeout, outgoing).await?;
    check_head(head.status, &head.headers)?;
    let (mut decoder, mut message) = (Decoder::new(max), None);
    let end = loop {
        match next(&mut body).await? {
            Some(frame) => match frame.into_data() {
                Ok(data) => {
                    decoder.push(&data)?;
                    while let Some(decoded) = decoder.next()? {
                        message = Some(decoded);
                    }
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => break end_status(&trailers),
                    Err(_) => continue,
                },
            },
            None => break end_status(&head.headers),
        }
    };
    match (end.code, message) {
        (OK, Some(message)) => Ok(message),
        (OK, None) => Err(status(INTERNAL, "no message in the response")),
        _ => Err(end),
    }
}

/// A stream, from its request to the status that it ends with.
async fn stream(
    worker: &Weak<WorkerContext>,
    connections: &Connections,
    target: &GrpcTarget,
    outgoing: mpsc::UnboundedReceiver<Bytes>,
    token: CallToken,
    vm: &VmHandle,
) -> GrpcStatus {
    match receive(worker, connections, target, outgoing, token, vm).await {
        Ok(end) | Err(end) => end,
    }
}

async fn receive(
    worker: &Weak<WorkerContext>,
    connections: &Connections,
    target: &GrpcTarget,
    outgoing: mpsc::UnboundedReceiver<Bytes>,
    token: CallToken,
    vm: &VmHandle,
) -> Result<GrpcStatus, GrpcStatus> {
    let (head, mut body, max) = send(worker, connections, target, None, outgoing).await?;
    check_head(head.status, &head.headers)?;
    let mut initial = vec![(b":status".to_vec(), head.status.as_str().as_bytes().to_vec())];
    initial.extend(pairs(&head.headers));
    vm.grpc_initial_metadata(token, initial);
    let mut decoder = Decoder::new(max);
    while vm.is_open(token) {
        let Some(frame) = next(&mut body).await? else {
            // Without trailers the status stands in the head.
            return Ok(end_status(&head.headers));
        };
        match frame.into_data() {
            Ok(data) => {
                decoder.push(&data)?;
                while let Some(message) = decoder.next()? {
                    vm.grpc_receive(token, message, false);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    vm.grpc_trailing_metadata(token, pairs(&trailers));
                    return Ok(end_status(&trailers));
                }
            }
        }
    }
    // Nobody listens any more: dropping the body resets the stream.
    Ok(GrpcStatus::default())
}

struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

/// Sends a request over a connection that stands, or a new one; the answer's head, its body and how large it may be.
async fn send(
    worker: &Weak<WorkerContext>,
    connections: &Connections,
    target: &GrpcTarget,
    timeout: Option<std::time::Duration>,
    outgoing: mpsc::UnboundedReceiver<Bytes>,
) -> Result<(Head, Incoming, usize), GrpcStatus> {
    let found =
        Target::find(worker, &target.cluster).map_err(|_| status(UNAVAILABLE, "no healthy upstream"))?;
    let request = request(target, timeout, outgoing).ok_or_else(|| status(INTERNAL, "bad request"))?;
    let mut sender = connection(&found, connections).await?;
    let active = ActiveRequest::new(&found.cluster, &found.host);
    let answer = sender.send_request(request).await.map_err(|e| {
        let address = found.host.address();
        tracing::debug!(target: "upstream", "grpc call to {address}: {e}");
        connections.borrow_mut().remove(&(Arc::clone(&found.cluster.config.name), address));
        found.count(|c| c.resets.increment());
        active.observe(Outcome::Failed);
        status(UNAVAILABLE, "upstream connect error or disconnect/reset before headers")
    })?;
    let (parts, body) = answer.into_parts();
    found.count(|c| c.count_response(parts.status.as_u16()));
    active.observe(Outcome::Status(parts.status.as_u16()));
    let head = Head { status: parts.status, headers: parts.headers };
    Ok((head, body, found.worker.settings.call_response_bytes_max))
}

async fn connection(
    target: &Target,
    connections: &Connections,
) -> Result<http2::SendRequest<Outgoing>, GrpcStatus> {
    let address = target.host.address();
    let key = (Arc::clone(&target.cluster.config.name), address);
    let known = {
        let connections = connections.borrow();
        let is_same = |(cluster, sender): &&(Weak<WorkerCluster>, http2::SendRequest<Outgoing>)| {
            !sender.is_closed() && std::ptr::eq(cluster.as_ptr(), Rc::as_ptr(&target.cluster))
        };
        connections.get(&key).filter(is_same).map(|(_, sender)| sender.clone())
    };
    if let Some(known) = known {
        return Ok(known);
    }
    let unavailable = |reason: String| status(UNAVAILABLE, format!("upstream connect error: {reason}"));
    let (socket, open) = target.connect(Spoken::Http2).await.map_err(|e| unavailable(e.to_string()))?;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new());
    let (sender, driver) =
        builder.handshake(TokioIo::new(socket)).await.map_err(|e| unavailable(e.to_string()))?;
    tokio::task::spawn_local(async move {
        let _open = open;
        if let Err(e) = driver.await {
            tracing::debug!(target: "upstream", "grpc connection to {address}: {e}");
        }
    });
    let mut connections = connections.borrow_mut();
    connections.retain(|_, (cluster, c)| !c.is_closed() && cluster.strong_count() > 0);
    connections.insert(key, (Rc::downgrade(&target.cluster), sender.clone()));
    Ok(sender)
}

fn request(
    target: &GrpcTarget,
    timeout: Option<std::time::Duration>,
    outgoing: mpsc::UnboundedReceiver<Bytes>,
) -> Option<Request<Outgoing>> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority(&target.authority))
        .path_and_query(format!("/{}/{}", target.service, target.method))
        .build()
        .ok()?;
    let mut request = Request::new(Outgoing(outgoing));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(timeout) = timeout {
        // At most eight digits: milliseconds last for a day.
        let ms = timeout.as_millis().clamp(1, 99_999_999);
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(&format!("{ms}m")).ok()?);
    }
    for (name, value) in &target.metadata {
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        headers.try_append(name, value).ok()?;
    }
    Some(request)
}

/// Istio's cluster names are no authorities: what follows their last separator is.
fn authority(name: &str) -> &str {
    name.rsplit('|').next().filter(|host| !host.is_empty()).unwrap_or("localhost")
}

async fn next(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, GrpcStatus> {
    match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        Some(Ok(frame)) => Ok(Some(frame)),
        Some(Err(e)) => Err(status(UNAVAILABLE, format!("upstream reset: {e}"))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn the_host_in_a_cluster_name_is_the_authority() {
        assert_eq!(authority("outbound|80||auth.default.svc"), "auth.default.svc");
        assert_eq!((authority("plain:50051"), authority("a||")), ("plain:50051", "localhost"));
    }
}
