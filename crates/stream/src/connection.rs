//! One TCP connection through N filters (spec: proxy-wasm-host §10).

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::data::StreamData;
use crate::direction::Direction;
use crate::filter::{Then, Verdict};
use crate::parked::{Parked, Parking};

/// A filter's answer to a connection or to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkAction {
    /// Goes on to the next filter.
    Continue,
    /// Stays with this one; the next callback sees it again, with what has come meanwhile.
    Hold,
}

/// A step of a TCP listener's chain. Each call gets the connection's data and gives it back.
pub trait NetworkFilter {
    /// The client has connected.
    fn new_connection(&mut self, data: Box<StreamData>) -> (Box<StreamData>, Verdict<NetworkAction>);

    /// The bytes that wait here are shown as [`StreamData::body`]; with `end` that side sends no more.
    fn bytes(
        &mut self,
        direction: Direction,
        data: Box<StreamData>,
        end: bool,
    ) -> (Box<StreamData>, Verdict<NetworkAction>);

    /// The server's side is closed; and what is to be done about it.
    fn upstream_closed(&mut self, data: Box<StreamData>) -> (Box<StreamData>, SmallVec<[Then; 1]>);

    /// The client's side is closed, by the client or by the proxy.
    fn downstream_closed(&mut self, data: Box<StreamData>, by_client: bool) -> Box<StreamData>;

    /// The connection is over. Called exactly once, whatever happened.
    fn end_connection(&mut self, data: Box<StreamData>) -> Box<StreamData>;
}

/// What one filter holds in one direction.
#[derive(Debug, Default)]
struct Lane {
    held: BytesMut,
    /// The side's end waits here as well.
    end: bool,
}

#[derive(Debug)]
struct Slot<F> {
    filter: F,
    request: Lane,
    response: Lane,
    bypassed: bool,
}

impl<F> Slot<F> {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// What has passed the filters is still sent, then both sides are closed.
    Closing,
    Ended,
}

#[derive(Debug, Default)]
struct Output {
    bytes: BytesMut,
    end: bool,
}

/// A TCP connection's filters and what they hold. Sans-I/O: fed with what the peers send, it holds what may go on until
/// somebody takes it; not taking it is back-pressure.
#[derive(Debug)]
pub struct Connection<F> {
    slots: SmallVec<[Slot<F>; 2]>,
    data: Option<Box<StreamData>>,
    /// Filters that know of the connection: the first so many.
    opened: usize,
    /// The last of them holds the connection back from the next one.
    is_waiting: bool,
    to_upstream: Output,
    to_downstream: Output,
    state: State,
    bytes_max: usize,
}

impl<F: NetworkFilter> Connection<F> {
    /// A connection that has been accepted; `bytes_max` is what one direction may hold before its sender has to wait.
    pub fn new(filters: impl IntoIterator<Item = F>, data: Box<StreamData>, bytes_max: usize) -> Self {
        let slot =
            |filter| Slot { filter, request: Lane::default(), response: Lane::default(), bypassed: false };
        let mut connection = Self {
            slots: filters.into_iter().map(slot).collect(),
            data: Some(data),
            opened: 0,
            is_waiting: false,
            to_upstream: Output::default(),
            to_downstream: Output::default(),
            state: State::Open,
            bytes_max,
        };
        connection.open();
        connection
    }

    /// Facts about the connection; `None` while they are lent out.
    pub fn data_mut(&mut self) -> Option<&mut StreamData> {
        self.data.as_deref_mut()
    }

    /// Whether all filters have let the connection through: the upstream may be connected.
    pub fn is_ready(&self) -> bool {
        self.opened == self.slots.len() && !self.is_waiting
    }

    /// Whether a filter has asked to close the connection.
    pub fn is_closing(&self) -> bool {
        self.state != State::Open
    }

    /// Whether bytes of a direction should be read.
    pub fn wants(&self, direction: Direction) -> bool {
        let held = |slot: &Slot<F>| match direction {
            Direction::Request => slot.request.held.len(),
            Direction::Response => slot.response.held.len(),
        };
        let waiting: usize = self.slots.iter().map(held).sum();
        self.state == State::Open && waiting + self.output(direction).bytes.len() < self.bytes_max
    }

    /// Takes no more: what has passed the filters is still sent, then both sides are closed.
    pub fn close(&mut self) {
        if self.state == State::Open {
            self.state = State::Closing;
        }
    }

    /// Takes bytes of a peer; with `end` it sends no more.
    pub fn feed(&mut self, direction: Direction, bytes: Bytes, end: bool) {
        if self.state == State::Open {
            self.pass(direction, 0, bytes, end);
        }
    }

    /// What may be sent on.
    pub fn take_output(&mut self, direction: Direction) -> Option<Bytes> {
        let output = self.output_mut(direction);
        (!output.bytes.is_empty()).then(|| std::mem::take(&mut output.bytes).freeze())
    }

    /// Whether nothing more is to be sent on, ever.
    pub fn is_output_over(&self, direction: Direction) -> bool {
        let output = self.output(direction);
        output.bytes.is_empty() && (output.end || self.state != State::Open)
    }

    /// Tells every filter that the connection is over. Runs once; later calls do nothing.
    pub fn end(&mut self, by_client: bool) {
        if self.state == State::Ended {
            return;
        }
        self.state = State::Ended;
        for slot in &mut self.slots {
            if let Some(data) = self.data.take() {
                let data = if slot.bypassed { data } else { slot.filter.downstream_closed(data, by_client) };
                self.data = Some(slot.filter.end_connection(data));
            }
        }
    }

    fn output(&self, direction: Direction) -> &Output {
        match direction {
            Direction::Request => &self.to_upstream,
            Direction::Response => &self.to_downstream,
        }
    }

