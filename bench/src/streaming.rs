//! A gigabyte through a plug-in that reads each piece: what it does to memory.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use wasmgate_testkit::peers::process::rss_mib;

use crate::bench::Bench;
use crate::case::Plugin;
use crate::proxy::{Running, Wasmgate};

/// What is sent.
const BODY_BYTES: u64 = 1 << 30;
const PIECE_BYTES: usize = 64 << 10;
/// How much memory may grow.
const GROWTH_MIB_MAX: f64 = 64.0;

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Streaming {
    pub(crate) gib_per_second: f64,
    pub(crate) rss_idle_mib: f64,
    /// The most that was seen.
    pub(crate) rss_mib: f64,
}

impl Streaming {
    /// Whether memory stayed within its bar.
    pub(crate) fn passes(&self) -> bool {
        self.rss_mib - self.rss_idle_mib <= GROWTH_MIB_MAX
    }
}

/// Answers one request with [`BODY_BYTES`] of nothing.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut request = [0; 4096];
    let _ = stream.read(&mut request)?;
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n")?;
    let piece = [0; PIECE_BYTES];
    for _ in 0..BODY_BYTES / PIECE_BYTES as u64 {
        stream.write_all(&piece)?;
    }
    Ok(())
}

/// Streams it.
///
/// # Errors
/// A gateway that does not start, or a body that does not come.
pub(crate) fn measure(bench: &Bench, calls: &Path) -> io::Result<Streaming> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut options = bench.wasmgate_options(Plugin::None, bench.dir().join("cache"))?;
    options.backend_port = listener.local_addr()?.port();
    options.plugin = Some(std::path::absolute(calls)?);
    let wasmgate = Running::Wasmgate(Wasmgate::start(&options)?);
    let pids = wasmgate.pids();
    let rss_idle_mib = rss_mib(&pids)?;
    let backend = std::thread::spawn(move || serve(&listener));
    let started = Instant::now();
    let mut client = TcpStream::connect(wasmgate.listener())?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: bench\r\nConnection: close\r\n\r\n")?;
    let (mut bytes, mut received, mut peak, mut next) = (vec![0; PIECE_BYTES], 0_u64, rss_idle_mib, 0_u64);
    loop {
        let read = client.read(&mut bytes)? as u64;
        if read == 0 {
            break;
        }
        received += read;
        if received >= next {
            peak = peak.max(rss_mib(&pids)?);
            next = received + (BODY_BYTES >> 7);
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    match backend.join() {
        Ok(result) => result?,
        Err(_) => return Err(io::Error::other("the backend died")),
    }
    if received < BODY_BYTES {
        return Err(io::Error::other(format!("{received} of {BODY_BYTES} bytes came")));
    }
    Ok(Streaming { gib_per_second: 1.0 / seconds, rss_idle_mib, rss_mib: peak })
}
