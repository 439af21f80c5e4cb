//! A plug-in of Higress' kind against a real Redis.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::peers::ports::free_port;
use wasmgate_testkit::peers::process::{ChildGuard, require_program};
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn redis(port: u16) -> ChildGuard {
    let mut command = Command::new(require_program("redis-server", "redis-server").unwrap());
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--requirepass", "secret"]);
    command.args(["--save", "", "--appendonly", "no"]);
    let mut child = ChildGuard::spawn("redis-server", command).unwrap();
    child.wait_ready(Instant::now() + PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap();
    child
}

fn gateway(port: u16, password: &str, upstream: &Upstream) -> RunningGateway {
    let url = format!("file://{}", plugins::rust("crates/testkit/plugins/redis", "redis").display());
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("redis.yaml", manifests::auth_service(Some(SocketAddr::from(([127, 0, 0, 1], port)))))
        .manifest(
            "plugin.yaml",
            manifests::plugin("redis", &url, &format!("  pluginConfig: {{password: {password}}}\n")),
        )
        .run()
        .unwrap()
}

fn ask(gateway: &RunningGateway, command: &str) -> String {
    gateway.get("/", &[("x-redis", command)]).unwrap().text()
}

#[test]
fn commands_are_answered_and_a_redis_that_comes_back_is_found_again() {
    let upstream = Upstream::start(Behaviour::Close).unwrap();
    let port = free_port().unwrap();
    let first = redis(port);
    let scene = gateway(port, "secret", &upstream);
    assert_eq!(ask(&scene, "SET k v"), "0:+OK\r\n");
    assert_eq!(ask(&scene, "GET k"), "0:$1\r\nv\r\n");
    assert_eq!(ask(&scene, "GET nothing"), "0:$-1\r\n");
    assert_eq!(
        ask(&scene, "INCR k"),
        "0:-ERR value is not an integer or out of range\r\n",
        "an error is a reply"
    );
    assert_eq!(ask(&scene, "RPUSH l a bb"), "0::2\r\n");
    assert_eq!(ask(&scene, "LRANGE l 0 -1"), "0:*2\r\n$1\r\na\r\n$2\r\nbb\r\n");
    let long = "x".repeat(20_000);
    assert_eq!(ask(&scene, &format!("SET long {long}")), "0:+OK\r\n");
    assert_eq!(ask(&scene, "GET long"), format!("0:$20000\r\n{long}\r\n"));
    // Database 3 is the one that the plug-in has chosen.
    assert!(ask(&scene, "CLIENT LIST").contains(" db=3 "));
    drop(first);
    assert_eq!(ask(&scene, "GET k"), "1:", "nobody there");
    let _second = redis(port);
    assert_eq!(ask(&scene, "GET k"), "0:$-1\r\n", "found again, with password and database");
    assert!(ask(&scene, "CLIENT LIST").contains(" db=3 "));
}

#[test]
fn a_wrong_password_is_what_redis_says() {
    let upstream = Upstream::start(Behaviour::Close).unwrap();
    let port = free_port().unwrap();
    let _redis = redis(port);
    let answer = ask(&gateway(port, "wrong", &upstream), "GET k");
    assert!(answer.starts_with("0:-NOAUTH") || answer.starts_with("1:"), "{answer}");
}
