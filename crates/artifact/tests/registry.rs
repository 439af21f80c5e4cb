//! Fetching against a registry that misbehaves in every way that one can.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::sync::Arc;
use std::time::Duration;

use wasmgate_artifact::{
    Digest, FetchReason, Fetched, Fetcher, FetcherOptions, Image, ImageKind, Layout, ModuleSource, PullMode,
    Reference, RegistryCredential, RegistryLimits, Store, push,
};
use wasmgate_sandbox::{Authentication, Fault, FaultTarget, Registry, RegistryOptions};

const WASM: &[u8] = b"\0asm\x01\0\0\0";

struct Scene {
    registry: Registry,
    fetcher: Fetcher,
    _dir: tempfile::TempDir,
}

fn user() -> (String, String) {
    ("u".to_owned(), "p".to_owned())
}

impl Scene {
    async fn new(authentication: Authentication) -> Self {
        let registry =
            Registry::start(([127, 0, 0, 1], 0).into(), RegistryOptions { authentication }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let limits = RegistryLimits {
            manifest_bytes_max: 64 << 10,
            blob_bytes_max: 1 << 20,
            read_timeout: Duration::from_millis(500),
            total_timeout: Duration::from_secs(5),
            ..RegistryLimits::default()
        };
        let options = FetcherOptions { limits, module_bytes_max: 1 << 20, ..FetcherOptions::default() };
        let fetcher = Fetcher::new(Arc::new(Store::open(dir.path()).unwrap()), options).unwrap();
        Self { registry, fetcher, _dir: dir }
    }

    fn reference(&self, tag: &str) -> String {
        format!("localhost:{}/a/b:{tag}", self.registry.address().port())
    }

    async fn push(&self, tag: &str, wasm: &[u8], kind: ImageKind) -> Digest {
        let (username, password) = user();
        let image = Image::package(wasm, kind).unwrap();
        let reference = Reference::parse(&self.reference(tag)).unwrap();
        push(&image, &reference, RegistryCredential::Basic { username, password }, false).await.unwrap()
    }

    fn config(&self, password: &str) -> Vec<u8> {
        let registry = format!("localhost:{}", self.registry.address().port());
        format!("{{\"auths\": {{\"{registry}\": {{\"username\": \"u\", \"password\": \"{password}\"}}}}}}")
            .into_bytes()
    }

    async fn fetch(&self, tag: &str, mode: PullMode) -> Result<Fetched, (FetchReason, String)> {
        self.fetch_as(tag, mode, Some(&self.config("p")), None).await
    }

    async fn fetch_as(
        &self,
        tag: &str,
        mode: PullMode,
        config: Option<&[u8]>,
        pin: Option<Digest>,
    ) -> Result<Fetched, (FetchReason, String)> {
        let source = ModuleSource::Oci(self.reference(tag));
        self.fetcher.fetch(&source, mode, config, pin).await.map_err(|e| (e.reason, e.to_string()))
    }
}

#[tokio::test]
async fn every_layout_and_every_authentication() {
    let (username, password) = user();
    let basic = Authentication::Basic { username: username.clone(), password: password.clone() };
    for authentication in [Authentication::None, basic, Authentication::Bearer { username, password }] {
        let scene = Scene::new(authentication).await;
        for (tag, kind, layout) in [
            ("d", ImageKind::Docker, Layout::Docker),
            ("o", ImageKind::OciCompat, Layout::OciCompat),
            ("a", ImageKind::Artifact, Layout::Artifact),
        ] {
            let manifest = scene.push(tag, WASM, kind).await;
            let fetched = scene.fetch(tag, PullMode::IfNotPresent).await.unwrap();
            assert_eq!((fetched.layout, fetched.manifest, fetched.cached), (layout, Some(manifest), false));
            assert_eq!(std::fs::read(&fetched.path).unwrap(), WASM);
            assert!(scene.fetch(tag, PullMode::IfNotPresent).await.unwrap().cached);
        }
    }
}

#[tokio::test]
async fn pull_policies_ask_when_they_should() {
    let scene = Scene::new(Authentication::None).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    let first = scene.fetch("t", PullMode::Always).await.unwrap();
    let moved = [WASM, b"\0\x02\x01x"].concat();
    scene.push("t", &moved, ImageKind::Artifact).await;
    let count = || scene.registry.requests().len();
    let before = count();
    assert_eq!(
        scene.fetch("t", PullMode::IfNotPresent).await.unwrap().wasm,
        first.wasm,
        "the tag has moved, nobody asks"
    );
    assert_eq!(count(), before);
    assert_eq!(scene.fetch("t", PullMode::Always).await.unwrap().wasm, Digest::of(&moved));
    let before = count();
    assert!(
        scene.fetch("t", PullMode::Always).await.unwrap().cached,
        "the same manifest is not downloaded again"
    );
    assert_eq!(count(), before + 1, "one request for the manifest");
}

#[tokio::test]
async fn a_private_image_is_not_for_everybody_who_knows_its_name() {
    let (username, password) = user();
    let scene = Scene::new(Authentication::Basic { username, password }).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    scene.fetch("t", PullMode::IfNotPresent).await.unwrap();
    let anonymous = scene.fetch_as("t", PullMode::IfNotPresent, None, None).await.unwrap_err();
    assert_eq!(anonymous.0, FetchReason::Unauthorized, "{}", anonymous.1);
    assert!(anonymous.1.contains("set imagePullSecret"), "{}", anonymous.1);
    let wrong =
        scene.fetch_as("t", PullMode::IfNotPresent, Some(&scene.config("wrong")), None).await.unwrap_err();
    assert_eq!(wrong.0, FetchReason::Unauthorized);
    let other = br#"{"auths": {"example.com": {"username": "u", "password": "p"}}}"#;
    let other = scene.fetch_as("t", PullMode::IfNotPresent, Some(other), None).await.unwrap_err();
    assert!(other.1.contains("the pull secret has no entry for localhost:"), "{}", other.1);
    assert!(other.1.contains("only for example.com"), "{}", other.1);
}

#[tokio::test]
async fn a_pin_may_be_the_modules_or_the_manifests_digest() {
    let scene = Scene::new(Authentication::None).await;
    let manifest = scene.push("t", WASM, ImageKind::OciCompat).await;
    for pin in [manifest, Digest::of(WASM)] {
        scene.fetch_as("t", PullMode::Always, None, Some(pin)).await.unwrap();
    }
    let wrong = scene.fetch_as("t", PullMode::Always, None, Some(Digest::of(b"x"))).await.unwrap_err();
    assert_eq!(wrong.0, FetchReason::DigestMismatch);
    assert!(wrong.1.contains("has checksum") && wrong.1.contains("which does not match"), "{}", wrong.1);
}

#[tokio::test]
async fn a_new_pin_is_looked_for_behind_a_reference_that_is_cached() {
    let scene = Scene::new(Authentication::None).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    scene.fetch("t", PullMode::IfNotPresent).await.unwrap();
    let moved = [WASM, b"\0\x02\x01x"].concat();
    let manifest = scene.push("t", &moved, ImageKind::Artifact).await;
    for pin in [Digest::of(&moved), manifest] {
        let fetched = scene.fetch_as("t", PullMode::IfNotPresent, None, Some(pin)).await.unwrap();
        assert_eq!(fetched.wasm, Digest::of(&moved));
    }
    // What a pin names is there for good: not even Always asks.
    let before = scene.registry.requests().len();
    scene.fetch_as("t", PullMode::Always, None, Some(manifest)).await.unwrap();
    let back = scene
        .fetch_as("t", PullMode::Always, Some(&scene.config("p")), Some(Digest::of(WASM)))
        .await
        .unwrap();
    assert_eq!(back.wasm, Digest::of(WASM), "a roll-back");
    assert_eq!(scene.registry.requests().len(), before);
}

#[tokio::test]
async fn a_damaged_copy_is_fetched_again_at_once() {
    let scene = Scene::new(Authentication::None).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    let path = scene.fetch("t", PullMode::IfNotPresent).await.unwrap().path;
    std::fs::write(&path, b"damaged").unwrap();
    scene.fetch("t", PullMode::IfNotPresent).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), WASM);
    let file = path.with_extension("own");
    std::fs::write(&file, WASM).unwrap();
    std::fs::write(&path, b"damaged").unwrap();
    let source = ModuleSource::File(file);
    scene.fetcher.fetch(&source, PullMode::IfNotPresent, None, None).await.unwrap();
}

