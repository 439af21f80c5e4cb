//! Image references (spec: wasmplugin-and-routing §2.6).

use std::fmt;

use crate::digest::Digest;

/// `[registry[:port]/]repository[:tag][@digest]`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// The repository's path.
    pub repository: String,
    /// The tag; ignored when there is a digest.
    pub tag: Option<String>,
    /// The manifest's digest.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not parse url in image reference: {text:?}: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

const REPOSITORY_CHARS_MAX: usize = 255;
const TAG_CHARS_MAX: usize = 128;
const DOCKER_HUB: &str = "index.docker.io";

impl Reference {
    /// Reads a reference, without `oci://`.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError { text: text.to_owned(), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.strip_prefix("sha256:").and_then(Digest::parse);
                (
                    name,
                    Some(
                        digest
                            .ok_or_else(|| error("the digest must be sha256: and 64 hexadecimal digits"))?,
                    ),
                )
            }
            None => (text, None),
        };
        // A colon behind the last slash starts the tag; one before it belongs to the port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest.to_owned()),
            Some(_) => (DOCKER_HUB, name.to_owned()),
            None => (DOCKER_HUB, format!("library/{name}")),
        };
        let registry = if registry == "docker.io" { DOCKER_HUB } else { registry };
        let lower =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.' | b'/');
        if repository.is_empty()
            || repository.ends_with('/')
            || repository.starts_with('/')
            || repository.contains("//")
        {
            return Err(error("the repository is empty or has an empty part"));
        }
        if repository.len() > REPOSITORY_CHARS_MAX || !repository.bytes().all(lower) {
            return Err(error("the repository must be lower-case letters, digits, '_', '-', '.' and '/'"));
        }
        if repository.split('/').any(|part| part == "..") {
            return Err(error("the repository must not contain '..'"));
        }
        let tag_ok = |t: &str| {
            !t.is_empty()
                && t.len() <= TAG_CHARS_MAX
                && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if let Some(tag) = tag.filter(|t| !tag_ok(t)) {
            return Err(error(if tag.is_empty() {
                "the tag is empty"
            } else {
                "the tag must be at most 128 letters, digits, '_', '.' and '-'"
            }));
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }

    /// What stands in the manifest's URL: the digest if there is one, else the tag, else `latest`.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// Whether the tag is written as `latest`, which an unspecified pull policy takes for Always.
    pub fn is_literal_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }

    /// Whether the registry is this very machine, which is spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(host_of(&self.registry))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The host of `host[:port]`.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

pub(crate) fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_people_write() {
        let parts = |text: &str| {
            let r = Reference::parse(text).unwrap();
            (r.registry.clone(), r.repository.clone(), r.manifest_name())
        };
        let wanted = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parts("ghcr.io/a/b:v1"), wanted("ghcr.io", "a/b", "v1"));
        assert_eq!(
            parts("localhost:5000/test-oci/x:v0.0.1"),
            wanted("localhost:5000", "test-oci/x", "v0.0.1")
        );
        assert_eq!(parts("10.0.0.1:5000/x"), wanted("10.0.0.1:5000", "x", "latest"));
        assert_eq!(parts("nginx"), wanted("index.docker.io", "library/nginx", "latest"));
        assert_eq!(parts("docker.io/a/b"), wanted("index.docker.io", "a/b", "latest"));
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(
            parts(&format!("r.test/x:t@{digest}")),
            wanted("r.test", "x", &digest),
            "the tag is ignored"
        );
    }

    #[test]
    fn what_is_no_reference_says_why() {
        for (text, reason) in [
            ("r.test/", "empty"),
            ("r.test/A", "lower-case"),
            ("r.test/x:", "tag is empty"),
            ("r.test/x@sha256:12", "64"),
            ("r.test/x:a b", "tag"),
            ("r.test/../x", "'..'"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.contains("could not parse url in image reference"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for (text, loopback) in [
            ("localhost:5000/x", true),
            ("127.0.0.1/x", true),
            ("a.localhost:1/x", true),
            ("10.0.0.1:5000/x", false),
            ("localhost.example.com/x", false),
        ] {
            assert_eq!(Reference::parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }
}
