//! What the store of a VM carries.

use std::sync::Arc;

use wasmtime::{Memory, TypedFunc};

use crate::abi::{AbiVersion, LogLevel};
use crate::actions::{Actions, StreamAction};
use crate::calls::{CallView, Calls};
use crate::effects::{Effect, QueueToken};
use crate::foreign::ForeignState;
use crate::limits::{Limits, MemoryLimiter};
use crate::lines::LineBuffer;
use crate::metrics::{MetricRegistry, VmMetrics};
use crate::plugin::PluginContext;
use crate::services::{LogSource, Services};
use crate::shared::{Namespace, QueueConsumer};
use crate::stream::{ContextId, Streams};

/// The root context of a VM.
pub(crate) const ROOT: u32 = 1;

/// What a guest has asked for one stream in one entry.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) actions: Actions,
    pub(crate) reply_pending: bool,
}

/// Another stream than the current one, borrowed for one entry.
struct Loan<S> {
    context: u32,
    stream: S,
    entry: Entry,
}

/// Where the root context is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Up to and including `proxy_on_configure`.
    Starting,
    Running,
    /// `proxy_on_done` asked for time, and `proxy_done` has not been called.
    Stopping,
    Stopped,
}

/// The data that hostcalls work on.
pub(crate) struct VmState<S> {
    pub(crate) memory: Option<Memory>,
    /// Taken while the allocator runs, which so refuses to be re-entered.
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// The context of the current callback.
    pub(crate) current: u32,
    /// The context that the guest acts on instead; 0 is the current one.
    effective: u32,
    /// The stream of the current callback; `None` in root callbacks.
    pub(crate) stream: Option<S>,
    pub(crate) entry: Entry,
    loans: Vec<Loan<S>>,
    pub(crate) streams: Option<Box<dyn Streams<S>>>,
    pub(crate) plugin: Arc<PluginContext>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) limits: Limits,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) abi: AbiVersion,
    pub(crate) phase: Phase,
    /// What the embedder is to do after this callback.
    pub(crate) effects: Vec<Effect>,
    /// Bytes in them, and in what is injected.
    pub(crate) effect_bytes: usize,
    pub(crate) calls: Calls,
    pub(crate) view: CallView,
    pub(crate) shared: Arc<Namespace>,
    /// Queues that this VM registered; without a consumer yet.
    pub(crate) registered: Vec<QueueToken>,
    pub(crate) consumer: Option<Arc<dyn QueueConsumer>>,
    pub(crate) registry: MetricRegistry,
    pub(crate) metrics: VmMetrics,
    pub(crate) foreign: ForeignState,
    /// Reused for every value that goes to the guest.
    pub(crate) scratch: Vec<u8>,
    pub(crate) stdout: LineBuffer,
    pub(crate) stderr: LineBuffer,
    /// Kept while starting up, to explain a configuration that the plug-in rejects.
    pub(crate) last_log: Option<String>,
    pub(crate) exit: Option<i32>,
    pub(crate) abort: Option<String>,
    /// Things that were said once and need not be said again.
    said: Vec<&'static str>,
}

