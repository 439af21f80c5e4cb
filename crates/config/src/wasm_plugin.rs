//! `WasmPlugin` (spec: wasmplugin-and-routing §1).

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::{Fields, Sink};
use crate::meta::{ObjectMeta, Position};
use crate::quantity;
use crate::snapshot::{ModuleUrl, PluginOptions, PullPolicy};

/// Where in the chain a plug-in runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before Istio's authentication.
    Authn,
    /// After authentication, before authorisation.
    Authz,
    /// After authorisation.
    Stats,
    /// Last before the router: the default.
    Unspecified,
}

impl Phase {
    /// The word of the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authn => "AUTHN",
            Self::Authz => "AUTHZ",
            Self::Stats => "STATS",
            Self::Unspecified => "UNSPECIFIED_PHASE",
        }
    }
}

/// What happens to a request when its plug-in fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailStrategy {
    /// It is answered with an error.
    Close,
    /// It goes on without the plug-in.
    Open,
    /// As `Close`. Every strategy gets a fresh VM for the next request here.
    Reload,
}

impl FailStrategy {
    /// The word of the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "FAIL_CLOSE",
            Self::Open => "FAIL_OPEN",
            Self::Reload => "FAIL_RELOAD",
        }
    }
}

/// What a plug-in filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PluginType {
    /// HTTP streams.
    Http,
    /// TCP connections.
    Network,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EnvValue {
    /// A constant.
    Inline(String),
    /// The gateway's own variable of the same name, if the operator allows it.
    Host,
}

/// A target that a plug-in names instead of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetRef {
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// One alternative of `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrafficSelector {
    /// Whether the mode covers traffic that enters a gateway.
    pub(crate) covers_gateway: bool,
    /// Empty: any.
    pub(crate) ports: Vec<u16>,
}

/// A valid `WasmPlugin`.
#[derive(Clone, Debug, PartialEq)]
pub struct WasmPlugin {
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) targets: Vec<TargetRef>,
    pub(crate) url: ModuleUrl,
    pub(crate) url_at: Position,
    pub(crate) sha256: Option<String>,
    pub(crate) pull_policy: PullPolicy,
    pub(crate) pull_secret: Option<String>,
    pub(crate) pull_secret_at: Position,
    /// The JSON text; empty for none.
    pub(crate) configuration: String,
    pub(crate) plugin_name: String,
    pub(crate) phase: Phase,
    /// `None` sorts after every number (spec: wasmplugin-and-routing §1.10).
    pub(crate) priority: Option<i32>,
    pub(crate) env: Vec<(String, EnvValue)>,
    pub(crate) selectors: Vec<TrafficSelector>,
    pub(crate) fail_strategy: FailStrategy,
    pub(crate) plugin_type: PluginType,
    pub(crate) options: PluginOptions,
}

const ENV_MAX: usize = 256;
const ENV_NAME_CHARS_MAX: usize = 256;
const ENV_VALUE_CHARS_MAX: usize = 2048;
const PLUGIN_NAME_CHARS_MAX: usize = 256;
const SECRET_NAME_CHARS_MAX: usize = 253;
const TARGETS_MAX: usize = 16;
const MATCHES_MAX: usize = 4096;

/// Annotations for what Istio's schema has no field for.
const CALLBACK_TIME_MAX: &str = "wasmgate.dev/callback-time-max";
const START_TIME_MAX: &str = "wasmgate.dev/start-time-max";
const MEMORY_MAX: &str = "wasmgate.dev/memory-max";
const ALLOWED_CAPABILITIES: &str = "wasmgate.dev/allowed-capabilities";
const STOP_ITERATION: &str = "wasmgate.dev/allow-on-headers-stop-iteration";
const ANNOTATIONS: [&str; 5] =
    [CALLBACK_TIME_MAX, START_TIME_MAX, MEMORY_MAX, ALLOWED_CAPABILITIES, STOP_ITERATION];
const ANNOTATION_PREFIX: &str = "wasmgate.dev/";