#[tokio::test]
async fn faults_are_named_bounded_and_leave_nothing_behind() {
    use FaultTarget::{Blob, Manifest};
    let scene = Scene::new(Authentication::None).await;
    scene.push("t", WASM, ImageKind::OciCompat).await;
    let loops = format!("http://localhost:{}/v2/a/b/manifests/t", scene.registry.address().port());
    for (target, fault, reason, words) in [
        (Manifest, Fault::Status(401, None), FetchReason::Unauthorized, "without a challenge"),
        (Manifest, Fault::Status(403, None), FetchReason::Unauthorized, "403 Forbidden"),
        (Manifest, Fault::Status(404, None), FetchReason::ManifestNotFound, "404 Not Found"),
        (Manifest, Fault::Status(429, Some(7)), FetchReason::TooManyRequests, "TOOMANYREQUESTS"),
        (Manifest, Fault::Status(500, None), FetchReason::RegistryUnreachable, "500 Internal Server Error"),
        (Manifest, Fault::Slow(Duration::from_secs(3)), FetchReason::RegistryUnreachable, "timed out"),
        (Manifest, Fault::Endless, FetchReason::TooLarge, "the manifest is larger than 65536 bytes"),
        (
            Manifest,
            Fault::Redirect(loops.clone()),
            FetchReason::RegistryUnreachable,
            "more than 10 redirects",
        ),
        (
            Manifest,
            Fault::Redirect("file:///etc/passwd".to_owned()),
            FetchReason::RegistryUnreachable,
            "refused",
        ),
        (Manifest, Fault::Corrupt, FetchReason::DigestMismatch, "the manifest's digest is"),
        (Blob, Fault::Truncated, FetchReason::RegistryUnreachable, "could not fetch Wasm binary"),
        (Blob, Fault::Corrupt, FetchReason::DigestMismatch, "the layer's digest is"),
        (Blob, Fault::Endless, FetchReason::DigestMismatch, "larger than the"),
        (Blob, Fault::Status(404, None), FetchReason::ManifestNotFound, "404"),
    ] {
        scene.registry.set_fault(Some((target, fault.clone())));
        let error = scene.fetch("t", PullMode::IfNotPresent).await.unwrap_err();
        assert_eq!(error.0, reason, "{fault:?}: {}", error.1);
        assert!(
            error.1.contains(words) && error.1.starts_with("cannot fetch Wasm module oci://localhost"),
            "{fault:?}: {}",
            error.1
        );
    }
    scene.registry.set_fault(None);
    assert!(
        !scene.fetch("t", PullMode::IfNotPresent).await.unwrap().cached,
        "nothing of the attempts was kept"
    );
}

