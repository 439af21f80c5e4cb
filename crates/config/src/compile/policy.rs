//! Which `DestinationRule` a cluster has, and what follows from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Compiler;
use super::cluster::Found;
use super::place::Place;
use crate::destination_rule::{DestinationRule, Locality, TlsSettings, TrafficPolicy};
use crate::diagnostic::Severity;
use crate::policy::{ClusterPolicy, ClusterTls, TlsOrigination};
use crate::resource::{Kind, Resource, Spec};
use crate::snapshot::{Cluster, UpstreamProtocol};

impl<'a> Compiler<'a> {
    /// A cluster with what the rule for its host says.
    pub(super) fn with_policy(&mut self, name: Arc<str>, host: &str, port: u16, found: Found) -> Cluster {
        let rule = self.rule(host, &found.namespace);
        let default = TrafficPolicy::default();
        let settings = rule.map_or(&default, |(_, rule)| {
            rule.ports.iter().find(|(number, _)| *number == port).map_or(&rule.policy, |(_, policy)| policy)
        });
        let mut protocol = found.protocol;
        if settings.upgrades_to_http2 == Some(true) {
            protocol = UpstreamProtocol::Http2;
        }
        let tls = match (rule, &settings.tls) {
            (Some((resource, _)), Some(tls)) => {
                self.origination(resource, tls, (host, &found.tls_names), protocol == UpstreamProtocol::Http2)
            }
            _ => TlsOrigination::Off,
        };
        let policy = Arc::new(ClusterPolicy {
            balance: settings.balance.clone(),
            warmup: settings.warmup,
            limits: settings.limits,
            outlier: settings.outlier,
            health_check: rule.and_then(|(_, rule)| rule.health_check.clone()),
            tls,
            proxy_protocol: settings.proxy_protocol,
        });
        // Without something that tells who is healthy, nobody would ever fail over (as in Istio).
        let is_watched = policy.outlier.is_some() || policy.health_check.is_some();
        let locality = Some(&settings.locality).filter(|l| l.is_enabled && is_watched);
        let Found { mut endpoints, mut names, is_logical, .. } = found;
        if let (Some(own), Some(locality)) = (self.identity.place(), locality) {
            let places = endpoints.iter().map(|(_, p)| p).chain(names.iter().map(|(_, p)| p));
            let levels = levels(&own, locality, places);
            let priorities = endpoints.iter_mut().map(|(e, p)| (&mut e.priority, &*p));
            for (priority, place) in priorities.chain(names.iter_mut().map(|(n, p)| (&mut n.priority, &*p))) {
                let distance = own.distance(place, &locality.failover);
                *priority = u32::try_from(levels.range(..distance).count()).unwrap_or(u32::MAX);
            }
        }
        Cluster {
            name,
            host: host.into(),
            endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
            names: names.into_iter().map(|(name, _)| name).collect(),
            is_logical,
            protocol,
            policy,
        }
    }

    /// The rule for a host: of the gateway's own namespace, that of the service, or the root namespace, in this order; in
    /// each the one for the very host before those for the longest suffix.
    fn rule(&self, host: &str, namespace: &str) -> Option<(&'a Arc<Resource>, &'a DestinationRule)> {
        let identity = self.identity;
        for namespace in [&identity.namespace, namespace, &identity.root_namespace] {
            let mut pattern = host.to_owned();
            loop {
                let rules = self.index.rules.get(&pattern).into_iter().flatten();
                let mut rules = rules.filter(|r| *r.id.namespace == *namespace);
                if let Some(resource) = rules.next().copied()
                    && let Spec::DestinationRule(rule) = &resource.spec
                {
                    return Some((resource, rule));
                }
                if pattern == "*" {
                    break;
                }
                let rest = pattern.strip_prefix("*.").unwrap_or(&pattern);
                pattern =
                    rest.split_once('.').map_or_else(|| "*".to_owned(), |(_, parent)| format!("*.{parent}"));
            }
        }
        None
    }

    /// TLS as a rule asks for it. What it names must be there: plain text would be worse than nothing.
    fn origination(
        &mut self,
        resource: &Arc<Resource>,
        settings: &TlsSettings,
        (host, names): (&str, &[String]),
        is_http2: bool,
    ) -> TlsOrigination {
        let mut tls = ClusterTls {
            authorities: None,
            certificate: None,
            server_name: settings.sni.clone().unwrap_or_else(|| host.to_owned()),
            names: if settings.names.is_empty() { names.to_vec() } else { settings.names.clone() },
            skip_verify: settings.skip_verify,
            is_http2,
        };
        if let Some(credential) = &settings.credential
            && let Err(reason) = self.credentials(resource, settings, credential, &mut tls)
        {
            let text = format!("{reason}; no connection to {host} is made");
            self.report(resource, Severity::Error, settings.at, &settings.path, text);
            return TlsOrigination::Unusable(reason.into());
        }
        TlsOrigination::On(Arc::new(tls))
    }

    /// The Secret is looked for in the rule's own namespace: nobody uses another one's key. Rules of the gateway's and of the
    /// root namespace have those of the gateway, as in Istio.
    fn credentials(
        &self,
        resource: &Resource,
        settings: &TlsSettings,
        credential: &str,
        tls: &mut ClusterTls,
    ) -> Result<(), String> {
        let (own, identity) = (&resource.id.namespace, self.identity);
        let is_trusted = *own == identity.namespace || *own == identity.root_namespace;
        let namespaces = if is_trusted { [&*identity.namespace, own] } else { [&**own, own] };
        let find = |name: &str| namespaces.iter().find_map(|n| self.find(Kind::Secret, n, name));
        let found = find(credential);
        // Istio lets authorities be kept beside.
        let beside = find(&format!("{credential}-cacert"));
        if found.is_none() && (settings.is_mutual || beside.is_none()) {
            return Err(format!("secret {}/{credential} not found", namespaces[0]));
        }
        for (secret, is_own) in [(found, true), (beside, false)] {
            let Some((Spec::Secret(secret), id)) = secret.map(|s| (&s.spec, &s.id)) else { continue };
            let wrong = |e: String| format!("secret {}/{}: {e}", id.namespace, id.name);
            if let Some(authorities) = secret.server_authorities().map_err(wrong)? {
                tls.authorities = Some(authorities);
            }
            if is_own && settings.is_mutual {
                tls.certificate = Some(secret.certificate().map_err(wrong)?);
            }
        }
        Ok(())
    }

    /// Rules that are for no host that anybody knows: probably a typing error.
    pub(super) fn report_unused_rules(&mut self) {
        let mut unused: Vec<&Arc<Resource>> = Vec::new();
        for (pattern, rules) in &self.index.rules {
            let suffix = pattern.strip_prefix('*');
            let is_used = self.clusters.values().any(|c| match suffix {
                Some(suffix) => c.host.ends_with(suffix),
                None => *c.host == **pattern,
            });
            if !is_used {
                unused.extend(rules);
            }
        }
        unused.sort_by(|a, b| a.id.cmp(&b.id));
        for resource in unused {
            let Spec::DestinationRule(rule) = &resource.spec else { continue };
            let text = format!(
                "no Service and no ServiceEntry has the host {:?}: the rule has no effect",
                rule.host
            );
            self.report(resource, Severity::Warning, rule.at, "spec.host", text);
        }
    }
}

/// The distances that there are: priorities have no gaps.
fn levels<'p>(own: &Place, locality: &Locality, places: impl Iterator<Item = &'p Place>) -> BTreeSet<u32> {
    places.map(|place| own.distance(place, &locality.failover)).collect()
}
