//! Certificates, private keys and what clients are checked against: read from PEM, and checked before anything uses them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

/// Certificates of one chain or bundle.
const CERTIFICATES_MAX: usize = 1000;

/// A certificate chain with the private key of its first certificate.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    facts: CertificateFacts,
}

/// What people want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// As RFC 2253 writes it: the last part first.
    pub subject: String,
    /// The same for who signed it.
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
    /// DNS names that it is for, in lower case; may begin with `*.`.
    pub dns_names: Vec<String>,
    /// URIs that it is for.
    pub uris: Vec<String>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ends to be valid.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads a chain, the leaf first, and its key.
    ///
    /// # Errors
    /// What is wrong with which of the two, for the person who made them. No part of the key is in it.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates(chain).map_err(|e| format!("tls.crt {e}"))?;
        let leaf = chain.first().ok_or("tls.crt holds no certificate")?;
        let facts = CertificateFacts::of(leaf).map_err(|e| format!("tls.crt {e}"))?;
        if memchr::memmem::find(key, b"ENCRYPTED").is_some() {
            return Err("tls.key is encrypted with a passphrase, which nobody could enter here".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(
            |_| "tls.key holds no private key: it must be PEM and begin with -----BEGIN PRIVATE KEY-----",
        )?;
        let provider = aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("tls.key is not the key of the first certificate of tls.crt, {}", facts.subject)
            }
            other => format!("tls.key cannot be used: {other}"),
        })?;
        Ok(Self { key: Arc::new(key), facts })
    }

    /// For rustls.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// What people want to know of it.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Whether it is for a name, which is in lower case.
    pub fn covers(&self, name: &str) -> bool {
        self.facts.covers(name)
    }
}

/// Whether a name of a certificate covers a host (RFC 6125 §6.4.3: `*` stands for one label).
fn covers(own: &str, name: &str) -> bool {
    match own.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => own == name,
    }
}

impl PartialEq for Certificate {
    /// The key goes with the certificate: one cannot change without the other.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.key, &other.key) || self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl CertificateFacts {
    /// Whether the certificate is for a name, which is in lower case.
    pub fn covers(&self, name: &str) -> bool {
        self.dns_names.iter().any(|own| covers(own, name))
    }

    /// Reads them from a certificate.
    ///
    /// # Errors
    /// It is no X.509 certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|e| format!("holds something that is no X.509 certificate: {e}"))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|n| &n.value.general_names);
        let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            subject: distinguished_name(parsed.subject()),
            issuer: distinguished_name(parsed.issuer()),
            serial: parsed.raw_serial_as_string().replace(':', ""),
            dns_names,
            uris,
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
        })
    }
}

/// As RFC 2253 writes it.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let attributes = part.iter().map(|attribute| {
                let kind = attribute.attr_type();
                let kind =
                    oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
                format!("{kind}={}", escaped(attribute.as_str().unwrap_or_default()))
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// A value of a distinguished name: what would end it, and what no line can carry, is escaped.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        if character.is_control() {
            out.push_str(&format!("\\{:02X}", character as u32));
            continue;
        }
        if matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '#') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// Who may present a certificate to a listener.
#[derive(Clone)]
pub struct ClientAuthorities {
    verifier: Arc<dyn ClientCertVerifier>,
    /// What the verifier was made of.
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl ClientAuthorities {
    /// Reads authorities, and lists of what they have revoked.
    ///
    /// # Errors
    /// What is wrong with which of the two.
    pub fn from_pem(authorities: &[u8], revoked: Option<&[u8]>) -> Result<Self, String> {
        let (roots, ServerAuthorities { authorities, revoked }) = bundle(authorities, revoked)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(revoked.iter().cloned())
            // A list that is out of date is no list.
            .enforce_revocation_expiration()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|e| format!("ca.crl cannot be used: {e}"))?;
        Ok(Self { verifier, authorities, revoked })
    }

    /// For rustls.
    pub fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.verifier
    }
}

impl PartialEq for ClientAuthorities {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities && self.revoked == other.revoked
    }
}

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthorities")
            .field("authorities", &self.authorities.len())
            .field("revocation_lists", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

/// Who must have signed an endpoint's certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerAuthorities {
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl ServerAuthorities {
    /// Reads authorities, and lists of what they have revoked.
    ///
    /// # Errors
    /// What is wrong with which of the two.
    pub fn from_pem(authorities: &[u8], revoked: Option<&[u8]>) -> Result<Self, String> {
        bundle(authorities, revoked).map(|(_, read)| read)
    }

    /// The authorities.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Lists of what they have revoked.
    pub fn revoked(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.revoked
    }
}

impl fmt::Debug for ServerAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAuthorities")
            .field("authorities", &self.authorities.len())
            .field("revocation_lists", &self.revoked.len())
            .finish()
    }
}

/// Authorities that can be some, and what they have revoked.
fn bundle(authorities: &[u8], revoked: Option<&[u8]>) -> Result<(RootCertStore, ServerAuthorities), String> {
    let mut roots = RootCertStore::empty();
    let authorities = certificates(authorities).map_err(|e| format!("ca.crt {e}"))?;
    for certificate in &authorities {
        roots
            .add(certificate.clone())
            .map_err(|e| format!("ca.crt holds a certificate that cannot be an authority: {e}"))?;
    }
    let revoked = match revoked {
        Some(pem) => CertificateRevocationListDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("ca.crl is no PEM: {e}"))?,
        None => Vec::new(),
    };
    Ok((roots, ServerAuthorities { authorities, revoked }))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut out = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        out.push(certificate.map_err(|e| format!("is no PEM: {e}"))?);
        if out.len() > CERTIFICATES_MAX {
            return Err(format!("holds more than {CERTIFICATES_MAX} certificates"));
        }
    }
    if out.is_empty() {
        return Err(
            "holds no certificate: it must be PEM and begin with -----BEGIN CERTIFICATE-----".to_owned()
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    fn made(name: &str) -> (String, String) {
        let Made { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_and_its_names_are_known() {
        let (chain, key) = made("*.Example.com");
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(certificate.facts().dns_names, ["*.example.com"]);
        assert!(certificate.facts().not_after > SystemTime::now());
        for (name, covered) in [("a.example.com", true), ("example.com", false), ("a.b.example.com", false)] {
            assert_eq!(certificate.covers(name), covered, "{name}");
        }
        let again = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(certificate, again);
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_wrong_is_said_without_showing_the_key() {
        let ((chain, key), (_, other)) = (made("a.test"), made("b.test"));
        let refused = |chain: &str, key: &str| {
            Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string()
        };
        assert!(refused("", &key).contains("tls.crt holds no certificate"));
        assert!(refused("nonsense", &key).contains("tls.crt holds no certificate"));
        assert!(refused(&chain, "").contains("tls.key holds no private key"));
        assert!(refused(&chain, &other).contains("tls.key is not the key of the first certificate"));
        assert!(refused(&chain, "-----BEGIN ENCRYPTED PRIVATE KEY-----").contains("passphrase"));
        let broken = chain.replacen('M', "!", 1);
        assert!(refused(&broken, &key).contains("tls.crt"), "{}", refused(&broken, &key));
        assert!(ClientAuthorities::from_pem(b"", None).unwrap_err().contains("ca.crt holds no certificate"));
    }
}
