//! A load of keep-alive connections that notices every request that fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::client::{RawClient, request};

/// What a load has seen.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Answers by status and body.
    pub answers: BTreeMap<(u16, String), u64>,
    /// Requests that got none.
    pub failures: Vec<String>,
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<LoadReport>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts a number of connections that send the same GET one after the other.
    #[must_use]
    pub fn start(address: SocketAddr, connections: usize, path: &str, headers: &[(&str, &str)]) -> Self {
        let bytes = request("GET", path, headers, "");
        let (stop, report) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(LoadReport::default())));
        let run = |_| {
            let (bytes, stop, report) = (bytes.clone(), Arc::clone(&stop), Arc::clone(&report));
            std::thread::spawn(move || drive(address, &bytes, &stop, &report))
        };
        let threads = (0..connections).map(run).collect();
        Self { stop, report, threads }
    }

    /// What has been seen so far.
    #[must_use]
    pub fn so_far(&self) -> LoadReport {
        self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Stops and tells.
    #[must_use]
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A thread that panicked would have left its failure in the report.
            let _ = thread.join();
        }
        self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

fn drive(address: SocketAddr, bytes: &[u8], stop: &AtomicBool, report: &Mutex<LoadReport>) {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let result = match client.take() {
            Some(client) => Ok(client),
            None => RawClient::connect(address),
        };
        let result = result.and_then(|mut c: RawClient| c.request(bytes).map(|answer| (c, answer)));
        let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok((kept, answer)) => {
                let closes = answer.header("connection") == Some("close");
                *report.answers.entry((answer.status, answer.text())).or_default() += 1;
                client = (!closes).then_some(kept);
            }
            Err(e) => report.failures.push(e.to_string()),
        }
    }
}
