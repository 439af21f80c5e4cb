//! The loop that keeps the data path configured: files → resources → snapshot → plug-ins → generation.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmgate_artifact::Store as ModuleStore;
use wasmgate_config::{
    Diagnostic, FolderError, FolderSource, Gap, GatewayIdentity, Kind, ManifestFile, ResourceId, Severity,
    Snapshot, Store, compile,
};
use wasmgate_plugin::{PluginDefinition, PluginManager, PluginServices, PluginView};
use wasmgate_proxy::{ChainStep, Gateway, Generation, GenerationListener};

use crate::admin::certs;
use crate::convert;
use crate::error::CommandError;
use crate::shared::Shared;

/// How often unused modules are looked for.
const GARBAGE_INTERVAL: Duration = Duration::from_secs(3600);

/// The parts that a controller connects.
pub(crate) struct Controller {
    pub(crate) source: FolderSource,
    pub(crate) identity: GatewayIdentity,
    pub(crate) host_env: Vec<(String, String)>,
    pub(crate) manager: PluginManager,
    pub(crate) services: PluginServices,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) modules: Arc<ModuleStore>,
    pub(crate) store: Store,
    /// The files as they were read last.
    pub(crate) files: Option<Vec<ManifestFile>>,
    pub(crate) published: Published,
}

/// What the workers have, to tell whether something has changed.
#[derive(Default)]
pub(crate) struct Published {
    id: u64,
    snapshot: Option<Arc<Snapshot>>,
    /// Plug-ins by name with the number of the version that serves.
    versions: BTreeMap<Arc<str>, (Option<u64>, bool)>,
    /// Plug-ins that have a step in the chain, be it one that denies.
    in_chain: HashSet<Arc<str>>,
    /// Listeners that could not be opened, with the reason: said once.
    failed: Vec<String>,
}

impl Controller {
    /// Brings everything up once: reads, loads, waits, publishes.
    pub(crate) async fn start(&mut self, wait: Duration) -> Result<(), CommandError> {
        self.reload()?;
        self.wait_for_gaps().await?;
        if !self.manager.settled(wait).await {
            tracing::warn!(target: "main", "some plug-ins are not ready after {wait:?}: the gateway starts without them and their fail strategy applies");
        }
        let errors = self.publish(true).await;
        let has_listeners = !self.shared.current().snapshot.listeners.is_empty();
        if !has_listeners {
            tracing::warn!(target: "config", "no Gateway has a listener: nothing is served until one appears");
        } else if self.gateway.listening().is_empty() {
            return errors.into_iter().next().map_or(Err(CommandError::NoListener), |e| Err(e.into()));
        }
        Ok(())
    }

    /// Waits until there is no manifest that may be a plug-in of this gateway and has never been valid. To serve without
    /// it could mean to let everybody in; there is no last good version that could serve.
    async fn wait_for_gaps(&mut self) -> Result<(), CommandError> {
        if self.gaps().is_empty() {
            return Ok(());
        }
        let (watcher, mut files) = self.source.watch()?;
        let mut said = Vec::new();
        loop {
            let gaps = self.gaps();
            if gaps.is_empty() {
                break;
            }
            for gap in gaps.iter().filter(|g| !said.contains(*g)) {
                tracing::error!(target: "config", "{gap} is invalid and there is no last good version: nothing is served until it is repaired or removed");
            }
            said = gaps;
            // Whatever becomes of the watch: nothing is served with a gap.
            if files.recv().await.is_none() {
                tokio::time::sleep(FolderSource::REREAD).await;
            }
            if let Err(e) = self.reload() {
                tracing::error!(target: "config", "{e}");
            }
        }
        drop(watcher);
        Ok(())
    }

    /// Gaps that may concern the chain: plug-ins of namespaces that apply here, and what has no name.
    fn gaps(&self) -> Vec<Gap> {
        let applies = |id: &ResourceId| {
            let namespaces = [&self.identity.namespace, &self.identity.root_namespace];
            id.kind == Kind::WasmPlugin && namespaces.contains(&&id.namespace)
        };
        self.store.gaps().into_iter().filter(|g| g.resource.as_ref().is_none_or(applies)).collect()
    }

    /// Follows changes until the process ends.
    pub(crate) async fn run(mut self) -> Result<(), CommandError> {
        let (watcher, mut files) = self.source.watch()?;
        let mut plugins = self.manager.changes();
        let mut garbage = tokio::time::interval(GARBAGE_INTERVAL);
        // A change between the first read and the watch would be missed.
        self.reload_and_publish().await;
        loop {
            tokio::select! {
                Some(()) = files.recv() => self.reload_and_publish().await,
                Ok(()) = plugins.changed() => drop(self.publish(false).await),
                _ = garbage.tick() => {
                    let removed = self.modules.collect_garbage(&self.manager.modules_in_use());
                    if removed > 0 {
                        tracing::info!(target: "main", "removed {removed} modules that nothing has used for a day");
                    }
                }
                else => break,
            }
        }
        drop(watcher);
        Ok(())
    }

    async fn reload_and_publish(&mut self) {
        match self.reload() {
            Ok(()) => drop(self.publish(false).await),
            Err(e) => {
                tracing::error!(target: "config", "{e}; the configuration that was read before goes on serving");
            }
        }
    }

