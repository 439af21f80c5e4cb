//! A raw client: bytes out, bytes in.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::case::Ending;

/// How long a write may take: a proxy that has said no need not read.
const WRITE_TIME_MAX: Duration = Duration::from_secs(1);

/// What a client has received.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The proxy has closed or reset the connection.
    pub is_closed: bool,
}

/// A connection of its own; a thread receives what comes.
#[derive(Debug)]
pub struct Client {
    /// `None`: it has left.
    socket: Option<TcpStream>,
    received: Arc<Mutex<Received>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIME_MAX))?;
        let received = Arc::<Mutex<Received>>::default();
        let client = Self { socket: Some(socket), received };
        if let Some(mut socket) = client.socket.as_ref().map(TcpStream::try_clone).transpose()? {
            let received = Arc::clone(&client.received);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let count = socket.read(&mut buffer).unwrap_or(0);
                    let mut received = locked(&received);
                    received.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    received.is_closed = count == 0;
                    if count == 0 {
                        return;
                    }
                }
            });
        }
        Ok(client)
    }

    /// Writes as much as the proxy takes: that it has closed is seen by what comes back.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(socket) = &mut self.socket {
            let _ = socket.write_all(bytes);
        }
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&mut self, how: Ending) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match how {
            Ending::HalfClose => {
                let _ = socket.shutdown(Shutdown::Write);
                return Ok(());
            }
            Ending::Reset => socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?,
            Ending::Close => {}
        }
        if how == Ending::Close {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if how == Ending::Reset {
            // The thread holds the connection open; a reset goes out when both have let go of it.
            let _ = socket.shutdown(Shutdown::Read);
        }
        self.socket = None;
        Ok(())
    }

    /// What has come; `None` when the client has left.
    #[must_use]
    pub fn received(&self) -> Option<Received> {
        self.socket.as_ref().map(|_| locked(&self.received).clone())
    }

    /// Waits until what has come is as wanted, the connection is closed, or time is up.
    pub fn wait(&self, time_max: Duration, is_there: impl Fn(&Received) -> bool) {
        let deadline = Instant::now() + time_max;
        while Instant::now() < deadline {
            match self.received() {
                Some(received) if !received.is_closed && !is_there(&received) => {}
                _ => return,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn locked(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}
