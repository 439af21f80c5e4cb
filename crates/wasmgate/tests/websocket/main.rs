//! WebSocket through the gateway: the sections of Autobahn's test suite, written anew. The gateway is transparent, so
//! whatever the frames are, right or wrong, all bytes arrive in both directions as they were sent, and what the endpoint
//! makes of them reaches the client.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

mod cases;
mod deflate;
mod endpoint;
mod frame;
mod http1;
mod http2;

use std::time::Duration;

use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::{manifests, plugins};

use crate::cases::{Case, End};
use crate::endpoint::{Endpoint, Record};
use crate::frame::{CLOSE, Frame};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
/// Of HTTP/2: h2 takes about a hundred small frames that nobody has read for an attack, and
/// ends the connection with ENHANCE_YOUR_CALM (`too_many_data_frames`). It does not count those of 256 bytes and more.
const HTTP2_CHOP_MIN: usize = 256;
/// After so many the rest is not run: each may have waited in vain.
const FAILURES_MAX: usize = 5;
/// For anything that a case waits for.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn every_case_over_http1() {
    let (endpoint, gateway) = start(false);
    run(&cases::all(), &endpoint, |case| http1::exchange(gateway.address(), case));
}

#[test]
fn every_case_with_a_plug_in() {
    let (endpoint, gateway) = start(true);
    run(&cases::all(), &endpoint, |case| http1::exchange(gateway.address(), case));
}

#[test]
fn every_case_over_http2() {
    let (endpoint, gateway) = start(true);
    let client = http2::Client::connect(gateway.address());
    let chopped = cases::all().into_iter().map(|case| match case.chop {
        // Few enough are nothing to it.
        Some(chop) if case.sent.len() / chop > 50 => case.chopped(chop.max(HTTP2_CHOP_MIN)),
        _ => case,
    });
    run(&chopped.collect::<Vec<_>>(), &endpoint, |case| client.exchange(case));
}

#[test]
fn the_cases_hold_without_a_gateway() {
    let endpoint = Endpoint::start();
    let cases = cases::all();
    assert!(cases.len() > 400, "{} cases", cases.len());
    run(&cases, &endpoint, |case| http1::exchange(endpoint.address, case));
}

fn start(with_plugin: bool) -> (Endpoint, RunningGateway) {
    let endpoint = Endpoint::start();
    let mut gateway = GatewayBuilder::new(PROGRAM).workers(1).backend(endpoint.address);
    if with_plugin {
        let url = format!("file://{}", plugins::header_authorization_rust().display());
        gateway = gateway.manifest("check.yaml", manifests::plugin("check", &url, "  phase: AUTHN\n"));
    }
    (endpoint, gateway.run().unwrap())
}

/// Runs all, and says of every one what is wrong.
fn run(cases: &[Case], endpoint: &Endpoint, exchange: impl Fn(&Case) -> Result<Vec<u8>, String>) {
    let judged = cases.iter().map(|case| (case, exchange(case).and_then(|got| judge(case, &got, endpoint))));
    let failed: Vec<String> = judged
        .filter_map(|(case, verdict)| Some(format!("{}: {}", case.id, verdict.err()?)))
        .take(FAILURES_MAX)
        .collect();
    assert!(failed.is_empty(), "of {} cases:\n{}", cases.len(), failed.join("\n"));
}

fn judge(case: &Case, got: &[u8], endpoint: &Endpoint) -> Result<(), String> {
    let Record { head, received, sent } =
        endpoint.take(&case.id).ok_or("no endpoint has seen it to its end")?;
    if case.extensions.is_some_and(|e| !head.contains(&format!("\r\nsec-websocket-extensions: {e}\r\n"))) {
        return Err(format!("what the client offers is not what the endpoint gets: {head}"));
    }
    // A client stops writing once it has been told that the connection has failed.
    let may_be_cut = matches!(case.end, End::Fails(_));
    if received != case.sent && !(may_be_cut && case.sent.starts_with(&received)) {
        return Err(format!("{}, sent and received", difference(&case.sent, &received)));
    }
    if got != sent {
        return Err(format!("{}, answered and got", difference(&sent, got)));
    }
    if case.path == "/raw" {
        return if got == case.sent { Ok(()) } else { Err(difference(&case.sent, got)) };
    }
    let mut frames = Vec::new();
    let mut rest = got;
    while let Some((frame, is_masked)) = Frame::read(&mut rest).map_err(|e| e.to_string())? {
        if is_masked {
            return Err("the endpoint masks".to_owned());
        }
        frames.push(frame);
    }
    let end = match &case.end {
        End::Closes(frame) => Some(frame.clone()),
        End::Fails(code) => Some(Frame::close(*code, b"")),
        End::Silent => None,
    };
    let wanted: Vec<Frame> = case.wanted.iter().cloned().chain(end).collect();
    let is_closed = frames.last().is_some_and(|f| f.opcode == CLOSE);
    if frames != wanted {
        let begin = |frames: &[Frame]| format!("{:?}", &frames[..frames.len().min(8)]);
        return Err(format!("{} wanted, got {}, closed: {is_closed}", begin(&wanted), begin(&frames)));
    }
    Ok(())
}

fn difference(one: &[u8], other: &[u8]) -> String {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    format!("{} and {} bytes, which are the same for {same}", one.len(), other.len())
}
