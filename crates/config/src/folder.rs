//! Manifests from folders and files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher as _;
use tokio::sync::mpsc;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// The path as the user would write it.
    pub name: Arc<str>,
    /// Its content.
    pub text: Arc<str>,
}

/// Why the manifests cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A path that was named on the command line.
    #[error("cannot read manifests from {path}: {source}")]
    Read {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file over the limit.
    #[error("{path} is larger than {limit_bytes} bytes, which is no manifest")]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// [`FolderSource::FILE_BYTES_MAX`]
        limit_bytes: u64,
    },
    /// Too many files.
    #[error("{path} holds more than {limit} manifests")]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// [`FolderSource::FILES_MAX`]
        limit: usize,
    },
    /// The system does not watch files for us.
    #[error("cannot watch {path} for changes: {source}")]
    Watch {
        /// The path.
        path: PathBuf,
        /// The watcher's reason.
        source: notify::Error,
    },
}

/// Folders (their `*.yaml`, `*.yml` and `*.json`, not recursively, as `kubectl apply -f`) and single files.
#[derive(Clone, Debug)]
pub struct FolderSource {
    paths: Vec<PathBuf>,
}

impl FolderSource {
    /// Size of one file, bytes.
    pub const FILE_BYTES_MAX: u64 = 16 << 20;
    /// Files in one folder.
    pub const FILES_MAX: usize = 10_000;
    /// Changes are read once nothing has happened for so long.
    pub const DEBOUNCE: Duration = Duration::from_millis(20);
    /// But not later than this after the first change.
    pub const DEBOUNCE_MAX: Duration = Duration::from_secs(1);
    /// Files are read again after this even if nothing was noticed.
    pub const REREAD: Duration = Duration::from_secs(10);

    /// A source over these paths.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths }
    }

    /// Reads every file.
    ///
    /// # Errors
    /// [`FolderError`]: a path does not exist or cannot be read. What was read before should go on serving.
    pub fn read(&self) -> Result<Vec<ManifestFile>, FolderError> {
        let mut files = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                for file in Self::list(path)? {
                    // A file that vanishes between listing and reading is being replaced: the next event reads it.
                    match Self::read_file(&file) {
                        Err(FolderError::Read { source, .. })
                            if source.kind() == std::io::ErrorKind::NotFound => {}
                        read => files.push(read?),
                    }
                }
            } else {
                files.push(Self::read_file(path)?);
            }
        }
        Ok(files)
    }

    fn list(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
        let error = |source| FolderError::Read { path: folder.to_owned(), source };
        let mut out = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            // Mounted ConfigMaps keep their data under names that begin with two dots.
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if manifest && !hidden && path.is_file() {
                out.push(path);
            }
            if out.len() > Self::FILES_MAX {
                return Err(FolderError::TooMany { path: folder.to_owned(), limit: Self::FILES_MAX });
            }
        }
        out.sort();
        Ok(out)
    }

    fn read_file(path: &Path) -> Result<ManifestFile, FolderError> {
        let error = |source| FolderError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(error)?.len() > Self::FILE_BYTES_MAX {
            return Err(FolderError::TooLarge { path: path.to_owned(), limit_bytes: Self::FILE_BYTES_MAX });
        }
        let text = std::fs::read(path).map_err(error)?;
        Ok(ManifestFile {
            name: path.display().to_string().into(),
            text: String::from_utf8_lossy(&text).into(),
        })
    }

    /// Sends a message whenever something below the paths has changed and has been quiet for [`Self::DEBOUNCE`], at the
    /// latest [`Self::DEBOUNCE_MAX`] after the first change, and every [`Self::REREAD`] in any case: a folder that was
    /// replaced as a whole, or a lost event, is noticed then.
    ///
    /// # Errors
    /// [`FolderError::Watch`]
    pub fn watch(&self) -> Result<(notify::RecommendedWatcher, mpsc::Receiver<()>), FolderError> {
        let (raw_tx, raw_rx) = mpsc::unbounded_channel();
        let (tx, rx) = mpsc::channel(1);
        let watch_error = |path: &Path, source| FolderError::Watch { path: path.to_owned(), source };
        let first = self.paths.first().cloned().unwrap_or_default();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|e| is_irrelevant(&e)) {
                let _ = raw_tx.send(());
            }
        })
        .map_err(|e| watch_error(&first, e))?;
        for path in &self.paths {
            // A file that an editor replaces is another file: the folder above it is watched.
            let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            watcher.watch(folder, notify::RecursiveMode::NonRecursive).map_err(|e| watch_error(folder, e))?;
        }
        tokio::spawn(debounce(raw_rx, tx));
        Ok((watcher, rx))
    }
}

/// Reading is no change, nor is anything about a file that is no manifest: a log in the same folder, say. Mounted
/// ConfigMaps change by a link whose name begins with two dots.
fn is_irrelevant(event: &notify::Event) -> bool {
    let concerns_manifests = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") || name.starts_with("..")
    };
    event.kind.is_access() || (!event.paths.is_empty() && !event.paths.iter().any(concerns_manifests))
}

async fn debounce(mut raw: mpsc::UnboundedReceiver<()>, out: mpsc::Sender<()>) {
    loop {
        match tokio::time::timeout(FolderSource::REREAD, raw.recv()).await {
            Ok(None) => return,
            Ok(Some(())) => {
                let quiet = async {
                    while tokio::time::timeout(FolderSource::DEBOUNCE, raw.recv())
                        .await
                        .is_ok_and(|e| e.is_some())
                    {}
                };
                // Over the time: what goes on changing is read as it is now, and again later.
                let _ = tokio::time::timeout(FolderSource::DEBOUNCE_MAX, quiet).await;
            }
            Err(_) => {}
        }
        if out.send(()).await.is_err() {
            return;
        }
    }
}
