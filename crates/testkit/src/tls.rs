//! Certificates of an authority of one's own, and a client that speaks TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// Its number, for revoking it.
    pub serial: u64,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// rcgen's.
    pub fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for names; the first is the common name.
    ///
    /// # Errors
    /// rcgen's.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, Error> {
        self.issue_until(names, 4000)
    }

    /// The same, valid until the beginning of a year.
    ///
    /// # Errors
    /// rcgen's.
    pub fn issue_until(&self, names: &[&str], year: i32) -> Result<Identity, Error> {
        self.issue_as(names, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    /// The same, valid for a while from now.
    ///
    /// # Errors
    /// rcgen's, the system clock's.
    pub fn issue_for(&self, names: &[&str], validity: Duration) -> Result<Identity, Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        self.issue_as(names, |params| params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + validity)
    }

    fn issue_as(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Identity, Error> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::OrganizationName, "tests");
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        change(&mut params);
        let serial = u64::from(fastrand::u32(1..));
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem(), serial })
    }

    /// A list of what it has revoked, PEM.
    ///
    /// # Errors
    /// rcgen's.
    pub fn revoke(&self, serials: &[u64]) -> Result<String, Error> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.0)?.pem()?)
    }
}

impl Identity {
    /// The Secret `name` in the gateway's namespace, with further keys.
    #[must_use]
    pub fn secret(&self, name: &str, more: &[(&str, &str)]) -> String {
        let mut out = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\ntype: kubernetes.io/tls\ndata:\n"
        );
        let own = [("tls.crt", self.certificate.as_str()), ("tls.key", self.key.as_str())];
        for (key, value) in own.iter().chain(more) {
            let text = base64::engine::general_purpose::STANDARD.encode(value);
            out.push_str(&format!("  {key}: {text}\n"));
        }
        out
    }

    /// Answers every TLS connection on a port of loopback with a text, and closes it. Runs until the process ends.
    ///
    /// # Errors
    /// The system's, rustls'.
    pub fn serve(&self, text: &'static str) -> Result<SocketAddr, Error> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain()?, self.private_key()?)?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(mut connection) = rustls::ServerConnection::new(Arc::clone(&config)) else { return };
                // A client that leaves is its own affair.
                let _ = std::io::Write::write_all(
                    &mut rustls::Stream::new(&mut connection, &mut stream),
                    text.as_bytes(),
                );
                connection.send_close_notify();
                let _ = connection.complete_io(&mut stream);
            }
        });
        Ok(address)
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate)
    }

    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a client knows and wants. Its session tickets last as long as it does.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// What came of a connection.
#[derive(Clone, Debug)]
pub struct TlsAnswer {
    /// All that the other side said.
    pub text: String,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// What was agreed on.
    pub alpn: Option<String>,
    /// Whether a ticket of an earlier connection was taken.
    pub resumed: bool,
}

/// A connection.
#[derive(Debug)]
pub struct TlsConnection {
    runtime: tokio::runtime::Runtime,
    stream: TlsStream<TcpStream>,
}

impl TlsClient {
    /// One that trusts an authority.
    ///
    /// # Errors
    /// rustls'.
    pub fn new(authority: &Authority, identity: Option<&Identity>, alpn: &[&str]) -> Result<Self, Error> {
        Self::with_versions(authority, identity, alpn, rustls::ALL_VERSIONS)
    }

    /// The same with TLS 1.2 only.
    ///
    /// # Errors
    /// rustls'.
    pub fn old(authority: &Authority) -> Result<Self, Error> {
        Self::with_versions(authority, None, &[], &[&rustls::version::TLS12])
    }

    fn with_versions(
        authority: &Authority,
        identity: Option<&Identity>,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone())?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain()?, identity.private_key()?)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(Self { config: Arc::new(config) })
    }

    /// What rustls is told; the tickets are shared with every connection that is made with it.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Opens a connection for a name.
    ///
    /// # Errors
    /// Why TLS could not be established.
    pub fn connect(&self, address: SocketAddr, name: &str) -> Result<TlsConnection, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let name = ServerName::try_from(name.to_owned())?;
        let stream = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            connector.connect(name, stream).await
        })?;
        Ok(TlsConnection { runtime, stream })
    }

    /// A GET over HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// As [`TlsClient::connect`]; what becomes of a connection whose client was refused after the handshake.
    pub fn get(&self, address: SocketAddr, name: &str, headers: &str) -> Result<TlsAnswer, Error> {
        let mut connection = self.connect(address, name)?;
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n{headers}\r\n");
        connection.send(&request)?;
        connection.finish()
    }

    /// A GET over HTTP/2: status and body.
    ///
    /// # Errors
    /// hyper's.
    pub fn http2(&self, address: SocketAddr, name: &str, host: &str) -> Result<(u16, String), Error> {
        let TlsConnection { runtime, stream } = self.connect(address, name)?;
        runtime.block_on(async {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request =
                http::Request::builder().uri(format!("https://{host}/")).body(Full::new(Bytes::new()))?;
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        })
    }
}

impl TlsConnection {
    /// Sends.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, text: &str) -> Result<(), Error> {
        let stream = &mut self.stream;
        Ok(self.runtime.block_on(async {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await
        })?)
    }

    /// Reads until a text has come.
    ///
    /// # Errors
    /// The connection's end before.
    pub fn read_until(&mut self, end: &str) -> Result<String, Error> {
        let stream = &mut self.stream;
        let mut all = Vec::new();
        self.runtime.block_on(async {
            while !all.ends_with(end.as_bytes()) {
                all.push(stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(())
        })?;
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    /// The other side's certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        let tls = self.stream.get_ref().1;
        tls.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec()).unwrap_or_default()
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The connection's.
    pub fn finish(mut self) -> Result<TlsAnswer, Error> {
        let stream = &mut self.stream;
        let mut all = Vec::new();
        self.runtime.block_on(stream.read_to_end(&mut all))?;
        let tls = self.stream.get_ref().1;
        Ok(TlsAnswer {
            text: String::from_utf8_lossy(&all).into_owned(),
            certificate: self.certificate(),
            alpn: tls.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
            resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        })
    }
}

/// The DER of a certificate in PEM.
///
/// # Errors
/// It is none.
pub fn der(pem: &str) -> Result<Vec<u8>, Error> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
}
