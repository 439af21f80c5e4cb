//! The languages that the interpreter plug-in is written in: each brings a memory allocator, a start-up and a way of
//! its own to call the host.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use wasmgate_testkit::plugins;

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// `plugins/script`
    Rust,
    /// `plugins/script-go`, the standard compiler
    Go,
    /// `plugins/script-c`, which exports `malloc`
    C,
    /// `plugins/script-as`
    Assemblyscript,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rust, Self::Go, Self::C, Self::Assemblyscript];

    /// Builds the interpreter; the module.
    #[must_use]
    pub fn build(self) -> PathBuf {
        match self {
            Self::Rust => plugins::rust("conformance/plugins/script", "script"),
            Self::Go => plugins::go("conformance/plugins/script-go"),
            Self::C => plugins::c("conformance/plugins/script-c"),
            Self::Assemblyscript => plugins::assemblyscript("conformance/plugins/script-as"),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::Go => "go",
            Self::C => "c",
            Self::Assemblyscript => "assemblyscript",
        })
    }
}
