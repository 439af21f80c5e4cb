//! The WasmPlugin resource (spec: wasmplugin-and-routing §1): every rule with its message, selection and order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::sync::Arc;

use wasmgate_config::{
    Credential, Diagnostic, FailStrategy, GatewayIdentity, ManifestFile, Phase, PullPolicy, Severity,
    Snapshot, Store, compile,
};

fn file(name: &str, text: &str) -> ManifestFile {
    ManifestFile { name: Arc::from(name), text: text.to_owned() }
}

fn identity() -> GatewayIdentity {
    GatewayIdentity {
        namespace: "istio-system".into(),
        root_namespace: "istio-system".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        locality: String::new(),
    }
}

fn compiled(text: &str) -> (Snapshot, Vec<Diagnostic>) {
    let mut store = Store::default();
    let mut diagnostics = store.replace(&[file("x.yaml", text)]);
    let (snapshot, more) = compile(&store.resources(), &identity());
    diagnostics.extend(more);
    (snapshot, diagnostics)
}

/// A plug-in with these lines in its spec.
fn plugin(spec: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: p, namespace: istio-system}}\nspec:\n{spec}"
    )
}

fn messages(spec: &str, severity: Severity) -> Vec<String> {
    let (_, diagnostics) = compiled(&plugin(spec));
    diagnostics.iter().filter(|d| d.severity == severity).map(ToString::to_string).collect()
}

#[test]
fn every_rule_has_its_message_and_place() {
    let url = "  url: oci://r.test/x:1\n";
    let long = "x".repeat(300);
    for (spec, message) in [
        ("  phase: AUTHN\n".to_owned(), "spec.url: url field needs to be set"),
        ("  url: ''\n".to_owned(), "spec.url: url field needs to be set"),
        (
            "  url: ftp://x/y\n".to_owned(),
            "x.yaml:5:8: error: WasmPlugin/istio-system/p: spec.url: url contains unsupported scheme: ftp",
        ),
        ("  url: 'https://'\n".to_owned(), "failed to parse url"),
        ("  url: [1]\n".to_owned(), "spec.url: must be of type string, but is a list"),
        (format!("{url}  sha256: abc\n"), "sha256 field must be 64 characters long"),
        (format!("{url}  sha256: {}\n", "Z".repeat(64)), "sha256 field must match [a-f0-9]{64} pattern"),
        (
            format!("{url}  imagePullSecret: ''\n"),
            "spec.imagePullSecret in body should be at least 1 chars long",
        ),
        (
            format!("{url}  imagePullSecret: {long}\n"),
            "imagePullSecret field must be less than 253 characters long",
        ),
        (format!("{url}  pluginName: ''\n"), "spec.pluginName in body should be at least 1 chars long"),
        (format!("{url}  pluginName: {long}\n"), "pluginName field must be less than 255 characters long"),
        (
            format!("{url}  imagePullPolicy: Never\n"),
            "Unsupported value: \"Never\": supported values: \"UNSPECIFIED_POLICY\", \"IfNotPresent\", \"Always\"",
        ),
        (format!("{url}  phase: 1\n"), "spec.phase: must be of type string, but is a number"),
        (format!("{url}  failStrategy: FAIL\n"), "spec.failStrategy: Unsupported value: \"FAIL\""),
        (format!("{url}  priority: 99999999999\n"), "spec.priority: must be a 32-bit integer"),
        (
            format!("{url}  pluginConfig: text\n"),
            "spec.pluginConfig: must be of type object, but is a string",
        ),
        (
            format!("{url}  vmConfig: {{env: [{{name: ''}}]}}\n"),
            "spec.vmConfig.env[0].name: should be at least 1 chars long",
        ),
        (
            format!("{url}  vmConfig: {{env: [{{name: A}}, {{name: A}}]}}\n"),
            "duplicate env: Duplicate value: \"A\"",
        ),
        (
            format!("{url}  vmConfig: {{env: [{{name: A, valueFrom: HOST, value: x}}]}}\n"),
            "value may only be set when valueFrom is INLINE",
        ),
        (
            format!("{url}  vmConfig: {{env: [{{name: {long}}}]}}\n"),
            "env.name field must be less than 255 characters long",
        ),
        (format!("{url}  match: [{{ports: [{{}}]}}]\n"), "spec.match[0].ports[0].number: Required value"),
        (
            format!("{url}  match: [{{ports: [{{number: 70000}}]}}]\n"),
            "spec.match[0].ports[0].number: is out of range: 70000",
        ),
        (format!("{url}  selector: {{matchLabels: {{a: '*'}}}}\n"), "wildcard is not supported in selector"),
        (format!("{url}  selector: {{matchLabels: {{'': b}}}}\n"), "empty key is not supported in selector"),
        (
            format!(
                "{url}  selector: {{matchLabels: {{a: b}}}}\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: g}}]\n"
            ),
            "only one of targetRefs or workloadSelector can be set",
        ),
        (
            format!("{url}  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway}}]\n"),
            "targetRef name must be set",
        ),
        (
            format!(
                "{url}  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: g, namespace: other}}]\n"
            ),
            "cross namespace referencing is not supported",
        ),
        (
            format!("{url}  targetRefs: [{{group: apps, kind: Deployment, name: g}}]\n"),
            "but was apps/Deployment",
        ),
        (format!("{url}  type: TCP\n"), "Unsupported value: \"TCP\""),
    ] {
        let found = messages(&spec, Severity::Error);
        assert!(found.iter().any(|m| m.contains(message)), "{message}\nnot in {found:#?}");
        assert!(found.iter().all(|m| m.starts_with("x.yaml:")), "{found:?}");
    }
}

