//! TLS of downstream connections: the name that a client asks for chooses the certificate, or where to pass the
//! connection on.

mod established;
mod socket;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use wasmgate_config::{
    Certificate, CertificateFacts, ClientAuthorities, TlsEntry, TlsListener, TlsTermination,
};
use wasmgate_stream::{PeerCertificate, TlsInfo};

pub(crate) use self::established::Tls;
pub(crate) use self::socket::ClientSocket;
use crate::transport::Transport;

/// A fatal alert `unrecognized_name` (RFC 8446 §6) for a client that has not been answered yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The names of a listener with what rustls needs for each.
#[derive(Debug)]
pub struct ListenerTls {
    names: Arc<TlsListener>,
    /// One for each name; `None` for those that are passed on.
    configs: Vec<Option<Arc<ServerConfig>>>,
}

/// Settings of rustls by what they were made of. They outlive a change of the configuration that does not touch them, and
/// with them the keys of the session tickets that clients hold.
#[derive(Debug, Default)]
pub(crate) struct TlsConfigs(Mutex<Vec<(Arc<TlsTermination>, Weak<ServerConfig>)>>);

impl TlsConfigs {
    /// What the names of a listener need. A name whose settings rustls refuses is left out, and logged.
    pub(crate) fn listener(&self, names: &Arc<TlsListener>) -> ListenerTls {
        let mut known = self.0.lock();
        known.retain(|(_, config)| config.strong_count() > 0);
        let mut served = Vec::new();
        let mut configs = Vec::new();
        for entry in &names.entries {
            let config = match &entry.termination {
                None => None,
                Some(termination) => match find_or_make(&mut known, termination) {
                    Ok(config) => Some(config),
                    Err(e) => {
                        let name = entry.hostname.as_deref().unwrap_or("every name");
                        tracing::error!(target: "config", "TLS for {name} cannot be served: {e}");
                        served.push(TlsEntry { is_refused: true, ..entry.clone() });
                        configs.push(None);
                        continue;
                    }
                },
            };
            served.push(entry.clone());
            configs.push(config);
        }
        ListenerTls { names: Arc::new(TlsListener { entries: served }), configs }
    }
}

fn find_or_make(
    known: &mut Vec<(Arc<TlsTermination>, Weak<ServerConfig>)>,
    termination: &Arc<TlsTermination>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let found = known.iter().find(|(other, _)| Arc::ptr_eq(other, termination) || other == termination);
    if let Some(config) = found.and_then(|(_, config)| config.upgrade()) {
        return Ok(config);
    }
    let config = Arc::new(server_config(termination)?);
    known.push((Arc::clone(termination), Arc::downgrade(&config)));
    Ok(config)
}

fn server_config(termination: &TlsTermination) -> Result<ServerConfig, rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let versions =
        if termination.is_1_3_only { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let builder = match &termination.authorities {
        Some(authorities) => builder.with_client_cert_verifier(Arc::clone(authorities.verifier())),
        None => builder.with_no_client_auth(),
    };
    let certificates = Certificates(termination.certificates.clone());
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    if termination.is_http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    // Tickets, whose keys change by themselves; nothing is kept for each client.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Of several certificates the first that is for the name and that the client can check.
#[derive(Debug)]
struct Certificates(Vec<Arc<Certificate>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let usable = |c: &&Arc<Certificate>| c.key().key.choose_scheme(hello.signature_schemes()).is_some();
        let fitting = self.0.iter().filter(usable);
        let is_for = |c: &&Arc<Certificate>| name.as_ref().is_some_and(|name| c.covers(name));
        let chosen = fitting.clone().find(is_for).or_else(|| fitting.clone().next());
        chosen.or_else(|| self.0.first()).map(|c| Arc::clone(c.key()))
    }
}

/// A connection whose name is known.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) transport: Transport,
    pub(crate) info: Arc<TlsInfo>,
    /// What is behind the name.
    pub(crate) entry: TlsEntry,
    /// What was agreed on, if anything.
    pub(crate) alpn: Option<Alpn>,
}

