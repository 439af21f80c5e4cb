//! `Secret`: credentials for registries, certificates with their keys.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::certificate::{Certificate, ClientAuthorities, ServerAuthorities};
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
    /// Istio's names of the same in a secret of type Opaque.
    const GENERIC_CHAIN_KEY: &'static str = "cert";
    const GENERIC_PRIVATE_KEY: &'static str = "key";
    const GENERIC_AUTHORITIES_KEY: &'static str = "cacert";

    /// The certificate and its key, also of a secret without that type, as Istio allows.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn certificate(&self) -> Result<Arc<Certificate>, String> {
        match &self.certificate {
            Some(certificate) => Ok(Arc::clone(certificate)),
            None => {
                let part = |key: &str, generic: &str| {
                    self.get(key).or_else(|| self.get(generic)).ok_or_else(|| format!("it has no key {key}"))
                };
                let chain = part(Self::TLS_CHAIN_KEY, Self::GENERIC_CHAIN_KEY)?;
                let key = part(Self::TLS_PRIVATE_KEY, Self::GENERIC_PRIVATE_KEY)?;
                Certificate::from_pem(chain, key).map(Arc::new)
            }
        }
    }

    /// What clients' certificates are checked against.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn authorities(&self) -> Result<ClientAuthorities, String> {
        let authorities = self.get(Self::AUTHORITIES_KEY).or_else(|| self.get(Self::GENERIC_AUTHORITIES_KEY));
        let authorities = authorities.ok_or_else(|| format!("it has no key {}", Self::AUTHORITIES_KEY))?;
        ClientAuthorities::from_pem(authorities, self.get(Self::REVOKED_KEY))
    }

    /// What endpoints' certificates are checked against; `None`: nothing of the kind is in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn server_authorities(&self) -> Result<Option<ServerAuthorities>, String> {
        let authorities = self.get(Self::AUTHORITIES_KEY).or_else(|| self.get(Self::GENERIC_AUTHORITIES_KEY));
        let revoked = self.get(Self::REVOKED_KEY);
        authorities.map(|pem| ServerAuthorities::from_pem(pem, revoked)).transpose()
    }

    /// Whether it has a certificate with its key.
    pub fn has_certificate(&self) -> bool {
        self.get(Self::TLS_CHAIN_KEY).or_else(|| self.get(Self::GENERIC_CHAIN_KEY)).is_some()
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
