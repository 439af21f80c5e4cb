//! Plug-ins built from their sources in this repository.

#![expect(clippy::panic, reason = "a test cannot go on without its plug-in")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::peers::process::find_program;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn target() -> PathBuf {
    repository().join("target").join("plugins")
}

/// Builds a Rust plug-in in a folder of the repository; gives the module.
///
/// # Panics
/// When it does not build: a test cannot go on.
#[must_use]
pub fn rust(folder: &str, crate_name: &str) -> PathBuf {
    let mut command = Command::new("cargo");
    command.current_dir(repository().join(folder)).args([
        "build",
        "--release",
        "--locked",
        "--target",
        "wasm32-wasip1",
    ]);
    // The host build's flags and tools are not the plug-in's.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    command.arg("--target-dir").arg(target());
    run(&mut command);
    target().join("wasm32-wasip1/release").join(format!("{crate_name}.wasm"))
}

/// Builds a Go plug-in in a folder of the repository; gives the module.
///
/// # Panics
/// When it does not build: a test cannot go on.
#[must_use]
pub fn go(folder: &str) -> PathBuf {
    let go = find_program("go").unwrap_or_else(|| target().join("go-venv/bin/go"));
    let name = folder.replace('/', "-");
    let out = target().join(format!("go-{name}.wasm"));
    let _ = std::fs::create_dir_all(target());
    // Two tests may build at once: each writes a file of its own, and the rename is atomic.
    let mine = out.with_extension(format!("{}.wasm", std::process::id()));
    let mut command = Command::new(go);
    command
        .current_dir(repository().join(folder))
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("GOFLAGS", "-buildvcs=false");
    command.args(["build", "-buildmode=c-shared", "-o"]).arg(&mine).arg(".");
    run(&mut command);
    assert!(std::fs::rename(&mine, &out).is_ok(), "cannot keep {}", out.display());
    out
}

/// Builds a C plug-in in a folder of the repository with the compiler that its `requirements.txt` pins; gives the module.
///
/// # Panics
/// When it does not build: a test cannot go on.
#[must_use]
pub fn c(folder: &str) -> PathBuf {
    let source = repository().join(folder);
    let (venv, out) =
        (target().join("zig-venv"), target().join(format!("c-{}.wasm", folder.replace('/', "-"))));
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    }
    let requirements = source.join("requirements.txt");
    run(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements));
    let compiler = format!("CC={} -m ziglang cc", python.display());
    let cache = target().join("zig-cache");
    run(Command::new("make")
        .arg("-C")
        .arg(source)
        .arg(compiler)
        .arg(format!("OUT={}", out.display()))
        .env("ZIG_GLOBAL_CACHE_DIR", &cache)
        .env("ZIG_LOCAL_CACHE_DIR", &cache));
    out
}

/// Builds an AssemblyScript plug-in in a folder of the repository with the packages that its lock file pins; gives the
/// module. Packages are installed into a copy: the sources stay as they are.
///
/// # Panics
/// When it does not build: a test cannot go on.
#[must_use]
pub fn assemblyscript(folder: &str) -> PathBuf {
    let name = folder.replace('/', "-");
    let (copy, out) = (target().join(&name), target().join(format!("as-{name}.wasm")));
    let _ = std::fs::create_dir_all(&copy);
    let source = repository().join(folder);
    for part in ["package.json", "package-lock.json", ".npmrc", "asconfig.json", "assembly"] {
        run(Command::new("cp").arg("-r").arg(source.join(part)).arg(&copy));
    }
    if !copy.join("node_modules").exists() {
        run(Command::new("npm").current_dir(&copy).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]));
    }
    let asc = copy.join("node_modules/.bin/asc");
    run(Command::new(asc)
        .current_dir(&copy)
        .args(["assembly/index.ts", "--target", "release", "-b"])
        .arg(&out));
    out
}

fn run(command: &mut Command) {
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr))
        }
        Err(e) => panic!("{command:?}: {e}"),
    }
}

/// The header check in Rust.
#[must_use]
pub fn header_authorization_rust() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| rust("examples/plugins/rust/header-authorization", "header_authorization"))
}

/// The header check in Go.
#[must_use]
pub fn header_authorization_go() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| go("examples/plugins/go/header-authorization"))
}

/// The plug-in that does what a request tells it: panics, loops, leaks, edits.
#[must_use]
pub fn edge() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| rust("crates/testkit/plugins/edge", "edge"))
}

/// The plug-in that reaches beyond its stream: call-outs, timers, queues, metrics.
#[must_use]
pub fn caller() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| rust("crates/testkit/plugins/caller", "caller"))
}

/// A folder with plug-ins that nobody here wrote: `coraza.wasm`, and compiled ones of ABI 0.2.100 in `higress/`.
///
/// # Panics
/// When they cannot be fetched or built: a test cannot go on.
#[must_use]
pub fn real() -> &'static Path {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    FETCHED.get_or_init(|| {
        run(&mut Command::new(repository().join("scripts/real-plugins")));
        target()
    })
}
