//! Images that other people's tools made, in a registry that other people wrote.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first thing that is wrong")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use wasmgate_artifact::{Fetched, Fetcher, FetcherOptions, Layout, ModuleSource, PullMode, Store};
use wasmgate_testkit::docker_registry::{DockerRegistry, PASSWORD, USERNAME};
use wasmgate_testkit::peers::process::require_program;
use wasmgate_testkit::plugins;

fn run(program: &str, directory: &Path, arguments: &[&str]) {
    let path = require_program(program, program).unwrap();
    let output = Command::new(path).current_dir(directory).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies an image into the registry with user and password.
fn copy(directory: &Path, from: &str, registry: &DockerRegistry, tag: &str, more: &[&str]) {
    let to = format!("docker://{}/tools/plugin:{tag}", registry.name());
    let credentials = format!("{USERNAME}:{PASSWORD}");
    let mut arguments =
        vec!["--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", &credentials];
    arguments.extend(more);
    arguments.extend([from, &to]);
    run("skopeo", directory, &arguments);
}

fn fetch(registry: &DockerRegistry, tag: &str) -> Fetched {
    let dir = tempfile::tempdir().unwrap();
    let fetcher =
        Fetcher::new(Arc::new(Store::open(dir.path()).unwrap()), FetcherOptions::default()).unwrap();
    let name = registry.name();
    let config = format!(
        "{{\"auths\": {{\"{name}\": {{\"username\": \"{USERNAME}\", \"password\": \"{PASSWORD}\"}}}}}}"
    );
    let source = ModuleSource::Oci(format!("{name}/tools/plugin:{tag}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fetched =
        runtime.block_on(fetcher.fetch(&source, PullMode::Always, Some(config.as_bytes()), None)).unwrap();
    let wanted = std::fs::read(plugins::header_authorization_rust()).unwrap();
    assert_eq!(std::fs::read(&fetched.path).unwrap(), wanted, "{tag}");
    fetched
}

#[test]
fn images_of_buildah_and_umoci_copied_by_skopeo_are_understood() {
    let registry = DockerRegistry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::copy(plugins::header_authorization_rust(), at.join("plugin.wasm")).unwrap();

    // The two-line Dockerfile of the story.
    std::fs::write(at.join("Dockerfile"), "FROM scratch\nADD plugin.wasm ./plugin.wasm\n").unwrap();
    std::fs::write(at.join("policy.json"), "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}")
        .unwrap();
    let storage = ["--storage-driver", "vfs", "--root", "root", "--runroot", "run"];
    let with = |more: &[&'static str]| [&storage[..], more].concat();
    run(
        "buildah",
        at,
        &with(&["bud", "--isolation", "chroot", "--signature-policy", "policy.json", "-q", "-t", "x", "."]),
    );
    run(
        "buildah",
        at,
        &with(&["push", "--signature-policy", "policy.json", "-q", "x", "oci-archive:built.tar"]),
    );
    copy(at, "oci-archive:built.tar", &registry, "buildah-oci", &[]);
    assert_eq!(fetch(&registry, "buildah-oci").layout, Layout::OciCompat);
    copy(at, "oci-archive:built.tar", &registry, "buildah-docker", &["--format", "v2s2"]);
    assert_eq!(fetch(&registry, "buildah-docker").layout, Layout::Docker);
    copy(at, "oci-archive:built.tar", &registry, "buildah-zstd", &["--dest-compress-format", "zstd"]);
    fetch(&registry, "buildah-zstd");

    run("umoci", at, &["init", "--layout", "layout"]);
    run("umoci", at, &["new", "--image", "layout:x"]);
    run("umoci", at, &["insert", "--image", "layout:x", "Dockerfile", "/etc/motd"]);
    run("umoci", at, &["insert", "--image", "layout:x", "plugin.wasm", "/opt/app/plugin.wasm"]);
    copy(at, "oci:layout:x", &registry, "umoci", &[]);
    assert_eq!(fetch(&registry, "umoci").layout, Layout::OciCompat);
}
