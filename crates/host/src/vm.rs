//! A VM: one instance of a module, its root context, and the way into it (spec: proxy-wasm-host §23).

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap};

use crate::abi::{DataAction, HeadersAction, TrailersAction};
use crate::actions::Actions;
use crate::engine::Engine;
use crate::error::{Failure, StartError};
use crate::exports::{Exports, HeadersFn, typed};
use crate::guest::{Guest, Returned, call_raw, failure};
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
        let guest = Guest {
            store,
            callback_ticks: Engine::ticks_for(limits.callback_time_max),
            callback_time_max: limits.callback_time_max,
            failed: None,
        };
        let pauses_headers_only = module.abi().pauses_headers_only();
        let mut vm = Self { guest, exports, pauses_headers_only, next_context: ROOT };
        vm.run_start_functions(module, &instance, limits.start_time_max)?;
        vm.start_root(&plugin, limits.start_time_max)?;
        vm.guest.store.data_mut().starting = false;
        vm.guest.store.data_mut().last_log = None;
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
        Err(StartError::Failed(failure(&mut self.guest.store, function, &error, time_max)))
    }

    fn start_root(&mut self, plugin: &PluginContext, time_max: Duration) -> Result<(), StartError> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (vm_size, plugin_size) = (size(&plugin.vm_configuration), size(&plugin.configuration));
        let Exports { context_create, vm_start, configure, .. } = &self.exports;
        let store = &mut self.guest.store;
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
        let last_log = self.guest.store.data_mut().last_log.take();
        match result {
            Ok(None) => Ok(()),
            Ok(Some("proxy_on_vm_start")) => Err(StartError::VmStartFalse { last_log }),
            Ok(Some(_)) => Err(StartError::ConfigureFalse { last_log }),
            Err((function, error)) => {
                Err(StartError::Failed(failure(&mut self.guest.store, function, &error, time_max)))
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
        let (stream, result) = self.guest.call("proxy_on_context_create", create, (id, ROOT), stream);
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
        let (stream, result) = self.guest.call("proxy_on_request_body", function, params, stream);
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
        let (stream, result) = self.guest.call("proxy_on_response_body", function, params, stream);
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
            self.guest.call("proxy_on_request_trailers", function, (id.0, wide(count)), stream);
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
            self.guest.call("proxy_on_response_trailers", function, (id.0, wide(count)), stream);
        (stream, trailers_outcome(result))
    }

    /// The stream is over: `proxy_on_log`, `proxy_on_done`, `proxy_on_delete`, in Envoy's order
    /// (spec: proxy-wasm-host §6.5). Actions that the guest asks for now have no stream to act on and are dropped.
    pub fn end_stream(&mut self, id: ContextId, stream: S) -> (S, Result<(), Arc<Failure>>) {
        let Exports { log, done, delete, .. } = &self.exports;
        let (stream, logged) = self.guest.call("proxy_on_log", log.as_ref(), id.0, stream);
        let (stream, done) = self.guest.call("proxy_on_done", done.as_ref(), id.0, stream);
        let (stream, deleted) = self.guest.call("proxy_on_delete", delete.as_ref(), id.0, stream);
        // The first failure is what all later calls answer with.
        (stream, logged.map(drop).and(done.map(drop)).and(deleted.map(drop)))
    }

    /// Ends the root context: `proxy_on_done`, `proxy_on_delete`. A root that asks for more time does not get it.
    pub fn stop(mut self) {
        let store = &mut self.guest.store;
        if self.guest.failed.is_some() {
            return;
        }
        store.set_epoch_deadline(self.guest.callback_ticks);
        // A plug-in that traps while it goes leaves nothing behind either way.
        let _ = call_raw(store, &self.exports.done, ROOT)
            .and_then(|_| call_raw(store, &self.exports.delete, ROOT));
        store.data_mut().flush_lines();
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
        Some(HeadersFn::Two(f)) => guest.call(name, Some(f), (id.0, wide(count)), stream),
        Some(HeadersFn::Three(f)) => guest.call(name, Some(f), (id.0, wide(count), u32::from(end)), stream),
        None => guest.call::<(), u32>(name, None, (), stream),
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
