//! Shared data and shared queues: what VMs of one process share (spec: proxy-wasm-host §4.6).

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::effects::QueueToken;

/// Bounds of what the plug-ins of one `vm_id` share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedLimits {
    /// Bytes of all keys and values together. Further writes are dropped; the guest is told `Ok`, because no status
    /// says it in a way that a Rust guest survives.
    pub data_bytes_max: usize,
    /// Number of keys.
    pub keys_max: usize,
    /// Number of queues.
    pub queues_max: usize,
    /// Bytes of a queue's name; there is no queue of a longer one.
    pub queue_name_bytes_max: usize,
    /// Bytes that wait in one queue. Further items are dropped.
    pub queue_bytes_max: usize,
    /// Items that wait in one queue.
    pub queue_items_max: usize,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self {
            data_bytes_max: 64 << 20,
            keys_max: 100_000,
            queues_max: 1000,
            queue_name_bytes_max: 1024,
            queue_bytes_max: 16 << 20,
            queue_items_max: 100_000,
        }
    }
}

/// Takes the news that a queue has an item. Called on the thread of whoever put it there: it must not block, and must
/// not call the guest.
pub trait QueueConsumer: Send + Sync {
    /// One item has been put into a queue that this consumer registered last.
    fn queue_ready(&self, token: QueueToken);
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Written, or removed.
    Done,
    /// Somebody else has written since.
    CasMismatch,
    /// Dropped: a limit is reached.
    Full,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueueOutcome {
    /// In the queue.
    Done,
    /// No queue of this number exists.
    NoQueue,
    /// Dropped: a limit is reached.
    Full,
}

/// The process' namespaces. One per process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedState(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    limits: SharedLimits,
    namespaces: Mutex<HashMap<String, Weak<Namespace>>>,
    queues: Mutex<HashMap<u32, Weak<Queue>>>,
    next_cas: AtomicU32,
    next_queue: AtomicU32,
}

impl SharedState {
    /// No data, no queues.
    pub fn new(limits: SharedLimits) -> Self {
        Self(Arc::new(Inner { limits, ..Inner::default() }))
    }

    /// The namespace of a `vm_id`. It lives for as long as anybody holds it.
    pub fn namespace(&self, vm_id: &str) -> Arc<Namespace> {
        let mut namespaces = lock(&self.0.namespaces);
        if let Some(namespace) = namespaces.get(vm_id).and_then(Weak::upgrade) {
            return namespace;
        }
        namespaces.retain(|_, n| n.strong_count() > 0);
        let namespace = Arc::new(Namespace {
            shared: Arc::clone(&self.0),
            shards: Default::default(),
            bytes: AtomicUsize::new(0),
            keys: AtomicUsize::new(0),
            queues: Mutex::default(),
        });
        namespaces.insert(vm_id.to_owned(), Arc::downgrade(&namespace));
        namespace
    }
}

#[derive(Debug)]
struct Value {
    bytes: Bytes,
    cas: u32,
}

const SHARDS: usize = 16;

/// Data and queues of the plug-ins that have the same `vm_id`.
#[derive(Debug)]
pub struct Namespace {
    shared: Arc<Inner>,
    shards: [Mutex<HashMap<Vec<u8>, Value>>; SHARDS],
    bytes: AtomicUsize,
    keys: AtomicUsize,
    queues: Mutex<HashMap<Vec<u8>, Arc<Queue>>>,
}

