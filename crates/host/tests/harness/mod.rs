//! A stream, a log and modules for the tests of this crate.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test file uses its own part")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use wasmgate_host::{
    Actions, BufferType, ContextId, EditOutcome, Engine, FilterStateOutcome, HeaderEdit, HeadersAction,
    Limits, LoadError, LogLevel, LogSource, MapType, Module, PluginContext, Process, PropertyValue, Services,
    StreamAction, StreamContext, Streams, UpstreamHost, UpstreamState, Vm,
};

/// A stream of one header map and one body.
#[derive(Debug, Default)]
pub struct Stream {
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Option<Bytes>,
    pub properties: HashMap<Vec<u8>, Vec<u8>>,
    pub route_cleared: bool,
}

impl StreamContext for Box<Stream> {
    fn has_map(&self, map: MapType) -> bool {
        map == MapType::RequestHeaders
    }

    fn header(&self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> bool {
        let found = self.headers.iter().find(|(n, _)| n == name).filter(|_| self.has_map(map));
        found.is_some_and(|(_, v)| {
            out.extend_from_slice(v);
            true
        })
    }

    fn for_each_header(&self, _: MapType, each: &mut dyn FnMut(&[u8], &[u8])) {
        self.headers.iter().for_each(|(n, v)| each(n, v));
    }

    fn edit_headers(&mut self, map: MapType, edit: HeaderEdit<'_>) -> EditOutcome {
        match (map, edit) {
            (MapType::RequestHeaders, HeaderEdit::Add(n, v)) => self.headers.push((n.to_vec(), v.to_vec())),
            (MapType::RequestHeaders, HeaderEdit::Remove(n)) => self.headers.retain(|(name, _)| name != n),
            (MapType::RequestHeaders, _) => {}
            (MapType::RequestTrailers, _) => return EditOutcome::TooLate,
            _ => return EditOutcome::Unavailable,
        }
        EditOutcome::Done
    }

    fn body(&self, _: BufferType) -> Option<Bytes> {
        self.body.clone()
    }

    fn set_body(&mut self, _: BufferType, body: Bytes) -> bool {
        self.body.replace(body).is_some()
    }

    fn property(&self, path: &[&[u8]]) -> Option<PropertyValue> {
        match path {
            [b"request", b"path"] => Some(PropertyValue::text("/p")),
            [b"xds", b"cluster_name"] => Some(PropertyValue::text("web")),
            [b"request", b"size"] => Some(PropertyValue::Int(5)),
            [b"request", b"headers"] => {
                let pair = |(n, v): &(Vec<u8>, Vec<u8>)| (n.clone(), PropertyValue::Bytes(v.clone()));
                Some(PropertyValue::Map(self.headers.iter().map(pair).collect()))
            }
            [only] => self.properties.get(*only).cloned().map(PropertyValue::Bytes),
            _ => None,
        }
    }

    fn set_property(&mut self, path: &[u8], value: &[u8]) -> bool {
        self.properties.insert(path.to_vec(), value.to_vec());
        true
    }

    fn set_filter_state(&mut self, key: &[u8], value: &[u8]) -> FilterStateOutcome {
        match (key, value) {
            (b"known", b"bad") => FilterStateOutcome::BadValue,
            (b"known", _) => FilterStateOutcome::Done,
            _ => FilterStateOutcome::UnknownKey,
        }
    }

    fn set_upstream_override(&mut self, address: &[u8]) -> bool {
        address == b"10.0.0.1:80"
    }

    fn clear_route_cache(&mut self) {
        self.route_cleared = true;
    }
}

#[derive(Debug, Default)]
pub struct Log {
    pub lines: Mutex<Vec<String>>,
}

impl Services for Log {
    fn log(&self, _: LogSource<'_>, level: LogLevel, message: &[u8]) {
        self.lines.lock().unwrap().push(format!("{}: {}", level.as_str(), String::from_utf8_lossy(message)));
    }

    fn log_level(&self) -> LogLevel {
        LogLevel::Debug
    }

    fn upstream_hosts(&self, _: &PluginContext, cluster: &str) -> Vec<UpstreamHost> {
        match cluster {
            "web" => vec![UpstreamHost { address: "10.0.0.1:80".to_owned(), healthy: true }],
            _ => Vec::new(),
        }
    }

    fn upstream(&self, _: &PluginContext, cluster: &str) -> UpstreamState {
        match cluster {
            "web" => UpstreamState::Available,
            "down" => UpstreamState::NoHealthyHost,
            _ => UpstreamState::Unknown,
        }
    }
}

/// What every module of these tests begins with.
pub const PRELUDE: &str = r#"
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32)
    (global.set $next (i32.add (global.get $next) (local.get 0)))
    (i32.sub (global.get $next) (local.get 0)))
"#;

pub fn module(wat: &str) -> std::result::Result<Module<Box<Stream>>, LoadError> {
    Module::new(&Engine::new().unwrap(), &wat::parse_str(wat).unwrap())
}

pub fn start(imports: &str, code: &str) -> (Vm<Box<Stream>>, Arc<Log>) {
    let log = Arc::new(Log::default());
    let module = module(&format!("(module {imports} {PRELUDE} {code})")).unwrap();
    let process = Process::new(Arc::clone(&log) as _);
    let vm = Vm::start(&module, Arc::new(PluginContext::default()), &process, Limits::default()).unwrap();
    (vm, log)
}

/// A hostcall of a [`Script`]: its name, its arguments, the status that it must answer.
pub type Step<'s> = (&'s str, &'s [i64], u32);

/// A module that makes hostcalls and compares their statuses. Guest memory below 1024 is for results, the data stands
/// from 1024 on.
#[derive(Default)]
pub struct Script {
    imports: Vec<(String, usize)>,
    code: String,
}

