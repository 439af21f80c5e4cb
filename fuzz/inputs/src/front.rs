//! A gateway in the process, between the bytes of an input and a back end that reads as strictly as one can.

mod backend;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use wasmgate_config::{GatewayIdentity, ManifestFile, Store, compile};
use wasmgate_proxy::{Gateway, Generation, GenerationListener, InheritedSockets, Settings};
use wasmgate_testkit::manifests;

use self::backend::Backend;

/// An answer takes a millisecond; what takes longer than this does not come.
const QUIET: Duration = Duration::from_millis(15);
/// Until a connection whose client has said everything is at its end.
const END_TIME_MAX: Duration = Duration::from_millis(500);
/// For a request that nothing is wrong with, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway, its back end and where it listens.
pub(crate) struct Front {
    address: SocketAddr,
    backend: Backend,
    /// The input that is run, of which there is one at a time: its number.
    sentinel: Mutex<u64>,
    /// What a thread has said when it panicked.
    panics: Arc<Mutex<Vec<String>>>,
    _gateway: Gateway,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    /// The one of this process.
    pub(crate) fn get() -> &'static Self {
        static FRONT: OnceLock<Front> = OnceLock::new();
        FRONT.get_or_init(Self::start)
    }

    fn start() -> Self {
        let backend = Backend::start();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = socket.local_addr().expect("its address");
        socket.set_nonblocking(true).expect("a socket for an event queue");
        let settings = Settings {
            delayed_close_max: Duration::from_millis(20),
            // An upstream that waits for a body that never comes.
            stream_idle_max: Duration::from_secs(2),
            ..Settings::default()
        };
        let panics = Arc::new(Mutex::new(Vec::new()));
        let (said, before) = (Arc::clone(&panics), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            // A task that panics does not end its worker: nobody else would notice.
            if std::thread::current().name().is_some_and(|n| n.starts_with("worker-")) {
                lock(&said).push(info.to_string());
            }
            before(info);
        }));
        let inherited = InheritedSockets::from([(address, vec![socket])]);
        let gateway = Gateway::start(1, settings, None, inherited).expect("a gateway");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let errors = runtime.block_on(gateway.publish(Arc::new(generation(address, backend.address()))));
        assert!(errors.is_empty(), "{errors:?}");
        Self { address, backend, sentinel: Mutex::new(0), panics, _gateway: gateway, _runtime: runtime }
    }

    /// Writes the bytes to a connection and reads what comes back. `waits`: for answers, before it says that nothing
    /// follows; otherwise that is said at once. Afterwards the gateway has to be what it was. How many requests the back
    /// end has got of it.
    pub(crate) fn run(&self, bytes: &[u8], waits: bool) -> u64 {
        let mut sentinel = lock(&self.sentinel);
        *sentinel += 1;
        let before = self.backend.requests();
        self.exchange(bytes, waits);
        self.ask_for_sentinel(*sentinel);
        let panics = std::mem::take(&mut *lock(&self.panics));
        assert!(panics.is_empty(), "{panics:?} after {}", bytes.escape_ascii());
        let findings = self.backend.take_findings();
        assert!(
            findings.is_empty(),
            "the back end has seen {findings:?}; the input, or the one before it, was {}",
            bytes.escape_ascii()
        );
        self.backend.requests() - before - 1
    }

    fn exchange(&self, bytes: &[u8], waits: bool) {
        let mut answers = Vec::new();
        let mut client = self.connect();
        // A gateway that has had enough may close before everything is written.
        if client.write_all(bytes).is_ok() && waits {
            read(&mut client, QUIET, Instant::now() + END_TIME_MAX, &mut answers);
        }
        if client.shutdown(Shutdown::Write).is_ok() {
            read(&mut client, END_TIME_MAX, Instant::now() + END_TIME_MAX, &mut answers);
        }
    }

    /// A request without a fault, on a connection of its own: it gets the answer that is for it.
    fn ask_for_sentinel(&self, number: u64) {
        let target = format!("/sentinel-{number}");
        let mut client = self.connect();
        let request = format!("GET {target} HTTP/1.1\r\nhost: sentinel\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("a worker that reads");
        let mut answer = Vec::new();
        read(&mut client, PATIENCE, Instant::now() + PATIENCE, &mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let is_its_own =
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{target}"));
        assert!(is_its_own, "{target} is answered with {answer:?}");
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("a listener");
        client.set_write_timeout(Some(PATIENCE)).expect("a limit");
        client
    }
}

/// Reads until the end, until nothing has come for `quiet`, or until the deadline.
fn read(client: &mut TcpStream, quiet: Duration, deadline: Instant, out: &mut Vec<u8>) {
    let mut chunk = [0; 16 << 10];
    while Instant::now() < deadline && client.set_read_timeout(Some(quiet)).is_ok() {
        match client.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => out.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One listener, and a route from it to the back end.
fn generation(address: SocketAddr, backend: SocketAddr) -> Generation {
    let texts = [manifests::gateway(address.port()), manifests::route(), manifests::service_entry(backend)];
    let file = |(i, text): (usize, &String)| ManifestFile {
        name: format!("{i}.yaml").into(),
        text: text.as_str().into(),
    };
    let files: Vec<_> = texts.iter().enumerate().map(file).collect();
    let mut store = Store::default();
    let mut diagnostics = store.replace(&files);
    let identity = GatewayIdentity {
        namespace: "istio-system".into(),
        root_namespace: "istio-system".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        locality: String::new(),
    };
    let (snapshot, more) = compile(&store.resources(), &identity);
    diagnostics.extend(more);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let listener = |l: &wasmgate_config::Listener| GenerationListener {
        name: Arc::clone(&l.name),
        address: l.address,
        routes: Arc::clone(&l.routes),
        tcp: None,
        tls: None,
        has_proxy_header: l.has_proxy_header,
        chain: Vec::new(),
        network_chain: Vec::new(),
    };
    let listeners = snapshot.listeners.iter().map(listener).collect();
    Generation { id: 1, listeners, clusters: snapshot.clusters.clone() }
}
