//! Which route a request takes (spec: wasmplugin-and-routing §3.7).
//!
//! Lookups cost a few hash probes whatever the number of routes: host, exact path, then the path's prefixes from the
//! longest to the shortest. Only routes of one path compete, already sorted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::snapshot::Cluster;

/// Where a share of a route's requests goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Relative share.
    pub weight: u32,
    /// `None`: the reference is broken, its share is answered with 500.
    pub cluster: Option<Arc<Cluster>>,
}

/// Conditions of a route beyond host and path.
#[derive(Clone, Debug, Default)]
pub struct RouteMatch {
    /// Any when `None`.
    pub method: Option<Method>,
    /// All must be there with exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// All must be there; the first value of a name counts.
    pub query: Vec<(String, String)>,
}

/// What a request is sent to.
#[derive(Clone, Debug)]
pub struct Route {
    /// Name in logs.
    pub name: Arc<str>,
    /// Istio's name of the virtual host that it belongs to: hostname and port. Set by [`RouteTableBuilder::add`].
    pub virtual_host: Arc<str>,
    /// Conditions.
    pub matches: RouteMatch,
    /// In the manifest's order.
    pub backends: Vec<Backend>,
    /// How long its requests may take.
    pub timeouts: RouteTimeouts,
    /// When a request is sent again.
    pub retry: RetryPolicy,
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often, beyond the first time; 0: never.
    pub retries: u32,
    /// The pause before the first retry, a random part of it; later ones are longer.
    pub backoff: Duration,
    /// Also when the exchange broke off, or took too long, before an answer began: it may have had its effect.
    pub on_reset: bool,
    /// Statuses of answers that are not good enough.
    pub statuses: Vec<u16>,
}

impl Default for RetryPolicy {
    /// Istio's: only what cannot have had an effect (spec: wasmplugin-and-routing §3.10).
    fn default() -> Self {
        Self { retries: 2, backoff: Duration::from_millis(25), on_reset: false, statuses: Vec::new() }
    }
}

/// How long requests of a route may take; `None`: as long as they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// From the request's head to the end of the response.
    pub request: Option<Duration>,
    /// From there, or from the attempt before, to the end of an attempt's response.
    pub attempt: Option<Duration>,
}

impl Route {
    /// The backend for a number that is uniformly distributed; `None` when there is none with a weight.
    pub fn backend(&self, random: u64) -> Option<&Backend> {
        if let [only] = self.backends.as_slice() {
            return (only.weight > 0).then_some(only);
        }
        let total: u64 = self.backends.iter().map(|b| u64::from(b.weight)).sum();
        let mut at = random.checked_rem(total)?;
        self.backends.iter().find(|b| match at.checked_sub(u64::from(b.weight)) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
    }
}

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'r> {
    /// `:authority`, port included.
    pub authority: &'r str,
    /// `:path`, query included.
    pub path: &'r str,
    /// `:method`
    pub method: &'r Method,
    /// Headers.
    pub headers: &'r HeaderMap,
}

/// The routes of one hostname.
#[derive(Clone, Debug, Default)]
struct VirtualHost {
    exact: HashMap<Box<str>, Vec<Arc<Route>>>,
    /// Keys have no trailing slash; the prefix `/` is the empty key.
    prefix: HashMap<Box<str>, Vec<Arc<Route>>>,
    /// Length of the longest prefix: longer paths need not be tried in full.
    prefix_len_max: usize,
}

/// All hosts and routes of a listener.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact_hosts: HashMap<Box<str>, VirtualHost>,
    /// Keys are the part behind `*.`.
    wildcard_hosts: HashMap<Box<str>, VirtualHost>,
    any_host: Option<VirtualHost>,
}

impl RouteTable {
    /// The route of a request. A more specific hostname hides less specific ones even when none of its routes
    /// matches, as in Envoy.
    pub fn find(&self, request: &RequestKey<'_>) -> Option<&Arc<Route>> {
        let host = self.host(request.authority)?;
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        host.find(path, query, request)
    }

