//! Sheds load before the system ends the process for the memory that it takes.

use crate::stats::{GatewayStats, Overload};

/// Of the limit: connections end after their next answer.
const SHRINK_PERCENT: u64 = 90;
/// Of the limit: further requests are refused.
const REFUSE_PERCENT: u64 = 95;

/// Takes note of how much memory the process takes.
pub(super) fn watch(stats: &GatewayStats, bytes_max: u64) {
    // Where the system does not say, nothing is shed.
    let Some(bytes) = resident_bytes() else { return };
    let now = level(bytes, bytes_max);
    let before = stats.overload();
    stats.set_overload(now);
    let (mib, max) = (bytes >> 20, bytes_max >> 20);
    match (before, now) {
        (before, now) if before == now => {}
        (_, Overload::Refuse) => {
            tracing::error!(target: "main", "{mib} MiB of {max} MiB are taken: further requests are answered with 503 (--max-memory)");
        }
        (_, Overload::Shrink) => {
            tracing::warn!(target: "main", "{mib} MiB of {max} MiB are taken: connections end after their next answer (--max-memory)");
        }
        (_, Overload::None) => {
            tracing::info!(target: "main", "{mib} MiB of {max} MiB are taken: all is served again")
        }
    }
}

fn level(bytes: u64, bytes_max: u64) -> Overload {
    match bytes.saturating_mul(100).checked_div(bytes_max).unwrap_or(0) {
        REFUSE_PERCENT.. => Overload::Refuse,
        SHRINK_PERCENT.. => Overload::Shrink,
        _ => Overload::None,
    }
}

/// The process' resident memory.
fn resident_bytes() -> Option<u64> {
    const KIB: u64 = 1024;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_decides() {
        for (bytes, wanted) in [
            (0, Overload::None),
            (89, Overload::None),
            (90, Overload::Shrink),
            (95, Overload::Refuse),
            (200, Overload::Refuse),
        ] {
            assert_eq!(level(bytes, 100), wanted, "{bytes}");
        }
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
