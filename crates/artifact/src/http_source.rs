//! Modules from web servers (spec: wasmplugin-and-routing §2.5).

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{LOCATION, RETRY_AFTER};

use crate::error::{Failure, FetchReason};
use crate::registry::{RegistryLimits, header, next_hop, read_limited};

/// Downloads a file. Too much is an error, not a file that ends early.
pub(crate) async fn download(
    http: &reqwest::Client,
    url: &str,
    limits: &RegistryLimits,
    bytes_max: u64,
) -> Result<Vec<u8>, Failure> {
    let mut at = Url::parse(url).map_err(|e| Failure::new(FetchReason::InvalidReference, e.to_string()))?;
    for _ in 0..=limits.redirects_max {
        let response = http.get(at.clone()).send().await?;
        let status = response.status();
        if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            at = next_hop(&at, header(&response, LOCATION.as_str()), false)?;
            continue;
        }
        if status.as_u16() == 200 {
            return read_limited(response, usize::try_from(bytes_max).unwrap_or(usize::MAX), "module").await;
        }
        let reason = match status.as_u16() {
            401 | 403 => FetchReason::Unauthorized,
            404 | 410 => FetchReason::FileNotFound,
            429 => FetchReason::TooManyRequests,
            _ => FetchReason::RegistryUnreachable,
        };
        let wait = header(&response, RETRY_AFTER.as_str()).parse().ok().map(Duration::from_secs);
        let mut failure = Failure::new(
            reason,
            format!("wasm module download request failed: status code {}", status.as_u16()),
        );
        failure.retry_after = wait.map(|w: Duration| w.min(limits.retry_after_max));
        return Err(failure);
    }
    Err(Failure::new(
        FetchReason::RegistryUnreachable,
        format!("more than {} redirects", limits.redirects_max),
    ))
}
