//! The way into the guest (spec: proxy-wasm-host §23).

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap, TypedFunc, WasmBacktrace, WasmParams, WasmResults};

use crate::actions::Actions;
use crate::engine::Engine;
use crate::error::{Failure, FailureReason};
use crate::state::{ROOT, VmState};
use crate::stream::StreamContext;

/// A store with what every entry needs: the deadline, and whether the guest is still alive.
pub(crate) struct Guest<S: StreamContext> {
    pub(crate) store: Store<VmState<S>>,
    pub(crate) callback_ticks: u64,
    pub(crate) callback_time_max: Duration,
    pub(crate) failed: Option<Arc<Failure>>,
    /// Keeps the clock running.
    pub(crate) _engine: Engine,
}

/// What a callback returned.
pub(crate) struct Return<R> {
    pub(crate) value: R,
    pub(crate) actions: Actions,
    /// A local reply overrides the value.
    pub(crate) replied: bool,
}

/// `None` when the module does not export the function.
pub(crate) type Returned<R> = Result<Option<Return<R>>, Arc<Failure>>;

impl<S: StreamContext> Guest<S> {
    /// Calls a function about a stream, which moves in and comes back. A dead guest answers with what it died of.
    pub(crate) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        function: Option<&TypedFunc<P, R>>,
        params: P,
        context: u32,
        stream: S,
    ) -> (S, Returned<R>) {
        if let Some(failure) = &self.failed {
            return (stream, Err(Arc::clone(failure)));
        }
        let Some(function) = function else { return (stream, Ok(None)) };
        let (stream, returned) = self.enter(name, function, params, context, Some(stream));
        let Some(stream) = stream else {
            // Hostcalls borrow the stream and never take it.
            unreachable!("the stream of a callback is still there when it returns")
        };
        (stream, returned.map(Some))
    }

    /// Calls a function about the root context.
    pub(crate) fn call_root<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        function: Option<&TypedFunc<P, R>>,
        params: P,
    ) -> Returned<R> {
        if let Some(failure) = &self.failed {
            return Err(Arc::clone(failure));
        }
        let Some(function) = function else { return Ok(None) };
        self.enter(name, function, params, ROOT, None).1.map(Some)
    }

    #[inline]
    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        function: &TypedFunc<P, R>,
        params: P,
        context: u32,
        stream: Option<S>,
    ) -> (Option<S>, Result<Return<R>, Arc<Failure>>) {
        self.store.set_epoch_deadline(self.callback_ticks);
        self.store.data_mut().enter(context, stream);
        let result = function.call(&mut self.store, params);
        let state = self.store.data_mut();
        state.flush_lines();
        let acting = state.acting();
        let (stream, entry) = state.leave(result.is_err());
        match result {
            Ok(value) => (stream, Ok(Return { value, actions: entry.actions, replied: entry.reply_pending })),
            Err(error) => {
                // What the guest asked for before it failed is dropped with the entry.
                state.effects.clear();
                let failure = Arc::new(Failure {
                    context: acting,
                    ..failure(&mut self.store, name, &error, self.callback_time_max)
                });
                self.failed = Some(Arc::clone(&failure));
                (stream, Err(failure))
            }
        }
    }
}

/// Calls a root function if it exists, without a stream and without touching the deadline.
pub(crate) fn call_raw<S: StreamContext, P: WasmParams, R: WasmResults>(
    store: &mut Store<VmState<S>>,
    function: &Option<TypedFunc<P, R>>,
    params: P,
) -> wasmtime::Result<Option<R>> {
    function.as_ref().map(|f| f.call(store, params)).transpose()
}

/// Why a call failed.
pub(crate) fn failure<S: StreamContext>(
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
    Failure { function, context: None, reason, frames: frames(error) }
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
