//! A VM on its worker: everything that enters it, and what it asks for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use wasmgate_host::{
    Actions, CallToken, ContextId, Effect, Failure, GrpcStatus, HeaderPairs, HttpCallResponse, QueueConsumer,
    Streams, Vm,
};
use wasmgate_stream::Then;

use crate::filter;
use crate::id_hasher::IdHasher;
use crate::port::StreamPort;
use crate::queue_signal::QueueSignal;
use crate::version::PluginVersion;
use crate::view::WasmStream;
use crate::worker::WorkerPlugin;

/// How long a root context that said "not yet" to `proxy_on_done` is kept (spec: proxy-wasm-host §6.4).
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// Makes call-outs for the VMs of a worker.
pub trait CallRunner {
    /// Starts what a VM asks for; the handle takes the answer. Must not answer before it returns.
    fn start(&self, effect: Effect, vm: VmHandle);
}

/// What all plug-ins of one worker share.
pub struct PluginWorker {
    pub(crate) index: usize,
    runner: Rc<dyn CallRunner>,
    /// VMs whose root context asked for more time when it was told to end.
    lingering: mpsc::UnboundedSender<(Vm<WasmStream>, Arc<PluginVersion>)>,
}

impl PluginWorker {
    /// Must be called on the worker, within its runtime.
    pub fn new(index: usize, runner: Rc<dyn CallRunner>) -> Rc<Self> {
        let (lingering, inbox) = mpsc::unbounded_channel();
        let worker = Rc::new(Self { index, runner, lingering });
        tokio::task::spawn_local(linger(Rc::downgrade(&worker), inbox));
        worker
    }
}

impl std::fmt::Debug for PluginWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginWorker").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Keeps VMs that want to finish something, each until it says so or its time is up.
async fn linger(
    worker: Weak<PluginWorker>,
    mut inbox: mpsc::UnboundedReceiver<(Vm<WasmStream>, Arc<PluginVersion>)>,
) {
    while let Some((vm, version)) = inbox.recv().await {
        let Some(worker) = worker.upgrade() else { return };
        let cell = VmCell::new(vm, version, worker, Weak::new());
        cell.stopping.set(true);
        tokio::task::spawn_local(async move {
            let done = Rc::clone(&cell.done);
            let name = Arc::clone(&cell.version.definition.name);
            if tokio::time::timeout(STOP_TIME_MAX, done.notified()).await.is_err() {
                tracing::warn!(target: "wasm", plugin = &*name, "plugin {name}: proxy_done was not called within {STOP_TIME_MAX:?} after proxy_on_done, the VM is ended");
            }
            drop(cell);
        });
    }
}

/// A VM and who still uses it.
pub(crate) struct VmCell {
    pub(crate) vm: RefCell<Option<Vm<WasmStream>>>,
    pub(crate) version: Arc<PluginVersion>,
    worker: Rc<PluginWorker>,
    id: u64,
    /// Who replaces it when it fails; nobody while it is only kept to end.
    plugin: Weak<WorkerPlugin>,
    /// The streams that have a context in it, with the filter's place in each.
    streams: RefCell<StreamsByContext>,
    /// What a callback asked for streams other than its own.
    posted: RefCell<Vec<(ContextId, Actions)>>,
    tick: RefCell<Option<AbortHandle>>,
    queues: RefCell<Option<AbortHandle>>,
    reported: Cell<bool>,
    /// The root context has been told to end.
    stopping: Cell<bool>,
    /// The root context needs no more time.
    done: Rc<Notify>,
}

type StreamsByContext = HashMap<ContextId, (Rc<StreamPort>, usize), BuildHasherDefault<IdHasher>>;

thread_local! {
    /// The cells of this worker: a VM moves between threads before it is ready, so it cannot hold its cell itself.
    static CELLS: RefCell<HashMap<u64, Weak<VmCell>>> = RefCell::default();
}

static NEXT_CELL: AtomicU64 = AtomicU64::new(0);

