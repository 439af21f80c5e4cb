//! A VM: one instance of a module, its root context, and the way into it (spec: proxy-wasm-host §23).

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap, TypedFunc, WasmBacktrace, WasmParams, WasmResults};

use crate::abi::{DataAction, HeadersAction, TrailersAction};
use crate::actions::Actions;
use crate::engine::Engine;
use crate::error::{Failure, FailureReason, StartError};
use crate::exports::{Exports, HeadersFn, typed};
use crate::limits::Limits;
use crate::module::Module;
use crate::plugin::PluginContext;
use crate::services::Services;
use crate::state::VmState;
use crate::stream::StreamContext;

/// A context of a VM; 1 is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId(u32);

const ROOT: u32 = 1;
/// Past this a VM takes no new streams, long before an id could be used twice.
const CONTEXT_ID_MAX: u32 = u32::MAX - 1024;

/// What a callback returned and asked for.
#[derive(Debug)]
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
    store: Store<VmState<S>>,
    exports: Exports,
    callback_ticks: u64,
    callback_time_max: Duration,
    pauses_headers_only: bool,
    next_context: u32,
    failed: Option<Arc<Failure>>,
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
        services: Arc<dyn Services>,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let state = VmState::new(Arc::clone(&plugin), services, limits, module.abi());
        let mut store = Store::new(module.engine.wasmtime(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(Engine::ticks_for(limits.start_time_max));
        let instance = module.pre.instantiate(&mut store).map_err(|e| match e.downcast_ref::<Trap>() {
            Some(_) => StartError::Failed(failure(&mut store, "start", &e, limits.start_time_max)),
            None => StartError::Instantiate(format!("{e:#}")),
        })?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let exports = Exports::find(&instance, &mut store, module.abi());
        store.data_mut().allocate.clone_from(&exports.allocate);
        let mut vm = Self {
            store,
            exports,
            callback_ticks: Engine::ticks_for(limits.callback_time_max),
            callback_time_max: limits.callback_time_max,
            pauses_headers_only: module.abi().pauses_headers_only(),
            next_context: ROOT,
            failed: None,
        };
        vm.run_start_functions(module, &instance, limits.start_time_max)?;
        vm.start_root(&plugin, limits.start_time_max)?;
        vm.store.data_mut().starting = false;
        vm.store.data_mut().last_log = None;
        Ok(vm)
    }

    /// Reactors export `_initialize`, commands `_start`; a command that ends well has run its `main`.
    fn run_start_functions(
        &mut self,
        module: &Module<S>,
        instance: &wasmtime::Instance,
        time_max: Duration,
    ) -> Result<(), StartError> {
        let store = &mut self.store;
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
        self.store.data_mut().flush_lines();
        let Err((function, error)) = result else { return Ok(()) };
        // A command that says "all went well" by leaving has not crashed.
        if self.store.data().exit == Some(0) {
            self.store.data_mut().exit = None;
            if !module.is_go_command() {
                return Ok(());
            }
            return Err(StartError::Instantiate(
                "the module is a Go command that has already ended: rebuild it with -buildmode=c-shared"
                    .to_owned(),
            ));
        }
        Err(StartError::Failed(failure(&mut self.store, function, &error, time_max)))
    }

    fn start_root(&mut self, plugin: &PluginContext, time_max: Duration) -> Result<(), StartError> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (vm_size, plugin_size) = (size(&plugin.vm_configuration), size(&plugin.configuration));
        let Exports { context_create, vm_start, configure, .. } = &self.exports;
        let store = &mut self.store;
        let result = (|| {
            call_raw(store, context_create, (ROOT, 0)).map_err(|e| ("proxy_on_context_create", e))?;
            if call_raw(store, vm_start, (ROOT, vm_size)).map_err(|e| ("proxy_on_vm_start", e))? == Some(0) {
                return Ok(Some("proxy_on_vm_start"));
            }
            let configured =
                call_raw(store, configure, (ROOT, plugin_size)).map_err(|e| ("proxy_on_configure", e))?;
            Ok((configured == Some(0)).then_some("proxy_on_configure"))
        })();
        self.store.data_mut().flush_lines();
        let last_log = self.store.data_mut().last_log.take();
        match result {
            Ok(None) => Ok(()),
            Ok(Some("proxy_on_vm_start")) => Err(StartError::VmStartFalse { last_log }),
            Ok(Some(_)) => Err(StartError::ConfigureFalse { last_log }),
            Err((function, error)) => {
                Err(StartError::Failed(failure(&mut self.store, function, &error, time_max)))
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
        let Self { exports, .. } = self;
        let Some(create) = exports.context_create.as_ref() else {
            return (stream, self.alive().map(|()| ContextId(id)));
        };
        let (stream, result) = enter(
            &mut self.store,
            &mut self.failed,
            (self.callback_ticks, self.callback_time_max),
            ("proxy_on_context_create", create, (id, ROOT)),
            stream,
        );
        (stream, result.map(|_| ContextId(id)))
    }

    fn alive(&self) -> Result<(), Arc<Failure>> {
        self.failed.as_ref().map_or(Ok(()), |f| Err(Arc::clone(f)))
    }

    /// Request headers are complete. `count` includes pseudo headers.
    pub fn on_request_headers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
        end: bool,
    ) -> CallResult<S, HeadersAction> {
        let headers_only = self.pauses_headers_only;
        let result = match &self.exports.request_headers {
            Some(HeadersFn::Two(f)) => {
                self.call_id("proxy_on_request_headers", f.clone(), (id.0, wide(count)), stream)
            }
            Some(HeadersFn::Three(f)) => enter(
                &mut self.store,
                &mut self.failed,
                (self.callback_ticks, self.callback_time_max),
                ("proxy_on_request_headers", f, (id.0, wide(count), u32::from(end))),
                stream,
            ),
            None => return self.absent(stream, HeadersAction::Continue),
        };
        map_headers(result, headers_only)
    }

    /// Response headers are complete.
    pub fn on_response_headers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
        end: bool,
    ) -> CallResult<S, HeadersAction> {
        let headers_only = self.pauses_headers_only;
        let result = match &self.exports.response_headers {
            Some(HeadersFn::Two(f)) => {
                self.call_id("proxy_on_response_headers", f.clone(), (id.0, wide(count)), stream)
            }
            Some(HeadersFn::Three(f)) => enter(
                &mut self.store,
                &mut self.failed,
                (self.callback_ticks, self.callback_time_max),
                ("proxy_on_response_headers", f, (id.0, wide(count), u32::from(end))),
                stream,
            ),
            None => return self.absent(stream, HeadersAction::Continue),
        };
        map_headers(result, headers_only)
    }

    /// A piece of the request body; `size` is what the guest can see of it.
    pub fn on_request_body(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, DataAction> {
        let Some(f) = &self.exports.request_body else { return self.absent(stream, DataAction::Continue) };
        let result = enter(
            &mut self.store,
            &mut self.failed,
            (self.callback_ticks, self.callback_time_max),
            ("proxy_on_request_body", f, (id.0, wide(size), u32::from(end))),
            stream,
        );
        map_data(result)
    }

    /// A piece of the response body.
    pub fn on_response_body(
        &mut self,
        id: ContextId,
        stream: S,
        size: usize,
        end: bool,
    ) -> CallResult<S, DataAction> {
        let Some(f) = &self.exports.response_body else { return self.absent(stream, DataAction::Continue) };
        let result = enter(
            &mut self.store,
            &mut self.failed,
            (self.callback_ticks, self.callback_time_max),
            ("proxy_on_response_body", f, (id.0, wide(size), u32::from(end))),
            stream,
        );
        map_data(result)
    }

    /// Request trailers are complete.
    pub fn on_request_trailers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
    ) -> CallResult<S, TrailersAction> {
        let Some(f) = &self.exports.request_trailers else {
            return self.absent(stream, TrailersAction::Continue);
        };
        let result = enter(
            &mut self.store,
            &mut self.failed,
            (self.callback_ticks, self.callback_time_max),
            ("proxy_on_request_trailers", f, (id.0, wide(count))),
            stream,
        );
        map_trailers(result)
    }

    /// Response trailers are complete.
    pub fn on_response_trailers(
        &mut self,
        id: ContextId,
        stream: S,
        count: usize,
    ) -> CallResult<S, TrailersAction> {
        let Some(f) = &self.exports.response_trailers else {
            return self.absent(stream, TrailersAction::Continue);
        };
        let result = enter(
            &mut self.store,
            &mut self.failed,
            (self.callback_ticks, self.callback_time_max),
            ("proxy_on_response_trailers", f, (id.0, wide(count))),
            stream,
        );
        map_trailers(result)
    }

    /// The stream is over: `proxy_on_log`, `proxy_on_done`, `proxy_on_delete`, in Envoy's order
    /// (spec: proxy-wasm-host §6.5). Actions that the guest asks for now have no stream to act on and are dropped.
    pub fn end_stream(&mut self, id: ContextId, stream: S) -> (S, Result<(), Arc<Failure>>) {
        let limits = (self.callback_ticks, self.callback_time_max);
        let (store, failed, exports) = (&mut self.store, &mut self.failed, &self.exports);
        let mut stream = stream;
        if let Some(f) = &exports.log {
            let (back, result) = enter(store, failed, limits, ("proxy_on_log", f, id.0), stream);
            stream = back;
            if let Err(failure) = result {
                return (stream, Err(failure));
            }
        }
        if let Some(f) = &exports.done {
            let (back, result) = enter(store, failed, limits, ("proxy_on_done", f, id.0), stream);
            stream = back;
            if let Err(failure) = result {
                return (stream, Err(failure));
            }
        }
        if let Some(f) = &exports.delete {
            let (back, result) = enter(store, failed, limits, ("proxy_on_delete", f, id.0), stream);
            return (back, result.map(|_| ()));
        }
        (stream, Ok(()))
    }

    /// Ends the root context: `proxy_on_done`, `proxy_on_delete`. A root that asks for more time does not get it.
    pub fn stop(mut self) {
        if self.failed.is_some() {
            return;
        }
        self.store.set_epoch_deadline(self.callback_ticks);
        // A plug-in that traps while it goes leaves nothing behind either way.
        let _ = call_raw(&mut self.store, &self.exports.done, ROOT)
            .and_then(|_| call_raw(&mut self.store, &self.exports.delete, ROOT));
        self.store.data_mut().flush_lines();
    }

    /// What ended the VM, if anything has.
    pub fn failure(&self) -> Option<&Arc<Failure>> {
        self.failed.as_ref()
    }

    /// Whether the VM should get no new streams although it has not failed: its context ids run out.
    pub fn is_exhausted(&self) -> bool {
        self.next_context >= CONTEXT_ID_MAX
    }

    /// Size of the linear memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.map_or(0, |m| m.data_size(&self.store))
    }

    fn call_id<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        f: TypedFunc<P, R>,
        params: P,
        stream: S,
    ) -> Entered<S, R> {
        let limits = (self.callback_ticks, self.callback_time_max);
        enter(&mut self.store, &mut self.failed, limits, (name, &f, params), stream)
    }

    fn absent<A>(&self, stream: S, action: A) -> CallResult<S, A> {
        (stream, self.alive().map(|()| Outcome { action, actions: Actions::new() }))
    }
}

