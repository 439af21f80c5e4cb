//! The access log: a JSON line with the 25 fields of an Istio/ASM gateway (spec: wasmplugin-and-routing §3.18.2), written
//! in batches by a thread of its own.

mod format;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;
use http::header::USER_AGENT;
use wasmgate_stream::StreamData;

pub use self::format::{LogContext, LogFormat, LogFormatError};
use crate::clock::civil;

/// Batches that may wait for a writer that does not keep up. Beyond it lines are dropped and counted: a full disk must
/// not stop traffic.
const BATCHES_MAX: usize = 256;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log {path}: {source}")]
pub struct AccessLogError {
    path: String,
    source: std::io::Error,
}

/// What the writer's thread gets.
#[derive(Debug)]
enum Message {
    Batch(Vec<u8>),
    /// Everything before it has been written once this is dropped.
    Flush(SyncSender<()>),
    /// The file has another name by now: lines that follow go to a new one.
    Reopen,
}

/// Takes batches of lines and writes them.
#[derive(Clone, Debug)]
pub struct AccessLogSink {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogSink {
    /// A log on standard output.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn stdout() -> std::io::Result<Self> {
        Self::start(Out::Stdout(std::io::stdout()))
    }

    /// A log in a file, appended to.
    ///
    /// # Errors
    /// [`AccessLogError`]
    pub fn file(path: &Path) -> Result<Self, AccessLogError> {
        let open = || Self::start(Out::File(open(path)?, path.to_owned()));
        open().map_err(|source| AccessLogError { path: path.display().to_string(), source })
    }

    /// Opens the file anew, for whoever has renamed it. Standard output stays what it is.
    pub fn reopen(&self) {
        // Without a writer there is nothing to open.
        let _ = self.sender.send(Message::Reopen);
    }

