//! The place where a stream's data lies while nothing drives the stream, and where others leave word for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Waker;

use smallvec::SmallVec;
use wasmgate_stream::{Parked, Parking, StreamData, Then};

type Then1 = SmallVec<[Then; 1]>;

/// What somebody outside wants of a stream.
#[derive(Debug)]
enum Request {
    /// Carry this out for a filter.
    Run(usize, Then1),
    /// The same, if the filter holds something: its VM has failed, and could hold it for ever.
    RunIfHeld(usize, Then1),
}

/// Shared by a stream's driver and its filters, all on one worker.
#[derive(Debug, Default)]
pub struct StreamPort {
    parked: RefCell<Option<Parked>>,
    requests: RefCell<VecDeque<Request>>,
    waker: RefCell<Option<Waker>>,
}

impl StreamPort {
    /// The driver goes to sleep: others can reach the data, and wake it.
    pub fn park(&self, stream: &mut impl Parking, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
        *self.parked.borrow_mut() = stream.park();
    }

    /// The driver is awake: takes the data back and carries out what others want.
    pub fn unpark(&self, stream: &mut impl Parking) {
        if let Some(parked) = self.parked.borrow_mut().take() {
            stream.unpark(parked);
        }
        loop {
            // One at a time: what is carried out may enter a guest, which may leave word here again.
            let next = self.requests.borrow_mut().pop_front();
            match next {
                Some(Request::Run(filter, then)) => stream.run_outside(filter, then),
                Some(Request::RunIfHeld(filter, then)) => stream.run_if_held(filter, then),
                None => return,
            }
        }
    }

    /// Lends the data out. `None` when the stream is over, or is being driven.
    pub(crate) fn lend(&self, filter: usize) -> Option<Box<StreamData>> {
        self.parked.borrow_mut().as_mut()?.lend(filter)
    }

    pub(crate) fn give_back(&self, filter: usize, data: Box<StreamData>) {
        if let Some(parked) = self.parked.borrow_mut().as_mut() {
            parked.give_back(filter, data);
        }
    }

    /// Leaves word for the driver, and wakes it.
    pub(crate) fn run(&self, filter: usize, then: Then1) {
        self.leave(Request::Run(filter, then));
    }

    pub(crate) fn run_if_held(&self, filter: usize, then: Then1) {
        self.leave(Request::RunIfHeld(filter, then));
    }

    fn leave(&self, request: Request) {
        self.requests.borrow_mut().push_back(request);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
