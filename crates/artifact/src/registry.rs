//! A client for registries, pull and push (spec: wasmplugin-and-routing §2.7, §2.8).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use crate::credential::RegistryCredential;
use crate::digest::{Digest, Hasher};
use crate::error::{Failure, FetchReason};
use crate::reference::{Reference, host_of, is_loopback_host};

/// Bounds for what a registry may send and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLimits {
    /// One manifest, bytes.
    pub manifest_bytes_max: usize,
    /// One token answer or error body, bytes.
    pub answer_bytes_max: usize,
    /// One layer, bytes.
    pub blob_bytes_max: u64,
    /// Redirects of one request.
    pub redirects_max: usize,
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// Between two pieces.
    pub read_timeout: Duration,
    /// One request altogether.
    pub total_timeout: Duration,
    /// A longer wait that a registry asks for is cut to this.
    pub retry_after_max: Duration,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 4 << 20,
            answer_bytes_max: 64 << 10,
            blob_bytes_max: 256 << 20,
            redirects_max: 10,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(300),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Speaks to the registry of one reference with one credential.
#[derive(Debug)]
pub struct RegistryClient {
    http: reqwest::Client,
    reference: Reference,
    credential: RegistryCredential,
    limits: RegistryLimits,
    plain_http: bool,
    /// The `Authorization` value that works, once a challenge has been answered.
    authorization: Mutex<Option<String>>,
}

/// A manifest as it came.
pub(crate) struct RawManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

/// What a token service answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct RegistryErrors {
    errors: Vec<RegistryError>,
}

#[derive(Deserialize)]
struct RegistryError {
    code: String,
    #[serde(default)]
    message: String,
}