#[test]
fn what_is_only_odd_is_a_warning() {
    let url = "  url: oci://r.test/x:1\n";
    for (spec, message) in [
        (format!("{url}  selector: {{}}\n"), "workload selector specified without labels"),
        (format!("{url}  match: [{{mode: SERVER}}]\n"), "SERVER never matches on a gateway"),
        (format!("{url}  verificationKey: abc\n"), "signatures are not verified yet"),
        (
            format!("{url}  imagePullPolice: Always\n"),
            "spec.imagePullPolice: unknown field, it is ignored; did you mean imagePullPolicy?",
        ),
    ] {
        assert_eq!(messages(&spec, Severity::Error), Vec::<String>::new(), "{spec}");
        let found = messages(&spec, Severity::Warning);
        assert!(found.iter().any(|m| m.contains(message)), "{message}\nnot in {found:?}");
    }
}

#[test]
fn all_fields_reach_the_specification() {
    let text = "
apiVersion: v1
kind: Secret
metadata: {name: regcred, namespace: istio-system}
type: kubernetes.io/dockerconfigjson
data: {.dockerconfigjson: e30=}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: full
  namespace: istio-system
  annotations: {wasmgate.dev/callback-time-max: 250ms, wasmgate.dev/memory-max: 64Mi}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  url: oci://registry.test:5000/team/filter:1.4.0
  sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  imagePullPolicy: IfNotPresent
  imagePullSecret: regcred
  pluginName: my_root
  pluginConfig: {rules: [{path: /admin, allow: false}], limit: 5}
  phase: AUTHZ
  priority: 20
  failStrategy: FAIL_RELOAD
  type: HTTP
  match: [{mode: CLIENT, ports: [{number: 80}, {number: 443}]}]
  vmConfig:
    env:
    - {name: TRUST_DOMAIN, value: cluster.local}
    - {name: POD_NAME, valueFrom: HOST}
";
    let (snapshot, diagnostics) = compiled(text);
    assert_eq!(diagnostics, []);
    let spec = &snapshot.plugins[0];
    assert_eq!((&*spec.name, &*spec.root_id), ("istio-system.full", "my_root"));
    assert_eq!(&*spec.configuration, r#"{"rules":[{"path":"/admin","allow":false}],"limit":5}"#);
    assert_eq!(
        (spec.phase, spec.priority, spec.fail_strategy),
        (Phase::Authz, Some(20), FailStrategy::Reload)
    );
    assert_eq!(spec.pull_policy, PullPolicy::IfNotPresent);
    assert_eq!(spec.credential, Credential::DockerConfig(b"{}"[..].into()));
    assert_eq!(spec.env.len(), 2);
    assert_eq!(spec.options.callback_time_max, Some(std::time::Duration::from_millis(250)));
    assert_eq!(spec.options.memory_bytes_max, Some(64 << 20));
    for empty in ["", "  pluginConfig: {}\n", "  pluginConfig:\n"] {
        let (snapshot, _) = compiled(&plugin(&format!("  url: oci://r.test/x:1\n{empty}")));
        assert_eq!(&*snapshot.plugins[0].configuration, "", "{empty:?}");
    }
}

#[test]
fn secrets_that_cannot_be_used_say_why() {
    let with = |secret: &str| {
        let text = format!("{}---\n{secret}", plugin("  url: oci://r.test/x:1\n  imagePullSecret: s\n"));
        let (snapshot, _) = compiled(&text);
        match &snapshot.plugins[0].credential {
            Credential::Unusable(reason) => reason.clone(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(with("# none\n"), "secret istio-system/s not found");
    let elsewhere = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: other}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '{}'}\n";
    assert_eq!(
        with(elsewhere),
        "secret istio-system/s not found",
        "another namespace's secrets are not ours"
    );
    let typed = |kind: &str, key: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: istio-system}}\ntype: {kind}\nstringData: {{{key}: '{{}}'}}\n"
        )
    };
    assert_eq!(
        with(&typed("Opaque", ".dockerconfigjson")),
        "type of secret istio-system/s is not kubernetes.io/dockerconfigjson, but Opaque"
    );
    assert!(
        with(&typed("kubernetes.io/dockerconfigjson", "other"))
            .starts_with("cannot find docker config at secret istio-system/s")
    );
    assert_eq!(
        with(&typed("kubernetes.io/dockerconfigjson", ".dockerconfigjson")),
        "DockerConfig(…)",
        "and the content is not shown"
    );
}

