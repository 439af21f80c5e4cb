//! `%START_TIME(…)%`: strftime, in UTC.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::civil;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A parsed format of a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeFormat(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Year,
    Month,
    MonthName,
    Day,
    Hour,
    Minute,
    Second,
    /// Seconds since 1970.
    Epoch,
    /// Fractions of a second, so many digits.
    Fraction(u32),
}

impl TimeFormat {
    /// `2026-11-22T07:29:19.492Z`
    pub(super) fn default_format() -> Self {
        Self::parse("%Y-%m-%dT%H:%M:%S.%3fZ").unwrap_or(Self(Vec::new()))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let literal = |text: &str| Part::Literal(text.to_owned());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            parts.push(literal(before));
            let mut chars = after.chars();
            let mut kind = chars.next();
            let digits = kind.and_then(|c| c.to_digit(10)).filter(|n| (1..=9).contains(n));
            if digits.is_some() {
                kind = chars.next();
            }
            match (kind, digits) {
                (Some('f'), digits) => parts.push(Part::Fraction(digits.unwrap_or(9))),
                (Some('Y'), None) => parts.push(Part::Year),
                (Some('m'), None) => parts.push(Part::Month),
                (Some('b'), None) => parts.push(Part::MonthName),
                (Some('d'), None) => parts.push(Part::Day),
                (Some('H'), None) => parts.push(Part::Hour),
                (Some('M'), None) => parts.push(Part::Minute),
                (Some('S'), None) => parts.push(Part::Second),
                (Some('s'), None) => parts.push(Part::Epoch),
                (Some('F'), None) => {
                    parts.extend([Part::Year, literal("-"), Part::Month, literal("-"), Part::Day]);
                }
                (Some('T'), None) => {
                    parts.extend([Part::Hour, literal(":"), Part::Minute, literal(":"), Part::Second]);
                }
                (Some('z'), None) => parts.push(literal("+0000")),
                (Some('Z'), None) => parts.push(literal("UTC")),
                (Some('%'), None) => parts.push(literal("%")),
                (other, _) => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "%{other} of START_TIME is not supported; Y m b d H M S s f 3f 6f 9f F T z Z are"
                    ));
                }
            }
            rest = chars.as_str();
        }
        parts.push(literal(rest));
        Ok(Self(parts))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        for part in &self.0 {
            // Writing to a Vec cannot fail.
            let _ = match part {
                Part::Literal(text) => {
                    super::plain(out, text.as_bytes());
                    Ok(())
                }
                Part::Year => write!(out, "{year:04}"),
                Part::Month => write!(out, "{month:02}"),
                Part::MonthName => {
                    let name = usize::try_from(month).ok().and_then(|m| MONTHS.get(m.wrapping_sub(1)));
                    write!(out, "{}", name.copied().unwrap_or_default())
                }
                Part::Day => write!(out, "{day:02}"),
                Part::Hour => write!(out, "{:02}", second / 3600),
                Part::Minute => write!(out, "{:02}", second / 60 % 60),
                Part::Second => write!(out, "{:02}", second % 60),
                Part::Epoch => write!(out, "{}", since.as_secs()),
                Part::Fraction(digits) => {
                    let width = usize::try_from(*digits).unwrap_or(9);
                    write!(
                        out,
                        "{:0width$}",
                        since.subsec_nanos() / 10_u32.pow(9_u32.saturating_sub(*digits))
                    )
                }
            };
        }
    }
}