impl Namespace {
    fn shard(&self, key: &[u8]) -> Option<MutexGuard<'_, HashMap<Vec<u8>, Value>>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SHARDS as u64).ok()?;
        self.shards.get(index).map(lock)
    }

    /// A value and the number of its last write, which is never 0.
    pub fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.shard(key)?.get(key).map(|v| (v.bytes.clone(), v.cas))
    }

    /// Writes a value; `None` removes it. `cas` 0 writes whatever is there, another number only if it is the last
    /// write's. On a missing key every number is right.
    pub fn set(&self, key: &[u8], value: Option<&[u8]>, cas: u32) -> SetOutcome {
        let limits = &self.shared.limits;
        let Some(mut shard) = self.shard(key) else { return SetOutcome::Full };
        let old = shard.get_mut(key);
        if let Some(old) = &old
            && cas != 0
            && cas != old.cas
        {
            return SetOutcome::CasMismatch;
        }
        let Some(value) = value else {
            if let Some(old) = shard.remove(key) {
                self.bytes.fetch_sub(key.len() + old.bytes.len(), Ordering::Relaxed);
                self.keys.fetch_sub(1, Ordering::Relaxed);
            }
            return SetOutcome::Done;
        };
        let freed = old.as_ref().map_or(0, |o| key.len() + o.bytes.len());
        let wanted = key.len().saturating_add(value.len());
        // Two writers at once may pass the limit by one value each.
        let bytes = self.bytes.load(Ordering::Relaxed).saturating_add(wanted).saturating_sub(freed);
        let is_new = old.is_none();
        if bytes > limits.data_bytes_max || (is_new && self.keys.load(Ordering::Relaxed) >= limits.keys_max) {
            return SetOutcome::Full;
        }
        self.bytes.fetch_add(wanted, Ordering::Relaxed);
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
        let bytes = Bytes::copy_from_slice(value);
        let cas = self.shared.next_cas();
        match old {
            Some(old) => *old = Value { bytes, cas },
            None => {
                self.keys.fetch_add(1, Ordering::Relaxed);
                shard.insert(key.to_vec(), Value { bytes, cas });
            }
        }
        SetOutcome::Done
    }

    /// The queue of a name, made if it does not exist. `None`: too many, or the name is too long.
    pub fn create_queue(&self, name: &[u8]) -> Option<QueueToken> {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.get(name) {
            return Some(queue.token);
        }
        let limits = &self.shared.limits;
        if queues.len() >= limits.queues_max || name.len() > limits.queue_name_bytes_max {
            return None;
        }
        let token = QueueToken(self.shared.next_queue.fetch_add(1, Ordering::Relaxed).checked_add(1)?);
        let queue = Arc::new(Queue {
            token,
            limits: self.shared.limits,
            content: Mutex::default(),
            consumer: Mutex::default(),
        });
        let mut all = lock(&self.shared.queues);
        all.retain(|_, q| q.strong_count() > 0);
        all.insert(token.0, Arc::downgrade(&queue));
        queues.insert(name.to_vec(), queue);
        Some(token)
    }

    /// The queue of a name in this namespace.
    pub fn find_queue(&self, name: &[u8]) -> Option<QueueToken> {
        lock(&self.queues).get(name).map(|q| q.token)
    }

    /// The queue of a name in another namespace.
    pub fn find_queue_of(&self, vm_id: &str, name: &[u8]) -> Option<QueueToken> {
        let namespace = lock(&self.shared.namespaces).get(vm_id).and_then(Weak::upgrade)?;
        namespace.find_queue(name)
    }

    /// Makes somebody the one who is told of new items. The last one wins.
    pub fn consume(&self, token: QueueToken, consumer: Arc<dyn QueueConsumer>) {
        if let Some(queue) = self.shared.queue(token) {
            *lock(&queue.consumer) = Some(consumer);
        }
    }

    /// Puts an item into any queue of the process and tells its consumer.
    pub fn enqueue(&self, token: QueueToken, item: &[u8]) -> EnqueueOutcome {
        let Some(queue) = self.shared.queue(token) else { return EnqueueOutcome::NoQueue };
        {
            let mut content = lock(&queue.content);
            let limits = &queue.limits;
            if content.items.len() >= limits.queue_items_max
                || content.bytes.saturating_add(item.len()) > limits.queue_bytes_max
            {
                return EnqueueOutcome::Full;
            }
            content.bytes += item.len();
            content.items.push_back(Bytes::copy_from_slice(item));
        }
        let consumer = lock(&queue.consumer).clone();
        if let Some(consumer) = consumer {
            consumer.queue_ready(token);
        }
        EnqueueOutcome::Done
    }

    /// Takes the oldest item: the outer `None` is an unknown queue, the inner one an empty queue.
    pub fn dequeue(&self, token: QueueToken) -> Option<Option<Bytes>> {
        let queue = self.shared.queue(token)?;
        let mut content = lock(&queue.content);
        let item = content.items.pop_front();
        content.bytes -= item.as_ref().map_or(0, Bytes::len);
        Some(item)
    }

    /// Puts an item that could not be handed over back to where it was.
    pub(crate) fn put_back(&self, token: QueueToken, item: Bytes) {
        let Some(queue) = self.shared.queue(token) else { return };
        let mut content = lock(&queue.content);
        content.bytes += item.len();
        content.items.push_front(item);
    }
}

impl Inner {
    fn queue(&self, token: QueueToken) -> Option<Arc<Queue>> {
        lock(&self.queues).get(&token.0).and_then(Weak::upgrade)
    }

