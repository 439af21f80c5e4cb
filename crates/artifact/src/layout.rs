//! Which layer of an image holds the module (spec: wasmplugin-and-routing §2.10).

use std::fmt;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Failure, FetchReason};
use crate::registry::RawManifest;

/// How an image carries its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// A docker image with `plugin.wasm` in a layer.
    Docker,
    /// An OCI image with `plugin.wasm` in a layer.
    OciCompat,
    /// A layer that is the module itself.
    Artifact,
    /// No image: a file or a download.
    Bare,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::OciCompat => "oci-compat",
            Self::Artifact => "artifact",
            Self::Bare => "bare",
        })
    }
}

const WASM_LAYER_TYPES: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Layers of one image that are looked at.
const LAYERS_MAX: usize = 128;
const INDEX_ENTRIES_MAX: usize = 256;

/// A layer to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Layers in the order in which they are tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    pub(crate) layers: Vec<Layer>,
}

/// What a manifest turned out to be.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An image: look into these layers.
    Image(Plan),
    /// An index: go on with this child.
    Index(Digest),
}

/// Decides what to do with a manifest.
pub(crate) fn read(manifest: &RawManifest) -> Result<Kind, Failure> {
    let unsupported = |message: String| Failure::new(FetchReason::UnsupportedMediaType, message);
    let json: serde_json::Value = serde_json::from_slice(&manifest.bytes)
        .map_err(|e| unsupported(format!("the manifest is no JSON: {e}")))?;
    let media_type =
        json.get("mediaType").and_then(serde_json::Value::as_str).unwrap_or(&manifest.media_type);
    let is_index = INDEX_TYPES.contains(&media_type)
        || (json.get("manifests").is_some() && json.get("layers").is_none());
    let malformed = |e: serde_json::Error| unsupported(format!("the manifest is malformed: {e}"));
    if is_index {
        let index: ImageIndex = serde_json::from_slice(&manifest.bytes).map_err(malformed)?;
        return choose_child(&index).map(Kind::Index);
    }
    let image: ImageManifest = serde_json::from_slice(&manifest.bytes).map_err(malformed)?;
    plan(&image, media_type == DOCKER_MANIFEST).map(Kind::Image)
}

fn plan(image: &ImageManifest, is_docker: bool) -> Result<Plan, Failure> {
    let layers = image.layers();
    if layers.is_empty() {
        return Err(Failure::new(
            FetchReason::UnsupportedMediaType,
            "number of layers must be greater than zero",
        ));
    }
    if layers.len() > LAYERS_MAX {
        return Err(Failure::new(
            FetchReason::TooLarge,
            format!("the image has more than {LAYERS_MAX} layers"),
        ));
    }
    if let Some(wasm) =
        layers.iter().find(|l| WASM_LAYER_TYPES.contains(&l.media_type().to_string().as_str()))
    {
        return Ok(Plan { layout: Layout::Artifact, layers: vec![layer(wasm)?] });
    }
    let layout = if is_docker { Layout::Docker } else { Layout::OciCompat };
    // The last layer first: it is the one that the module was added with.
    Ok(Plan { layout, layers: layers.iter().rev().map(layer).collect::<Result<_, _>>()? })
}

fn layer(descriptor: &Descriptor) -> Result<Layer, Failure> {
    let text = descriptor.digest().to_string();
    let digest = text.strip_prefix("sha256:").and_then(Digest::parse);
    let digest = digest.ok_or_else(|| {
        Failure::new(FetchReason::UnsupportedMediaType, format!("layer digest {text:?} is not sha256"))
    })?;
    Ok(Layer { digest, size: descriptor.size() })
}