fn named(name: &str, namespace: &str, created: &str, spec: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\nspec: {{url: 'oci://r.test/x:1', {spec}}}\n---\n"
    )
}

fn order(text: &str, identity: &GatewayIdentity) -> Vec<String> {
    let mut store = Store::default();
    store.replace(&[file("x.yaml", text)]);
    compile(&store.resources(), identity).0.plugins.iter().map(|p| p.name.to_string()).collect()
}

#[test]
fn the_order_of_the_chain() {
    let text = [
        named("last", "istio-system", "", "phase: UNSPECIFIED_PHASE, priority: 1000"),
        named("stats", "istio-system", "", "phase: STATS"),
        named("b-unset", "istio-system", "2026-01-01T00:00:00Z", "phase: AUTHN"),
        named("a-unset", "istio-system", "2026-01-02T00:00:00Z", "phase: AUTHN"),
        named("minus", "istio-system", "", "phase: AUTHN, priority: -5"),
        named("ten", "istio-system", "", "phase: AUTHN, priority: 10"),
        named("authz", "istio-system", "", "phase: AUTHZ"),
    ]
    .concat();
    let names: Vec<String> = ["ten", "minus", "b-unset", "a-unset", "authz", "stats", "last"]
        .map(|n| format!("istio-system.{n}"))
        .into();
    assert_eq!(order(&text, &identity()), names, "phase, priority (unset last), age");
    let text = [
        named("x", "istio-system", "2020-01-01T00:00:00Z", ""),
        named("x", "edge", "2026-01-01T00:00:00Z", ""),
    ]
    .concat();
    let edge = GatewayIdentity { namespace: "edge".into(), ..identity() };
    assert_eq!(order(&text, &edge), ["edge.x", "istio-system.x"], "own namespace before the root namespace");
}