impl VmCell {
    pub(crate) fn new(
        mut vm: Vm<WasmStream>,
        version: Arc<PluginVersion>,
        worker: Rc<PluginWorker>,
        plugin: Weak<WorkerPlugin>,
    ) -> Rc<Self> {
        let id = NEXT_CELL.fetch_add(1, Ordering::Relaxed);
        vm.set_streams(Box::new(LocalStreams(id)));
        let signal = Arc::new(QueueSignal::default());
        vm.set_queue_consumer(Arc::clone(&signal) as Arc<dyn QueueConsumer>);
        let effects = vm.take_effects();
        let cell = Rc::new(Self {
            vm: RefCell::new(Some(vm)),
            version,
            worker,
            id,
            plugin,
            streams: RefCell::default(),
            posted: RefCell::default(),
            tick: RefCell::default(),
            queues: RefCell::default(),
            reported: Cell::new(false),
            stopping: Cell::new(false),
            done: Rc::default(),
        });
        CELLS.with_borrow_mut(|cells| cells.insert(id, Rc::downgrade(&cell)));
        let task = tokio::task::spawn_local(tell_queues(Rc::downgrade(&cell), signal));
        *cell.queues.borrow_mut() = Some(task.abort_handle());
        if let Some(slot) = cell.version.slots.get(cell.worker.index) {
            slot.vms.fetch_add(1, Ordering::Relaxed);
        }
        cell.note_memory();
        cell.run(effects);
        cell
    }

    pub(crate) fn takes_streams(&self) -> bool {
        self.vm.borrow().as_ref().is_some_and(|vm| vm.failure().is_none() && !vm.is_exhausted())
    }

    /// Publishes the size of the linear memory.
    pub(crate) fn note_memory(&self) {
        if let (Some(slot), Some(vm)) = (self.version.slots.get(self.worker.index), self.vm.borrow().as_ref())
        {
            slot.memory_bytes.store(vm.memory_bytes(), Ordering::Relaxed);
        }
    }

    /// Whether this is the first time that the cell's failure is told.
    pub(crate) fn report_once(&self) -> bool {
        !self.reported.replace(true)
    }

    pub(crate) fn add_stream(&self, context: ContextId, port: Rc<StreamPort>, filter: usize) {
        self.streams.borrow_mut().insert(context, (port, filter));
    }

    pub(crate) fn remove_stream(&self, context: ContextId) {
        self.streams.borrow_mut().remove(&context);
    }

    /// Every other stream that the failed VM holds is dealt with as the fail strategy says: nothing can resume it.
    pub(crate) fn release_streams(&self, then: impl Fn(ContextId) -> SmallVec<[Then; 1]>) {
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        for (context, (port, filter)) in streams {
            port.run_if_held(filter, then(context));
        }
        if let Some(task) = self.tick.borrow_mut().take() {
            task.abort();
        }
    }

    /// After a callback: does what the guest asked for. The VM must not be borrowed.
    pub(crate) fn after_callback(self: &Rc<Self>) {
        let effects = match self.vm.borrow_mut().as_mut() {
            Some(vm) if vm.has_effects() => Some(vm.take_effects()),
            _ => None,
        };
        if let Some(effects) = effects {
            self.run(effects);
        }
        if self.posted.borrow().is_empty() {
            return;
        }
        let posted = std::mem::take(&mut *self.posted.borrow_mut());
        for (context, actions) in posted {
            let stream = self.streams.borrow().get(&context).cloned();
            if let Some((port, index)) = stream {
                port.run(index, filter::then(&self.version, actions));
            }
        }
    }

    fn run(self: &Rc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Tick(period) => self.set_tick(period),
                Effect::Rebuild => {
                    if let Some(plugin) = self.plugin.upgrade() {
                        plugin.rebuild(self);
                    }
                }
                Effect::Done => self.done.notify_one(),
                call => self.worker.runner.start(call, VmHandle(Rc::downgrade(self))),
            }
        }
    }

    fn set_tick(self: &Rc<Self>, period: Option<Duration>) {
        let cell = Rc::downgrade(self);
        let task = period.map(|period| {
            let ticks = async move {
                loop {
                    tokio::time::sleep(period).await;
                    let Some(cell) = cell.upgrade() else { return };
                    cell.enter(Vm::on_tick);
                }
            };
            tokio::task::spawn_local(ticks).abort_handle()
        });
        // A tick may change its own rhythm: its task ends at its next await.
        if let Some(old) = std::mem::replace(&mut *self.tick.borrow_mut(), task) {
            old.abort();
        }
    }

    /// Enters the guest for its root context.
    fn enter(self: &Rc<Self>, call: impl FnOnce(&mut Vm<WasmStream>) -> Result<(), Arc<Failure>>) {
        let started = self.version.engine.ticks();
        let result = match self.vm.borrow_mut().as_mut() {
            Some(vm) if vm.failure().is_none() => call(vm),
            _ => return,
        };
        self.version.note_slow(started);
        self.note_memory();
        self.after_callback();
        if let Err(failure) = result {
            match self.plugin.upgrade() {
                Some(plugin) => {
                    plugin.failed(self, &failure);
                }
                None if self.report_once() => self.version.report(&failure),
                None => {}
            }
        }
    }
}

