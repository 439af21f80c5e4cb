//! A VM: one instance of a module, its root context, and the way into it (spec: proxy-wasm-host §23).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::{Store, Trap};

use crate::abi::{DataAction, HeadersAction, NetworkAction, PeerType, TrailersAction};
use crate::actions::Actions;
use crate::calls::CallView;
use crate::effects::{CallToken, Effect, GrpcStatus, HeaderPairs, HttpCallResponse, QueueToken};
use crate::engine::Engine;
use crate::error::{Failure, StartError};
use crate::exports::{Exports, HeadersFn, typed};
use crate::guest::{Guest, Returned, call_raw, failure};
use crate::limits::Limits;
use crate::metrics::MetricRegistry;
use crate::module::Module;
use crate::plugin::PluginContext;
use crate::services::Services;
use crate::shared::{QueueConsumer, SharedState};
use crate::state::{Phase, ROOT, VmState};
use crate::stream::{ContextId, StreamContext, Streams};

/// What the VMs of one process have in common. Cheap to clone.
#[derive(Clone)]
pub struct Process {
    /// Clock, log, randomness, clusters.
    pub services: Arc<dyn Services>,
    /// Shared data and queues.
    pub shared: SharedState,
    /// Metrics that plug-ins define.
    pub metrics: MetricRegistry,
}

