//! Mixed load on the real binary, with a reload every second and a plug-in swap every ten: no request may fail, and
//! neither memory nor descriptors may grow.
//!
//! It never becomes part of the gateway's binary, and it opens sockets on loopback only. Start reading at
//! [`soak::Soak::run`], which is the whole run from top to bottom; [`kind::Kind`] is the list of clients.

pub mod change;
pub mod client;
pub mod endpoint;
pub mod kind;
pub mod measure;
pub mod pattern;
pub mod report;
pub mod scene;
pub mod session;
pub mod soak;
pub mod tally;
pub mod work;
