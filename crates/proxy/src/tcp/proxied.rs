//! One connection between its two sides.

mod connect;

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf as _, Bytes};
use tokio::io::{
    AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use wasmgate_plugin::StreamPort;
use wasmgate_stream::{Connection, Direction, StreamData, StreamInfo};

use crate::access_log::Entry;
use crate::chain::ChainFilter;
use crate::transport::Transport;
use crate::upstream::{ActiveRequest, OpenConnection, UpstreamSocket, WorkerCluster};
use crate::worker::WorkerContext;
use crate::worker_generation::WorkerGeneration;

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// Reads and writes before others have their turn.
const ROUNDS_MAX: usize = 32;

/// The server's side.
pub(super) enum Upstream {
    /// Not before every plug-in has let the connection through.
    Waiting,
    /// HTTP of this listener, likewise.
    Here(DuplexStream),
    Connecting(Pin<Box<dyn Future<Output = io::Result<UpstreamSocket>>>>),
    Connected(Transport),
    /// There is none, or it could not be reached.
    Failed,
}

/// One side's socket state.
#[derive(Debug, Default)]
struct Side {
    /// It sends no more.
    read_over: bool,
    /// It has been told that nothing follows.
    write_over: bool,
    /// It takes no more.
    is_broken: bool,
    /// Taken from the filters and not sent yet.
    unsent: Bytes,
}

/// A connection and its plug-ins.
pub(super) struct Proxied<'w> {
    worker: &'w Rc<WorkerContext>,
    generation: &'w Rc<WorkerGeneration>,
    pub(super) cluster: Option<Rc<WorkerCluster>>,
    /// Counts for as long as the connection lasts.
    active: Option<(ActiveRequest, OpenConnection)>,
    /// Whether it has a line of its own in the access log.
    pub(super) is_logged: bool,
    connection: Connection<ChainFilter>,
    port: Option<Rc<StreamPort>>,
    client: Transport,
    client_side: Side,
    pub(super) upstream: Upstream,
    upstream_side: Side,
    /// HTTP of this listener: the sender is dropped once it has ended.
    pub(super) http_over: Option<oneshot::Receiver<Infallible>>,
    idle: Option<Pin<Box<Sleep>>>,
    idle_max: Duration,
    flags: &'static str,
    started: Instant,
    start: SystemTime,
    addresses: (SocketAddr, SocketAddr),
    /// Its end was the last: had ours been, we would have closed the connection, as in Envoy.
    is_ended_by_client: bool,
    /// Its socket has failed.
    is_client_gone: bool,
    is_finished: bool,
}

impl<'w> Proxied<'w> {
    pub(super) async fn new(
        (worker, generation): (&'w Rc<WorkerContext>, &'w Rc<WorkerGeneration>),
        listener: usize,
        client: Transport,
        info: StreamInfo,
        addresses: (SocketAddr, SocketAddr),
    ) -> Self {
        generation.network_plugins_ready(listener).await;
        let (filters, port) = generation.network_filters(listener);
        let start = info.start;
        let data = Box::new(StreamData::connection(info));
        let idle_max = worker.settings.stream_idle_max;
        Proxied {
            worker,
            generation,
            cluster: None,
            active: None,
            is_logged: true,
            connection: Connection::new(filters, data, worker.settings.stream.buffer_bytes_max),
            port,
            client,
            client_side: Side::default(),
            upstream: Upstream::Waiting,
            upstream_side: Side::default(),
            http_over: None,
            idle: (!idle_max.is_zero()).then(|| Box::pin(tokio::time::sleep(idle_max))),
            idle_max,
            flags: "",
            started: Instant::now(),
            start,
            addresses,
            is_ended_by_client: false,
            is_client_gone: false,
            is_finished: false,
        }
    }
}

