//! `HTTPRoute` of the Gateway API: the part that matches and forwards.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::decode::{Fields, Sink, Spot};
use crate::gateway::is_hostname;
use crate::meta::Position;
use crate::node::Value;
use crate::quantity;
use crate::route_table::{RetryPolicy, RouteTimeouts};

/// Rules that send requests to backends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpRoute {
    pub(crate) parents: Vec<ParentRef>,
    pub(crate) hostnames: Vec<String>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentRef {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) section: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) at: Position,
    pub(crate) path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<Match>,
    pub(crate) backends: Vec<BackendRef>,
    pub(crate) timeouts: RouteTimeouts,
    pub(crate) retry: RetryPolicy,
    pub(crate) at: Position,
    pub(crate) path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Match {
    pub(crate) path: PathMatch,
    pub(crate) method: Option<Method>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) query: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathMatch {
    Exact(String),
    Prefix(String),
}

/// What a rule sends requests to. `kind` decides how the name is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendRef {
    pub(crate) kind: BackendKind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    pub(crate) at: Position,
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// A Kubernetes service.
    Service,
    /// Istio's way to name a host of a `ServiceEntry`.
    Hostname,
    /// Something else: its share of the requests is answered with 500.
    Unknown,
}

pub(crate) const PARENTS_MAX: usize = 32;
const HOSTNAMES_MAX: usize = 16;
const RULES_MAX: usize = 16;
const MATCHES_MAX: usize = 64;
const HEADERS_MAX: usize = 16;
const CODES_MAX: usize = 64;
const RETRIES_MAX: u32 = 100;
const BACKENDS_MAX: usize = 16;
const PATH_CHARS_MAX: usize = 1024;
const WEIGHT_MAX: i64 = 1_000_000;

impl HttpRoute {
    pub(crate) fn decode(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let parents = spec
            .objects("parentRefs", PARENTS_MAX, sink)
            .into_iter()
            .filter_map(|fields| closed(fields, sink, parent))
            .collect();
        let mut hostnames = Vec::new();
        for hostname in spec.texts("hostnames", HOSTNAMES_MAX, sink) {
            if is_hostname(&hostname.value) {
                hostnames.push(hostname.value);
            } else {
                sink.error(
                    hostname.at,
                    &hostname.path,
                    &format!("{:?} is no hostname: a lower-case DNS name, or *. and one", hostname.value),
                );
            }
        }
        let rules =
            spec.objects("rules", RULES_MAX, sink).into_iter().map(|f| closed(f, sink, rule)).collect();
        Some(Self { parents, hostnames, rules })
    }
}

/// Reads an object as a whole: what is left of it is a typing error, and a rule whose `matches` is misspelt matches all.
pub(crate) fn closed<T>(
    mut fields: Fields<'_>,
    sink: &mut Sink<'_>,
    read: impl FnOnce(&mut Fields<'_>, &mut Sink<'_>) -> T,
) -> T {
    let read = read(&mut fields, sink);
    fields.finish(sink);
    read
}