    fn host(&self, authority: &str) -> Option<&VirtualHost> {
        if self.exact_hosts.is_empty() && self.wildcard_hosts.is_empty() {
            return self.any_host.as_ref();
        }
        let name = host_of(authority);
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        if let Some(host) = self.exact_hosts.get(name) {
            return Some(host);
        }
        let mut rest = name;
        while let Some((label, parent)) = rest.split_once('.') {
            // `*` stands for something.
            if label.is_empty() {
                break;
            }
            if let Some(host) = self.wildcard_hosts.get(parent) {
                return Some(host);
            }
            rest = parent;
        }
        self.any_host.as_ref()
    }

    /// Every route.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let hosts = self.exact_hosts.values().chain(self.wildcard_hosts.values()).chain(&self.any_host);
        hosts.flat_map(|h| h.exact.values().chain(h.prefix.values()).flatten())
    }

    /// Every route with what leads to it, for people: hostname (`*` for any), kind of path match, path. Those of one
    /// hostname and path stand in the order in which they are tried.
    pub fn entries(&self) -> Vec<(String, &'static str, String, &Arc<Route>)> {
        let exact = self.exact_hosts.iter().map(|(name, host)| (name.to_string(), host));
        let wildcard = self.wildcard_hosts.iter().map(|(name, host)| (format!("*.{name}"), host));
        let any = self.any_host.iter().map(|host| ("*".to_owned(), host));
        let mut hosts: Vec<_> = exact.chain(wildcard).chain(any).collect();
        hosts.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut out = Vec::new();
        for (name, host) in hosts {
            let paths = |kind, map: &'_ HashMap<Box<str>, Vec<Arc<Route>>>| {
                let mut paths: Vec<_> = map.keys().map(|path| (kind, path.to_string())).collect();
                // The longest prefix is tried first.
                paths.sort_by(|(_, a), (_, b)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
                paths
            };
            for (kind, path) in
                paths("Exact", &host.exact).into_iter().chain(paths("PathPrefix", &host.prefix))
            {
                let routes = if kind == "Exact" { host.exact.get(&*path) } else { host.prefix.get(&*path) };
                let shown = if path.is_empty() { "/" } else { &path };
                out.extend(routes.into_iter().flatten().map(|r| (name.clone(), kind, shown.to_owned(), r)));
            }
        }
        out
    }

    /// Names of all clusters that routes lead to.
    pub fn cluster_names(&self) -> BTreeSet<Arc<str>> {
        self.routes()
            .flat_map(|r| &r.backends)
            .filter_map(|b| b.cluster.as_ref())
            .map(|c| Arc::clone(&c.name))
            .collect()
    }

    /// Number of routes, for people.
    pub fn len(&self) -> usize {
        self.routes().count()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RouteTable {
    /// The authority without port; an IPv6 literal keeps its brackets.
    pub fn host_of(authority: &str) -> &str {
        host_of(authority)
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    }
}

impl VirtualHost {
    fn find(&self, path: &str, query: &str, request: &RequestKey<'_>) -> Option<&Arc<Route>> {
        let pick = |routes: Option<&'_ Vec<Arc<Route>>>| -> Option<usize> {
            routes?.iter().position(|r| r.matches.accepts(query, request))
        };
        if let Some(routes) = self.exact.get(path)
            && let Some(at) = pick(Some(routes))
        {
            return routes.get(at);
        }
        let mut end = path.strip_suffix('/').unwrap_or(path).len();
        loop {
            let key = path.get(..end)?;
            if end <= self.prefix_len_max
                && let Some(routes) = self.prefix.get(key)
                && let Some(at) = pick(Some(routes))
            {
                return routes.get(at);
            }
            // Prefixes match whole segments: cut at the last slash.
            end = key.rfind('/')?;
        }
    }
}

impl RouteMatch {
    fn accepts(&self, query: &str, request: &RequestKey<'_>) -> bool {
        self.method.as_ref().is_none_or(|m| m == request.method)
            && self.headers.iter().all(|(name, wanted)| has_value(request.headers, name, wanted))
            && self.query.iter().all(|(name, wanted)| first_parameter(query, name) == Some(wanted))
    }
}

/// Several values of a name are compared as one list.
fn has_value(headers: &HeaderMap, name: &HeaderName, wanted: &HeaderValue) -> bool {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(only), None) => only == wanted,
        (Some(_), Some(_)) => {
            let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            all.join(&b","[..]) == wanted.as_bytes()
        }
    }
}

fn first_parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// Order of routes with the same host and path: the smaller key wins (spec: wasmplugin-and-routing §3.7, steps 4–9).
type Precedence = (bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>, String, String, usize, usize);

