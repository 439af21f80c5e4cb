//! The gateway on its manifests, with everything around it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tokio::runtime::Runtime;
use wasmgate_artifact::{Image, ImageKind, Reference, RegistryCredential, push};
use wasmgate_sandbox::{Registry, RegistryOptions};
use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::manifests;
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::tls::{Authority, Identity, TlsClient};

use crate::client::{Protocol, Target};
use crate::endpoint::{self, Speech};
use crate::tally::Tally;
use crate::work::World;

/// The host of every request.
pub const HOST: &str = "test.example";

/// What the plug-in's first version says, and the second one, which is the same module with these words in it.
pub const DENIALS: [&str; 2] = ["Forbidden by ASM Wasm Plugin", "Forbidden by version 0.0.2!!"];

/// The names of two endpoints between which routes move.
pub const ENDPOINTS: [&str; 2] = ["one", "two"];

/// What can go wrong before the load begins.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A gateway that runs, and what it needs.
#[derive(Debug)]
pub struct Scene {
    /// The gateway.
    pub gateway: RunningGateway,
    /// Signs its certificates.
    pub authority: Authority,
    registry: Registry,
    _leases: [PortLease; 2],
}

impl Scene {
    /// Starts everything and waits until the gateway is ready.
    ///
    /// # Errors
    /// What does not start, with the gateway's log if it is the gateway.
    pub fn start(runtime: &Runtime, wasmgate: &Path, plugin: &Path) -> Result<(Self, World), Error> {
        let registry = runtime.block_on(async {
            let registry = Registry::start(([127, 0, 0, 1], 0).into(), RegistryOptions::default()).await?;
            publish(&registry, plugin).await?;
            Ok::<_, Error>(registry)
        })?;
        let leases = [PortLease::new()?, PortLease::new()?];
        let [tls, tcp] = [&leases[0], &leases[1]].map(PortLease::address);
        let authority = Authority::new()?;
        let mut builder = GatewayBuilder::new(&wasmgate.to_string_lossy())
            .manifest("tls.yaml", tls_gateway(tls.port()))
            .manifest("tcp.yaml", backend_of(&manifests::tcp_gateway(tcp.port()), "echo"))
            .manifest("cert.yaml", authority.issue(&[HOST])?.secret("cert", &[]))
            .manifest("route.yaml", route(ENDPOINTS[0]))
            .manifest("plugin.yaml", plugin_manifest(&registry, 0))
            // Written and thrown away: the log is on the path, and does not fill the disk.
            .argument("--access-log=/dev/null");
        for (name, protocol, speech) in [
            (ENDPOINTS[0], "HTTP", Speech::Http1),
            (ENDPOINTS[1], "HTTP", Speech::Http1),
            ("http2", "HTTP2", Speech::Http2),
            ("echo", "HTTP", Speech::Echo),
        ] {
            let address = runtime.block_on(endpoint::start(name, speech))?;
            let entry =
                manifests::service_entry(address).replace("protocol: HTTP", &format!("protocol: {protocol}"));
            builder = builder.manifest(&format!("{name}.yaml"), backend_of(&entry, name));
        }
        let world = |plain: SocketAddr| {
            let client = TlsClient::new(&authority, None, &[])?;
            Ok::<_, Error>(World {
                plain: Target { address: plain, tls: None, protocol: Protocol::Http1 },
                tls: Target { address: tls, tls: Some(client.config()), protocol: Protocol::Http1 },
                tcp,
                denials: DENIALS.map(str::to_owned),
                tally: Tally::default(),
                over: AtomicBool::new(false),
            })
        };
        let gateway = builder.run()?;
        let world = world(gateway.address())?;
        Ok((Self { gateway, authority, registry, _leases: leases }, world))
    }

    /// The plug-in's manifest with one of the versions.
    #[must_use]
    pub fn plugin(&self, version: usize) -> String {
        plugin_manifest(&self.registry, version)
    }

    /// A certificate that the gateway has not had yet.
    ///
    /// # Errors
    /// rcgen's.
    pub fn certificate(&self) -> Result<Identity, Error> {
        self.authority.issue(&[HOST])
    }
}

fn reference(registry: &Registry, version: usize) -> String {
    format!("localhost:{}/team/header-authorization:v{version}", registry.address().port())
}

fn plugin_manifest(registry: &Registry, version: usize) -> String {
    manifests::plugin(
        "header-authorization",
        &format!("oci://{}", reference(registry, version)),
        "  phase: AUTHN\n",
    )
}

/// Pushes both versions.
async fn publish(registry: &Registry, plugin: &Path) -> Result<(), Error> {
    let module = std::fs::read(plugin).map_err(|e| format!("{}: {e}", plugin.display()))?;
    let [first, second] = DENIALS.map(str::as_bytes);
    let at = module.windows(first.len()).position(|w| w == first).ok_or("the plug-in says other words")?;
    for (version, words) in [first, second].into_iter().enumerate() {
        let (before, rest) = module.split_at(at);
        let bytes = [before, words, rest.get(words.len()..).unwrap_or_default()].concat();
        let image = Image::package(&bytes, ImageKind::OciCompat)?;
        let reference = Reference::parse(&reference(registry, version))?;
        push(&image, &reference, RegistryCredential::Anonymous, true).await?;
    }
    Ok(())
}

fn tls_gateway(port: u16) -> String {
    manifests::gateway(port)
        .replace("name: ingress", "name: tls")
        .replace("name: http, port", "name: https, tls: {certificateRefs: [{name: cert}]}, port")
        .replace("protocol: HTTP", "protocol: HTTPS")
}

/// The manifest with another name in the place of `httpbin`.
fn backend_of(manifest: &str, name: &str) -> String {
    manifest.replace("name: httpbin,", &format!("name: {name},")).replace("httpbin.", &format!("{name}."))
}

/// The route: `/h2` to the endpoint that speaks HTTP/2, `/moving` to one of two, everything else to the first.
#[must_use]
pub fn route(moving: &str) -> String {
    let rule = |path: &str, backend: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs:
    - {{group: networking.istio.io, kind: Hostname, name: {backend}.default.svc.cluster.local, port: 8000}}
"
        )
    };
    format!(
        "{}{}{}{}",
        route_head("all"),
        rule("/h2", "http2"),
        rule("/moving", moving),
        rule("/", ENDPOINTS[0])
    )
}

/// A route that takes `/added` away from the one above, for the second endpoint.
#[must_use]
pub fn added_route() -> String {
    format!(
        "{}  - matches: [{{path: {{type: PathPrefix, value: /added}}}}]
    backendRefs:
    - {{group: networking.istio.io, kind: Hostname, name: {}.default.svc.cluster.local, port: 8000}}
",
        route_head("added"),
        ENDPOINTS[1]
    )
}

fn route_head(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{name: ingress, namespace: istio-system}}, {{name: tls, namespace: istio-system}}]
  rules:
"
    )
}
