//! The PROXY protocol in front of a connection: who the client is, as a load balancer says it (haproxy's
//! proxy-protocol.txt).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const V1_PREFIX: &[u8] = b"PROXY ";
/// The longest line, its end included.
const V1_BYTES_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What both versions have at least.
const PREFIX_BYTES: usize = 12;
/// Addresses and whatever else a version 2 header carries; we read 36 bytes of it.
const V2_BYTES_MAX: usize = 4096;

/// Reads a header; the client's address, if it says one.
///
/// # Errors
/// There is none, or it is wrong: the connection is to be closed.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    if prefix == V2_SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [command, family, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > V2_BYTES_MAX {
            return Err(wrong("a version 2 header is too long"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return v2(command, family, &body);
    }
    if !prefix.starts_with(V1_PREFIX) {
        return Err(wrong("there is none"));
    }
    let mut line = prefix.to_vec();
    // One by one: what follows the line is the client's.
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(wrong("a line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    v1(line.strip_suffix(b"\r\n").unwrap_or(&line))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY protocol: {what}"))
}

/// A line without its end.
fn v1(line: &[u8]) -> io::Result<Option<SocketAddr>> {
    let text = std::str::from_utf8(line).map_err(|_| wrong("a line is no text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match words.as_slice() {
        // Whatever follows means nothing.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, port, to_port]
            if is_number(port) && is_number(to_port) =>
        {
            let ip = |text: &str| -> io::Result<IpAddr> {
                let ip = if *family == "TCP4" {
                    text.parse::<Ipv4Addr>().map(IpAddr::V4)
                } else {
                    text.parse::<Ipv6Addr>().map(IpAddr::V6)
                };
                ip.map_err(|_| wrong("an address is none"))
            };
            let port_of = |text: &str| text.parse::<u16>().map_err(|_| wrong("a port is none"));
            ip(to)?;
            port_of(to_port)?;
            Ok(Some(SocketAddr::new(ip(from)?, port_of(port)?)))
        }
        _ => Err(wrong("a line is no version 1 header")),
    }
}

fn v2(command: u8, family: u8, body: &[u8]) -> io::Result<Option<SocketAddr>> {
    match command {
        // LOCAL: a health check of the load balancer, on behalf of nobody.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(wrong("a version or a command is not known")),
    }
    let short = || wrong("a version 2 header is too short");
    let port = |at: usize| {
        let bytes = body.get(at..at + 2).and_then(|b| b.first_chunk::<2>()).ok_or_else(short)?;
        Ok::<_, io::Error>(u16::from_be_bytes(*bytes))
    };
    match family {
        // TCP over IPv4 and IPv6: source, destination, ports.
        0x11 => {
            let ip = body.first_chunk::<4>().ok_or_else(short)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(*ip).into(), port(8)?)))
        }
        0x21 => {
            let ip = body.first_chunk::<16>().ok_or_else(short)?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), port(32)?)))
        }
        // Unspecified, UDP, or a Unix socket.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1() {
        let read = |text: &str| v1(text.as_bytes()).map_err(|e| e.to_string());
        let client: SocketAddr = "192.0.2.1:56324".parse().unwrap();
        assert_eq!(read("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443"), Ok(Some(client)));
        let six: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        assert_eq!(read("PROXY TCP6 2001:db8::1 2001:db8::2 1 2"), Ok(Some(six)));
        assert_eq!(read("PROXY UNKNOWN"), Ok(None));
        assert_eq!(read("PROXY UNKNOWN ffff::1 ffff::2 1 2"), Ok(None));
        for bad in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1",
            "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443",
            "PROXY TCP4 2001:db8::1 198.51.100.2 56324 443",
            "PROXY TCP6 192.0.2.1 2001:db8::1 56324 443",
            "PROXY TCP4 192.0.2.1 x 56324 443",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2",
            "PROXY",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn version_2() {
        let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 187];
        assert_eq!(v2(0x21, 0x11, &four).unwrap(), Some("192.0.2.1:56324".parse().unwrap()));
        assert_eq!(v2(0x20, 0x11, &four).unwrap(), None, "LOCAL");
        assert_eq!(v2(0x21, 0x00, &[]).unwrap(), None, "UNSPEC");
        let mut six = [0; 36];
        six[15] = 1;
        six[33] = 80;
        assert_eq!(v2(0x21, 0x21, &six).unwrap(), Some("[::1]:80".parse().unwrap()));
        assert!(v2(0x21, 0x11, &four[..9]).is_err());
        assert!(v2(0x21, 0x21, &six[..33]).is_err());
        assert!(v2(0x31, 0x11, &four).is_err());
        assert!(v2(0x22, 0x11, &four).is_err());
    }

    proptest! {
        #[test]
        fn what_we_write_we_read(ip: [u8; 4], port: u16) {
            use wasmgate_config::ProxyProtocol;
            let client = SocketAddr::from((ip, port));
            let local = SocketAddr::from(([127, 0, 0, 1], 443));
            let line = crate::upstream::proxy_header(ProxyProtocol::V1, Some((client, local)));
            prop_assert_eq!(v1(line.strip_suffix(b"\r\n").unwrap()).unwrap(), Some(client));
            let header = crate::upstream::proxy_header(ProxyProtocol::V2, Some((client, local)));
            prop_assert_eq!(v2(header[12], header[13], &header[16..]).unwrap(), Some(client));
        }

        #[test]
        fn nothing_makes_it_panic(line: Vec<u8>, command: u8, family: u8) {
            let _ = v1(&line);
            let _ = v2(command, family, &line);
        }
    }
}
