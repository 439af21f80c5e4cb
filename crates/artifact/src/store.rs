//! Modules on disk, by the digest of their bytes (spec: wasmplugin-and-routing §2.19).

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layout::Layout;

/// Why the disk did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("module store: cannot {action} {path}: {source}")]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl StoreError {
    pub(crate) fn new(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// What is known of a reference that was fetched once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) wasm: Digest,
    pub(crate) manifest: Option<Digest>,
    /// The index that the manifest was chosen from.
    pub(crate) index: Option<Digest>,
    pub(crate) layout: Layout,
    /// Fingerprints of the credentials that have pulled it: a private image is not for everybody who knows its name.
    pub(crate) authorised: Vec<String>,
}

impl Record {
    /// Whether this is what a pin names: the module, its manifest or its index. Without a pin everything is.
    pub(crate) fn fits(&self, pin: Option<Digest>) -> bool {
        pin.is_none_or(|pin| [Some(self.wasm), self.manifest, self.index].contains(&Some(pin)))
    }
}

/// A folder of modules. Safe against crashes: files appear whole or not at all.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// By reference, the one that was resolved last at the end.
    records: Mutex<BTreeMap<String, Vec<Record>>>,
}

/// So many modules are remembered of one reference: a pin may go back to one of them without asking the server.
const RECORDS_PER_REFERENCE_MAX: usize = 16;

const INDEX_FILE: &str = "references.json";

impl Store {
    /// Modules that nothing refers to are kept so long.
    pub const UNUSED_MAX: Duration = Duration::from_secs(24 * 3600);

    /// Opens or creates a store. An index that cannot be read is started anew: it only saves downloads.
    ///
    /// # Errors
    /// [`StoreError`] when the folder cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        create_private_dir(&root.join("blobs"))?;
        let path = root.join(INDEX_FILE);
        let records =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { root: root.to_owned(), records: Mutex::new(records) })
    }

    /// Where a module is, whether it is there or not.
    pub fn path(&self, wasm: Digest) -> PathBuf {
        self.root.join("blobs").join(wasm.hex())
    }

    /// Keeps a module.
    ///
    /// # Errors
    /// [`StoreError`], for example when the disk is full; what was there before is untouched.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.path(digest);
        // One that is there may be damaged.
        if !fs::read(&path).is_ok_and(|have| have == bytes) {
            write_atomically(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads a module and checks that it still is what its name says.
    ///
    /// # Errors
    /// [`StoreError`]; a damaged file is removed so that the next fetch replaces it.
    pub fn read(&self, wasm: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(wasm);
        let bytes = fs::read(&path).map_err(|e| StoreError::new("read", &path, e))?;
        if Digest::of(&bytes) != wasm {
            let _ = fs::remove_file(&path);
            let damaged =
                std::io::Error::new(std::io::ErrorKind::InvalidData, "the file is damaged, it was removed");
            return Err(StoreError::new("read", &path, damaged));
        }
        Ok(bytes)
    }

    /// The last module of a reference that is what a pin names; without one, the last.
    pub(crate) fn find(&self, reference: &str, pin: Option<Digest>) -> Option<Record> {
        let records = self.records.lock();
        let record = records.get(reference)?.iter().rev().find(|r| r.fits(pin))?;
        self.path(record.wasm).exists().then(|| record.clone())
    }

    /// Remembers what a reference names now.
    pub(crate) fn record(&self, reference: &str, record: Record) -> Result<(), StoreError> {
        let mut records = self.records.lock();
        let known = records.entry(reference.to_owned()).or_default();
        known.retain(|r| (r.wasm, r.manifest) != (record.wasm, record.manifest));
        known.retain(|r| self.path(r.wasm).exists());
        known.push(record);
        let too_many = known.len().saturating_sub(RECORDS_PER_REFERENCE_MAX);
        known.drain(..too_many);
        let path = self.root.join(INDEX_FILE);
        let json =
            serde_json::to_vec_pretty(&*records).map_err(|e| StoreError::new("write", &path, e.into()))?;
        write_atomically(&path, &json)
    }

    /// Removes modules that are neither in `used` nor younger than [`Store::UNUSED_MAX`]; gives their number.
    pub fn collect_garbage(&self, used: &HashSet<Digest>) -> usize {
        let mut removed = 0;
        let Ok(entries) = fs::read_dir(self.root.join("blobs")) else { return 0 };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|t| SystemTime::now().duration_since(t).ok());
            let digest = entry.file_name().to_str().and_then(Digest::parse);
            let kept = digest.is_some_and(|d| used.contains(&d)) || age.is_none_or(|a| a < Self::UNUSED_MAX);
            if !kept && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
        removed
    }
}

/// A folder that is ours and that nobody else can look into, or an error: code is loaded from it. One of ours that
/// others can enter is closed (a volume's group is often given access when it is mounted); what is in it is verified
/// when it is read.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    let error = |source| StoreError::new("use folder", path, source);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    match privacy(path)? {
        Privacy::Private => Ok(()),
        Privacy::Open => fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(error),
        Privacy::Foreign(owner) => {
            let text =
                format!("it belongs to another user (uid {owner}): name a folder that does not exist yet");
            Err(error(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text)))
        }
    }
}

/// Who can get at a folder or file.
pub(crate) enum Privacy {
    /// This user.
    Private,
    /// It belongs to this user, and others have some access.
    Open,
    /// It belongs to this user id.
    Foreign(u32),
}

pub(crate) fn privacy(path: &Path) -> Result<Privacy, StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(|e| StoreError::new("use", path, e))?;
    Ok(if metadata.uid() != rustix::process::geteuid().as_raw() {
        Privacy::Foreign(metadata.uid())
    } else if metadata.mode() & 0o077 != 0 {
        Privacy::Open
    } else {
        Privacy::Private
    })
}

/// Writes a file so that a crash leaves the old one or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let temporary = path.with_extension(format!("tmp-{}-{n}", std::process::id()));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        StoreError::new("write", path, e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_survives_a_restart_and_notices_damage() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = Store::open(dir.path()).unwrap().put(b"module").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = Record { wasm, manifest: None, index: None, layout: Layout::Bare, authorised: vec![] };
        store.record("r.test/x:1", record.clone()).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().find("r.test/x:1", None), Some(record));
        fs::write(store.path(wasm), b"modulo").unwrap();
        assert!(store.read(wasm).unwrap_err().to_string().contains("damaged"));
        assert_eq!(store.find("r.test/x:1", None), None, "the next fetch downloads it again");
    }

    #[test]
    fn a_reference_remembers_what_it_named_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let module = |n: usize| store.put(format!("module {n}").as_bytes()).unwrap();
        for n in 0..20 {
            let record = Record {
                wasm: module(n),
                manifest: None,
                index: None,
                layout: Layout::Bare,
                authorised: vec![],
            };
            store.record("x", record).unwrap();
        }
        let find = |pin| store.find("x", pin).map(|r| r.wasm);
        assert_eq!(find(None), Some(module(19)));
        assert_eq!(find(Some(module(4))), Some(module(4)));
        assert_eq!(find(Some(module(3))), None, "only so many");
    }

    #[test]
    fn garbage_is_what_is_old_and_unused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, used, young) =
            (store.put(b"old").unwrap(), store.put(b"used").unwrap(), store.put(b"young").unwrap());
        let long_ago = SystemTime::now() - 2 * Store::UNUSED_MAX;
        for digest in [old, used] {
            File::options().write(true).open(store.path(digest)).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!(store.collect_garbage(&HashSet::from([used])), 1);
        assert_eq!([old, used, young].map(|d| store.path(d).exists()), [false, true, true]);
    }
}
