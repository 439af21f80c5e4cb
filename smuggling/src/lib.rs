//! Requests that try to be two: a corpus that is run through the real binary in front of four back ends. No back end may
//! ever see a request which the client's framing did not contain.
//!
//! It never becomes part of the gateway's binary, and it opens sockets on loopback only. Start reading at
//! [`run::run`]; the cases are data, in `corpus/`, and [`payload`] says what their fields mean.

pub mod backend;
pub mod client;
pub mod http2;
pub mod judge;
pub mod payload;
pub mod peer;
pub mod reader;
pub mod recorder;
pub mod run;