#[test]
fn a_target_reference_means_the_listeners_of_that_gateway() {
    let gateway = |name: &str, port: u16| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: istio-system}}\nspec:\n  gatewayClassName: istio\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"
        )
    };
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]";
    let text = format!("{}{}{}", named("p", "istio-system", "", target), gateway("a", 81), gateway("b", 82));
    let (snapshot, diagnostics) = compiled(&text);
    assert_eq!(diagnostics, []);
    let by_port: Vec<_> = snapshot.listeners.iter().map(|l| (l.address.port(), l.plugins.len())).collect();
    assert_eq!(by_port, [(81, 1), (82, 0)]);
    let text = format!(
        "{}{}",
        named("p", "istio-system", "", "match: [{ports: [{number: 9999}]}]"),
        gateway("a", 81)
    );
    let (_, diagnostics) = compiled(&text);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert_eq!(diagnostics[0].message, "applies to no listener, so it never runs: the ports here are 81");
}

#[test]
fn which_gateways_a_plug_in_applies_to() {
    let named_gateway = GatewayIdentity {
        labels: [("gateway.networking.k8s.io/gateway-name".to_owned(), "g".to_owned())].into(),
        ..identity()
    };
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]";
    for (text, identity, applies) in [
        (named("p", "istio-system", "", ""), identity(), true),
        (named("p", "elsewhere", "", ""), identity(), false),
        (
            named("p", "istio-system", "", "selector: {matchLabels: {istio: ingressgateway}}"),
            identity(),
            true,
        ),
        (
            named("p", "istio-system", "", "selector: {matchLabels: {istio: egressgateway}}"),
            identity(),
            false,
        ),
        (
            named("p", "istio-system", "", "selector: {matchLabels: {istio: ingressgateway, app: x}}"),
            identity(),
            false,
        ),
        (named("p", "istio-system", "", target), identity(), false),
        (named("p", "istio-system", "", target), named_gateway.clone(), true),
    ] {
        assert_eq!(!order(&text, &identity).is_empty(), applies, "{text}");
    }
    let (_, diagnostics) =
        compiled(&named("p", "istio-system", "", "selector: {matchLabels: {istio: egressgateway}}"));
    let text = diagnostics[0].to_string();
    assert!(text.contains("does not apply to this gateway: it selects istio=egressgateway, the gateway has istio=ingressgateway"), "{text}");
}

#[test]
fn match_chooses_listeners() {
    let gateway = |port: u16| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g{port}, namespace: istio-system}}\nspec: {{gatewayClassName: istio, listeners: [{{name: a, port: {port}, protocol: HTTP}}]}}\n---\n"
        )
    };
    for (spec, ports) in [
        ("", vec![80, 8080]),
        ("match: [{mode: CLIENT}]", vec![80, 8080]),
        ("match: [{mode: SERVER}]", vec![]),
        ("match: [{ports: [{number: 8080}]}]", vec![8080]),
        ("match: [{mode: SERVER}, {mode: CLIENT_AND_SERVER, ports: [{number: 80}]}]", vec![80]),
    ] {
        let text = [gateway(80), gateway(8080), named("p", "istio-system", "", spec)].concat();
        let (snapshot, _) = compiled(&text);
        let with: Vec<u16> =
            snapshot.listeners.iter().filter(|l| !l.plugins.is_empty()).map(|l| l.address.port()).collect();
        assert_eq!(with, ports, "{spec}");
    }
}

