//! A stream as the host sees it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use wasmgate_host::{
    BufferType, EditOutcome, FilterStateOutcome, HeaderEdit, MapType, PropertyValue, StreamContext,
};
use wasmgate_stream::{Direction, EditError, RequestHead, ResponseHead, StreamData};

use crate::property;

/// The stream's data, moved into a VM for one callback.
#[derive(Debug)]
pub struct WasmStream(pub(crate) Box<StreamData>);

impl StreamContext for WasmStream {
    fn has_map(&self, map: MapType) -> bool {
        match map {
            _ if self.0.is_tcp => false,
            MapType::RequestHeaders => true,
            MapType::RequestTrailers => self.0.request_trailers.is_some(),
            MapType::ResponseHeaders => self.0.response.is_some(),
            MapType::ResponseTrailers => self.0.response_trailers.is_some(),
            _ => false,
        }
    }

    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let data = &self.0;
        let mut copy = |value: &[u8]| out.extend_from_slice(value);
        let trailer = |map: &Option<HeaderMap>| {
            let name = std::str::from_utf8(name).ok()?;
            map.as_ref()?.get(name).map(|v| v.as_bytes().to_vec())
        };
        match map {
            _ if data.is_tcp => None,
            MapType::RequestHeaders => data.request.get(name).map(copy),
            MapType::ResponseHeaders => data.response.as_ref().and_then(|r| r.with(name, copy)),
            MapType::RequestTrailers => trailer(&data.request_trailers).map(|v| copy(&v)),
            MapType::ResponseTrailers => trailer(&data.response_trailers).map(|v| copy(&v)),
            _ => None,
        }
        .is_some()
    }

    fn for_each_header(&self, map: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        let data = &self.0;
        let mut trailers = |map: &Option<HeaderMap>| {
            for (name, value) in map.iter().flatten() {
                each(name.as_str().as_bytes(), value.as_bytes());
            }
        };
        match map {
            _ if data.is_tcp => {}
            MapType::RequestHeaders => data.request.for_each(each),
            MapType::ResponseHeaders => {
                if let Some(response) = &data.response {
                    response.for_each(each);
                }
            }
            MapType::RequestTrailers => trailers(&data.request_trailers),
            MapType::ResponseTrailers => trailers(&data.response_trailers),
            _ => {}
        }
    }

    fn edit_headers(&mut self, map: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        let data = &mut *self.0;
        match map {
            _ if data.is_tcp => EditOutcome::Unavailable,
            MapType::RequestHeaders if data.request_sent => EditOutcome::TooLate,
            MapType::RequestHeaders => edit_block(&mut data.request, edit),
            MapType::ResponseHeaders if data.response_sent => EditOutcome::TooLate,
            MapType::ResponseHeaders => edit_if_there(data.response.as_mut(), edit),
            MapType::RequestTrailers => edit_if_there(data.trailers_mut(Direction::Request), edit),
            MapType::ResponseTrailers => edit_if_there(data.trailers_mut(Direction::Response), edit),
            _ => EditOutcome::Unavailable,
        }
    }

    fn body(&self, buffer: BufferType) -> Option<Bytes> {
        self.0.body(self.direction(buffer)?).cloned()
    }

    fn set_body(&mut self, buffer: BufferType, body: Bytes) -> bool {
        self.direction(buffer).is_some_and(|d| self.0.set_body(d, body))
    }

    fn property(&self, path: &[&[u8]]) -> Option<PropertyValue> {
        property::find(&self.0, path)
    }

    fn set_property(&mut self, path: &[u8], value: &[u8]) -> bool {
        // Higress' orders to the proxy (spec: proxy-wasm-host §14.6).
        let limit = || match std::str::from_utf8(value).ok()?.parse().ok() {
            // As in Envoy: no limit of the plug-in's own.
            Some(0) => Some(usize::MAX),
            limit => limit,
        };
        match path {
            b"clear_route_cache" => self.0.route_pinned = value == b"off",
            b"set_decoder_buffer_limit" => self.0.request_buffer_bytes_max = limit(),
            b"set_encoder_buffer_limit" => self.0.response_buffer_bytes_max = limit(),
            _ => {}
        }
        self.0.properties.set(path, value)
    }

    /// Of Envoy's objects those that mean something here (spec: proxy-wasm-host §13).
    fn set_filter_state(&mut self, key: &[u8], value: &[u8]) -> FilterStateOutcome {
        if key != b"envoy.tcp_proxy.cluster" || !self.0.is_tcp {
            return FilterStateOutcome::UnknownKey;
        }
        match std::str::from_utf8(value) {
            Ok(name) if !name.is_empty() => {
                self.0.cluster_override = Some(name.into());
                FilterStateOutcome::Done
            }
            _ => FilterStateOutcome::BadValue,
        }
    }

    fn clear_route_cache(&mut self) {
        self.0.route_stale = !self.0.route_pinned;
    }

    fn takes_replies(&self) -> bool {
        !self.0.is_tcp
    }

    fn set_upstream_override(&mut self, address: &[u8]) -> bool {
        let address = std::str::from_utf8(address).ok().and_then(|a| a.parse().ok());
        if address.is_none() || self.0.request_sent {
            return false;
        }
        self.0.upstream_override = address;
        true
    }
}

