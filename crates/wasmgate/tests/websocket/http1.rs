//! A client over HTTP/1.1.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::PATIENCE;
use crate::cases::Case;

/// Switches, sends what a case has to send, and reads to the end; what came behind the head.
pub(crate) fn exchange(address: SocketAddr, case: &Case) -> Result<Vec<u8>, String> {
    let mut client = TcpStream::connect(address).map_err(|e| e.to_string())?;
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let extensions =
        case.extensions.map_or_else(String::new, |e| format!("Sec-WebSocket-Extensions: {e}\r\n"));
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: test.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nallow: true\r\nx-case: {}\r\n{extensions}\r\n",
        case.path, case.id
    );
    client.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            Ok(1..) => head.push(byte[0]),
            other => return Err(format!("{other:?} after {}", head.escape_ascii())),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !head.starts_with("http/1.1 101 ") {
        return Err(head);
    }
    if case.extensions.is_some_and(|e| !head.contains(&format!("\r\nsec-websocket-extensions: {e}\r\n"))) {
        return Err(format!("what the endpoint agrees to is not what the client gets: {head}"));
    }
    let mut writer = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let pieces = case.sent.chunks(case.chop.unwrap_or(usize::MAX));
            // An endpoint that has had enough may close before all is written.
            let is_all = pieces.into_iter().all(|piece| writer.write_all(piece).is_ok());
            if is_all && case.half_closes {
                let _ = writer.shutdown(Shutdown::Write);
            }
        });
        let mut got = Vec::new();
        let read = client.read_to_end(&mut got);
        // Whoever still writes need not.
        let _ = client.shutdown(Shutdown::Both);
        read.map_err(|e| format!("{e} after {} bytes", got.len()))?;
        Ok(got)
    })
}