    fn output_mut(&mut self, direction: Direction) -> &mut Output {
        match direction {
            Direction::Request => &mut self.to_upstream,
            Direction::Response => &mut self.to_downstream,
        }
    }

    /// Tells the filters of the connection, one after the other, until one holds it back.
    fn open(&mut self) {
        while self.opened < self.slots.len() && !self.is_waiting && self.state == State::Open {
            let index = self.opened;
            self.opened += 1;
            let (Some(slot), Some(data)) = (self.slots.get_mut(index), self.data.take()) else { return };
            let (data, verdict) = slot.filter.new_connection(data);
            self.data = Some(data);
            self.is_waiting = verdict.action == NetworkAction::Hold;
            self.run(index, verdict.then);
        }
    }

    /// The filter at a step of a direction: what comes from the server goes backwards.
    fn index(&self, direction: Direction, step: usize) -> usize {
        match direction {
            Direction::Request => step,
            Direction::Response => self.slots.len().saturating_sub(step + 1),
        }
    }

    /// Hands bytes to the filters from a step on.
    fn pass(&mut self, direction: Direction, first: usize, mut bytes: Bytes, mut end: bool) {
        for step in first..self.slots.len() {
            let index = self.index(direction, step);
            let is_known = index < self.opened;
            let Some(slot) = self.slots.get_mut(index) else { return };
            if slot.bypassed {
                continue;
            }
            let lane = slot.lane(direction);
            append(&mut lane.held, bytes);
            lane.end |= end;
            if !is_known || (lane.held.is_empty() && !lane.end) {
                return;
            }
            let (view, is_end) = (std::mem::take(&mut lane.held).freeze(), lane.end);
            let Some(mut data) = self.data.take() else { return };
            data.show_body(direction, view, false);
            let (mut data, mut verdict) = slot.filter.bytes(direction, data, is_end);
            slot.lane(direction).held = writable(data.hide_body(direction).unwrap_or_default());
            if is_end && direction == Direction::Response {
                let (same, then) = slot.filter.upstream_closed(data);
                data = same;
                verdict.then.extend(then);
            }
            self.data = Some(data);
            if verdict.action == NetworkAction::Hold {
                self.run(index, verdict.then);
                return;
            }
            let Some(slot) = self.slots.get_mut(index) else { return };
            let lane = slot.lane(direction);
            (bytes, end) = (std::mem::take(&mut lane.held).freeze(), std::mem::take(&mut lane.end));
            if direction == Direction::Request {
                self.let_through(index);
            }
            self.run(index, verdict.then);
            if self.state == State::Ended {
                return;
            }
        }
        let output = self.output_mut(direction);
        append(&mut output.bytes, bytes);
        output.end |= end;
    }

    /// The filter that held the connection back holds it back no more.
    fn let_through(&mut self, index: usize) {
        if self.is_waiting && index + 1 == self.opened {
            self.is_waiting = false;
            self.open();
        }
    }

    /// What a filter holds in a direction goes on to the next one.
    fn resume(&mut self, index: usize, direction: Direction) {
        if direction == Direction::Request {
            self.let_through(index);
        }
        let step = match direction {
            Direction::Request => index,
            Direction::Response => self.slots.len().saturating_sub(index + 1),
        };
        let Some(slot) = self.slots.get_mut(index) else { return };
        let lane = slot.lane(direction);
        let (bytes, end) = (std::mem::take(&mut lane.held).freeze(), std::mem::take(&mut lane.end));
        if !bytes.is_empty() || end {
            self.pass(direction, step + 1, bytes, end);
        }
    }

    fn run(&mut self, index: usize, then: SmallVec<[Then; 1]>) {
        for then in then {
            if self.state == State::Ended {
                return;
            }
            match then {
                Then::ContinueConnection(direction) => self.resume(index, direction),
                Then::Bypass => {
                    if let Some(slot) = self.slots.get_mut(index) {
                        slot.bypassed = true;
                    }
                    self.resume(index, Direction::Request);
                    self.resume(index, Direction::Response);
                }
                Then::CloseConnection => self.close(),
                // Of HTTP streams.
                Then::Continue(_) | Then::Inject(_) | Then::LocalReply(_) | Then::Reset { .. } => {}
            }
        }
    }
}

impl<F: NetworkFilter> Parking for Connection<F> {
    fn park(&mut self) -> Option<Parked> {
        if self.state == State::Ended {
            return None;
        }
        let mut parked = Parked::new(self.data.take()?);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            for direction in [Direction::Request, Direction::Response] {
                let lane = slot.lane(direction);
                if !lane.held.is_empty() {
                    parked.add_body(index, direction, std::mem::take(&mut lane.held).freeze());
                }
            }
        }
        Some(parked)
    }

    fn unpark(&mut self, parked: Parked) {
        let (data, bodies) = parked.into_parts();
        self.data = data;
        for body in bodies {
            if let Some(slot) = self.slots.get_mut(body.filter) {
                slot.lane(body.direction).held = writable(body.bytes);
            }
        }
    }

    fn run_outside(&mut self, filter: usize, then: SmallVec<[Then; 1]>) {
        self.run(filter, then);
    }

    /// A filter that cannot look at bytes any more does not let them pass, whether it holds some now or not.
    fn run_if_held(&mut self, filter: usize, then: SmallVec<[Then; 1]>) {
        self.run(filter, then);
    }
}

/// Adds bytes; what nobody waits for is not copied.
fn append(to: &mut BytesMut, bytes: Bytes) {
    if to.is_empty() {
        *to = writable(bytes);
    } else {
        to.extend_from_slice(&bytes);
    }
}

/// The same bytes to add to, without a copy when nobody else has them.
fn writable(bytes: Bytes) -> BytesMut {
    bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
