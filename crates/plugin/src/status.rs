//! What `/plugins` tells.

use serde::Serialize;

/// State of a plug-in as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// The first version is on its way.
    Pending,
    /// The version that the manifest asks for serves.
    Ready,
    /// The version that the manifest asks for crashes so often that some worker has no VM of it now.
    Restarting,
    /// An older version serves while the wanted one is on its way.
    Updating,
    /// The wanted version failed; an older one serves.
    Degraded,
    /// The wanted version failed and there is none to serve.
    Failed,
}

/// One plug-in.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// `<namespace>.<name>`
    pub name: String,
    /// The resource and where it stands.
    pub resource: String,
    /// State.
    pub state: PluginState,
    /// Why, in one word; empty when ready.
    pub reason: String,
    /// Why, in words.
    pub message: String,
    /// Seconds until the next attempt, if one is planned.
    pub retry_in_seconds: Option<u64>,
    /// Where the module comes from, as the manifest says.
    pub image: String,
    /// What the serving version was made from; differs from `image` while an update is on its way.
    pub serving_image: Option<String>,
    /// Digest of the manifest that the reference was resolved to.
    pub digest: Option<String>,
    /// Digest of the module.
    pub module_sha256: Option<String>,
    /// Size of the module, bytes.
    pub size: Option<u64>,
    /// How the image carries the module.
    pub layout: Option<String>,
    /// ABI version of the module.
    pub abi: Option<String>,
    /// Phase.
    pub phase: &'static str,
    /// Priority.
    pub priority: Option<i32>,
    /// FAIL_CLOSE, FAIL_OPEN or FAIL_RELOAD.
    pub fail_strategy: &'static str,
    /// VMs by worker.
    pub workers: Vec<WorkerVmStatus>,
    /// VMs that are ready and not used.
    pub spare_vms: usize,
    /// Failures at run time.
    pub faults: FaultStatus,
    /// Callbacks slower than 50 ms.
    pub slow_callbacks: u64,
    /// Local replies that it sent.
    pub local_replies: u64,
}

/// The VMs of a worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerVmStatus {
    /// Number of the worker.
    pub worker: usize,
    /// VMs, draining ones included.
    pub vms: usize,
    /// Linear memory of the newest, bytes.
    pub memory_bytes: usize,
}

/// Failures at run time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FaultStatus {
    /// All of them.
    pub total: u64,
    /// By reason.
    pub by_reason: std::collections::BTreeMap<&'static str, u64>,
    /// The last one.
    pub last: Option<LastFault>,
}

/// The last failure.
#[derive(Clone, Debug, Serialize)]
pub struct LastFault {
    /// Seconds since the Unix epoch.
    pub unix_time: u64,
    /// One word.
    pub reason: &'static str,
    /// The callback.
    pub function: &'static str,
    /// In words.
    pub message: String,
    /// The guest's frames.
    pub frames: Vec<String>,
}
