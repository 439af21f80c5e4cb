//! What the controller knows and the admin interface tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmgate_config::{Diagnostic, Snapshot};

/// Where the process stands, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ServerState {
    Live = 0,
    Draining = 1,
    PreInitializing = 2,
}

impl ServerState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
        }
    }
}

/// Shared between the controller and the admin interface.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) started: Instant,
    state: AtomicU8,
    is_failing: AtomicBool,
    /// Somebody wants the process to end.
    pub(crate) quit: Notify,
    current: Mutex<Current>,
}

/// The configuration that serves and what is wrong with the files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Those that keep a resource from being used as it is written now.
    pub(crate) invalid: Vec<Diagnostic>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            state: AtomicU8::new(ServerState::PreInitializing as u8),
            is_failing: AtomicBool::new(false),
            quit: Notify::new(),
            current: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> ServerState {
        match self.state.load(Ordering::Relaxed) {
            0 => ServerState::Live,
            1 => ServerState::Draining,
            _ => ServerState::PreInitializing,
        }
    }

    pub(crate) fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Whether an operator has made the health check fail.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_failing(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::Relaxed);
    }

    pub(crate) fn current(&self) -> Current {
        self.current.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Current)) {
        change(&mut self.current.lock());
    }
}
