//! The log: levels that change at run time, three formats, a writer that never holds up a worker.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use wasmgate_host::LogLevel;
use wasmgate_plugin::LogLevelCell;

/// Levels, as Envoy's admin interface names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Trace = 0,
    Debug = 1,
    Info = 2,
    Warning = 3,
    Error = 4,
    Critical = 5,
    Off = 6,
}

impl Level {
    pub(crate) const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.as_str() == text).or((text == "warn").then_some(Self::Warning))
    }

    fn from_tracing(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Tab-separated, as an Istio gateway logs.
    Istio,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// The loggers, by Envoy's names where there is one. Everything else belongs to `main`.
const LOGGERS: [&str; 6] = ["admin", "config", "http", "main", "upstream", "wasm"];

/// The level of every logger. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogLevels {
    levels: Arc<[AtomicU8; LOGGERS.len()]>,
    /// Plug-ins look here before they format anything.
    wasm: LogLevelCell,
}

impl LogLevels {
    pub(crate) fn new(level: Level) -> Self {
        let levels = Self { levels: Arc::default(), wasm: LogLevelCell::new(None) };
        levels.set_all(level);
        levels
    }

    /// The level that plug-ins see.
    pub(crate) fn wasm_cell(&self) -> LogLevelCell {
        self.wasm.clone()
    }

    pub(crate) fn set_all(&self, level: Level) {
        for name in LOGGERS {
            self.set(name, level);
        }
    }

    /// False when there is no such logger.
    pub(crate) fn set(&self, name: &str, level: Level) -> bool {
        let Some((_, cell)) = LOGGERS.iter().zip(self.levels.iter()).find(|(n, _)| **n == name) else {
            return false;
        };
        cell.store(level as u8, Ordering::Relaxed);
        if name == "wasm" {
            self.wasm.set(LogLevel::from_guest(level as u32));
        }
        true
    }

    pub(crate) fn list(&self) -> Vec<(&'static str, Level)> {
        let level = |cell: &AtomicU8| {
            let raw = cell.load(Ordering::Relaxed);
            Level::ALL.into_iter().find(|l| *l as u8 == raw).unwrap_or(Level::Off)
        };
        LOGGERS.iter().zip(self.levels.iter()).map(|(name, cell)| (*name, level(cell))).collect()
    }

    fn allows(&self, target: &str, level: Level) -> bool {
        let logger = logger_of(target);
        let cell = LOGGERS.iter().zip(self.levels.iter()).find(|(n, _)| **n == logger);
        cell.is_some_and(|(_, cell)| level as u8 >= cell.load(Ordering::Relaxed))
    }
}

/// Libraries log under their module's path: they belong to `main`, from warning on.
fn logger_of(target: &str) -> &str {
    if LOGGERS.contains(&target) { target } else { "main" }
}

/// Lines that may wait, and their bytes. Beyond either they are dropped and counted: a stuck terminal must not stop
/// traffic, nor may what waits for it fill the memory.
const LINES_MAX: usize = 16_384;
const BYTES_MAX: usize = 8 << 20;

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

/// Writes lines to standard error on a thread of its own.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl LogWriter {
    fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut said = 0;
            while let Ok(message) = receiver.recv() {
                let line = match message {
                    Message::Line(line) => line,
                    Message::Flush(done) => {
                        drop(done);
                        continue;
                    }
                };
                let mut out = std::io::stderr().lock();
                // There is nobody left to tell when standard error is closed.
                let _ = out.write_all(line.as_bytes());
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
                let now = lost.load(Ordering::Relaxed);
                if now > said {
                    let _ =
                        writeln!(out, "({} log lines were dropped: standard error is too slow)", now - said);
                    said = now;
                }
            }
        })?;
        Ok(Self { sender, dropped, waiting_bytes })
    }

    fn send(&self, line: String) {
        let bytes = line.len();
        // Counted before it is handed over: the other side takes it off.
        let room = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= BYTES_MAX;
        if !room || self.sender.try_send(Message::Line(line)).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything that was logged has been written. Blocks.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            let _ = written.recv();
        }
    }
}

/// Installs the log for the process.
pub(crate) fn install(levels: LogLevels, format: LogFormat) -> std::io::Result<LogWriter> {
    let writer = LogWriter::start()?;
    let layer = LogLayer { levels, format, writer: writer.clone() };
    // A second log in one process can only be a test's: the first one stays.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    Ok(writer)
}