#[test]
fn what_is_broken_keeps_its_last_good_version() {
    let mut store = Store::default();
    let good = plugin("  url: oci://r.test/x:1\n");
    store.replace(&[file("a.yaml", &good)]);
    let names = |store: &Store| {
        compile(&store.resources(), &identity())
            .0
            .plugins
            .iter()
            .map(|p| p.url.to_string())
            .collect::<Vec<_>>()
    };
    for broken in ["a: [", &plugin("  url: ftp://x/y\n"), &good.replace("metadata:", "metadata: {}\nwas:")] {
        let diagnostics = store.replace(&[file("a.yaml", broken)]);
        assert!(diagnostics.iter().any(|d| d.severity == Severity::Error), "{broken}");
        // A document that does not even say its name is taken for the one that is not there any more.
        assert_eq!(names(&store), ["oci://r.test/x:1"], "{broken}");
        assert_eq!(store.gaps(), []);
        // Nor does it help to rename the file, as long as the name of the resource can be read.
        if broken.contains("ftp") {
            store.replace(&[file("b.yaml", broken)]);
            assert_eq!(names(&store), ["oci://r.test/x:1"], "{broken}");
        }
        store.replace(&[file("a.yaml", &good)]);
    }
    store.replace(&[]);
    assert_eq!(names(&store), Vec::<String>::new(), "a file that is gone takes its resources along");
    let twice = store.replace(&[file("a.yaml", &good), file("b.yaml", &good)]);
    assert!(twice[0].to_string().contains("is defined twice, the one at a.yaml:1 is used"), "{}", twice[0]);
}

#[test]
fn what_was_never_valid_is_a_gap_until_it_is_repaired() {
    let good = plugin("  url: oci://r.test/x:1\n");
    for (broken, named) in [
        ("a: [", false),
        (&*plugin("  url: ftp://x/y\n"), true),
        (&*good.replace("metadata:", "was:"), false),
    ] {
        let mut store = Store::default();
        for _ in 0..2 {
            store.replace(&[file("a.yaml", broken)]);
            let gaps = store.gaps();
            assert_eq!((gaps.len(), gaps[0].resource.is_some()), (1, named), "{broken}");
            assert_eq!(store.invalid().len(), 1, "{:?}", store.invalid());
        }
        store.replace(&[file("a.yaml", &good)]);
        assert_eq!((store.gaps(), store.invalid().len()), (vec![], 0), "{broken}");
    }
}

#[test]
fn a_kind_that_is_skipped_is_not_blamed_on_its_neighbour() {
    let text = format!("apiVersion: apps/v1\nkind: Deployment\n---\n{}", plugin("  url: oci://r.test/x:1\n"));
    let diagnostics = Store::default().replace(&[file("a.yaml", &text)]);
    assert_eq!(
        diagnostics[0].to_string(),
        "a.yaml:2:7: warning: kind \"Deployment\" of apiVersion \"apps/v1\" is not supported, the resource is skipped"
    );
}

#[test]
fn services_and_slices_make_clusters() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: default}
spec: {gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP, hostname: '*.example.com'}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{name: g}]
  hostnames: [a.example.com]
  rules: [{backendRefs: [{name: web, port: 80, weight: 9}, {name: gone, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}]
ports: [{name: http, port: 8080}]
";
    let (snapshot, diagnostics) = compiled(text);
    let cluster = &snapshot.clusters["outbound|80||web.default.svc.cluster.local"];
    let endpoints: Vec<String> = cluster.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(endpoints, ["10.0.0.1:8080"]);
    let route = snapshot.listeners[0].routes.routes().next().unwrap();
    assert_eq!(
        (&*route.name, route.backends[0].weight, route.backends[1].cluster.is_none()),
        ("default.r.0", 9, true)
    );
    assert!(
        diagnostics[0].to_string().contains("BackendNotFound: no Service default/gone"),
        "{}",
        diagnostics[0]
    );
}

const TCP: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: default}
spec:
  gatewayClassName: istio
  listeners: [{name: web, port: 80, protocol: HTTP}, {name: db, port: 5432, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.example.com]
  resolution: STATIC
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.1}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db, namespace: default}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: db.example.com, port: 5432}]}]
";

