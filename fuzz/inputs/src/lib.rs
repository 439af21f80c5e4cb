//! What the fuzz targets do with their bytes: `make fuzz TARGET=…` runs one under libFuzzer, the tests of this crate run each
//! on a few thousand inputs of a fixed seed.
//!
//! Some hold the host against its promise: whatever a module or a guest does, the host answers with a status, an error or a
//! failure, and goes on. The others hold the gateway against the same: whatever a client sends, [`http1()`] and [`http2()`] let
//! nothing through that a back end could read in two ways, and the next client is answered; [`path()`], [`proxy_protocol()`] and
//! [`access_log_format()`] say themselves what they promise.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a broken promise ends the run")]

mod access_log_format;
mod front;
mod guest;
mod http1;
mod http2;
mod path;
mod proxy_protocol;
mod stream;

use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use wasmgate_host::{Engine, Limits, Module, PairLimits, decode_pairs, encode_pairs};

pub use crate::access_log_format::access_log_format;
use crate::guest::{Guest, hostcalls_module};
pub use crate::http1::http1;
pub use crate::http2::http2;
pub use crate::path::path;
pub use crate::proxy_protocol::proxy_protocol;
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

    /// Inputs of a fixed seed for targets that choose from lists: of any bytes, the first of which is the one that is given.
    fn choices(mode: u8, count: usize) -> impl Iterator<Item = Vec<u8>> {
        let mut rng = fastrand::Rng::with_seed(13 + u64::from(mode));
        (0..count).map(move |_| {
            let length = rng.usize(0..300);
            std::iter::once(mode).chain((0..length).map(|_| rng.u8(..))).collect()
        })
    }

    #[test]
    fn targets_of_requests() {
        const WORDS: [&str; 16] =
            ["/", "..", ".", "%2e", "%2E.", "\\", "%5c", "%", "?", "#", "é", "%25", "%6", "%66", "2", "e"];
        let mut rng = fastrand::Rng::with_seed(3);
        inputs(2000).for_each(|input| path(&input));
        for _ in 0..20_000 {
            let words = (0..rng.usize(0..12)).filter_map(|_| rng.choice(WORDS)).collect::<String>();
            path(words.as_bytes());
        }
    }

    #[test]
    fn headers_of_the_proxy_protocol() {
        const WORDS: [&[u8]; 8] =
            [b"1.2.3.4", b" ", b"80", b"\r\n", b"\x11\0\x0c", b"\x21\0\x24", b"UNKNOWN", b"\0\0\0\0"];
        let mut rng = fastrand::Rng::with_seed(5);
        inputs(2000).for_each(|input| proxy_protocol(&input));
        for _ in 0..5000 {
            let words: Vec<&[u8]> = (0..rng.usize(0..12)).filter_map(|_| rng.choice(WORDS)).collect();
            proxy_protocol(&words.concat());
        }
        proxy_protocol(b"1.2.3.4 5.6.7.8 1 2\r\nbytes of the client, which are long enough for addresses");
    }

    #[test]
    fn formats_of_the_access_log() {
        inputs(500).for_each(|input| access_log_format(&input));
        (0..8).flat_map(|mode| choices(mode, 250)).for_each(|input| access_log_format(&input));
    }

    #[test]
    fn requests_over_http1() {
        inputs(20).for_each(|input| http1(&input));
        for bytes in [&b"\0POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel"[..], b"", b"\0"] {
            http1(bytes);
        }
        let passed: u64 = choices(1, 300).chain(choices(3, 60)).map(|input| http1::run(&input)).sum();

        assert!(passed > 100, "the back end has seen {passed} requests only");
    }

    #[test]
    fn frames_over_http2() {
        inputs(20).for_each(|input| http2(&input));
        let passed: u64 = choices(1, 300).chain(choices(3, 60)).map(|input| http2::run(&input)).sum();

        assert!(passed > 100, "the back end has seen {passed} requests only");
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
