//! TLS 1.3: what a handshake costs, and what a byte does.
//!
//! The same for every proxy: an ECDSA P-256 certificate, X25519, AES-128-GCM with SHA-256, no resumption.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider, kx_group::X25519};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use wasmgate_testkit::tls::{Authority, der};

use crate::bench::Bench;
use crate::case::Proxy;
use crate::interrupt;
use crate::part::Part;
use crate::reading::{Figure, Reading, failure, take};
use crate::stage::Stage;
use crate::transfer::{self, Source};

pub(crate) const HANDSHAKES: &str = "TLS 1.3 handshakes per CPU second";
pub(crate) const BULK: &str = "256 MiB over TLS, MiB per CPU second";

/// How long handshakes are made.
const WINDOW: Duration = Duration::from_secs(3);
/// Handshakes under way at the same time.
const CLIENTS: usize = 16;
/// How long one may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// The large body.
const BULK_BYTES: u64 = 256 << 20;
const BULK_MIB: f64 = 256.0;
const NAME: &str = "bench.example";

/// Measures every proxy that can terminate TLS here.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    let proxies = bench.those_of(&[Proxy::Nginx, Proxy::Envoy, Proxy::Wasmgate]);
    let scene = Scene::new();
    match scene {
        Ok(scene) => take(Part::Tls, proxies, |proxy| scene.measure(bench, proxy)),
        Err(error) => proxies.into_iter().map(|proxy| failure(Part::Tls, proxy, &error)).collect(),
    }
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

struct Scene {
    _source: Source,
    stage: Stage,
    client: Arc<ClientConfig>,
}

impl Scene {
    fn new() -> io::Result<Self> {
        let source = Source::start()?;
        let authority = Authority::new().map_err(failed)?;
        let mut stage = Stage::new(source.address());
        stage.identity = Some(authority.issue(&[NAME]).map_err(failed)?);
        let mut roots = RootCertStore::empty();
        let root = der(&authority.pem()).map_err(failed)?;
        roots.add(CertificateDer::from(root)).map_err(failed)?;
        let provider = CryptoProvider {
            cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![X25519],
            ..default_provider()
        };
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Ok(Self { _source: source, stage, client: Arc::new(client) })
    }

    fn measure(&self, bench: &Bench, proxy: Proxy) -> io::Result<Vec<Figure>> {
        let running = self.stage.start(bench, proxy)?;
        let address = running.listener();
        self.make(address, Duration::from_millis(500))?;
        let made = bench.watch(&running, || self.make(address, WINDOW))?;
        self.fetch(address, BULK_BYTES >> 4)?;
        let bulk = bench.watch(&running, || self.fetch(address, BULK_BYTES))?;
        Ok(vec![
            Figure {
                what: HANDSHAKES,
                unit: "1/s",
                value: f64::from(made.result) / made.cpu.as_secs_f64(),
                share_of_others: Some(made.share_of_others),
            },
            Figure {
                what: BULK,
                unit: "MiB/s",
                value: BULK_MIB / bulk.cpu.as_secs_f64(),
                share_of_others: Some(bulk.share_of_others),
            },
        ])
    }

    /// Makes handshakes for a while and says how many there were.
    fn make(&self, address: SocketAddr, time: Duration) -> io::Result<u32> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let end = Instant::now() + time;
        let connector = TlsConnector::from(Arc::clone(&self.client));
        runtime.block_on(async {
            let client = || tokio::spawn(shake_hands(connector.clone(), address, end));
            let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
            let mut made = 0;
            for client in clients {
                made += client.await.map_err(failed)??;
            }
            Ok(made)
        })
    }

    fn fetch(&self, address: SocketAddr, bytes: u64) -> io::Result<()> {
        let name = ServerName::try_from(NAME).map_err(failed)?;
        let connection = ClientConnection::new(Arc::clone(&self.client), name).map_err(failed)?;
        let mut stream = StreamOwned::new(connection, transfer::connect(address)?);
        transfer::download(&mut stream, bytes, &mut interrupt::check)
    }
}

/// One client: connects, and leaves as soon as the other side has seen the end of the handshake.
async fn shake_hands(connector: TlsConnector, address: SocketAddr, end: Instant) -> io::Result<u32> {
    let mut made = 0;
    while Instant::now() < end {
        interrupt::check()?;
        let once = async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(NAME).map_err(failed)?;
            let mut stream = connector.connect(name, stream).await?;
            stream.shutdown().await?;
            // It closes once it has read everything; how it does so is its own affair.
            let _ = stream.read(&mut [0]).await;
            Ok::<_, io::Error>(())
        };
        tokio::time::timeout(HANDSHAKE_TIME_MAX, once).await.map_err(failed)??;
        made += 1;
    }
    Ok(made)
}