impl Drop for VmCell {
    fn drop(&mut self) {
        // At the end of the thread the table may be gone before its entries.
        let _ = CELLS.try_with(|cells| cells.borrow_mut().remove(&self.id));
        for task in [&self.tick, &self.queues].into_iter().filter_map(|t| t.borrow_mut().take()) {
            task.abort();
        }
        if let Some(slot) = self.version.slots.get(self.worker.index) {
            slot.vms.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(mut vm) = self.vm.borrow_mut().take() else { return };
        if self.stopping.get() || vm.failure().is_some() || vm.begin_stop() {
            self.version.retire(vm);
            return;
        }
        // When the worker is ending nobody keeps it: it goes without its last words.
        let _ = self.worker.lingering.send((vm, Arc::clone(&self.version)));
    }
}

impl std::fmt::Debug for VmCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmCell").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Takes answers for a VM, if it still lives.
#[derive(Clone, Debug)]
pub struct VmHandle(Weak<VmCell>);

impl VmHandle {
    fn enter(&self, call: impl FnOnce(&mut Vm<WasmStream>) -> Result<(), Arc<Failure>>) {
        if let Some(cell) = self.0.upgrade() {
            cell.enter(call);
        }
    }

    /// Tells VMs of one worker apart.
    pub fn id(&self) -> Option<u64> {
        self.0.upgrade().map(|cell| cell.id)
    }

    /// The plug-in's name.
    pub fn plugin(&self) -> Option<Arc<str>> {
        self.0.upgrade().map(|cell| Arc::clone(&cell.version.definition.name))
    }

    /// Whether anybody still waits for an answer.
    pub fn is_open(&self, token: CallToken) -> bool {
        let Some(cell) = self.0.upgrade() else { return false };
        let vm = cell.vm.borrow();
        vm.as_ref().is_some_and(|vm| vm.is_call_open(token))
    }

    /// An HTTP call-out has ended.
    pub fn http_call_response(&self, token: CallToken, response: Option<HttpCallResponse>) {
        self.enter(|vm| vm.on_http_call_response(token, response));
    }

    /// Initial metadata of a gRPC stream.
    pub fn grpc_initial_metadata(&self, token: CallToken, metadata: HeaderPairs) {
        self.enter(|vm| vm.on_grpc_initial_metadata(token, metadata));
    }

    /// A gRPC message; with `last` the call is over.
    pub fn grpc_receive(&self, token: CallToken, message: Bytes, last: bool) {
        self.enter(|vm| vm.on_grpc_receive(token, message, last));
    }

    /// Trailing metadata of a gRPC stream.
    pub fn grpc_trailing_metadata(&self, token: CallToken, metadata: HeaderPairs) {
        self.enter(|vm| vm.on_grpc_trailing_metadata(token, metadata));
    }

    /// A gRPC stream is over, or a call has failed.
    pub fn grpc_close(&self, token: CallToken, status: GrpcStatus) {
        self.enter(|vm| vm.on_grpc_close(token, status));
    }

    /// Addresses of a name, with their time to live in seconds.
    pub fn resolve_dns(&self, token: CallToken, addresses: &[(std::net::IpAddr, u32)]) {
        self.enter(|vm| vm.on_resolve_dns(token, addresses));
    }

    /// A Redis reply; `None` when there is none.
    pub fn redis_call_response(&self, token: CallToken, reply: Option<Bytes>) {
        self.enter(|vm| vm.on_redis_call_response(token, reply));
    }
}

async fn tell_queues(cell: Weak<VmCell>, signal: Arc<QueueSignal>) {
    loop {
        let token = signal.next().await;
        let Some(cell) = cell.upgrade() else { return };
        cell.enter(|vm| vm.on_queue_ready(token));
        // A queue that is never empty does not starve the worker's streams.
        tokio::task::yield_now().await;
    }
}

/// The streams of a cell, found through this thread's table.
struct LocalStreams(u64);

impl LocalStreams {
    fn cell(&self) -> Option<Rc<VmCell>> {
        CELLS.with_borrow(|cells| cells.get(&self.0).and_then(Weak::upgrade))
    }
}

impl Streams<WasmStream> for LocalStreams {
    fn lend(&mut self, context: ContextId) -> Option<WasmStream> {
        let cell = self.cell()?;
        let (port, filter) = cell.streams.borrow().get(&context).cloned()?;
        port.lend(filter).map(WasmStream)
    }

    fn give_back(&mut self, context: ContextId, stream: WasmStream, actions: Actions) {
        let Some(cell) = self.cell() else { return };
        let Some((port, filter)) = cell.streams.borrow().get(&context).cloned() else { return };
        port.give_back(filter, stream.0);
        if !actions.is_empty() {
            cell.posted.borrow_mut().push((context, actions));
        }
    }
}
