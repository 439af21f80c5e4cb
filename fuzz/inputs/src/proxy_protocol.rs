//! Headers of the PROXY protocol, in front of connections and towards endpoints.

use std::net::{IpAddr, SocketAddr};

use arbitrary::Unstructured;
use wasmgate_config::ProxyProtocol;
use wasmgate_proxy::fuzzing::{proxy_header, take_proxy_header};

const V1_BEGIN: &[u8] = b"PROXY TCP4 ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21";

/// Any bytes, also behind the beginning of a header of either version; and what is written for two addresses is read.
pub fn proxy_protocol(data: &[u8]) {
    for begin in [b"".as_slice(), V1_BEGIN, V2_BEGIN] {
        is_taken_exactly(&[begin, data].concat());
    }
    let mut bytes = Unstructured::new(data);
    let Ok((client, local)) = bytes.arbitrary::<(([u8; 16], u16), ([u8; 16], u16))>() else { return };
    let all = [address(client, true), address(client, false)];
    for (client, local) in
        all.into_iter().flat_map(|c| [(c, address(local, true)), (c, address(local, false))])
    {
        is_read(client, local, bytes.peek_bytes(bytes.len()).unwrap_or_default());
    }
}

/// A header ends where it ends: neither what follows nor what is missing changes that.
fn is_taken_exactly(input: &[u8]) {
    let mut rest = input;
    let Ok(client) = take_proxy_header(&mut rest) else { return };
    let (header, behind) = input.split_at(input.len() - rest.len());
    assert_eq!(rest, behind, "bytes of the client are gone");
    let other = [header, b"GET / HTTP/1.1\r\n"].concat();
    let mut rest = other.as_slice();
    assert_eq!(take_proxy_header(&mut rest).expect("the same header"), client);
    assert_eq!(rest, b"GET / HTTP/1.1\r\n", "bytes of the client are gone");
    let mut short = header.get(..header.len() - 1).unwrap_or_default();
    assert!(take_proxy_header(&mut short).is_err(), "{header:?} is a header without its last byte");
}

fn is_read(client: SocketAddr, local: SocketAddr, behind: &[u8]) {
    let read = |version| {
        let header = [&proxy_header(version, client, local), behind].concat();
        let mut rest = header.as_slice();
        let client = take_proxy_header(&mut rest).expect("what we write");
        assert_eq!(rest, behind, "bytes of the client are gone");
        client
    };
    // Version 1 has no words for two families.
    let is_one_family = client.is_ipv4() == local.is_ipv4();
    assert_eq!(read(ProxyProtocol::V1), is_one_family.then_some(client));
    let canonical = |a: SocketAddr| (a.ip().to_canonical(), a.port());
    assert_eq!(read(ProxyProtocol::V2).map(canonical), Some(canonical(client)));
}

fn address((ip, port): ([u8; 16], u16), is_v4: bool) -> SocketAddr {
    let [a, b, c, d, ..] = ip;
    let ip = if is_v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(ip) };
    SocketAddr::new(ip, port)
}
