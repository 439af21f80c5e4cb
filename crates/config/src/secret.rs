//! `Secret`: credentials for registries.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::decode::{Fields, Sink};

/// A secret. Its content never appears in a log, a dump or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `type`
    pub secret_type: String,
    data: BTreeMap<String, Vec<u8>>,
}

impl Secret {
    /// The type of a pull secret.
    pub const DOCKER_CONFIG_TYPE: &'static str = "kubernetes.io/dockerconfigjson";
    /// Its key.
    pub const DOCKER_CONFIG_KEY: &'static str = ".dockerconfigjson";

    /// A value.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.data.get(key).map(Vec::as_slice)
    }

    pub(crate) fn decode(root: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let secret_type = root.text("type", sink).map_or_else(|| "Opaque".to_owned(), |t| t.value);
        root.known(&["immutable"]);
        let mut data = BTreeMap::new();
        let at = root.position();
        for (key, text) in root.text_map("data", sink) {
            // Line breaks inside are common in hand-made manifests, and the API server accepts them.
            let compact: String = text.split_ascii_whitespace().collect();
            match STANDARD.decode(&compact) {
                Ok(bytes) => drop(data.insert(key, bytes)),
                Err(_) => sink.error(
                    at,
                    &format!("data[{key}]"),
                    "is not base64; plain text belongs under stringData",
                ),
            }
        }
        for (key, text) in root.text_map("stringData", sink) {
            data.insert(key, text.into_bytes());
        }
        Some(Self { secret_type, data })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().collect();
        f.debug_struct("Secret").field("type", &self.secret_type).field("keys", &keys).finish_non_exhaustive()
    }
}
