//! A conformance kit for Proxy-Wasm hosts.
//!
//! A *case* ([`case::Case`]) is a script for the interpreter plug-in (`plugins/script`), a request, what the endpoint
//! answers, and what must be seen: by the client, by the endpoint, and by the plug-in itself, which logs the status of each
//! hostcall (its *trace*). Cases are data, in `cases/`; where Envoy differs, the case says how and why.
//!
//! [`host::Host`] is a gateway with the plug-in in front of [`endpoint::Endpoint`]; [`run`] sends one case through it.
//! [`in_process::InProcess`] is our host as a library, without sockets.

pub mod campaign;
pub mod case;
pub mod endpoint;
pub mod fuzz;
pub mod host;
pub mod in_process;
pub mod language;
pub mod matrix;
pub mod modules;
pub mod run;
pub mod suite;
