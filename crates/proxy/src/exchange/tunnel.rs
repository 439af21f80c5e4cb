//! What follows when both sides have switched to another protocol (WebSocket): bytes in both directions, which the chain
//! sees as bodies without an end.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use wasmgate_stream::StreamState;

use super::Exchange;

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// Reads and writes before others have their turn.
const ROUNDS_MAX: usize = 32;

/// The client's side.
struct Client {
    io: TokioIo<Upgraded>,
    /// It sends no more.
    read_over: bool,
    /// What it is still to get.
    unsent: Bytes,
    /// Nothing follows.
    write_over: bool,
    /// Its socket has failed.
    is_gone: bool,
}

impl Exchange {
    /// Passes bytes on until the endpoint has said its last one, or either side is gone.
    pub(crate) async fn tunnel(mut self, upgrade: OnUpgrade) {
        // An error: the client has left before it got the answer. Dropping the exchange says so.
        let Ok(upgraded) = upgrade.await else { return };
        // Of what is no request any more.
        self.deadlines.lift();
        let io = TokioIo::new(upgraded);
        let mut client =
            Client { io, read_over: false, unsent: Bytes::new(), write_over: false, is_gone: false };
        poll_fn(|cx| self.poll_tunnel(cx, &mut client)).await;
        if client.is_gone {
            self.note_client_gone();
        }
        self.finish();
        let limit = self.downstream.worker.settings.delayed_close_max;
        // Over it, or with an error, the client gets what the system makes of it.
        let _ = tokio::time::timeout(limit, client.io.shutdown()).await;
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Poll<()> {
        self.unpark();
        for round in 0.. {
            if round == ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            let was_full = !self.stream.wants_request();
            let mut moved = self.read_client(cx, client);
            self.drive(cx);
            // There is room now, and nobody has asked the client's socket to wake us.
            moved |= was_full && !client.read_over && self.stream.wants_request();
            moved |= self.write_client(cx, client);
            let is_over = client.write_over && client.unsent.is_empty();
            if is_over || client.is_gone || self.stream.state() == StreamState::Reset {
                return Poll::Ready(());
            }
            if !moved {
                break;
            }
        }
        self.park(cx);
        Poll::Pending
    }

    fn read_client(&mut self, cx: &mut Context<'_>, client: &mut Client) -> bool {
        if client.read_over || !self.stream.wants_request() {
            return false;
        }
        let mut bytes = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut client.io).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                client.is_gone = true;
                return true;
            }
        }
        let read = Bytes::copy_from_slice(buffer.filled());
        client.read_over = read.is_empty();
        self.stream.request_data(read, client.read_over);
        true
    }

    fn write_client(&mut self, cx: &mut Context<'_>, client: &mut Client) -> bool {
        if client.unsent.is_empty()
            && !client.write_over
            && let Some(data) = self.stream.pop_response_data()
        {
            (client.unsent, client.write_over) = (data.bytes, data.end);
        }
        if client.unsent.is_empty() {
            // What TLS has not sent yet.
            if let Poll::Ready(Err(_)) = Pin::new(&mut client.io).poll_flush(cx) {
                client.is_gone = true;
            }
            return false;
        }
        match Pin::new(&mut client.io).poll_write(cx, &client.unsent) {
            Poll::Ready(Ok(sent)) => {
                client.unsent.advance(sent);
                true
            }
            Poll::Ready(Err(_)) => {
                client.is_gone = true;
                true
            }
            Poll::Pending => false,
        }
    }
}
