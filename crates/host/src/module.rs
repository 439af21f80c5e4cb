//! Loading a module: validation, ABI, imports, exports (spec: proxy-wasm-host §1).

use std::sync::Arc;

use wasmtime::{ExternType, FuncType, InstancePre, Linker, Store, ValType};

use crate::abi::AbiVersion;
use crate::engine::Engine;
use crate::error::LoadError;
use crate::exports::{Callbacks, SIGNATURES, headers_params};
use crate::limits::Limits;
use crate::linker;
use crate::plugin::PluginContext;
use crate::services::SystemServices;
use crate::state::VmState;
use crate::stream::StreamContext;

/// A module that can be instantiated: validated, compiled, all imports resolved.
pub struct Module<S: StreamContext> {
    pub(crate) pre: InstancePre<VmState<S>>,
    pub(crate) engine: Engine,
    abi: AbiVersion,
    callbacks: Callbacks,
    is_go_command: bool,
}

impl<S: StreamContext> Module<S> {
    /// Compiles and checks the bytes of a module.
    ///
    /// # Errors
    /// [`LoadError`], with everything that is missing named at once.
    pub fn new(engine: &Engine, wasm: &[u8]) -> Result<Self, LoadError> {
        Self::from_compiled(engine, Self::compile(engine, wasm)?)
    }

    fn compile(engine: &Engine, wasm: &[u8]) -> Result<wasmtime::Module, LoadError> {
        check_header(wasm)?;
        wasmtime::Module::from_binary(engine.wasmtime(), wasm)
            .map_err(|e| LoadError::Invalid(format!("{e:#}")))
    }

    /// Checks a module that was compiled before, for an embedder that keeps compiled code.
    ///
    /// # Errors
    /// [`LoadError`], as [`Module::new`].
    pub fn from_compiled(engine: &Engine, module: wasmtime::Module) -> Result<Self, LoadError> {
        let abi = detect_abi(&module)?;
        check_exports(&module, abi)?;
        let pre = resolve(engine, &module)?;
        let has = |name: &str| module.get_export_index(name).is_some();
        Ok(Self {
            pre,
            engine: engine.clone(),
            abi,
            callbacks: Callbacks {
                request_headers: has("proxy_on_request_headers"),
                request_body: has("proxy_on_request_body"),
                request_trailers: has("proxy_on_request_trailers"),
                response_headers: has("proxy_on_response_headers"),
                response_body: has("proxy_on_response_body"),
                response_trailers: has("proxy_on_response_trailers"),
                end: has("proxy_on_log") || has("proxy_on_done") || has("proxy_on_delete"),
            },
            is_go_command: has("_start") && has("go_scheduler"),
        })
    }

    /// The version of the ABI that the module announces.
    pub fn abi(&self) -> AbiVersion {
        self.abi
    }

    /// The callbacks that the module exports.
    pub fn callbacks(&self) -> Callbacks {
        self.callbacks
    }

    pub(crate) fn is_go_command(&self) -> bool {
        self.is_go_command
    }
}

impl<S: StreamContext> std::fmt::Debug for Module<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module")
            .field("abi", &self.abi)
            .field("callbacks", &self.callbacks)
            .finish_non_exhaustive()
    }
}

/// The first eight bytes tell what kind of file this is, before anything is parsed.
fn check_header(wasm: &[u8]) -> Result<(), LoadError> {
    match wasm.first_chunk::<8>() {
        Some(b"\0asm\x01\0\0\0") => Ok(()),
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Err(LoadError::Component),
        Some([0, b'a', b's', b'm', ..]) => Err(LoadError::Invalid("unknown binary version".to_owned())),
        Some(_) => Err(LoadError::Invalid(
            "the first bytes are not \\0asm, so this is no WebAssembly file".to_owned(),
        )),
        None => Err(LoadError::Invalid(format!("only {} bytes long", wasm.len()))),
    }
}

