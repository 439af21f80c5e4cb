//! From a source to a verified module in the store.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::credential::RegistryCredential;
use crate::digest::Digest;
use crate::error::{Failure, FetchError, FetchReason};
use crate::http_source;
use crate::layout::{self, Kind, Layout, Plan};
use crate::reference::Reference;
use crate::registry::{RegistryClient, RegistryLimits, http_client};
use crate::store::{Record, Store};
use crate::unpack;

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleSource {
    /// An image reference, without `oci://`.
    Oci(String),
    /// A URL.
    Http(String),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(reference) => write!(f, "oci://{reference}"),
            Self::Http(url) => f.write_str(url),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// Whether the store's answer is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullMode {
    /// A module that was fetched under this reference before is used without asking.
    IfNotPresent,
    /// The reference is resolved; what it names is downloaded only if it is not there.
    Always,
}

/// Settings of a [`Fetcher`].
#[derive(Clone, Debug)]
pub struct FetcherOptions {
    /// Bounds for registries and servers.
    pub limits: RegistryLimits,
    /// A module, unpacked, bytes.
    pub module_bytes_max: u64,
    /// Registries (`host[:port]`) that are spoken to without TLS.
    pub plain_http_registries: Vec<String>,
    /// Downloads at the same time.
    pub concurrent_max: usize,
}

impl Default for FetcherOptions {
    fn default() -> Self {
        Self {
            limits: RegistryLimits::default(),
            module_bytes_max: 256 << 20,
            plain_http_registries: Vec::new(),
            concurrent_max: 4,
        }
    }
}

/// A module in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Digest of its bytes.
    pub wasm: Digest,
    /// Digest of the image's manifest.
    pub manifest: Option<Digest>,
    /// How it was packaged.
    pub layout: Layout,
    /// Its size, bytes.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Nothing was downloaded.
    pub cached: bool,
}

