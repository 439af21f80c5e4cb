//! Whether a back end has seen what it may have seen.

use crate::payload::Payload;

/// What a back end has seen that no client sent, one line each with its case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What must not be.
    pub findings: Vec<String>,
    /// What must not be either, and is known.
    pub known: Vec<String>,
}

/// Compares what a back end has seen with what the cases allow, one after the other as they were run.
#[must_use]
pub fn judge(payloads: &[Payload], seen: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut left: Vec<Left> = payloads.iter().map(Left::new).collect();
    // A case ends with its victim: what carries no number belongs to the one after the last victim.
    let mut current = 0;
    for line in seen {
        let numbered = payloads.iter().position(|p| line.contains(&format!("-{:03}", p.number)));
        let at = numbered.unwrap_or(current);
        let Some((payload, left)) = payloads.get(at).zip(left.get_mut(at)) else {
            verdict.findings.push(format!("after the last case: {line:?}"));
            continue;
        };
        let told = || {
            format!("{}: {line:?}; the client's framing contains {:?}", payload.case.name, payload.allowed())
        };
        if *line == format!("GET {}", payload.victim()) {
            current = at + 1;
            continue;
        }
        if take(&mut left.allowed, line) {
            continue;
        }
        if take(&mut left.known_wrong, line) {
            verdict.known.push(told());
        } else {
            verdict.findings.push(told());
        }
    }
    verdict
}

/// What of a case may still come.
struct Left {
    allowed: Vec<String>,
    known_wrong: Vec<String>,
}

impl Left {
    fn new(payload: &Payload) -> Self {
        Self { allowed: payload.allowed(), known_wrong: payload.known_wrong() }
    }
}

/// Takes a line out of a list. False when it is not in it.
fn take(list: &mut Vec<String>, line: &str) -> bool {
    let at = list.iter().position(|l| l == line);
    at.map(|at| list.remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Case;

    fn payload(number: usize, allowed: &[&str], known: &[&str]) -> Payload {
        let text =
            format!("{{name: case{number}, why: because, allowed: {allowed:?}, known_wrong: {known:?}}}");
        Payload { case: serde_saphyr::from_str::<Case>(&text).unwrap(), number }
    }

    fn judged(seen: &[&str]) -> Verdict {
        let payloads = [
            payload(1, &["POST /first-000"], &[]),
            payload(2, &["POST /"], &[]),
            payload(3, &[], &["POST /"]),
        ];
        judge(&payloads, &seen.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_sent_may_be_seen_once_or_not_at_all() {
        let good = Verdict::default();
        assert_eq!(judged(&["POST /first-001", "GET /victim-001", "POST /", "GET /victim-002"]), good);
        assert_eq!(judged(&["GET /victim-001"]), good);
    }

    #[test]
    fn anything_else_is_told_with_its_case() {
        let twice = judged(&["POST /first-001", "POST /first-001"]).findings;
        assert_eq!(
            twice,
            ["case1: \"POST /first-001\"; the client's framing contains [\"POST /first-001\"]"]
        );
        for (seen, case) in [
            (&["GET /smuggled-001"][..], "case1: "),
            (&["POST /first-002"], "case2: "),
            (&["XGET /victim-002"], "case2: "),
            (&["GET /victim-001", "rubbish"], "case2: "),
            (&["GET /victim-003", "rubbish"], "after the last case: "),
        ] {
            let findings = judged(seen).findings;
            assert!(findings.len() == 1 && findings[0].starts_with(case), "{seen:?}: {findings:?}");
        }
    }

    #[test]
    fn what_is_known_fails_nothing_and_is_told() {
        let verdict = judged(&["GET /victim-002", "POST /"]);
        assert!(verdict.findings.is_empty() && verdict.known[0].starts_with("case3: "), "{verdict:?}");
    }
}
