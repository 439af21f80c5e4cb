//! Random filters and random peers on a TCP connection: whatever they do, no byte is lost, doubled or moved.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use wasmgate_stream::{
    Connection, Direction, NetworkAction, NetworkFilter, Parking, StreamData, StreamInfo, Then, Verdict,
};

const SEEDS: u64 = 512;

fn data() -> Box<StreamData> {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    Box::new(StreamData::connection(StreamInfo::new(
        SystemTime::UNIX_EPOCH,
        1,
        (nowhere, nowhere),
        &"".into(),
    )))
}

/// Holds or passes at random, and never at the end.
struct Random {
    rng: Rc<RefCell<fastrand::Rng>>,
    /// The connection drains: everything passes.
    drains: Rc<Cell<bool>>,
    opened: Rc<Cell<u32>>,
    ended: Rc<Cell<u32>>,
    is_open: bool,
    upstream_closed: u32,
}

impl Random {
    fn verdict(&self, direction: Direction) -> Verdict<NetworkAction> {
        if self.drains.get() {
            return Verdict::new(NetworkAction::Continue);
        }
        match self.rng.borrow_mut().u8(0..6) {
            0 | 1 => Verdict::new(NetworkAction::Hold),
            // Carried out after the answer: it passes all the same.
            2 => {
                Verdict { action: NetworkAction::Hold, then: smallvec![Then::ContinueConnection(direction)] }
            }
            _ => Verdict::new(NetworkAction::Continue),
        }
    }
}

impl NetworkFilter for Random {
    fn new_connection(&mut self, data: Box<StreamData>) -> (Box<StreamData>, Verdict<NetworkAction>) {
        assert!(!self.is_open, "once");
        self.is_open = true;
        self.opened.set(self.opened.get() + 1);
        (data, self.verdict(Direction::Request))
    }

    fn bytes(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        _: bool,
    ) -> (Box<StreamData>, Verdict<NetworkAction>) {
        assert!(self.is_open, "no filter sees bytes of a connection that it has not been told of");
        (data, self.verdict(direction))
    }

    fn upstream_closed(&mut self, data: Box<StreamData>) -> (Box<StreamData>, SmallVec<[Then; 1]>) {
        self.upstream_closed += 1;
        (data, SmallVec::new())
    }

    fn downstream_closed(&mut self, data: Box<StreamData>, _: bool) -> Box<StreamData> {
        data
    }

    fn end_connection(&mut self, data: Box<StreamData>) -> Box<StreamData> {
        assert_eq!(self.upstream_closed, 1, "once");
        self.ended.set(self.ended.get() + 1);
        data
    }
}

fn play(seed: u64) {
    let rng = Rc::new(RefCell::new(fastrand::Rng::with_seed(seed)));
    let number = |max: usize| rng.borrow_mut().usize(0..max);
    let (drains, opened, ended) = (Rc::default(), Rc::default(), Rc::default());
    let count = number(4);
    let filter = || Random {
        rng: Rc::clone(&rng),
        drains: Rc::clone(&drains),
        opened: Rc::clone(&opened),
        ended: Rc::clone(&ended),
        is_open: false,
        upstream_closed: 0,
    };
    let filters: Vec<Random> = (0..count).map(|_| filter()).collect();
    let mut connection = Connection::new(filters, data(), 1000);
    let directions = [Direction::Request, Direction::Response];
    let (mut fed, mut got) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let take = |connection: &mut Connection<Random>, got: &mut [Vec<u8>; 2]| {
        for (direction, got) in directions.into_iter().zip(got) {
            got.extend_from_slice(&connection.take_output(direction).unwrap_or_default());
        }
    };
    for step in 0..number(60) {
        let which = number(2);
        let direction = *directions.get(which).unwrap();
        match number(8) {
            0 if count > 0 => {
                // From outside, as after a call-out.
                let parked = connection.park().unwrap();
                connection.unpark(parked);
                connection.run_outside(number(count), smallvec![Then::ContinueConnection(direction)]);
            }
            1 => take(&mut connection, &mut got),
            // The server speaks only once it is connected.
            _ if (which == 0 || connection.is_ready()) && connection.wants(direction) => {
                let bytes = vec![step as u8; number(50) + 1];
                fed.get_mut(which).unwrap().extend_from_slice(&bytes);
                connection.feed(direction, Bytes::from(bytes), false);
            }
            _ => {}
        }
    }
    // At the end everything is let go.
    drains.set(true);
    for filter in 0..count {
        for direction in directions {
            connection.run_outside(filter, smallvec![Then::ContinueConnection(direction)]);
        }
    }
    connection.feed(Direction::Request, Bytes::new(), true);
    assert!(connection.is_ready(), "seed {seed}");
    connection.feed(Direction::Response, Bytes::new(), true);
    take(&mut connection, &mut got);
    assert!(fed == got, "seed {seed}: what went in comes out");
    assert!(directions.iter().all(|d| connection.is_output_over(*d)), "seed {seed}");
    connection.end(true);
    connection.end(false);
    assert_eq!((opened.get() as usize, ended.get() as usize), (count, count), "seed {seed}");
}

#[test]
fn no_byte_is_lost_doubled_or_moved() {
    (0..SEEDS).for_each(play);
}
