//! What the tests and the benchmark share. It never becomes part of the gateway's binary, and it opens sockets on
//! loopback only.
//!
//! Start reading at [`peers`]: the proxies that Wasmgate is compared with, started as a test needs them.

pub mod peers;
