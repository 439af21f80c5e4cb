//! The endpoint: it sends every message back, is as strict as RFC 6455 asks for, and keeps all bytes that have passed.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::PATIENCE;
use crate::deflate::Deflate;
use crate::frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};

/// What has passed on one connection behind the heads.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) head: String,
    pub(crate) received: Vec<u8>,
    pub(crate) sent: Vec<u8>,
}

#[derive(Default)]
struct Records {
    by_case: Mutex<HashMap<String, Record>>,
    came: Condvar,
}

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    records: Arc<Records>,
}

impl Endpoint {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let records = Arc::<Records>::default();
        let shared = Arc::clone(&records);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let records = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &records));
            }
        });
        Self { address, records }
    }

    /// Takes the record of a case, once its connection is at its end.
    pub(crate) fn take(&self, case: &str) -> Option<Record> {
        let all = self.records.by_case.lock().unwrap();
        let mut all =
            self.records.came.wait_timeout_while(all, PATIENCE, |a| !a.contains_key(case)).unwrap().0;
        all.remove(case)
    }
}

fn serve(stream: TcpStream, records: &Records) {
    let _ = stream.set_nodelay(true);
    let mut tee = Tee { reader: BufReader::new(stream), record: Record::default() };
    let mut byte = [0];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if tee.reader.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    let Some(case) = value("x-case").map(str::to_owned) else { return };
    // No case takes so long.
    let _ = tee.reader.get_ref().set_read_timeout(Some(PATIENCE));
    let mut deflate = None;
    let mut answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n".to_owned();
    if let Some(offer) = value("sec-websocket-extensions").filter(|o| o.starts_with("permessage-deflate")) {
        deflate = Some(Deflate::new(!offer.contains("no_context_takeover")));
        answer.push_str(&format!("Sec-WebSocket-Extensions: {offer}\r\n"));
    }
    answer.push_str("\r\n");
    let mut first = answer.into_bytes();
    let answered = first.len();
    if head.starts_with("get /greets ") {
        Frame::text("welcome").write(None, &mut first);
    }
    tee.record.sent.extend_from_slice(&first[answered..]);
    if tee.reader.get_mut().write_all(&first).is_err() {
        return;
    }
    // A connection that breaks ends the same way: what has passed until then is kept.
    let _ = if head.starts_with("get /raw ") { raw(&mut tee) } else { echo(&mut tee, deflate) };
    let _ = tee.reader.get_ref().shutdown(Shutdown::Write);
    let _ = tee.reader.get_ref().set_read_timeout(Some(Duration::from_secs(2)));
    let _ = io::copy(&mut tee, &mut io::sink());
    tee.record.head = head;
    records.by_case.lock().unwrap().insert(case, tee.record);
    records.came.notify_all();
}

/// A connection whose bytes are kept.
struct Tee {
    reader: BufReader<TcpStream>,
    record: Record,
}

impl Read for Tee {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        self.record.received.extend_from_slice(&out[..read]);
        Ok(read)
    }
}

impl Tee {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.record.sent.extend_from_slice(bytes);
        self.reader.get_mut().write_all(bytes)
    }

    fn send_frame(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frame.payload.len() + 16);
        frame.write(None, &mut bytes);
        self.send(&bytes)
    }
}

/// Bytes, whatever they are.
fn raw(tee: &mut Tee) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        match tee.read(&mut chunk)? {
            0 => return Ok(()),
            read => tee.send(&chunk[..read])?,
        }
    }
}

fn echo(tee: &mut Tee, deflate: Option<Deflate>) -> io::Result<()> {
    let mut messages = Messages { begun: None, deflate };
    while let Some((frame, is_masked)) = Frame::read(tee)? {
        let answer = if is_masked { messages.take(frame) } else { Err(1002) };
        match answer {
            Ok(None) => {}
            Ok(Some(frame)) => {
                tee.send_frame(&frame)?;
                if frame.opcode == CLOSE {
                    return Ok(());
                }
            }
            Err(code) => return tee.send_frame(&Frame::close(code, b"")),
        }
    }
    Ok(())
}

/// The message that has begun and is not at its end.
struct Messages {
    /// Its opcode, whether it is compressed, and its payload so far.
    begun: Option<(u8, bool, Vec<u8>)>,
    deflate: Option<Deflate>,
}

impl Messages {
    /// What is sent for a frame, or the code with which the connection fails.
    fn take(&mut self, frame: Frame) -> Result<Option<Frame>, u16> {
        let is_control = frame.opcode >= CLOSE;
        let may_be_compressed = self.deflate.is_some() && matches!(frame.opcode, TEXT | BINARY);
        if frame.reserved != 0 && !(may_be_compressed && frame.reserved == 4)
            || is_control && (!frame.is_last || frame.payload.len() > 125)
        {
            return Err(1002);
        }
        match frame.opcode {
            PING => return Ok(Some(Frame::new(PONG, frame.payload))),
            PONG => return Ok(None),
            CLOSE => return close(frame).map(Some),
            TEXT | BINARY if self.begun.is_none() => {
                self.begun = Some((frame.opcode, frame.reserved == 4, frame.payload));
            }
            CONTINUATION => match &mut self.begun {
                Some((.., payload)) => payload.extend(frame.payload),
                None => return Err(1002),
            },
            _ => return Err(1002),
        }
        let is_bad = |bytes: &[u8], is_whole: bool| {
            std::str::from_utf8(bytes).is_err_and(|e| is_whole || e.error_len().is_some())
        };
        let Some((opcode, compressed, payload)) = &mut self.begun else { return Err(1002) };
        // Every fragment is looked at when it comes, but not all before it: a text of many would be read many times.
        let from = if frame.is_last { 0 } else { payload.len().saturating_sub(4096) };
        let from = (from..payload.len()).find(|i| payload[*i] & 0xc0 != 0x80).unwrap_or(from);
        if *opcode == TEXT && !*compressed && is_bad(&payload[from..], frame.is_last) {
            return Err(1007);
        }
        if !frame.is_last {
            return Ok(None);
        }
        let (opcode, compressed, mut payload) = (*opcode, *compressed, std::mem::take(payload));
        self.begun = None;
        let Some(deflate) = self.deflate.as_mut().filter(|_| compressed) else {
            return Ok(Some(Frame::new(opcode, payload)));
        };
        payload = deflate.inflate(&payload).ok_or(1007_u16)?;
        if opcode == TEXT && is_bad(&payload, true) {
            return Err(1007);
        }
        Ok(Some(Frame::new(opcode, deflate.deflate(&payload)).reserved(4)))
    }
}

/// RFC 6455 §7.4: the same code is sent back, if it is one.
fn close(frame: Frame) -> Result<Frame, u16> {
    let Some((code, reason)) = frame.payload.split_first_chunk::<2>() else {
        return if frame.payload.is_empty() { Ok(frame) } else { Err(1002) };
    };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1011 | 3000..=4999 => {}
        _ => return Err(1002),
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(1007);
    }
    Ok(Frame::new(CLOSE, *code))
}
