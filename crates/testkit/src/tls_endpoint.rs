//! An endpoint that speaks HTTP over TLS and tells what it has seen of the connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::tls::{Authority, Identity, certificates, provider};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// An endpoint with a certificate. Ends when it is dropped.
#[derive(Debug)]
pub struct TlsEndpoint {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl TlsEndpoint {
    /// Starts one. The body of its answers is `<HTTP version> <host> <server name> <whether a certificate was shown>`.
    /// `clients`: who must have signed the certificates of clients.
    ///
    /// # Errors
    /// The system's, rustls'.
    pub fn start(identity: &Identity, clients: Option<&Authority>, alpn: &[&str]) -> Result<Self, Error> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&authority.pem())?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(identity.chain()?, identity.private_key()?)?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Whoever does not like the certificate leaves.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let connection = stream.get_ref().1;
                    let server_name = connection.server_name().unwrap_or("-").to_owned();
                    let shown = connection.peer_certificates().is_some();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let text = describe(&request, &server_name, shown);
                        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn describe(request: &Request<Incoming>, server_name: &str, shown: bool) -> String {
    let host = request.headers().get("host").and_then(|h| h.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or("-");
    format!("{:?} {host} {server_name} {shown}", request.version())
}
