//! `DestinationRule`: how the endpoints of a host are treated (spec: wasmplugin-and-routing §3.15).

use std::time::Duration;

use http::HeaderName;

use crate::decode::{Fields, Sink, Spot};
use crate::http_route::closed;
use crate::meta::{ObjectMeta, Position};
use crate::policy::{
    ClusterLimits, HashKey, HashTable, HealthCheck, LoadBalancer, OutlierDetection, ProxyProtocol,
    RetryBudget, TcpKeepalive, Warmup,
};
use crate::quantity;

mod health;

/// A rule for one host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DestinationRule {
    /// As written: a full name, a short one, or `*.` and a suffix.
    pub(crate) host: String,
    pub(crate) policy: TrafficPolicy,
    /// Instead of `policy` for some ports of the service; nothing of it is inherited.
    pub(crate) ports: Vec<(u16, TrafficPolicy)>,
    /// From annotations.
    pub(crate) health_check: Option<HealthCheck>,
    pub(crate) at: Position,
}

/// What is said of a host, or of one of its ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TrafficPolicy {
    pub(crate) balance: LoadBalancer,
    pub(crate) warmup: Option<Warmup>,
    pub(crate) locality: Locality,
    pub(crate) limits: ClusterLimits,
    pub(crate) upgrades_to_http2: Option<bool>,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
}

/// How endpoints of other places are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locality {
    pub(crate) is_enabled: bool,
    /// Regions, and where their traffic goes when they fail.
    pub(crate) failover: Vec<(String, String)>,
}

impl Default for Locality {
    fn default() -> Self {
        Self { is_enabled: true, failover: Vec::new() }
    }
}

/// TLS as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) is_mutual: bool,
    pub(crate) credential: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) skip_verify: bool,
    pub(crate) at: Position,
    pub(crate) path: String,
}

const PORTS_MAX: usize = 256;
const FAILOVER_MAX: usize = 64;
const NAMES_MAX: usize = 64;
const RING_SIZE: u32 = 1024;
/// Envoy's largest; each point costs 12 bytes on every worker.
const RING_SIZE_MAX: u32 = 8 << 20;
const MAGLEV_SIZE: u32 = 65_537;
const MAGLEV_SIZE_MAX: u32 = 5_000_011;

impl DestinationRule {
    pub(crate) fn decode(spec: &mut Fields<'_>, meta: &ObjectMeta, sink: &mut Sink<'_>) -> Option<Self> {
        let host = spec.text("host", sink).filter(|h| !h.value.is_empty());
        if host.is_none() && sink.is_clean() {
            sink.error(spec.position(), &spec.path_of("host"), "Required value");
        }
        let (mut policy, mut ports) = (TrafficPolicy::default(), Vec::new());
        if let Some(mut fields) = spec.object("trafficPolicy", sink) {
            for mut port in fields.objects("portLevelSettings", PORTS_MAX, sink) {
                let number =
                    port.object("port", sink).and_then(|p| closed(p, sink, |p, s| p.port("number", s)));
                if number.is_none() && sink.is_clean() {
                    sink.error(port.position(), &port.path_of("port.number"), "Required value");
                }
                let own = traffic_policy(&mut port, sink);
                port.finish(sink);
                ports.extend(number.map(|n| (n.value, own)));
            }
            policy = traffic_policy(&mut fields, sink);
            fields.finish(sink);
        }
        if let Some(node) = spec.node("subsets") {
            let text = "subsets are not used: nothing can lead to one yet, and their traffic policies have no effect";
            sink.warn(node.at, &spec.path_of("subsets"), text);
        }
        for ignored in ["exportTo", "workloadSelector"] {
            if let Some(node) = spec.node(ignored) {
                sink.warn(node.at, &spec.path_of(ignored), "is not used: the rule applies to this gateway");
            }
        }
        let health_check = health::check(meta, spec.position(), sink);
        Some(Self { host: host?.value, policy, ports, health_check, at: spec.position() })
    }
}

/// Says of fields that Istio knows that they have no effect here.
fn unused(fields: &mut Fields<'_>, keys: &[&str], sink: &mut Sink<'_>) {
    for key in keys {
        if let Some(node) = fields.node(key) {
            sink.warn(node.at, &fields.path_of(key), "is not supported, it has no effect");
        }
    }
}

