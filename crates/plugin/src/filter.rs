//! A plug-in as a step of a stream's chain.

mod network;

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use smallvec::{SmallVec, smallvec};
use wasmgate_host as host;
use wasmgate_stream::{
    DataAction, Direction, Filter, HeadersAction, Interest, LocalReply, StreamData, Then, TrailersAction,
    Verdict,
};

use crate::cell::VmCell;
use crate::definition::FailStrategy;
use crate::fault::response_code_details;
use crate::port::StreamPort;
use crate::stats::PluginStats;
use crate::version::PluginVersion;
use crate::view::WasmStream;
use crate::worker::WorkerPlugin;

/// One plug-in on one stream.
#[derive(Debug)]
pub struct PluginFilter {
    plugin: Rc<WorkerPlugin>,
    /// How others reach the stream.
    port: Rc<StreamPort>,
    /// This filter's place in the chain.
    index: usize,
    /// The VM and the stream's context in it, from the request headers on.
    context: Option<(Rc<VmCell>, host::ContextId)>,
    /// Whether the stream has come to this filter at all.
    is_reached: bool,
}

type Then1 = SmallVec<[Then; 1]>;

/// What a guest asked for, in the chain's words.
pub(crate) fn then(version: &PluginVersion, actions: host::Actions) -> Then1 {
    actions.into_iter().map(|action| translate(version, action)).collect()
}

/// A chain leaves out what is not for its kind of stream.
fn translate(version: &PluginVersion, action: host::StreamAction) -> Then {
    match action {
        host::StreamAction::Continue(host::Direction::Request) => Then::Continue(Direction::Request),
        host::StreamAction::Continue(host::Direction::Response) => Then::Continue(Direction::Response),
        host::StreamAction::Close => Then::Reset { details: "wasm_close_stream" },
        host::StreamAction::Inject(injection) => Then::Inject(Box::new((injection.data, injection.end))),
        host::StreamAction::ContinueConnection(host::Direction::Request) => {
            Then::ContinueConnection(Direction::Request)
        }
        host::StreamAction::ContinueConnection(host::Direction::Response) => {
            Then::ContinueConnection(Direction::Response)
        }
        host::StreamAction::CloseConnection(_) => Then::CloseConnection,
        host::StreamAction::LocalReply(reply) => {
            PluginStats::add(&version.stats.local_replies);
            // An informational one would be no answer.
            let status = StatusCode::from_u16(reply.status).ok().filter(|s| !s.is_informational());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Then::LocalReply(Box::new(LocalReply {
                status,
                details: reply.details.into(),
                flags: "",
                headers: reply.headers,
                body: reply.body,
                grpc_status: reply.grpc_status,
            }))
        }
    }
}

/// What the fail strategy says about a stream that a failed VM holds.
pub(crate) fn on_failure(version: &PluginVersion, failure: &host::Failure, id: host::ContextId) -> Then1 {
    let details =
        if failure.context == Some(id) { response_code_details(&failure.reason) } else { VM_FAILED };
    match version.definition.fail_strategy {
        FailStrategy::Open => smallvec![Then::Bypass],
        FailStrategy::Close | FailStrategy::Reload => refusal(details),
    }
}

/// Response code details of a stream that needed a VM which had failed in another one.
const VM_FAILED: &str = "wasm_vm_failed";

/// A stream is answered, a connection closed: each chain takes what is for its kind.
fn refusal(details: &'static str) -> Then1 {
    let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "", details, "");
    smallvec![Then::LocalReply(Box::new(reply)), Then::CloseConnection]
}

impl PluginFilter {
    /// A filter for a new stream, at its place in the chain.
    pub fn new(plugin: Rc<WorkerPlugin>, port: Rc<StreamPort>, index: usize) -> Self {
        Self { plugin, port, index, context: None, is_reached: false }
    }

