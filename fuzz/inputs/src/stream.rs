//! A stream for guests that may do anything with it.

use std::collections::HashMap;

use bytes::Bytes;
use wasmgate_host::{BufferType, EditOutcome, HeaderEdit, MapType, PropertyValue, StreamContext};

/// A header map, a body and properties; every kind of map and buffer shows the same.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Bytes,
    properties: HashMap<Vec<u8>, Vec<u8>>,
}

impl Stream {
    pub(crate) fn new() -> Box<Self> {
        let headers = [(":path", "/a?b=c"), (":method", "GET"), ("x-a", "1"), ("x-a", "2")];
        Box::new(Self {
            headers: headers.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect(),
            body: Bytes::from_static(b"a body"),
            properties: HashMap::new(),
        })
    }
}

impl StreamContext for Box<Stream> {
    fn has_map(&self, _: MapType) -> bool {
        true
    }

    fn header(&self, _: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.inspect(|(_, value)| out.extend_from_slice(value)).is_some()
    }

    fn for_each_header(&self, _: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.headers.iter().for_each(|(name, value)| each(name, value));
    }

    fn edit_headers(&mut self, _: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        let own = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let safe = |text: &[u8]| !text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
        match edit {
            HeaderEdit::Add(name, value) | HeaderEdit::Replace(name, value) => {
                assert!(safe(name) && safe(value), "{name:?}: {value:?} would end the header");
                self.headers.push(own(name, value));
            }
            HeaderEdit::Remove(name) => self.headers.retain(|(n, _)| n != name),
            HeaderEdit::SetAll(pairs) => {
                assert!(pairs.iter().all(|(name, value)| safe(name) && safe(value)), "{pairs:?}");
                self.headers = pairs.iter().map(|(name, value)| own(name, value)).collect();
            }
        }
        EditOutcome::Done
    }

    fn body(&self, _: BufferType) -> Option<Bytes> {
        Some(self.body.clone())
    }

    fn set_body(&mut self, _: BufferType, body: Bytes) -> bool {
        self.body = body;
        true
    }

    fn property(&self, path: &[&[u8]]) -> Option<PropertyValue> {
        match path {
            [b"request", b"path"] => Some(PropertyValue::text("/a?b=c")),
            [b"request", b"headers"] => {
                let pair = |(n, v): &(Vec<u8>, Vec<u8>)| (n.clone(), PropertyValue::Bytes(v.clone()));
                Some(PropertyValue::Map(self.headers.iter().map(pair).collect()))
            }
            [only] => self.properties.get(*only).cloned().map(PropertyValue::Bytes),
            _ => None,
        }
    }

    fn set_property(&mut self, path: &[u8], value: &[u8]) -> bool {
        self.properties.insert(path.to_vec(), value.to_vec());
        true
    }
}
