//! `wasmgate check`: everything that `run` would refuse or warn about.

use std::process::ExitCode;
use std::sync::Arc;

use wasmgate_config::{FolderSource, Listener, Severity, Store, compile};

use crate::cli::{CheckArguments, say};
use crate::convert;
use crate::error::CommandError;
use crate::logging::{Level, LogLevels};
use crate::run::{PluginParts, host_env, identity};

/// Exit status when something is wrong.
const EXIT_FINDINGS: u8 = 1;

pub(crate) async fn check(arguments: &CheckArguments) -> Result<ExitCode, CommandError> {
    let config = &arguments.config;
    let files = FolderSource::new(config.config.clone()).read()?;
    let mut store = Store::default();
    let mut diagnostics = store.replace(&files);
    let (snapshot, more) = compile(&store.resources(), &identity(config));
    diagnostics.extend(more);
    diagnostics.extend(convert::missing_variables(&snapshot, &host_env(config)));
    diagnostics.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
    for diagnostic in &diagnostics {
        say(&diagnostic.to_string());
    }
    let mut warnings = diagnostics.iter().filter(|d| d.severity == Severity::Warning).count();
    let mut errors = diagnostics.len() - warnings;
    if snapshot.listeners.is_empty() {
        say("warning: no Gateway has a listener: nothing would be served");
        warnings += 1;
    }
    if !arguments.offline && !snapshot.plugins.is_empty() {
        let parts = PluginParts::new(config, &LogLevels::new(Level::Off), 1)?;
        parts.services.set_clusters(convert::callable(&snapshot));
        let env = host_env(config);
        for spec in &snapshot.plugins {
            let definition = Arc::new(convert::definition(spec, &env));
            // An unusable secret has been reported with its place in the manifest.
            if definition.secret_error.is_some() {
                continue;
            }
            let place = format!("{}:{}:{}", spec.file, spec.url_at.line, spec.url_at.column);
            match parts.manager.try_load(&definition).await {
                Ok(None) => {}
                Ok(Some(warning)) => {
                    say(&format!("{place}: warning: {}: {warning}", spec.resource));
                    warnings += 1;
                }
                Err(error) => {
                    say(&format!("{place}: error: {}: {}: {error}", spec.resource, error.reason()));
                    errors += 1;
                }
            }
        }
    }
    let connections = |l: &Listener| l.tcp.iter().filter(|target| !target.route_name.is_empty()).count();
    let routes: usize = snapshot.listeners.iter().map(|l| l.routes.len() + connections(l)).sum();
    say(&format!(
        "{}, {}, {}, {}, {}: {}, {}",
        counted(files.len(), "file"),
        counted(snapshot.listeners.len(), "listener"),
        counted(routes, "route"),
        counted(snapshot.clusters.len(), "cluster"),
        counted(snapshot.plugins.len(), "plug-in"),
        counted(errors, "error"),
        counted(warnings, "warning"),
    ));
    let findings = if arguments.strict { errors + warnings } else { errors };
    Ok(if findings > 0 { ExitCode::from(EXIT_FINDINGS) } else { ExitCode::SUCCESS })
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