/// An index may hold images for several platforms and attestations; a module has no platform.
fn choose_child(index: &ImageIndex) -> Result<Digest, Failure> {
    let unsupported = |message: &str| Failure::new(FetchReason::UnsupportedMediaType, message);
    let is_attestation = |d: &Descriptor| {
        d.annotations()
            .as_ref()
            .is_some_and(|a| a.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest"))
    };
    let children: Vec<&Descriptor> =
        index.manifests().iter().take(INDEX_ENTRIES_MAX).filter(|d| !is_attestation(d)).collect();
    let platform =
        |d: &Descriptor| d.platform().as_ref().map(|p| (p.os().to_string(), p.architecture().to_string()));
    let is_wasm = |d: &&&Descriptor| {
        d.artifact_type().as_ref().is_some_and(|t| t.to_string().contains("wasm"))
            || platform(d).is_some_and(|(os, arch)| os.starts_with("wasi") || arch == "wasm")
    };
    let is_linux_amd64 =
        |d: &&&Descriptor| platform(d).is_none_or(|p| p == ("linux".to_owned(), "amd64".to_owned()));
    let own = (
        std::env::consts::OS.to_owned(),
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
    );
    let chosen = children
        .iter()
        .find(is_wasm)
        .or_else(|| children.iter().find(is_linux_amd64))
        .or_else(|| children.iter().find(|d| platform(d) == Some(own.clone())))
        // An image that was built on another machine for one platform only is meant all the same.
        .or(if let [only] = children.as_slice() { Some(only) } else { None })
        .ok_or_else(|| unsupported("no child with platform linux/amd64 or wasi/wasm in the index"))?;
    Digest::parse(chosen.digest().as_ref()).ok_or_else(|| unsupported("the child's digest is not sha256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(json: &serde_json::Value) -> RawManifest {
        let bytes = serde_json::to_vec(json).unwrap();
        RawManifest { digest: Digest::of(&bytes), bytes, media_type: String::new() }
    }

    fn descriptor(media_type: &str, byte: char) -> serde_json::Value {
        serde_json::json!({"mediaType": media_type, "size": 3, "digest": format!("sha256:{}", byte.to_string().repeat(64))})
    }

    fn image(layers: &[serde_json::Value]) -> serde_json::Value {
        serde_json::json!({"schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json", '0'), "layers": layers})
    }

    #[test]
    fn an_artifact_layer_wins_over_its_neighbours() {
        let json = image(&[
            descriptor("application/vnd.module.wasm.config.v1+json", '1'),
            descriptor("application/vnd.module.wasm.content.layer.v1+wasm", '2'),
        ]);
        let Kind::Image(plan) = read(&manifest(&json)).unwrap() else { panic!("no image") };
        assert_eq!((plan.layout, plan.layers.len()), (Layout::Artifact, 1));
        assert_eq!(plan.layers[0].digest.hex(), "2".repeat(64));
    }

    #[test]
    fn layered_images_are_tried_from_the_last_layer() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let Kind::Image(plan) =
            read(&manifest(&image(&[descriptor(layer, '1'), descriptor(layer, '2')]))).unwrap()
        else {
            panic!("no image")
        };
        assert_eq!(plan.layout, Layout::OciCompat);
        assert_eq!(plan.layers[0].digest.hex(), "2".repeat(64));
        assert!(read(&manifest(&image(&[]))).unwrap_err().message.contains("number of layers"));
    }

    #[test]
    fn the_child_of_an_index_is_found_whatever_built_it() {
        let child = |byte, platform: serde_json::Value, annotation: bool| {
            let mut d = descriptor("application/vnd.oci.image.manifest.v1+json", byte);
            if !platform.is_null() {
                d["platform"] = platform;
            }
            if annotation {
                d["annotations"] = serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
            }
            d
        };
        let unknown = serde_json::json!({"os": "unknown", "architecture": "unknown"});
        let arm = serde_json::json!({"os": "linux", "architecture": "arm64"});
        let amd = serde_json::json!({"os": "linux", "architecture": "amd64"});
        let wasi = serde_json::json!({"os": "wasip1", "architecture": "wasm"});
        let pick = |children: Vec<serde_json::Value>| {
            let json =
                serde_json::json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": children});
            match read(&manifest(&json)) {
                Ok(Kind::Index(digest)) => digest.hex()[..1].to_owned(),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(
            pick(vec![
                child('1', arm.clone(), false),
                child('2', amd.clone(), false),
                child('3', unknown, true)
            ]),
            "2"
        );
        assert_eq!(pick(vec![child('1', amd, false), child('2', wasi, false)]), "2");
        assert_eq!(pick(vec![child('1', arm, false)]), "1", "one platform only");
    }
}
