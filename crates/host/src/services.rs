//! What the host needs of the process around it.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::abi::LogLevel;
use crate::effects::UpstreamState;
use crate::plugin::PluginContext;
use crate::property::PropertyValue;
use crate::stream::UpstreamHost;

/// Who logs: decides the prefix (spec: proxy-wasm-host §15.1).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LogSource<'a> {
    /// The plug-in.
    pub plugin: &'a PluginContext,
    /// Whether a stream context is current. Envoy leaves the name out of root context lines; an embedder need not.
    pub is_stream: bool,
}

/// Clock, log, randomness, and what is known of the proxy. The methods are called on the thread that runs the VM and must not block.
pub trait Services: Send + Sync {
    /// Takes a message. Bytes are the guest's: not UTF-8 by promise, with control characters.
    fn log(&self, source: LogSource<'_>, level: LogLevel, message: &[u8]);

    /// The lowest level that [`Services::log`] does not throw away.
    fn log_level(&self) -> LogLevel;

    /// Wall clock, nanoseconds since the Unix epoch.
    fn unix_nanos(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Monotonic clock, nanoseconds since any fixed point. It must advance: Go's scheduler waits for it.
    fn monotonic_nanos(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = START.get_or_init(Instant::now);
        // Not zero: some runtimes take zero for "no clock".
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether a call-out to a cluster can be made. The default knows no clusters.
    fn upstream(&self, _plugin: &PluginContext, _cluster: &str) -> UpstreamState {
        UpstreamState::Unknown
    }

    /// The endpoints of a cluster, and what is known of each (Higress' `proxy_get_upstream_hosts`).
    fn upstream_hosts(&self, _plugin: &PluginContext, _cluster: &str) -> Vec<UpstreamHost> {
        Vec::new()
    }

    /// An attribute that does not belong to a stream, such as `xds.node` (spec: proxy-wasm-host §14.5).
    fn property(&self, _plugin: &PluginContext, _path: &[&[u8]]) -> Option<PropertyValue> {
        None
    }

    /// Fills a buffer with cryptographically secure random bytes; false when the system has none.
    fn random(&self, buffer: &mut [u8]) -> bool {
        aws_lc_rs::rand::fill(buffer).is_ok()
    }
}

/// Services for tests and examples: real clocks, log lines go nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemServices;

impl Services for SystemServices {
    fn log(&self, _: LogSource<'_>, _: LogLevel, _: &[u8]) {}

    fn log_level(&self) -> LogLevel {
        LogLevel::Info
    }
}