impl<S> VmState<S> {
    pub(crate) fn new(
        plugin: Arc<PluginContext>,
        services: Arc<dyn Services>,
        shared: Arc<Namespace>,
        registry: MetricRegistry,
        limits: Limits,
        abi: AbiVersion,
    ) -> Self {
        let limiter = MemoryLimiter {
            memory_bytes_max: usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX),
            table_elements_max: usize::try_from(limits.table_elements_max).unwrap_or(usize::MAX),
            table_elements: 0,
            refused: false,
        };
        Self {
            memory: None,
            allocate: None,
            current: 0,
            effective: 0,
            stream: None,
            entry: Entry::default(),
            loans: Vec::new(),
            streams: None,
            plugin,
            services,
            limits,
            limiter,
            abi,
            phase: Phase::Starting,
            effects: Vec::new(),
            effect_bytes: 0,
            calls: Calls::default(),
            view: CallView::default(),
            shared,
            registered: Vec::new(),
            consumer: None,
            registry,
            metrics: VmMetrics::default(),
            foreign: ForeignState::default(),
            scratch: Vec::new(),
            stdout: LineBuffer::default(),
            stderr: LineBuffer::default(),
            last_log: None,
            exit: None,
            abort: None,
            said: Vec::new(),
        }
    }

    /// The stream that hostcalls act on (spec: proxy-wasm-host §4.1).
    pub(crate) fn target(&self) -> Option<&S> {
        match self.effective {
            0 => self.stream.as_ref(),
            other => self.loans.iter().find(|l| l.context == other).map(|l| &l.stream),
        }
    }

    /// The same, to change.
    pub(crate) fn target_mut(&mut self) -> Option<&mut S> {
        match self.effective {
            0 => self.stream.as_mut(),
            other => self.loans.iter_mut().find(|l| l.context == other).map(|l| &mut l.stream),
        }
    }

    /// The stream that the guest acts for; `None` is the root context.
    pub(crate) fn acting(&self) -> Option<ContextId> {
        let context = if self.effective == 0 { self.current } else { self.effective };
        (context != ROOT).then_some(ContextId(context))
    }

    /// What has been asked for the stream that hostcalls act on.
    pub(crate) fn target_entry(&mut self) -> Option<&mut Entry> {
        match self.effective {
            0 => self.stream.is_some().then_some(&mut self.entry),
            other => self.loans.iter_mut().find(|l| l.context == other).map(|l| &mut l.entry),
        }
    }

    /// Makes hostcalls act on another context of this VM. False when there is none of this number.
    pub(crate) fn set_effective(&mut self, context: u32) -> bool {
        let known = context == ROOT || self.loans.iter().any(|l| l.context == context);
        if context == 0 || context == self.current {
            self.effective = 0;
            return true;
        }
        if !known {
            let Some(stream) = self.streams.as_mut().and_then(|s| s.lend(ContextId(context))) else {
                return false;
            };
            self.loans.push(Loan { context, stream, entry: Entry::default() });
        }
        self.effective = context;
        true
    }

    /// A callback begins.
    pub(crate) fn enter(&mut self, context: u32, stream: Option<S>) {
        if self.effects.is_empty() {
            self.effect_bytes = 0;
        }
        self.current = context;
        self.stream = stream;
    }

    /// A callback is over: other streams go back, with their actions unless the guest has failed.
    pub(crate) fn leave(&mut self, failed: bool) -> (Option<S>, Entry) {
        self.effective = 0;
        if !self.loans.is_empty() {
            self.give_back(failed);
        }
        (self.stream.take(), std::mem::take(&mut self.entry))
    }

    #[cold]
    fn give_back(&mut self, failed: bool) {
        for Loan { context, stream, entry } in self.loans.drain(..) {
            let actions = if failed { Actions::new() } else { entry.actions };
            if let Some(streams) = self.streams.as_mut() {
                streams.give_back(ContextId(context), stream, actions);
            }
        }
    }

    /// Logs for the context that hostcalls act on.
    pub(crate) fn log(&mut self, level: LogLevel, message: &[u8]) {
        let message = message.get(..self.limits.log_message_bytes_max).unwrap_or(message);
        // The lines after a panic message are its backtrace.
        if self.phase == Phase::Starting && !self.last_log.as_deref().is_some_and(is_panic) {
            self.last_log = Some(String::from_utf8_lossy(message).into_owned());
        }
        let source = LogSource { plugin: &self.plugin, is_stream: self.target().is_some() };
        self.services.log(source, level, message);
    }

    /// Logs something that a guest may do again and again; the second time it is not said.
    pub(crate) fn log_once(&mut self, level: LogLevel, key: &'static str, message: &str) {
        if !self.said.contains(&key) {
            self.said.push(key);
            self.log(level, message.as_bytes());
        }
    }

    /// Bytes that the guest wrote to a standard stream.
    pub(crate) fn write_standard(&mut self, level: LogLevel, bytes: &[u8]) {
        let mut lines = Vec::new();
        let buffer = if level == LogLevel::Error { &mut self.stderr } else { &mut self.stdout };
        buffer.write(bytes, &mut |line| lines.push(line.to_vec()));
        for line in lines {
            self.log(level, &line);
        }
    }

    /// Logs what a callback left without a line end.
    pub(crate) fn flush_lines(&mut self) {
        if self.stdout.is_empty() && self.stderr.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        self.stdout.flush(&mut |line| lines.push((LogLevel::Info, line.to_vec())));
        self.stderr.flush(&mut |line| lines.push((LogLevel::Error, line.to_vec())));
        for (level, line) in lines {
            self.log(level, &line);
        }
    }

    /// Whether the guest may ask for things that concern its root context: not before that exists
    /// (spec: proxy-wasm-host §1.5).
    pub(crate) fn has_root(&self) -> bool {
        self.current != 0
    }

    /// Whether another effect of so many bytes may be noted in this callback.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        /// Effects of one callback.
        const EFFECTS_MAX: usize = 4096;
        self.effects.len() < EFFECTS_MAX
            && self.effect_bytes.saturating_add(bytes) <= self.limits.call_bytes_max
    }

    /// Notes an effect; the caller has asked [`VmState::has_room`].
    pub(crate) fn note(&mut self, effect: Effect, bytes: usize) {
        self.effect_bytes += bytes;
        self.effects.push(effect);
    }

    /// Queues an action for the stream that hostcalls act on. False when there is none, or too many are queued.
    pub(crate) fn push(&mut self, action: StreamAction) -> bool {
        let max = self.limits.actions_max;
        let Some(entry) = self.target_entry() else { return false };
        if entry.actions.len() >= max {
            self.log(LogLevel::Warn, b"too many stream actions in one callback, this one is left out");
            return false;
        }
        entry.actions.push(action);
        true
    }
}

/// What Go and Rust say when they give up.
fn is_panic(line: &str) -> bool {
    line.starts_with("panic: ") || line.starts_with("fatal error: ") || line.contains("panicked at ")
}
