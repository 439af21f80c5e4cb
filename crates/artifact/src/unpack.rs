//! Getting a module out of what a layer or a server gives: raw, gzip, zstd, tar (spec: wasmplugin-and-routing §2.5, §2.10).

use std::io::Read;

use crate::error::{Failure, FetchReason};

/// Bytes of a compressed stream may become this many times more.
const EXPANSION_MAX: u64 = 200;
/// Below this no expansion is suspicious.
const EXPANSION_FREE_BYTES: u64 = 16 << 20;
/// Members of one tar that are looked at.
const MEMBERS_MAX: usize = 100_000;

const WASM_MAGIC: &[u8] = b"\0asm";
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Whether bytes begin like a module.
pub(crate) fn is_wasm(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes.starts_with(WASM_MAGIC)
}

/// Unpacks what a server sent: gzip and tar around a module, in any nesting up to three.
pub(crate) fn unbox(bytes: Vec<u8>, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = bytes;
    for _ in 0..3 {
        if is_wasm(&bytes) {
            break;
        }
        if bytes.starts_with(GZIP_MAGIC) || bytes.starts_with(ZSTD_MAGIC) {
            bytes = decompress(&bytes, bytes_max)?;
        } else if bytes.get(257..262) == Some(b"ustar") {
            bytes = first_member(&bytes, bytes_max)?;
        } else {
            break;
        }
    }
    Ok(bytes)
}

/// Undoes gzip or zstd; anything else comes back as it is. The limit counts what comes out, never what a header says.
pub(crate) fn decompress(bytes: &[u8], bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let limit = bytes_max.min(EXPANSION_FREE_BYTES.max((bytes.len() as u64).saturating_mul(EXPANSION_MAX)));
    if bytes.starts_with(GZIP_MAGIC) {
        read_to_limit(flate2::read::MultiGzDecoder::new(bytes), limit)
    } else if bytes.starts_with(ZSTD_MAGIC) {
        let decoder = zstd::Decoder::with_buffer(bytes).map_err(|e| invalid(&format!("zstd: {e}")))?;
        read_to_limit(decoder, limit)
    } else {
        Ok(bytes.to_vec())
    }
}

/// Modules in a layer's tar, by base name.
#[derive(Debug, Default)]
pub(crate) struct TarContent {
    /// The member `plugin.wasm`.
    pub(crate) plugin: Option<Vec<u8>>,
    /// Members with another name that ends in `.wasm`.
    pub(crate) others: Vec<(String, Vec<u8>)>,
    /// Files that this layer removes from the ones below it.
    pub(crate) whiteouts: Vec<String>,
}

/// Looks for modules in a tar.
pub(crate) fn read_tar(tar: &[u8], bytes_max: u64) -> Result<TarContent, Failure> {
    /// Candidates that are kept; more are ambiguous anyway.
    const OTHERS_MAX: usize = 2;
    let mut content = TarContent::default();
    let mut archive = tar::Archive::new(tar);
    let error = |e: std::io::Error| invalid(&format!("failed to parse layer as tar: {e}"));
    for entry in archive.entries().map_err(error)?.take(MEMBERS_MAX) {
        let mut entry = entry.map_err(error)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        if let Some(removed) = name.strip_prefix(".wh.") {
            content.whiteouts.push(removed.to_owned());
            continue;
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        if name == "plugin.wasm" {
            content.plugin = Some(read_to_limit(&mut entry, bytes_max)?);
            break;
        }
        if name.ends_with(".wasm") && content.others.len() < OTHERS_MAX {
            content.others.push((path, read_to_limit(&mut entry, bytes_max)?));
        }
    }
    Ok(content)
}

fn first_member(tar: &[u8], bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Archive::new(tar);
    let error = |e: std::io::Error| invalid(&format!("tar: {e}"));
    match archive.entries().map_err(error)?.next() {
        Some(entry) => read_to_limit(entry.map_err(error)?, bytes_max),
        None => Err(invalid("tar: empty archive")),
    }
}

fn read_to_limit(reader: impl Read, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let read = reader
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|e| invalid(&e.to_string()))?;
    if read as u64 > bytes_max {
        return Err(Failure::new(
            FetchReason::TooLarge,
            format!("module exceeds limit: more than {bytes_max} bytes when unpacked"),
        ));
    }
    Ok(out)
}

fn invalid(message: &str) -> Failure {
    Failure::new(FetchReason::InvalidModule, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn boxes_in_boxes() {
        for boxed in [
            WASM.to_vec(),
            gzip(WASM),
            tar(&[("x", WASM)]),
            gzip(&tar(&[("x", WASM)])),
            zstd::encode_all(WASM, 1).unwrap(),
        ] {
            assert_eq!(unbox(boxed, 1 << 20).unwrap(), WASM);
        }
        assert_eq!(unbox(b"<html>".to_vec(), 1 << 20).unwrap(), b"<html>");
    }

    #[test]
    fn a_bomb_is_stopped() {
        let bomb = gzip(&vec![0; 32 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(decompress(&bomb, 256 << 20).unwrap_err().reason, FetchReason::TooLarge, "by its ratio");
        assert_eq!(
            decompress(&gzip(&[0; 5000]), 4999).unwrap_err().reason,
            FetchReason::TooLarge,
            "by its size"
        );
    }

    #[test]
    fn plugin_wasm_is_found_in_any_folder() {
        let content = read_tar(&tar(&[("etc/passwd", b"x"), ("app/plugin.wasm", WASM)]), 100).unwrap();
        assert_eq!(content.plugin.as_deref(), Some(WASM));
        let content = read_tar(&tar(&[("a.wasm", WASM), (".wh.b.wasm", b"")]), 100).unwrap();
        assert_eq!(
            (content.plugin, content.others.len(), content.whiteouts),
            (None, 1, vec!["b.wasm".to_owned()])
        );
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let whole = gzip(&tar(&[("plugin.wasm", &[7; 4000])]));
        assert!(decompress(&whole[..whole.len() / 2], 1 << 20).is_err());
    }
}
