//! Images that carry a module, and pushing them.

use std::io::Write as _;

use serde_json::json;

use crate::credential::RegistryCredential;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::{RegistryClient, RegistryLimits};

/// Which layout to package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// As a Dockerfile of `FROM scratch` and `ADD plugin.wasm` gives it, with docker's media types.
    Docker,
    /// The same with OCI media types: what Istio calls the compat variant.
    OciCompat,
    /// Two layers, the second is the module itself: what Istio calls the OCI variant.
    Artifact,
}

/// An image ready to be pushed.
#[derive(Clone, Debug)]
pub struct Image {
    media_type: &'static str,
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
#[error("cannot push {reference}: {message}")]
pub struct PushError {
    reference: String,
    message: String,
}

impl Image {
    /// Packages a module. The same bytes always give the same image.
    ///
    /// # Errors
    /// When compressing fails.
    pub fn package(wasm: &[u8], kind: ImageKind) -> std::io::Result<Self> {
        match kind {
            ImageKind::Docker => layered(
                wasm,
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            ImageKind::OciCompat => layered(
                wasm,
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            ImageKind::Artifact => artifact(wasm),
        }
    }

    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The manifest's media type and bytes.
    pub fn manifest(&self) -> (&'static str, &[u8]) {
        (self.media_type, &self.manifest)
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        self.blobs.iter().map(Vec::as_slice)
    }
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn layered(
    wasm: &[u8],
    manifest_type: &'static str,
    config_type: &str,
    layer_type: &str,
) -> std::io::Result<Image> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(wasm.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "plugin.wasm", wasm)?;
    let tar = builder.into_inner()?;
    let diff_id = Digest::of(&tar);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&tar)?;
    let layer = encoder.finish()?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
    });
    Ok(image(manifest_type, config_type, &config, &[(layer_type, layer)]))
}

fn artifact(wasm: &[u8]) -> std::io::Result<Image> {
    let runtime =
        serde_json::to_vec(&json!({"type": "envoy_proxy", "abiVersions": [], "config": {"rootIds": []}}))?;
    let layers = [
        ("application/vnd.module.wasm.config.v1+json", runtime),
        ("application/vnd.module.wasm.content.layer.v1+wasm", wasm.to_vec()),
    ];
    Ok(image(
        OCI_MANIFEST,
        "application/vnd.oci.image.config.v1+json",
        &json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}),
        &layers,
    ))
}

fn image(
    media_type: &'static str,
    config_type: &str,
    config: &serde_json::Value,
    layers: &[(&str, Vec<u8>)],
) -> Image {
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "size": bytes.len(), "digest": Digest::of(bytes).to_string()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config_type, &config),
        "layers": layers.iter().map(|(t, b)| descriptor(t, b)).collect::<Vec<_>>(),
    });
    let mut blobs = vec![config];
    blobs.extend(layers.iter().map(|(_, bytes)| bytes.clone()));
    Image { media_type, manifest: manifest.to_string().into_bytes(), blobs }
}

/// Pushes an image under a reference; gives the manifest's digest.
///
/// # Errors
/// [`PushError`], with the registry's own words.
pub async fn push(
    image: &Image,
    reference: &Reference,
    credential: RegistryCredential,
    plain_http: bool,
) -> Result<Digest, PushError> {
    let error = |message: String| PushError { reference: reference.to_string(), message };
    let client = RegistryClient::new(reference.clone(), credential, RegistryLimits::default(), plain_http)
        .map_err(|e| error(e.to_string()))?;
    for blob in image.blobs() {
        client.push_blob(blob).await.map_err(|e| error(e.message))?;
    }
    client.push_manifest(image.media_type, &image.manifest).await.map_err(|e| error(e.message))
}
