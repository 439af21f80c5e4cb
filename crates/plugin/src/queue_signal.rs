//! Word of items in shared queues, on its way to the worker of their consumer.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmgate_host::{QueueConsumer, QueueToken};

/// Notifications that wait for one queue. More items cannot wait in it unless an embedder allows more of them, and then
/// their consumer is told later than they come.
const NOTIFICATIONS_MAX: u32 = 100_000;

/// Tells a VM's worker of items in queues; any thread may put them there. However often it is called, it takes the space of
/// the queues and not of the calls.
#[derive(Default)]
pub(crate) struct QueueSignal {
    waiting: Mutex<VecDeque<(QueueToken, u32)>>,
    wake: Notify,
}

impl QueueConsumer for QueueSignal {
    fn queue_ready(&self, token: QueueToken) {
        let mut waiting = self.waiting.lock();
        match waiting.iter_mut().find(|(known, _)| *known == token) {
            Some((_, count)) => *count = count.saturating_add(1).min(NOTIFICATIONS_MAX),
            None => waiting.push_back((token, 1)),
        }
        drop(waiting);
        self.wake.notify_one();
    }
}

impl QueueSignal {
    /// The queue of the next item, once there is one.
    pub(crate) async fn next(&self) -> QueueToken {
        loop {
            match self.take() {
                Some(token) => return token,
                None => self.wake.notified().await,
            }
        }
    }

    /// The next one, queue by queue in turn.
    fn take(&self) -> Option<QueueToken> {
        let mut waiting = self.waiting.lock();
        let (token, count) = waiting.pop_front()?;
        if count > 1 {
            waiting.push_back((token, count - 1));
        }
        Some(token)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_told_of_in_turn_and_a_flood_takes_no_space() {
        let namespace = wasmgate_host::SharedState::default().namespace("x");
        let queues = [b"a", b"b"].map(|name| namespace.create_queue(name).unwrap());
        let signal = QueueSignal::default();
        for _ in 0..1_000_000 {
            signal.queue_ready(queues[0]);
        }
        signal.queue_ready(queues[1]);
        assert_eq!(signal.waiting.lock().len(), 2);
        let told: Vec<QueueToken> = std::iter::from_fn(|| signal.take()).collect();
        assert_eq!(told.len(), NOTIFICATIONS_MAX as usize + 1);
        assert_eq!(told[..3], [queues[0], queues[1], queues[0]]);
    }
}
