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

/// The same, and seconds with a fraction, as protobuf writes them: `1.5s`.
pub(crate) fn fractional_duration(text: &str) -> Option<Duration> {
    if let Some(duration) = duration(text) {
        return Some(duration);
    }
    let (whole, fraction) = text.strip_suffix('s')?.split_once('.')?;
    let is_digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || whole.len() > 5 || fraction.len() > 9 {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(whole.parse().ok()?, nanos))
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
    fn durations_of_protobuf() {
        assert_eq!(fractional_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(fractional_duration("0.025s"), Some(Duration::from_millis(25)));
        assert_eq!(fractional_duration("1m30s"), Some(Duration::from_secs(90)));
        for bad in ["1.s", ".5s", "1.5", "1.5m", "-1.5s", "1.0000000001s"] {
            assert_eq!(fractional_duration(bad), None, "{bad}");
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
