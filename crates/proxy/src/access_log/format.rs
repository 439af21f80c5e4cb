//! Formats of the access log: Envoy's command operators, as a line of text or as a JSON object (spec:
//! wasmplugin-and-routing §3.18.4). A format is parsed once; a line is a walk over its pieces.

mod operator;
mod time;

use std::io::Write as _;

use serde_json::Value as Json;

pub use self::operator::LogContext;
use self::operator::{Operator, Value};
use super::{Entry, escape, push_number};

/// How lines of the access log look.
#[derive(Clone, Debug)]
pub struct LogFormat {
    pieces: Vec<Piece>,
    needs_response_headers: bool,
    needs_response_trailers: bool,
}

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access log format: {0}")]
pub struct LogFormatError(String);

#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Operator(Operator, Style),
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// In a line of text; `-` when there is none.
    Text,
    /// Within a string of JSON, likewise.
    JsonText,
    /// A value of JSON of its own: numbers have no quotes, and there is `null`.
    Json,
}

/// Istio's line of text (spec: wasmplugin-and-routing §3.18.3).
const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's JSON, its keys in alphabetical order (spec: wasmplugin-and-routing §3.18.1).
const ISTIO_JSON: &str = r#"{"authority":"%REQ(:AUTHORITY)%","bytes_received":"%BYTES_RECEIVED%","bytes_sent":"%BYTES_SENT%","connection_termination_details":"%CONNECTION_TERMINATION_DETAILS%","downstream_local_address":"%DOWNSTREAM_LOCAL_ADDRESS%","downstream_remote_address":"%DOWNSTREAM_REMOTE_ADDRESS%","duration":"%DURATION%","method":"%REQ(:METHOD)%","path":"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%","protocol":"%PROTOCOL%","request_id":"%REQ(X-REQUEST-ID)%","requested_server_name":"%REQUESTED_SERVER_NAME%","response_code":"%RESPONSE_CODE%","response_code_details":"%RESPONSE_CODE_DETAILS%","response_flags":"%RESPONSE_FLAGS%","route_name":"%ROUTE_NAME%","start_time":"%START_TIME%","upstream_cluster":"%UPSTREAM_CLUSTER_RAW%","upstream_host":"%UPSTREAM_HOST%","upstream_local_address":"%UPSTREAM_LOCAL_ADDRESS%","upstream_service_time":"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%","upstream_transport_failure_reason":"%UPSTREAM_TRANSPORT_FAILURE_REASON%","user_agent":"%REQ(USER-AGENT)%","x_forwarded_for":"%REQ(X-FORWARDED-FOR)%"}"#;

/// Objects and lists in each other.
const DEPTH_MAX: usize = 16;

impl LogFormat {
    /// Istio's line of text.
    ///
    /// # Errors
    /// None: it is a format.
    pub fn istio_text(context: &LogContext) -> Result<Self, LogFormatError> {
        Self::text(ISTIO_TEXT, context)
    }

    /// Istio's JSON.
    ///
    /// # Errors
    /// None: it is a format.
    pub fn istio_json(context: &LogContext) -> Result<Self, LogFormatError> {
        Self::json(ISTIO_JSON, context)
    }

    /// A line of text with operators. A line break is added where there is none.
    ///
    /// # Errors
    /// Which operator is wrong, and what would be right.
    pub fn text(format: &str, context: &LogContext) -> Result<Self, LogFormatError> {
        let mut pieces = Vec::new();
        split(format, Style::Text, context, &mut pieces)?;
        if !format.ends_with('\n') {
            pieces.push(Piece::Literal((*b"\n").into()));
        }
        Ok(Self::new(pieces))
    }

    /// A JSON object whose strings have operators. A string that is one operator becomes its value: a number, `null` or
    /// a string.
    ///
    /// # Errors
    /// What is wrong with the JSON, or with which operator.
    pub fn json(format: &str, context: &LogContext) -> Result<Self, LogFormatError> {
        let parsed: Json =
            serde_json::from_str(format).map_err(|e| LogFormatError(format!("no JSON: {e}")))?;
        if !parsed.is_object() {
            return Err(LogFormatError("a JSON object is wanted: {\"key\": \"%OPERATOR%\", …}".to_owned()));
        }
        let mut pieces = Vec::new();
        object(&parsed, context, &mut pieces, 0)?;
        pieces.push(Piece::Literal((*b"\n").into()));
        Ok(Self::new(pieces))
    }

    fn new(pieces: Vec<Piece>) -> Self {
        let uses = |wanted: fn(&Operator) -> bool| {
            pieces.iter().any(|p| matches!(p, Piece::Operator(operator, _) if wanted(operator)))
        };
        Self {
            needs_response_headers: uses(Operator::reads_response_headers),
            needs_response_trailers: uses(Operator::reads_response_trailers),
            pieces,
        }
    }

    /// Whether response headers must be kept for it.
    pub(crate) fn needs_response_headers(&self) -> bool {
        self.needs_response_headers
    }