/// Fetches modules into a [`Store`].
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<Store>,
    http: reqwest::Client,
    options: FetcherOptions,
    permits: tokio::sync::Semaphore,
    /// One download per reference and credential at a time; the second finds what the first has stored.
    in_flight: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Fetcher {
    /// A fetcher.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(store: Arc<Store>, options: FetcherOptions) -> Result<Self, reqwest::Error> {
        let http = http_client(&options.limits)?;
        let permits = tokio::sync::Semaphore::new(options.concurrent_max.max(1));
        Ok(Self { store, http, options, permits, in_flight: Mutex::default() })
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Fetches a module. `docker_config`: content of the pull secret. `sha256`: what the user pinned: the digest of the
    /// module, of the manifest or of the index.
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn fetch(
        &self,
        source: &ModuleSource,
        mode: PullMode,
        docker_config: Option<&[u8]>,
        sha256: Option<Digest>,
    ) -> Result<Fetched, FetchError> {
        let fetched = match source {
            ModuleSource::Oci(text) => self.fetch_image(text, mode, docker_config, sha256).await,
            ModuleSource::Http(url) => self.fetch_url(url, mode, sha256).await,
            ModuleSource::File(path) => self.fetch_file(path, sha256).await,
        };
        // Locks that nobody holds any more.
        self.in_flight.lock().retain(|_, lock| Arc::strong_count(lock) > 1);
        fetched.map_err(|failure| failure.for_source(source))
    }

    async fn fetch_image(
        &self,
        text: &str,
        mode: PullMode,
        docker_config: Option<&[u8]>,
        sha256: Option<Digest>,
    ) -> Result<Fetched, Failure> {
        let reference = Reference::parse(text)?;
        let credential = match docker_config {
            Some(json) => {
                RegistryCredential::from_docker_config(json, &reference.registry, &reference.repository)
                    .map_err(|e| Failure::new(FetchReason::SecretInvalid, e.to_string()))?
            }
            None => RegistryCredential::Anonymous,
        };
        let (fingerprint, anonymous) =
            (credential.fingerprint(), credential == RegistryCredential::Anonymous);
        let key = reference.to_string();
        let lock = Arc::clone(self.in_flight.lock().entry(format!("{key} {fingerprint}")).or_default());
        let _one = lock.lock().await;
        // What is addressed by content never changes; the rest is asked for again as the policy says.
        let asks_again = mode == PullMode::Always && reference.digest.is_none() && sha256.is_none();
        let usable = |r: &Record| !asks_again && r.authorised.contains(&fingerprint);
        if let Some(record) = self.store.find(&key, sha256).filter(usable)
            && let Some(cached) = self.undamaged(text, &record, sha256)
        {
            return cached;
        }
        let _permit = self.permits.acquire().await;
        let plain_http = self.options.plain_http_registries.contains(&reference.registry);
        let client =
            RegistryClient::new(reference.clone(), credential, self.options.limits.clone(), plain_http)?;
        let (plan, manifest, index) = resolve(&client, &reference)
            .await
            .map_err(|e| match docker_config {
                Some(json) if anonymous && e.reason == FetchReason::Unauthorized => {
                    no_entry(json, &reference)
                }
                _ => e,
            })
            .map_err(|e| e.stage("could not fetch manifest").stage("could not fetch Wasm OCI image"))?;
        // Whoever may read the manifest may have the module that it names.
        let same = self.store.find(&key, Some(manifest)).filter(|r| r.manifest == Some(manifest));
        let cached = same.is_some();
        let (wasm, layout) = match same {
            Some(record) => (record.wasm, record.layout),
            None => {
                let bytes = self
                    .download(&client, &plan)
                    .await
                    .map_err(|e| e.stage("could not fetch Wasm binary"))?;
                check_wasm(text, &bytes)?;
                check_pin(text, sha256, &[Some(Digest::of(&bytes)), Some(manifest), index])?;
                (self.store.put(&bytes)?, plan.layout)
            }
        };
        check_pin(text, sha256, &[Some(wasm), Some(manifest), index])?;
        let mut authorised = self
            .store
            .find(&key, Some(manifest))
            .filter(|r| r.manifest == Some(manifest))
            .map(|r| r.authorised)
            .unwrap_or_default();
        if !authorised.contains(&fingerprint) {
            authorised.push(fingerprint);
        }
        let record = Record { wasm, manifest: Some(manifest), index, layout, authorised };
        self.store.record(&key, record.clone())?;
        Ok(Fetched { cached, ..self.cached(text, &record, sha256)? })
    }

    /// What the cache has; `None` when its file is damaged, and so has to be fetched again.
    fn undamaged(
        &self,
        name: &str,
        record: &Record,
        sha256: Option<Digest>,
    ) -> Option<Result<Fetched, Failure>> {
        match self.cached(name, record, sha256) {
            Err(failure) if failure.reason == FetchReason::StoreFailed => {
                tracing::warn!(target: "wasm", "{name}: {}, it is fetched again", failure.message);
                None
            }
            other => Some(other),
        }
    }

    fn cached(&self, name: &str, record: &Record, sha256: Option<Digest>) -> Result<Fetched, Failure> {
        check_pin(name, sha256, &[Some(record.wasm), record.manifest, record.index])?;
        let path = self.store.path(record.wasm);
        // Read in full: a damaged file is removed, and the next attempt downloads it again.
        let size = self.store.read(record.wasm)?.len() as u64;
        Ok(Fetched {
            wasm: record.wasm,
            manifest: record.manifest,
            layout: record.layout,
            size,
            path,
            cached: true,
        })
    }

    /// Tries the layers of a plan in order until one holds a module.
    async fn download(&self, client: &RegistryClient, plan: &Plan) -> Result<Vec<u8>, Failure> {
        let mut only_other: Option<(String, Vec<u8>)> = None;
        let mut others = 0_usize;
        let mut removed: Vec<String> = Vec::new();
        for layer in &plan.layers {
            let mut blob = Vec::new();
            client
                .blob(layer.digest, layer.size, &mut |piece| {
                    blob.extend_from_slice(piece);
                    Ok(())
                })
                .await?;
            // A layer that says it is a module is one, or is told that it is none.
            if unpack::is_wasm(&blob) || plan.layout == Layout::Artifact {
                return Ok(blob);
            }
            let limit = self.options.module_bytes_max;
            let content = tokio::task::spawn_blocking(move || {
                unpack::read_tar(&unpack::decompress(&blob, limit)?, limit)
            })
            .await
            .map_err(|e| Failure::new(FetchReason::InvalidModule, e.to_string()))??;
            if let Some(plugin) = content.plugin.filter(|_| !removed.iter().any(|r| r == "plugin.wasm")) {
                return Ok(plugin);
            }
            others += content.others.len();
            only_other = only_other.or(content.others.into_iter().next());
            removed.extend(content.whiteouts);
        }
        match only_other {
            Some((_, bytes)) if others == 1 => Ok(bytes),
            Some((name, _)) => Err(Failure::new(
                FetchReason::UnsupportedMediaType,
                format!(
                    "plugin.wasm not found in the archive, and there are several other .wasm files ({name}, …): name one of them plugin.wasm"
                ),
            )),
            None => Err(Failure::new(
                FetchReason::UnsupportedMediaType,
                "plugin.wasm not found in the archive, nor any other .wasm file or Wasm layer",
            )),
        }
    }

    async fn fetch_url(&self, url: &str, mode: PullMode, sha256: Option<Digest>) -> Result<Fetched, Failure> {
        let lock = Arc::clone(self.in_flight.lock().entry(url.to_owned()).or_default());
        let _one = lock.lock().await;
        let usable = sha256.is_some() || mode == PullMode::IfNotPresent;
        if let Some(record) = self.store.find(url, sha256).filter(|_| usable)
            && let Some(cached) = self.undamaged(url, &record, sha256)
        {
            return cached;
        }
        let _permit = self.permits.acquire().await;
        let limit = self.options.module_bytes_max;
        let body = http_source::download(&self.http, url, &self.options.limits, limit).await?;
        let bytes = tokio::task::spawn_blocking(move || unpack::unbox(body, limit))
            .await
            .map_err(|e| Failure::new(FetchReason::InvalidModule, e.to_string()))??;
        check_wasm(url, &bytes)?;
        check_pin(url, sha256, &[Some(Digest::of(&bytes))])?;
        let wasm = self.store.put(&bytes)?;
        let record =
            Record { wasm, manifest: None, index: None, layout: Layout::Bare, authorised: Vec::new() };
        self.store.record(url, record.clone())?;
        Ok(Fetched { cached: false, ..self.cached(url, &record, sha256)? })
    }

    async fn fetch_file(&self, path: &Path, sha256: Option<Digest>) -> Result<Fetched, Failure> {
        let name = path.display().to_string();
        let not_found = |e: std::io::Error| Failure::new(FetchReason::FileNotFound, e.to_string());
        let size = tokio::fs::metadata(path).await.map_err(not_found)?.len();
        if size > self.options.module_bytes_max {
            return Err(Failure::new(
                FetchReason::TooLarge,
                format!(
                    "module exceeds limit: the file is larger than {} bytes",
                    self.options.module_bytes_max
                ),
            ));
        }
        let bytes = tokio::fs::read(path).await.map_err(not_found)?;
        check_wasm(&name, &bytes)?;
        check_pin(&name, sha256, &[Some(Digest::of(&bytes))])?;
        let wasm = self.store.put(&bytes)?;
        let record =
            Record { wasm, manifest: None, index: None, layout: Layout::Bare, authorised: Vec::new() };
        self.cached(&name, &record, sha256)
    }
}

