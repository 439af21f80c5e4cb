//! When a request of a route that limits its time must be over.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use wasmgate_config::RouteTimeouts;

/// What is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Request,
    Attempt,
}

/// The next moment, if there is one. A route without limits costs nothing.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    request: Option<Instant>,
    attempt: Option<Duration>,
    next: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    /// Those of a request that begins now.
    pub(super) fn new(timeouts: RouteTimeouts) -> Self {
        let request = timeouts.request.map(|limit| Instant::now() + limit);
        let next = request.map(|at| Box::pin(tokio::time::sleep_until(at)));
        Self { request, attempt: timeouts.attempt, next }
    }

    /// An attempt begins.
    pub(super) fn begin_attempt(&mut self) {
        let Some(limit) = self.attempt else { return };
        let at = Instant::now() + limit;
        let at = self.request.map_or(at, |request| at.min(request));
        self.next = Some(Box::pin(tokio::time::sleep_until(at)));
    }

    /// The attempt is over; the request's own limit goes on.
    pub(super) fn end_attempt(&mut self) {
        if self.attempt.is_some() {
            self.next = self.request.map(|at| Box::pin(tokio::time::sleep_until(at)));
        }
    }

    /// Whether the moment has come; it does once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Expired> {
        let next = self.next.as_mut()?;
        if next.as_mut().poll(cx).is_pending() {
            return None;
        }
        let is_request = self.request.is_some_and(|request| request <= next.deadline());
        self.next = None;
        if is_request {
            return Some(Expired::Request);
        }
        self.end_attempt();
        Some(Expired::Attempt)
    }

    /// There is no limit any more.
    pub(super) fn lift(&mut self) {
        *self = Self::default();
    }
}