impl RegistryClient {
    /// A client. `plain_http`: the operator says that this registry has no TLS.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(
        reference: Reference,
        credential: RegistryCredential,
        limits: RegistryLimits,
        plain_http: bool,
    ) -> Result<Self, reqwest::Error> {
        let http = http_client(&limits)?;
        let plain_http = plain_http || reference.is_loopback();
        Ok(Self { http, reference, credential, limits, plain_http, authorization: Mutex::new(None) })
    }

    fn url(&self, rest: &str) -> Result<Url, Failure> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{rest}", self.reference.registry, self.reference.repository);
        Url::parse(&text).map_err(|e| Failure::new(FetchReason::InvalidReference, format!("{text}: {e}")))
    }

    /// The manifest of the reference, or of one of its children.
    pub(crate) async fn manifest(&self, name: &str) -> Result<RawManifest, Failure> {
        let url = self.url(&format!("manifests/{name}"))?;
        let response = self.send(Method::GET, url, &[(ACCEPT.as_str(), MANIFEST_TYPES)], None).await?;
        let media_type =
            header(&response, CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().trim().to_owned();
        let announced = header(&response, "docker-content-digest").to_owned();
        let bytes = read_limited(response, self.limits.manifest_bytes_max, "manifest").await?;
        let digest = Digest::of(&bytes);
        for wanted in [name, &announced] {
            if let Some(wanted) = wanted.strip_prefix("sha256:").and_then(Digest::parse)
                && wanted != digest
            {
                return Err(Failure::new(
                    FetchReason::DigestMismatch,
                    format!("the manifest's digest is {digest}, not {wanted}"),
                ));
            }
        }
        Ok(RawManifest { bytes, digest, media_type })
    }

    /// A layer, checked against its digest and size while it comes; `sink` gets every piece.
    pub(crate) async fn blob(
        &self,
        digest: Digest,
        size: u64,
        sink: &mut (dyn FnMut(&[u8]) -> Result<(), Failure> + Send),
    ) -> Result<(), Failure> {
        let too_large = || {
            let limit = self.limits.blob_bytes_max;
            Failure::new(
                FetchReason::TooLarge,
                format!("module exceeds limit: the layer is larger than {limit} bytes"),
            )
        };
        if size > self.limits.blob_bytes_max {
            return Err(too_large());
        }
        let url = self.url(&format!("blobs/{digest}"))?;
        let mut response = self.send(Method::GET, url, &[], None).await?;
        let mut hasher = Hasher::new();
        let mut received = 0_u64;
        while let Some(piece) = response.chunk().await? {
            received += piece.len() as u64;
            if received > self.limits.blob_bytes_max {
                return Err(too_large());
            }
            if received > size {
                return Err(Failure::new(
                    FetchReason::DigestMismatch,
                    format!("the layer is larger than the {size} bytes that its descriptor says"),
                ));
            }
            hasher.update(&piece);
            sink(&piece)?;
        }
        let actual = hasher.finish();
        if received != size {
            return Err(Failure::new(
                FetchReason::DigestMismatch,
                format!("the layer ended after {received} of {size} bytes"),
            ));
        }
        if actual != digest {
            return Err(Failure::new(
                FetchReason::DigestMismatch,
                format!("the layer's digest is {actual}, not {digest}"),
            ));
        }
        Ok(())
    }

    /// Uploads a blob unless the registry has it.
    pub(crate) async fn push_blob(&self, bytes: &[u8]) -> Result<(), Failure> {
        let digest = Digest::of(bytes);
        if self.send(Method::HEAD, self.url(&format!("blobs/{digest}"))?, &[], None).await.is_ok() {
            return Ok(());
        }
        let start = self.url("blobs/uploads/")?;
        let response = self.send(Method::POST, start.clone(), &[("content-length", "0")], None).await?;
        let location = header(&response, LOCATION.as_str()).to_owned();
        let mut upload = next_hop(&start, &location, self.plain_http)?;
        upload.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = [(CONTENT_TYPE.as_str(), "application/octet-stream")];
        self.send(Method::PUT, upload, &headers, Some(bytes.to_vec())).await?;
        Ok(())
    }

    /// Uploads a manifest under the reference's tag.
    pub(crate) async fn push_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Digest, Failure> {
        let url = self.url(&format!("manifests/{}", self.reference.manifest_name()))?;
        self.send(Method::PUT, url, &[(CONTENT_TYPE.as_str(), media_type)], Some(bytes.to_vec())).await?;
        Ok(Digest::of(bytes))
    }

    /// Sends a request, answers a challenge once, follows redirects, and turns every other answer into a failure.
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Response, Failure> {
        let response = self.follow(&method, url.clone(), headers, body.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accept(response).await;
        }
        let pushing = method != Method::GET && method != Method::HEAD;
        let authorization = self.answer_challenge(response.headers(), pushing).await?;
        *self.authorization.lock() = Some(authorization);
        let response = self.follow(&method, url, headers, body).await?;
        self.accept(response).await
    }

    async fn follow(
        &self,
        method: &Method,
        url: Url,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Response, Failure> {
        let registry = self.url("")?;
        let mut at = url;
        for _ in 0..=self.limits.redirects_max {
            let mut request = self.http.request(method.clone(), at.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let authorization = self.authorization.lock().clone();
            // The credential is for the registry and nobody whom it points at.
            if let Some(value) = authorization.filter(|_| same_origin(&at, &registry)) {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let response = request.send().await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            at = next_hop(&at, header(&response, LOCATION.as_str()), self.plain_http)?;
        }
        Err(Failure::new(
            FetchReason::RegistryUnreachable,
            format!("more than {} redirects", self.limits.redirects_max),
        ))
    }

    async fn accept(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = header(&response, RETRY_AFTER.as_str()).parse().ok().map(Duration::from_secs);
        let reason = match status.as_u16() {
            401 | 403 => FetchReason::Unauthorized,
            404 => FetchReason::ManifestNotFound,
            429 => FetchReason::TooManyRequests,
            _ => FetchReason::RegistryUnreachable,
        };
        let path = response.url().path().to_owned();
        let body =
            read_limited(response, self.limits.answer_bytes_max, "error answer").await.unwrap_or_default();
        let who = if reason == FetchReason::Unauthorized { self.who() } else { String::new() };
        let text = format!("the registry answered {status} for {path}{}{who}", registry_words(&body));
        let mut failure = Failure::new(reason, text);
        failure.retry_after = retry_after.map(|d| d.min(self.limits.retry_after_max));
        Err(failure)
    }

    async fn answer_challenge(&self, headers: &HeaderMap, pushing: bool) -> Result<String, Failure> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .filter_map(Challenge::parse)
            .collect();
        let unusable = |text: &str| Failure::new(FetchReason::Unauthorized, text);
        if let RegistryCredential::RegistryToken(token) = &self.credential {
            return Ok(format!("Bearer {token}"));
        }
        if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
            return self.token(bearer, pushing).await.map(|token| format!("Bearer {token}"));
        }
        if challenges.iter().any(|c| c.scheme == "basic") {
            let RegistryCredential::Basic { username, password } = &self.credential else {
                return Err(unusable(
                    "the registry asks for user and password, and there are none: set imagePullSecret",
                ));
            };
            return Ok(basic(username, password));
        }
        Err(unusable("the registry answered 401 without a challenge that is understood (Basic or Bearer)"))
    }

    /// In whose name was asked, for who looks for the reason of a refusal. Never more than the name.
    fn who(&self) -> String {
        match &self.credential {
            RegistryCredential::Anonymous => "; no credential was sent: set imagePullSecret".to_owned(),
            RegistryCredential::Basic { username, .. } => format!("; asked as user {username:?}"),
            RegistryCredential::IdentityToken(_) => "; asked with an identity token".to_owned(),
            RegistryCredential::RegistryToken(_) => "; asked with a registry token".to_owned(),
        }
    }

    async fn token(&self, challenge: &Challenge, pushing: bool) -> Result<String, Failure> {
        let malformed = |text: &str| {
            Failure::new(FetchReason::Unauthorized, format!("malformed www-authenticate, {text}"))
        };
        let realm = challenge.get("realm").ok_or_else(|| malformed("missing realm"))?;
        let realm = Url::parse(realm).map_err(|_| malformed("realm is no URL"))?;
        self.check_realm(&realm)?;
        let service = challenge.get("service").unwrap_or(&self.reference.registry).to_owned();
        let actions = if pushing { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", self.reference.repository);
        if let RegistryCredential::IdentityToken(refresh) = &self.credential {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh),
                ("service", &service),
                ("scope", &scope),
                ("client_id", "wasmgate"),
                ("access_type", "offline"),
            ];
            let mut body = Url::parse("form:").map_err(|_| malformed("internal"))?;
            body.query_pairs_mut().extend_pairs(form);
            let request = self.http.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            return self
                .read_token(request.body(body.query().unwrap_or_default().to_owned()).send().await?)
                .await;
        }
        let mut url = realm;
        url.query_pairs_mut().append_pair("scope", &scope).append_pair("service", &service);
        let mut request = self.http.get(url);
        if let RegistryCredential::Basic { username, password } = &self.credential {
            request = request.header(AUTHORIZATION, basic(username, password));
        }
        self.read_token(request.send().await?).await
    }

    async fn read_token(&self, response: Response) -> Result<String, Failure> {
        let response = self.accept(response).await.map_err(|e| {
            Failure { reason: FetchReason::Unauthorized, ..e }.stage("the token service refused")
        })?;
        let body = read_limited(response, self.limits.answer_bytes_max, "token answer").await?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|e| {
            Failure::new(FetchReason::Unauthorized, format!("the token service's answer is no JSON: {e}"))
        })?;
        answer
            .token
            .or(answer.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(|| Failure::new(FetchReason::Unauthorized, "the token service's answer has no token"))
    }

    /// A registry must not send our credential where it likes: no plain text but from plain text, and nothing on this
    /// machine or its network unless the registry is there itself.
    fn check_realm(&self, realm: &Url) -> Result<(), Failure> {
        let unsafe_realm = |why: &str| {
            Failure::new(FetchReason::Unauthorized, format!("rejected unsafe bearer realm: {why}"))
        };
        match realm.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            other => return Err(unsafe_realm(&format!("realm scheme {other:?} not allowed"))),
        }
        let host = realm.host_str().ok_or_else(|| unsafe_realm("realm missing host"))?;
        let near = is_near(host_of(&self.reference.registry));
        if !near && is_near(host) {
            return Err(unsafe_realm("realm targets private/loopback/link-local IP"));
        }
        Ok(())
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether a host names this machine, its network or a cloud's metadata service.
fn is_near(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(std::net::IpAddr::V4(ip)) => {
            let metadata = ip.octets() == [100, 100, 100, 200];
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || metadata
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
        Err(_) => {
            let name = bare.trim_end_matches('.');
            is_loopback_host(name) || name == "metadata.google.internal"
        }
    }
}

/// The target of a redirect, if it is one to follow.
pub(crate) fn next_hop(from: &Url, location: &str, plain_http: bool) -> Result<Url, Failure> {
    let refused = |why: String| {
        Failure::new(FetchReason::RegistryUnreachable, format!("redirect to {location:?} refused: {why}"))
    };
    let to = from.join(location).map_err(|e| refused(e.to_string()))?;
    match to.scheme() {
        "https" => {}
        "http" if plain_http || from.scheme() == "http" => {}
        other => return Err(refused(format!("scheme {other}"))),
    }
    let host = |url: &Url| url.host_str().unwrap_or_default().to_owned();
    if is_near(&host(&to)) && !is_near(&host(from)) {
        return Err(refused("it leads to a private, loopback or link-local address".to_owned()));
    }
    Ok(to)
}

pub(crate) fn http_client(limits: &RegistryLimits) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        // Redirects are followed here, where it is known which headers may go along.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect_timeout)
        .read_timeout(limits.read_timeout)
        .timeout(limits.total_timeout)
        .user_agent(concat!("wasmgate/", env!("CARGO_PKG_VERSION")))
        .build()
}