    /// Never 0, which means "whatever is there".
    fn next_cas(&self) -> u32 {
        loop {
            let cas = self.next_cas.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if cas != 0 {
                return cas;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Content {
    items: VecDeque<Bytes>,
    bytes: usize,
}

struct Queue {
    token: QueueToken,
    limits: SharedLimits,
    content: Mutex<Content>,
    consumer: Mutex<Option<Arc<dyn QueueConsumer>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Nothing panics while it holds one of these locks; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_cas_matrix() {
        let space = SharedState::default().namespace("");
        assert_eq!(space.get(b"k"), None);
        assert_eq!(space.set(b"k", Some(b"a"), 7), SetOutcome::Done, "any number is right for a missing key");
        let (value, cas) = space.get(b"k").unwrap();
        assert_eq!((&value[..], cas), (&b"a"[..], 1));
        assert_eq!(space.set(b"k", Some(b"b"), cas + 1), SetOutcome::CasMismatch);
        assert_eq!(space.set(b"k", Some(b"b"), cas), SetOutcome::Done);
        assert_eq!(space.set(b"k", Some(b"c"), cas), SetOutcome::CasMismatch, "the old number");
        assert_eq!(space.set(b"k", Some(b""), 0), SetOutcome::Done);
        assert_eq!(space.get(b"k"), Some((Bytes::new(), 3)), "empty is not absent");
        assert_eq!(space.set(b"k", None, 2), SetOutcome::CasMismatch);
        assert_eq!(space.set(b"k", None, 3), SetOutcome::Done);
        assert_eq!(space.get(b"k"), None);
        assert_eq!(space.set(b"k", None, 9), SetOutcome::Done, "removing what is not there");
    }

    #[test]
    fn data_lives_as_long_as_its_namespace_is_held() {
        let shared = SharedState::default();
        let first = shared.namespace("a");
        first.set(b"k", Some(b"v"), 0);
        assert!(shared.namespace("b").get(b"k").is_none(), "another vm_id");
        let second = shared.namespace("a");
        drop(first);
        assert!(second.get(b"k").is_some());
        drop(second);
        assert!(shared.namespace("a").get(b"k").is_none());
    }

    #[test]
    fn what_is_over_the_limit_is_dropped() {
        let limits = SharedLimits {
            queue_name_bytes_max: 16,
            data_bytes_max: 10,
            keys_max: 2,
            queues_max: 1,
            queue_bytes_max: 4,
            queue_items_max: 2,
        };
        let space = SharedState::new(limits).namespace("");
        assert_eq!(space.set(b"k", Some(&[0; 10]), 0), SetOutcome::Full);
        assert_eq!(space.set(b"k", Some(&[0; 9]), 0), SetOutcome::Done);
        assert_eq!(space.set(b"k", Some(&[1; 9]), 0), SetOutcome::Done, "a replacement frees the old value");
        assert_eq!(space.set(b"k", Some(b""), 0), SetOutcome::Done);
        assert_eq!(space.set(b"l", Some(b""), 0), SetOutcome::Done);
        assert_eq!(space.set(b"m", Some(b""), 0), SetOutcome::Full);
        space.set(b"l", None, 0);
        assert_eq!(space.set(b"m", Some(b""), 0), SetOutcome::Done);
        let queue = space.create_queue(b"q").unwrap();
        assert_eq!(space.create_queue(b"r"), None);
        assert_eq!(space.enqueue(queue, b"12345"), EnqueueOutcome::Full);
        assert_eq!(space.enqueue(queue, b"1234"), EnqueueOutcome::Done);
        assert_eq!(space.enqueue(queue, b"5"), EnqueueOutcome::Full);
        space.dequeue(queue);
        assert_eq!(space.enqueue(queue, b""), EnqueueOutcome::Done);
        assert_eq!(space.enqueue(queue, b""), EnqueueOutcome::Done);
        assert_eq!(space.enqueue(queue, b""), EnqueueOutcome::Full);
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<u32>>);

    impl QueueConsumer for Told {
        fn queue_ready(&self, token: QueueToken) {
            lock(&self.0).push(token.0);
        }
    }

    #[test]
    fn the_last_consumer_is_told_of_every_item() {
        let shared = SharedState::default();
        let (owner, other) = (shared.namespace("a"), shared.namespace("b"));
        assert_eq!(other.find_queue_of("a", b"q"), None);
        let token = owner.create_queue(b"q").unwrap();
        assert_eq!(token, QueueToken(1));
        assert_eq!(owner.create_queue(b"q"), Some(token));
        assert_eq!(other.find_queue_of("a", b"q"), Some(token));
        let (first, last) = (Arc::new(Told::default()), Arc::new(Told::default()));
        other.enqueue(token, b"kept");
        owner.consume(token, Arc::clone(&first) as _);
        owner.consume(token, Arc::clone(&last) as _);
        other.enqueue(token, b"x");
        other.enqueue(token, b"");
        assert!(lock(&first.0).is_empty());
        assert_eq!(*lock(&last.0), [1, 1]);
        let items: Vec<_> = std::iter::from_fn(|| owner.dequeue(token).unwrap()).collect();
        assert_eq!(items, [&b"kept"[..], b"x", b""]);
        assert_eq!(owner.dequeue(token), Some(None));
        assert_eq!(owner.dequeue(QueueToken(9)), None);
        assert_eq!(other.enqueue(QueueToken(0), b""), EnqueueOutcome::NoQueue);
        drop(owner);
        assert_eq!(other.enqueue(token, b""), EnqueueOutcome::NoQueue, "it went with its namespace");
    }

    #[test]
    fn concurrent_counters_lose_nothing() {
        let space = SharedState::default().namespace("");
        space.set(b"n", Some(&0_u32.to_le_bytes()), 0);
        let read = || {
            let (value, cas) = space.get(b"n").unwrap();
            (u32::from_le_bytes(*value.first_chunk::<4>().unwrap()), cas)
        };
        let add = || loop {
            let (n, cas) = read();
            if space.set(b"n", Some(&(n + 1).to_le_bytes()), cas) == SetOutcome::Done {
                return;
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| add()));
            }
        });
        assert_eq!(read().0, 2000);
    }
}
