//! Connections that live for seconds, over which bytes go to and fro.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::EXCHANGE_TIME_MAX;
use crate::pattern::{self, SEEDS};
use crate::scene::HOST;
use crate::work::World;

/// How long a session lives.
const LIFE_SECONDS: std::ops::Range<f32> = 1.0..8.0;
/// The pause between two messages.
const PAUSE: Duration = Duration::from_millis(150);
const MESSAGE_BYTES_MAX: usize = 4096;
const HEAD_BYTES_MAX: usize = 4096;

/// A WebSocket from the request to the end.
///
/// # Errors
/// What went wrong, and when.
pub async fn web_socket(address: SocketAddr, world: &World) -> Result<(), String> {
    let began = Instant::now();
    let switching = async {
        let mut stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
        let request = format!(
            "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nallow: true\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot ask: {e}"))?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
            head.push(stream.read_u8().await.map_err(|e| format!("no answer: {e}"))?);
        }
        Ok::<_, String>((stream, String::from_utf8_lossy(&head).into_owned()))
    };
    let switched = tokio::time::timeout(EXCHANGE_TIME_MAX, switching).await;
    let (stream, head) = switched.map_err(|_| "no answer in time")??;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(format!("no switch: {head:?}"));
    }
    talk(stream, world).await.map_err(|e| format!("{} s into a session: {e}", began.elapsed().as_secs_f32()))
}

/// A TCP connection from the first byte to the last.
///
/// # Errors
/// What went wrong, and when.
pub async fn tcp(address: SocketAddr, world: &World) -> Result<(), String> {
    let began = Instant::now();
    let stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
    talk(stream, world).await.map_err(|e| format!("{} s into a session: {e}", began.elapsed().as_secs_f32()))
}

async fn talk(mut stream: TcpStream, world: &World) -> Result<(), String> {
    let begin = LIFE_SECONDS.start;
    let life = Duration::from_secs_f32(begin + fastrand::f32() * (LIFE_SECONDS.end - begin));
    let end = Instant::now() + life;
    while Instant::now() < end && !world.is_over() {
        let message = pattern::body(fastrand::usize(..SEEDS), fastrand::usize(1..=MESSAGE_BYTES_MAX));
        let mut back = vec![0; message.len()];
        let echo = async {
            stream.write_all(&message).await?;
            stream.read_exact(&mut back).await
        };
        let echoed = tokio::time::timeout(EXCHANGE_TIME_MAX, echo).await;
        echoed.map_err(|_| "a message does not come back")?.map_err(|e| e.to_string())?;
        pattern::compare(&back, &message)?;
        tokio::time::sleep(PAUSE).await;
    }
    stream.shutdown().await.map_err(|e| format!("cannot say that it was the last message: {e}"))?;
    let last = tokio::time::timeout(EXCHANGE_TIME_MAX, stream.read_u8()).await;
    match last.map_err(|_| "the end does not come back")? {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
        Err(e) => Err(format!("instead of the end: {e}")),
        Ok(byte) => Err(format!("instead of the end: the byte {byte:#04x}")),
    }
}
