//! The call-outs of a VM: what is under way, and what the current answer shows (spec: proxy-wasm-host §3.3, §9).

use std::collections::HashMap;

use bytes::Bytes;

use crate::abi::{BufferType, MapType};
use crate::effects::{CallToken, HeaderPairs};

/// The kinds of call-outs. The number is the token's lowest two bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Http = 0,
    Grpc = 1,
    GrpcStream = 2,
    /// Redis (Higress) and DNS.
    Other = 3,
}

/// What a gRPC hostcall finds behind a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcLookup {
    Call,
    /// `true`: this side has said that nothing follows.
    Stream(bool),
    /// Not a gRPC token at all.
    WrongKind,
    Unknown,
}

#[derive(Debug)]
struct Open {
    kind: CallKind,
    half_closed: bool,
}

/// Call-outs that are under way.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The last number of each kind.
    issued: [u32; 4],
    open: HashMap<u32, Open>,
}

impl Calls {
    /// A new token; `None` when too many are under way or the numbers are used up.
    pub(crate) fn open(&mut self, kind: CallKind, max: usize) -> Option<CallToken> {
        if self.open.len() >= max {
            return None;
        }
        let issued = self.issued.get_mut(kind as usize)?;
        *issued = issued.checked_add(4)?;
        let token = *issued | kind as u32;
        self.open.insert(token, Open { kind, half_closed: false });
        Some(CallToken(token))
    }

    /// Whether a call is under way.
    pub(crate) fn is_open(&self, token: CallToken) -> bool {
        self.open.contains_key(&token.0)
    }

    /// Ends a call; false when it had ended before.
    pub(crate) fn close(&mut self, token: CallToken) -> bool {
        self.open.remove(&token.0).is_some()
    }

    /// What a number that a guest gave to a gRPC function means.
    pub(crate) fn grpc(&self, raw: u32) -> GrpcLookup {
        let is_grpc = matches!(raw & 3, 1 | 2);
        match self.open.get(&raw) {
            Some(Open { kind: CallKind::Grpc, .. }) => GrpcLookup::Call,
            Some(Open { kind: CallKind::GrpcStream, half_closed }) => GrpcLookup::Stream(*half_closed),
            _ if is_grpc => GrpcLookup::Unknown,
            _ => GrpcLookup::WrongKind,
        }
    }

    /// This side of a gRPC stream says no more.
    pub(crate) fn half_close(&mut self, token: CallToken) {
        if let Some(open) = self.open.get_mut(&token.0) {
            open.half_closed = true;
        }
    }

    /// Number of calls under way.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

/// What the maps and buffers of call-outs show during one callback.
#[derive(Debug, Default)]
pub(crate) struct CallView {
    pub(crate) http_headers: Option<HeaderPairs>,
    pub(crate) http_trailers: Option<HeaderPairs>,
    pub(crate) http_body: Option<Bytes>,
    pub(crate) initial_metadata: Option<HeaderPairs>,
    pub(crate) trailing_metadata: Option<HeaderPairs>,
    pub(crate) grpc_message: Bytes,
    pub(crate) redis_reply: Bytes,
    pub(crate) call_data: Bytes,
    /// What `proxy_get_status` tells.
    pub(crate) status: u32,
    pub(crate) status_message: Vec<u8>,
}

impl CallView {
    /// Pairs of a map that belongs to a call-out.
    pub(crate) fn map(&self, map: MapType) -> Option<&HeaderPairs> {
        match map {
            MapType::GrpcReceiveInitialMetadata => self.initial_metadata.as_ref(),
            MapType::GrpcReceiveTrailingMetadata => self.trailing_metadata.as_ref(),
            MapType::HttpCallResponseHeaders => self.http_headers.as_ref(),
            MapType::HttpCallResponseTrailers => self.http_trailers.as_ref(),
            _ => None,
        }
    }

    /// A buffer that belongs to a call-out; `None` when it is not there.
    pub(crate) fn buffer(&self, buffer: BufferType) -> Option<&Bytes> {
        match buffer {
            BufferType::HttpCallResponseBody => self.http_body.as_ref(),
            BufferType::GrpcReceiveBuffer => Some(&self.grpc_message),
            BufferType::CallData => Some(&self.call_data),
            BufferType::RedisCallResponse => Some(&self.redis_reply),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_their_kind_and_never_repeat() {
        let mut calls = Calls::default();
        let tokens: Vec<u32> = [CallKind::Http, CallKind::Grpc, CallKind::GrpcStream, CallKind::Other]
            .into_iter()
            .map(|kind| calls.open(kind, 10).unwrap().0)
            .collect();
        assert_eq!(tokens, [4, 5, 6, 7]);
        assert_eq!(calls.grpc(5), GrpcLookup::Call);
        assert_eq!(calls.grpc(6), GrpcLookup::Stream(false));
        assert_eq!((calls.grpc(4), calls.grpc(7)), (GrpcLookup::WrongKind, GrpcLookup::WrongKind));
        assert_eq!((calls.grpc(9), calls.grpc(0)), (GrpcLookup::Unknown, GrpcLookup::WrongKind));
        calls.half_close(CallToken(6));
        assert_eq!(calls.grpc(6), GrpcLookup::Stream(true));
        assert!(calls.close(CallToken(5)) && !calls.close(CallToken(5)));
        assert_eq!(calls.open(CallKind::Http, 3), None, "three are under way");
        assert_eq!(calls.open(CallKind::Http, 4), Some(CallToken(8)));
    }
}
