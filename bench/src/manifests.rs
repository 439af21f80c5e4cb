//! The manifests that Wasmgate is started with: what a user of Istio would write for the same set-up as the peers'.

use std::io;
use std::path::Path;

/// The manifests of a gateway on `127.0.0.1:port` whose only route leads to `127.0.0.1:backend_port`, with the
/// plug-in when there is one.
pub(crate) fn gateway(port: u16, backend_port: u16, plugin: Option<&Path>) -> io::Result<String> {
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
    protocol: HTTP
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
    protocol: HTTP
    targetPort: {backend_port}
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints:
  - address: 127.0.0.1
"
    );
    if let Some(module) = plugin {
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
        let without = gateway(1, 2, None).unwrap();
        let with = gateway(1, 2, Some(Path::new("/proc/version"))).unwrap();
        assert_eq!(without.matches("---\n").count(), 2);
        assert!(with.starts_with(&without));
        assert!(with.contains("  url: file:///proc/version\n"));
    }
}