/// The registry wants a user, there is a pull secret, and it is about other registries.
fn no_entry(docker_config: &[u8], reference: &Reference) -> Failure {
    let servers = RegistryCredential::servers(docker_config).join(", ");
    let servers =
        if servers.is_empty() { "it has none at all".to_owned() } else { format!("only for {servers}") };
    let text = format!(
        "the registry asks for user and password, and the pull secret has no entry for {}: {servers}",
        reference.registry
    );
    Failure::new(FetchReason::Unauthorized, text)
}

/// Follows a reference to an image's manifest, through an index if there is one.
async fn resolve(
    client: &RegistryClient,
    reference: &Reference,
) -> Result<(Plan, Digest, Option<Digest>), Failure> {
    let manifest = client.manifest(&reference.manifest_name()).await?;
    match layout::read(&manifest)? {
        Kind::Image(plan) => Ok((plan, manifest.digest, None)),
        Kind::Index(child) => {
            let image = client.manifest(&child.to_string()).await?;
            match layout::read(&image)? {
                Kind::Image(plan) => Ok((plan, image.digest, Some(manifest.digest))),
                Kind::Index(_) => {
                    Err(Failure::new(FetchReason::UnsupportedMediaType, "an index inside an index"))
                }
            }
        }
    }
}

fn check_wasm(name: &str, bytes: &[u8]) -> Result<(), Failure> {
    if unpack::is_wasm(bytes) {
        return Ok(());
    }
    let head: Vec<u8> = bytes.iter().take(16).copied().collect();
    let text = format!(
        "fetched Wasm binary from {name} is invalid: it does not begin with \\0asm but with {:?}",
        head.escape_ascii().to_string()
    );
    Err(Failure::new(FetchReason::InvalidModule, text))
}

/// A pin may name the module, its manifest or its index: people copy whichever their tool shows.
fn check_pin(name: &str, pin: Option<Digest>, have: &[Option<Digest>]) -> Result<(), Failure> {
    match pin {
        Some(pin) if !have.contains(&Some(pin)) => {
            let found: Vec<String> = have.iter().flatten().map(Digest::hex).collect();
            let text = format!(
                "module downloaded from {name} has checksum {}, which does not match: {}",
                found.join(" or "),
                pin.hex()
            );
            Err(Failure::new(FetchReason::DigestMismatch, text))
        }
        _ => Ok(()),
    }
}