/// The first marker among the exports decides, in the order of the export section.
fn detect_abi(module: &wasmtime::Module) -> Result<AbiVersion, LoadError> {
    let functions = || module.exports().filter(|e| matches!(e.ty(), ExternType::Func(_)));
    for export in functions() {
        if let Some(found) = export.name().strip_prefix(AbiVersion::MARKER_PREFIX) {
            return AbiVersion::from_marker(export.name())
                .ok_or_else(|| LoadError::UnsupportedAbi { found: found.replace('_', ".") });
        }
    }
    let has = |name: &str| functions().any(|e| e.name() == name);
    let hint = if has("_initialize") && functions().count() <= 2 {
        "; it looks like Go with an SDK that only TinyGo supports: use github.com/proxy-wasm/proxy-wasm-go-sdk"
    } else if has("_start") {
        "; it looks like a command: for Go, build with -buildmode=c-shared"
    } else {
        ""
    };
    Err(LoadError::NoAbiVersion { hint })
}

fn check_exports(module: &wasmtime::Module, abi: AbiVersion) -> Result<(), LoadError> {
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(LoadError::NoMemory);
    }
    for signature in SIGNATURES {
        let Some(ExternType::Func(found)) = module.get_export(signature.name) else { continue };
        let params = match signature.name {
            "proxy_on_request_headers" | "proxy_on_response_headers" => headers_params(abi),
            _ => signature.params,
        };
        let all_i32 = found.params().all(|p| matches!(p, ValType::I32))
            && found.results().all(|r| matches!(r, ValType::I32));
        if !all_i32
            || found.params().len() != params
            || found.results().len() != usize::from(signature.result)
        {
            return Err(LoadError::ExportType {
                name: signature.name.to_owned(),
                wanted: spell(params, signature.result),
                found: describe(&found),
            });
        }
    }
    if module.get_export("proxy_on_memory_allocate").is_none() && module.get_export("malloc").is_none() {
        return Err(LoadError::NoAllocator);
    }
    Ok(())
}

fn resolve<S: StreamContext>(
    engine: &Engine,
    module: &wasmtime::Module,
) -> Result<InstancePre<VmState<S>>, LoadError> {
    let internal = |e: wasmtime::Error| LoadError::Engine(format!("{e:#}"));
    let mut linker: Linker<VmState<S>> = linker::base(engine.wasmtime()).map_err(internal)?;
    let plugin = Arc::new(PluginContext::default());
    let state = VmState::new(plugin, Arc::new(SystemServices), Limits::default(), AbiVersion::V0_2_1);
    let mut store = Store::new(engine.wasmtime(), state);
    let mut missing = Vec::new();
    for import in module.imports() {
        let name = format!("{}.{}", import.module(), import.name());
        let ExternType::Func(wanted) = import.ty() else {
            missing.push(format!("{name} (a {}, only functions can be imported)", kind(&import.ty())));
            continue;
        };
        if linker::EITHER_ARITY.contains(&import.name()) && wanted.results().len() == 0 {
            linker::define_without_result(&mut linker, import.name()).map_err(internal)?;
        }
        match linker
            .get(&mut store, import.module(), import.name())
            .ok()
            .and_then(wasmtime::Extern::into_func)
        {
            None => missing.push(name),
            Some(found) => {
                let found = found.ty(&store);
                if !FuncType::eq(&found, &wanted) {
                    let (wanted, found) = (describe(&wanted), describe(&found));
                    return Err(LoadError::ImportType { name, wanted, found });
                }
            }
        }
    }
    if !missing.is_empty() {
        missing.dedup();
        return Err(LoadError::MissingImports { names: missing });
    }
    linker.instantiate_pre(module).map_err(|e| LoadError::Invalid(format!("{e:#}")))
}

fn kind(ty: &ExternType) -> &'static str {
    match ty {
        ExternType::Memory(_) => "memory",
        ExternType::Table(_) => "table",
        ExternType::Global(_) => "global",
        _ => "thing",
    }
}

fn describe(ty: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        let names: Vec<String> = types.map(|t| t.to_string()).collect();
        if names.is_empty() { "void".to_owned() } else { names.join(" ") }
    };
    format!("{} -> {}", list(&mut ty.params()), list(&mut ty.results()))
}

fn spell(params: usize, result: bool) -> String {
    let params = vec!["i32"; params].join(" ");
    format!("{params} -> {}", if result { "i32" } else { "void" })
}
