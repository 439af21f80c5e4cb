//! What other proxies do instead, and why: `agreement.yaml`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::host::Kind;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Kinds of disagreement, by their name.
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
    /// By proxy, by case.
    #[serde(default)]
    pub hosts: BTreeMap<String, BTreeMap<String, Disagreement>>,
}

/// One proxy on one case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disagreement {
    /// A name among the reasons.
    pub why: String,
    /// What is seen: see [`crate::run::Seen::summary`].
    pub sees: String,
    /// Not every time: it depends on how the proxy happens to read.
    #[serde(default)]
    pub sometimes: bool,
}

impl Agreement {
    /// Reads the file; one that is not there says that all agree.
    ///
    /// # Errors
    /// What is wrong, with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// What a proxy is known to do with a case.
    #[must_use]
    pub fn of(&self, kind: Kind, case: &str) -> Option<&Disagreement> {
        self.hosts.get(&kind.to_string())?.get(case)
    }

    /// Takes down what was seen, with the reason of before if there is one; `None`: as the case says. What is seen
    /// sometimes stays.
    pub fn record(&mut self, kind: Kind, case: &str, seen: Option<String>) {
        let cases = self.hosts.entry(kind.to_string()).or_default();
        if cases.get(case).is_some_and(|d| d.sometimes) {
            return;
        }
        let before = cases.remove(case);
        if let Some(sees) = seen {
            let why = before.map_or_else(|| "unexplained".to_owned(), |d| d.why);
            cases.insert(case.to_owned(), Disagreement { why, sees, sometimes: false });
        }
    }

    /// Names of reasons that are missing, reasons that nobody needs, and cases that there are not.
    #[must_use]
    pub fn faults(&self, cases: &[&str]) -> Vec<String> {
        let all = self.hosts.values().flatten();
        let mut faults: Vec<String> = all
            .clone()
            .filter(|(_, d)| !self.reasons.contains_key(&d.why))
            .map(|(case, d)| format!("{case}: there is no reason {:?}", d.why))
            .collect();
        faults.extend(
            all.clone()
                .filter(|(case, _)| !cases.contains(&case.as_str()))
                .map(|(case, _)| format!("there is no case {case}")),
        );
        let is_needed = |reason: &str| all.clone().any(|(_, d)| d.why == reason);
        faults.extend(
            self.reasons.keys().filter(|r| !is_needed(r)).map(|r| format!("no case needs the reason {r}")),
        );
        faults
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let mut out = String::from(
            "# What other proxies do instead, and why. Written by --record; the reasons are written by hand.\n",
        );
        out.push_str(if self.reasons.is_empty() { "reasons: {}\n" } else { "reasons:\n" });
        for (name, reason) in &self.reasons {
            out.push_str(&format!("  {name}: {}\n", quoted(reason)));
        }
        out.push_str("hosts:\n");
        for (host, cases) in self.hosts.iter().filter(|(_, cases)| !cases.is_empty()) {
            out.push_str(&format!("  {host}:\n"));
            for (case, Disagreement { why, sees, sometimes }) in cases {
                let sometimes = if *sometimes { ", sometimes: true" } else { "" };
                out.push_str(&format!("    {case}: {{why: {why}, sees: {}{sometimes}}}\n", quoted(sees)));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_again_and_keeps_its_reason() {
        let mut agreement = Agreement::default();
        agreement.reasons.insert("lenient".to_owned(), "it's lenient".to_owned());
        agreement.record(Kind::Nginx, "bare-lf", Some("200 open; endpoint 1".to_owned()));
        assert_eq!(agreement.faults(&["bare-lf"]).len(), 2);
        agreement.hosts.get_mut("nginx").unwrap().get_mut("bare-lf").unwrap().why = "lenient".to_owned();
        agreement.record(Kind::Nginx, "bare-lf", Some("'; endpoint 0".to_owned()));
        let read: Agreement = serde_saphyr::from_str(&agreement.text()).unwrap();
        let known = read.of(Kind::Nginx, "bare-lf").unwrap();
        assert_eq!((known.why.as_str(), known.sees.as_str()), ("lenient", "'; endpoint 0"));
        assert!(read.faults(&["bare-lf"]).is_empty());
        assert_eq!(read.faults(&[]), ["there is no case bare-lf"]);
        agreement.record(Kind::Nginx, "bare-lf", None);
        assert!(agreement.of(Kind::Nginx, "bare-lf").is_none());
    }
}
