//! Failures at run time.

use std::time::SystemTime;

use wasmgate_host::{Failure, FailureReason};

/// The last failure of a plug-in.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When.
    pub at: SystemTime,
    /// A word of a closed list.
    pub reason: &'static str,
    /// The callback.
    pub function: &'static str,
    /// What happened.
    pub message: String,
    /// The guest's frames, innermost first.
    pub frames: Vec<String>,
}

impl Fault {
    pub(crate) fn new(failure: &Failure, at: SystemTime) -> Self {
        Self {
            at,
            reason: failure.reason.label(),
            function: failure.function,
            message: failure.reason.to_string(),
            frames: failure.frames.clone(),
        }
    }
}

/// Response code details for a stream that a failure ends (spec: wasmplugin-and-routing §1.13).
pub(crate) fn response_code_details(reason: &FailureReason) -> &'static str {
    match reason {
        FailureReason::CpuLimit(_) => "wasm_limit_exceeded{cpu}",
        FailureReason::MemoryLimit(_) => "wasm_limit_exceeded{memory}",
        FailureReason::StackLimit => "wasm_limit_exceeded{stack}",
        _ => "wasm_fail_stream",
    }
}
