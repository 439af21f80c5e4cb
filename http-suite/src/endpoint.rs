//! A raw server behind the proxy: it remembers every byte and answers as a case says.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::case::{Ending, Step};
use crate::message::{FirstRequest, Record, Requests};
use crate::notation;

/// How long a step may wait for bytes.
const AWAIT_TIME_MAX: Duration = Duration::from_secs(1);

/// What is done for each request.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// `None`: a plain 200.
    pub reply: Option<Vec<Step>>,
    /// As soon as the head is there.
    pub early: bool,
}

#[derive(Debug, Default)]
struct State {
    script: Script,
    connections: Vec<Connection>,
    accepted: u64,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    record: Record,
    /// `None`: it has been reset, which a second handle would put off.
    socket: Option<TcpStream>,
}

/// A running endpoint. Its thread goes on until the process ends.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Endpoint {
    /// Listens on loopback.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let endpoint = Self { address, state };
        let accepting = endpoint.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let endpoint = accepting.clone();
                // A connection that ends badly has been remembered as far as it went.
                std::thread::spawn(move || drop(endpoint.serve(socket)));
            }
        });
        Ok(endpoint)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a case: what was received is forgotten, connections are closed.
    pub fn begin(&self, script: Script) {
        let mut state = self.state();
        for connection in state.connections.drain(..) {
            let _ = connection.socket.map(|socket| socket.shutdown(Shutdown::Both));
        }
        state.script = script;
    }

    /// What it has received since.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let state = self.state();
        let records: Vec<Record> = state.connections.iter().map(|c| c.record.clone()).collect();
        drop(state);
        Requests::read(&records)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a connection, if its case still runs.
    fn with_connection(&self, id: u64, change: impl FnOnce(&mut Connection)) -> bool {
        let mut state = self.state();
        state.connections.iter_mut().find(|c| c.id == id).map(change).is_some()
    }

    fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut pending = Vec::new();
        let mut is_tunnel = false;
        let (id, script) = {
            let mut state = self.state();
            state.accepted += 1;
            let id = state.accepted;
            state.connections.push(Connection {
                id,
                record: Record::default(),
                socket: Some(socket.try_clone()?),
            });
            (id, state.script.clone())
        };
        loop {
            if is_tunnel {
                pending.clear();
            }
            if !self.receive(id, &mut socket, &mut pending)? {
                return Ok(());
            }
            while let Some(request) = FirstRequest::parse(&pending).filter(|_| !is_tunnel) {
                if script.early {
                    self.reply(id, &mut socket, &script, &request, &mut pending)?;
                } else if request.length.is_none() && request.expects_continue {
                    socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let length = loop {
                    match FirstRequest::parse(&pending).and_then(|r| r.length) {
                        Some(length) => break length,
                        None if self.receive(id, &mut socket, &mut pending)? => {}
                        None => return Ok(()),
                    }
                };
                if !script.early {
                    self.reply(id, &mut socket, &script, &request, &mut pending)?;
                }
                pending.drain(..length.min(pending.len()));
                let switches = script.reply.iter().flatten().any(|step| is_switch(step, request.is_connect));
                if switches {
                    is_tunnel = true;
                    let after = pending.len();
                    self.with_connection(id, |c| {
                        c.record.tunnel_from = Some(c.record.bytes.len().saturating_sub(after));
                    });
                }
            }
        }
    }

    /// `false`: there is nothing more, or the case is over.
    fn receive(&self, id: u64, socket: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let received = socket.read(&mut buffer)?;
        let bytes = buffer.get(..received).unwrap_or_default();
        pending.extend_from_slice(bytes);
        Ok(received > 0 && self.with_connection(id, |c| c.record.bytes.extend_from_slice(bytes)))
    }

    fn reply(
        &self,
        id: u64,
        socket: &mut TcpStream,
        script: &Script,
        request: &FirstRequest,
        pending: &mut Vec<u8>,
    ) -> io::Result<()> {
        let Some(steps) = &script.reply else {
            let body = if request.is_head { "" } else { "ok" };
            return socket
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}").as_bytes());
        };
        for step in steps {
            match step {
                Step::Write(text) => socket.write_all(&notation::bytes(text).map_err(io::Error::other)?)?,
                Step::Wait { wait_ms } => std::thread::sleep(Duration::from_millis(*wait_ms)),
                Step::Await { r#await } => {
                    let wanted = notation::bytes(r#await).map_err(io::Error::other)?;
                    let deadline = Instant::now() + AWAIT_TIME_MAX;
                    while !pending.windows(wanted.len().max(1)).any(|w| w == wanted)
                        && Instant::now() < deadline
                    {
                        if !self.receive(id, socket, pending)? {
                            return Ok(());
                        }
                    }
                }
                Step::Do { r#do: Ending::HalfClose } => socket.shutdown(Shutdown::Write)?,
                Step::Do { r#do: Ending::Close } => socket.shutdown(Shutdown::Both)?,
                Step::Do { r#do: Ending::Reset } => {
                    socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
                    self.with_connection(id, |c| c.socket = None);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Step::Repeat { .. } => return Err(io::Error::other("an endpoint speaks no frames")),
            }
        }
        Ok(())
    }
}

fn is_switch(step: &Step, is_connect: bool) -> bool {
    matches!(step, Step::Write(text) if text.starts_with("HTTP/1.1 101") || (is_connect && text.starts_with("HTTP/1.1 2")))
}
