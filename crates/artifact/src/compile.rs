//! Compiling away from the gateway: a child process with limits, so that a module that is made to blow up the compiler
//! costs one plug-in and not the process (DESIGN §6).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::compile_cache::{CompileCache, deserialize};
use crate::digest::Digest;

/// What one compilation may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Wall time.
    pub time_max: Duration,
    /// CPU time of all its threads, seconds.
    pub cpu_seconds_max: u64,
    /// Address space, bytes.
    pub memory_bytes_max: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { time_max: Duration::from_secs(120), cpu_seconds_max: 240, memory_bytes_max: 4 << 30 }
    }
}

/// Why a module did not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler's own words.
    #[error("the module does not compile: {0}")]
    Invalid(String),
    /// It took too long.
    #[error("compiling took longer than {0:?}")]
    TimeLimit(Duration),
    /// The child died: out of memory or CPU time, or a bug of the compiler.
    #[error(
        "the compiler died ({0}): the module needs more memory or time than it may have, or triggers a compiler bug"
    )]
    Crashed(String),
    /// The system does not start the child.
    #[error("cannot start the compiler {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Runs `<program> compile-module <input> <output>` for each module.
#[derive(Clone, Debug)]
pub struct ChildCompiler {
    program: PathBuf,
    limits: CompileLimits,
    /// Children at the same time.
    permits: Arc<Semaphore>,
}

/// Children at the same time: each takes a core and up to its memory.
const CHILDREN_MAX: usize = 2;

/// The hidden command that the child runs.
pub(crate) const CHILD_COMMAND: &str = "compile-module";

impl ChildCompiler {
    /// A compiler that starts `program`, which must call [`run_compile_child`] for the command `compile-module`.
    pub fn new(program: PathBuf, limits: CompileLimits) -> Self {
        Self { program, limits, permits: Arc::new(Semaphore::new(CHILDREN_MAX)) }
    }

    /// Compiled code for a stored module: from the cache if it is there, else from a child.
    ///
    /// # Errors
    /// [`CompileError`]
    pub async fn compile(
        &self,
        engine: &wasmtime::Engine,
        cache: &CompileCache,
        wasm: Digest,
        wasm_path: &Path,
    ) -> Result<wasmtime::Module, CompileError> {
        if let Some(module) = cache.load(engine, wasm) {
            return Ok(module);
        }
        let _permit = self.permits.acquire().await;
        let code = self.run(wasm_path).await?;
        if let Err(e) = cache.save(engine, wasm, &code) {
            tracing::warn!(target: "wasm", "compiled code is not kept: {e}");
        }
        let different = || CompileError::Crashed("it made code for another engine".to_owned());
        deserialize(engine, &code).ok_or_else(different)
    }

    async fn run(&self, wasm_path: &Path) -> Result<Vec<u8>, CompileError> {
        let spawn_error = |source| CompileError::Spawn { program: self.program.clone(), source };
        let folder = tempfile::Builder::new().prefix("wasmgate-compile-").tempdir().map_err(spawn_error)?;
        let output = folder.path().join("code");
        let child = tokio::process::Command::new(&self.program)
            .arg(CHILD_COMMAND)
            .arg(wasm_path)
            .arg(&output)
            .arg(self.limits.memory_bytes_max.to_string())
            .arg(self.limits.cpu_seconds_max.to_string())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(spawn_error)?;
        let finished = tokio::time::timeout(self.limits.time_max, child.wait_with_output()).await;
        let result =
            finished.map_err(|_| CompileError::TimeLimit(self.limits.time_max))?.map_err(spawn_error)?;
        match result.status.code() {
            Some(0) => std::fs::read(&output).map_err(spawn_error),
            Some(INVALID_MODULE) => {
                Err(CompileError::Invalid(String::from_utf8_lossy(&result.stderr).trim().to_owned()))
            }
            _ => Err(CompileError::Crashed(result.status.to_string())),
        }
    }
}

/// Exit status for "the module is wrong", as opposed to "I am broken".
const INVALID_MODULE: i32 = 3;

/// The child's side: takes limits on itself, compiles, and gives the exit status. `report` gets what is wrong with the
/// module.
pub fn run_compile_child(
    engine: &wasmtime::Engine,
    arguments: &[String],
    report: &mut dyn FnMut(&str),
) -> i32 {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let [input, output, memory, cpu] = arguments else {
        report("usage: compile-module INPUT OUTPUT MEMORY_BYTES CPU_SECONDS");
        return 2;
    };
    let limit = |text: &String| Rlimit { current: text.parse().ok(), maximum: text.parse().ok() };
    let limited = setrlimit(Resource::As, limit(memory)).and_then(|()| setrlimit(Resource::Cpu, limit(cpu)));
    if let Err(e) = limited {
        report(&format!("cannot limit myself: {e}"));
        return 2;
    }
    let code = match std::fs::read(input)
        .map_err(wasmtime::Error::from)
        .and_then(|wasm| engine.precompile_module(&wasm))
    {
        Ok(code) => code,
        Err(e) => {
            report(&format!("{e:#}"));
            return INVALID_MODULE;
        }
    };
    match std::fs::write(output, code) {
        Ok(()) => 0,
        Err(e) => {
            report(&format!("cannot write the code: {e}"));
            2
        }
    }
}