impl Process {
    /// A process without shared data, queues and metrics.
    pub fn new(services: Arc<dyn Services>) -> Self {
        Self { services, shared: SharedState::default(), metrics: MetricRegistry::default() }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Past this a VM takes no new streams, long before an id could be used twice.
const CONTEXT_ID_MAX: u32 = u32::MAX - 1024;

/// What a callback returned and asked for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<A> {
    /// The returned action. A local reply overrides it with the one that stops the direction.
    pub action: A,
    /// What to do after the action has been applied, in order.
    pub actions: Actions,
}

/// The stream handed back, and the result of the callback.
///
/// After a [`Failure`] the VM is dead: every further call answers with the same failure, without entering the guest.
pub type CallResult<S, A> = (S, Result<Outcome<A>, Arc<Failure>>);

/// One instance of a module with one root context. Never entered by two threads, may move between them.
pub struct Vm<S: StreamContext> {
    guest: Guest<S>,
    exports: Exports,
    pauses_headers_only: bool,
    next_context: u32,
}

impl<S: StreamContext> Vm<S> {
    /// Instantiates a module and brings it to the point where it takes streams: start-up functions, root context,
    /// `proxy_on_vm_start`, `proxy_on_configure`.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the instance is left.
    pub fn start(
        module: &Module<S>,
        plugin: Arc<PluginContext>,
        process: &Process,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let (initial_bytes, limit_bytes) = (module.initial_memory_bytes(), limits.memory_bytes_max);
        if initial_bytes > limit_bytes {
            return Err(StartError::MemoryOverLimit { initial_bytes, limit_bytes });
        }
        let shared = process.shared.namespace(&plugin.vm_id);
        let services = Arc::clone(&process.services);
        let registry = process.metrics.clone();
        let state = VmState::new(Arc::clone(&plugin), services, shared, registry, limits, module.abi());
        let mut store = Store::new(module.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(Engine::ticks_for(limits.start_time_max));
        let instance = module.instantiate(&mut store).map_err(|e| match e.downcast_ref::<Trap>() {
            Some(_) => StartError::Failed {
                failure: failure(&mut store, "start", &e, limits.start_time_max),
                last_log: store.data_mut().last_log.take(),
                hint: "",
            },
            None => StartError::Instantiate(format!("{e:#}")),
        })?;
        if let Some(memory) = instance.get_memory(&mut store, "memory") {
            store.data_mut().memory = Some(memory);
        }
        let exports = Exports::find(&instance, &mut store, &module.allowed);
        store.data_mut().allocate.clone_from(&exports.allocate);
        let guest = Guest {
            store,
            callback_ticks: Engine::ticks_for(limits.callback_time_max),
            callback_time_max: limits.callback_time_max,
            failed: None,
            _engine: module.engine.clone(),
        };
        let pauses_headers_only =
            module.abi().pauses_headers_only() || plugin.allow_on_headers_stop_iteration;
        let mut vm = Self { guest, exports, pauses_headers_only, next_context: ROOT };
        vm.run_start_functions(module, &instance, limits.start_time_max)?;
        vm.start_root(module, &plugin, limits.start_time_max)?;
        let state = vm.guest.store.data_mut();
        state.phase = Phase::Running;
        state.last_log = None;
        Ok(vm)
    }

    /// Reactors export `_initialize`, commands `_start`; a command that ends well has run its `main`.
    fn run_start_functions(
        &mut self,
        module: &Module<S>,
        instance: &wasmtime::Instance,
        time_max: Duration,
    ) -> Result<(), StartError> {
        let store = &mut self.guest.store;
        let result = if let Some(initialize) = typed::<(), ()>(instance, store, "_initialize") {
            initialize.call(&mut *store, ()).map_err(|e| ("_initialize", e)).and_then(|()| {
                if let Some(main) = typed::<(u32, u32), u32>(instance, store, "main") {
                    main.call(&mut *store, (0, 0)).map(|_| ()).map_err(|e| ("main", e))
                } else if let Some(main) = typed::<(), u32>(instance, store, "__main_void") {
                    main.call(&mut *store, ()).map(|_| ()).map_err(|e| ("__main_void", e))
                } else {
                    Ok(())
                }
            })
        } else if let Some(start) = typed::<(), ()>(instance, store, "_start") {
            start.call(&mut *store, ()).map_err(|e| ("_start", e))
        } else {
            Ok(())
        };
        self.guest.store.data_mut().flush_lines();
        let Err((function, error)) = result else { return Ok(()) };
        // A command that says "all went well" by leaving has not crashed.
        if self.guest.store.data().exit == Some(0) {
            self.guest.store.data_mut().exit = None;
            if !module.is_go_command() {
                return Ok(());
            }
            return Err(StartError::Instantiate(
                "the module is a Go command that has already ended: rebuild it with -buildmode=c-shared"
                    .to_owned(),
            ));
        }
        let failure = failure(&mut self.guest.store, function, &error, time_max);
        let last_log = self.guest.store.data_mut().last_log.take();
        Err(StartError::Failed { failure, last_log, hint: "" })
    }

    fn start_root(
        &mut self,
        module: &Module<S>,
        plugin: &PluginContext,
        time_max: Duration,
    ) -> Result<(), StartError> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (vm_size, plugin_size) = (size(&plugin.vm_configuration), size(&plugin.configuration));
        let Exports { context_create, vm_start, configure, .. } = &self.exports;
        let store = &mut self.guest.store;
        store.data_mut().enter(ROOT, None);
        let result = (|| {
            call_raw(store, context_create, (ROOT, 0)).map_err(|e| ("proxy_on_context_create", e))?;
            if call_raw(store, vm_start, (ROOT, vm_size)).map_err(|e| ("proxy_on_vm_start", e))? == Some(0) {
                return Ok(Some("proxy_on_vm_start"));
            }
            let configured =
                call_raw(store, configure, (ROOT, plugin_size)).map_err(|e| ("proxy_on_configure", e))?;
            Ok((configured == Some(0)).then_some("proxy_on_configure"))
        })();
        self.guest.store.data_mut().flush_lines();
        self.guest.store.data_mut().leave(result.is_err());
        let last_log = self.guest.store.data_mut().last_log.take();
        match result {
            Ok(None) => Ok(()),
            Ok(Some("proxy_on_vm_start")) => Err(StartError::VmStartFalse { last_log }),
            Ok(Some(_)) => Err(StartError::ConfigureFalse { last_log }),
            Err((function, error)) => {
                let failure = failure(&mut self.guest.store, function, &error, time_max);
                let hint = start_hint(module, function);
                Err(StartError::Failed { failure, last_log, hint })
            }
        }
    }

