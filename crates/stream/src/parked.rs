//! A stream's data while nothing drives the stream.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::data::StreamData;
use crate::direction::Direction;
use crate::filter::Then;

/// What a filter has accumulated of a body.
#[derive(Debug)]
pub(crate) struct ParkedBody {
    pub(crate) filter: usize,
    pub(crate) direction: Direction,
    pub(crate) bytes: Bytes,
    /// Somebody has changed it.
    pub(crate) edited: bool,
}

/// The data of a stream that waits, for those who act on it from outside of its own callbacks: a call-out's answer, a
/// timer, another stream.
#[derive(Debug)]
pub struct Parked {
    data: Option<Box<StreamData>>,
    bodies: SmallVec<[ParkedBody; 0]>,
}

impl Parked {
    pub(crate) fn new(data: Box<StreamData>) -> Self {
        Self { data: Some(data), bodies: SmallVec::new() }
    }

    pub(crate) fn add_body(&mut self, filter: usize, direction: Direction, bytes: Bytes) {
        self.bodies.push(ParkedBody { filter, direction, bytes, edited: false });
    }

    pub(crate) fn into_parts(self) -> (Option<Box<StreamData>>, SmallVec<[ParkedBody; 0]>) {
        (self.data, self.bodies)
    }

    /// Lends the data out; the bodies that this filter has accumulated show. `None` while it is lent.
    pub fn lend(&mut self, filter: usize) -> Option<Box<StreamData>> {
        let mut data = self.data.take()?;
        for body in self.bodies.iter_mut().filter(|b| b.filter == filter) {
            data.show_body(body.direction, std::mem::take(&mut body.bytes), false);
        }
        Some(data)
    }

    /// Takes the data back that was lent for the same filter.
    pub fn give_back(&mut self, filter: usize, mut data: Box<StreamData>) {
        for body in self.bodies.iter_mut().filter(|b| b.filter == filter) {
            if let Some(bytes) = data.hide_body(body.direction) {
                body.bytes = bytes;
                // Without the bytes from before there is nothing to compare: shown is as good as changed.
                body.edited = true;
            }
        }
        self.data = Some(data);
    }
}

/// What can lay its data down while nothing drives it, so that others reach it.
pub trait Parking {
    /// Gives the data out. `None` when it is over.
    fn park(&mut self) -> Option<Parked>;

    /// Takes back what [`Parking::park`] gave out.
    fn unpark(&mut self, parked: Parked);

    /// Carries out what a filter asked for outside of its own callbacks.
    fn run_outside(&mut self, filter: usize, then: SmallVec<[Then; 1]>);

    /// Carries something out if a filter could hold the stream for ever: its plug-in has failed.
    fn run_if_held(&mut self, filter: usize, then: SmallVec<[Then; 1]>);
}
