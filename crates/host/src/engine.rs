//! The process-wide part: compiler settings and the epoch clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::LoadError;

/// Compiles modules and keeps time for their callbacks. One per process; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    ticks: Arc<AtomicU64>,
    /// `None`: the embedder ticks.
    _ticker: Option<Arc<Ticker>>,
}

impl Engine {
    /// How often the epoch advances: the precision of every deadline.
    pub const TICK: Duration = Duration::from_millis(10);
    /// Stack that a guest may use, bytes. Deeper recursion is a trap.
    pub const WASM_STACK_BYTES: usize = 1 << 20;
    /// Frames that a trap report carries.
    const BACKTRACE_FRAMES_MAX: usize = 20;

    /// An engine whose clock runs on a thread of its own, for as long as the engine or anything made with it exists.
    ///
    /// # Errors
    /// When the machine cannot run compiled WebAssembly at all, or gives no thread.
    pub fn new() -> Result<Self, LoadError> {
        let engine = Self::without_clock()?;
        let ticker = Ticker::start(engine.inner.clone(), Arc::clone(&engine.ticks));
        let ticker = ticker.map_err(|e| LoadError::Engine(format!("no thread for the clock: {e}")))?;
        Ok(Self { _ticker: Some(Arc::new(ticker)), ..engine })
    }

    /// An engine whose clock stands still until [`Engine::tick`] is called: without that, no time limit of
    /// [`Limits`](crate::Limits) interrupts a guest. For embedders without threads, and for compiling only.
    ///
    /// # Errors
    /// When the machine cannot run compiled WebAssembly at all.
    pub fn without_clock() -> Result<Self, LoadError> {
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(Self::WASM_STACK_BYTES)
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(Self::BACKTRACE_FRAMES_MAX))
            .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
            // No SDK uses these; what is off cannot be attacked.
            .wasm_memory64(false)
            .wasm_multi_memory(false);
        let inner = wasmtime::Engine::new(&config).map_err(|e| LoadError::Engine(e.to_string()))?;
        Ok(Self { inner, ticks: Arc::new(AtomicU64::new(0)), _ticker: None })
    }

    /// The engine underneath, for a compile cache.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Advances the clock by [`Engine::TICK`], for engines [without a clock](Engine::without_clock).
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.inner.increment_epoch();
    }

    /// Ticks since the engine was made: a clock that costs one load, for noticing slow callbacks.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// The epoch deadline that is at least `limit` away.
    pub(crate) fn ticks_for(limit: Duration) -> u64 {
        let tick_ms = Self::TICK.as_millis().max(1);
        // One tick more: the current one may be almost over.
        u64::try_from(limit.as_millis().div_ceil(tick_ms)).unwrap_or(u64::MAX - 1).saturating_add(1)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("ticks", &self.ticks()).finish_non_exhaustive()
    }
}

/// A thread that advances the epoch every [`Engine::TICK`] until the last engine that shares it is gone.
#[derive(Debug)]
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine, ticks: Arc<AtomicU64>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Engine::TICK);
                ticks.fetch_add(1, Ordering::Relaxed);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic: it sleeps and adds.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_shorter_than_asked() {
        assert_eq!(Engine::ticks_for(Duration::from_millis(1)), 2);
        assert_eq!(Engine::ticks_for(Duration::from_secs(1)), 101);
        assert!(Engine::ticks_for(Duration::MAX) > 1 << 40);
    }
}