#[test]
fn tcp_listeners_have_a_target_and_the_plug_ins_of_their_type() {
    let plugin = |name: &str, kind: &str| {
        format!(
            "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: {name}, namespace: istio-system}}\nspec: {{url: 'file:///x.wasm', type: {kind}}}\n"
        )
    };
    let text = format!("{TCP}{}{}", plugin("bytes", "NETWORK"), plugin("requests", "HTTP"));
    let (snapshot, diagnostics) = compiled(&text);
    let names = |port: u16| {
        let listener = snapshot.listeners.iter().find(|l| l.address.port() == port).unwrap();
        let names = |indexes: &[usize]| -> Vec<&str> {
            indexes.iter().map(|i| &*snapshot.plugins[*i].name).collect()
        };
        (names(&listener.network_plugins), names(&listener.plugins), listener.tcp.clone())
    };
    let (connections, streams, none) = names(80);
    assert_eq!(connections, ["istio-system.bytes"]);
    assert_eq!(streams, ["istio-system.requests"]);
    assert!(none.is_none());
    let (connections, streams, target) = names(5432);
    assert_eq!(connections, ["istio-system.bytes"]);
    assert_eq!(streams, Vec::<&str>::new());
    let target = target.unwrap();
    assert_eq!(&*target.route_name, "default/db");
    assert_eq!(target.cluster(7).unwrap().endpoints[0].address.to_string(), "10.0.0.1:5432");
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
}

#[test]
fn what_is_wrong_with_tcp_listeners_and_routes_is_told() {
    let gateway = |name: &str, listener: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: default}}\nspec: {{gatewayClassName: istio, listeners: [{{name: x, {listener}}}]}}\n"
        )
    };
    let route = |name: &str, parent: &str, backend: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec: {{parentRefs: [{{name: {parent}}}], rules: [{{backendRefs: [{backend}]}}]}}\n"
        )
    };
    let cases = [
        (
            gateway("h", "port: 5432, protocol: HTTP"),
            "another Gateway listens on 0.0.0.0:5432 with another protocol",
        ),
        (gateway("h", "port: 1, protocol: TCP, hostname: a.example.com"), "TCP listeners have none"),
        (
            gateway("h", "port: 1, protocol: UDP"),
            "protocol \"UDP\" is not supported yet, only HTTP, HTTPS, TLS and TCP",
        ),
        (route("e", "g", "{name: gone, port: 1}"), "default/db serves 0.0.0.0:5432 already"),
        (route("a", "g", "{name: gone, port: 1}"), "its share of the connections is closed"),
        (route("e", "nobody", "{name: gone, port: 1}"), "Gateway default/nobody not found"),
        (
            route("e", "g, sectionName: web", "{name: gone, port: 1}"),
            "the Gateway has no TCP listener with this sectionName",
        ),
        (route("e", "g", ""), "has no backend: its connections are closed"),
        (
            route("e", "g, sectionNam: db", "{name: gone, port: 1}"),
            "parentRefs[0].sectionNam: unknown field, it is ignored; did you mean sectionName?",
        ),
    ];
    for (more, message) in cases {
        let (_, diagnostics) = compiled(&format!("{TCP}{more}"));
        let told: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|d| d.contains(message)), "{message}: {told:?}");
    }
}

#[test]
fn a_misspelt_field_of_a_route_is_told_wherever_it_stands() {
    for (rule, message) in [
        (
            "{matchs: [{path: {value: /a}}]}",
            "rules[0].matchs: unknown field, it is ignored; did you mean matches?",
        ),
        ("{matches: [{pth: {value: /a}}]}", "matches[0].pth: unknown field"),
        ("{matches: [{path: {vlue: /a}}]}", "path.vlue: unknown field, it is ignored; did you mean value?"),
        ("{matches: [{headers: [{name: a, value: b, typ: Exact}]}]}", "headers[0].typ: unknown field"),
        (
            "{backendRefs: [{name: web, port: 80, weigth: 0}]}",
            "backendRefs[0].weigth: unknown field, it is ignored; did you mean weight?",
        ),
    ] {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: default}}\nspec: {{parentRefs: [{{name: g}}], rules: [{rule}]}}\n"
        );
        let told: Vec<String> = compiled(&text).1.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|d| d.contains(message)), "{message}: {told:?}");
    }
}
