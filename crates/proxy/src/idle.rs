//! Streams on which nothing moves: one table per worker, looked at once a second, instead of a timer per stream.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

/// How often the table is looked at.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// A stream's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleKey(usize);

#[derive(Debug)]
struct Entry {
    last: u32,
    expired: bool,
    waker: Waker,
    /// Ends the connection, if the stream does not end although it has been told to: nobody polls one whose client opens no
    /// window of HTTP/2.
    give_up: Option<Rc<Notify>>,
}

/// Ticks from the end of a stream's time to that of its connection.
const GRACE_TICKS: u32 = 5;

/// The streams of a worker that wait for something.
#[derive(Debug, Default)]
pub(crate) struct IdleTable {
    now: Cell<u32>,
    entries: RefCell<Vec<Option<Entry>>>,
    free: RefCell<Vec<usize>>,
}

impl IdleTable {
    /// Adds a stream that has to wait for the first time.
    pub(crate) fn insert(&self, waker: &Waker, give_up: Option<Rc<Notify>>) -> IdleKey {
        let entry = Some(Entry { last: self.now.get(), expired: false, waker: waker.clone(), give_up });
        let mut entries = self.entries.borrow_mut();
        let free = self.free.borrow_mut().pop();
        match free.and_then(|i| entries.get_mut(i).map(|slot| (i, slot))) {
            Some((i, slot)) => {
                *slot = entry;
                IdleKey(i)
            }
            None => {
                entries.push(entry);
                IdleKey(entries.len() - 1)
            }
        }
    }

    /// The stream waits again; `moved`: something happened since the last time.
    pub(crate) fn wait(&self, key: IdleKey, moved: bool, waker: &Waker) {
        if let Some(Some(entry)) = self.entries.borrow_mut().get_mut(key.0) {
            if moved {
                entry.last = self.now.get();
            }
            entry.waker.clone_from(waker);
        }
    }

    /// Whether the stream has waited too long.
    pub(crate) fn is_expired(&self, key: IdleKey) -> bool {
        self.entries.borrow().get(key.0).is_some_and(|e| e.as_ref().is_some_and(|e| e.expired))
    }

    /// The stream is over.
    pub(crate) fn remove(&self, key: IdleKey) {
        if let Some(slot) = self.entries.borrow_mut().get_mut(key.0)
            && slot.take().is_some()
        {
            self.free.borrow_mut().push(key.0);
        }
    }

    /// A second has passed: wakes the streams that have waited too long.
    pub(crate) fn tick(&self, idle_max: Duration) {
        let now = self.now.get().wrapping_add(1);
        self.now.set(now);
        if idle_max.is_zero() {
            return;
        }
        let ticks_max = u32::try_from(idle_max.as_secs().max(1)).unwrap_or(u32::MAX);
        for entry in self.entries.borrow_mut().iter_mut().flatten() {
            let idle = now.wrapping_sub(entry.last);
            if !entry.expired && idle > ticks_max {
                entry.expired = true;
                entry.waker.wake_by_ref();
            }
            if entry.expired
                && idle.saturating_sub(ticks_max) > GRACE_TICKS
                && let Some(give_up) = entry.give_up.take()
            {
                give_up.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_expires_when_nothing_moves_and_its_place_is_used_again() {
        let table = IdleTable::default();
        let idle = Duration::from_secs(2);
        let (a, b) = (table.insert(Waker::noop(), None), table.insert(Waker::noop(), None));
        for _ in 0..3 {
            table.tick(idle);
            table.wait(b, true, Waker::noop());
        }
        assert!(table.is_expired(a) && !table.is_expired(b));
        table.remove(a);
        table.remove(a);
        let c = table.insert(Waker::noop(), None);
        assert_eq!(c, a);
        assert!(!table.is_expired(c), "a new stream starts anew");
        assert_eq!(table.insert(Waker::noop(), None), IdleKey(2));
    }

    #[test]
    fn zero_is_no_limit() {
        let table = IdleTable::default();
        let key = table.insert(Waker::noop(), None);
        (0..1000).for_each(|_| table.tick(Duration::ZERO));
        assert!(!table.is_expired(key));
    }
}
