//! The manifests that Wasmgate is started with: what a user of Istio would write for the same set-up as the peers'.

use std::io;
use std::path::Path;

use crate::proxy::WasmgateOptions;

/// The name of the Secret with the gateway's certificate.
pub(crate) const SECRET: &str = "bench";

/// The manifests of a gateway on `127.0.0.1:port` whose only route leads to `127.0.0.1:backend_port`, with the
/// plug-in when there is one.
pub(crate) fn gateway(options: &WasmgateOptions) -> io::Result<String> {
    let WasmgateOptions { port, backend_port, .. } = options;
    let listener = match options.secret {
        Some(_) => format!("HTTPS\n    tls:\n      certificateRefs:\n      - name: {SECRET}"),
        None => "HTTP".to_owned(),
    };
    let protocol = if options.is_upstream_http2 { "GRPC" } else { "HTTP" };
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: ingress
  namespace: istio-system
spec:
  gatewayClassName: istio
  addresses:
  - type: IPAddress
    value: 127.0.0.1
  listeners:
  - name: http
    port: {port}
    protocol: {listener}
    allowedRoutes:
      namespaces:
        from: All
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: httpbin
  namespace: default
spec:
  parentRefs:
  - name: ingress
    namespace: istio-system
  rules:
  - name: httpbin
    matches:
    - path:
        type: PathPrefix
        value: /
    backendRefs:
    - group: networking.istio.io
      kind: Hostname
      name: httpbin.default.svc.cluster.local
      port: 8000
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: httpbin
  namespace: default
spec:
  hosts:
  - httpbin.default.svc.cluster.local
  ports:
  - number: 8000
    name: http
    protocol: {protocol}
    targetPort: {backend_port}
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints:
  - address: 127.0.0.1
"
    );
    if let Some(secret) = &options.secret {
        text.push_str("---\n");
        text.push_str(secret);
    }
    if let Some(module) = &options.plugin {
        text.push_str(&wasm_plugin(module)?);
    }
    Ok(text)
}

fn wasm_plugin(module: &Path) -> io::Result<String> {
    Ok(format!(
        "---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: header-authorization
  namespace: istio-system
spec:
  selector:
    matchLabels:
      istio: ingressgateway
  url: file://{}
  phase: AUTHN
",
        module.canonicalize()?.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plug_in_is_one_more_document_with_an_absolute_url() {
        let mut options = WasmgateOptions::new("wasmgate".into(), 1, 2, 3);
        let without = gateway(&options).unwrap();
        options.plugin = Some("/proc/version".into());
        let with = gateway(&options).unwrap();
        assert_eq!(without.matches("---\n").count(), 2);
        assert!(with.starts_with(&without));
        assert!(with.contains("  url: file:///proc/version\n"));
    }

    #[test]
    fn tls_and_http2_change_the_listener_and_the_port_of_the_backend() {
        let mut options = WasmgateOptions::new("wasmgate".into(), 1, 2, 3);
        assert_eq!(gateway(&options).unwrap().matches("protocol: HTTP\n").count(), 2);
        options.secret = Some("kind: Secret\n".to_owned());
        options.is_upstream_http2 = true;
        let text = gateway(&options).unwrap();
        assert!(text.contains("protocol: HTTPS\n    tls:\n      certificateRefs:\n      - name: bench\n"));
        assert!(text.contains("protocol: GRPC\n") && text.ends_with("---\nkind: Secret\n"));
    }
}