    /// Announces a new stream to the guest.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn create_stream(&mut self, stream: S) -> (S, Result<ContextId, Arc<Failure>>) {
        let id = self.next_context.saturating_add(1);
        self.next_context = id;
        let create = self.exports.context_create.as_ref();
        let (stream, result) = self.guest.call("proxy_on_context_create", create, (id, ROOT), id, stream);
        (stream, result.map(|_| ContextId(id)))
    }

    /// Request headers are complete. `count` includes pseudo headers.
    pub fn on_request_headers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
        end: bool,
    ) -> CallResult<S, HeadersAction> {
        let name = "proxy_on_request_headers";
        let (stream, result) =
            headers(&mut self.guest, name, self.exports.request_headers.as_ref(), (id, count, end), stream);
        (stream, headers_outcome(result, self.pauses_headers_only))
    }

    /// Response headers are complete.
    pub fn on_response_headers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
        end: bool,
    ) -> CallResult<S, HeadersAction> {
        let name = "proxy_on_response_headers";
        let (stream, result) =
            headers(&mut self.guest, name, self.exports.response_headers.as_ref(), (id, count, end), stream);
        (stream, headers_outcome(result, self.pauses_headers_only))
    }

    /// A piece of the request body; `size` is what the guest can see of it.
    pub fn on_request_body(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, DataAction> {
        let function = self.exports.request_body.as_ref();
        let params = (id.0, wide(size), u32::from(end));
        let (stream, result) = self.guest.call("proxy_on_request_body", function, params, id.0, stream);
        (stream, data_outcome(result))
    }

    /// A piece of the response body.
    pub fn on_response_body(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, DataAction> {
        let function = self.exports.response_body.as_ref();
        let params = (id.0, wide(size), u32::from(end));
        let (stream, result) = self.guest.call("proxy_on_response_body", function, params, id.0, stream);
        (stream, data_outcome(result))
    }

    /// Request trailers are complete.
    pub fn on_request_trailers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
    ) -> CallResult<S, TrailersAction> {
        let function = self.exports.request_trailers.as_ref();
        let (stream, result) =
            self.guest.call("proxy_on_request_trailers", function, (id.0, wide(count)), id.0, stream);
        (stream, trailers_outcome(result))
    }

    /// Response trailers are complete.
    pub fn on_response_trailers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
    ) -> CallResult<S, TrailersAction> {
        let function = self.exports.response_trailers.as_ref();
        let (stream, result) =
            self.guest.call("proxy_on_response_trailers", function, (id.0, wide(count)), id.0, stream);
        (stream, trailers_outcome(result))
    }

    /// The stream is over: `proxy_on_log`, `proxy_on_done`, `proxy_on_delete`, in Envoy's order
    /// (spec: proxy-wasm-host §6.5). Actions that the guest asks for now have no stream to act on and are dropped.
    pub fn end_stream(&mut self, id: ContextId, stream: S) -> (S, Result<(), Arc<Failure>>) {
        let Exports { log, done, delete, .. } = &self.exports;
        let (stream, logged) = self.guest.call("proxy_on_log", log.as_ref(), id.0, id.0, stream);
        let (stream, done) = self.guest.call("proxy_on_done", done.as_ref(), id.0, id.0, stream);
        let (stream, deleted) = self.guest.call("proxy_on_delete", delete.as_ref(), id.0, id.0, stream);
        // The first failure is what all later calls answer with.
        (stream, logged.map(drop).and(done.map(drop)).and(deleted.map(drop)))
    }

    /// A TCP connection has been accepted.
    pub fn on_new_connection(&mut self, id: ContextId, stream: S) -> CallResult<S, NetworkAction> {
        let function = self.exports.new_connection.as_ref();
        let (stream, result) = self.guest.call("proxy_on_new_connection", function, id.0, id.0, stream);
        (stream, network_outcome(result))
    }

    /// Bytes from the client; `size` is all that waits.
    pub fn on_downstream_data(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, NetworkAction> {
        let function = self.exports.downstream_data.as_ref();
        let params = (id.0, wide(size), u32::from(end));
        let (stream, result) = self.guest.call("proxy_on_downstream_data", function, params, id.0, stream);
        (stream, network_outcome(result))
    }

    /// Bytes from the server; `size` is all that waits.
    pub fn on_upstream_data(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, NetworkAction> {
        let function = self.exports.upstream_data.as_ref();
        let params = (id.0, wide(size), u32::from(end));
        let (stream, result) = self.guest.call("proxy_on_upstream_data", function, params, id.0, stream);
        (stream, network_outcome(result))
    }

    /// The client's side of a TCP connection is closed.
    pub fn on_downstream_close(&mut self, id: ContextId, stream: S, by: PeerType) -> CallResult<S, ()> {
        let (name, function) =
            ("proxy_on_downstream_connection_close", self.exports.downstream_close.as_ref());
        let (stream, result) = self.guest.call(name, function, (id.0, by as u32), id.0, stream);
        (stream, unit_outcome(result))
    }

    /// The server's side of a TCP connection is closed.
    pub fn on_upstream_close(&mut self, id: ContextId, stream: S, by: PeerType) -> CallResult<S, ()> {
        let (name, function) = ("proxy_on_upstream_connection_close", self.exports.upstream_close.as_ref());
        let (stream, result) = self.guest.call(name, function, (id.0, by as u32), id.0, stream);
        (stream, unit_outcome(result))
    }

    /// A TCP connection is over: `proxy_on_done`, `proxy_on_log`, `proxy_on_delete` (spec: proxy-wasm-host §6.5).
    pub fn end_connection(&mut self, id: ContextId, stream: S) -> (S, Result<(), Arc<Failure>>) {
        let Exports { log, done, delete, .. } = &self.exports;
        let (stream, done) = self.guest.call("proxy_on_done", done.as_ref(), id.0, id.0, stream);
        let (stream, logged) = self.guest.call("proxy_on_log", log.as_ref(), id.0, id.0, stream);
        let (stream, deleted) = self.guest.call("proxy_on_delete", delete.as_ref(), id.0, id.0, stream);
        (stream, done.map(drop).and(logged.map(drop)).and(deleted.map(drop)))
    }

    /// How this VM reaches streams other than the one of a callback. Without it, `proxy_set_effective_context` knows
    /// the current context and the root only.
    pub fn set_streams(&mut self, streams: Box<dyn Streams<S>>) {
        self.guest.store.data_mut().streams = Some(streams);
    }

    /// Makes this VM the consumer of the queues that it has registered and will register. Until then they collect
    /// items, and nobody is told: a VM that waits for its turn takes nothing away from the one that serves.
    pub fn set_queue_consumer(&mut self, consumer: Arc<dyn QueueConsumer>) {
        let state = self.guest.store.data_mut();
        for token in state.registered.drain(..) {
            state.shared.consume(token, Arc::clone(&consumer));
        }
        state.consumer = Some(consumer);
    }

    /// Whether [`Vm::take_effects`] has something.
    pub fn has_effects(&self) -> bool {
        !self.guest.store.data().effects.is_empty()
    }

    /// What the guest asked for since the last time, in order. To be called after each callback, and once after
    /// [`Vm::start`].
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let state = self.guest.store.data_mut();
        state.effect_bytes = 0;
        std::mem::take(&mut state.effects)
    }

    /// Whether a call-out still waits for its end.
    pub fn is_call_open(&self, token: CallToken) -> bool {
        self.guest.store.data().calls.is_open(token)
    }

    /// Number of call-outs that are under way.
    pub fn open_calls(&self) -> usize {
        self.guest.store.data().calls.len()
    }

    /// The timer that [`Effect::Tick`] asked for has run out.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_tick(&mut self) -> Result<(), Arc<Failure>> {
        self.guest.call_root("proxy_on_tick", self.exports.tick.as_ref(), ROOT).map(drop)
    }

    /// A queue that this VM registered last has an item.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_queue_ready(&mut self, token: QueueToken) -> Result<(), Arc<Failure>> {
        let function = self.exports.queue_ready.as_ref();
        self.guest.call_root("proxy_on_queue_ready", function, (ROOT, token.0)).map(drop)
    }

    /// An HTTP call-out has ended; `None` when there is no answer. A token that is not open does nothing.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_http_call_response(
        &mut self,
        token: CallToken,
        response: Option<HttpCallResponse>,
    ) -> Result<(), Arc<Failure>> {
        let (mut params, mut view) = ((ROOT, token.0, 0, 0, 0), CallView::default());
        match response {
            Some(HttpCallResponse { headers, body, trailers }) => {
                params = (ROOT, token.0, wide(headers.len()), wide(body.len()), wide(trailers.len()));
                view.http_headers = Some(headers);
                view.http_body = Some(body);
                view.http_trailers = Some(trailers);
            }
            // spec: proxy-wasm-host §4.2: what proxy_get_status tells of a failed call
            None => (view.status, view.status_message) = (11, b"reset".to_vec()),
        }
        let function = self.exports.http_call_response.as_ref();
        Self::answer(&mut self.guest, token, true, view, |guest| {
            guest.call_root("proxy_on_http_call_response", function, params).map(drop)
        })
    }

    /// The initial metadata of a gRPC stream.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_grpc_initial_metadata(
        &mut self,
        token: CallToken,
        metadata: HeaderPairs,
    ) -> Result<(), Arc<Failure>> {
        let params = (ROOT, token.0, wide(metadata.len()));
        let view = CallView { initial_metadata: Some(metadata), ..CallView::default() };
        let function = self.exports.grpc_initial_metadata.as_ref();
        Self::answer(&mut self.guest, token, false, view, |guest| {
            guest.call_root("proxy_on_grpc_receive_initial_metadata", function, params).map(drop)
        })
    }

    /// A message of a gRPC call or stream; with `last` it ends a unary call.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_grpc_receive(
        &mut self,
        token: CallToken,
        message: Bytes,
        last: bool,
    ) -> Result<(), Arc<Failure>> {
        let params = (ROOT, token.0, wide(message.len()));
        let view = CallView { grpc_message: message, ..CallView::default() };
        let function = self.exports.grpc_receive.as_ref();
        Self::answer(&mut self.guest, token, last, view, |guest| {
            guest.call_root("proxy_on_grpc_receive", function, params).map(drop)
        })
    }

    /// The trailing metadata of a gRPC stream.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_grpc_trailing_metadata(
        &mut self,
        token: CallToken,
        metadata: HeaderPairs,
    ) -> Result<(), Arc<Failure>> {
        let params = (ROOT, token.0, wide(metadata.len()));
        let view = CallView { trailing_metadata: Some(metadata), ..CallView::default() };
        let function = self.exports.grpc_trailing_metadata.as_ref();
        Self::answer(&mut self.guest, token, false, view, |guest| {
            guest.call_root("proxy_on_grpc_receive_trailing_metadata", function, params).map(drop)
        })
    }

    /// A gRPC stream has ended, or a call has failed.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_grpc_close(&mut self, token: CallToken, status: GrpcStatus) -> Result<(), Arc<Failure>> {
        let params = (ROOT, token.0, status.code);
        let view = CallView { status: status.code, status_message: status.message, ..CallView::default() };
        let function = self.exports.grpc_close.as_ref();
        Self::answer(&mut self.guest, token, true, view, |guest| {
            guest.call_root("proxy_on_grpc_close", function, params).map(drop)
        })
    }

    /// Addresses with their time to live in seconds; none when the name cannot be resolved.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_resolve_dns(
        &mut self,
        token: CallToken,
        addresses: &[(std::net::IpAddr, u32)],
    ) -> Result<(), Arc<Failure>> {
        let call_data = encode_addresses(addresses);
        let params = (ROOT, token.0, wide(call_data.len()));
        let view = CallView { call_data, ..CallView::default() };
        let function = self.exports.resolve_dns.as_ref();
        Self::answer(&mut self.guest, token, true, view, |guest| {
            guest.call_root("envoy_on_resolve_dns", function, params).map(drop)
        })
    }

    /// A Redis server's reply as it came over the wire; `None` when there is none.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_redis_call_response(
        &mut self,
        token: CallToken,
        reply: Option<Bytes>,
    ) -> Result<(), Arc<Failure>> {
        let status = u32::from(reply.is_none());
        let redis_reply = reply.unwrap_or_default();
        let params = (ROOT, token.0, status, wide(redis_reply.len()));
        let view = CallView { redis_reply, ..CallView::default() };
        let function = self.exports.redis_call_response.as_ref();
        Self::answer(&mut self.guest, token, true, view, |guest| {
            guest.call_root("proxy_on_redis_call_response", function, params).map(drop)
        })
    }

    /// Calls the guest's handler for an embedder's own function, whose arguments buffer 8 shows.
    ///
    /// # Errors
    /// The VM's failure, if it is dead or dies of it.
    pub fn on_foreign_function(&mut self, function_id: u32, arguments: Bytes) -> Result<(), Arc<Failure>> {
        let params = (ROOT, function_id, wide(arguments.len()));
        self.guest.store.data_mut().view = CallView { call_data: arguments, ..CallView::default() };
        let function = self.exports.foreign_function.as_ref();
        let result = self.guest.call_root("proxy_on_foreign_function", function, params).map(drop);
        self.guest.store.data_mut().view = CallView::default();
        result
    }

    /// Shows an answer for the length of one callback. An answer to what is no longer open is dropped: SDKs panic when
    /// they do not know a token.
    fn answer(
        guest: &mut Guest<S>,
        token: CallToken,
        last: bool,
        view: CallView,
        call: impl FnOnce(&mut Guest<S>) -> Result<(), Arc<Failure>>,
    ) -> Result<(), Arc<Failure>> {
        let state = guest.store.data_mut();
        let open = if last { state.calls.close(token) } else { state.calls.is_open(token) };
        if !open {
            return guest.failed.as_ref().map_or(Ok(()), |f| Err(Arc::clone(f)));
        }
        state.view = view;
        let result = call(guest);
        guest.store.data_mut().view = CallView::default();
        result
    }

    /// Begins to end the root context: `proxy_on_done`. With `true` the VM can go; with `false` it wants more time,
    /// goes on getting ticks, queue events and answers, and says [`Effect::Done`] when it is ready.
    pub fn begin_stop(&mut self) -> bool {
        self.guest.store.data_mut().phase = Phase::Stopping;
        match self.guest.call_root("proxy_on_done", self.exports.done.as_ref(), ROOT) {
            Ok(Some(returned)) => returned.value != 0 || self.guest.store.data().phase == Phase::Stopped,
            Ok(None) | Err(_) => true,
        }
    }

    /// Ends the root context: `proxy_on_delete`, and `proxy_on_done` before it if [`Vm::begin_stop`] was not called.
    /// A root that asks for more time now does not get it.
    pub fn stop(mut self) {
        if self.guest.store.data().phase == Phase::Running {
            self.begin_stop();
        }
        // A plug-in that traps while it goes leaves nothing behind either way.
        let _ = self.guest.call_root("proxy_on_delete", self.exports.delete.as_ref(), ROOT);
    }

    /// What ended the VM, if anything has.
    pub fn failure(&self) -> Option<&Arc<Failure>> {
        self.guest.failed.as_ref()
    }

    /// Whether the VM should get no new streams although it has not failed: its context ids run out.
    pub fn is_exhausted(&self) -> bool {
        self.next_context >= CONTEXT_ID_MAX
    }

    /// Size of the linear memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.guest.store.data().memory.map_or(0, |m| m.data_size(&self.guest.store))
    }
}

