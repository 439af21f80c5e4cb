//! From a stored module to compiled code.

use std::sync::Arc;

use wasmgate_artifact::{ChildCompiler, CompileCache, CompileError, Fetched, Store};
use wasmgate_host::Engine;

/// Where modules are compiled.
#[derive(Debug)]
pub enum Compiler {
    /// In a child process with limits; compiled code is kept.
    Child {
        /// How the child is started.
        compiler: ChildCompiler,
        /// Where the code is kept.
        cache: Box<CompileCache>,
    },
    /// In this process, every time anew: for tests and embedders.
    InProcess,
}

impl Compiler {
    pub(crate) async fn compile(
        &self,
        engine: &Engine,
        store: &Arc<Store>,
        artifact: &Fetched,
    ) -> Result<wasmtime::Module, CompileError> {
        match self {
            Self::Child { compiler, cache } => {
                compiler.compile(engine.wasmtime(), cache, artifact.wasm, &artifact.path).await
            }
            Self::InProcess => {
                let (engine, store, wasm) = (engine.wasmtime().clone(), Arc::clone(store), artifact.wasm);
                let compile = move || {
                    let bytes = store.read(wasm).map_err(|e| CompileError::Invalid(e.to_string()))?;
                    wasmtime::Module::from_binary(&engine, &bytes)
                        .map_err(|e| CompileError::Invalid(format!("{e:#}")))
                };
                tokio::task::spawn_blocking(compile)
                    .await
                    .map_err(|e| CompileError::Crashed(e.to_string()))?
            }
        }
    }
}
