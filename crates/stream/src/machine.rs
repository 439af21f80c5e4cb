//! The state machine of one stream (spec: proxy-wasm-host §7.3, §8).

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use crate::data::StreamData;
use crate::direction::{Direction, Lane, Mode};
use crate::filter::{DataAction, Filter, HeadersAction, Then, TrailersAction, Verdict};
use crate::head::ResponseHead;
use crate::outlet;
use crate::output::Output;
use crate::parked::{Parked, Parking};
use crate::reply::LocalReply;

/// Bounds of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Body bytes that one direction may hold. Over it: 413, 500 or back-pressure, as the filter asked.
    pub buffer_bytes_max: usize,
    /// So far a filter may raise that for its stream.
    pub buffer_bytes_ceiling: usize,
    /// Body bytes that may wait for the other side to take them, in each direction: how far one peer may run ahead.
    pub output_bytes_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { buffer_bytes_max: 1 << 20, buffer_bytes_ceiling: 32 << 20, output_bytes_max: 64 << 10 }
    }
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// Both directions flow.
    Open,
    /// A local reply is the response: the request goes nowhere any more.
    Replied,
    /// The stream is to be reset; nothing more comes out of it.
    Reset,
    /// The filters have been told that it is over.
    Ended,
}

pub(crate) struct Slot<F> {
    pub(crate) filter: F,
    request: Lane,
    response: Lane,
    /// The filter has seen the request headers; without them it gets no response callbacks.
    pub(crate) started: bool,
    pub(crate) bypassed: bool,
}

impl<F> Slot<F> {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }
}

/// Whether a filter looks at the body of a direction.
pub(crate) fn looks_at_body(filter: &impl Filter, direction: Direction) -> bool {
    let interest = filter.interest();
    match direction {
        Direction::Request => interest.request_body,
        Direction::Response => interest.response_body,
    }
}

/// One stream through its filters.
pub struct Stream<F: Filter> {
    /// `None` only while a filter has it.
    data: Option<Box<StreamData>>,
    pub(crate) slots: SmallVec<[Slot<F>; 2]>,
    pub(crate) request: Output,
    pub(crate) response: Output,
    /// The upstream's response headers have entered the chain.
    response_started: bool,
    /// Filters, from the endpoint's side on, that have seen the response's head.
    response_reached: usize,
    /// A filter has ended the response with a piece of its own.
    response_over: bool,
    /// A local reply goes out past the filters: whatever they still hold of the response is void.
    is_direct: bool,
    pub(crate) state: StreamState,
    limits: StreamLimits,
    /// The response code details of a reset.
    reset_details: &'static str,
}

impl<F: Filter> Stream<F> {
    /// A stream at its first event. Filters stand in the order of the request.
    pub fn new(data: Box<StreamData>, filters: impl IntoIterator<Item = F>, limits: StreamLimits) -> Self {
        let slot = |filter| Slot {
            filter,
            request: Lane::default(),
            response: Lane::default(),
            started: false,
            bypassed: false,
        };
        Self {
            data: Some(data),
            slots: filters.into_iter().map(slot).collect(),
            request: Output::default(),
            response: Output::default(),
            response_started: false,
            response_reached: 0,
            response_over: false,
            is_direct: false,
            state: StreamState::Open,
            limits,
            reset_details: "",
        }
    }

    /// The stream's data.
    pub fn data(&self) -> &StreamData {
        match &self.data {
            Some(data) => data,
            // Filters run inside methods of this type, which put the data back before they return.
            None => unreachable!("the data is only away while a filter is called"),
        }
    }

    /// The stream's data, to change.
    pub fn data_mut(&mut self) -> &mut StreamData {
        match &mut self.data {
            Some(data) => data,
            None => unreachable!("the data is only away while a filter is called"),
        }
    }

    /// Where the stream stands.
    pub fn state(&self) -> StreamState {
        self.state
    }