impl Proxied<'_> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(port) = &self.port {
            port.unpark(&mut self.connection);
        }
        let mut moved = false;
        for round in 0.. {
            if round == ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match self.step(cx) {
                Ok(true) => moved = true,
                Ok(false) => break,
                Err(e) => {
                    tracing::debug!(target: "http", "client of a TCP connection: {e}");
                    self.is_client_gone = true;
                    self.flags = if self.flags.is_empty() { "DC" } else { self.flags };
                    return Poll::Ready(());
                }
            }
        }
        if let Some(http) = &mut self.http_over
            && Pin::new(http).poll(cx).is_ready()
        {
            self.http_over = None;
            self.upstream_side.write_over = true;
        }
        if self.is_over() {
            return Poll::Ready(());
        }
        if let Some(idle) = &mut self.idle {
            if moved {
                idle.as_mut().reset(tokio::time::Instant::now() + self.idle_max);
            }
            if idle.as_mut().poll(cx).is_ready() {
                self.flags = if self.flags.is_empty() { "SI" } else { self.flags };
                self.connection.close();
                return Poll::Ready(());
            }
        }
        if let Some(port) = &self.port {
            port.park(&mut self.connection, cx.waker());
        }
        Poll::Pending
    }

    /// Whether both sides have been told that nothing follows.
    fn is_over(&self) -> bool {
        let is_told = match self.upstream {
            Upstream::Waiting | Upstream::Here(_) | Upstream::Failed => true,
            Upstream::Connecting(_) | Upstream::Connected(_) => self.upstream_side.write_over,
        };
        self.client_side.write_over && is_told
    }

    /// One round of everything that can be done; whether anything was.
    ///
    /// # Errors
    /// The client's socket's: the connection is over.
    fn step(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = self.connect(cx);
        if matches!(self.upstream, Upstream::Here(_)) && self.connection.is_ready() {
            moved = true;
            if let Upstream::Here(server) = std::mem::replace(&mut self.upstream, Upstream::Failed) {
                self.upstream = Upstream::Connected(Transport::Filtered(server));
            }
        }
        if !self.client_side.read_over && self.connection.wants(Direction::Request) {
            moved |= self.read(cx, Direction::Request)?;
        }
        if !self.upstream_side.read_over && self.connection.wants(Direction::Response) {
            moved |= self.read(cx, Direction::Response)?;
        }
        moved |= self.write(cx, Direction::Request)?;
        moved |= self.write(cx, Direction::Response)?;
        Ok(moved)
    }

    /// There is no server: the client gets what it was to get, and the end.
    fn fail(&mut self, flags: &'static str) {
        self.flags = flags;
        self.upstream = Upstream::Failed;
        self.connection.close();
    }

    fn read(&mut self, cx: &mut Context<'_>, direction: Direction) -> io::Result<bool> {
        let socket = match (direction, &mut self.upstream) {
            (Direction::Request, _) => &mut self.client,
            (Direction::Response, Upstream::Connected(stream)) => stream,
            (Direction::Response, _) => return Ok(false),
        };
        let mut bytes = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        match Pin::new(socket).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            // What it has sent before still goes to the client.
            Poll::Ready(Err(_)) if direction == Direction::Response => self.flags = "UC",
            Poll::Ready(result) => result?,
        }
        let read = Bytes::copy_from_slice(buffer.filled());
        let end = read.is_empty();
        let side = match direction {
            Direction::Request => &mut self.client_side,
            Direction::Response => &mut self.upstream_side,
        };
        side.read_over = end;
        self.is_ended_by_client |= end && direction == Direction::Request && self.client_side.write_over;
        if let Some(data) = self.connection.data_mut() {
            let count = match direction {
                Direction::Request => &mut data.info.bytes_received,
                Direction::Response => &mut data.info.bytes_sent,
            };
            *count += read.len() as u64;
        }
        self.connection.feed(direction, read, end);
        Ok(true)
    }

    fn write(&mut self, cx: &mut Context<'_>, direction: Direction) -> io::Result<bool> {
        let (socket, side) = match (direction, &mut self.upstream) {
            (Direction::Response, _) => (&mut self.client, &mut self.client_side),
            (Direction::Request, Upstream::Connected(stream)) => (stream, &mut self.upstream_side),
            (Direction::Request, _) => return Ok(false),
        };
        if side.is_broken {
            return Ok(self.connection.take_output(direction).is_some());
        }
        if side.unsent.is_empty() {
            side.unsent = self.connection.take_output(direction).unwrap_or_default();
        }
        if !side.unsent.is_empty() {
            return match Pin::new(socket).poll_write(cx, &side.unsent) {
                Poll::Ready(Ok(sent)) => {
                    side.unsent.advance(sent);
                    Ok(true)
                }
                // A server that takes no more may still have something to say.
                Poll::Ready(Err(_)) if direction == Direction::Request => {
                    self.flags = "UC";
                    (side.is_broken, side.write_over, side.unsent) = (true, true, Bytes::new());
                    Ok(true)
                }
                Poll::Ready(Err(e)) => Err(e),
                Poll::Pending => Ok(false),
            };
        }
        if socket.holds_back() {
            match Pin::new(&mut *socket).poll_flush(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(e)) if direction == Direction::Response => return Err(e),
                // A server that is gone is noticed by reading.
                Poll::Ready(_) => {}
            }
        }
        if !side.write_over && self.connection.is_output_over(direction) {
            return match Pin::new(socket).poll_shutdown(cx) {
                Poll::Ready(result) => {
                    side.write_over = true;
                    // A server that is gone has been noticed, or will be, by reading.
                    if direction == Direction::Request { Ok(true) } else { result.map(|()| true) }
                }
                Poll::Pending => Ok(false),
            };
        }
        Ok(false)
    }

    /// Plug-ins and the log are told of the end, once.
    pub(super) fn finish(&mut self) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        if let Some(port) = &self.port {
            port.unpark(&mut self.connection);
        }
        let duration = self.started.elapsed();
        if let Some(data) = self.connection.data_mut() {
            data.info.duration = Some(duration);
            data.info.response_flags = self.flags;
        }
        self.connection.end(self.is_client_gone || self.is_ended_by_client);
        if !self.is_logged {
            return;
        }
        let (remote, local) = self.addresses;
        self.worker.log(&Entry {
            data: self.connection.data_mut().map(|data| &*data),
            downstream_local: local,
            downstream_remote: remote,
            start: self.start,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            status: 0,
            flags: self.flags,
            details: "",
            bytes_sent: 0,
        });
    }

    /// As in HTTP: a socket that is closed with bytes unread is reset, and the reset can overtake what was sent.
    pub(super) async fn discard_last_bytes(&mut self) {
        if self.is_client_gone || self.client_side.read_over {
            return;
        }
        let client = &mut self.client;
        let is_told = self.client_side.write_over;
        let rest = async {
            if !is_told {
                client.shutdown().await?;
            }
            let mut bytes = [0; 4096];
            while client.read(&mut bytes).await? > 0 {}
            io::Result::Ok(())
        };
        // Over it, or with an error, the client gets what the system makes of it.
        let _ = tokio::time::timeout(self.worker.settings.delayed_close_max, rest).await;
    }
}

/// Endpoints of a cluster.
pub(super) fn count(cluster: Option<&WorkerCluster>) -> u32 {
    cluster.map_or(0, |c| u32::try_from(c.len()).unwrap_or(u32::MAX))
}

/// Also when the connection's task is aborted, after a drain that takes too long.
impl Drop for Proxied<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}
