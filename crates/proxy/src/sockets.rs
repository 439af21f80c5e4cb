//! Sockets that are listened on.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, per worker and listener.
const BACKLOG: i32 = 1024;

/// Whether nobody listens here: with SO_REUSEPORT another process of the same user would share the port, and each
/// connection would get one configuration or the other. Asked by connecting, because a bind without SO_REUSEPORT would
/// fail on a port that is only reserved, too. Our own listener of a moment ago may take an instant to close.
pub(crate) async fn wait_until_free(address: SocketAddr) -> std::io::Result<()> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(50);
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let target = SocketAddr::new(ip, address.port());
    // An address that this machine does not have can wait for ever to be connected to.
    std::net::TcpListener::bind((address.ip(), 0))?;
    for _ in 0..ATTEMPTS {
        // An address of this machine accepts or refuses at once; whatever else is wrong with it, bind tells.
        match tokio::time::timeout(PAUSE, tokio::net::TcpStream::connect(target)).await {
            // The system may choose the very port to connect from: then it met itself.
            Ok(Ok(stream)) if stream.local_addr().is_ok_and(|local| local == target) => return Ok(()),
            Ok(Ok(_)) => tokio::time::sleep(PAUSE).await,
            // A full backlog: somebody listens and does not keep up.
            Err(_) => {}
            Ok(Err(_)) => return Ok(()),
        }
    }
    Err(std::io::Error::new(ErrorKind::AddrInUse, "Address already in use: another process listens there"))
}

/// A socket of its own for each worker: the kernel spreads connections over them, and no worker waits for another.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