impl WasmPlugin {
    pub(crate) fn decode(spec: &mut Fields<'_>, meta: &ObjectMeta, sink: &mut Sink<'_>) -> Option<Self> {
        let selector = selector(spec, sink);
        let targets = targets(spec, selector.is_some(), sink);
        let located_url = url(spec, sink);
        let sha256 = sha256(spec, sink);
        let (pull_secret, pull_secret_at) = pull_secret(spec, sink);
        let plugin_name = plugin_name(spec, sink);
        let env = env(spec, sink);
        let selectors = traffic_selectors(spec, sink);
        let policies = [
            ("UNSPECIFIED_POLICY", PullPolicy::Unspecified),
            ("IfNotPresent", PullPolicy::IfNotPresent),
            ("Always", PullPolicy::Always),
        ];
        let pull_policy = spec.word("imagePullPolicy", &policies, sink);
        let phases = [
            ("UNSPECIFIED_PHASE", Phase::Unspecified),
            ("AUTHN", Phase::Authn),
            ("AUTHZ", Phase::Authz),
            ("STATS", Phase::Stats),
        ];
        let phase = spec.word("phase", &phases, sink);
        let strategies = [
            ("FAIL_CLOSE", FailStrategy::Close),
            ("FAIL_OPEN", FailStrategy::Open),
            ("FAIL_RELOAD", FailStrategy::Reload),
        ];
        let fail_strategy = spec.word("failStrategy", &strategies, sink);
        let types = [
            ("UNSPECIFIED_PLUGIN_TYPE", PluginType::Http),
            ("HTTP", PluginType::Http),
            ("NETWORK", PluginType::Network),
        ];
        let plugin_type = spec.word("type", &types, sink);
        if let Some(key) = spec.text("verificationKey", sink).filter(|k| !k.value.is_empty()) {
            sink.warn(
                key.at,
                "spec.verificationKey",
                "signatures are not verified yet; Istio never verifies them either",
            );
        }
        let priority = spec.int("priority", sink).and_then(|p| {
            i32::try_from(p.value)
                .map_err(|_| sink.error(p.at, "spec.priority", "must be a 32-bit integer"))
                .ok()
        });
        let configuration = configuration(spec, sink);
        let options = options(meta, spec.position(), sink);
        let (url, url_at) = located_url?;
        Some(Self {
            selector,
            targets,
            url,
            url_at,
            sha256,
            pull_policy: pull_policy.map_or(PullPolicy::Unspecified, |p| p.value),
            pull_secret,
            pull_secret_at,
            configuration,
            plugin_name,
            phase: phase.map_or(Phase::Unspecified, |p| p.value),
            priority,
            env,
            selectors,
            fail_strategy: fail_strategy.map_or(FailStrategy::Close, |f| f.value),
            plugin_type: plugin_type.map_or(PluginType::Http, |t| t.value),
            options,
        })
    }
}

