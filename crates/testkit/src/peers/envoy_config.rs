//! Envoy's configuration as an Istio ingress gateway has it, for one route to one backend.
//!
//! It is the configuration that the recorded answers of Envoy were seen with: names, limits and the log lines are
//! Istio's, whatever a plain Envoy would have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The cluster of the backend, in Istio's `direction|port|subset|host` form.
pub const CLUSTER: &str = "outbound|8000||httpbin.default.svc.cluster.local";

/// The name of the only route.
pub const ROUTE: &str = "httpbin";

/// Istio's format of Envoy's own log.
pub const LOG_FORMAT: &str = "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t";

/// Istio's `per_connection_buffer_limit_bytes` for a gateway.
const BUFFER_BYTES_MAX: u32 = 32_768;

/// The 25 fields of the access log line of an Istio gateway, in their order.
const ACCESS_LOG_FIELDS: [(&str, &str); 25] = [
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("istio_policy_status", "%DYNAMIC_METADATA(istio.mixer:status)%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("trace_id", "%REQ(X-B3-TRACEID)%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_response_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("authority_for", "%REQ(:AUTHORITY)%"),
];

/// What Envoy does with requests when a plug-in has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// 503 for ever on that worker.
    #[default]
    FailClosed,
    /// 503 for the request that met the fault, later ones pass without the plug-in.
    FailOpen,
    /// 503 until a new VM has been made after a back-off.
    FailReload,
}

impl FailurePolicy {
    fn envoy_name(self) -> &'static str {
        match self {
            Self::FailClosed => "FAIL_CLOSED",
            Self::FailOpen => "FAIL_OPEN",
            Self::FailReload => "FAIL_RELOAD",
        }
    }
}

/// A plug-in as a filter of HTTP streams or of connections.
#[derive(Debug, Clone)]
pub struct WasmFilter {
    /// The filter's and the plug-in's name; Istio's are `namespace.name`.
    pub name: String,
    /// The module, a file.
    pub module: PathBuf,
    /// What the plug-in gets as its configuration, JSON text as Istio passes it; empty for none.
    pub configuration: String,
    /// What happens after a fault.
    pub failure_policy: FailurePolicy,
}

impl WasmFilter {
    /// A filter without configuration that fails closed.
    #[must_use]
    pub fn new(name: impl Into<String>, module: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            module: module.into(),
            configuration: String::new(),
            failure_policy: FailurePolicy::default(),
        }
    }

    fn to_config(&self, kind: &str) -> Value {
        let mut plugin = json!({
            "name": self.name,
            "failure_policy": self.failure_policy.envoy_name(),
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": { "local": { "filename": self.module } },
            },
        });
        if let (false, Some(plugin)) = (self.configuration.is_empty(), plugin.as_object_mut()) {
            let configuration = json!({ "@type": STRING_VALUE, "value": self.configuration });
            plugin.insert("configuration".to_owned(), configuration);
        }
        json!({ "name": self.name, "typed_config": { "@type": kind, "config": plugin } })
    }
}

/// What the configuration depends on.
#[derive(Debug, Clone)]
pub struct EnvoyConfig {
    /// The listener's port on 127.0.0.1, HTTP/1.1 and HTTP/2 with prior knowledge.
    pub port: u16,
    /// The admin interface's port on 127.0.0.1.
    pub admin_port: u16,
    /// The backend, the only endpoint of [`CLUSTER`].
    pub upstream: SocketAddr,
    /// The `server` header of answers.
    pub server_name: String,
    /// The hosts that the route is for; anything else gets 404.
    pub domains: Vec<String>,
    /// Plug-ins, the first nearest to the client.
    pub wasm_filters: Vec<WasmFilter>,
    /// Plug-ins of connections, before all else.
    pub network_filters: Vec<WasmFilter>,
    /// The listener passes bytes on and knows no HTTP.
    pub is_tcp: bool,
    /// The file of the access log, also `/dev/stdout`; none for `None`.
    pub access_log: Option<PathBuf>,
    /// How often a request whose connection failed is tried again. Istio's default is 2; with 0 a refused
    /// connection shows as flag `UF` at once, as in what was recorded.
    pub retries: u32,
    /// The files of a certificate and its key: the listener speaks TLS 1.3 only, without resumption.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The backend speaks HTTP/2 with prior knowledge.
    pub is_upstream_http2: bool,
}

impl EnvoyConfig {
    /// Istio's settings without plug-ins, access log and retries, for every host.
    #[must_use]
    pub fn new(port: u16, admin_port: u16, upstream: SocketAddr) -> Self {
        Self {
            port,
            admin_port,
            upstream,
            server_name: "istio-envoy".to_owned(),
            domains: vec!["*".to_owned()],
            wasm_filters: Vec::new(),
            network_filters: Vec::new(),
            is_tcp: false,
            access_log: None,
            retries: 0,
            tls: None,
            is_upstream_http2: false,
        }
    }

    /// The bootstrap configuration; a test may change it before it is used.
    #[must_use]
    pub fn to_bootstrap(&self) -> Value {
        json!({
            "node": { "id": "ingress", "cluster": "istio-ingressgateway.istio-system" },
            "admin": { "address": socket_address("127.0.0.1", self.admin_port) },
            "static_resources": { "listeners": [self.listener()], "clusters": [self.cluster()] },
        })
    }