#[tokio::test]
async fn a_registry_is_obeyed_when_it_says_how_long_to_wait() {
    let scene = Scene::new(Authentication::None).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    for (asked, wanted) in [(7, 7), (100_000, 60)] {
        scene.registry.set_fault(Some((FaultTarget::Manifest, Fault::Status(429, Some(asked)))));
        let source = ModuleSource::Oci(scene.reference("t"));
        let error = scene.fetcher.fetch(&source, PullMode::Always, None, None).await.unwrap_err();
        assert_eq!(error.retry_after, Some(Duration::from_secs(wanted)));
    }
}

#[tokio::test]
async fn the_token_services_refusal_is_passed_on() {
    let (username, password) = user();
    let scene = Scene::new(Authentication::Bearer { username, password }).await;
    scene.push("t", WASM, ImageKind::Artifact).await;
    let wrong = scene.fetch_as("t", PullMode::Always, Some(&scene.config("wrong")), None).await.unwrap_err();
    assert!(
        wrong.1.contains("the token service refused") && wrong.1.contains("incorrect username or password"),
        "{}",
        wrong.1
    );
    scene.registry.set_fault(Some((FaultTarget::Token, Fault::Status(500, None))));
    assert_eq!(scene.fetch("t", PullMode::Always).await.unwrap_err().0, FetchReason::Unauthorized);
}

#[tokio::test]
async fn files_and_urls() {
    let scene = Scene::new(Authentication::None).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.wasm");
    let fetch =
        async |source: ModuleSource| scene.fetcher.fetch(&source, PullMode::IfNotPresent, None, None).await;
    let source = ModuleSource::File(path.clone());
    assert_eq!(fetch(source.clone()).await.unwrap_err().reason, FetchReason::FileNotFound);
    std::fs::write(&path, WASM).unwrap();
    assert_eq!(fetch(source.clone()).await.unwrap().wasm, Digest::of(WASM));
    std::fs::write(&path, b"#!/bin/sh").unwrap();
    let error = fetch(source).await.unwrap_err();
    assert!(error.to_string().contains("is invalid: it does not begin with"), "{error}");
    // The registry's blobs are plain files behind URLs.
    scene.push("t", WASM, ImageKind::Artifact).await;
    let url = format!("http://{}/v2/a/b/blobs/{}", scene.registry.address(), Digest::of(WASM));
    assert_eq!(fetch(ModuleSource::Http(url.clone())).await.unwrap().size, 8);
    let gone = fetch(ModuleSource::Http(format!("{url}0"))).await.unwrap_err();
    assert!(gone.to_string().contains("wasm module download request failed: status code 404"), "{gone}");
}
