//! The proxies that Wasmgate is compared with, each as a value that is running while it lives.
//!
//! [`envoy::Envoy`] is configured as an Istio ingress gateway configures it, [`nginx::Nginx`] and
//! [`haproxy::Haproxy`] as plain reverse proxies; [`nginx::Nginx`] also serves as the cheapest backend there is.
//! Everything is blocking and built on `std`, so that a benchmark can use it without a runtime of its own on the
//! machine that it measures.

pub mod envoy;
pub mod envoy_config;
pub mod envoy_install;
pub mod haproxy;
pub mod nginx;
pub mod ports;
pub mod probe;
pub mod process;
