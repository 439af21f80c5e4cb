//! The disagreements as tables for `docs/http.md`.

use crate::agreement::Agreement;
use crate::case::Case;
use crate::host::Kind;

/// What stands before the tables in the document.
pub const BEGIN: &str = "<!-- begin: wasmgate-http-suite --markdown -->\n";
/// What stands after them.
pub const END: &str = "<!-- end -->\n";

/// What the cases of one reason are, with their number by host.
#[derive(Debug)]
struct Row<'a> {
    reason: &'a str,
    counts: Vec<usize>,
    example: &'a str,
}

/// A row for each reason in the order of the cases, first of other proxies, then of ours.
#[must_use]
pub fn tables(cases: &[Case], agreement: &Agreement) -> String {
    let hosts: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Wasmgate).collect();
    let theirs = |case: &'_ Case| -> Vec<(usize, &str)> {
        let known =
            hosts.iter().enumerate().filter_map(|(at, kind)| Some((at, agreement.of(*kind, &case.id)?)));
        known.map(|(at, d)| (at, agreement.reasons.get(&d.why).map_or("", String::as_str))).collect()
    };
    let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut out = format!(
        "| another proxy | {} | for example |\n|---|{}---|\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    out.push_str(&body(&rows(cases, names.len(), theirs)));
    let ours =
        rows(cases, 1, |case| case.wasmgate.iter().map(|d| (0, d.differs.as_str())).collect::<Vec<_>>());
    if !ours.is_empty() {
        out.push_str("\n| Wasmgate, which is wrong | cases | for example |\n|---|---|---|\n");
        out.push_str(&body(&ours));
    }
    out
}

fn rows<'a>(
    cases: &'a [Case],
    columns: usize,
    reasons: impl Fn(&'a Case) -> Vec<(usize, &'a str)>,
) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for case in cases {
        for (column, reason) in reasons(case) {
            let at = rows.iter().position(|row| row.reason == reason).unwrap_or_else(|| {
                rows.push(Row { reason, counts: vec![0; columns], example: &case.id });
                rows.len() - 1
            });
            if let Some(count) = rows.get_mut(at).and_then(|row| row.counts.get_mut(column)) {
                *count += 1;
            }
        }
    }
    rows
}

fn body(rows: &[Row<'_>]) -> String {
    let line = |row: &Row<'_>| {
        let counts =
            row.counts.iter().map(|count| if *count == 0 { String::new() } else { count.to_string() });
        let counts: Vec<String> = counts.collect();
        format!("| {} | {} | `{}` |\n", row.reason.replace('|', "\\|"), counts.join(" | "), row.example)
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Deviation;

    #[test]
    fn cases_are_counted_by_reason_and_host() {
        let mut agreement = Agreement::default();
        agreement.reasons.insert("lenient".to_owned(), "takes a|b".to_owned());
        let case = |id: &str| Case { id: id.to_owned(), ..Case::default() };
        let mut cases = [case("one"), case("two")];
        for case in &cases {
            agreement.record(Kind::Nginx, &case.id, Some(String::new()));
        }
        agreement.hosts.values_mut().flat_map(|h| h.values_mut()).for_each(|d| d.why = "lenient".to_owned());
        let text = tables(&cases, &agreement);
        assert!(text.ends_with("|---|---|---|---|---|\n| takes a\\|b | 2 |  |  | `one` |\n"), "{text}");
        cases[1].wasmgate = Some(Deviation { differs: "no".to_owned(), sees: String::new() });
        assert!(tables(&cases, &agreement).ends_with("|---|---|---|\n| no | 1 | `two` |\n"));
    }
}