    /// Enters the guest; the stream's data moves in and comes back.
    fn call<A, B: From<A> + Continues>(
        &mut self,
        data: Box<StreamData>,
        stopped: B,
        enter: impl FnOnce(
            &mut host::Vm<WasmStream>,
            host::ContextId,
            WasmStream,
        ) -> host::CallResult<WasmStream, A>,
    ) -> (Box<StreamData>, Verdict<B>) {
        let Some((cell, id)) = &self.context else { return (data, Verdict::new(B::CONTINUE)) };
        let started = self.plugin.version.engine.ticks();
        let (data, result) = match cell.vm.borrow_mut().as_mut() {
            Some(vm) => {
                let (stream, result) = enter(vm, *id, WasmStream(data));
                (stream.0, result)
            }
            // The cell loses its VM only when it is dropped.
            None => return (data, Verdict::new(B::CONTINUE)),
        };
        self.plugin.version.note_slow(started);
        cell.after_callback();
        match result {
            Ok(outcome) => {
                let then = then(&self.plugin.version, outcome.actions);
                (data, Verdict { action: B::from(outcome.action), then })
            }
            Err(failure) => {
                let verdict = self.fail(&failure, stopped);
                (data, verdict)
            }
        }
    }

    /// A context for the stream in this worker's VM. With an error: why there is none.
    fn create(&mut self, data: Box<StreamData>) -> (Box<StreamData>, Result<(), &'static str>) {
        self.is_reached = true;
        let Some(cell) = self.plugin.acquire() else { return (data, Err("wasm_restarting")) };
        let started = self.plugin.version.engine.ticks();
        let (data, created) = match cell.vm.borrow_mut().as_mut() {
            Some(vm) => {
                let (stream, created) = vm.create_stream(WasmStream(data));
                (stream.0, created)
            }
            // The cell loses its VM only when it is dropped.
            None => return (data, Ok(())),
        };
        self.plugin.version.note_slow(started);
        cell.after_callback();
        match created {
            Ok(id) => {
                cell.add_stream(id, Rc::clone(&self.port), self.index);
                self.context = Some((cell, id));
                (data, Ok(()))
            }
            Err(failure) => {
                self.plugin.failed(&cell, &failure);
                (data, Err(response_code_details(&failure.reason)))
            }
        }
    }

    /// What the fail strategy says about a stream whose VM has failed.
    fn fail<B: Continues>(&mut self, failure: &Arc<host::Failure>, stopped: B) -> Verdict<B> {
        let mut is_culprit = false;
        if let Some((cell, id)) = self.context.take() {
            cell.remove_stream(id);
            is_culprit = self.plugin.failed(&cell, failure) || failure.context == Some(id);
        }
        let details = if is_culprit { response_code_details(&failure.reason) } else { VM_FAILED };
        self.strategy(details, stopped)
    }

    fn strategy<B: Continues>(&self, details: &'static str, stopped: B) -> Verdict<B> {
        match self.plugin.version.definition.fail_strategy {
            FailStrategy::Open => Verdict { action: B::CONTINUE, then: smallvec![Then::Bypass] },
            FailStrategy::Close | FailStrategy::Reload => Verdict { action: stopped, then: refusal(details) },
        }
    }
}

/// Actions that have a "go on".
trait Continues {
    const CONTINUE: Self;
}

impl Continues for HeadersAction {
    const CONTINUE: Self = Self::Continue;
}

impl Continues for DataAction {
    const CONTINUE: Self = Self::Continue;
}

impl Continues for TrailersAction {
    const CONTINUE: Self = Self::Continue;
}

/// The host's actions are the chain's, under the chain's names.
struct FromHost<T>(T);

impl From<host::HeadersAction> for FromHost<HeadersAction> {
    fn from(action: host::HeadersAction) -> Self {
        Self(match action {
            host::HeadersAction::Continue => HeadersAction::Continue,
            host::HeadersAction::StopIteration => HeadersAction::StopIteration,
            host::HeadersAction::StopAllAndBuffer => HeadersAction::StopAllAndBuffer,
            host::HeadersAction::StopAllAndWatermark => HeadersAction::StopAllAndWatermark,
        })
    }
}

impl From<host::DataAction> for FromHost<DataAction> {
    fn from(action: host::DataAction) -> Self {
        Self(match action {
            host::DataAction::Continue => DataAction::Continue,
            host::DataAction::StopAndBuffer => DataAction::StopAndBuffer,
            host::DataAction::StopAndWatermark => DataAction::StopAndWatermark,
            host::DataAction::StopNoBuffer => DataAction::StopNoBuffer,
        })
    }
}

