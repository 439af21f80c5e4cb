//! What the store of a VM carries.

use std::sync::Arc;

use wasmtime::{Memory, TypedFunc};

use crate::abi::{AbiVersion, LogLevel};
use crate::actions::{Actions, StreamAction};
use crate::limits::{Limits, MemoryLimiter};
use crate::lines::LineBuffer;
use crate::plugin::PluginContext;
use crate::services::{LogSource, Services};

/// One entry into the guest: who is current, and what the guest has asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) actions: Actions,
    pub(crate) reply_pending: bool,
}

/// The data that hostcalls work on.
pub(crate) struct VmState<S> {
    pub(crate) memory: Option<Memory>,
    /// Taken while the allocator runs, which so refuses to be re-entered.
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// The stream of the current callback; `None` in root callbacks.
    pub(crate) stream: Option<S>,
    pub(crate) entry: Entry,
    pub(crate) plugin: Arc<PluginContext>,
    pub(crate) services: Arc<dyn Services>,
    pub(crate) limits: Limits,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) abi: AbiVersion,
    /// Reused for every value that goes to the guest.
    pub(crate) scratch: Vec<u8>,
    pub(crate) stdout: LineBuffer,
    pub(crate) stderr: LineBuffer,
    /// Kept while starting up, to explain a configuration that the plug-in rejects.
    pub(crate) last_log: Option<String>,
    pub(crate) starting: bool,
    pub(crate) exit: Option<i32>,
    pub(crate) abort: Option<String>,
    /// Functions that were called although this version does not provide them, so that each is reported once.
    pub(crate) unsupported: Vec<&'static str>,
}

impl<S> VmState<S> {
    pub(crate) fn new(
        plugin: Arc<PluginContext>,
        services: Arc<dyn Services>,
        limits: Limits,
        abi: AbiVersion,
    ) -> Self {
        let limiter = MemoryLimiter {
            memory_bytes_max: usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX),
            table_elements_max: usize::try_from(limits.table_elements_max).unwrap_or(usize::MAX),
            refused: false,
        };
        Self {
            memory: None,
            allocate: None,
            stream: None,
            entry: Entry::default(),
            plugin,
            services,
            limits,
            limiter,
            abi,
            scratch: Vec::new(),
            stdout: LineBuffer::default(),
            stderr: LineBuffer::default(),
            last_log: None,
            starting: true,
            exit: None,
            abort: None,
            unsupported: Vec::new(),
        }
    }

    /// Logs for the current context.
    pub(crate) fn log(&mut self, level: LogLevel, message: &[u8]) {
        let message = message.get(..self.limits.log_message_bytes_max).unwrap_or(message);
        if self.starting {
            self.last_log = Some(String::from_utf8_lossy(message).into_owned());
        }
        let source = LogSource { plugin: &self.plugin, is_stream: self.stream.is_some() };
        self.services.log(source, level, message);
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

    /// Queues an action; false when the callback has asked for too many.
    pub(crate) fn push(&mut self, action: StreamAction) -> bool {
        let room = self.entry.actions.len() < self.limits.actions_max;
        if room {
            self.entry.actions.push(action);
        }
        room
    }
}
