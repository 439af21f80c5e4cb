//! A plug-in on one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmgate_host::{Callbacks, Failure, Vm};

use crate::stats::PluginStats;
use crate::version::PluginVersion;
use crate::view::WasmStream;

/// How long a stream waits for a VM to be made. One takes milliseconds.
const VM_WAIT_MAX: Duration = Duration::from_secs(1);

/// The VM that takes this worker's new streams. Streams keep the VM that they started with.
#[derive(Debug)]
pub struct WorkerPlugin {
    pub(crate) version: Arc<PluginVersion>,
    pub(crate) callbacks: Callbacks,
    worker: usize,
    current: RefCell<Option<Rc<VmCell>>>,
}

/// A VM and who still uses it.
#[derive(Debug)]
pub(crate) struct VmCell {
    pub(crate) vm: RefCell<Option<Vm<WasmStream>>>,
    version: Arc<PluginVersion>,
    worker: usize,
    reported: Cell<bool>,
}

impl WorkerPlugin {
    /// Takes a ready VM of a version for a worker.
    pub fn new(version: Arc<PluginVersion>, worker: usize) -> Rc<Self> {
        let callbacks = version.module.callbacks();
        let plugin = Self { version, callbacks, worker, current: RefCell::new(None) };
        plugin.replace();
        Rc::new(plugin)
    }

    /// The version that this worker runs.
    pub fn version(&self) -> &Arc<PluginVersion> {
        &self.version
    }

    /// The VM for a new stream; `None` while a failed one has no successor yet.
    pub(crate) fn acquire(&self) -> Option<Rc<VmCell>> {
        if let Some(cell) = self.current.borrow().as_ref()
            && cell.takes_streams()
        {
            return Some(Rc::clone(cell));
        }
        self.replace();
        let cell = self.current.borrow().clone();
        if cell.is_none() {
            PluginStats::add(&self.version.stats.unavailable);
        }
        cell
    }

    /// Whether a new stream finds a VM at once.
    pub fn is_ready(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|cell| cell.takes_streams())
    }

    /// Waits for the successor of a VM that has failed: at most [`VM_WAIT_MAX`], and not at all in a storm of faults,
    /// where new VMs are made slower and slower.
    pub async fn ready(&self) {
        let made = async {
            loop {
                let next = self.version.made();
                let mut next = std::pin::pin!(next);
                // Asked first, so that one that is made between the look and the wait is not missed.
                next.as_mut().enable();
                if !self.is_ready() {
                    self.replace();
                }
                if self.is_ready() || self.version.in_storm() {
                    return;
                }
                next.await;
            }
        };
        // Over it the stream goes on without, as its fail strategy says.
        let _ = tokio::time::timeout(VM_WAIT_MAX, made).await;
    }

    fn replace(&self) {
        let next = self.version.take().map(|vm| {
            let cell = VmCell {
                vm: RefCell::new(Some(vm)),
                version: Arc::clone(&self.version),
                worker: self.worker,
                reported: Cell::new(false),
            };
            if let Some(slot) = self.version.slots.get(self.worker) {
                slot.vms.fetch_add(1, Ordering::Relaxed);
            }
            cell.note_memory();
            Rc::new(cell)
        });
        *self.current.borrow_mut() = next;
    }

    /// A callback on this VM has failed: reports it once and gets the successor ready for the next stream.
    pub(crate) fn failed(&self, cell: &Rc<VmCell>, failure: &Failure) {
        if cell.reported.replace(true) {
            return;
        }
        self.version.report(failure);
        let is_current = self.current.borrow().as_ref().is_some_and(|c| Rc::ptr_eq(c, cell));
        if is_current {
            PluginStats::add(&self.version.stats.respawns);
            self.replace();
        }
    }
}

impl VmCell {
    fn takes_streams(&self) -> bool {
        self.vm.borrow().as_ref().is_some_and(|vm| vm.failure().is_none() && !vm.is_exhausted())
    }

    /// Publishes the size of the linear memory.
    pub(crate) fn note_memory(&self) {
        if let (Some(slot), Some(vm)) = (self.version.slots.get(self.worker), self.vm.borrow().as_ref()) {
            slot.memory_bytes.store(vm.memory_bytes(), Ordering::Relaxed);
        }
    }
}

impl Drop for VmCell {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.borrow_mut().take() {
            self.version.retire(vm);
        }
        if let Some(slot) = self.version.slots.get(self.worker) {
            slot.vms.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