    /// Why the stream is to be reset.
    pub fn reset_details(&self) -> &'static str {
        self.reset_details
    }

    /// The request head is complete ([`StreamData::request`]).
    pub fn request_headers(&mut self, end: bool) {
        self.request.original_length = outlet::length(&self.data().request.headers);
        self.feed_headers(Direction::Request, 0, end);
        self.check_invariants();
    }

    /// A piece of the request body.
    pub fn request_data(&mut self, bytes: Bytes, end: bool) {
        self.data_mut().info.bytes_received += bytes.len() as u64;
        if self.state == StreamState::Open {
            self.feed_data(Direction::Request, 0, bytes, end);
        }
        self.check_invariants();
    }

    /// The request ends with trailers.
    pub fn request_trailers(&mut self, trailers: HeaderMap) {
        if self.state == StreamState::Open {
            self.data_mut().request_trailers = Some(trailers);
            self.feed_trailers(Direction::Request, 0);
        }
        self.check_invariants();
    }

    /// The upstream's response head is complete.
    pub fn response_headers(&mut self, head: ResponseHead, end: bool) {
        if self.state == StreamState::Open {
            self.response.original_length = outlet::length(&head.headers);
            self.data_mut().response = Some(head);
            self.response_started = true;
            self.feed_headers(Direction::Response, 0, end);
        }
        self.check_invariants();
    }

    /// A piece of the upstream's response body.
    pub fn response_data(&mut self, bytes: Bytes, end: bool) {
        if self.state == StreamState::Open && !self.response_over {
            self.feed_data(Direction::Response, 0, bytes, end);
        }
        self.check_invariants();
    }

    /// The upstream's response ends with trailers.
    pub fn response_trailers(&mut self, trailers: HeaderMap) {
        if self.state == StreamState::Open && !self.response_over {
            self.data_mut().response_trailers = Some(trailers);
            self.feed_trailers(Direction::Response, 0);
        }
        self.check_invariants();
    }

    /// The proxy answers by itself (no route, upstream failed, limit hit). Filters see the answer on its way out if
    /// the upstream's response has not started.
    pub fn local_reply(&mut self, reply: LocalReply) {
        self.reply(reply);
        self.check_invariants();
    }

    /// Gives the stream up.
    pub fn reset(&mut self, details: &'static str) {
        if matches!(self.state, StreamState::Open | StreamState::Replied) {
            self.state = StreamState::Reset;
            self.reset_details = details;
            self.data_mut().info.response_code_details = details.into();
            self.request.clear();
            self.response.clear();
        }
    }

    /// Whether request body or trailers wait to be taken.
    pub fn has_request_output(&self) -> bool {
        self.request.has_data() || self.request.trailers
    }

    /// Whether the response body is complete, waits, and is one piece.
    pub fn has_whole_response_body(&self) -> bool {
        self.response.is_single()
    }

    /// Body bytes that one direction may hold.
    fn buffer_limit(&self, direction: Direction) -> usize {
        let asked = self.data.as_ref().and_then(|data| match direction {
            Direction::Request => data.request_buffer_bytes_max,
            Direction::Response => data.response_buffer_bytes_max,
        });
        asked.map_or(self.limits.buffer_bytes_max, |n| n.min(self.limits.buffer_bytes_ceiling))
    }

    /// Whether more of the request body should be read now.
    pub fn wants_request(&self) -> bool {
        let limit = self.buffer_limit(Direction::Request);
        self.state == StreamState::Open
            && self.request.queued_bytes < self.limits.output_bytes_max
            && !self.slots.iter().any(|s| s.request.is_over(limit))
    }

    /// Whether more of the response body should be read now.
    pub fn wants_response(&self) -> bool {
        let limit = self.buffer_limit(Direction::Response);
        self.state == StreamState::Open
            && self.response.queued_bytes < self.limits.output_bytes_max
            && !self.slots.iter().any(|s| s.response.is_over(limit))
    }

    /// Tells every filter that the stream is over. Runs once; later calls do nothing.
    pub fn end(&mut self) {
        if self.state == StreamState::Ended {
            return;
        }
        self.state = StreamState::Ended;
        for slot in &mut self.slots {
            if let Some(data) = self.data.take() {
                self.data = Some(slot.filter.end(data));
            }
        }
    }

    /// The filter at a step of a direction: responses run backwards.
    fn index(&self, direction: Direction, step: usize) -> usize {
        match direction {
            Direction::Request => step,
            Direction::Response => self.slots.len().saturating_sub(step + 1),
        }
    }

    /// Whether a direction still moves: a local reply ends the request, a reset ends both.
    pub(crate) fn is_live(&self, direction: Direction) -> bool {
        match self.state {
            StreamState::Open => true,
            StreamState::Replied => direction == Direction::Response && !self.is_direct,
            StreamState::Reset | StreamState::Ended => false,
        }
    }

    fn feed_headers(&mut self, direction: Direction, from: usize, end: bool) {
        // What filters inject follows the head.
        let mut injected: SmallVec<[(usize, Then); 1]> = SmallVec::new();
        self.pass_headers(direction, from, end, &mut injected);
        for (index, then) in injected {
            self.run(index, SmallVec::from_iter([then]));
        }
    }

    fn pass_headers(
        &mut self,
        direction: Direction,
        from: usize,
        end: bool,
        injected: &mut SmallVec<[(usize, Then); 1]>,
    ) {
        for step in from..self.slots.len() {
            if direction == Direction::Response {
                self.response_reached = self.response_reached.max(step + 1);
            }
            let index = self.index(direction, step);
            let (Some(slot), Some(data)) = (self.slots.get_mut(index), self.data.take()) else { return };
            let called = match direction {
                Direction::Request => !slot.bypassed,
                Direction::Response => {
                    !slot.bypassed && slot.started && slot.filter.interest().response_headers
                }
            };
            if !called {
                self.data = Some(data);
                continue;
            }
            let (data, verdict) = match direction {
                Direction::Request => {
                    slot.started = true;
                    slot.filter.request_headers(data, end)
                }
                Direction::Response => slot.filter.response_headers(data, end),
            };
            self.data = Some(data);
            let mode = match verdict.action {
                HeadersAction::Continue => Mode::Flowing,
                HeadersAction::StopIteration => Mode::StopSingle,
                HeadersAction::StopAllAndBuffer => Mode::StopAll { buffer: true },
                HeadersAction::StopAllAndWatermark => Mode::StopAll { buffer: false },
            };
            let held = mode != Mode::Flowing;
            let lane = slot.lane(direction);
            (lane.mode, lane.headers_held, lane.headers_end) = (mode, held, held && end);
            let (later, now): (SmallVec<[Then; 1]>, SmallVec<[Then; 1]>) =
                verdict.then.into_iter().partition(|then| !held && matches!(then, Then::Inject(_)));
            injected.extend(later.into_iter().map(|then| (index, then)));
            self.run(index, now);
            if held || !self.is_live(direction) {
                return;
            }
        }
        self.output(direction).headers = Some(end);
        self.refuse_without_status();
    }

    /// A response whose status a filter has taken away cannot be sent: the proxy answers in its place, past the filters.
    pub(crate) fn refuse_without_status(&mut self) {
        let is_missing = self.data().response.as_ref().is_some_and(|r| r.status.is_none());
        if is_missing && self.response.headers.is_some() {
            self.reply(LocalReply::new(
                StatusCode::BAD_GATEWAY,
                "UPE",
                "filter_removed_required_response_headers{missing_required_header}",
                "missing required header: :status",
            ));
        }
    }

    fn feed_data(&mut self, direction: Direction, from: usize, bytes: Bytes, end: bool) {
        // A filter may end the direction with trailers instead: they follow what it lets go of the body.
        if let Some(step) = self.pass_data(direction, from, bytes, end)
            && self.is_live(direction)
        {
            self.feed_trailers(direction, step + 1);
        }
    }

    /// Passes a piece of body on from a step; gives the step that has added trailers, if they may go on from there.
    fn pass_data(&mut self, direction: Direction, from: usize, bytes: Bytes, end: bool) -> Option<usize> {
        let (mut bytes, mut end) = (bytes, end);
        let mut trailers_from = None;
        for step in from..self.slots.len() {
            let index = self.index(direction, step);
            let limit = self.buffer_limit(direction);
            let slot = self.slots.get_mut(index)?;
            if slot.bypassed || !slot.started {
                continue;
            }
            let looks = looks_at_body(&slot.filter, direction);
            let lane = slot.lane(direction);
            if let Mode::StopAll { buffer } = lane.mode {
                lane.buffer.append(bytes);
                lane.end_held |= end;
                let over = buffer && lane.buffer.len() > limit;
                if over {
                    self.body_too_large(direction);
                }
                return trailers_from;
            }
            if !looks && lane.mode == Mode::Flowing {
                continue;
            }
            if lane.accumulating {
                lane.buffer.append(std::mem::take(&mut bytes));
                if lane.buffer.len() > limit {
                    // Before the callback: a plug-in never works on a body that is refused anyway.
                    self.body_too_large(direction);
                    return None;
                }
                bytes = lane.buffer.take();
            }
            let verdict = if looks {
                self.call_data(index, direction, &mut bytes, end)?
            } else {
                Verdict::new(DataAction::Continue)
            };
            if end && self.data().trailers(direction).is_some() {
                end = false;
                if verdict.action == DataAction::Continue {
                    trailers_from = Some(step);
                } else {
                    let lane = self.slots.get_mut(index)?.lane(direction);
                    lane.trailers_held = true;
                }
            }
            match self.apply_data(index, step, direction, verdict, bytes, end) {
                Some(released) => bytes = released,
                None => return trailers_from,
            }
        }
        self.output(direction).push(bytes, end);
        trailers_from
    }

    /// Calls a filter with a body view, which it may change.
    fn call_data(
        &mut self,
        index: usize,
        direction: Direction,
        bytes: &mut Bytes,
        end: bool,
    ) -> Option<Verdict<DataAction>> {
        let (slot, mut data) = (self.slots.get_mut(index)?, self.data.take()?);
        let before = (bytes.as_ptr(), bytes.len());
        data.show_body(direction, std::mem::take(bytes), end);
        let (mut data, verdict) = slot.filter.data(direction, data, end);
        *bytes = data.hide_body(direction).unwrap_or_default();
        self.data = Some(data);
        self.output(direction).edited |= before != (bytes.as_ptr(), bytes.len());
        Some(verdict)
    }

    /// Carries out a body verdict; gives the bytes that go on to the next filter, if any do.
    fn apply_data(
        &mut self,
        index: usize,
        step: usize,
        direction: Direction,
        verdict: Verdict<DataAction>,
        bytes: Bytes,
        end: bool,
    ) -> Option<Bytes> {
        let limit = self.buffer_limit(direction);
        let lane = self.slots.get_mut(index)?.lane(direction);
        let was_single = lane.mode == Mode::StopSingle;
        let mut released = None;
        match verdict.action {
            DataAction::Continue => {
                lane.mode = Mode::Flowing;
                lane.accumulating = false;
                lane.buffer.append(bytes);
                released = Some((lane.buffer.take(), std::mem::take(&mut lane.headers_held)));
            }
            DataAction::StopAndBuffer => {
                lane.buffer.append(bytes);
                (lane.mode, lane.accumulating, lane.end_held) = (Mode::StopSingle, true, end);
            }
            DataAction::StopAndWatermark => {
                lane.buffer.append(bytes);
                (lane.mode, lane.accumulating, lane.end_held) = (Mode::StopSingle, false, end);
            }
            DataAction::StopNoBuffer => {
                // What had been accumulated stays; a chunk of its own is the filter's now.
                if lane.accumulating {
                    lane.buffer.set(bytes);
                }
                (lane.mode, lane.end_held) = (Mode::StopSingle, end);
            }
        }
        let over = lane.accumulating && lane.buffer.len() > limit;
        self.run(index, verdict.then);
        if !self.is_live(direction) {
            return None;
        }
        if over {
            self.body_too_large(direction);
            return None;
        }
        let (bytes, headers_held) = released?;
        if was_single && headers_held {
            self.feed_headers(direction, step + 1, false);
        }
        self.is_live(direction).then_some(bytes)
    }

    fn feed_trailers(&mut self, direction: Direction, from: usize) {
        for step in from..self.slots.len() {
            let index = self.index(direction, step);
            let Some(slot) = self.slots.get_mut(index) else { return };
            if slot.bypassed || !slot.started {
                continue;
            }
            let interest = slot.filter.interest();
            let looks = match direction {
                Direction::Request => interest.request_trailers,
                Direction::Response => interest.response_trailers,
            };
            let lane = slot.lane(direction);
            match lane.mode {
                Mode::StopAll { .. } => {
                    lane.trailers_held = true;
                    return;
                }
                Mode::Flowing if !looks => continue,
                Mode::Flowing | Mode::StopSingle => {}
            }
            let verdict = if looks {
                let Some(data) = self.data.take() else { return };
                let (data, verdict) = slot.filter.trailers(direction, data);
                self.data = Some(data);
                verdict
            } else {
                Verdict::new(TrailersAction::Continue)
            };
            let lane = slot.lane(direction);
            let held = verdict.action == TrailersAction::StopIteration;
            if held {
                lane.trailers_held = true;
                lane.mode = Mode::StopSingle;
                self.run(index, verdict.then);
                return;
            }
            let (bytes, headers_held) = (lane.buffer.take(), std::mem::take(&mut lane.headers_held));
            (lane.mode, lane.accumulating) = (Mode::Flowing, false);
            self.run(index, verdict.then);
            if headers_held && self.is_live(direction) {
                self.feed_headers(direction, step + 1, false);
            }
            if !bytes.is_empty() && self.is_live(direction) {
                self.feed_data(direction, step + 1, bytes, false);
            }
            if !self.is_live(direction) {
                return;
            }
        }
        self.output(direction).trailers = true;
    }

    /// Goes on with what a filter holds in a direction.
    fn resume(&mut self, index: usize, direction: Direction) {
        let step = self.index(direction, index);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let bypassed = slot.bypassed;
        let lane = slot.lane(direction);
        // After StopAll the filter still gets to see the body; after its own body callbacks it does not again.
        let sees_rest = match lane.mode {
            Mode::Flowing => return,
            Mode::StopAll { .. } => !bypassed,
            Mode::StopSingle => false,
        };
        lane.mode = Mode::Flowing;
        lane.accumulating = false;
        let next = if sees_rest { step } else { step + 1 };
        let (headers_held, headers_end) = (std::mem::take(&mut lane.headers_held), lane.headers_end);
        let (bytes, ended) = (lane.buffer.take(), std::mem::take(&mut lane.end_held));
        let trailers = std::mem::take(&mut lane.trailers_held);
        if headers_held {
            self.feed_headers(direction, step + 1, headers_end);
        }
        if (!bytes.is_empty() || ended) && self.is_live(direction) {
            self.feed_data(direction, next, bytes, ended && !trailers);
        }
        if trailers && self.is_live(direction) {
            self.feed_trailers(direction, next);
        }
    }

    fn run(&mut self, index: usize, then: SmallVec<[Then; 1]>) {
        for action in then {
            match action {
                Then::Continue(direction) if self.is_live(direction) => self.resume(index, direction),
                Then::Continue(_) => {}
                Then::LocalReply(reply) => self.reply(*reply),
                Then::Reset { details } => self.reset(details),
                Then::Inject(piece) => self.inject(index, piece.0, piece.1),
                Then::Bypass => self.bypass(index),
                // Of TCP connections.
                Then::ContinueConnection(_) | Then::CloseConnection => {}
            }
        }
    }

    /// Sends a piece of response body of a filter's own to the filters before it and to the client
    /// (spec: proxy-wasm-host §13). The head goes first; with `end` what the endpoint still says is dropped.
    fn inject(&mut self, index: usize, bytes: Bytes, end: bool) {
        let step = self.index(Direction::Response, index);
        // A filter that has not seen the head yet has nothing that a piece could follow.
        let has_head = self.response_started && step < self.response_reached;
        if !self.is_live(Direction::Response) || !has_head || self.response_over {
            return;
        }
        let Some(slot) = self.slots.get_mut(index) else { return };
        let headers_held = std::mem::take(&mut slot.response.headers_held);
        if end {
            // What this filter holds, and those before it on the way of the response, is void: the piece ends it.
            for before in 0..=step {
                let index = self.index(Direction::Response, before);
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.response = Lane::default();
                }
            }
        }
        self.output(Direction::Response).edited = true;
        if headers_held {
            self.feed_headers(Direction::Response, step + 1, false);
        }
        if self.is_live(Direction::Response) {
            self.feed_data(Direction::Response, step + 1, bytes, end);
        }
        self.response_over |= end;
    }

    fn bypass(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.bypassed = true;
        }
        for direction in [Direction::Request, Direction::Response] {
            if self.is_live(direction) {
                self.resume(index, direction);
            }
        }
    }

    fn body_too_large(&mut self, direction: Direction) {
        let reply = match direction {
            Direction::Request => LocalReply::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "",
                "request_payload_too_large",
                "Payload Too Large",
            ),
            Direction::Response => LocalReply::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "",
                "response_payload_too_large",
                "Internal Server Error",
            ),
        };
        self.reply(reply);
    }

    fn reply(&mut self, reply: LocalReply) {
        match self.state {
            StreamState::Open => {}
            // A filter that cannot go on with an answer that is on its way, or gives another one: whatever it holds
            // would be held for ever (spec: proxy-wasm-host §12.2), so its own answer goes out, past the filters.
            StreamState::Replied if !self.is_direct => {}
            // The first reply wins.
            StreamState::Replied | StreamState::Reset | StreamState::Ended => return,
        }
        if self.response.headers_taken {
            // Too late to answer: the client has the upstream's head.
            let details = if reply.details == "response_payload_too_large" {
                "response_payload_too_large"
            } else {
                "local_reply_after_response_headers"
            };
            return self.reset(details);
        }
        self.state = StreamState::Replied;
        self.request.clear();
        self.response.clear();
        let data = self.data_mut();
        data.info.response_code_details.clone_from(&reply.details);
        data.info.response_flags = reply.flags;
        let (head, body) = reply.into_response(&data.request);
        data.response = Some(head);
        let end = body.is_empty();
        if self.response_started {
            // In the response phase an answer goes out directly (spec: proxy-wasm-host §8).
            self.is_direct = true;
            self.response.headers = Some(end);
            if !end {
                self.response.push(body, true);
            }
            return;
        }
        self.response_started = true;
        self.feed_headers(Direction::Response, 0, end);
        if !end && self.is_live(Direction::Response) {
            self.feed_data(Direction::Response, 0, body, true);
        }
    }

    pub(crate) fn out(&self, direction: Direction) -> &Output {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }

    pub(crate) fn output(&mut self, direction: Direction) -> &mut Output {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }

    /// What must hold after every step, whatever filters and peers do.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        debug_assert!(self.data.is_some(), "I1: the data has come back");
        for slot in &self.slots {
            for lane in [&slot.request, &slot.response] {
                let flowing = lane.mode == Mode::Flowing;
                let holds = lane.headers_held || lane.trailers_held || lane.buffer.len() > 0;
                debug_assert!(!(flowing && holds), "I2: a flowing direction holds nothing: {lane:?}");
                debug_assert!(
                    !(slot.bypassed && !flowing && self.state == StreamState::Open),
                    "I3: a bypassed filter holds nothing"
                );
            }
        }
        if self.state == StreamState::Replied {
            debug_assert!(
                self.request.headers.is_none() && !self.request.has_data(),
                "I4: after a local reply the request goes nowhere"
            );
        }
        if self.state == StreamState::Reset {
            debug_assert!(
                self.response.headers.is_none() && !self.response.has_data(),
                "I5: nothing comes out of a reset stream"
            );
        }
        for out in [&self.request, &self.response] {
            debug_assert!(
                !(out.trailers && out.ended),
                "I6: a direction ends with data or with trailers, not both"
            );
        }
    }
}

impl<F: Filter> Parking for Stream<F> {
    fn park(&mut self) -> Option<Parked> {
        if matches!(self.state, StreamState::Reset | StreamState::Ended) {
            return None;
        }
        let mut parked = Parked::new(self.data.take()?);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            for direction in [Direction::Request, Direction::Response] {
                let lane = slot.lane(direction);
                if lane.accumulating && lane.is_held() {
                    parked.add_body(index, direction, lane.buffer.take());
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
                slot.lane(body.direction).buffer.set(body.bytes);
                self.output(body.direction).edited |= body.edited;
            }
        }
    }

    fn run_outside(&mut self, filter: usize, then: SmallVec<[Then; 1]>) {
        if matches!(self.state, StreamState::Open | StreamState::Replied) {
            self.run(filter, then);
        }
        self.check_invariants();
    }

    fn run_if_held(&mut self, filter: usize, then: SmallVec<[Then; 1]>) {
        let held = self.slots.get(filter).is_some_and(|slot| {
            !slot.bypassed
                && ((self.is_live(Direction::Request) && slot.request.is_held())
                    || (self.is_live(Direction::Response) && slot.response.is_held()))
        });
        if held {
            self.run_outside(filter, then);
        }
    }
}
