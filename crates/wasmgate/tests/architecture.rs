//! The invariants of ARCHITECTURE.md, checked and not hoped for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use wasmgate_testkit::plugins::repository;

fn metadata() -> serde_json::Value {
    let output = Command::new("cargo")
        .current_dir(repository())
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Normal dependencies of each of our crates.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let ours = metadata["packages"].as_array().unwrap().iter().filter(|p| p["source"].is_null());
    ours.map(|p| {
        let normal = p["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        let names = normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
        (p["name"].as_str().unwrap().to_owned(), names)
    })
    .collect()
}

#[test]
fn arrows_between_crates_go_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("wasmgate-host", &[][..]),
        ("wasmgate-stream", &[]),
        ("wasmgate-artifact", &[]),
        ("wasmgate-config", &[]),
        ("wasmgate-sandbox", &[]),
        ("wasmgate-plugin", &["wasmgate-host", "wasmgate-stream", "wasmgate-artifact"]),
        ("wasmgate-proxy", &["wasmgate-config", "wasmgate-plugin", "wasmgate-stream"]),
    ]);
    let dependencies = dependencies();
    for (name, allowed) in allowed {
        let ours: Vec<&String> = dependencies[name].iter().filter(|d| d.starts_with("wasmgate")).collect();
        assert!(
            ours.iter().all(|d| allowed.contains(&d.as_str())),
            "{name} uses {ours:?}, may use {allowed:?}"
        );
    }
}

#[test]
fn the_host_knows_no_http_no_runtime_no_files_and_the_stream_no_wasm() {
    let dependencies = dependencies();
    for (name, forbidden) in [
        ("wasmgate-host", &["http", "hyper", "tokio", "tracing", "kube", "reqwest", "tempfile"][..]),
        ("wasmgate-stream", &["tokio", "hyper", "wasmtime", "tracing"]),
        ("wasmgate-config", &["hyper", "wasmtime", "reqwest"]),
    ] {
        let found: Vec<&&str> = forbidden.iter().filter(|f| dependencies[name].contains(**f)).collect();
        assert!(found.is_empty(), "{name} must not use {found:?}");
    }
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The lines of a crate's sources before the tests, with their file.
fn lines(name: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    sources(&repository().join("crates").join(name).join("src"), &mut files);
    let mut out = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        out.extend(code.lines().map(|l| (file.clone(), l.to_owned())));
    }
    out
}

#[test]
fn nothing_below_the_binary_reads_the_environment() {
    for name in ["host", "stream", "artifact", "plugin", "proxy", "config", "sandbox"] {
        let found: Vec<_> = lines(name)
            .into_iter()
            .filter(|(_, l)| l.contains("env::var") || l.contains("env::args"))
            .collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn unsafe_code_is_in_the_compile_cache_only() {
    for name in ["host", "stream", "artifact", "plugin", "proxy", "config", "sandbox", "wasmgate", "testkit"]
    {
        for (file, line) in
            lines(name).into_iter().filter(|(_, l)| l.contains("unsafe {") || l.contains("unsafe fn"))
        {
            assert!(file.ends_with("artifact/src/compile_cache.rs"), "{}: {line}", file.display());
        }
    }
}

#[test]
fn files_hold_one_noun() {
    // Before the tests; the list shrinks. Each entry is one state machine, parser or table that is read as a whole.
    const LINES_MAX: usize = 400;
    let exceptions =
        ["machine.rs", "exchange.rs", "compile.rs", "vm.rs", "wasm_plugin.rs", "registry.rs", "manager.rs"];
    for name in ["host", "stream", "artifact", "plugin", "proxy", "config", "sandbox", "wasmgate"] {
        let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (file, _) in lines(name) {
            *counts.entry(file).or_default() += 1;
        }
        for (file, count) in counts {
            let known = exceptions.iter().any(|e| file.ends_with(e));
            assert!(count <= LINES_MAX || known, "{} has {count} lines before its tests", file.display());
        }
    }
}
