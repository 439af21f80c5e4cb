//! Modules and images: where the bytes of a plug-in come from.
//!
//! ```text
//! reference ──▶ registry (manifest → digest) ──▶ layer ──▶ unpack ──▶ Store (by sha256) ──▶ CompileCache
//! ```
//!
//! Registries, images and servers are hostile here: every size is bounded while it streams, declared sizes are never
//! trusted, credentials go to their own host only, and nothing is kept that has not been verified. Where to start
//! reading: `fetcher`, then spec: wasmplugin-and-routing §2.
#![warn(missing_docs)]

mod compile;
mod compile_cache;
mod credential;
mod digest;
mod error;
mod fetcher;
mod http_source;
mod layout;
mod package;
mod reference;
mod registry;
mod store;
mod unpack;

pub use compile::{ChildCompiler, CompileError, CompileLimits, run_compile_child};
pub use compile_cache::{CacheError, CompileCache};
pub use credential::{CredentialError, RegistryCredential};
pub use digest::Digest;
pub use error::{FetchError, FetchReason};
pub use fetcher::{Fetched, Fetcher, FetcherOptions, ModuleSource, PullMode};
pub use layout::Layout;
pub use package::{Image, ImageKind, PushError, push};
pub use reference::{Reference, ReferenceError};
pub use registry::{RegistryClient, RegistryLimits};
pub use store::{Store, StoreError};
