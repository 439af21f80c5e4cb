//! What a plug-in sees of one HTTP stream.

use bytes::Bytes;

use crate::abi::{BufferType, MapType};
use crate::property::PropertyValue;

/// A change to a header map.
#[derive(Clone, Copy, Debug)]
pub enum HeaderEdit<'a> {
    /// Another value for the name; for a pseudo header the same as `Replace`.
    Add(&'a [u8], &'a [u8]),
    /// One value instead of all that the name has.
    Replace(&'a [u8], &'a [u8]),
    /// No value for the name.
    Remove(&'a [u8]),
    /// These pairs instead of the whole map.
    SetAll(&'a [(&'a [u8], &'a [u8])]),
}

/// What became of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditOutcome {
    /// Done.
    Done,
    /// Refused because a name or value could corrupt the message (CR, LF, NUL, no token). The guest is told `Ok`:
    /// a Rust guest would trap otherwise, and user-controlled text would become a way to kill the VM
    /// (spec: proxy-wasm-host §4.4).
    Unsafe,
    /// Without effect: the message has already been passed on. The guest is told `Ok` for the same reason.
    TooLate,
    /// The map does not exist in this phase.
    Unavailable,
}

/// The embedder's view of a stream, moved into the VM for the duration of a callback and handed back after it.
///
/// Moving must be cheap: use a pointer (a `Box` in a newtype).
pub trait StreamContext: Send + 'static {
    /// Whether a map can be read now.
    fn has_map(&self, map: MapType) -> bool;

    /// The first value of a name (given in lower case), copied into `out`. False when there is none.
    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool;

    /// Calls `each` for every pair: pseudo headers first, then in the order of the wire.
    fn for_each_header(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8]));

    /// Changes a map. Names are in lower case.
    fn edit_headers(&mut self, map: MapType, edit: HeaderEdit<'_>) -> EditOutcome;

    /// A body buffer as the current callback sees it; `None` when there is no body now.
    fn body(&self, buffer: BufferType) -> Option<Bytes>;

    /// Replaces a body buffer. False when there is none to replace.
    fn set_body(&mut self, buffer: BufferType, body: Bytes) -> bool;

    /// An attribute; the first segment is the root name (spec: proxy-wasm-host §14). `None`: not found.
    fn property(&self, path: &[&[u8]]) -> Option<PropertyValue>;

    /// Stores a value under a raw path. False when the stream takes no more of them.
    fn set_property(&mut self, path: &[u8], value: &[u8]) -> bool;

    /// The route is looked up again before the request goes on.
    fn clear_route_cache(&mut self);
}