impl Script {
    /// A callback with so many parameters, the result of which is 0 if it has one.
    pub fn on(mut self, callback: &str, params: usize, has_result: bool, steps: &[Step<'_>]) -> Self {
        let mut body = String::new();
        for (index, (name, args, want)) in steps.iter().enumerate() {
            if !self.imports.iter().any(|(n, _)| n == name) {
                self.imports.push(((*name).to_owned(), args.len()));
            }
            let args: String = args
                .iter()
                .enumerate()
                .map(|(i, a)| format!("({}.const {a}) ", if is_wide(name, i) { "i64" } else { "i32" }))
                .collect();
            body.push_str(&format!(
                "(call $check (i32.const {index}) (call ${name} {args}) (i32.const {want}))\n"
            ));
        }
        let params = " i32".repeat(params);
        let (result, value) = if has_result { ("(result i32)", "(i32.const 0)") } else { ("", "") };
        self.code.push_str(&format!(
            "(func (export \"{callback}\") (param{params}) {result}\n (global.set $callback (i32.const {})) {body} {value})\n",
            self.code.matches("(export").count()
        ));
        self
    }

    /// A module with this data at address 1024.
    pub fn module(&self, data: &str) -> Module<Box<Stream>> {
        let import = |(name, params): &(String, usize)| {
            let params: String =
                (0..*params).map(|i| if is_wide(name, i) { " i64" } else { " i32" }).collect();
            format!("(import \"env\" \"{name}\" (func ${name} (param{params}) (result i32)))\n")
        };
        let mut imports: String = self.imports.iter().map(import).collect();
        if !self.imports.iter().any(|(n, _)| n == "proxy_log") {
            imports.push_str(
                "(import \"env\" \"proxy_log\" (func $proxy_log (param i32 i32 i32) (result i32)))\n",
            );
        }
        // What differs is told through the log: callback, step, status.
        let check = r#"(global $callback (mut i32) (i32.const 0))
          (func $check (param i32 i32 i32)
            (if (i32.ne (local.get 1) (local.get 2)) (then
              (i32.store8 (i32.const 1000) (i32.add (global.get $callback) (i32.const 48)))
              (i32.store8 (i32.const 1001) (i32.const 58))
              (i32.store8 (i32.const 1002) (i32.add (i32.div_u (local.get 0) (i32.const 10)) (i32.const 48)))
              (i32.store8 (i32.const 1003) (i32.add (i32.rem_u (local.get 0) (i32.const 10)) (i32.const 48)))
              (i32.store8 (i32.const 1004) (i32.const 61))
              (i32.store8 (i32.const 1005) (i32.add (i32.div_u (local.get 1) (i32.const 10)) (i32.const 48)))
              (i32.store8 (i32.const 1006) (i32.add (i32.rem_u (local.get 1) (i32.const 10)) (i32.const 48)))
              (drop (call $proxy_log (i32.const 5) (i32.const 1000) (i32.const 7))))))"#;
        let wat =
            format!("(module {imports} {PRELUDE} {check} (data (i32.const 1024) \"{data}\") {})", self.code);
        module(&wat).unwrap()
    }

    /// A VM of the module.
    pub fn start(&self, data: &str, limits: Limits) -> (Vm<Box<Stream>>, Arc<Log>) {
        let log = Arc::new(Log::default());
        let process = Process::new(Arc::clone(&log) as _);
        let plugin = PluginContext { name: "p".to_owned(), ..PluginContext::default() };
        let vm = Vm::start(&self.module(data), Arc::new(plugin), &process, limits).unwrap();
        (vm, log)
    }
}

/// The parameters that are not `i32`.
fn is_wide(name: &str, index: usize) -> bool {
    matches!(name, "proxy_increment_metric" | "proxy_record_metric") && index == 1
}

impl Log {
    /// Fails when a step answered something else than it should: `callback:step=status`.
    pub fn assert_as_expected(&self) {
        let lines = self.lines.lock().unwrap();
        let wrong: Vec<_> = lines.iter().filter(|l| l.starts_with("critical")).collect();
        assert!(wrong.is_empty(), "{wrong:?} of {lines:?}");
    }
}

/// Runs the whole life of one stream without a body.
pub fn run_stream(
    vm: &mut Vm<Box<Stream>>,
    stream: Stream,
) -> (Box<Stream>, HeadersAction, Vec<StreamAction>) {
    let (stream, id) = vm.create_stream(Box::new(stream));
    let id = id.unwrap();
    let (stream, outcome) = vm.on_request_headers(id, stream, 1, true);
    let outcome = outcome.unwrap();
    (stream, outcome.action, outcome.actions.into_vec())
}

/// What a table of streams holds, and what was asked of each.
#[derive(Debug, Default)]
pub struct Table {
    pub idle: Vec<(ContextId, Box<Stream>)>,
    pub asked: Vec<(ContextId, Vec<StreamAction>)>,
}

/// Streams that a VM can reach.
#[derive(Clone, Debug, Default)]
pub struct SharedTable(pub Arc<Mutex<Table>>);

impl Streams<Box<Stream>> for SharedTable {
    fn lend(&mut self, context: ContextId) -> Option<Box<Stream>> {
        let mut table = self.0.lock().unwrap();
        let at = table.idle.iter().position(|(id, _)| *id == context)?;
        Some(table.idle.swap_remove(at).1)
    }

    fn give_back(&mut self, context: ContextId, stream: Box<Stream>, actions: Actions) {
        let mut table = self.0.lock().unwrap();
        table.idle.push((context, stream));
        if !actions.is_empty() {
            table.asked.push((context, actions.into_vec()));
        }
    }
}
