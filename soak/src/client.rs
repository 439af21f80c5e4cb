//! One connection to the gateway, over TLS or not, in HTTP/1.1 or HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::scene::HOST;

/// How long an exchange may take: much more than the slowest one needs on a busy machine.
pub const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(20);

/// What a request carries.
pub type RequestBody = BoxBody<Bytes, io::Error>;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS with prior knowledge.
    Http2,
}

/// Where to, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The listener.
    pub address: SocketAddr,
    /// With TLS, and what of its tickets is kept.
    pub tls: Option<Arc<ClientConfig>>,
    /// The protocol.
    pub protocol: Protocol,
}

/// A connection. Dropping it closes it at once, whatever is under way.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    /// `None` for a further handle on somebody else's connection.
    task: Option<JoinHandle<()>>,
    /// The certificate that the gateway has shown, DER.
    pub certificate: Vec<u8>,
    /// Whether a ticket was taken.
    pub resumed: bool,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The system's, rustls', hyper's, as text that says at which step.
    pub async fn open(target: &Target) -> Result<Self, String> {
        let opening = async {
            let stream =
                TcpStream::connect(target.address).await.map_err(|e| format!("cannot connect: {e}"))?;
            let _ = stream.set_nodelay(true);
            let Some(config) = &target.tls else {
                let (sender, task) = handshake(stream, target.protocol).await?;
                return Ok(Self { sender, task: Some(task), certificate: Vec::new(), resumed: false });
            };
            let name = ServerName::try_from(HOST).map_err(|e| e.to_string())?;
            let stream = TlsConnector::from(Arc::clone(config))
                .connect(name, stream)
                .await
                .map_err(|e| format!("TLS: {e}"))?;
            let tls = stream.get_ref().1;
            let certificate = tls.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
            let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
            let (sender, task) = handshake(stream, target.protocol).await?;
            Ok(Self { sender, task: Some(task), certificate: certificate.unwrap_or_default(), resumed })
        };
        tokio::time::timeout(EXCHANGE_TIME_MAX, opening).await.map_err(|_| "connecting takes too long")?
    }

    /// Whether the gateway has closed it while nothing was under way.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request; gives the answer's head with its body still to come.
    ///
    /// # Errors
    /// hyper's, as text.
    pub async fn begin(&mut self, request: Request<RequestBody>) -> Result<http::Response<Incoming>, String> {
        let sent = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => sender.clone().send_request(request).await,
            }
        };
        let answered = tokio::time::timeout(EXCHANGE_TIME_MAX, sent).await;
        answered.map_err(|_| "no answer in time".to_owned())?.map_err(|e| format!("no answer: {}", chain(&e)))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// As [`Connection::begin`], and when the answer breaks off.
    pub async fn exchange(&mut self, request: Request<RequestBody>) -> Result<Answer, String> {
        let (head, body) = self.begin(request).await?.into_parts();
        let whole = tokio::time::timeout(EXCHANGE_TIME_MAX, body.collect()).await;
        let whole = whole
            .map_err(|_| format!("the answer {} does not end", head.status))?
            .map_err(|e| format!("the answer {} breaks off: {}", head.status, chain(&e)))?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: whole.to_bytes() })
    }

    /// Another handle on an HTTP/2 connection, for a request at the same time; dropping it closes nothing.
    #[must_use]
    pub fn share(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        let (sender, certificate) = (Sender::Http2(sender.clone()), self.certificate.clone());
        Some(Self { sender, task: None, certificate, resumed: self.resumed })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn handshake<S>(stream: S, protocol: Protocol) -> Result<(Sender, JoinHandle<()>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    // How a connection ends is told to the request that is on it.
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await.map_err(|e| chain(&e))?;
            let task = tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok((Sender::Http1(sender), task))
        }
        Protocol::Http2 => {
            let executor = TokioExecutor::new();
            let (sender, connection) = http2::handshake(executor, io).await.map_err(|e| chain(&e))?;
            let task = tokio::spawn(async move {
                let _ = connection.await;
            });
            Ok((Sender::Http2(sender), task))
        }
    }
}

/// An error with all that it says of its cause.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
