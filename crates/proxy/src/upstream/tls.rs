//! TLS towards endpoints.

use std::sync::Arc;

use super::connect::Spoken;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use wasmgate_config::{CertificateFacts, Cluster, ClusterTls, ServerAuthorities, TlsOrigination};

/// What a connection to an endpoint needs.
#[derive(Debug)]
pub(crate) enum ClientTls {
    /// Settings, and the name that is asked for.
    Ready(Configs, ServerName<'static>),
    /// It cannot be had; what kept it.
    Unusable(Arc<str>),
}

/// The same settings for whatever is spoken.
#[derive(Debug)]
pub(crate) struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    tcp: Arc<ClientConfig>,
}

impl Configs {
    fn new(config: &ClientConfig) -> Self {
        let offering = |names: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Self { http1: offering(&[b"http/1.1"]), http2: offering(&[b"h2"]), tcp: offering(&[]) }
    }

    pub(super) fn of(&self, protocol: Spoken) -> &Arc<ClientConfig> {
        match protocol {
            Spoken::Http1 => &self.http1,
            Spoken::Http2 => &self.http2,
            Spoken::Tcp => &self.tcp,
        }
    }
}

/// TLS of a cluster, if its connections begin with it. Made on the control side: it reads the system's authorities.
pub(crate) fn client_tls(cluster: &Cluster) -> Option<Arc<ClientTls>> {
    let made = match &cluster.policy.tls {
        TlsOrigination::Off => return None,
        TlsOrigination::Unusable(reason) => ClientTls::Unusable(Arc::clone(reason)),
        TlsOrigination::On(tls) => match config(tls) {
            Ok((config, name)) => ClientTls::Ready(Configs::new(&config), name),
            Err(e) => {
                tracing::error!(target: "config", "TLS to the endpoints of {} cannot be had: {e}", cluster.name);
                ClientTls::Unusable(e.into())
            }
        },
    };
    Some(Arc::new(made))
}

fn config(tls: &ClusterTls) -> Result<(ClientConfig, ServerName<'static>), String> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let name = ServerName::try_from(tls.server_name.clone())
        .map_err(|_| format!("{:?} is no name that a certificate could be for", tls.server_name))?;
    let checking = |checks| Arc::new(Verifier { provider: Arc::clone(&provider), checks });
    let checks: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
        checking(Checks::None)
    } else {
        let inner = verifier(tls.authorities.as_ref(), &provider)?;
        if tls.names.is_empty() { inner } else { checking(Checks::OneOf(inner, tls.names.clone())) }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(checks);
    let config = match &tls.certificate {
        Some(certificate) => builder.with_client_cert_resolver(Arc::new(Own(Arc::clone(certificate.key())))),
        None => builder.with_no_client_auth(),
    };
    Ok((config, name))
}

fn verifier(
    authorities: Option<&ServerAuthorities>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let mut revoked = Vec::new();
    match authorities {
        Some(own) => {
            roots.add_parsable_certificates(own.authorities().iter().cloned());
            revoked = own.revoked().to_vec();
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let errors: Vec<String> = system.errors.iter().map(ToString::to_string).collect();
                let errors =
                    if errors.is_empty() { String::new() } else { format!(": {}", errors.join("; ")) };
                return Err(format!(
                    "this system trusts no authority{errors}; name a Secret with ca.crt in credentialName"
                ));
            }
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .enforce_revocation_expiration()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| e.to_string())
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What an endpoint's certificate must be. That the endpoint has the key of it is always asked for.
#[derive(Debug)]
enum Checks {
    /// One for a name that the rule names, whatever name was asked for.
    OneOf(Arc<WebPkiServerVerifier>, Vec<String>),
    /// Whatever the endpoint shows, as `insecureSkipVerify` wants it.
    None,
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    checks: Checks,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Checks::OneOf(inner, names) = &self.checks else { return Ok(ServerCertVerified::assertion()) };
        // The name is what webpki looks at last: all the rest holds when nothing but the name is wrong.
        match inner.verify_server_cert(own, intermediates, server_name, ocsp_response, now) {
            Ok(_)
            | Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(e) => return Err(e),
        }
        let facts = CertificateFacts::of(own)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let is_for = |name: &String| facts.covers(name) || facts.uris.contains(name);
        if names.iter().any(is_for) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the certificate is for {}, none of which the rule names",
            facts.dns_names.iter().chain(&facts.uris).cloned().collect::<Vec<_>>().join(", ")
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