    /// Reads the files and tells the plug-in manager what should be.
    fn reload(&mut self) -> Result<(), FolderError> {
        let begun = Instant::now();
        let files = self.source.read()?;
        let read = begun.elapsed();
        if self.files.as_ref() == Some(&files) {
            return Ok(());
        }
        let mut diagnostics = self.store.replace(&files);
        let parsed = begun.elapsed();
        let (snapshot, more) = compile(&self.store.resources(), &self.identity);
        diagnostics.extend(more);
        tracing::debug!(target: "config", "{} files read in {read:?}, parsed in {:?}, compiled in {:?}", files.len(), parsed - read, begun.elapsed() - parsed);
        diagnostics.extend(convert::missing_variables(&snapshot, &self.host_env));
        self.report(&diagnostics);
        certs::log_expiry(&self.shared.current().snapshot, &snapshot);
        let invalid = self.store.invalid().to_vec();
        let definitions: Vec<Arc<PluginDefinition>> =
            snapshot.plugins.iter().map(|spec| Arc::new(convert::definition(spec, &self.host_env))).collect();
        let snapshot = Arc::new(snapshot);
        self.shared.update(|current| {
            current.snapshot = Arc::clone(&snapshot);
            current.diagnostics = diagnostics;
            current.invalid = invalid;
        });
        // Before the plug-ins: they may call a cluster while they start.
        self.services.set_clusters(convert::callable(&snapshot));
        self.manager.apply(&definitions);
        self.files = Some(files);
        Ok(())
    }

    /// Logs findings that were not there before.
    fn report(&self, diagnostics: &[Diagnostic]) {
        let old = self.shared.current().diagnostics;
        let (known, now): (HashSet<&Diagnostic>, HashSet<&Diagnostic>) =
            (old.iter().collect(), diagnostics.iter().collect());
        for diagnostic in diagnostics.iter().filter(|d| !known.contains(d)) {
            match diagnostic.severity {
                Severity::Error if self.published.id == 0 => {
                    tracing::error!(target: "config", "{diagnostic}")
                }
                Severity::Error => {
                    tracing::error!(target: "config", "{diagnostic}; the last good version, if there is one, goes on serving");
                }
                Severity::Warning => tracing::warn!(target: "config", "{diagnostic}"),
            }
        }
        let gone = old.iter().filter(|d| d.severity == Severity::Error && !now.contains(d)).count();
        if gone > 0 && !diagnostics.iter().any(|d| d.severity == Severity::Error) {
            tracing::info!(target: "config", "all manifests are valid again");
        }
    }

    /// Publishes a generation if something has changed.
    async fn publish(&mut self, starting: bool) -> Vec<wasmgate_proxy::GatewayError> {
        let snapshot = self.shared.current().snapshot;
        let view = self.manager.view();
        let versions: BTreeMap<Arc<str>, (Option<u64>, bool)> = view
            .iter()
            .map(|(name, v)| (Arc::clone(name), (v.serving.as_ref().map(|s| s.id), v.settled)))
            .collect();
        let same = self.published.snapshot.as_ref().is_some_and(|s| Arc::ptr_eq(s, &snapshot));
        let open = self.gateway.listening();
        let all_open = snapshot.listeners.iter().all(|l| open.contains(&l.address));
        // A listener that could not be opened is tried again: files are read every few seconds.
        if same && versions == self.published.versions && all_open {
            return Vec::new();
        }
        let id = self.published.id + 1;
        let generation = Arc::new(self.generation(id, &snapshot, &view, starting));
        let in_chain = generation.plugin_names();
        // A version that comes back may have no VMs left on the workers.
        for version in generation.versions() {
            let without = version.workers().filter(|(vms, _)| *vms == 0).count();
            if let Err(e) = version.prepare(without).await {
                tracing::error!(target: "wasm", "plugin {}: a fresh VM does not start: {e}", version.definition.name);
            }
        }
        let begun = Instant::now();
        let errors = self.gateway.publish(generation).await;
        tracing::debug!(target: "config", "generation {id} published in {:?}", begun.elapsed());
        let failed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let listening = self.gateway.listening();
        // At the start it is the end of the process when none opens.
        let then = match (listening.is_empty(), starting) {
            (true, true) => "",
            (true, false) => "; it is tried again",
            (false, _) => "; it is tried again, and what is open goes on serving until then",
        };
        for error in failed.iter().filter(|e| !self.published.failed.contains(e)) {
            tracing::error!(target: "main", "{error}{then}");
        }
        for address in listening.iter().filter(|a| id > 1 && !open.contains(a)) {
            tracing::info!(target: "main", "listening on {address}");
        }
        self.published = Published { id, snapshot: Some(snapshot), versions, in_chain, failed };
        self.shared.update(|current| current.generation = id);
        errors
    }

    fn generation(
        &self,
        id: u64,
        snapshot: &Snapshot,
        view: &BTreeMap<Arc<str>, PluginView>,
        starting: bool,
    ) -> Generation {
        let step = |index: &usize| {
            let spec = snapshot.plugins.get(*index)?;
            let plugin = view.get(&spec.name)?;
            match &plugin.serving {
                Some(version) => Some(ChainStep::Plugin(Arc::clone(version))),
                // A plug-in that was just added joins the chain once it is decided about: never half of it.
                None if !plugin.settled && !starting && !self.published.in_chain.contains(&spec.name) => None,
                None => Some(ChainStep::Unavailable {
                    name: Arc::clone(&spec.name),
                    fail_strategy: plugin.fail_strategy,
                }),
            }
        };
        let listener = |l: &wasmgate_config::Listener| GenerationListener {
            name: Arc::clone(&l.name),
            address: l.address,
            routes: Arc::clone(&l.routes),
            tcp: l.tcp.clone(),
            tls: l.tls.as_ref().map(|names| self.gateway.listener_tls(names)),
            has_proxy_header: l.has_proxy_header,
            chain: l.plugins.iter().filter_map(step).collect(),
            network_chain: l.network_plugins.iter().filter_map(step).collect(),
        };
        let listeners = snapshot.listeners.iter().map(listener).collect();
        Generation { id, listeners, clusters: snapshot.clusters.clone() }
    }
}
