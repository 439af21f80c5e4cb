//! A plug-in on one worker.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use wasmgate_host::{Callbacks, Failure};

use crate::cell::{PluginWorker, VmCell};
use crate::filter;
use crate::stats::PluginStats;
use crate::version::PluginVersion;

/// How long a stream waits for a VM to be made. One takes milliseconds.
const VM_WAIT_MAX: Duration = Duration::from_secs(1);

/// The VM that takes this worker's new streams. Streams keep the VM that they started with.
#[derive(Debug)]
pub struct WorkerPlugin {
    pub(crate) version: Arc<PluginVersion>,
    pub(crate) callbacks: Callbacks,
    worker: Rc<PluginWorker>,
    current: RefCell<Option<Rc<VmCell>>>,
    own: Weak<Self>,
}

impl WorkerPlugin {
    /// Takes a ready VM of a version for a worker.
    pub fn new(version: Arc<PluginVersion>, worker: Rc<PluginWorker>) -> Rc<Self> {
        let callbacks = version.module.callbacks();
        let plugin = Rc::new_cyclic(|own| Self {
            version,
            callbacks,
            worker,
            current: RefCell::new(None),
            own: Weak::clone(own),
        });
        plugin.replace();
        plugin
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

    /// Waits for the successor of a VM that has failed, at most [`VM_WAIT_MAX`]: others wait with this stream, and the
    /// VM serves all of them unless one makes it fail again.
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
                if self.is_ready() {
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
            VmCell::new(vm, Arc::clone(&self.version), Rc::clone(&self.worker), Weak::clone(&self.own))
        });
        // The old one is dropped after the borrow: its end enters the guest.
        let _old = std::mem::replace(&mut *self.current.borrow_mut(), next);
    }

    fn is_current(&self, cell: &Rc<VmCell>) -> bool {
        self.current.borrow().as_ref().is_some_and(|c| Rc::ptr_eq(c, cell))
    }

    /// A callback on this VM has failed: reports it once, deals with the streams that it holds, and gets the successor
    /// ready for the next one. False when the failure had been told before: it happened in another stream.
    pub(crate) fn failed(&self, cell: &Rc<VmCell>, failure: &Failure) -> bool {
        if !cell.report_once() {
            return false;
        }
        self.version.report(failure);
        cell.release_streams(|id| filter::on_failure(&self.version, failure, id));
        if self.is_current(cell) {
            PluginStats::add(&self.version.stats.respawns);
            self.replace();
        }
        true
    }

    /// The guest asked to be replaced: new streams get a fresh VM, if there is one.
    pub(crate) fn rebuild(&self, cell: &Rc<VmCell>) {
        if self.is_current(cell) && self.version.spare_count() > 0 {
            self.replace();
        }
    }
}
