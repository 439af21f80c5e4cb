//! Why the process ends.

/// An error that a user of the command line meets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Folder(#[from] wasmgate_config::FolderError),
    #[error(transparent)]
    Gateway(#[from] wasmgate_proxy::GatewayError),
    #[error(transparent)]
    AccessLog(#[from] wasmgate_proxy::AccessLogError),
    #[error(transparent)]
    Store(#[from] wasmgate_artifact::StoreError),
    #[error(transparent)]
    Cache(#[from] wasmgate_artifact::CacheError),
    #[error(transparent)]
    Engine(#[from] wasmgate_host::LoadError),
    #[error("cannot set up TLS for registries: {0}")]
    Tls(String),
    #[error("admin interface: cannot listen on {address}: {source}")]
    Admin { address: std::net::SocketAddr, source: std::io::Error },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("no listener could be opened")]
    NoListener,
    #[error("the process that serves listens on {0}, and this one would not: it goes on, and this one ends")]
    Takeover(String),
    #[error("--access-log-format: {0}")]
    LogFormat(String),
    #[error("demo: {0}")]
    Demo(String),
}

impl CommandError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