struct LogLayer {
    levels: LogLevels,
    format: LogFormat,
    writer: LogWriter,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        if !metadata.is_event() {
            return false;
        }
        let level = Level::from_tracing(*metadata.level());
        let is_ours = LOGGERS.contains(&metadata.target());
        (is_ours || level >= Level::Warning) && self.levels.allows(metadata.target(), level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = if fields.critical { Level::Critical } else { Level::from_tracing(*metadata.level()) };
        let line = Line {
            time: SystemTime::now(),
            level,
            logger: logger_of(metadata.target()),
            file: metadata.file().unwrap_or("-"),
            line: metadata.line().unwrap_or(0),
            fields,
        };
        self.writer.send(line.format(self.format));
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    critical: bool,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            // Writing to a String cannot fail.
            "message" => drop(write!(self.message, "{value:?}")),
            name => self.others.push((name, format!("{value:?}"))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => self.others.push((name, value.to_owned())),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "critical" {
            self.critical = value;
        } else {
            self.others.push((field.name(), value.to_string()));
        }
    }
}

struct Line<'l> {
    time: SystemTime,
    level: Level,
    logger: &'l str,
    file: &'l str,
    line: u32,
    fields: Fields,
}

impl Line<'_> {
    fn format(&self, format: LogFormat) -> String {
        let message = escape(&self.fields.message);
        let time = timestamp(self.time);
        let Self { level, logger, file, line, .. } = self;
        let level = level.as_str();
        match format {
            LogFormat::Istio => {
                format!(
                    "{time}\t{level}\twasmgate {logger} {file}:{line}\t{message}\tthread={}\n",
                    thread_id()
                )
            }
            LogFormat::Text => format!("{time} {level:>8} {logger}: {message}\n"),
            LogFormat::Json => {
                let mut object = serde_json::Map::new();
                let mut set = |key: &str, value: &str| drop(object.insert(key.to_owned(), value.into()));
                set("time", &time);
                set("level", level);
                set("scope", logger);
                set("msg", &self.fields.message);
                for (key, value) in &self.fields.others {
                    set(key, value);
                }
                format!("{}\n", serde_json::Value::Object(object))
            }
        }
    }
}

/// Control characters become visible: a plug-in must not be able to forge a line or to command a terminal.
fn escape(message: &str) -> String {
    if !message.chars().any(char::is_control) {
        return message.to_owned();
    }
    let mut out = String::with_capacity(message.len() + 16);
    for c in message.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = wasmgate_proxy::civil_date(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        date.0,
        date.1,
        date.2,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// The number that `top -H` shows.
fn thread_id() -> u64 {
    thread_local! {
        static ID: u64 = std::fs::read_link("/proc/thread-self").ok()
            .and_then(|p| p.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()))
            .unwrap_or(0);
    }
    ID.with(|id| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line<'static> {
        let fields = Fields {
            message: message.to_owned(),
            critical: false,
            others: vec![("plugin", "a.b".to_owned())],
        };
        let time = UNIX_EPOCH + std::time::Duration::from_micros(1_795_332_559_492_680);
        Line { time, level: Level::Debug, logger: "wasm", file: "x.rs", line: 7, fields }
    }

    #[test]
    fn the_istio_format() {
        let text = line("wasm log a.b: hi").format(LogFormat::Istio);
        let parts: Vec<&str> = text.trim_end().split('\t').collect();
        assert_eq!(
            parts[..4],
            ["2026-11-22T07:29:19.492680Z", "debug", "wasmgate wasm x.rs:7", "wasm log a.b: hi"]
        );
        assert!(parts[4].starts_with("thread="));
    }

    #[test]
    fn a_message_cannot_forge_a_line_in_any_format() {
        for format in [LogFormat::Istio, LogFormat::Json, LogFormat::Text] {
            let text = line("a\n2026\terror\tforged\u{1b}[31m").format(format);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn levels_change_one_logger_or_all() {
        let levels = LogLevels::new(Level::Info);
        assert!(levels.set("wasm", Level::Debug) && !levels.set("nope", Level::Debug));
        assert!(levels.allows("wasm", Level::Debug) && !levels.allows("http", Level::Debug));
        assert!(!levels.allows("some::library", Level::Debug));
        levels.set_all(Level::Off);
        assert!(!levels.allows("wasm", Level::Critical));
    }
}
