//! Manifests of tests, as a user would write them.

use std::net::SocketAddr;

/// A Gateway with one HTTP listener on loopback.
#[must_use]
pub fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: istio-system}}
spec:
  gatewayClassName: istio
  addresses: [{{type: IPAddress, value: 127.0.0.1}}]
  listeners:
  - {{name: http, port: {port}, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}
"
    )
}

/// A route `httpbin` that sends everything to the host `httpbin.default.svc.cluster.local`.
#[must_use]
pub fn route() -> String {
    "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: httpbin, namespace: default}
spec:
  parentRefs: [{name: ingress, namespace: istio-system}]
  rules:
  - name: httpbin
    backendRefs:
    - {group: networking.istio.io, kind: Hostname, name: httpbin.default.svc.cluster.local, port: 8000}
"
    .to_owned()
}

/// A Gateway `tcp` with one TCP listener on loopback, and a route `echo` from it to the same host.
#[must_use]
pub fn tcp_gateway(port: u16) -> String {
    let listener = gateway(port)
        .replace("name: ingress", "name: tcp")
        .replace("name: http", "name: tcp")
        .replace("protocol: HTTP", "protocol: TCP");
    format!(
        "{listener}---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: echo, namespace: default}}
spec:
  parentRefs: [{{name: tcp, namespace: istio-system}}]
  rules:
  - backendRefs:
    - {{group: networking.istio.io, kind: Hostname, name: httpbin.default.svc.cluster.local, port: 8000}}
"
    )
}

/// That host, at one endpoint.
#[must_use]
pub fn service_entry(endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: httpbin, namespace: default}}
spec:
  hosts: [httpbin.default.svc.cluster.local]
  resolution: STATIC
  ports: [{{number: 8000, name: http, protocol: HTTP, targetPort: {}}}]
  endpoints: [{{address: {}}}]
",
        endpoint.port(),
        endpoint.ip()
    )
}

/// A service `auth` in the namespace `default` with one endpoint, to which no route leads: the cluster
/// `outbound|80||auth.default.svc.cluster.local`. Without an endpoint it has none that could answer.
#[must_use]
pub fn auth_service(endpoint: Option<SocketAddr>) -> String {
    let slice = endpoint.map_or_else(String::new, |endpoint| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: auth-1, namespace: default, labels: {{kubernetes.io/service-name: auth}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]
",
            endpoint.port(),
            endpoint.ip()
        )
    });
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: auth, namespace: default}}
spec:
  ports: [{{name: http, port: 80, targetPort: 8080}}]
{slice}"
    )
}

/// A WasmPlugin of the namespace istio-system; `spec` holds further fields, two spaces deep, one per line.
#[must_use]
pub fn plugin(name: &str, url: &str, spec: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: {name}
  namespace: istio-system
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  url: {url}
{spec}"
    )
}

/// A pull secret for one registry.
#[must_use]
pub fn pull_secret(name: &str, registry: &str, username: &str, password: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: istio-system}}
type: kubernetes.io/dockerconfigjson
stringData:
  .dockerconfigjson: '{{\"auths\": {{\"{registry}\": {{\"username\": \"{username}\", \"password\": \"{password}\"}}}}}}'
"
    )
}