fn traffic_policy(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> TrafficPolicy {
    let mut policy = TrafficPolicy::default();
    if let Some(fields) = fields.object("loadBalancer", sink) {
        closed(fields, sink, |f, s| load_balancer(f, &mut policy, s));
    }
    if let Some(mut fields) = fields.object("connectionPool", sink) {
        connection_pool(&mut fields, &mut policy, sink);
        fields.finish(sink);
    }
    policy.outlier = fields.object("outlierDetection", sink).map(|f| closed(f, sink, outlier));
    policy.tls = fields.object("tls", sink).and_then(|f| closed(f, sink, tls));
    let versions = [("V1", ProxyProtocol::V1), ("V2", ProxyProtocol::V2)];
    policy.proxy_protocol = fields.object("proxyProtocol", sink).map(|f| {
        closed(f, sink, |f, s| f.word("version", &versions, s).map_or(ProxyProtocol::V1, |v| v.value))
    });
    if let Some(fields) = fields.object("retryBudget", sink) {
        policy.limits.retry_budget = Some(closed(fields, sink, retry_budget));
    }
    unused(fields, &["tunnel"], sink);
    policy
}

fn load_balancer(fields: &mut Fields<'_>, policy: &mut TrafficPolicy, sink: &mut Sink<'_>) {
    let words = [
        ("UNSPECIFIED", Some(LoadBalancerWord::LeastRequest)),
        ("LEAST_REQUEST", Some(LoadBalancerWord::LeastRequest)),
        ("LEAST_CONN", Some(LoadBalancerWord::LeastRequest)),
        ("ROUND_ROBIN", Some(LoadBalancerWord::RoundRobin)),
        ("RANDOM", Some(LoadBalancerWord::Random)),
        ("PASSTHROUGH", None),
    ];
    match fields.word("simple", &words, sink) {
        Some(Spot { value: Some(word), .. }) => {
            policy.balance = match word {
                LoadBalancerWord::LeastRequest => LoadBalancer::LeastRequest,
                LoadBalancerWord::RoundRobin => LoadBalancer::RoundRobin,
                LoadBalancerWord::Random => LoadBalancer::Random,
            }
        }
        Some(spot) => {
            let text =
                "PASSTHROUGH is not supported: a gateway's client does not know the address of an endpoint";
            sink.error(spot.at, &spot.path, text);
        }
        None => {}
    }
    let hash = fields.object("consistentHash", sink).and_then(|f| closed(f, sink, consistent_hash));
    if let Some((key, table)) = hash {
        policy.balance = LoadBalancer::Hash(key, table);
    }
    let old = duration(fields, "warmupDurationSecs", sink);
    policy.warmup = old.map(|time| Warmup { time, minimum_percent: 10 });
    if let Some(mut warmup) = fields.object("warmup", sink) {
        let time = duration(&mut warmup, "duration", sink);
        let minimum = number(&mut warmup, "minimumPercent", 0, 100, sink).unwrap_or(10);
        unused(&mut warmup, &["aggression"], sink);
        warmup.finish(sink);
        policy.warmup = time.map(|time| Warmup { time, minimum_percent: minimum });
    }
    policy.warmup = policy.warmup.filter(|w| !w.time.is_zero());
    if let Some(mut locality) = fields.object("localityLbSetting", sink) {
        policy.locality.is_enabled = locality.boolean("enabled", sink).unwrap_or(true);
        for mut rule in locality.objects("failover", FAILOVER_MAX, sink) {
            let (from, to) = (rule.text("from", sink), rule.text("to", sink));
            if let (Some(from), Some(to)) = (from, to) {
                policy.locality.failover.push((from.value, to.value));
            }
            rule.finish(sink);
        }
        unused(&mut locality, &["distribute", "failoverPriority"], sink);
        locality.finish(sink);
    }
}

#[derive(Clone, Copy)]
enum LoadBalancerWord {
    LeastRequest,
    RoundRobin,
    Random,
}

fn consistent_hash(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<(HashKey, HashTable)> {
    let mut keys = Vec::new();
    if let Some(name) = fields.text("httpHeaderName", sink) {
        match HeaderName::from_bytes(name.value.as_bytes()) {
            Ok(header) => keys.push(HashKey::Header(header)),
            Err(_) => sink.error(name.at, &name.path, &format!("{:?} is no header name", name.value)),
        }
    }
    if let Some(mut cookie) = fields.object("httpCookie", sink) {
        let name = cookie.text("name", sink).map(|n| n.value).unwrap_or_default();
        let path = cookie.text("path", sink).map(|p| p.value).unwrap_or_default();
        let ttl = duration(&mut cookie, "ttl", sink);
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | ',' | '=' | '"');
        if name.is_empty() || !name.chars().all(is_plain) {
            sink.error(cookie.position(), &cookie.path_of("name"), "the name of a cookie is required");
        }
        if !path.chars().all(|c| c.is_ascii_graphic() && c != ';') {
            sink.error(cookie.position(), &cookie.path_of("path"), "is no path of a cookie");
        }
        cookie.finish(sink);
        keys.push(HashKey::Cookie { name, path, ttl });
    }
    if fields.boolean("useSourceIp", sink) == Some(true) {
        keys.push(HashKey::SourceIp);
    }
    if let Some(name) = fields.text("httpQueryParameterName", sink) {
        keys.push(HashKey::QueryParameter(name.value));
    }
    let old = number(fields, "minimumRingSize", 1, RING_SIZE_MAX, sink);
    let mut table = HashTable::Ring(old.unwrap_or(RING_SIZE));
    if let Some(mut ring) = fields.object("ringHash", sink) {
        let size = number(&mut ring, "minimumRingSize", 1, RING_SIZE_MAX, sink);
        table = HashTable::Ring(size.unwrap_or(RING_SIZE));
        ring.finish(sink);
    }
    if let Some(mut maglev) = fields.object("maglev", sink) {
        let size = number(&mut maglev, "tableSize", 2, MAGLEV_SIZE_MAX, sink).unwrap_or(MAGLEV_SIZE);
        if !is_prime(size) {
            let text = format!("{size} is no prime number, which a table of Maglev needs");
            sink.error(maglev.position(), &maglev.path_of("tableSize"), &text);
        }
        table = HashTable::Maglev(size);
        maglev.finish(sink);
    }
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Some((key, table)),
        _ if !sink.is_clean() => None,
        _ => {
            let text = "exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is required";
            sink.error(fields.position(), fields.path(), text);
            None
        }
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn connection_pool(fields: &mut Fields<'_>, policy: &mut TrafficPolicy, sink: &mut Sink<'_>) {
    let limits = &mut policy.limits;
    if let Some(mut tcp) = fields.object("tcp", sink) {
        limits.connections = number(&mut tcp, "maxConnections", 1, MAX, sink);
        limits.connect_time = positive(&mut tcp, "connectTimeout", sink);
        limits.connection_time = positive(&mut tcp, "maxConnectionDuration", sink);
        limits.idle_time = positive(&mut tcp, "idleTimeout", sink);
        if let Some(mut keepalive) = tcp.object("tcpKeepalive", sink) {
            limits.keepalive = Some(TcpKeepalive {
                probes: number(&mut keepalive, "probes", 1, 255, sink),
                time: positive(&mut keepalive, "time", sink),
                interval: positive(&mut keepalive, "interval", sink),
            });
            keepalive.finish(sink);
        }
        tcp.finish(sink);
    }
    if let Some(mut http) = fields.object("http", sink) {
        limits.pending = number(&mut http, "http1MaxPendingRequests", 1, MAX, sink);
        limits.requests = number(&mut http, "http2MaxRequests", 1, MAX, sink);
        limits.retries = number(&mut http, "maxRetries", 0, MAX, sink);
        // 0 is no bound.
        limits.requests_per_connection =
            number(&mut http, "maxRequestsPerConnection", 0, MAX, sink).filter(|n| *n > 0);
        limits.streams_per_connection =
            number(&mut http, "maxConcurrentStreams", 0, MAX, sink).filter(|n| *n > 0);
        limits.idle_time = positive(&mut http, "idleTimeout", sink).or(limits.idle_time);
        let words = [("DEFAULT", None), ("DO_NOT_UPGRADE", Some(false)), ("UPGRADE", Some(true))];
        policy.upgrades_to_http2 = http.word("h2UpgradePolicy", &words, sink).and_then(|w| w.value);
        unused(&mut http, &["useClientProtocol"], sink);
        http.finish(sink);
    }
}

const MAX: u32 = i32::MAX as u32;

fn outlier(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> OutlierDetection {
    let splits = fields.boolean("splitExternalLocalOriginErrors", sink).unwrap_or(false);
    let local = number(fields, "consecutiveLocalOriginFailures", 0, MAX, sink);
    let old = number(fields, "consecutiveErrors", 0, MAX, sink);
    OutlierDetection {
        consecutive_5xx: number(fields, "consecutive5xxErrors", 0, MAX, sink).unwrap_or(5),
        consecutive_gateway: number(fields, "consecutiveGatewayErrors", 0, MAX, sink).or(old).unwrap_or(0),
        consecutive_local: splits.then_some(local.unwrap_or(5)),
        interval: positive(fields, "interval", sink).unwrap_or(Duration::from_secs(10)),
        base_time: positive(fields, "baseEjectionTime", sink).unwrap_or(Duration::from_secs(30)),
        max_percent: number(fields, "maxEjectionPercent", 0, 100, sink).unwrap_or(10),
        min_health_percent: number(fields, "minHealthPercent", 0, 100, sink).unwrap_or(0),
    }
}

fn tls(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<TlsSettings> {
    let words = [("DISABLE", 0), ("SIMPLE", 1), ("MUTUAL", 2), ("ISTIO_MUTUAL", 3)];
    let mode = fields.word("mode", &words, sink);
    for key in ["clientCertificate", "privateKey", "caCertificates", "caCrl"] {
        if let Some(node) = fields.node(key) {
            let text = "files are not supported: put them into a Secret and name it in credentialName";
            sink.error(node.at, &fields.path_of(key), text);
        }
    }
    let settings = TlsSettings {
        is_mutual: mode.as_ref().is_some_and(|m| m.value == 2),
        credential: fields.text("credentialName", sink).map(|c| c.value),
        sni: fields.text("sni", sink).map(|s| s.value),
        names: fields.texts("subjectAltNames", NAMES_MAX, sink).into_iter().map(|n| n.value).collect(),
        skip_verify: fields.boolean("insecureSkipVerify", sink).unwrap_or(false),
        at: fields.position(),
        path: fields.path_of("credentialName"),
    };
    match mode {
        Some(Spot { value: 3, at, path }) => {
            sink.error(
                at,
                &path,
                "ISTIO_MUTUAL needs the certificates of a mesh, and this gateway is in none",
            );
            None
        }
        Some(Spot { value: 0, .. }) | None => None,
        Some(_) if settings.is_mutual && settings.credential.is_none() => {
            sink.error(settings.at, &settings.path, "MUTUAL needs the Secret with the certificate to show");
            None
        }
        Some(_) => Some(settings),
    }
}

fn retry_budget(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> RetryBudget {
    let percent = match fields.object("percent", sink) {
        Some(mut percent) => {
            let value = number(&mut percent, "value", 0, 100, sink);
            percent.finish(sink);
            value
        }
        None => None,
    };
    RetryBudget {
        basis_points: percent.unwrap_or(20) * 100,
        minimum: number(fields, "minRetryConcurrency", 0, MAX, sink).unwrap_or(3),
    }
}

/// A number between two bounds.
fn number(fields: &mut Fields<'_>, key: &str, min: u32, max: u32, sink: &mut Sink<'_>) -> Option<u32> {
    let spot = fields.int(key, sink)?;
    match u32::try_from(spot.value).ok().filter(|n| (min..=max).contains(n)) {
        Some(number) => Some(number),
        None => {
            sink.error(spot.at, &spot.path, &format!("{} is out of range: {min} to {max}", spot.value));
            None
        }
    }
}

fn duration(fields: &mut Fields<'_>, key: &str, sink: &mut Sink<'_>) -> Option<Duration> {
    let spot = fields.text(key, sink)?;
    let parsed = quantity::fractional_duration(&spot.value);
    if parsed.is_none() {
        let text = format!("{:?} is no duration: one like 10s, 500ms or 1.5s", spot.value);
        sink.error(spot.at, &spot.path, &text);
    }
    parsed
}

/// A duration that is no limit when it is zero.
fn positive(fields: &mut Fields<'_>, key: &str, sink: &mut Sink<'_>) -> Option<Duration> {
    duration(fields, key, sink).filter(|d| !d.is_zero())
}
