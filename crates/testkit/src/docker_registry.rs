//! Debian's docker-registry with user and password, on a port of the system's choice.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::gateway::PATIENCE;
use crate::peers::ports::free_port;
use crate::peers::process::{ChildGuard, require_program};

/// A registry that runs. Ends when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    address: SocketAddr,
    _child: ChildGuard,
}

/// Its only user.
pub const USERNAME: &str = "puller";
/// That user's password.
pub const PASSWORD: &str = "pull-password";

impl DockerRegistry {
    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed (Debian: docker-registry, apache2-utils) or does not come up.
    pub fn start() -> io::Result<Self> {
        let registry = require_program("docker-registry", "docker-registry")?;
        let htpasswd = require_program("htpasswd", "apache2-utils")?;
        let dir = TempDir::with_prefix("wasmgate-docker-registry-")?;
        let users = Command::new(htpasswd).args(["-Bbn", USERNAME, PASSWORD]).output()?;
        std::fs::write(dir.path().join("users"), users.stdout)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let root = dir.path().display();
        let config = format!(
            "version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}/data}}
  delete: {{enabled: true}}
http: {{addr: '{address}'}}
auth:
  htpasswd: {{realm: test, path: {root}/users}}
"
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config)?;
        let mut command = Command::new(registry);
        command.arg("serve").arg(&path);
        let mut child = ChildGuard::spawn_in("docker-registry", command, dir)?;
        child.wait_ready(Instant::now() + PATIENCE, || std::net::TcpStream::connect(address).is_ok())?;
        Ok(Self { address, _child: child })
    }

    /// `localhost:port`, as it stands in references and in secrets.
    #[must_use]
    pub fn name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}
