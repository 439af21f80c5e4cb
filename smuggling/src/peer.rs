//! Back ends that somebody else wrote, told to be as lenient as they can and to log each request line.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmgate_testkit::peers::nginx::Nginx;
use wasmgate_testkit::peers::ports::{PortLease, free_port};
use wasmgate_testkit::peers::process::{ChildGuard, require_program};

const START_TIME_MAX: Duration = Duration::from_secs(20);

/// Where Debian keeps Apache's modules.
const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

/// What node runs: every request and everything that its parser refuses, a line each.
const NODE_SERVER: &str = include_str!("server.js");

/// nginx with its log on standard output.
///
/// # Errors
/// When it is not installed or does not start.
pub fn nginx() -> io::Result<(Nginx, PortLease)> {
    let lease = PortLease::new()?;
    let block = format!(
        "log_format line '$request';\naccess_log /dev/stdout line;\nignore_invalid_headers off;\n\
         underscores_in_headers on;\nmerge_slashes off;\nclient_max_body_size 0;\n\
         server {{\n listen {} reuseport;\n default_type text/plain;\n location / {{ return 200 \"$request_uri\"; }}\n}}\n",
        lease.address()
    );
    Ok((Nginx::with_http_block(&block, lease.port())?, lease))
}

/// Apache with its log on standard output. Every answer is a 404 whose text is the path.
///
/// # Errors
/// When it is not installed or does not start.
pub fn apache() -> io::Result<(ChildGuard, SocketAddr)> {
    let program = require_program("apache2", "apache2-bin")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let dir = TempDir::with_prefix("wasmgate-apache-")?;
    // Its children are somebody else, who looks for files here and finds none.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    std::fs::create_dir(dir.path().join("nothing"))?;
    let file = dir.path().join("apache.conf");
    std::fs::write(&file, apache_config(address, dir.path()))?;
    let mut command = Command::new(program);
    command.arg("-DFOREGROUND").arg("-f").arg(file);
    wait(ChildGuard::spawn_in("apache", command, dir)?, address)
}

fn apache_config(address: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    // `User` counts when root starts it: Apache refuses to serve as root.
    format!(
        "ServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\nListen {address}\nServerName localhost\n\
         LoadModule mpm_event_module {APACHE_MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {APACHE_MODULES}/mod_authz_core.so\n\
         User nobody\nGroup nogroup\nStartServers 1\nServerLimit 1\nThreadsPerChild 25\nMaxRequestWorkers 25\n\
         MinSpareThreads 1\nMaxSpareThreads 25\nMutex sem\nErrorLog /dev/stderr\nLogFormat \"%r\" line\n\
         CustomLog /dev/stdout line\nHttpProtocolOptions Unsafe LenientMethods Allow0.9\nKeepAlive On\n\
         MaxKeepAliveRequests 0\nKeepAliveTimeout 3600\nAllowEncodedSlashes NoDecode\nMergeSlashes Off\nTraceEnable On\n\
         DocumentRoot {dir}/nothing\nErrorDocument 404 \"%{{REQUEST_URI}}\"\nErrorDocument 403 \"%{{REQUEST_URI}}\"\n"
    )
}

/// Node's HTTP server with its lenient parser.
///
/// # Errors
/// When it is not installed or does not start.
pub fn node() -> io::Result<(ChildGuard, SocketAddr)> {
    let program: PathBuf = require_program("node", "nodejs")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let dir = TempDir::with_prefix("wasmgate-node-")?;
    let file = dir.path().join("server.js");
    std::fs::write(&file, NODE_SERVER)?;
    let mut command = Command::new(program);
    command.arg(file).arg(address.port().to_string());
    wait(ChildGuard::spawn_in("node", command, dir)?, address)
}

fn wait(mut child: ChildGuard, address: SocketAddr) -> io::Result<(ChildGuard, SocketAddr)> {
    child.wait_ready(Instant::now() + START_TIME_MAX, || std::net::TcpStream::connect(address).is_ok())?;
    Ok((child, address))
}
