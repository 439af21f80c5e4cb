//! A hyper server whose requests pass one plug-in: `cargo run --example hyper -- plugin.wasm`, then
//! `curl -i -H 'allow: true' 127.0.0.1:8080`.
//!
//! Each thread of a real server would have a VM of its own: a VM is never entered twice at the same time.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use wasmgate_host::{
    EditOutcome, Engine, HeaderEdit, Limits, MapType, Module, PluginContext, Process, StreamAction,
    StreamContext, SystemServices, Vm,
};

/// What the plug-in sees of a request: its headers.
struct Stream(Box<HeaderMap>);

impl StreamContext for Stream {
    fn has_map(&self, map: MapType) -> bool {
        map == MapType::RequestHeaders
    }
    fn header(&self, _: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let value = std::str::from_utf8(name).ok().and_then(|name| self.0.get(name));
        value.inspect(|value| out.extend_from_slice(value.as_bytes())).is_some()
    }
    fn for_each_header(&self, _: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.0.iter().for_each(|(name, value)| each(name.as_ref(), value.as_ref()));
    }
    fn edit_headers(&mut self, _: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        let (HeaderEdit::Add(name, value) | HeaderEdit::Replace(name, value)) = edit else {
            return EditOutcome::Unavailable;
        };
        match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) => drop(self.0.insert(name, value)),
            _ => return EditOutcome::Unsafe,
        }
        EditOutcome::Done
    }
}

fn answer(vm: &RefCell<Vm<Stream>>, request: Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let mut vm = vm.borrow_mut();
    let stream = Stream(Box::new(request.into_parts().0.headers));
    let (stream, created) = vm.create_stream(stream);
    let (id, count) = (created.ok()?, stream.0.len());
    let (stream, outcome) = vm.on_request_headers(id, stream, count, true);
    let denied = outcome.ok()?.actions.into_iter().find_map(|action| match action {
        StreamAction::LocalReply(reply) => Some(reply),
        _ => None,
    });
    let (stream, _) = vm.end_stream(id, stream);
    let mut response = Response::new(Full::from(format!("passed with {} headers\n", stream.0.len())));
    if let Some(reply) = denied {
        *response.status_mut() = StatusCode::from_u16(reply.status).ok()?;
        *response.body_mut() = Full::from(reply.body);
    }
    Some(response)
}

/// Serves until the listener fails. Must run within a `LocalSet`.
pub(crate) async fn serve(listener: tokio::net::TcpListener, wasm: &[u8]) -> Result<(), Box<dyn Error>> {
    let module = Module::new(&Engine::new()?, wasm)?;
    let process = Process::new(Arc::new(SystemServices));
    let plugin = Arc::new(PluginContext { name: "example".to_owned(), ..PluginContext::default() });
    let vm = Rc::new(RefCell::new(Vm::start(&module, plugin, &process, Limits::default())?));
    loop {
        let io = hyper_util::rt::TokioIo::new(listener.accept().await?.0);
        let vm = Rc::clone(&vm);
        let service = hyper::service::service_fn(move |request| {
            // A VM that has failed answers nothing any more: a real server would start the next one.
            let response = answer(&vm, request).unwrap_or_else(|| {
                let mut failed = Response::new(Full::default());
                *failed.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                failed
            });
            async { Ok::<_, Infallible>(response) }
        });
        tokio::task::spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    }
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, reason = "the test of this file calls serve")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name a module")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    tokio::task::LocalSet::new().run_until(serve(listener, &std::fs::read(path)?)).await
}