/// A route on its way into a table.
struct Candidate {
    host: Option<String>,
    is_exact: bool,
    path: String,
    precedence: Precedence,
    route: Arc<Route>,
}

/// Collects routes and sorts them once.
#[derive(Default)]
pub struct RouteTableBuilder {
    port: u16,
    candidates: Vec<Candidate>,
}

impl std::fmt::Debug for RouteTableBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTableBuilder").field("routes", &self.candidates.len()).finish()
    }
}

impl RouteTableBuilder {
    /// A table for a listener's port.
    pub fn new(port: u16) -> Self {
        Self { port, candidates: Vec::new() }
    }

    /// Adds a route. `host`: lower case, may begin with `*.`, `None` for any. `origin`: creation timestamp,
    /// `namespace/name`, number of the rule, number of the match.
    pub fn add(
        &mut self,
        host: Option<&str>,
        is_exact: bool,
        path: &str,
        origin: (&str, &str, usize, usize),
        mut route: Route,
    ) {
        use std::cmp::Reverse;
        route.virtual_host = format!("{}:{}", host.unwrap_or("*"), self.port).into();
        let matches = &route.matches;
        let precedence = (
            matches.method.is_none(),
            Reverse(matches.headers.len()),
            Reverse(matches.query.len()),
            // Without a timestamp a resource counts as the newest.
            if origin.0.is_empty() { "~".to_owned() } else { origin.0.to_owned() },
            origin.1.to_owned(),
            origin.2,
            origin.3,
        );
        let path = if is_exact { path } else { path.strip_suffix('/').unwrap_or(path) };
        let host = host.map(str::to_owned);
        self.candidates.push(Candidate {
            host,
            is_exact,
            path: path.to_owned(),
            precedence,
            route: Arc::new(route),
        });
    }

