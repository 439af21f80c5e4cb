//! The disagreements as a table for the documentation.

use std::collections::BTreeMap;

use crate::agreement::Agreement;
use crate::case::Case;

/// A row for each reason: how many cases each proxy has of it, and the first of them.
#[must_use]
pub fn table(cases: &[Case], agreement: &Agreement) -> String {
    let hosts: Vec<&String> = agreement.hosts.keys().collect();
    let names: Vec<&str> = hosts.iter().map(|h| h.as_str()).collect();
    let mut out = format!("| what it does instead | {} | for example |\n", names.join(" | "));
    out.push_str(&format!("|---|{}---|\n", "---|".repeat(hosts.len())));
    let mut rows: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (host, known) in &agreement.hosts {
        for (case, disagreement) in known {
            rows.entry(disagreement.why.as_str()).or_default().push((host, case));
        }
    }
    for (why, all) in rows {
        let reason = agreement.reasons.get(why).map_or(why, String::as_str);
        let counts: Vec<String> = names
            .iter()
            .map(|name| match all.iter().filter(|(host, _)| host == name).count() {
                0 => String::new(),
                count => count.to_string(),
            })
            .collect();
        let example = all.first().map(|(_, case)| *case).unwrap_or_default();
        out.push_str(&format!("| {} | {} | `{example}` |\n", reason.replace('|', "\\|"), counts.join(" | ")));
    }
    let ours: Vec<&Case> = cases.iter().filter(|c| c.wasmgate.is_some()).collect();
    if !ours.is_empty() {
        out.push_str("\n| case | what Wasmgate does, and should not |\n|---|---|\n");
    }
    for case in ours {
        let why = case.wasmgate.as_ref().map(|d| d.differs.as_str()).unwrap_or_default();
        out.push_str(&format!("| `{}` | {} |\n", case.id, why.replace('|', "\\|")));
    }
    out
}
