//! What a call between host and guest costs, in process: no sockets, no proxy, one thread.
//!
//! Each figure is the fastest of many batches: what is measured is the code, and everything else only adds to it.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmgate_host::{
    EditOutcome, Engine, HeaderEdit, Limits, MapType, Module, PluginContext, Process, StreamContext,
    SystemServices, Vm,
};

/// How long each figure is looked for.
const PATIENCE: Duration = Duration::from_millis(800);
/// Hostcalls of one callback where the callback itself is not to count.
const MANY: usize = 1000;
/// Headers that are read, set and removed.
const EDITED: usize = 20;

/// A figure and its bar.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) nanoseconds: f64,
    /// The most that it should be.
    pub(crate) bar: Option<f64>,
}

/// The headers of a browser's request and those of a small answer.
#[derive(Debug)]
struct Stream {
    request: Vec<(Vec<u8>, Vec<u8>)>,
    response: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Stream {
    fn new() -> Box<Self> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
        };
        let request = own(&[
            (":method", "GET"),
            (":path", "/status/418"),
            (":authority", "httpbin.example.com"),
            (":scheme", "http"),
            ("accept", "*/*"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101"),
            ("allow", "true"),
            ("x-request-id", "5b0cf5b6-6a3e-4a8e-9b1e-0f6d2d3c4b5a"),
        ]);
        let response = own(&[(":status", "200"), ("content-type", "text/plain"), ("content-length", "135")]);
        Box::new(Self { request, response })
    }

    fn map(&self, map: MapType) -> Option<&Vec<(Vec<u8>, Vec<u8>)>> {
        match map {
            MapType::RequestHeaders => Some(&self.request),
            MapType::ResponseHeaders => Some(&self.response),
            _ => None,
        }
    }
}

impl StreamContext for Box<Stream> {
    fn has_map(&self, map: MapType) -> bool {
        self.map(map).is_some()
    }

    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let found = self.map(map).and_then(|pairs| pairs.iter().find(|(k, _)| k == name));
        found.inspect(|(_, value)| out.extend_from_slice(value)).is_some()
    }

    fn for_each_header(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.map(map).into_iter().flatten().for_each(|(k, v)| each(k, v));
    }

    fn edit_headers(&mut self, map: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        let pairs = match map {
            MapType::RequestHeaders => &mut self.request,
            MapType::ResponseHeaders => &mut self.response,
            _ => return EditOutcome::Unavailable,
        };
        match edit {
            HeaderEdit::Replace(name, value) => {
                pairs.retain(|(k, _)| k != name);
                pairs.push((name.to_vec(), value.to_vec()));
            }
            HeaderEdit::Remove(name) => pairs.retain(|(k, _)| k != name),
            _ => return EditOutcome::Unavailable,
        }
        EditOutcome::Done
    }
}

type StreamVm = Vm<Box<Stream>>;

/// Something that is done with a VM and a stream, which comes back.
type Each<'e> = dyn FnMut(&mut StreamVm, Box<Stream>) -> io::Result<Box<Stream>> + 'e;

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn module(engine: &Engine, path: &Path) -> io::Result<Module<Box<Stream>>> {
    Module::new(engine, &std::fs::read(path)?).map_err(failed)
}

fn start(module: &Module<Box<Stream>>) -> io::Result<StreamVm> {
    let process = Process::new(Arc::new(SystemServices));
    let plugin = Arc::new(PluginContext { name: "bench".to_owned(), ..PluginContext::default() });
    Vm::start(module, plugin, &process, Limits::default()).map_err(failed)
}

/// The fastest of many batches of `count` things that `batch` does, nanoseconds of one thing.
fn fastest(count: usize, mut batch: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let end = Instant::now() + PATIENCE;
    let mut best = Duration::MAX;
    while Instant::now() < end {
        let before = Instant::now();
        batch()?;
        best = best.min(before.elapsed());
    }
    Ok(best.as_nanos() as f64 / count as f64)
}

/// Everything between a request and the end of its stream, as the proxy calls it for a plug-in with these callbacks.
fn exchange(vm: &mut StreamVm, stream: Box<Stream>) -> io::Result<Box<Stream>> {
    let (stream, id) = vm.create_stream(stream);
    let id = id.map_err(failed)?;
    let (stream, outcome) = vm.on_request_headers(id, stream, stream_len(), true);
    black_box(outcome.map_err(failed)?.action);
    let (stream, outcome) = vm.on_response_headers(id, stream, 3, false);
    black_box(outcome.map_err(failed)?.action);
    let (stream, ended) = vm.end_stream(id, stream);
    ended.map_err(failed)?;
    Ok(stream)
}

const fn stream_len() -> usize {
    8
}

/// Measures everything.
///
/// # Errors
/// A plug-in that does not run.
pub(crate) fn measure(calls: &Path, go: Option<&Path>, rust: Option<&Path>) -> io::Result<Vec<Figure>> {
    let engine = Engine::new().map_err(failed)?;
    let mut out = Vec::new();
    let mut note = |what, nanoseconds, bar| out.push(Figure { what, nanoseconds, bar });

    let compiled = module(&engine, calls)?;
    let mut vm = start(&compiled)?;
    let (stream, id) = vm.create_stream(Stream::new());
    let (id, mut held) = (id.map_err(failed)?, Some(stream));
    let mut with = |each: &mut Each<'_>| {
        let stream = held.take().ok_or_else(|| failed("the stream is lost"))?;
        held = Some(each(&mut vm, stream)?);
        Ok::<_, io::Error>(())
    };
    let callback = fastest(MANY, || {
        for _ in 0..MANY {
            with(&mut |vm, stream| {
                let (stream, outcome) = vm.on_request_trailers(id, stream, 1);
                black_box(outcome.map_err(failed)?.action);
                Ok(stream)
            })?;
        }
        Ok(())
    })?;
    note("host → guest, an empty callback", callback, Some(30.0));
    let read = fastest(MANY, || {
        with(&mut |vm, stream| {
            let (stream, outcome) = vm.on_request_headers(id, stream, MANY, true);
            black_box(outcome.map_err(failed)?.action);
            Ok(stream)
        })
    })?;
    note("guest → host, get_header_map_value with the guest's allocator", read, Some(150.0));
    let edits = fastest(1, || {
        with(&mut |vm, stream| {
            let (stream, outcome) = vm.on_response_headers(id, stream, EDITED, true);
            black_box(outcome.map_err(failed)?.action);
            Ok(stream)
        })
    })?;
    note("20 reads, 20 writes and 20 removals", edits, Some(8000.0));
    note(
        "a VM of that module, from compiled to configured",
        fastest(1, || start(&compiled).map(drop))?,
        Some(5000.0),
    );

    let checks = [
        ("the header check in Rust, a whole stream", "its VM, to configured", rust, 500.0),
        ("the header check in Go, a whole stream", "its VM, to configured (Go)", go, 1000.0),
    ];
    for (what, start_what, path, bar) in checks {
        let Some(path) = path else { continue };
        let compiled = module(&engine, path)?;
        let mut vm = start(&compiled)?;
        let mut held = Some(Stream::new());
        let check = fastest(MANY, || {
            for _ in 0..MANY {
                let stream = held.take().ok_or_else(|| failed("the stream is lost"))?;
                held = Some(exchange(&mut vm, stream)?);
            }
            Ok(())
        })?;
        note(what, check, Some(bar));
        let started = fastest(1, || start(&compiled).map(drop))?;
        note(start_what, started, Some(1e6));
    }
    Ok(out)
}
