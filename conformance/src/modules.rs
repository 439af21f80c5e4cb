//! Modules in WAT: what a host loads and starts.

use std::path::Path;

use serde::Deserialize;
use wasmgate_testkit::client::{once, request};

use crate::case::Case;
use crate::endpoint::Endpoint;
use crate::host::Host;
use crate::in_process::InProcess;
use crate::suite::Kind;

/// A file of modules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    modules: Vec<Module>,
}

/// One module, and what a request gets from a gateway with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Its name, a word.
    pub id: String,
    /// Section of the host specification.
    pub spec: String,
    /// Numbers in the behaviour checklist.
    #[serde(default)]
    pub checklist: Vec<u32>,
    /// The fields of the module, with [`PARTS`] in braces.
    wat: String,
    /// The status of the answer, or [`REFUSED`].
    pub expect: String,
    /// What Envoy does instead.
    #[serde(default)]
    pub envoy: Option<String>,
    /// Why.
    #[serde(default)]
    pub why: String,
}

/// A module that does not become a plug-in.
pub const REFUSED: &str = "refused";

/// What stands for names in braces; one may contain those after it.
const PARTS: [(&str, &str); 9] = [
    ("{all}", "{import} {memory} {abi} {allocator} {life} {reply}"),
    (
        "{check}",
        "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
          (if (i32.eq (global.get $seen) (i32.const 1)) (then (call $answer (i32.const 418)))) (i32.const 0))",
    ),
    (
        "{reply}",
        "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
          (call $answer (i32.const 418)) (i32.const 1))",
    ),
    ("{seen}", "(global $seen (mut i32) (i32.const 0))"),
    (
        "{life}",
        "(func (export \"proxy_on_context_create\") (param i32 i32))
         (func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) (i32.const 1))
         (func (export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 1))",
    ),
    (
        "{import}",
        "(import \"env\" \"proxy_send_local_response\"
          (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
         (func $answer (param i32) (drop (call $reply (local.get 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))))",
    ),
    (
        "{get}",
        "(import \"env\" \"proxy_get_header_map_value\"
          (func $get (param i32 i32 i32 i32 i32) (result i32)))",
    ),
    ("{memory}", "(memory (export \"memory\") 1)"),
    ("{abi}", "(func (export \"proxy_abi_version_0_2_1\"))"),
];

/// The last of them: a block of which nothing is freed.
const ALLOCATOR: (&str, &str) =
    ("{allocator}", "(func (export \"proxy_on_memory_allocate\") (param i32) (result i32) (i32.const 1024))");

/// Reads the file.
///
/// # Errors
/// What is wrong, with the file.
pub fn read(path: &Path) -> Result<Vec<Module>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for (index, module) in file.modules.iter().enumerate() {
        if file.modules.iter().take(index).any(|other| other.id == module.id) {
            return Err(format!("{}: there are two modules {}", path.display(), module.id));
        }
    }
    Ok(file.modules)
}

impl Module {
    /// The module as text.
    #[must_use]
    pub fn text(&self) -> String {
        let fields = PARTS
            .iter()
            .chain([&ALLOCATOR])
            .fold(self.wat.clone(), |text, (name, part)| text.replace(name, part));
        format!("(module {fields})")
    }

    /// What must be seen on a host.
    #[must_use]
    pub fn expected(&self, kind: Kind) -> &str {
        self.envoy.as_deref().filter(|_| kind == Kind::Envoy).unwrap_or(&self.expect)
    }

    /// What a host does with it.
    ///
    /// # Errors
    /// A text that is no module; the system's.
    pub fn run(&self, kind: Kind, hosts: &Hosts<'_>) -> Result<String, String> {
        let io = |e: std::io::Error| format!("{}: {e}", self.id);
        let wasm = wat::parse_str(self.text()).map_err(|e| format!("{}: {e}", self.id))?;
        let path = hosts.folder.join(format!("{}.wasm", self.id));
        std::fs::write(&path, wasm).map_err(io)?;
        match kind {
            Kind::InProcess => {
                let Ok(host) = InProcess::start(&path, "", hosts.endpoint.address()) else {
                    return Ok(REFUSED.to_owned());
                };
                let case = Case { id: self.id.clone(), ..Case::default() };
                let answer = host.run(&case, &self.id).map_err(io)?.answer;
                Ok(answer.map_or_else(|| "reset".to_owned(), |(status, ..)| status.to_string()))
            }
            Kind::Wasmgate => {
                let host = Host::wasmgate(hosts.wasmgate, &path, "", hosts.endpoint.address()).map_err(io)?;
                if host.has_refused() { Ok(REFUSED.to_owned()) } else { get(&host) }
            }
            // It does not start with what it cannot load.
            Kind::Envoy => match Host::envoy(hosts.peers, &path, "", hosts.endpoint.address()) {
                Ok(host) => get(&host),
                Err(_) => Ok(REFUSED.to_owned()),
            },
        }
    }
}

/// What the hosts are started with.
#[derive(Clone, Copy, Debug)]
pub struct Hosts<'h> {
    /// Our binary.
    pub wasmgate: &'h str,
    /// Where Envoy is.
    pub peers: &'h Path,
    /// Where modules are written.
    pub folder: &'h Path,
    /// What is behind the gateways.
    pub endpoint: &'h Endpoint,
}

fn get(host: &Host) -> Result<String, String> {
    match once(host.address(), &request("GET", "/", &[], "")) {
        Ok(answer) => Ok(answer.status.to_string()),
        Err(_) => Ok("reset".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_one() {
        let modules = read(Path::new("modules.yaml")).unwrap();
        assert!(modules.len() > 70);
        for module in modules {
            // What is wrong on purpose still is WAT.
            wat::parse_str(module.text()).unwrap_or_else(|e| panic!("{}: {e}", module.id));
            assert!(module.envoy.is_none() || !module.why.is_empty(), "{}", module.id);
        }
    }
}