impl<S: StreamContext> std::fmt::Debug for Vm<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("plugin", &self.store.data().plugin.name)
            .field("memory_bytes", &self.memory_bytes())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Result of an entry: the guest's return value, the actions, whether a local reply overrides the return value.
type Entered<S, R> = (S, Result<(R, Actions, bool), Arc<Failure>>);

fn wide(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Calls a root function if it exists, without a stream and without touching the deadline.
fn call_raw<S: StreamContext, P: WasmParams, R: WasmResults>(
    store: &mut Store<VmState<S>>,
    function: &Option<TypedFunc<P, R>>,
    params: P,
) -> wasmtime::Result<Option<R>> {
    function.as_ref().map(|f| f.call(store, params)).transpose()
}

/// The way into the guest for everything that concerns a stream.
fn enter<S: StreamContext, P: WasmParams, R: WasmResults>(
    store: &mut Store<VmState<S>>,
    failed: &mut Option<Arc<Failure>>,
    (ticks, time_max): (u64, Duration),
    (name, function, params): (&'static str, &TypedFunc<P, R>, P),
    stream: S,
) -> Entered<S, R> {
    if let Some(failure) = failed {
        return (stream, Err(Arc::clone(failure)));
    }
    store.set_epoch_deadline(ticks);
    store.data_mut().stream = Some(stream);
    let result = function.call(&mut *store, params);
    let state = store.data_mut();
    state.flush_lines();
    let entry = std::mem::take(&mut state.entry);
    let Some(stream) = state.stream.take() else {
        // Hostcalls borrow the stream and never take it.
        unreachable!("the stream of a callback is still there when it returns")
    };
    match result {
        Ok(value) => (stream, Ok((value, entry.actions, entry.reply_pending))),
        Err(error) => {
            // What the guest asked for before it failed is dropped with the entry.
            let failure = Arc::new(failure(store, name, &error, time_max));
            *failed = Some(Arc::clone(&failure));
            (stream, Err(failure))
        }
    }
}

fn map_headers<S>((stream, result): Entered<S, u32>, headers_only: bool) -> CallResult<S, HeadersAction> {
    let outcome = result.map(|(raw, actions, replied)| Outcome {
        action: if replied {
            HeadersAction::StopAllAndWatermark
        } else {
            HeadersAction::from_guest(raw, headers_only)
        },
        actions,
    });
    (stream, outcome)
}

fn map_data<S>((stream, result): Entered<S, u32>) -> CallResult<S, DataAction> {
    let outcome = result.map(|(raw, actions, replied)| Outcome {
        action: if replied { DataAction::StopNoBuffer } else { DataAction::from_guest(raw) },
        actions,
    });
    (stream, outcome)
}

fn map_trailers<S>((stream, result): Entered<S, u32>) -> CallResult<S, TrailersAction> {
    let outcome = result.map(|(raw, actions, replied)| Outcome {
        action: if replied { TrailersAction::StopIteration } else { TrailersAction::from_guest(raw) },
        actions,
    });
    (stream, outcome)
}

fn failure<S: StreamContext>(
    store: &mut Store<VmState<S>>,
    function: &'static str,
    error: &wasmtime::Error,
    time_max: Duration,
) -> Failure {
    let state = store.data_mut();
    let reason = match (error.downcast_ref::<Trap>(), state.exit, state.abort.take()) {
        (_, Some(code), _) => FailureReason::Exit(code),
        (_, _, Some(text)) => FailureReason::Abort(text),
        (Some(Trap::Interrupt), ..) => FailureReason::CpuLimit(time_max),
        (Some(Trap::StackOverflow), ..) => FailureReason::StackLimit,
        _ if state.limiter.refused => FailureReason::MemoryLimit(state.limits.memory_bytes_max),
        (Some(trap), ..) => FailureReason::Trap(trap.to_string()),
        (None, ..) => FailureReason::Trap(error.root_cause().to_string()),
    };
    Failure { function, reason, frames: frames(error) }
}

/// The engine prints one line per frame, and a second one where it knows file and line.
fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    let mut frames: Vec<String> = Vec::new();
    for line in backtrace.to_string().lines().skip(1).map(str::trim) {
        if let Some(position) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                frame.push_str(" at ");
                frame.push_str(position);
            }
        } else if let Some((_, frame)) = line.split_once(':') {
            frames.push(frame.trim().to_owned());
        }
    }
    frames
}
