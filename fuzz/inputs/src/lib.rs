//! What the fuzz targets do with their bytes: `make fuzz TARGET=…` runs one under libFuzzer, the tests of this crate run each
//! on a few thousand inputs of a fixed seed.
//!
//! All of them hold the host against the same promise: whatever a module or a guest does, the host answers with a
//! status, an error or a failure, and goes on.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a broken promise ends the run")]

mod guest;
mod stream;

use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use wasmgate_host::{Engine, Limits, Module, PairLimits, decode_pairs, encode_pairs};

use crate::guest::{Guest, hostcalls_module};
use crate::stream::Stream;

/// Short, so that an input that loops is one input.
const TIME_MAX: Duration = Duration::from_millis(500);
const MEMORY_BYTES_MAX: u64 = 32 << 20;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().expect("an engine"))
}

fn limits() -> Limits {
    Limits {
        callback_time_max: TIME_MAX,
        start_time_max: TIME_MAX,
        memory_bytes_max: MEMORY_BYTES_MAX,
        uncompress_bytes_max: 1 << 20,
        ..Limits::default()
    }
}

/// Pair lists: what can be read is written the same way.
pub fn pairs(data: &[u8]) {
    let Ok(pairs) = decode_pairs(data, PairLimits::default()) else { return };
    let mut out = Vec::new();
    encode_pairs(&mut out, &|each| pairs.iter().for_each(|(key, value)| each(key, value)));
    let again = decode_pairs(&out, PairLimits::default()).expect("what was written can be read");
    assert_eq!(pairs, again);
}

/// Hostcalls, WASI included, with any arguments over any memory: a list of calls, 37 bytes each, which is the memory, too.
pub fn hostcalls(data: &[u8]) {
    static MODULE: OnceLock<Module<Box<Stream>>> = OnceLock::new();
    let module = MODULE.get_or_init(|| hostcalls_module(engine()));
    Guest::start(module, data).exchange();
}

/// Paths of properties, for reading and for writing.
pub fn property(data: &[u8]) {
    static MODULE: OnceLock<Module<Box<Stream>>> = OnceLock::new();
    let module = MODULE.get_or_init(|| guest::property_module(engine()));
    Guest::start(module, data).exchange();
}

/// CEL expressions: made, evaluated and deleted.
pub fn expression(data: &[u8]) {
    static MODULE: OnceLock<Module<Box<Stream>>> = OnceLock::new();
    let module = MODULE.get_or_init(|| guest::expression_module(engine()));
    Guest::start(module, data).exchange();
}

/// Any bytes as a module.
pub fn module_bytes(data: &[u8]) {
    if let Ok(module) = Module::new(engine(), data) {
        Guest::start(&module, b"").exchange();
    }
}

/// Modules that are valid, with the exports that make a plug-in, and behave in any way.
pub fn module(data: &[u8]) {
    let Some(wasm) = plugin(data) else { return };
    if let Ok(module) = Module::new(engine(), &wasm) {
        Guest::start(&module, data).exchange();
    }
}

/// A random module whose functions are plug-in callbacks.
fn plugin(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Unstructured::new(data);
    let mut config = wasm_smith::Config::arbitrary(&mut bytes).ok()?;
    config.exports = guest::shape().into();
    config.available_imports = Some(guest::imports());
    config.max_memories = 1;
    config.max_memory32_bytes = u64::from(u32::MAX);
    config.memory64_enabled = false;
    config.threads_enabled = false;
    config.exceptions_enabled = false;
    config.gc_enabled = false;
    config.shared_everything_threads_enabled = false;
    config.wide_arithmetic_enabled = false;
    config.custom_page_sizes_enabled = false;
    config.custom_descriptors_enabled = false;
    wasm_smith::Module::new(config, &mut bytes).ok().map(|module| module.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of a fixed seed: of numbers that matter, and of words that guests use.
    fn inputs(count: usize) -> impl Iterator<Item = Vec<u8>> {
        const WORDS: [&[u8]; 12] = [
            b"request",
            b"\0",
            b"headers",
            b"expr_create",
            b"{\"a\": [1, 2]}['a'][0] + 1",
            b"xds",
            b"(",
            b"request.path",
            b"matches('a*')",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01",
            b"compress",
        ];
        let mut rng = fastrand::Rng::with_seed(7);
        (0..count).map(move |_| {
            let mut out = Vec::new();
            for _ in 0..rng.usize(0..24) {
                match rng.u8(0..4) {
                    0 => out.extend_from_slice(rng.choice(WORDS).unwrap_or_default()),
                    1 => out.extend_from_slice(&rng.u32(0..64).to_le_bytes()),
                    2 => out.extend_from_slice(&rng.u32(..).to_le_bytes()),
                    _ => out.extend((0..rng.usize(0..40)).map(|_| rng.u8(..))),
                }
            }
            out
        })
    }

    #[test]
    fn pair_lists() {
        inputs(5000).for_each(|input| pairs(&input));
    }

    #[test]
    fn calls_of_every_function() {
        inputs(2000).for_each(|input| hostcalls(&input));
    }

    #[test]
    fn property_paths() {
        inputs(1000).for_each(|input| property(&input));
    }

    #[test]
    fn expressions() {
        inputs(1000).for_each(|input| expression(&input));
    }

    #[test]
    fn modules_of_any_bytes() {
        inputs(500).for_each(|input| module_bytes(&input));
    }

    #[test]
    fn modules_that_are_valid() {
        let mut rng = fastrand::Rng::with_seed(11);
        let (mut made, mut loaded) = (0, 0);
        for _ in 0..150 {
            let input: Vec<u8> = (0..rng.usize(200..3000)).map(|_| rng.u8(..)).collect();
            module(&input);
            if let Some(wasm) = plugin(&input) {
                made += 1;
                loaded += usize::from(Module::<Box<Stream>>::new(engine(), &wasm).is_ok());
            }
        }
        assert!(made > 50 && loaded > 20, "{made} modules, {loaded} of them plug-ins");
    }
}