impl<S: StreamContext> std::fmt::Debug for Vm<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("plugin", &self.guest.store.data().plugin.name)
            .field("memory_bytes", &self.memory_bytes())
            .field("failed", &self.guest.failed)
            .finish_non_exhaustive()
    }
}

/// The SDKs make the root context in `proxy_on_context_create`, out of what the plug-in has registered before.
fn start_hint<S: StreamContext>(module: &Module<S>, function: &str) -> &'static str {
    if function == "proxy_on_context_create" && module.is_reactor() {
        "; nothing seems to be registered: main() does not run in a plug-in that is built as a reactor, so \
         register in init() (Go: func init() { proxywasm.SetVMContext(…) })"
    } else {
        ""
    }
}

/// spec: proxy-wasm-host §2.4
fn encode_addresses(addresses: &[(std::net::IpAddr, u32)]) -> Bytes {
    if addresses.is_empty() {
        return Bytes::new();
    }
    let mut out = wide(addresses.len()).to_le_bytes().to_vec();
    for (_, ttl) in addresses {
        out.extend_from_slice(&ttl.to_le_bytes());
    }
    for (address, _) in addresses {
        out.extend_from_slice(address.to_string().as_bytes());
        out.push(0);
    }
    out.into()
}

fn wide(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Calls a headers callback in the shape that the module's version has.
fn headers<S: StreamContext>(
    guest: &mut Guest<S>,
    name: &'static str,
    function: Option<&HeadersFn>,
    (id, count, end): (ContextId, usize, bool),
    stream: S,
) -> (S, Returned<u32>) {
    match function {
        Some(HeadersFn::Two(f)) => guest.call(name, Some(f), (id.0, wide(count)), id.0, stream),
        Some(HeadersFn::Three(f)) => {
            guest.call(name, Some(f), (id.0, wide(count), u32::from(end)), id.0, stream)
        }
        None => guest.call::<(), u32>(name, None, (), id.0, stream),
    }
}

/// What a returned number means. `absent`: for callbacks that the module does not export; `replied`: after a local reply.
fn outcome<A>(
    returned: Returned<u32>,
    absent: A,
    replied: A,
    convert: impl FnOnce(u32) -> A,
) -> Result<Outcome<A>, Arc<Failure>> {
    Ok(match returned? {
        None => Outcome { action: absent, actions: Actions::new() },
        Some(r) => Outcome { action: if r.replied { replied } else { convert(r.value) }, actions: r.actions },
    })
}

fn headers_outcome(
    returned: Returned<u32>,
    headers_only: bool,
) -> Result<Outcome<HeadersAction>, Arc<Failure>> {
    let convert = |raw| HeadersAction::from_guest(raw, headers_only);
    outcome(returned, HeadersAction::Continue, HeadersAction::StopAllAndWatermark, convert)
}

fn data_outcome(returned: Returned<u32>) -> Result<Outcome<DataAction>, Arc<Failure>> {
    outcome(returned, DataAction::Continue, DataAction::StopNoBuffer, DataAction::from_guest)
}

fn trailers_outcome(returned: Returned<u32>) -> Result<Outcome<TrailersAction>, Arc<Failure>> {
    outcome(returned, TrailersAction::Continue, TrailersAction::StopIteration, TrailersAction::from_guest)
}

fn network_outcome(returned: Returned<u32>) -> Result<Outcome<NetworkAction>, Arc<Failure>> {
    outcome(returned, NetworkAction::Continue, NetworkAction::StopIteration, NetworkAction::from_guest)
}

fn unit_outcome(returned: Returned<()>) -> Result<Outcome<()>, Arc<Failure>> {
    Ok(match returned? {
        None => Outcome { action: (), actions: Actions::new() },
        Some(r) => Outcome { action: (), actions: r.actions },
    })
}