    fn listener(&self) -> Value {
        let mut filters: Vec<Value> =
            self.network_filters.iter().map(|f| f.to_config(NETWORK_WASM)).collect();
        filters.push(if self.is_tcp {
            let proxy = json!({ "@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": CLUSTER });
            json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy })
        } else {
            let manager = self.connection_manager();
            json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager })
        });
        let mut chain = json!({ "filters": filters });
        if let (Some((certificate, key)), Some(chain)) = (&self.tls, chain.as_object_mut()) {
            chain.insert("transport_socket".to_owned(), transport_socket(certificate, key));
        }
        json!({
            "name": format!("0.0.0.0_{}", self.port),
            "traffic_direction": "OUTBOUND",
            "address": socket_address("127.0.0.1", self.port),
            "per_connection_buffer_limit_bytes": BUFFER_BYTES_MAX,
            "filter_chains": [chain],
        })
    }

    fn connection_manager(&self) -> Value {
        let mut http_filters: Vec<Value> = self.wasm_filters.iter().map(|f| f.to_config(WASM)).collect();
        http_filters
            .push(json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } }));
        let access_log: Vec<Value> = self
            .access_log
            .iter()
            .map(|path| {
                let format = json!({ "text_format_source": { "inline_string": access_log_format() } });
                let file = json!({ "@type": FILE_ACCESS_LOG, "path": path, "log_format": format });
                json!({ "name": "envoy.access_loggers.file", "typed_config": file })
            })
            .collect();
        json!({
            "@type": CONNECTION_MANAGER,
            "stat_prefix": format!("outbound_0.0.0.0_{}", self.port),
            "codec_type": "AUTO",
            "server_name": self.server_name,
            "use_remote_address": true,
            "normalize_path": true,
            "generate_request_id": true,
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "route_config": self.routes(),
            "http_filters": http_filters,
            "access_log": access_log,
        })
    }

    fn routes(&self) -> Value {
        let mut action = json!({ "cluster": CLUSTER, "timeout": "0s" });
        if let (true, Some(action)) = (self.retries > 0, action.as_object_mut()) {
            let policy = json!({
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": self.retries,
                "retriable_status_codes": [503],
            });
            action.insert("retry_policy".to_owned(), policy);
        }
        json!({
            "name": format!("http.{}", self.port),
            "virtual_hosts": [{
                "name": format!("*:{}", self.port),
                "domains": self.domains,
                "include_request_attempt_count": true,
                "routes": [{ "name": ROUTE, "match": { "prefix": "/" }, "route": action }],
            }],
        })
    }

    fn cluster(&self) -> Value {
        let address = socket_address(&self.upstream.ip().to_string(), self.upstream.port());
        let mut cluster = json!({
            "name": CLUSTER,
            "type": "STATIC",
            "connect_timeout": "10s",
            "per_connection_buffer_limit_bytes": BUFFER_BYTES_MAX,
            "load_assignment": {
                "cluster_name": CLUSTER,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
            },
        });
        if let (true, Some(cluster)) = (self.is_upstream_http2, cluster.as_object_mut()) {
            let explicit = json!({ "http2_protocol_options": {} });
            let options = json!({ "@type": HTTP_OPTIONS, "explicit_http_config": explicit });
            cluster.insert(
                "typed_extension_protocol_options".to_owned(),
                json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options }),
            );
        }
        cluster
    }
}

/// The access log line of an Istio gateway: JSON made by a text format, so every value is a string.
#[must_use]
pub fn access_log_format() -> String {
    let fields: Vec<String> =
        ACCESS_LOG_FIELDS.iter().map(|(key, operator)| format!("\"{key}\":\"{operator}\"")).collect();
    format!("{{{}}}\n", fields.join(","))
}

fn transport_socket(certificate: &Path, key: &Path) -> Value {
    let context = json!({
        "@type": TLS,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [{
                "certificate_chain": { "filename": certificate },
                "private_key": { "filename": key },
            }],
        },
    });
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

const CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                                  HttpConnectionManager";
const FILE_ACCESS_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";
const NETWORK_WASM: &str = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
const HTTP_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_has_istios_25_fields_in_order() {
        let line = access_log_format();
        assert!(line.starts_with("{\"bytes_received\":\"%BYTES_RECEIVED%\",\"bytes_sent\":"));
        assert!(line.ends_with("\"authority_for\":\"%REQ(:AUTHORITY)%\"}\n"));
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed.as_object().unwrap().len(), 25);
    }

    #[test]
    fn plug_ins_stand_before_the_router_in_their_order() {
        let mut config = EnvoyConfig::new(1, 2, "127.0.0.1:3".parse().unwrap());
        let mut first = WasmFilter::new("ns.first", "/first.wasm");
        first.configuration = "{\"a\":1}".to_owned();
        config.wasm_filters = vec![first, WasmFilter::new("ns.second", "/second.wasm")];
        let manager = config.connection_manager();
        let filters = manager["http_filters"].as_array().unwrap();
        let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["ns.first", "ns.second", "envoy.filters.http.router"]);
        assert_eq!(filters[0]["typed_config"]["config"]["configuration"]["value"], "{\"a\":1}");
        assert!(filters[1]["typed_config"]["config"].get("configuration").is_none());
    }
}