    /// The table.
    pub fn build(mut self) -> RouteTable {
        self.candidates.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        let mut table = RouteTable::default();
        for candidate in self.candidates {
            let host = match candidate.host.as_deref() {
                None => table.any_host.get_or_insert_default(),
                Some(name) => match name.strip_prefix("*.") {
                    Some(parent) => table.wildcard_hosts.entry(parent.into()).or_default(),
                    None => table.exact_hosts.entry(name.into()).or_default(),
                },
            };
            if candidate.is_exact {
                host.exact.entry(candidate.path.into()).or_default().push(candidate.route);
            } else {
                host.prefix_len_max = host.prefix_len_max.max(candidate.path.len());
                host.prefix.entry(candidate.path.into()).or_default().push(candidate.route);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rules(RouteTableBuilder, usize);

    impl Rules {
        fn new() -> Self {
            Self(RouteTableBuilder::default(), 0)
        }

        fn add(
            mut self,
            name: &str,
            host: Option<&str>,
            is_exact: bool,
            path: &str,
            matches: RouteMatch,
        ) -> Self {
            let route = Route {
                name: name.into(),
                virtual_host: "".into(),
                matches,
                backends: Vec::new(),
                timeouts: RouteTimeouts::default(),
                retry: RetryPolicy::default(),
            };
            self.0.add(host, is_exact, path, ("", "ns/r", self.1, 0), route);
            self.1 += 1;
            self
        }
    }

    fn find(
        table: &RouteTable,
        authority: &str,
        path: &str,
        method: &str,
        headers: &[(&str, &str)],
    ) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let method: Method = method.parse().unwrap();
        let key = RequestKey { authority, path, method: &method, headers: &map };
        table.find(&key).map_or_else(|| "404".to_owned(), |r| r.name.to_string())
    }

    fn headers(pairs: &[(&str, &str)]) -> RouteMatch {
        let parse = |(n, v): &(&str, &str)| (n.parse().unwrap(), v.parse().unwrap());
        RouteMatch { headers: pairs.iter().map(parse).collect(), ..RouteMatch::default() }
    }

    #[test]
    fn exact_beats_prefix_and_longer_beats_shorter() {
        let table = [
            ("A", true, "/match"),
            ("B", true, "/match/exact"),
            ("C", true, "/match/exact/one"),
            ("D", false, "/match/"),
            ("E", false, "/match/prefix/"),
            ("F", false, "/match/prefix/one"),
        ]
        .iter()
        .fold(Rules::new(), |r, (n, e, p)| r.add(n, None, *e, p, RouteMatch::default()))
        .0
        .build();
        for (path, wanted) in [
            ("/match/exact/one", "C"),
            ("/match/exact", "B"),
            ("/match", "A"),
            ("/match/prefix/one/any", "F"),
            ("/match/prefix/any", "E"),
            ("/match/any", "D"),
            ("/match/", "D"),
            ("/matching", "404"),
            ("/", "404"),
        ] {
            assert_eq!(find(&table, "h", path, "GET", &[]), wanted, "{path}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let table = Rules::new()
            .add("v1", None, false, "/", RouteMatch::default())
            .add("v2", None, false, "/v2", RouteMatch::default())
            .add("v2", None, false, "/", headers(&[("version", "two")]))
            .0
            .build();
        for (path, wanted) in [
            ("/", "v1"),
            ("/v2", "v2"),
            ("/v2/", "v2"),
            ("/v2/x?y=/", "v2"),
            ("/v2example", "v1"),
            ("/foo/v2/x", "v1"),
        ] {
            assert_eq!(find(&table, "h", path, "GET", &[]), wanted, "{path}");
        }
        assert_eq!(find(&table, "h", "/", "GET", &[("version", "two")]), "v2");
    }

    #[test]
    fn method_beats_headers_and_more_headers_beat_fewer() {
        let patch = RouteMatch { method: Some(Method::PATCH), ..RouteMatch::default() };
        let query = RouteMatch { query: vec![("animal".into(), "whale".into())], ..RouteMatch::default() };
        let table = Rules::new()
            .add("h1", None, false, "/", headers(&[("version", "two")]))
            .add("h2", None, false, "/", headers(&[("version", "two"), ("color", "orange")]))
            .add("m", None, false, "/", patch)
            .add("q", None, false, "/", query)
            .0
            .build();
        assert_eq!(find(&table, "h", "/", "PATCH", &[("version", "two")]), "m");
        assert_eq!(find(&table, "h", "/", "GET", &[("version", "two"), ("color", "orange")]), "h2");
        assert_eq!(find(&table, "h", "/", "GET", &[("color", "orange")]), "404");
        assert_eq!(find(&table, "h", "/?animal=whale&animal=x", "GET", &[]), "q");
        assert_eq!(find(&table, "h", "/?animal=whaledolphin", "GET", &[]), "404");
    }

    #[test]
    fn hosts_exact_then_longest_wildcard_then_any() {
        let any = RouteMatch::default;
        let table = Rules::new()
            .add("bar", Some("bar.com"), false, "/", any())
            .add("foo", Some("foo.bar.com"), true, "/only", any())
            .add("wild", Some("*.bar.com"), false, "/", any())
            .add("wilder", Some("*.a.bar.com"), false, "/", any())
            .add("any", None, false, "/", any())
            .0
            .build();
        for (host, wanted) in [
            ("bar.com:8080", "bar"),
            ("BAR.com", "bar"),
            ("baz.bar.com", "wild"),
            ("x.a.bar.com", "wilder"),
            ("other", "any"),
            ("[::1]:80", "any"),
            ("foo.bar.com", "404"),
        ] {
            assert_eq!(find(&table, host, "/", "GET", &[]), wanted, "{host}");
        }
    }

    #[test]
    fn weights_decide_in_proportion_and_zero_gets_nothing() {
        let backend = |weight| Backend { weight, cluster: None };
        let route = Route {
            timeouts: RouteTimeouts::default(),
            retry: RetryPolicy::default(),
            virtual_host: "".into(),
            name: "r".into(),
            matches: RouteMatch::default(),
            backends: vec![backend(1), backend(0), backend(3)],
        };
        let mut hits = [0; 3];
        for n in 0..400 {
            let chosen = route.backend(n).unwrap();
            hits[route.backends.iter().position(|b| std::ptr::eq(b, chosen)).unwrap()] += 1;
        }
        assert_eq!(hits, [100, 0, 300]);
        let none = Route {
            timeouts: RouteTimeouts::default(),
            retry: RetryPolicy::default(),
            virtual_host: "".into(),
            name: "r".into(),
            matches: RouteMatch::default(),
            backends: vec![backend(0), backend(0)],
        };
        assert!(none.backend(7).is_none());
    }
}
