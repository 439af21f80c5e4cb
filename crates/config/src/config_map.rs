//! `ConfigMap`: authorities that certificates are checked against.

use std::collections::BTreeMap;

use crate::certificate::ClientAuthorities;
use crate::decode::{Fields, Sink};

/// A map of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    data: BTreeMap<String, String>,
}

impl ConfigMap {
    pub(crate) fn decode(root: &mut Fields<'_>, sink: &mut Sink<'_>) -> Self {
        root.known(&["immutable", "binaryData"]);
        Self { data: root.text_map("data", sink) }
    }

    /// What clients' certificates are checked against.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn authorities(&self) -> Result<ClientAuthorities, String> {
        let authorities = self.data.get("ca.crt").ok_or("it has no key ca.crt")?;
        ClientAuthorities::from_pem(authorities.as_bytes(), self.data.get("ca.crl").map(String::as_bytes))
    }
}
