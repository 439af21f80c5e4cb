//! Loading a module: validation, ABI, imports, exports (spec: proxy-wasm-host §1).

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmtime::{
    Extern, ExternType, FuncType, Instance, InstancePre, Linker, Memory, MemoryType, Ref, RefType, Store,
    Table, TableType, ValType,
};

use crate::abi::AbiVersion;
use crate::engine::Engine;
use crate::error::LoadError;
use crate::exports::{Callbacks, SIGNATURES, START, Signature, is_allowed, takes_params};
use crate::limits::Limits;
use crate::linker;
use crate::metrics::MetricRegistry;
use crate::plugin::PluginContext;
use crate::services::SystemServices;
use crate::shared::SharedState;
use crate::state::VmState;
use crate::stream::StreamContext;

/// How an instance gets its imports.
enum Imports<S: StreamContext> {
    /// All of them are functions: resolved once.
    Resolved(InstancePre<VmState<S>>),
    /// The module imports its memory or table: each instance gets fresh ones.
    Fresh(Box<FreshImports<S>>),
}

struct FreshImports<S: StreamContext> {
    module: wasmtime::Module,
    linker: Linker<VmState<S>>,
    memories: Vec<(String, String, MemoryType)>,
    tables: Vec<(String, String, TableType)>,
}

/// A module that can be instantiated: validated, compiled, all imports resolved.
pub struct Module<S: StreamContext> {
    imports: Imports<S>,
    pub(crate) engine: Engine,
    /// Names of the functions that the plug-in may use; empty means all.
    pub(crate) allowed: BTreeSet<String>,
    abi: AbiVersion,
    callbacks: Callbacks,
    is_go_command: bool,
    is_reactor: bool,
    silenced: Vec<&'static str>,
    initial_memory_bytes: u64,
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
        Self::restricted(engine, module, BTreeSet::new())
    }

    /// Like [`Module::from_compiled`], with a list of the hostcalls, WASI functions and callbacks that may be used, by
    /// name. The others exist and do nothing: hostcalls answer `InternalFailure`, WASI functions `ENOTCAPABLE`,
    /// callbacks are not called. An empty list allows all (spec: proxy-wasm-host §1.8).
    ///
    /// # Errors
    /// [`LoadError`], as [`Module::new`]; [`LoadError::UnknownCapabilities`] for a name that is no function of the ABI
    /// nor of this module.
    pub fn restricted(
        engine: &Engine,
        module: wasmtime::Module,
        allowed: BTreeSet<String>,
    ) -> Result<Self, LoadError> {
        let abi = detect_abi(&module)?;
        check_exports(&module)?;
        check_capabilities::<S>(engine, &module, &allowed)?;
        let imports = resolve(engine, &module, &allowed)?;
        let has = |name: &str| module.get_export_index(name).is_some();
        let calls = |name: &str| has(name) && is_allowed(&allowed, name);
        let callbacks = Callbacks {
            request_headers: calls("proxy_on_request_headers"),
            request_body: calls("proxy_on_request_body"),
            request_trailers: calls("proxy_on_request_trailers"),
            response_headers: calls("proxy_on_response_headers"),
            response_body: calls("proxy_on_response_body"),
            response_trailers: calls("proxy_on_response_trailers"),
            end: calls("proxy_on_log") || calls("proxy_on_done") || calls("proxy_on_delete"),
        };
        let is_go_command = has("_start") && has("go_scheduler");
        let is_reactor = has("_initialize") && !has("main") && !has("__main_void");
        let silenced = SIGNATURES.iter().map(|s| s.name).filter(|n| has(n) && !calls(n) && is_callback(n));
        let silenced = silenced.collect();
        let (engine, initial_memory_bytes) = (engine.clone(), initial_memory_bytes(&module));
        Ok(Self {
            imports,
            engine,
            allowed,
            abi,
            callbacks,
            is_go_command,
            is_reactor,
            silenced,
            initial_memory_bytes,
        })
    }

    /// A new instance, with fresh memories and tables where the module imports them.
    pub(crate) fn instantiate(&self, store: &mut Store<VmState<S>>) -> wasmtime::Result<Instance> {
        let fresh = match &self.imports {
            Imports::Resolved(pre) => return pre.instantiate(store),
            Imports::Fresh(fresh) => fresh,
        };
        let mut linker = fresh.linker.clone();
        for (module, name, ty) in &fresh.memories {
            let memory = Memory::new(&mut *store, ty.clone())?;
            store.data_mut().memory = Some(memory);
            linker.define(&mut *store, module, name, memory)?;
        }
        for (module, name, ty) in &fresh.tables {
            let table = Table::new(&mut *store, ty.clone(), Ref::Func(None))?;
            linker.define(&mut *store, module, name, table)?;
        }
        linker.instantiate(store, &fresh.module)
    }

    /// The version of the ABI that the module announces.
    pub fn abi(&self) -> AbiVersion {
        self.abi
    }

    /// The callbacks that the module exports.
    pub fn callbacks(&self) -> Callbacks {
        self.callbacks
    }

    /// The callbacks that the module exports and the list of allowed capabilities keeps from being called: a plug-in
    /// whose `proxy_on_request_headers` is among them decides about no request.
    pub fn silenced_callbacks(&self) -> &[&'static str] {
        &self.silenced
    }

    /// What the module's memory begins with.
    pub(crate) fn initial_memory_bytes(&self) -> u64 {
        self.initial_memory_bytes
    }

    pub(crate) fn is_go_command(&self) -> bool {
        self.is_go_command
    }

    /// The module has an `_initialize` and nothing that runs a `main` after it.
    pub(crate) fn is_reactor(&self) -> bool {
        self.is_reactor
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

fn initial_memory_bytes(module: &wasmtime::Module) -> u64 {
    let imported = module.imports().filter_map(|i| i.ty().memory().map(MemoryType::minimum));
    let exported = module.exports().filter_map(|e| e.ty().memory().map(MemoryType::minimum));
    imported.chain(exported).max().unwrap_or(0).saturating_mul(64 << 10)
}

fn check_exports(module: &wasmtime::Module) -> Result<(), LoadError> {
    let imports_memory = module.imports().any(|i| matches!(i.ty(), ExternType::Memory(_)));
    if !imports_memory && !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(LoadError::NoMemory);
    }
    // A main function is called after _initialize only.
    let is_started = |s: &&Signature| s.name != "main" || module.get_export("_initialize").is_some();
    for signature in SIGNATURES.iter().chain(START.iter().filter(is_started)) {
        let Some(ExternType::Func(found)) = module.get_export(signature.name) else { continue };
        if !fits(signature, &found) {
            return Err(LoadError::ExportType {
                name: signature.name.to_owned(),
                wanted: spell(signature.params, signature.result),
                found: describe(&found),
            });
        }
    }
    let is_function = |name| matches!(module.get_export(name), Some(ExternType::Func(_)));
    if !is_function("proxy_on_memory_allocate") && !is_function("malloc") {
        return Err(LoadError::NoAllocator);
    }
    Ok(())
}

