//! Active health checks: a connection and a question now and then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Method, Request, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use wasmgate_config::{Cluster, HealthCheck, HealthProbe, UpstreamProtocol};

use super::note_health;
use crate::upstream::host_state::HostState;
use crate::upstream::state::ClusterState;
use crate::upstream::{Spoken, UpstreamSocket};

/// What is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// A part of the interval by which probes are spread, so that an endpoint does not get all of them at once.
const JITTER: f64 = 0.1;

/// Asks an endpoint for as long as it belongs to the cluster.
pub(super) async fn watch(cluster: Arc<ClusterState>, host: Arc<HostState>, check: HealthCheck) {
    // One that has been asked before is as it was: a rule that is edited takes nobody out.
    let mut state = Health { is_healthy: host.checked_health(), against: 0 };
    loop {
        let asked = tokio::time::timeout(check.timeout, ask(&cluster, &host, &check)).await;
        let answer = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if let Some(is_healthy) = state.observe(answer.is_ok(), &check) {
            note_health(&cluster, &host, is_healthy, answer.as_ref().err().map_or("", String::as_str));
            cluster.set_active_health(&host, is_healthy);
        }
        cluster.note_checked(&host);
        tokio::time::sleep(spread(check.interval)).await;
    }
}

fn spread(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - JITTER / 2.0 + JITTER * fastrand::f64())
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct Health {
    /// `None` before the first answer.
    is_healthy: Option<bool>,
    /// Answers in a row that say otherwise.
    against: u32,
}

impl Health {
    /// Takes note of an answer; the health, if that has changed it.
    fn observe(&mut self, is_good: bool, check: &HealthCheck) -> Option<bool> {
        let Some(is_healthy) = self.is_healthy else {
            self.is_healthy = Some(is_good);
            return Some(is_good);
        };
        if is_healthy == is_good {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let threshold = if is_good { check.healthy_threshold } else { check.unhealthy_threshold };
        if self.against < threshold {
            return None;
        }
        (self.is_healthy, self.against) = (Some(is_good), 0);
        Some(is_good)
    }
}

async fn ask(cluster: &ClusterState, host: &HostState, check: &HealthCheck) -> Result<(), String> {
    let config = cluster.config().ok_or("the cluster is gone")?;
    let address = SocketAddr::new(host.address.ip(), check.port.unwrap_or(host.address.port()));
    let protocol = match (&check.probe, config.protocol) {
        (HealthProbe::Tcp, _) => Spoken::Tcp,
        (HealthProbe::Http { .. }, UpstreamProtocol::Http1) => Spoken::Http1,
        (HealthProbe::Http { .. }, UpstreamProtocol::Http2) | (HealthProbe::Grpc(_), _) => Spoken::Http2,
    };
    let socket =
        cluster.connect(&config, address, check.timeout, protocol).await.map_err(|e| e.to_string())?;
    match &check.probe {
        HealthProbe::Tcp => Ok(()),
        HealthProbe::Http { path, host } => {
            let authority = host.as_deref().unwrap_or(&config.host);
            ask_http(&config, socket, authority, path).await
        }
        HealthProbe::Grpc(service) => ask_grpc(&config, socket, service).await,
    }
}

fn uri(config: &Cluster, authority: &str, path: &str) -> Result<Uri, String> {
    let scheme = match config.policy.tls {
        wasmgate_config::TlsOrigination::Off => "http",
        _ => "https",
    };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    uri.map_err(|e| e.to_string())
}

async fn ask_http(
    config: &Cluster,
    socket: UpstreamSocket,
    authority: &str,
    path: &str,
) -> Result<(), String> {
    let request = Request::builder().method(Method::GET).header(USER_AGENT, "wasmgate-health-check");
    let body = Full::<Bytes>::default();
    let status = if config.protocol == UpstreamProtocol::Http2 {
        let request = request.version(Version::HTTP_2).uri(uri(config, authority, path)?).body(body);
        let request = request.map_err(|e| e.to_string())?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (mut sender, driver) = handshake.await.map_err(|e| e.to_string())?;
        let answer = while_driven(driver, sender.send_request(request)).await?;
        answer.map_err(|e| e.to_string())?.status()
    } else {
        let request = request.uri(path).header(HOST, authority).body(body).map_err(|e| e.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(socket));
        let (mut sender, driver) = handshake.await.map_err(|e| e.to_string())?;
        let answer = while_driven(driver, sender.send_request(request)).await?;
        answer.map_err(|e| e.to_string())?.status()
    };
    if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

/// Waits for an answer while its connection is looked after.
async fn while_driven<T>(
    driver: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = T>,
) -> Result<T, String> {
    let mut answer = std::pin::pin!(answer);
    let ended = tokio::select! {
        biased;
        answer = answer.as_mut() => return Ok(answer),
        ended = driver => ended,
    };
    // The last thing that the connection did may have been to deliver it.
    tokio::select! {
        biased;
        answer = answer.as_mut() => Ok(answer),
        () = std::future::ready(()) => {
            Err(ended.err().map_or_else(|| "the connection was closed".to_owned(), |e| e.to_string()))
        }
    }
}

/// `SERVING` of `grpc.health.v1.HealthCheckResponse`.
const SERVING: &[u8] = &[0x08, 1];

async fn ask_grpc(config: &Cluster, socket: UpstreamSocket, service: &str) -> Result<(), String> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, a string; its length in groups of seven bits.
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(uri(config, &config.host, "/grpc.health.v1.Health/Check")?)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "wasmgate-health-check")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, driver) = handshake.await.map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("status {}", answer.status().as_u16()));
        }
        let head = answer.headers().get("grpc-status").cloned();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| e.to_string())?;
        let status = body.trailers().and_then(|t| t.get("grpc-status").cloned()).or(head);
        if let Some(status) = status.filter(|s| s != "0") {
            return Err(format!("grpc-status {}", status.to_str().unwrap_or("?")));
        }
        let bytes = body.to_bytes();
        if bytes.get(5..).is_some_and(|message| message.starts_with(SERVING)) {
            Ok(())
        } else {
            Err("it is not SERVING".to_owned())
        }
    };
    while_driven(driver, exchange).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_changes_after_so_many_answers_in_a_row() {
        let check = HealthCheck {
            probe: HealthProbe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            port: None,
        };
        let mut health = Health::default();
        let mut changes = Vec::new();
        for good in [true, false, false, true, false, false, false, true, false, true, true] {
            changes.push(health.observe(good, &check));
        }
        let mut wanted = vec![None; 11];
        wanted[0] = Some(true);
        wanted[6] = Some(false);
        wanted[10] = Some(true);
        assert_eq!(changes, wanted);
        assert_eq!(Health::default().observe(false, &check), Some(false), "the first answer counts at once");
    }
}