impl From<host::TrailersAction> for FromHost<TrailersAction> {
    fn from(action: host::TrailersAction) -> Self {
        Self(match action {
            host::TrailersAction::Continue => TrailersAction::Continue,
            host::TrailersAction::StopIteration => TrailersAction::StopIteration,
        })
    }
}

impl<T: Continues> Continues for FromHost<T> {
    const CONTINUE: Self = Self(T::CONTINUE);
}

fn unwrap<T>((data, verdict): (Box<StreamData>, Verdict<FromHost<T>>)) -> (Box<StreamData>, Verdict<T>) {
    (data, Verdict { action: verdict.action.0, then: verdict.then })
}

impl Filter for PluginFilter {
    fn interest(&self) -> Interest {
        let callbacks = self.plugin.callbacks;
        Interest {
            request_body: callbacks.request_body,
            request_trailers: callbacks.request_trailers,
            response_headers: callbacks.response_headers,
            response_body: callbacks.response_body,
            response_trailers: callbacks.response_trailers,
        }
    }

    fn request_headers(
        &mut self,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        let stopped = HeadersAction::StopAllAndWatermark;
        let (data, created) = self.create(data);
        if let Err(details) = created {
            let verdict = self.strategy(details, stopped);
            return (data, verdict);
        }
        if !self.plugin.callbacks.request_headers {
            return (data, Verdict::new(HeadersAction::Continue));
        }
        let count = data.request.count();
        unwrap(
            self.call(data, FromHost(stopped), |vm, id, stream| {
                vm.on_request_headers(id, stream, count, end)
            }),
        )
    }

    fn response_headers(
        &mut self,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<HeadersAction>) {
        let count = data.response.as_ref().map_or(0, wasmgate_stream::ResponseHead::count);
        let stopped = FromHost(HeadersAction::StopAllAndWatermark);
        unwrap(self.call(data, stopped, |vm, id, stream| vm.on_response_headers(id, stream, count, end)))
    }

    fn data(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<DataAction>) {
        let size = data.body(direction).map_or(0, bytes::Bytes::len);
        let stopped = FromHost(DataAction::StopNoBuffer);
        unwrap(self.call(data, stopped, |vm, id, stream| match direction {
            Direction::Request => vm.on_request_body(id, stream, size, end),
            Direction::Response => vm.on_response_body(id, stream, size, end),
        }))
    }

    fn trailers(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
    ) -> (Box<StreamData>, Verdict<TrailersAction>) {
        let trailers = match direction {
            Direction::Request => &data.request_trailers,
            Direction::Response => &data.response_trailers,
        };
        let count = trailers.as_ref().map_or(0, http::HeaderMap::len);
        let stopped = FromHost(TrailersAction::StopIteration);
        unwrap(self.call(data, stopped, |vm, id, stream| match direction {
            Direction::Request => vm.on_request_trailers(id, stream, count),
            Direction::Response => vm.on_response_trailers(id, stream, count),
        }))
    }

    fn end(&mut self, data: Box<StreamData>) -> Box<StreamData> {
        // A stream that was answered before it came here is logged all the same (spec: proxy-wasm-host §6.5).
        let is_late = !self.is_reached && self.plugin.callbacks.end;
        let data = if is_late { self.create(data).0 } else { data };
        self.finish(data, host::Vm::end_stream)
    }
}

impl PluginFilter {
    fn finish(
        &mut self,
        data: Box<StreamData>,
        finish: impl FnOnce(
            &mut host::Vm<WasmStream>,
            host::ContextId,
            WasmStream,
        ) -> (WasmStream, Result<(), Arc<host::Failure>>),
    ) -> Box<StreamData> {
        let Some((cell, id)) = self.context.take() else { return data };
        let started = self.plugin.version.engine.ticks();
        let (data, result) = match cell.vm.borrow_mut().as_mut() {
            Some(vm) => {
                let (stream, result) = finish(vm, id, WasmStream(data));
                (stream.0, result)
            }
            None => return data,
        };
        self.plugin.version.note_slow(started);
        cell.note_memory();
        cell.remove_stream(id);
        cell.after_callback();
        if let Err(failure) = result {
            // The response is complete: nobody but the next stream needs to know.
            self.plugin.failed(&cell, &failure);
        }
        data
    }
}
