//! The soak on the real binary, for as long as a test may take. `make soak` runs it for half an hour.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::PathBuf;
use std::time::Duration;

use wasmgate_soak::soak::Soak;
use wasmgate_testkit::plugins;

#[test]
fn nothing_fails_and_nothing_grows_while_configuration_and_plug_in_change() {
    let soak = Soak {
        wasmgate: PathBuf::from(env!("CARGO_BIN_EXE_wasmgate")),
        plugin: plugins::repository()
            .join("examples/plugins/rust/header-authorization/header-authorization.wasm"),
        duration: Duration::from_secs(20),
    };
    let report = soak.run().unwrap();
    assert!(report.is_good(), "{report}");
}
