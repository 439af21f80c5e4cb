//! Durations and sizes as Kubernetes writes them.

use std::time::Duration;

/// A duration of GEP-2257: `1h30m`, `10s`, `200ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() || number.len() > 5 || parts == 4 {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = tail;
        parts += 1;
    }
    (parts > 0).then_some(total)
}

/// A size in bytes: `512Mi`, `1G`, `65536`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_gep_2257() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for bad in ["", "5", "s", "-1s", "1.5s", "100000s", "1d", "1s2s3s4s5s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("64Mi"), Some(64 << 20));
        assert_eq!(bytes("10"), Some(10));
        for bad in ["", "Mi", "1.5Gi", "-1", "99999999999Gi", "1Pi"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
