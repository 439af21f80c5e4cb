//! The PROXY protocol towards endpoints: who the client is, before the first byte of the connection.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use wasmgate_config::ProxyProtocol;

/// What a connection on behalf of a client begins with.
/// `None`: it is on behalf of nobody, such as a health check or a call-out.
pub(crate) fn header(version: ProxyProtocol, client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match (version, client) {
        (ProxyProtocol::V1, Some((client, local))) => v1(client, local),
        (ProxyProtocol::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V2, Some((client, local))) => v2(client, local),
        // LOCAL, without an address.
        (ProxyProtocol::V2, None) => [V2_SIGNATURE, &[0x20, 0, 0, 0]].concat(),
    }
}

fn v1(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = match (client.ip(), local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return b"PROXY UNKNOWN\r\n".to_vec(),
    };
    let mut out = Vec::with_capacity(107);
    let (from, to) = (client.ip(), local.ip());
    // Writing to a Vec cannot fail.
    let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port());
    out
}

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, PROXY.
const V2_COMMAND: u8 = 0x21;

fn v2(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut out = V2_SIGNATURE.to_vec();
    out.push(V2_COMMAND);
    match (client.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([0x11, 0, 12]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (from, to) => {
            let v6 = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.extend([0x21, 0, 36]);
            out.extend(v6(from).octets());
            out.extend(v6(to).octets());
        }
    }
    out.extend(client.port().to_be_bytes());
    out.extend(local.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (client, local) = (address("192.0.2.1:56324"), address("198.51.100.2:443"));
        assert_eq!(
            header(ProxyProtocol::V1, Some((client, local))),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
        );
        let six = (address("[2001:db8::1]:1"), address("[2001:db8::2]:2"));
        assert_eq!(
            header(ProxyProtocol::V1, Some((six.0, six.1))),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"
        );
        assert_eq!(header(ProxyProtocol::V1, Some((client, six.1))), b"PROXY UNKNOWN\r\n");
        let v2 = header(ProxyProtocol::V2, Some((client, local)));
        assert_eq!(v2[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(v2[16..], [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 1, 187]);
        let v2 = header(ProxyProtocol::V2, Some((six.0, six.1)));
        assert_eq!((v2.len(), &v2[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
    }
}
