//! Credentials from a docker configuration (spec: wasmplugin-and-routing §2.9).

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::digest::Digest;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryCredential {
    /// Nothing.
    Anonymous,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token for the token service.
    IdentityToken(String),
    /// A bearer token, used as it is.
    RegistryToken(String),
}

/// Why a secret's content is unusable.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Not the JSON that docker writes.
    #[error("the docker config of the pull secret is malformed: {0}")]
    Malformed(String),
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, AuthEntry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl RegistryCredential {
    /// Finds the entry for a registry and repository: exact host, host part of a URL, or the longest path below it.
    ///
    /// # Errors
    /// [`CredentialError`]: the configuration is not JSON, or the entry is not what docker writes.
    pub fn from_docker_config(
        json: &[u8],
        registry: &str,
        repository: &str,
    ) -> Result<Self, CredentialError> {
        let config: DockerConfig =
            serde_json::from_slice(json).map_err(|e| CredentialError::Malformed(e.to_string()))?;
        let mut best: Option<(usize, &AuthEntry)> = None;
        for (server, entry) in &config.auths {
            if let Some(len) = matches(server, registry, repository)
                && best.as_ref().is_none_or(|(other, _)| len > *other)
            {
                best = Some((len, entry));
            }
        }
        best.map_or(Ok(Self::Anonymous), |(_, entry)| Self::from_entry(entry))
    }

    /// The registries that a docker configuration has entries for, sorted.
    pub fn servers(json: &[u8]) -> Vec<String> {
        let config = serde_json::from_slice::<DockerConfig>(json).ok();
        let mut servers: Vec<String> = config.into_iter().flat_map(|c| c.auths.into_keys()).collect();
        servers.sort();
        servers
    }

    fn from_entry(entry: &AuthEntry) -> Result<Self, CredentialError> {
        if !entry.registrytoken.is_empty() {
            return Ok(Self::RegistryToken(entry.registrytoken.clone()));
        }
        if !entry.identitytoken.is_empty() {
            return Ok(Self::IdentityToken(entry.identitytoken.clone()));
        }
        if !entry.auth.is_empty() {
            let malformed =
                || CredentialError::Malformed("\"auth\" is not base64 of user:password".to_owned());
            let bytes = STANDARD.decode(entry.auth.trim()).map_err(|_| malformed())?;
            let text = String::from_utf8(bytes).map_err(|_| malformed())?;
            let (username, password) = text.split_once(':').ok_or_else(malformed)?;
            return Ok(Self::Basic {
                username: username.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            });
        }
        if entry.username.is_empty() {
            return Ok(Self::Anonymous);
        }
        Ok(Self::Basic { username: entry.username.clone(), password: entry.password.clone() })
    }

    /// Something that identifies the credential without telling it: cached private images are authorised by it.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Basic { username, password } => {
                Digest::of(format!("basic\0{username}\0{password}").as_bytes()).hex()
            }
            Self::IdentityToken(token) => Digest::of(format!("identity\0{token}").as_bytes()).hex(),
            Self::RegistryToken(token) => Digest::of(format!("registry\0{token}").as_bytes()).hex(),
        }
    }
}

impl fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

/// How well a key of `auths` fits: the number of characters that match, `None` when it is for somebody else.
fn matches(server: &str, registry: &str, repository: &str) -> Option<usize> {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    if host != registry {
        return None;
    }
    // docker login writes /v1/ and /v2/ for the registry as a whole.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let below = path.is_empty()
        || repository == path
        || repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    below.then_some(host.len() + path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, registry: &str, repository: &str) -> RegistryCredential {
        RegistryCredential::from_docker_config(json.as_bytes(), registry, repository).unwrap()
    }

    fn basic(username: &str, password: &str) -> RegistryCredential {
        RegistryCredential::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn keys_of_every_form_are_found() {
        let json = r#"{"auths": {"https://reg.test/v2/": {"auth": "dTpwOnE="}, "other.test:5000": {"username": "a", "password": "b"}}}"#;
        assert_eq!(find(json, "reg.test", "x"), basic("u", "p:q"));
        assert_eq!(find(json, "other.test:5000", "x"), basic("a", "b"));
        assert_eq!(
            find(json, "other.test", "x"),
            RegistryCredential::Anonymous,
            "another port is another registry"
        );
        assert_eq!(find(json, "evil.reg.test", "x"), RegistryCredential::Anonymous);
    }

    #[test]
    fn the_longest_path_wins() {
        let json = r#"{"auths": {"r.test": {"username": "all", "password": ""}, "r.test/team": {"username": "team", "password": ""}}}"#;
        assert_eq!(find(json, "r.test", "team/x"), basic("team", ""));
        assert_eq!(find(json, "r.test", "teammate/x"), basic("all", ""));
    }

    #[test]
    fn malformed_content_is_an_error() {
        for bad in [
            "null",
            "{",
            r#"{"auths": {"r.test": {"auth": "%%%"}}}"#,
            r#"{"auths": {"r.test": {"auth": "bm9jb2xvbg=="}}}"#,
        ] {
            assert!(RegistryCredential::from_docker_config(bad.as_bytes(), "r.test", "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_output_tells_nothing() {
        assert_eq!(format!("{:?}", basic("user", "secret")), "Basic(…)");
    }
}
