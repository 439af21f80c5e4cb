//! The four back ends as one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use wasmgate_testkit::peers::nginx::Nginx;
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::peers::process::{ChildGuard, find_program};

use crate::peer;
use crate::recorder::Recorder;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A raw socket, which also says when a request has more than one reading.
    Raw,
    /// nginx.
    Nginx,
    /// Apache httpd.
    Apache,
    /// Node's HTTP server.
    Node,
}

impl BackendKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Nginx, Self::Apache, Self::Node];

    /// Whether it can be run here.
    #[must_use]
    pub fn is_installed(self) -> bool {
        match self {
            Self::Raw => true,
            Self::Nginx => find_program("nginx").is_some(),
            Self::Apache => find_program("apache2").is_some(),
            Self::Node => find_program("node").is_some(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Nginx => "nginx",
            Self::Apache => "apache",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("{text} is no back end; there are {names}"))
    }
}

/// A back end that runs. Ends when it is dropped.
#[derive(Debug)]
pub struct Backend {
    kind: BackendKind,
    address: SocketAddr,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Recorder(Recorder),
    Nginx(Nginx, #[expect(dead_code, reason = "holds the port")] PortLease),
    Child(ChildGuard),
}

impl Backend {
    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(kind: BackendKind) -> io::Result<Self> {
        let (address, process) = match kind {
            BackendKind::Raw => {
                let recorder = Recorder::start()?;
                (recorder.address(), Process::Recorder(recorder))
            }
            BackendKind::Nginx => {
                let (nginx, lease) = peer::nginx()?;
                (nginx.listener(), Process::Nginx(nginx, lease))
            }
            BackendKind::Apache => {
                let (child, address) = peer::apache()?;
                (address, Process::Child(child))
            }
            BackendKind::Node => {
                let (child, address) = peer::node()?;
                (address, Process::Child(child))
            }
        };
        Ok(Self { kind, address, process })
    }

    /// Which one it is.
    #[must_use]
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen: `METHOD TARGET` of each request, and lines of its own for what it could not read.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn seen(&self) -> io::Result<Vec<String>> {
        let text = match &self.process {
            Process::Recorder(recorder) => return Ok(recorder.lines()),
            Process::Nginx(nginx, _) => nginx.child().stdout()?,
            Process::Child(child) => child.stdout()?,
        };
        Ok(text.lines().map(|line| line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned()).collect())
    }
}