/// A name that is spelt wrong would leave forbidden what was meant to be allowed: for a callback, that switches the
/// plug-in off without a word.
fn check_capabilities<S: StreamContext>(
    engine: &Engine,
    module: &wasmtime::Module,
    allowed: &BTreeSet<String>,
) -> Result<(), LoadError> {
    if allowed.is_empty() {
        return Ok(());
    }
    let mut known = function_names::<S>(engine)?;
    known.extend(SIGNATURES.iter().map(|s| s.name.to_owned()));
    known.extend(module.imports().map(|i| i.name().to_owned()));
    known.extend(module.exports().map(|e| e.name().to_owned()));
    let unknown = |name: &&String| !known.contains(*name);
    let names: Vec<String> = allowed.iter().filter(unknown).map(|name| suggest(name, &known)).collect();
    if names.is_empty() { Ok(()) } else { Err(LoadError::UnknownCapabilities { names }) }
}

/// The names of all functions that a module can import.
pub(crate) fn function_names<S: StreamContext>(engine: &Engine) -> Result<BTreeSet<String>, LoadError> {
    let internal = |e: wasmtime::Error| LoadError::Engine(format!("{e:#}"));
    let linker: Linker<VmState<S>> = linker::base(engine.wasmtime()).map_err(internal)?;
    let mut store = scratch_store(engine);
    Ok(linker.iter(&mut store).map(|(_, name, _)| name.to_owned()).collect())
}

