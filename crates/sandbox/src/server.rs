//! A small HTTP server that ends when it is dropped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A listening server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<H: Handler>(listen: SocketAddr, handler: Arc<H>) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // The connections live and end with this task.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let _ = stream.set_nodelay(true);
                        let handler = Arc::clone(&handler);
                        connections.spawn(async move {
                            let service = service_fn(|request| {
                                let handler = Arc::clone(&handler);
                                async move { Ok::<_, Infallible>(handler.handle(request).await) }
                            });
                            let mut builder = hyper::server::conn::http1::Builder::new();
                            // A peer that goes away is no event here.
                            let _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