    fn start(mut out: Out) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Message>(BATCHES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let failures = Arc::clone(&dropped);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let mut is_failing = false;
            while let Ok(message) = receiver.recv() {
                let batch = match message {
                    Message::Batch(batch) => batch,
                    Message::Flush(done) => {
                        drop(done);
                        continue;
                    }
                    Message::Reopen => {
                        out.reopen();
                        continue;
                    }
                };
                let written = out.writer().write_all(&batch).and_then(|()| out.writer().flush());
                match (written, is_failing) {
                    (Err(e), _) => {
                        let lines = batch.iter().filter(|b| **b == b'\n').count() as u64;
                        failures.fetch_add(lines, Ordering::Relaxed);
                        // Said once: a full disk would be said with every batch.
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::error!(target: "http", "access log: lines are lost: {e}");
                        }
                    }
                    (Ok(()), true) => {
                        is_failing = false;
                        tracing::info!(target: "http", "access log: lines are written again");
                    }
                    (Ok(()), false) => {}
                }
            }
        })?;
        Ok(Self { sender, dropped })
    }

    /// Lines that were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything that was handed over has been written. Blocks.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            // The other end is dropped, never used.
            let _ = written.recv();
        }
    }

    pub(crate) fn send(&self, batch: Vec<u8>) {
        let full = match self.sender.try_send(Message::Batch(batch)) {
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => message,
            Ok(()) => return,
        };
        if let Message::Batch(batch) = full {
            let lines = batch.iter().filter(|b| **b == b'\n').count() as u64;
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// Where lines go.
enum Out {
    Stdout(std::io::Stdout),
    File(File, PathBuf),
}

impl Out {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(out) => out,
            Self::File(file, _) => file,
        }
    }

    fn reopen(&mut self) {
        let Self::File(file, path) = self else { return };
        match open(path) {
            Ok(opened) => {
                *file = opened;
                tracing::info!(target: "http", "access log: {} was opened anew", path.display());
            }
            Err(e) => {
                tracing::error!(target: "http", "access log: {} cannot be opened anew, the open one is used: {e}", path.display());
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// Formats one line. `data` is missing for requests that were refused before they had a head.
pub(crate) fn format(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let data = entry.data;
    let info = data.map(|d| &d.info);
    let header = |name: &str| data.and_then(|d| d.request.headers.get(name)).map(http::HeaderValue::as_bytes);
    let is_tcp = data.is_some_and(|d| d.is_tcp);
    let pseudo = |name: &[u8]| data.filter(|d| !d.is_tcp).and_then(|d| d.request.get(name));
    let mut line = Line { out, first: true };
    line.number("bytes_received", info.map_or(0, |i| i.bytes_received));
    line.number("bytes_sent", info.map_or(entry.bytes_sent, |i| i.bytes_sent));
    line.address("downstream_local_address", Some(entry.downstream_local));
    line.address("downstream_remote_address", Some(entry.downstream_remote));
    line.number("duration", entry.duration_ms);
    line.text("istio_policy_status", None);
    line.text("method", pseudo(b":method"));
    line.text("path", pseudo(b":path"));
    let protocol = protocol(info.map_or(Version::HTTP_11, |i| i.protocol));
    line.text("protocol", Some(protocol).filter(|_| !is_tcp));
    line.text("request_id", header("x-request-id"));
    let server_name = info.and_then(|i| i.tls.as_ref()).and_then(|tls| tls.server_name.as_deref());
    line.text("requested_server_name", server_name.map(str::as_bytes));
    line.number("response_code", u64::from(entry.status));
    line.text("response_flags", Some(entry.flags.as_bytes()).filter(|f| !f.is_empty()));
    line.text("route_name", info.map(|i| i.route_name.as_bytes()).filter(|n| !n.is_empty()));
    line.time("start_time", entry.start);
    line.text("trace_id", header("x-b3-traceid"));
    line.text("upstream_cluster", info.map(|i| i.cluster_name.as_bytes()).filter(|n| !n.is_empty()));
    line.address("upstream_host", info.and_then(|i| i.upstream_host));
    line.address("upstream_local_address", info.and_then(|i| i.upstream_local));
    let service_time = info.and_then(|i| i.upstream_service_time_ms);
    line.maybe_number("upstream_service_time", service_time);
    line.maybe_number("upstream_response_time", service_time);
    let failure = info.and_then(|i| i.upstream_failure.as_deref());
    line.text("upstream_transport_failure_reason", failure.map(str::as_bytes));
    line.text(
        "user_agent",
        data.and_then(|d| d.request.headers.get(USER_AGENT)).map(http::HeaderValue::as_bytes),
    );
    line.text("x_forwarded_for", header("x-forwarded-for"));
    line.text("authority_for", pseudo(b":authority"));
    line.out.extend_from_slice(b"}\n");
}

/// What a line tells.
pub(crate) struct Entry<'e> {
    pub(crate) data: Option<&'e StreamData>,
    pub(crate) downstream_local: SocketAddr,
    pub(crate) downstream_remote: SocketAddr,
    pub(crate) start: SystemTime,
    pub(crate) duration_ms: u64,
    /// 0: the client left before there was one.
    pub(crate) status: u16,
    pub(crate) flags: &'e str,
    /// Response code details when there is no `data`.
    pub(crate) details: &'e str,
    /// When there is no `data`.
    pub(crate) bytes_sent: u64,
}

fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2",
        _ => b"HTTP/1.1",
    }
}

/// A JSON object under construction. Every value is a string, as in the log that it stands in for.
struct Line<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(if self.first { b"{\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":\"");
    }

    /// Text from outside: escaped, so that it can neither end the string nor the line.
    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        match value {
            Some(value) => escape(self.out, value),
            None => self.out.push(b'-'),
        }
        self.out.push(b'"');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.out, value);
        self.out.push(b'"');
    }

    fn maybe_number(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.text(key, None),
        }
    }

    fn address(&mut self, key: &str, value: Option<SocketAddr>) {
        self.key(key);
        match value {
            // Writing to a Vec cannot fail.
            Some(address) => drop(write!(self.out, "{address}")),
            None => self.out.push(b'-'),
        }
        self.out.push(b'"');
    }

    /// `2026-11-22T07:29:19.492Z`
    fn time(&mut self, key: &str, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second, ms) =
            (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
        self.key(key);
        let _ = write!(self.out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
        self.out.push(b'"');
    }
}

fn push_number(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
    } else {
        let _ = write!(out, "{value}");
    }
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let plain = |b: &u8| matches!(b, b' '..=b'~') && *b != b'"' && *b != b'\\';
    if value.iter().all(plain) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                c if (c as u32) < 0x20 || c == '\u{7f}' => drop(write!(out, "\\u{:04x}", c as u32)),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_cannot_forge_a_line() {
        let mut out = Vec::new();
        escape(&mut out, b"a\"b\\c\r\n{\"x\":1}\x1b[31m\xff\xc3\xa9");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a\\\"b\\\\c\\u000d\\u000a{\\\"x\\\":1}\\u001b[31m\u{fffd}é"
        );
    }

    #[test]
    fn a_refused_request_has_all_25_fields() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let start = UNIX_EPOCH + std::time::Duration::from_millis(1_795_332_568_862);
        let entry = Entry {
            data: None,
            downstream_local: address,
            downstream_remote: address,
            start,
            duration_ms: 0,
            status: 426,
            flags: "DPE",
            details: "low_version",
            bytes_sent: 16,
        };
        let mut out = Vec::new();
        format(&mut out, &entry);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("\":\"").count(), 25, "{text}");
        assert!(
            text.starts_with(
                r#"{"bytes_received":"0","bytes_sent":"16","downstream_local_address":"127.0.0.1:1""#
            ),
            "{text}"
        );
        assert!(text.contains(r#""start_time":"2026-11-22T07:29:28.862Z""#), "{text}");
        assert!(text.ends_with("\"authority_for\":\"-\"}\n"), "{text}");
    }
}
