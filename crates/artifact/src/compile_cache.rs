//! Compiled code on disk: the one place with `unsafe` (DESIGN §6).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;

use crate::digest::Digest;
use crate::store::{Privacy, StoreError, create_private_dir, privacy, write_atomically};

/// Why compiled code could not be kept. Modules still compile, every time anew.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system's random numbers.
    #[error("compile cache: no random bytes for the authentication key")]
    Random,
}

/// Keeps compiled modules. Each file is authenticated with a key that only this user can read, and bound to the
/// module's digest and to the compiler's version and settings.
#[derive(Debug)]
pub struct CompileCache {
    root: PathBuf,
    key: hmac::Key,
}

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

impl CompileCache {
    /// Opens or creates a cache.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        create_private_dir(root)?;
        let path = root.join("key");
        let secret = match std::fs::read(&path) {
            Ok(secret) if secret.len() == KEY_BYTES && matches!(privacy(&path)?, Privacy::Private) => secret,
            // A new key makes everything that is there worthless, which is the safe direction.
            _ => {
                let mut secret = vec![0; KEY_BYTES];
                aws_lc_rs::rand::fill(&mut secret).map_err(|_| CacheError::Random)?;
                write_atomically(&path, &secret)?;
                secret
            }
        };
        Ok(Self { root: root.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &secret) })
    }

    fn path(&self, engine: &wasmtime::Engine, wasm: Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.root.join(format!("{}-{:016x}", wasm.hex(), hasher.finish()))
    }

    /// Compiled code for a module, if this cache made it for this engine and nobody has touched it since.
    pub fn load(&self, engine: &wasmtime::Engine, wasm: Digest) -> Option<wasmtime::Module> {
        let path = self.path(engine, wasm);
        let file = std::fs::read(&path).ok()?;
        let (mac, code) = file.split_at_checked(MAC_BYTES)?;
        if hmac::verify(&self.key, &signed(&path, code), mac).is_err() {
            let _ = std::fs::remove_file(&path);
            return None;
        }
        deserialize(engine, code)
    }

    /// Keeps compiled code.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn save(&self, engine: &wasmtime::Engine, wasm: Digest, code: &[u8]) -> Result<(), CacheError> {
        let path = self.path(engine, wasm);
        let mac = hmac::sign(&self.key, &signed(&path, code));
        write_atomically(&path, &[mac.as_ref(), code].concat())?;
        Ok(())
    }
}

/// What the authentication covers: the name, which says module and engine, and the code.
fn signed(path: &Path, code: &[u8]) -> Vec<u8> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    [name.as_bytes(), b"\0", code].concat()
}

/// Turns code that a compiler of ours has just written, or that has been authenticated, into a module.
pub(crate) fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> Option<wasmtime::Module> {
    // SAFETY: `Module::deserialize` wants bytes that `Engine::precompile_module` made and nobody changed. They come
    // from two places: a child process of this very binary, through a file in a folder of mode 0700, and this cache,
    // after an HMAC with a key of mode 0600 has been verified over the same buffer that is passed here. Code from
    // images never gets here. A file of another version of the compiler is refused by wasmtime itself.
    #[expect(unsafe_code, reason = "the only way to load compiled code; the conditions are argued above")]
    let module = unsafe { wasmtime::Module::deserialize(engine, code) };
    module.ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn code_that_was_touched_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompileCache::open(dir.path()).unwrap();
        let engine = wasmtime::Engine::default();
        let wasm = wat::parse_str("(module)").unwrap();
        let digest = Digest::of(&wasm);
        cache.save(&engine, digest, &engine.precompile_module(&wasm).unwrap()).unwrap();
        assert!(CompileCache::open(dir.path()).unwrap().load(&engine, digest).is_some(), "after a restart");
        let path = cache.path(&engine, digest);
        let mut file = std::fs::read(&path).unwrap();
        let last = file.len() - 1;
        file[last] ^= 1;
        std::fs::write(&path, &file).unwrap();
        assert!(cache.load(&engine, digest).is_none());
        assert!(!path.exists(), "it is removed, so that the next compile replaces it");
    }

    #[test]
    fn code_of_another_module_under_this_name_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompileCache::open(dir.path()).unwrap();
        let engine = wasmtime::Engine::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        cache.save(&engine, a, &engine.precompile_module(b"\0asm\x01\0\0\0").unwrap()).unwrap();
        std::fs::copy(cache.path(&engine, a), cache.path(&engine, b)).unwrap();
        assert!(cache.load(&engine, b).is_none());
    }

    #[test]
    fn a_key_that_others_could_read_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
        };
        CompileCache::open(dir.path()).unwrap();
        let path = dir.path().join("key");
        let first = std::fs::read(&path).unwrap();
        set(dir.path(), 0o770);
        CompileCache::open(dir.path()).unwrap();
        assert_eq!((mode(dir.path()), std::fs::read(&path).unwrap()), (0o700, first.clone()));
        set(&path, 0o640);
        CompileCache::open(dir.path()).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_ne!(std::fs::read(&path).unwrap(), first);
    }
}
