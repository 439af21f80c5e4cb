//! The numbers of the ABI: versions, statuses, enumerations (spec: proxy-wasm-host §1.1, §3).

use std::fmt;

/// A version of the Proxy-Wasm ABI, announced by a marker export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbiVersion {
    /// `proxy_abi_version_0_1_0`: old C++, Rust (0.1.x) and AssemblyScript modules.
    V0_1_0,
    /// `proxy_abi_version_0_2_0`: the Go SDKs and older Rust modules.
    V0_2_0,
    /// `proxy_abi_version_0_2_1`: the Rust SDK 0.2.x and the C++ SDK.
    V0_2_1,
    /// `proxy_abi_version_0_2_100`: the SDK forks of Higress.
    V0_2_100,
}

impl AbiVersion {
    /// The prefix that all marker exports share.
    pub(crate) const MARKER_PREFIX: &'static str = "proxy_abi_version_";

    pub(crate) fn from_marker(export: &str) -> Option<Self> {
        match export {
            "proxy_abi_version_0_1_0" => Some(Self::V0_1_0),
            "proxy_abi_version_0_2_0" => Some(Self::V0_2_0),
            "proxy_abi_version_0_2_1" => Some(Self::V0_2_1),
            "proxy_abi_version_0_2_100" => Some(Self::V0_2_100),
            _ => None,
        }
    }

    /// Whether `Pause` from a headers callback holds back the headers only, so that body callbacks keep coming
    /// (spec: proxy-wasm-host §7.2). Older versions stop everything.
    pub fn pauses_headers_only(self) -> bool {
        self == Self::V0_2_100
    }
}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_2_1 => "0.2.1",
            Self::V0_2_100 => "0.2.100",
        })
    }
}

/// What a hostcall answers to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The header, property, buffer or function does not exist.
    NotFound = 1,
    /// A parameter is out of range or the map is not available.
    BadArgument = 2,
    /// A value cannot be encoded.
    SerializationFailure = 3,
    /// The service of a gRPC call-out cannot be understood or found.
    ParseFailure = 4,
    /// A pointer or length lies outside the guest's memory, or its allocator failed.
    InvalidMemoryAccess = 6,
    /// The queue has no item.
    Empty = 7,
    /// The value has been changed since it was read.
    CasMismatch = 8,
    /// The host could not do it, or does not support it.
    InternalFailure = 10,
}

