//! What a gateway makes of HTTP on the wire.
//!
//! A *case* ([`case::Case`]) is bytes that a client sends, bytes that the endpoint answers, and what must be seen on both
//! sides. HTTP/1 is written as it is; HTTP/2 is written in frames ([`frames`]), so that wrong ones are possible as well.
//! Cases are data, in `cases/`; what other proxies do instead, and why, stands in `agreement.yaml` ([`agreement`]).
//!
//! [`host::Host`] is a proxy in front of [`endpoint::Endpoint`], a raw server that remembers every byte; [`run`] sends one
//! case through it; [`suite`] runs all of them.

pub mod agreement;
pub mod case;
pub mod client;
pub mod endpoint;
pub mod frame_log;
pub mod frames;
pub mod host;
pub mod markdown;
pub mod message;
pub mod notation;
pub mod pattern;
pub mod run;
pub mod suite;