impl WasmStream {
    fn direction(&self, buffer: BufferType) -> Option<Direction> {
        match (buffer, self.0.is_tcp) {
            (BufferType::RequestBody, false) | (BufferType::DownstreamData, true) => Some(Direction::Request),
            (BufferType::ResponseBody, false) | (BufferType::UpstreamData, true) => Some(Direction::Response),
            _ => None,
        }
    }
}

/// A plug-in does not frame messages: these would contradict what the codec writes (spec: proxy-wasm-host §4.4).
fn is_framing(name: &[u8]) -> bool {
    matches!(name, b"transfer-encoding" | b"connection" | b"keep-alive" | b"proxy-connection" | b"upgrade")
}

/// The four edits of a header block.
trait Block {
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError>;
    fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError>;
    fn remove(&mut self, name: &[u8]);
    fn clear(&mut self);
}

macro_rules! block {
    ($head:ty) => {
        impl Block for $head {
            fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
                <$head>::add(self, name, value)
            }
            fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
                <$head>::replace(self, name, value)
            }
            fn remove(&mut self, name: &[u8]) {
                <$head>::remove(self, name);
            }
            fn clear(&mut self) {
                <$head>::clear(self);
            }
        }
    };
}

block!(RequestHead);
block!(ResponseHead);

impl Block for HeaderMap {
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        let (name, value) = pair(name, value)?;
        self.try_append(name, value).map(drop).map_err(|_| EditError::Full)
    }

    fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        let (name, value) = pair(name, value)?;
        self.try_insert(name, value).map(drop).map_err(|_| EditError::Full)
    }

    fn remove(&mut self, name: &[u8]) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            HeaderMap::remove(self, name);
        }
    }

    fn clear(&mut self) {
        HeaderMap::clear(self);
    }
}

fn pair(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), EditError> {
    let name = HeaderName::from_bytes(name).map_err(|_| EditError::Invalid)?;
    Ok((name, HeaderValue::from_bytes(value).map_err(|_| EditError::Invalid)?))
}

fn edit_if_there(block: Option<&mut impl Block>, edit: HeaderEdit<'_>) -> EditOutcome {
    block.map_or(EditOutcome::Unavailable, |b| edit_block(b, edit))
}

fn edit_block(block: &mut impl Block, edit: HeaderEdit<'_>) -> EditOutcome {
    let outcome = |result: Result<(), EditError>| match result {
        Ok(()) => EditOutcome::Done,
        Err(EditError::Invalid | EditError::Full) => EditOutcome::Unsafe,
    };
    match edit {
        HeaderEdit::Add(name, _) | HeaderEdit::Replace(name, _) if is_framing(name) => EditOutcome::Unsafe,
        HeaderEdit::Add(name, value) => outcome(block.add(name, value)),
        HeaderEdit::Replace(name, value) => outcome(block.replace(name, value)),
        HeaderEdit::Remove(name) => {
            block.remove(name);
            EditOutcome::Done
        }
        HeaderEdit::SetAll(pairs) => {
            block.clear();
            for (name, value) in pairs.iter().filter(|(n, _)| !is_framing(n)) {
                // One that HTTP cannot carry is left out; the others count.
                let _ = block.add(name, value);
            }
            EditOutcome::Done
        }
    }
}