/// A protocol over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    Http2,
}

impl ListenerTls {
    /// The names.
    pub(crate) fn names(&self) -> &TlsListener {
        &self.names
    }

    /// Speaks with a client until its name is known and TLS, if it ends here, is established.
    ///
    /// # Errors
    /// Whatever keeps the connection from being served; the client has been told, or sees it close.
    pub(crate) async fn accept(&self, stream: TcpStream, time_max: Duration) -> io::Result<Accepted> {
        match tokio::time::timeout(time_max, self.handshake(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake takes too long")),
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<Accepted> {
        let acceptor = LazyConfigAcceptor::new(Acceptor::default(), ClientSocket::recording(stream));
        let mut start = acceptor.await?;
        let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
        let found = self.names.find(name.as_deref());
        let is_served = |i: &usize| self.names.entries.get(*i).is_some_and(|e| !e.is_refused);
        let found = found.filter(is_served);
        let Some((entry, config)) =
            found.and_then(|i| Some((self.names.entries.get(i)?, self.configs.get(i)?)))
        else {
            start.io.write_all(&UNRECOGNIZED_NAME).await?;
            start.io.shutdown().await?;
            let name = name.as_deref().unwrap_or("none");
            return Err(io::Error::other(format!("no listener here is for the name {name:?}")));
        };
        let (entry, server_name) = (entry.clone(), name.map(Into::into));
        let Some(config) = config else {
            let info = Arc::new(TlsInfo { server_name, ..TlsInfo::default() });
            let transport = Transport::Passed(Box::new(start.io.replaying()));
            return Ok(Accepted { transport, info, entry, alpn: None });
        };
        start.io.stop_recording();
        let stream = start.into_stream(Arc::clone(config)).await?;
        let connection = stream.get_ref().1;
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Some(authorities) = entry.termination.as_ref().and_then(|t| t.authorities.as_ref())
        {
            verify_again(authorities, connection.peer_certificates()).map_err(io::Error::other)?;
        }
        let alpn = match connection.alpn_protocol() {
            Some(b"h2") => Some(Alpn::Http2),
            Some(b"http/1.1") => Some(Alpn::Http1),
            _ => None,
        };
        let own = entry.termination.as_ref().and_then(|t| {
            let is_for =
                |c: &&Arc<Certificate>| server_name.as_deref().is_some_and(|name: &str| c.covers(name));
            t.certificates.iter().find(is_for).or_else(|| t.certificates.first())
        });
        let info = Arc::new(TlsInfo {
            server_name,
            version: match connection.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "",
            },
            own: own.map(|own| peer(own.facts(), &[])),
            peer: connection.peer_certificates().and_then(|chain| chain.first()).and_then(of_client),
        });
        Ok(Accepted { transport: Transport::Tls(Box::new(stream)), info, entry, alpn })
    }
}

/// What others may know of a client's certificate, which has been checked.
/// rustls checks no certificate in a session that is resumed, however long ago it was checked.
fn verify_again(
    authorities: &ClientAuthorities,
    chain: Option<&[CertificateDer<'static>]>,
) -> Result<(), rustls::Error> {
    let Some((own, intermediates)) = chain.and_then(<[_]>::split_first) else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    authorities.verifier().verify_client_cert(own, intermediates, UnixTime::now()).map(drop)
}

fn of_client(certificate: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let facts = CertificateFacts::of(certificate).ok()?;
    Some(peer(&facts, certificate))
}

fn peer(facts: &CertificateFacts, der: &[u8]) -> PeerCertificate {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, der);
    let hex = digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
        hex.push(digit(byte >> 4));
        hex.push(digit(byte & 0xf));
        hex
    });
    PeerCertificate {
        subject: facts.subject.clone(),
        dns_names: facts.dns_names.clone(),
        uris: facts.uris.clone(),
        sha256: if der.is_empty() { String::new() } else { hex },
    }
}
