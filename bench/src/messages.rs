//! Small messages to and fro: of one gRPC stream, HTTP/2 on both sides, and of one WebSocket.
//!
//! A message is sent when the one before has come back, so that each costs a proxy two reads and two writes, which is
//! mostly the kernel's work. Sixteen at once share them and show more of the proxy's own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wasmgate_testkit::http2::{Http2Client, Http2Endpoint};

use crate::bench::Bench;
use crate::case::Proxy;
use crate::interrupt;
use crate::part::Part;
use crate::reading::{Figure, Reading, Window, take};
use crate::stage::Stage;
use crate::transfer;

pub(crate) const GRPC: &str = "CPU per message there and back, one gRPC stream";
pub(crate) const GRPC_BURST: &str = "CPU per message there and back, one gRPC stream, 16 at once";
pub(crate) const WEBSOCKET: &str = "CPU per message there and back, one WebSocket";

/// How long messages are sent.
const WINDOW: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
/// Messages that are sent at once.
const BURST: u32 = 16;
/// A message of 32 bytes, as gRPC frames it.
const GRPC_MESSAGE: [u8; 37] = {
    let mut message = [b'm'; 37];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 32);
    message
};
/// A text of 32 bytes, masked with zeroes as a client must mask it with something.
const CLIENT_FRAME: [u8; 38] = {
    let mut frame = [b'm'; 38];
    (frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]) = (0x81, 0x80 | 32, 0, 0, 0, 0);
    frame
};
/// The same from the server, which masks nothing.
const SERVER_FRAME: [u8; 34] = {
    let mut frame = [b'm'; 34];
    (frame[0], frame[1]) = (0x81, 32);
    frame
};
/// The key and what must come for it, of RFC 6455 §1.3.
const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: bench.example\r\nuser-agent: bench\r\nconnection: Upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const PROXIES: [Proxy; 2] = [Proxy::Envoy, Proxy::Wasmgate];

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Messages of a gRPC stream.
pub(crate) fn grpc(bench: &Bench) -> Vec<Reading> {
    take(Part::Grpc, bench.those_of(&PROXIES), |proxy| {
        let endpoint = Http2Endpoint::start()?;
        let mut stage = Stage::new(endpoint.address());
        stage.is_upstream_http2 = true;
        let running = stage.start(bench, proxy)?;
        let client = Http2Client::connect(running.listener()).map_err(failed)?;
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let mut exchange = client.begin("POST", "/test.Service/Chat", &headers).map_err(failed)?;
        exchange.send(&GRPC_MESSAGE[..]);
        let (head, mut body) = exchange.head().map_err(failed)?;
        if head.status() != 200 {
            return Err(io::Error::other(format!("status {}", head.status())));
        }
        let mut receive = |bytes: usize| {
            let mut received = 0;
            while received < bytes {
                let piece = body.piece().map_err(failed)?;
                received += piece.ok_or_else(|| failed("the stream ended"))?.len();
            }
            Ok::<_, io::Error>(())
        };
        receive(GRPC_MESSAGE.len())?;
        let mut figures = Vec::new();
        for (what, burst) in [(GRPC, 1), (GRPC_BURST, BURST)] {
            let mut once = || {
                (0..burst).for_each(|_| exchange.send(&GRPC_MESSAGE[..]));
                receive(GRPC_MESSAGE.len() * usize::try_from(burst).unwrap_or(1))
            };
            send_for(WARM_UP, &mut once)?;
            let window = bench.watch(&running, || Ok(send_for(WINDOW, &mut once)? * burst))?;
            figures.push(per_message(what, &window));
        }
        Ok(figures)
    })
}

/// Messages of a WebSocket.
pub(crate) fn websocket(bench: &Bench) -> Vec<Reading> {
    take(Part::Websocket, bench.those_of(&PROXIES), |proxy| {
        let running = Stage::new(echo()?).start(bench, proxy)?;
        let mut stream = transfer::connect(running.listener())?;
        stream.write_all(UPGRADE.as_bytes())?;
        let (head, _) = transfer::read_head(&mut stream)?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(io::Error::other(format!("no WebSocket: {head:?}")));
        }
        let mut once = || {
            stream.write_all(&CLIENT_FRAME)?;
            let mut frame = [0; SERVER_FRAME.len()];
            stream.read_exact(&mut frame)?;
            if frame == SERVER_FRAME { Ok(()) } else { Err(failed("another message came back")) }
        };
        send_for(WARM_UP, &mut once)?;
        let window = bench.watch(&running, || send_for(WINDOW, &mut once))?;
        Ok(vec![per_message(WEBSOCKET, &window)])
    })
}

fn per_message(what: &'static str, window: &Window<u32>) -> Figure {
    let value = window.cpu.as_secs_f64() * 1e6 / f64::from(window.result.max(1));
    Figure { what, unit: "µs", value, share_of_others: Some(window.share_of_others) }
}

/// Sends one after the other for a while and says how many.
fn send_for(time: Duration, once: &mut dyn FnMut() -> io::Result<()>) -> io::Result<u32> {
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        interrupt::check()?;
        once()?;
        count += 1;
    }
    Ok(count)
}

/// A WebSocket server for one client, which gets back what it sends.
fn echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    // What goes wrong here shows at the client.
    std::thread::spawn(move || answer(listener.accept()?.0));
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    transfer::read_head(&mut stream)?;
    stream.write_all(UPGRADED.as_bytes())?;
    let mut frame = [0; CLIENT_FRAME.len()];
    loop {
        stream.read_exact(&mut frame)?;
        stream.write_all(&SERVER_FRAME)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_how_long_their_text_is() {
        assert_eq!(GRPC_MESSAGE.len() - 5, usize::from(GRPC_MESSAGE[4]));
        assert_eq!(CLIENT_FRAME.len() - 6, usize::from(CLIENT_FRAME[1] & 0x7f));
        assert_eq!(SERVER_FRAME.len() - 2, usize::from(SERVER_FRAME[1]));
    }
}
