//! `wasmgate demo`: the whole story in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use wasmgate_artifact::{Image, ImageKind, Reference, RegistryCredential, push};
use wasmgate_sandbox::{Authentication, Backend, Registry, RegistryOptions};

use crate::cli::{ConfigArguments, DemoArguments, Labels, ProcessArguments, RunArguments, say};
use crate::error::CommandError;
use crate::logging::{Level, LogFormat};
use crate::run::run_until;

/// The manifests that the demo applies, as they stand in the repository.
const MANIFESTS: [(&str, &str); 3] = [
    ("backend.yaml", include_str!("../../../examples/header-authorization/backend.yaml")),
    ("gateway.yaml", include_str!("../../../examples/header-authorization/gateway.yaml")),
    ("plugin.yaml", include_str!("../../../examples/header-authorization/plugin.yaml")),
];

/// The compiled plug-in: examples/plugins/rust/header-authorization.
const PLUGIN: &[u8] =
    include_bytes!("../../../examples/plugins/rust/header-authorization/header-authorization.wasm");

/// What the manifests say; replaced where an address is another one.
const REGISTRY: &str = "localhost:5000";
const BACKEND_PORT: &str = "targetPort: 8000";
const LISTENER_PORT: &str = "port: 8080";
const LISTENER_ADDRESS: &str = "value: 127.0.0.1";
const REPOSITORY: &str = "test-oci/header-authorization:v0.0.1";
const USERNAME: &str = "demo";
const PASSWORD: &str = "demo-password";

pub(crate) async fn demo(arguments: &DemoArguments) -> Result<ExitCode, CommandError> {
    let authentication =
        Authentication::Basic { username: USERNAME.to_owned(), password: PASSWORD.to_owned() };
    let registry = start_near(arguments.registry, |at| {
        Registry::start(at, RegistryOptions { authentication: authentication.clone() })
    })
    .await?;
    let backend = start_near(arguments.backend, Backend::start).await?;
    let registry_name = format!("localhost:{}", registry.address().port());
    push_plugin(&registry_name).await?;
    let folder = tempfile::Builder::new()
        .prefix("wasmgate-demo-")
        .tempdir()
        .map_err(CommandError::io("cannot make a folder"))?;
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).map_err(CommandError::io("cannot make a folder"))?;
    for (name, text) in MANIFESTS {
        let text = adapt(text, &registry_name, backend.address(), arguments.listen);
        std::fs::write(manifests.join(name), text).map_err(CommandError::io("cannot write a manifest"))?;
    }
    let run = run_arguments(arguments, &manifests, &folder.path().join("cache"));
    let status = run_until(&run, || announce(arguments, &registry_name, backend.address(), &manifests)).await;
    // The folder, the registry and the backend go with their values.
    drop((folder, registry, backend));
    status
}

/// Starts a server at an address, or at another port if it is taken.
async fn start_near<T, F: Future<Output = std::io::Result<T>>>(
    address: SocketAddr,
    start: impl Fn(SocketAddr) -> F,
) -> Result<T, CommandError> {
    match start(address).await {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => start(SocketAddr::new(address.ip(), 0)).await,
        result => result,
    }
    .map_err(CommandError::io(format!("cannot listen near {address}")))
}

async fn push_plugin(registry: &str) -> Result<(), CommandError> {
    let demo = |e: &dyn std::fmt::Display| CommandError::Demo(e.to_string());
    let image = Image::package(PLUGIN, ImageKind::OciCompat).map_err(|e| demo(&e))?;
    let reference = Reference::parse(&format!("{registry}/{REPOSITORY}")).map_err(|e| demo(&e))?;
    let credential =
        RegistryCredential::Basic { username: USERNAME.to_owned(), password: PASSWORD.to_owned() };
    push(&image, &reference, credential, false).await.map(|_| ()).map_err(|e| demo(&e))
}

/// The manifests with the addresses of this run.
fn adapt(text: &str, registry: &str, backend: SocketAddr, listen: SocketAddr) -> String {
    text.replace(REGISTRY, registry)
        .replace(BACKEND_PORT, &format!("targetPort: {}", backend.port()))
        .replace(LISTENER_PORT, &format!("port: {}", listen.port()))
        .replace(LISTENER_ADDRESS, &format!("value: {}", listen.ip()))
}

fn run_arguments(arguments: &DemoArguments, manifests: &Path, cache: &Path) -> RunArguments {
    RunArguments {
        config: ConfigArguments {
            config: vec![manifests.to_owned()],
            namespace: "istio-system".to_owned(),
            root_namespace: "istio-system".to_owned(),
            labels: Labels([("istio".to_owned(), "ingressgateway".to_owned())].into()),
            locality: None,
            cache_dir: Some(cache.to_owned()),
            insecure_registry: Vec::new(),
            allow_host_env: Vec::new(),
            plugin_log_limit: 1024,
        },
        process: ProcessArguments {
            admin: arguments.admin,
            workers: None,
            log_level: Level::Info,
            log_format: LogFormat::Istio,
            access_log: "-".to_owned(),
            access_log_format: "asm".to_owned(),
            server_header: "wasmgate".to_owned(),
            startup_wait: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(300),
            trusted_hops: 0,
            accept_http_10: false,
            max_memory: None,
            max_request_body: None,
            dns_server: Vec::new(),
            max_connections: None,
            tls_handshake_timeout: Duration::from_secs(10),
            delayed_close_timeout: Duration::from_secs(1),
            takeover: None,
            drain_delay: Duration::ZERO,
            drain_time: Duration::from_secs(1),
        },
    }
}

fn announce(arguments: &DemoArguments, registry: &str, backend: SocketAddr, manifests: &Path) {
    let (gateway, admin) = (arguments.listen, arguments.admin);
    say(&format!(
        "
The gateway is ready. It pulled {registry}/{REPOSITORY} with the credential of a Secret,
and enforces it in front of a backend at {backend}. Try, in another terminal:

  curl -i http://{gateway}/status/418                      # 403: no `allow: true`
  curl -i http://{gateway}/status/418 -H 'allow: true'     # 418 from the backend
  curl -s http://{gateway}/headers -H 'allow: true'        # what the backend sees

  curl -XPOST 'http://{admin}/logging?wasm=debug'          # then deny again: the plug-in's own line
  curl -s http://{admin}/plugins                           # state, digest, VMs, faults
  curl -s http://{admin}/stats/prometheus
  curl -s http://{admin}/help

The manifests are in {}: edit one and see.
Ctrl-C ends everything.
",
        manifests.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_manifests_is_replaced() {
        let all: String = MANIFESTS.iter().map(|(_, text)| *text).collect();
        for literal in [REGISTRY, BACKEND_PORT, LISTENER_PORT, LISTENER_ADDRESS] {
            assert!(all.contains(literal), "{literal} is not in the example");
        }
        let adapted = adapt(
            &all,
            "localhost:1234",
            "127.0.0.1:2345".parse().unwrap(),
            "127.0.0.1:3456".parse().unwrap(),
        );
        for literal in [REGISTRY, BACKEND_PORT, LISTENER_PORT] {
            assert!(!adapted.contains(literal), "{literal} is left");
        }
    }
}
