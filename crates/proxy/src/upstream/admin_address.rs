//! The address that is nobody's endpoint: whoever reaches the admin interface controls the gateway, and who may write a
//! ServiceEntry, an ExternalName or a name's addresses may not.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Whether a connection to an endpoint would reach the admin interface.
pub(super) fn is_admin(endpoint: SocketAddr, admin: SocketAddr) -> bool {
    if endpoint.port() != admin.port() {
        return false;
    }
    let (to, at) = (endpoint.ip().to_canonical(), admin.ip().to_canonical());
    // To connect to no address is to connect to this machine.
    to == at || to.is_unspecified() || (at.is_unspecified() && is_own(to))
}

/// Whether an address is one of this machine's: nobody can be bound to another's.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(endpoint: &str, admin: &str) -> bool {
        is_admin(endpoint.parse().unwrap(), admin.parse().unwrap())
    }

    #[test]
    fn every_way_to_the_interface_is_known() {
        let local = "127.0.0.1:15000";
        for endpoint in ["127.0.0.1:15000", "[::ffff:127.0.0.1]:15000", "0.0.0.0:15000", "[::]:15000"] {
            assert!(reaches(endpoint, local), "{endpoint}");
        }
        for endpoint in ["127.0.0.1:15001", "127.0.0.2:15000", "192.0.2.1:15000", "[::1]:15000"] {
            assert!(!reaches(endpoint, local), "{endpoint}");
        }
        for everywhere in ["0.0.0.0:15000", "[::]:15000"] {
            for endpoint in ["127.0.0.1:15000", "127.9.9.9:15000", "[::1]:15000", "0.0.0.0:15000"] {
                assert!(reaches(endpoint, everywhere), "{endpoint} {everywhere}");
            }
            assert!(!reaches("192.0.2.1:15000", everywhere), "not of this machine");
        }
    }
}
