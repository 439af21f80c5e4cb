//! A campaign of random cases on two hosts.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::case::{self, Case};
use crate::endpoint::Endpoint;
use crate::fuzz;
use crate::host::Host;
use crate::matrix;
use crate::run::{run, run_beside};

/// Cases between two starts of the hosts: their scripts are one configuration.
const BATCH: usize = 200;
/// Disagreements that are made smaller; of more, only the seeds are told.
const SHRUNK_MAX: usize = 8;
/// Cases at the same time.
const BESIDE: usize = 8;
/// Rounds of making one smaller.
const ROUNDS_MAX: usize = 40;

/// What is run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub seed: u64,
    /// How many.
    pub count: u64,
    /// The folder with the table of statuses.
    pub cases: PathBuf,
    /// The interpreter plug-in, an absolute path.
    pub module: PathBuf,
    /// Our binary.
    pub wasmgate: PathBuf,
    /// Where Envoy is kept, or is to be downloaded to.
    pub peers_dir: PathBuf,
}

/// What ours and Envoy showed.
type Both = (Vec<String>, Vec<String>);

/// Two hosts that disagree about a case; `None`: they agree.
type Verdict = Option<Both>;

impl Campaign {
    /// Runs it; the number of cases on which the hosts disagree, each of which has been printed.
    ///
    /// # Errors
    /// A table that cannot be read, a host that does not start.
    pub fn run(&self, out: &mut dyn Write) -> Result<usize, String> {
        let pool = fuzz::pool(&matrix::read(&self.cases.join("statuses.txt"))?);
        let seeds: Vec<u64> = (self.seed..self.seed.saturating_add(self.count)).collect();
        let written = |e: std::io::Error| e.to_string();
        let (mut disagreements, mut done) = (0, 0);
        for batch in seeds.chunks(BATCH) {
            let cases: Vec<Case> = batch.iter().map(|seed| fuzz::generate(*seed, &pool)).collect();
            let verdicts = self.compare(&cases, usize::MAX)?;
            done += cases.len();
            for (case, verdict) in cases.iter().zip(verdicts) {
                let Some(mut seen) = verdict else { continue };
                disagreements += 1;
                let mut smallest = case.clone();
                if disagreements <= SHRUNK_MAX {
                    (smallest, seen) = self.shrink(smallest, seen)?;
                } else {
                    writeln!(out, "# seed {}: not made smaller", case.id).map_err(written)?;
                }
                smallest.id.clone_from(&case.id);
                smallest.expect = seen.0.join("\n");
                smallest.envoy = Some(seen.1.join("\n"));
                write!(out, "{}", fuzz::print(&smallest)).map_err(written)?;
            }
            writeln!(out, "# {done} cases, {disagreements} disagreements").map_err(written)?;
        }
        Ok(disagreements)
    }

    fn shrink(&self, mut case: Case, mut seen: Both) -> Result<(Case, Both), String> {
        for _ in 0..ROUNDS_MAX {
            let candidates = fuzz::smaller(&case);
            let verdicts = self.compare(&candidates, 1)?;
            let found = candidates.into_iter().zip(verdicts).find_map(|(c, v)| v.map(|v| (c, v)));
            let Some((smaller, still)) = found else { break };
            (case, seen) = (smaller, still);
            case.id = case.id.split('-').take(2).collect::<Vec<_>>().join("-");
        }
        Ok((case, seen))
    }

    /// What the hosts did, where that differs; ends after so many disagreements. Cases run beside each other; one on which
    /// the hosts disagree is run once more by itself, on fresh hosts.
    fn compare(&self, cases: &[Case], enough: usize) -> Result<Vec<Verdict>, String> {
        let hosts = self.start(cases)?;
        let next = AtomicUsize::new(0);
        let suspects = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..BESIDE {
                scope.spawn(|| {
                    while let Some((index, case)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        cases.get(index).map(|case| (index, case))
                    } {
                        let ours = run_beside(case, &hosts.wasmgate, &hosts.endpoint).lines();
                        let theirs = run_beside(case, &hosts.envoy, &hosts.endpoint).lines();
                        if differ(&ours, &theirs) {
                            suspects.lock().unwrap_or_else(PoisonError::into_inner).push(index);
                        }
                    }
                });
            }
        });
        let mut suspects = suspects.into_inner().unwrap_or_else(PoisonError::into_inner);
        suspects.sort_unstable();
        let mut verdicts: Vec<Verdict> = vec![None; cases.len()];
        let mut found = 0;
        for index in suspects {
            let (Some(case), Some(verdict)) = (cases.get(index), verdicts.get_mut(index)) else { continue };
            let mut hosts = self.start(std::slice::from_ref(case))?;
            let error = |e: std::io::Error| e.to_string();
            let ours = run(case, &mut hosts.wasmgate, &hosts.endpoint).map_err(error)?.lines();
            let theirs = run(case, &mut hosts.envoy, &hosts.endpoint).map_err(error)?.lines();
            if differ(&ours, &theirs) {
                *verdict = Some((ours, theirs));
                found += 1;
            }
            if found >= enough {
                break;
            }
        }
        Ok(verdicts)
    }

    fn start(&self, cases: &[Case]) -> Result<Hosts, String> {
        let error = |e: std::io::Error| e.to_string();
        let endpoint = Endpoint::start(cases).map_err(error)?;
        let configuration = case::configuration(cases);
        let program = std::path::absolute(&self.wasmgate).map_err(error)?.display().to_string();
        let wasmgate =
            Host::wasmgate(&program, &self.module, &configuration, endpoint.address()).map_err(error)?;
        let envoy =
            Host::envoy(&self.peers_dir, &self.module, &configuration, endpoint.address()).map_err(error)?;
        Ok(Hosts { wasmgate, envoy, endpoint })
    }
}

struct Hosts {
    wasmgate: Host,
    envoy: Host,
    endpoint: Endpoint,
}

fn differ(ours: &[String], theirs: &[String]) -> bool {
    !ours.iter().map(|l| alike(l)).eq(theirs.iter().map(|l| alike(l)))
}

/// A line without what each host has in its own way: the order of pseudo headers, whether the framing is among the
/// headers that a plug-in sees, and whether two lines of a list stand as one (RFC 9110 §5.3; Envoy joins some names).
fn alike(line: &str) -> String {
    let joined = line.strip_prefix("client-header vary: ").map(|value| value.replace('|', ","));
    let joined = joined.map(|value| format!("client-header vary: {value}"));
    let line = joined.as_deref().unwrap_or(line);
    let words = line.split(' ').map(|word| match word.strip_prefix("pairs=0:") {
        Some(pairs) => {
            let mut pairs: Vec<&str> =
                pairs.split(',').filter(|p| *p != "transfer-encoding=chunked").collect();
            pairs.sort_unstable();
            format!("pairs=0:{}", pairs.join(","))
        }
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