fn selector(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<BTreeMap<String, String>> {
    let mut fields = spec.object("selector", sink)?;
    let labels = fields.text_map("matchLabels", sink);
    let at = fields.position();
    if labels.is_empty() {
        sink.warn(
            at,
            "spec.selector",
            "workload selector specified without labels: it selects every gateway",
        );
    }
    for (key, value) in &labels {
        if key.is_empty() {
            sink.error(
                at,
                "spec.selector.matchLabels",
                &format!("empty key is not supported in selector: {value:?}"),
            );
        }
        for text in [key, value] {
            if text.contains('*') {
                sink.error(
                    at,
                    "spec.selector.matchLabels",
                    &format!("wildcard is not supported in selector: {text:?}"),
                );
            }
        }
    }
    fields.finish(sink);
    Some(labels)
}

fn targets(spec: &mut Fields<'_>, has_selector: bool, sink: &mut Sink<'_>) -> Vec<TargetRef> {
    let mut all = spec.objects("targetRefs", TARGETS_MAX, sink);
    all.extend(spec.object("targetRef", sink));
    if has_selector && !all.is_empty() {
        sink.error(spec.position(), "spec", "only one of targetRefs or workloadSelector can be set");
    }
    let mut out = Vec::new();
    for mut fields in all {
        let path = fields.path_of("name");
        let group = fields.text("group", sink).map(|g| g.value).unwrap_or_default();
        let kind = fields.text("kind", sink);
        let name = fields.text("name", sink).filter(|n| !n.value.is_empty());
        if let Some(namespace) = fields.text("namespace", sink).filter(|n| !n.value.is_empty()) {
            sink.error(
                namespace.at,
                &namespace.path,
                "targetRef namespace must not be set; cross namespace referencing is not supported",
            );
        }
        let Some(name) = name else {
            sink.error(fields.position(), &path, "targetRef name must be set");
            continue;
        };
        let kind = kind.map(|k| k.value).unwrap_or_default();
        let allowed = [
            ("gateway.networking.k8s.io", "Gateway"),
            ("gateway.networking.k8s.io", "GatewayClass"),
            ("", "Service"),
            ("core", "Service"),
            ("networking.istio.io", "ServiceEntry"),
        ];
        if !allowed.contains(&(group.as_str(), kind.as_str())) {
            let text = format!(
                "targetRef must be to one of [gateway.networking.k8s.io/Gateway gateway.networking.k8s.io/GatewayClass core/Service networking.istio.io/ServiceEntry] but was {group}/{kind}"
            );
            sink.error(fields.position(), &path, &text);
        }
        fields.finish(sink);
        out.push(TargetRef { kind, name: name.value });
    }
    out
}

fn url(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<(ModuleUrl, Position)> {
    let url = spec.text("url", sink).filter(|u| !u.value.is_empty());
    let Some(url) = url else {
        if sink.is_clean() {
            sink.error(
                spec.position(),
                "spec.url",
                "url field needs to be set: oci://, https://, http:// or file://",
            );
        }
        return None;
    };
    match ModuleUrl::parse(&url.value) {
        Ok(parsed) => Some((parsed, url.at)),
        Err(reason) => {
            sink.error(url.at, &url.path, &reason);
            None
        }
    }
}

fn sha256(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let sha = spec.text("sha256", sink).filter(|s| !s.value.is_empty())?;
    if sha.value.len() != 64 {
        sink.error(sha.at, &sha.path, "sha256 field must be 64 characters long");
    } else if !sha.value.bytes().all(|b| matches!(b, b'a'..=b'f' | b'0'..=b'9')) {
        sink.error(sha.at, &sha.path, "sha256 field must match [a-f0-9]{64} pattern");
    }
    Some(sha.value)
}

fn pull_secret(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> (Option<String>, Position) {
    let Some(secret) = spec.text("imagePullSecret", sink) else { return (None, Position::default()) };
    if secret.value.is_empty() {
        sink.error(secret.at, &secret.path, "spec.imagePullSecret in body should be at least 1 chars long");
    } else if secret.value.chars().count() > SECRET_NAME_CHARS_MAX {
        sink.error(secret.at, &secret.path, "imagePullSecret field must be less than 253 characters long");
    }
    // kubernetes://other-namespace/name is allowed, and means the plug-in's own namespace all the same.
    let name = secret.value.rsplit('/').next().unwrap_or(&secret.value).to_owned();
    (Some(name), secret.at)
}

fn plugin_name(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> String {
    let Some(name) = spec.text("pluginName", sink) else { return String::new() };
    if name.value.is_empty() {
        sink.error(name.at, &name.path, "spec.pluginName in body should be at least 1 chars long");
    } else if name.value.chars().count() > PLUGIN_NAME_CHARS_MAX {
        // Istio's text is off by one; so are we, because users search for it.
        sink.error(name.at, &name.path, "pluginName field must be less than 255 characters long");
    }
    name.value
}

fn env(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Vec<(String, EnvValue)> {
    let Some(mut vm) = spec.object("vmConfig", sink) else { return Vec::new() };
    let mut out: Vec<(String, EnvValue)> = Vec::new();
    for mut fields in vm.objects("env", ENV_MAX, sink) {
        let path = fields.path_of("name");
        let name = fields.text("name", sink);
        let from = fields.word("valueFrom", &[("INLINE", false), ("HOST", true)], sink);
        let value = fields.text("value", sink);
        let Some(name) = name.filter(|n| !n.value.is_empty()) else {
            sink.error(fields.position(), &path, "should be at least 1 chars long");
            continue;
        };
        if name.value.chars().count() > ENV_NAME_CHARS_MAX {
            sink.error(name.at, &name.path, "env.name field must be less than 255 characters long");
        }
        if out.iter().any(|(other, _)| *other == name.value) {
            sink.error(name.at, &name.path, &format!("duplicate env: Duplicate value: {:?}", name.value));
        }
        let is_host = from.is_some_and(|f| f.value);
        if let Some(value) = &value {
            if is_host {
                sink.error(value.at, &value.path, "value may only be set when valueFrom is INLINE");
            } else if value.value.chars().count() > ENV_VALUE_CHARS_MAX {
                sink.error(
                    value.at,
                    &value.path,
                    &format!("must be at most {ENV_VALUE_CHARS_MAX} characters"),
                );
            }
        }
        fields.finish(sink);
        let value = if is_host {
            EnvValue::Host
        } else {
            EnvValue::Inline(value.map(|v| v.value).unwrap_or_default())
        };
        out.push((name.value, value));
    }
    vm.finish(sink);
    out
}

fn traffic_selectors(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Vec<TrafficSelector> {
    let modes = [("UNDEFINED", true), ("CLIENT", true), ("CLIENT_AND_SERVER", true), ("SERVER", false)];
    let mut out = Vec::new();
    for mut fields in spec.objects("match", MATCHES_MAX, sink) {
        let mode = fields.word("mode", &modes, sink);
        if let Some(mode) = mode.as_ref().filter(|m| !m.value) {
            sink.warn(
                mode.at,
                &mode.path,
                "SERVER never matches on a gateway: use CLIENT or CLIENT_AND_SERVER",
            );
        }
        let mut ports = Vec::new();
        for mut port in fields.objects("ports", usize::from(u16::MAX), sink) {
            let path = port.path_of("number");
            match port.int("number", sink) {
                Some(number) => match u16::try_from(number.value).ok().filter(|n| *n > 0) {
                    Some(n) => ports.push(n),
                    None => sink.error(number.at, &path, &format!("is out of range: {}", number.value)),
                },
                None => sink.error(port.position(), &path, "Required value"),
            }
        }
        fields.finish(sink);
        out.push(TrafficSelector { covers_gateway: mode.is_none_or(|m| m.value), ports });
    }
    out
}

fn configuration(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> String {
    let path = spec.path_of("pluginConfig");
    let Some(node) = spec.node("pluginConfig") else { return String::new() };
    match node.value.to_json() {
        // The empty object means no configuration at all, as for Istio.
        serde_json::Value::Object(map) if map.is_empty() => String::new(),
        json @ serde_json::Value::Object(_) => json.to_string(),
        _ => {
            sink.error(node.at, &path, &format!("must be of type object, but is {}", node.value.kind()));
            String::new()
        }
    }
}

fn options(meta: &ObjectMeta, at: Position, sink: &mut Sink<'_>) -> PluginOptions {
    let mut options = PluginOptions::default();
    for (key, text) in meta.annotations.iter().filter(|(k, _)| k.starts_with(ANNOTATION_PREFIX)) {
        let field = format!("metadata.annotations[{key}]");
        if let Err(wanted) = option(&mut options, key, text) {
            match wanted {
                Some(wanted) => sink.error(at, &field, &format!("{text:?} is not {wanted}")),
                None => {
                    let known = ANNOTATIONS.join(", ");
                    sink.warn(at, &field, &format!("unknown annotation, it is ignored; known: {known}"));
                }
            }
        }
    }
    options
}

/// Takes one annotation.
///
/// # Errors
/// What its value should be; `None` when nobody knows the annotation.
fn option(options: &mut PluginOptions, key: &str, text: &str) -> Result<(), Option<&'static str>> {
    const DURATION: Option<&str> = Some("a duration such as 200ms or 2s");
    const NAMES: Option<&str> = Some("a list of names such as proxy_log, proxy_on_request_headers");
    let duration = || quantity::duration(text).filter(|d| !d.is_zero()).ok_or(DURATION);
    match key {
        CALLBACK_TIME_MAX => options.callback_time_max = Some(duration()?),
        START_TIME_MAX => options.start_time_max = Some(duration()?),
        MEMORY_MAX => {
            let bytes = quantity::bytes(text).filter(|b| *b > 0);
            options.memory_bytes_max = Some(bytes.ok_or(Some("a size such as 64Mi"))?);
        }
        ALLOWED_CAPABILITIES => {
            let names: BTreeSet<String> =
                text.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
            let is_name =
                |n: &String| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            // An empty list would mean that everything is allowed.
            if names.is_empty() || !names.iter().all(is_name) {
                return Err(NAMES);
            }
            options.allowed_capabilities = names;
        }
        STOP_ITERATION => {
            options.allow_on_headers_stop_iteration = text.parse().map_err(|_| Some("true or false"))?;
        }
        _ => return Err(None),
    }
    Ok(())
}