fn suggest(name: &str, known: &BTreeSet<String>) -> String {
    const SIMILARITY_MIN: f64 = 0.8;
    let alike = known.iter().map(|k| (strsim::normalized_damerau_levenshtein(name, k), k));
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness >= SIMILARITY_MIN);
    match best {
        Some((_, meant)) => format!("there is no function {name}; did you mean {meant}?"),
        None => format!("there is no function {name}"),
    }
}

/// Whether an export is called because of something that happened, not to start or to allocate.
fn is_callback(name: &str) -> bool {
    name.contains("_on_") && name != "proxy_on_memory_allocate"
}

fn fits(signature: &Signature, found: &FuncType) -> bool {
    found.params().chain(found.results()).all(|t| matches!(t, ValType::I32))
        && takes_params(signature, found.params().len())
        && found.results().len() == usize::from(signature.result)
}

fn resolve<S: StreamContext>(
    engine: &Engine,
    module: &wasmtime::Module,
    allowed: &BTreeSet<String>,
) -> Result<Imports<S>, LoadError> {
    let internal = |e: wasmtime::Error| LoadError::Engine(format!("{e:#}"));
    let mut linker: Linker<VmState<S>> = linker::base(engine.wasmtime()).map_err(internal)?;
    let mut store = scratch_store(engine);
    let (mut memories, mut tables) = (Vec::new(), Vec::new());
    let (mut missing, mut mismatches) = (Vec::new(), Vec::new());
    for import in module.imports() {
        let (from, field) = (import.module(), import.name());
        let name = format!("{from}.{field}");
        let wanted = match import.ty() {
            ExternType::Func(wanted) => wanted,
            ExternType::Memory(ty) if memories.is_empty() => {
                memories.push((from.to_owned(), field.to_owned(), ty));
                continue;
            }
            ExternType::Table(ty) if RefType::eq(ty.element(), &RefType::FUNCREF) => {
                tables.push((from.to_owned(), field.to_owned(), ty));
                continue;
            }
            other => {
                missing.push(format!("{name} (a {})", kind(&other)));
                continue;
            }
        };
        if linker::EITHER_ARITY.contains(&field) && wanted.results().len() == 0 {
            linker::define_without_result(&mut linker, field).map_err(internal)?;
        }
        if linker::OLD_WASI.contains(&field) {
            linker::define_old_wasi(&mut linker, (from, field), &wanted).map_err(internal)?;
        }
        match linker.get(&mut store, from, field).ok().and_then(Extern::into_func) {
            None => missing.push(format!("{name} ({})", describe(&wanted))),
            Some(found) => {
                let found = found.ty(&store);
                if !FuncType::eq(&found, &wanted) {
                    let (wanted, found) = (describe(&wanted), describe(&found));
                    mismatches.push(format!("{name}, the module wants {wanted}, the host has {found}"));
                    continue;
                }
                linker::restrict(&mut linker, (from, field), &wanted, allowed).map_err(internal)?;
            }
        }
    }
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Err(LoadError::MissingImports { names: missing });
    }
    if !mismatches.is_empty() {
        return Err(LoadError::ImportTypes { mismatches });
    }
    if memories.is_empty() && tables.is_empty() {
        let pre = linker.instantiate_pre(module).map_err(|e| LoadError::Invalid(format!("{e:#}")))?;
        return Ok(Imports::Resolved(pre));
    }
    let module = module.clone();
    Ok(Imports::Fresh(Box::new(FreshImports { module, linker, memories, tables })))
}

/// A store to look types up with; nothing runs in it.
fn scratch_store<S: StreamContext>(engine: &Engine) -> Store<VmState<S>> {
    let state = VmState::new(
        Arc::new(PluginContext::default()),
        Arc::new(SystemServices),
        SharedState::default().namespace(""),
        MetricRegistry::default(),
        Limits::default(),
        AbiVersion::V0_2_1,
    );
    Store::new(engine.wasmtime(), state)
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
    let params = if params == 0 { "void".to_owned() } else { vec!["i32"; params].join(" ") };
    format!("{params} -> {}", if result { "i32" } else { "void" })
}