    /// Whether response trailers must be kept for it.
    pub(crate) fn needs_response_trailers(&self) -> bool {
        self.needs_response_trailers
    }

    /// Writes a line.
    pub(crate) fn write(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Operator(operator, style) => write(out, operator, *style, entry),
            }
        }
    }
}

fn write(out: &mut Vec<u8>, operator: &Operator, style: Style, entry: &Entry<'_>) {
    let value = operator.value(entry);
    let is_quoted = style == Style::Json && !matches!(value, Value::Number(_) | Value::Absent);
    if is_quoted {
        out.push(b'"');
    }
    let cut = |text: &[u8]| operator.length_max().unwrap_or(text.len()).min(text.len());
    match value {
        Value::Absent if style == Style::Json => out.extend_from_slice(b"null"),
        Value::Absent => out.push(b'-'),
        // What comes from outside can neither end the string nor the line.
        Value::Bytes(text) => match style {
            Style::Text => plain(out, text.get(..cut(text)).unwrap_or(text)),
            Style::JsonText | Style::Json => escape(out, text.get(..cut(text)).unwrap_or(text)),
        },
        Value::Number(number) => push_number(out, number),
        // Writing to a Vec cannot fail.
        Value::Address(address) => drop(write!(out, "{address}")),
        Value::Ip(ip) => drop(write!(out, "{ip}")),
        Value::Time(time) => time.write(out, entry.start),
    }
    if is_quoted {
        out.push(b'"');
    }
}

/// Text of a line: control characters are spelt out.
fn plain(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        if *byte < 0x20 || *byte == 0x7f {
            let _ = write!(out, "\\x{byte:02x}");
        } else {
            out.push(*byte);
        }
    }
}

fn object(
    value: &Json,
    context: &LogContext,
    out: &mut Vec<Piece>,
    depth: usize,
) -> Result<(), LogFormatError> {
    if depth > DEPTH_MAX {
        return Err(LogFormatError(format!("more than {DEPTH_MAX} objects and lists in each other")));
    }
    let literal = |out: &mut Vec<Piece>, text: &str| out.push(Piece::Literal(text.as_bytes().into()));
    match value {
        Json::Object(map) => {
            for (i, (key, value)) in map.iter().enumerate() {
                let key = Json::String(key.clone());
                literal(out, &format!("{}{key}:", if i == 0 { "{" } else { "," }));
                object(value, context, out, depth + 1)?;
            }
            literal(out, if map.is_empty() { "{}" } else { "}" });
        }
        Json::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                literal(out, if i == 0 { "[" } else { "," });
                object(value, context, out, depth + 1)?;
            }
            literal(out, if items.is_empty() { "[]" } else { "]" });
        }
        Json::String(text) => {
            let mut pieces = Vec::new();
            split(text, Style::JsonText, context, &mut pieces)?;
            if let [Piece::Operator(operator, _)] = pieces.as_slice() {
                out.push(Piece::Operator(operator.clone(), Style::Json));
            } else {
                literal(out, "\"");
                out.append(&mut pieces);
                literal(out, "\"");
            }
        }
        other => literal(out, &other.to_string()),
    }
    Ok(())
}

/// Splits a format at its operators.
fn split(text: &str, style: Style, context: &LogContext, out: &mut Vec<Piece>) -> Result<(), LogFormatError> {
    let mut literal = Vec::new();
    let add = |literal: &mut Vec<u8>, out: &mut Vec<Piece>| {
        if !literal.is_empty() {
            out.push(Piece::Literal(std::mem::take(literal).into()));
        }
    };
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        append(&mut literal, before, style);
        if let Some(after) = after.strip_prefix('%') {
            literal.push(b'%');
            rest = after;
            continue;
        }
        // Of START_TIME the parameter has per cent signs of its own.
        let end = match (after.find('('), after.find('%')) {
            (Some(open), Some(end)) if open < end => {
                let close = after.find(')').ok_or_else(|| unended(after))?;
                after.get(close..).and_then(|tail| tail.find('%')).map(|at| close + at)
            }
            (_, end) => end,
        };
        let (inside, tail) = end.and_then(|end| after.split_at_checked(end)).ok_or_else(|| unended(after))?;
        add(&mut literal, out);
        out.push(Piece::Operator(Operator::parse(inside, context).map_err(LogFormatError)?, style));
        rest = tail.strip_prefix('%').unwrap_or_default();
    }
    append(&mut literal, rest, style);
    add(&mut literal, out);
    Ok(())
}

fn append(literal: &mut Vec<u8>, text: &str, style: Style) {
    if style == Style::Text {
        literal.extend_from_slice(text.as_bytes());
    } else {
        escape(literal, text.as_bytes());
    }
}

fn unended(after: &str) -> LogFormatError {
    let begin: String = after.chars().take(30).collect();
    LogFormatError(format!("the operator %{begin}… has no end; a per cent sign is written %%"))
}

#[cfg(test)]
mod tests;