pub(crate) fn parent(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<ParentRef> {
    let path = fields.path_of("name");
    let group = fields.text("group", sink);
    let kind = fields.text("kind", sink);
    let parent = ParentRef {
        namespace: fields.text("namespace", sink).map(|n| n.value),
        name: fields.text("name", sink)?.value,
        section: fields.text("sectionName", sink).map(|s| s.value),
        port: fields.port("port", sink).map(|p| p.value),
        at: fields.position(),
        path,
    };
    let is = |spot: &Option<Spot<String>>, wanted: &str| spot.as_ref().is_none_or(|s| s.value == wanted);
    // A route may have parents that belong to other controllers.
    (is(&group, "gateway.networking.k8s.io") && is(&kind, "Gateway")).then_some(parent)
}

fn rule(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Rule {
    let path = fields.path_of("backendRefs");
    let name = fields.text("name", sink).map(|n| n.value);
    let mut matches: Vec<Match> = fields
        .objects("matches", MATCHES_MAX, sink)
        .into_iter()
        .map(|f| closed(f, sink, one_match))
        .collect();
    if matches.is_empty() {
        let path = PathMatch::Prefix("/".to_owned());
        matches.push(Match { path, method: None, headers: Vec::new(), query: Vec::new() });
    }
    let backends = fields
        .objects("backendRefs", BACKENDS_MAX, sink)
        .into_iter()
        .filter_map(|f| closed(f, sink, backend))
        .collect();
    for unsupported in ["filters", "sessionPersistence"] {
        if let Some(node) = fields.node(unsupported) {
            let path = fields.path_of(unsupported);
            sink.error(node.at, &path, "is not supported yet; without it the rule would behave differently");
        }
    }
    let timeouts = match fields.object("timeouts", sink) {
        Some(timeouts) => closed(timeouts, sink, timeouts_of),
        None => RouteTimeouts::default(),
    };
    let retry = match fields.object("retry", sink) {
        Some(retry) => closed(retry, sink, retry_of),
        None => RetryPolicy::default(),
    };
    Rule { name, matches, backends, timeouts, retry, at: fields.position(), path }
}

/// `0s` is no limit (spec: wasmplugin-and-routing §3.10).
fn timeouts_of(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> RouteTimeouts {
    let mut read = |key: &str| {
        let spot = fields.text(key, sink)?;
        let parsed = quantity::duration(&spot.value);
        if parsed.is_none() {
            let text = format!("{:?} is no duration: one like 10s, 500ms or 1m30s", spot.value);
            sink.error(spot.at, &spot.path, &text);
        }
        parsed.map(|duration| (duration, spot))
    };
    let (request, attempt) = (read("request"), read("backendRequest"));
    if let (Some((request, _)), Some((attempt, spot))) = (&request, &attempt)
        && !request.is_zero()
        && (attempt > request || attempt.is_zero())
    {
        sink.error(spot.at, &spot.path, "backendRequest timeout cannot be longer than request timeout");
    }
    let limit = |read: Option<(Duration, Spot<String>)>| read.map(|(d, _)| d).filter(|d| !d.is_zero());
    RouteTimeouts { request: limit(request), attempt: limit(attempt) }
}

/// Whoever asks for retries also gets them where an answer did not begin (spec: wasmplugin-and-routing §3.10).
fn retry_of(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> RetryPolicy {
    let mut retry = RetryPolicy { on_reset: true, ..RetryPolicy::default() };
    for (node, path) in fields.list("codes", CODES_MAX, sink) {
        match node.value {
            Value::Int(code) if (400..=599).contains(&code) => {
                retry.statuses.extend(u16::try_from(code));
            }
            _ => sink.error(node.at, &path, "is no status of a failure: 400 to 599"),
        }
    }
    if let Some(attempts) = fields.int("attempts", sink) {
        match u32::try_from(attempts.value).ok().filter(|n| *n <= RETRIES_MAX) {
            Some(retries) => retry.retries = retries,
            None => {
                let text = format!("{} is out of range: 0 to {RETRIES_MAX}", attempts.value);
                sink.error(attempts.at, &attempts.path, &text);
            }
        }
    }
    if let Some(backoff) = fields.text("backoff", sink) {
        match quantity::duration(&backoff.value) {
            Some(pause) => retry.backoff = pause,
            None => {
                let text = format!("{:?} is no duration: one like 10s, 500ms or 1m30s", backoff.value);
                sink.error(backoff.at, &backoff.path, &text);
            }
        }
    }
    retry
}

fn one_match(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Match {
    let path = fields
        .object("path", sink)
        .map_or(PathMatch::Prefix("/".to_owned()), |f| closed(f, sink, path_match));
    let method = fields.text("method", sink).and_then(|m| match m.value.as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            m.value.parse().ok()
        }
        _ => {
            sink.error(m.at, &m.path, &format!("Unsupported value: {:?}", m.value));
            None
        }
    });
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in named_values(fields, "headers", sink) {
        match (HeaderName::from_bytes(name.value.as_bytes()), HeaderValue::from_str(&value.value)) {
            // Of two entries with one name the first counts.
            (Ok(n), Ok(v)) if !headers.iter().any(|(other, _)| *other == n) => headers.push((n, v)),
            (Ok(_), Ok(_)) => {}
            (Err(_), _) => sink.error(name.at, &name.path, &format!("{:?} is no header name", name.value)),
            (_, Err(_)) => sink.error(value.at, &value.path, "is no header value"),
        }
    }
    let query =
        named_values(fields, "queryParams", sink).into_iter().map(|(n, v)| (n.value, v.value)).collect();
    Match { path, method, headers, query }
}

fn named_values(
    fields: &mut Fields<'_>,
    key: &str,
    sink: &mut Sink<'_>,
) -> Vec<(Spot<String>, Spot<String>)> {
    let mut out = Vec::new();
    for mut item in fields.objects(key, HEADERS_MAX, sink) {
        exact_only(&mut item, sink);
        if let (Some(name), Some(value)) = (item.text("name", sink), item.text("value", sink)) {
            out.push((name, value));
            item.finish(sink);
        } else if sink.is_clean() {
            sink.error(item.position(), &item.path_of("name"), "name and value are required");
        }
    }
    out
}

fn exact_only(fields: &mut Fields<'_>, sink: &mut Sink<'_>) {
    if let Some(spot) = fields.text("type", sink)
        && spot.value != "Exact"
    {
        sink.error(
            spot.at,
            &spot.path,
            &format!("match type {:?} is not supported yet, only Exact", spot.value),
        );
    }
}

fn path_match(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> PathMatch {
    let words = [("Exact", Some(true)), ("PathPrefix", Some(false)), ("RegularExpression", None)];
    let kind = fields.word("type", &words, sink);
    if let Some(kind) = kind.as_ref().filter(|k| k.value.is_none()) {
        sink.error(kind.at, &kind.path, "RegularExpression is not supported yet, only Exact and PathPrefix");
    }
    let value = fields.text("value", sink);
    if let Some(value) = value.as_ref()
        && let Err(reason) = check_path(&value.value)
    {
        sink.error(value.at, &value.path, reason);
    }
    let value = value.map_or_else(|| "/".to_owned(), |v| v.value);
    if kind.and_then(|k| k.value) == Some(true) { PathMatch::Exact(value) } else { PathMatch::Prefix(value) }
}

/// The rules for Exact and PathPrefix values (spec: wasmplugin-and-routing §3.6).
fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("must be an absolute path: start it with '/'");
    }
    if path.chars().count() > PATH_CHARS_MAX {
        return Err("must be at most 1024 characters");
    }
    if ["//", "/./", "/../", "%2f", "%2F", "#"].iter().any(|bad| path.contains(bad)) {
        return Err("must not contain '//', '/./', '/../', '%2f', '%2F' or '#'");
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Err("must not end with '/..' or '/.'");
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("must only contain valid characters: letters, digits, -._~!$&'()*+,;=:@/ and %hh");
    }
    Ok(())
}

pub(crate) fn backend(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<BackendRef> {
    let group = fields.text("group", sink).map(|g| g.value).unwrap_or_default();
    let kind = fields.text("kind", sink).map_or_else(|| "Service".to_owned(), |k| k.value);
    let kind = match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => BackendKind::Service,
        ("networking.istio.io", "Hostname") => BackendKind::Hostname,
        _ => BackendKind::Unknown,
    };
    let weight = fields.int("weight", sink).map_or(1, |w| {
        if !(0..=WEIGHT_MAX).contains(&w.value) {
            sink.error(w.at, &w.path, &format!("{} is no weight: 0 to {WEIGHT_MAX}", w.value));
        }
        u32::try_from(w.value).unwrap_or(0)
    });
    if let Some(node) = fields.node("filters") {
        let path = fields.path_of("filters");
        sink.error(node.at, &path, "is not supported yet");
    }
    let name = fields.text("name", sink).or_else(|| {
        let path = fields.path_of("name");
        sink.error(fields.position(), &path, "Required value");
        None
    })?;
    let port = fields.port("port", sink);
    if port.is_none() && kind != BackendKind::Unknown && !fields.has("port") {
        let path = fields.path_of("port");
        sink.error(fields.position(), &path, "Required value: a Service or Hostname needs its port");
    }
    let namespace = fields.text("namespace", sink).map(|n| n.value);
    Some(BackendRef {
        kind,
        namespace,
        name: name.value,
        port: port.map(|p| p.value),
        weight,
        at: name.at,
        path: name.path,
    })
}