pub(crate) fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Reads a body that must not be larger than a limit, whatever its length header says.
pub(crate) async fn read_limited(
    mut response: Response,
    bytes_max: usize,
    what: &str,
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if out.len() + piece.len() > bytes_max {
            return Err(Failure::new(
                FetchReason::TooLarge,
                format!("the {what} is larger than {bytes_max} bytes"),
            ));
        }
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// The registry's own error codes and messages.
fn registry_words(body: &[u8]) -> String {
    let Ok(answer) = serde_json::from_slice::<RegistryErrors>(body) else { return String::new() };
    let words: Vec<String> =
        answer.errors.iter().take(3).map(|e| format!("{}: {}", e.code, e.message)).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ").escape_debug()) }
}

/// A `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((key, after)) = rest.split_once('=') {
            let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            parameters.push((key, value.trim().to_owned()));
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_with_commas_in_quotes() {
        let c = Challenge::parse(
            r#"Bearer realm="https://a.test/t?x=1,2",service=reg , scope="repository:a:pull,push""#,
        )
        .unwrap();
        assert_eq!(c.scheme, "bearer");
        assert_eq!(c.get("realm"), Some("https://a.test/t?x=1,2"));
        assert_eq!(c.get("service"), Some("reg"));
        assert_eq!(c.get("scope"), Some("repository:a:pull,push"));
        assert_eq!(Challenge::parse("Basic"), Some(Challenge { scheme: "basic".into(), parameters: vec![] }));
    }

    #[test]
    fn a_public_registry_cannot_point_the_credential_at_this_machine() {
        let client = |reference: &str| {
            RegistryClient::new(
                Reference::parse(reference).unwrap(),
                RegistryCredential::Anonymous,
                RegistryLimits::default(),
                false,
            )
            .unwrap()
        };
        let check = |reference: &str, realm: &str| {
            client(reference).check_realm(&Url::parse(realm).unwrap()).map_err(|e| e.message)
        };
        assert!(check("r.test/x", "https://auth.test/token").is_ok());
        assert!(check("r.test/x", "http://auth.test/token").unwrap_err().contains("scheme"));
        assert!(check("r.test/x", "https://10.0.0.5/token").unwrap_err().contains("private"));
        assert!(check("r.test/x", "https://169.254.169.254/").unwrap_err().contains("private"));
        assert!(check("r.test/x", "https://metadata.google.internal/").is_err());
        assert!(
            check("localhost:5000/x", "http://127.0.0.1:1/token").is_ok(),
            "a registry on this machine may"
        );
    }

    #[test]
    fn redirects_do_not_lead_inside() {
        let from = Url::parse("https://r.test/v2/x").unwrap();
        assert!(next_hop(&from, "/other", false).is_ok());
        assert!(next_hop(&from, "https://storage.test/blob", false).is_ok());
        for bad in ["http://storage.test/", "https://127.0.0.1/", "https://[::1]/", "file:///etc/passwd"] {
            assert!(next_hop(&from, bad, false).is_err(), "{bad}");
        }
    }
}
