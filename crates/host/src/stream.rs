//! What a plug-in sees of one HTTP stream.

use bytes::Bytes;

use crate::abi::{BufferType, MapType};
use crate::actions::Actions;
use crate::property::PropertyValue;

/// A context of a VM: its root, or one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId(pub(crate) u32);

/// The streams of a VM that are not in a callback, for plug-ins that act on one stream from a call-out, a timer, a queue
/// or another stream (`proxy_set_effective_context`).
pub trait Streams<S>: Send {
    /// Lends a stream for the rest of the current callback. `None` when it is over.
    fn lend(&mut self, context: ContextId) -> Option<S>;

    /// Takes a stream back, with what the guest asked for it. The actions must not enter a guest before the current
    /// callback's own outcome has been applied.
    fn give_back(&mut self, context: ContextId, stream: S, actions: Actions);
}

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
/// Moving must be cheap: use a pointer (a `Box` in a newtype). Only the headers are required: a stream without bodies,
/// attributes or routes leaves the rest as it is.
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
    fn body(&self, _buffer: BufferType) -> Option<Bytes> {
        None
    }

    /// Replaces a body buffer. False when there is none to replace.
    fn set_body(&mut self, _buffer: BufferType, _body: Bytes) -> bool {
        false
    }

    /// An attribute; the first segment is the root name (spec: proxy-wasm-host §14). `None`: not found.
    fn property(&self, _path: &[&[u8]]) -> Option<PropertyValue> {
        None
    }

    /// Stores a value under a raw path. False when the stream takes no more of them.
    fn set_property(&mut self, _path: &[u8], _value: &[u8]) -> bool {
        false
    }

    /// The route is looked up again before the request goes on.
    fn clear_route_cache(&mut self) {}

    /// Sets an object of the proxy itself, under the name that it has in Envoy (foreign function
    /// `set_envoy_filter_state`). The default knows none.
    fn set_filter_state(&mut self, _key: &[u8], _value: &[u8]) -> FilterStateOutcome {
        FilterStateOutcome::UnknownKey
    }

    /// Whether there is a request that a local reply could answer; a TCP connection has none.
    fn takes_replies(&self) -> bool {
        true
    }

    /// Sends the request to this endpoint (`address:port`) and to no other (Higress). False when it is too late or the
    /// address makes no sense.
    fn set_upstream_override(&mut self, _address: &[u8]) -> bool {
        false
    }
}

/// What became of an object that a plug-in sets for the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterStateOutcome {
    /// It has effect.
    Done,
    /// The proxy has no such object.
    UnknownKey,
    /// The object does not take this value.
    BadValue,
}

/// An endpoint as Higress' plug-ins see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHost {
    /// `address:port`.
    pub address: String,
    /// Whether requests are sent to it.
    pub healthy: bool,
}
