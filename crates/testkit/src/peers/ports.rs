//! Loopback ports that nobody else has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// A port of 127.0.0.1 that was free a moment ago.
///
/// Between this call and the bind of whoever gets the port another process can take it; use [`PortLease`] where the
/// other side binds with `SO_REUSEPORT`.
///
/// # Errors
/// Whatever the bind answers: no descriptors, no free ports.
pub fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// A port of 127.0.0.1 that stays ours: a socket with `SO_REUSEPORT` is bound to it and never listens.
///
/// The kernel hands no connection to a socket that does not listen, and gives the port to no bind without
/// `SO_REUSEPORT`. Wasmgate, Envoy, nginx (`reuseport`) and HAProxy set that option, so they can take the port while
/// the lease lives, without a race, also when they are restarted.
#[derive(Debug)]
pub struct PortLease {
    socket: Socket,
    port: u16,
}

impl PortLease {
    /// Leases a port that the kernel chooses.
    ///
    /// # Errors
    /// Whatever the bind answers: no descriptors, no free ports.
    pub fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let port = match socket.local_addr()?.as_socket() {
            Some(address) => address.port(),
            None => return Err(io::Error::other("a socket bound to 127.0.0.1 has no IP address")),
        };
        Ok(Self { socket, port })
    }

    /// The port, valid while the lease lives.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Gives the port up to somebody who binds without `SO_REUSEPORT`.
    pub fn release(self) -> u16 {
        drop(self.socket);
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_leased_port_is_refused_to_others_and_taken_with_reuse_port() {
        let lease = PortLease::new().unwrap();
        assert!(TcpListener::bind(lease.address()).is_err());

        let taker = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        taker.set_reuse_port(true).unwrap();
        taker.bind(&lease.address().into()).unwrap();
        taker.listen(8).unwrap();

        // Sixteen, because the kernel would spread connections over all sockets that could take them.
        for _ in 0..16 {
            TcpStream::connect(lease.address()).unwrap();
            taker.accept().unwrap();
        }
    }

    #[test]
    fn a_released_port_can_be_bound_by_anyone() {
        let port = PortLease::new().unwrap().release();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert_ne!(free_port().unwrap(), 0);
    }
}