macro_rules! guest_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)+ }

        impl $name {
            /// The value of a number that a guest passed; `None` when the ABI does not know it.
            pub fn from_guest(raw: u32) -> Option<Self> {
                match raw { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

guest_enum! {
    /// The header maps that a guest can name.
    MapType {
        /// Request headers, pseudo headers included.
        RequestHeaders = 0,
        /// Request trailers.
        RequestTrailers = 1,
        /// Response headers, `:status` included.
        ResponseHeaders = 2,
        /// Response trailers.
        ResponseTrailers = 3,
        /// Initial metadata of a gRPC call-out.
        GrpcReceiveInitialMetadata = 4,
        /// Trailing metadata of a gRPC call-out.
        GrpcReceiveTrailingMetadata = 5,
        /// Response headers of an HTTP call-out.
        HttpCallResponseHeaders = 6,
        /// Response trailers of an HTTP call-out.
        HttpCallResponseTrailers = 7,
    }
}

guest_enum! {
    /// The buffers that a guest can name.
    BufferType {
        /// Request body.
        RequestBody = 0,
        /// Response body.
        ResponseBody = 1,
        /// Bytes from the downstream TCP connection.
        DownstreamData = 2,
        /// Bytes from the upstream TCP connection.
        UpstreamData = 3,
        /// Response body of an HTTP call-out.
        HttpCallResponseBody = 4,
        /// A message of a gRPC call-out.
        GrpcReceiveBuffer = 5,
        /// The VM configuration.
        VmConfiguration = 6,
        /// The plug-in configuration.
        PluginConfiguration = 7,
        /// Arguments of a foreign function.
        CallData = 8,
        /// The reply of a Redis call-out (Higress).
        RedisCallResponse = 9,
    }
}

guest_enum! {
    /// Log levels, in the guest's numbering.
    LogLevel {
        /// Everything.
        Trace = 0,
        /// For developers of the plug-in.
        Debug = 1,
        /// Normal events.
        Info = 2,
        /// Something to look at.
        Warn = 3,
        /// Something failed.
        Error = 4,
        /// The plug-in cannot go on.
        Critical = 5,
    }
}

impl LogLevel {
    /// The level's name in Envoy's log format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

guest_enum! {
    /// What a guest continues or closes.
    StreamType {
        /// The request direction of an HTTP stream.
        HttpRequest = 0,
        /// The response direction of an HTTP stream.
        HttpResponse = 1,
        /// The downstream TCP connection.
        Downstream = 2,
        /// The upstream TCP connection.
        Upstream = 3,
    }
}

guest_enum! {
    /// Kinds of metrics that a plug-in can define.
    MetricType {
        /// Only grows.
        Counter = 0,
        /// Any value.
        Gauge = 1,
        /// A distribution of samples.
        Histogram = 2,
    }
}

/// Who closed a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PeerType {
    /// Nobody can tell.
    Unknown = 0,
    /// The proxy.
    Local = 1,
    /// The other side.
    Remote = 2,
}

/// What a TCP callback asks for (spec: proxy-wasm-host §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkAction {
    /// Pass the bytes on.
    Continue,
    /// Hold them; the next callback sees them again.
    StopIteration,
}

impl NetworkAction {
    pub(crate) fn from_guest(raw: u32) -> Self {
        if raw == 0 { Self::Continue } else { Self::StopIteration }
    }
}

/// What a headers callback asks for (spec: proxy-wasm-host §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersAction {
    /// Pass the headers on.
    Continue,
    /// Hold the headers; body and trailers callbacks keep coming.
    StopIteration,
    /// Hold everything; a body over the limit is an error.
    StopAllAndBuffer,
    /// Hold everything; a body over the limit is back-pressure.
    StopAllAndWatermark,
}

impl HeadersAction {
    /// `Pause` means "stop everything" unless the plug-in asked for the finer meaning: plug-ins that wait for an
    /// authorisation would otherwise be overtaken by their own body callback.
    pub(crate) fn from_guest(raw: u32, pauses_headers_only: bool) -> Self {
        match raw {
            0 | 2 => Self::Continue,
            1 if pauses_headers_only => Self::StopIteration,
            3 => Self::StopAllAndBuffer,
            _ => Self::StopAllAndWatermark,
        }
    }
}

/// What a body callback asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAction {
    /// Pass the data on.
    Continue,
    /// Hold the data; the next callback sees all of it.
    StopAndBuffer,
    /// Hold the data under back-pressure; the next callback sees only what is new.
    StopAndWatermark,
    /// Drop this chunk: the plug-in has taken what it wants.
    StopNoBuffer,
}

impl DataAction {
    pub(crate) fn from_guest(raw: u32) -> Self {
        match raw {
            0 => Self::Continue,
            1 => Self::StopAndBuffer,
            2 => Self::StopAndWatermark,
            _ => Self::StopNoBuffer,
        }
    }
}

/// What a trailers callback asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailersAction {
    /// Pass the trailers on.
    Continue,
    /// Hold the trailers and what was held before them.
    StopIteration,
}

impl TrailersAction {
    pub(crate) fn from_guest(raw: u32) -> Self {
        if raw == 0 { Self::Continue } else { Self::StopIteration }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_in_headers_stops_everything_unless_the_plug_in_asked_for_less() {
        assert_eq!(HeadersAction::from_guest(1, false), HeadersAction::StopAllAndWatermark);
        assert_eq!(HeadersAction::from_guest(1, true), HeadersAction::StopIteration);
        assert_eq!(HeadersAction::from_guest(2, false), HeadersAction::Continue);
        assert_eq!(HeadersAction::from_guest(99, true), HeadersAction::StopAllAndWatermark);
    }

    #[test]
    fn unknown_numbers_are_no_enum_values() {
        assert_eq!(MapType::from_guest(8), None);
        assert_eq!(LogLevel::from_guest(6), None);
        assert_eq!(BufferType::from_guest(7), Some(BufferType::PluginConfiguration));
    }
}
