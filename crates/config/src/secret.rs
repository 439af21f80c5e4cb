//! `Secret`: credentials for registries, certificates with their keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::certificate::{Certificate, ClientAuthorities};
use crate::decode::{Fields, Sink};

/// A secret. Its content never appears in a log, a dump or an error.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// `type`
    pub secret_type: String,
    data: BTreeMap<String, Vec<u8>>,
    /// Of a secret whose type promises one.
    certificate: Option<Arc<Certificate>>,
}

impl Secret {
    /// The type of a pull secret.
    pub const DOCKER_CONFIG_TYPE: &'static str = "kubernetes.io/dockerconfigjson";
    /// Its key.
    pub const DOCKER_CONFIG_KEY: &'static str = ".dockerconfigjson";

    /// The type of a certificate with its key.
    pub const TLS_TYPE: &'static str = "kubernetes.io/tls";
    /// The chain.
    const TLS_CHAIN_KEY: &'static str = "tls.crt";
    /// The private key.
    const TLS_PRIVATE_KEY: &'static str = "tls.key";
    /// Authorities that clients' certificates are checked against.
    const AUTHORITIES_KEY: &'static str = "ca.crt";
    /// What those have revoked.
    const REVOKED_KEY: &'static str = "ca.crl";

    /// The certificate and its key, also of a secret without that type, as Istio allows.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn certificate(&self) -> Result<Arc<Certificate>, String> {
        match &self.certificate {
            Some(certificate) => Ok(Arc::clone(certificate)),
            None => {
                let part = |key: &str| self.get(key).ok_or_else(|| format!("it has no key {key}"));
                Certificate::from_pem(part(Self::TLS_CHAIN_KEY)?, part(Self::TLS_PRIVATE_KEY)?).map(Arc::new)
            }
        }
    }

    /// What clients' certificates are checked against.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn authorities(&self) -> Result<ClientAuthorities, String> {
        let authorities = self.get(Self::AUTHORITIES_KEY);
        let authorities = authorities.ok_or_else(|| format!("it has no key {}", Self::AUTHORITIES_KEY))?;
        ClientAuthorities::from_pem(authorities, self.get(Self::REVOKED_KEY))
    }

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
        let mut secret = Self { secret_type, data, certificate: None };
        if secret.secret_type == Self::TLS_TYPE && sink.is_clean() {
            match secret.certificate() {
                Ok(certificate) => secret.certificate = Some(certificate),
                Err(e) => sink.error(at, "data", &e),
            }
        }
        Some(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().collect();
        f.debug_struct("Secret").field("type", &self.secret_type).field("keys", &keys).finish_non_exhaustive()
    }
}
