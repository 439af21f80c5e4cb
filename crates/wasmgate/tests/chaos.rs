//! What is around the gateway breaks: endpoints, the disk, descriptors, the folder of manifests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::load::Load;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::Upstream;
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

/// How an endpoint ends what it has begun.
#[derive(Clone, Copy)]
enum End {
    /// Says that nothing follows.
    Close,
    /// Throws the connection away.
    Reset,
    /// Keeps it and says nothing more.
    Stall,
}

/// What a client gets.
enum Sees {
    /// A whole answer.
    Answer(u16, &'static str),
    /// An answer that breaks off after these bytes of the wire.
    Part(u16, &'static str),
}

/// What an endpoint does with a path, what a client sees of it, and the flags of the access log.
struct Break {
    path: &'static str,
    says: &'static str,
    /// After a pause, during which what was said before has gone on to the client.
    then: &'static str,
    end: End,
    sees: Sees,
    flags: &'static str,
}

const TERMINATED: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
const NOT_HTTP: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: protocol error";

const fn broken(path: &'static str, says: &'static str, end: End, sees: Sees, flags: &'static str) -> Break {
    Break { path, says, then: "", end, sees, flags }
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n";

const BREAKS: &[Break] = &[
    broken("/resets", "", End::Reset, Sees::Answer(503, TERMINATED), "UC"),
    broken("/closes", "", End::Close, Sees::Answer(503, TERMINATED), "UC"),
    broken("/stalls", "", End::Stall, Sees::Answer(504, "stream timeout"), "SI"),
    broken("/garbage", "SSH-2.0-OpenSSH\r\n\r\n", End::Stall, Sees::Answer(502, NOT_HTTP), "UPE"),
    broken("/binary", "\0\u{1}\u{2}\u{3}\r\n\r\n", End::Stall, Sees::Answer(502, NOT_HTTP), "UPE"),
    broken("/frames", "\0\0\0\u{4}\0\0\0\0\0", End::Stall, Sees::Answer(502, NOT_HTTP), "UPE"),
    broken("/no-status", "HTTP/1.1 9999 OK\r\n\r\n", End::Stall, Sees::Answer(502, NOT_HTTP), "UPE"),
    broken(
        "/unasked",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        End::Stall,
        Sees::Answer(502, NOT_HTTP),
        "UPE",
    ),
    broken(
        "/two-lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        End::Stall,
        Sees::Answer(502, NOT_HTTP),
        "UPE",
    ),
    broken(
        "/length-and-coding",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        End::Stall,
        Sees::Answer(502, NOT_HTTP),
        "UPE",
    ),
    broken("/half-head", "HTTP/1.1 200 OK\r\ncontent-len", End::Close, Sees::Answer(503, TERMINATED), "UC"),
    broken(
        "/half-head-reset",
        "HTTP/1.1 200 OK\r\ncontent-len",
        End::Reset,
        Sees::Answer(503, TERMINATED),
        "UC",
    ),
    broken(
        "/half-head-stall",
        "HTTP/1.1 200 OK\r\ncontent-len",
        End::Stall,
        Sees::Answer(504, "stream timeout"),
        "SI",
    ),
    Break {
        path: "/half-length",
        says: LENGTH,
        then: "56",
        end: End::Close,
        sees: Sees::Part(200, "0123456"),
        flags: "UC",
    },
    Break {
        path: "/half-length-reset",
        says: LENGTH,
        then: "",
        end: End::Reset,
        sees: Sees::Part(200, "01234"),
        flags: "UC",
    },
    broken("/half-length-at-once", LENGTH, End::Close, Sees::Part(200, "01234"), "UC"),
    broken("/half-length-stall", LENGTH, End::Stall, Sees::Part(200, "01234"), "SI"),
    Break {
        path: "/half-chunk",
        says: CHUNKED,
        then: "a\r\n56",
        end: End::Close,
        sees: Sees::Part(200, "2\r\n56\r\n"),
        flags: "UC",
    },
    Break {
        path: "/no-last-chunk",
        says: CHUNKED,
        then: "",
        end: End::Close,
        sees: Sees::Part(200, "5\r\n01234\r\n"),
        flags: "UC",
    },
    Break {
        path: "/no-size",
        says: CHUNKED,
        then: "xyz\r\n",
        end: End::Stall,
        sees: Sees::Part(200, "5\r\n01234\r\n"),
        flags: "UPE",
    },
    // What follows a whole answer belongs to nobody, least of all to the next request.
    broken(
        "/two-answers",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        End::Stall,
        Sees::Answer(200, "ok"),
        "-",
    ),
];

/// Does what the table says of a path; others are answered with `fine`.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let Ok(1) = stream.read(&mut byte) else { return };
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap();
        let Some(what) = BREAKS.iter().find(|b| b.path == path) else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
            continue;
        };
        let _ = stream.write_all(what.says.as_bytes());
        // Head and end of what comes at once are read in one step.
        if matches!(what.sees, Sees::Part(..)) && !path.ends_with("-at-once") {
            std::thread::sleep(Duration::from_millis(200));
            let _ = stream.write_all(what.then.as_bytes());
            std::thread::sleep(Duration::from_millis(50));
        }
        match what.end {
            End::Close => return,
            End::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            // Until the gateway gives it up.
            End::Stall => {
                let _ = stream.read(&mut [0]);
                return;
            }
        }
    }
}

/// All that comes back until the connection ends.
fn all(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&request("GET", path, &[("connection", "close")], "")).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The access log line of a path.
fn line_of(gateway: &RunningGateway, path: &str) -> String {
    let wanted = format!("\"path\":\"{path}\"");
    let line = wait_until(Instant::now() + PATIENCE, || {
        gateway.access_log().into_iter().find(|l| l.contains(&wanted))
    });
    line.unwrap_or_else(|| panic!("{path} is not logged: {}", gateway.log()))
}

#[test]
fn an_endpoint_that_breaks_costs_its_own_request_and_the_log_says_how() {
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(endpoint())
        .argument("--stream-idle-timeout=1")
        .run()
        .unwrap();
    for Break { path, sees, flags, .. } in BREAKS {
        let text = all(gateway.address(), path);
        let code = match sees {
            Sees::Answer(status, body) => {
                assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
                assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{path}: {text}");
                *status
            }
            Sees::Part(status, end) => {
                assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
                assert!(text.ends_with(end) && !text.ends_with("0\r\n\r\n"), "{path}: {text}");
                *status
            }
        };
        let line = line_of(&gateway, path);
        let fields = format!("\"response_code\":\"{code}\",\"response_flags\":\"{flags}\"");
        assert!(line.contains(&fields), "{path}: {line}");
        let next = all(gateway.address(), "/fine");
        assert!(next.ends_with("\r\n\r\nfine"), "after {path}: {next}");
    }
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.downstream_rq_active: 0\n"), "{stats}");
}

#[test]
fn a_full_disk_costs_log_lines_and_no_request() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(upstream.address())
        .argument("--access-log=/dev/full")
        .run()
        .unwrap();
    for _ in 0..50 {
        assert_eq!(gateway.get("/", &[]).unwrap().text(), "fine");
    }
    gateway.wait_for_log("access log: lines are lost: No space left on device").unwrap();
    let counted = wait_until(Instant::now() + PATIENCE, || {
        gateway.admin_get("/stats").ok()?.text().contains("access_log.dropped: 50\n").then_some(())
    });
    assert!(counted.is_some(), "{}", gateway.admin_get("/stats").unwrap().text());
    // Said once, not with every batch.
    assert_eq!(gateway.log().matches("lines are lost").count(), 1);
}

#[test]
fn out_of_descriptors_open_connections_go_on_and_the_others_follow_later() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("few-descriptors");
    std::fs::write(&script, format!("#!/bin/sh\nulimit -n 80\nexec {PROGRAM} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = GatewayBuilder::new(&script.to_string_lossy())
        .workers(1)
        .backend(upstream.address())
        .argument("--max-connections=10000")
        .run()
        .unwrap();
    let get = request("GET", "/", &[], "");
    let mut first = RawClient::connect(gateway.address()).unwrap();
    assert_eq!(first.request(&get).unwrap().text(), "fine");
    let crowd: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    gateway.wait_for_log("Too many open files (os error 24); tried again for as long as it takes").unwrap();
    for _ in 0..20 {
        assert_eq!(first.request(&get).unwrap().text(), "fine");
    }
    // A change that cannot be read now is not lost.
    gateway.write("route.yaml", &manifests::route().replace("name: httpbin\n", "name: renamed\n")).unwrap();
    drop(crowd);
    let mut later = RawClient::connect(gateway.address()).unwrap();
    assert_eq!(later.request(&get).unwrap().text(), "fine");
    let changed = wait_until(Instant::now() + PATIENCE, || {
        first.request(&get).ok()?;
        gateway.access_log().last()?.contains("\"route_name\":\"renamed\"").then_some(())
    });
    assert!(changed.is_some(), "{}", gateway.log());
    assert_eq!(gateway.admin_get("/ready").unwrap().status, 200);
    // Once in ten seconds by each worker, not with every try.
    let said = gateway.log().matches("Too many open files (os error 24); tried again").count();
    assert!(said <= 4, "{said} times");
}

#[test]
fn a_manifest_that_comes_in_halves_changes_nothing_before_it_is_whole() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = GatewayBuilder::new(PROGRAM).backend(upstream.address()).run().unwrap();
    let load = Load::start(gateway.address(), 2, "/", &[]);
    let whole = manifests::route();
    let half = &whole[..whole.len() / 2];
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        gateway.write("route.yaml", half).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        gateway.write("route.yaml", &whole).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    // Left as a half, it is told, and the last good one stays.
    gateway.write("route.yaml", half).unwrap();
    gateway.wait_for_log("YAML error: unclosed bracket '{'; the last good version").unwrap();
    let report = load.stop();
    assert_eq!(report.failures, Vec::<String>::new());
    let answers: Vec<_> = report.answers.keys().cloned().collect();
    assert_eq!(answers, [(200, "fine".to_owned())], "{}", gateway.log());
}

/// A gateway whose plug-in denies every request of these tests, and its manifest.
fn guarded(upstream: &Upstream) -> (RunningGateway, String) {
    let url = format!("file://{}", plugins::header_authorization_rust().display());
    let manifest = manifests::plugin("check", &url, "  phase: AUTHN\n");
    let builder = GatewayBuilder::new(PROGRAM).backend(upstream.address());
    (builder.manifest("plugin.yaml", manifest.clone()).run().unwrap(), manifest)
}

#[test]
fn a_plug_in_whose_manifest_is_cut_off_still_denies() {
    let upstream = Upstream::ok("fine").unwrap();
    let (gateway, whole) = guarded(&upstream);
    let load = Load::start(gateway.address(), 2, "/", &[]);
    // Not before it has its name: see the next test.
    let named = whole.find("\nspec:").unwrap();
    // A cut in the scheme would make it the name of a registry somewhere.
    let scheme = whole.find("file://").unwrap();
    let in_scheme = scheme + 1..scheme + "file://".len();
    for cut in (named..whole.len()).step_by(7).filter(|cut| !in_scheme.contains(cut)) {
        gateway.write("plugin.yaml", &whole[..cut]).unwrap();
        // Longer than the folder has to be quiet.
        std::thread::sleep(Duration::from_millis(150));
    }
    gateway.write("plugin.yaml", &whole).unwrap();
    gateway.wait_for_plugin("istio-system.check", "state", "ready").unwrap();
    let report = load.stop();
    assert_eq!(report.failures, Vec::<String>::new());
    let statuses: Vec<u16> = report.answers.keys().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [403], "{:?}\n{}", report.answers, gateway.log());
}

#[test]
fn a_plug_in_whose_manifest_is_cut_off_wherever_it_is_stays() {
    let upstream = Upstream::ok("fine").unwrap();
    let head = "apiVersion: extensions.istio.io/v1alpha1\nkind: Was";
    let name = "mPlugin\nmetadata:\n  name: ch";
    for left in [
        String::new(),
        head.to_owned(),
        format!("{head}{name}"),
        format!("{head}{name}eck\n  namespace: isti"),
    ] {
        let (gateway, _) = guarded(&upstream);
        assert_eq!(gateway.get("/", &[]).unwrap().status, 403);
        gateway.write("plugin.yaml", &left).unwrap();
        let said = if left.is_empty() { "is empty: what it said before stays" } else { "plugin.yaml:" };
        gateway.wait_for_log(said).unwrap();
        assert_eq!(gateway.get("/", &[]).unwrap().status, 403, "{left:?}");
        // Whoever means it says it.
        gateway.remove("plugin.yaml").unwrap();
        gateway.wait_for_log("plugin istio-system.check removed").unwrap();
        gateway.wait_for_answer("/", &[], |a| a.text() == "fine").unwrap();
    }
}

#[test]
fn a_folder_that_flaps_ends_where_it_stops() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = GatewayBuilder::new(PROGRAM).backend(upstream.address()).run().unwrap();
    let load = Load::start(gateway.address(), 2, "/", &[]);
    let (here, away) = (gateway.config().join("route.yaml"), gateway.config().join("route.away"));
    let pause = || std::thread::sleep(Duration::from_millis(50));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        std::fs::rename(&here, &away).unwrap();
        pause();
        std::fs::rename(&away, &here).unwrap();
        pause();
        std::fs::remove_file(&here).unwrap();
        pause();
        // Not in one step, as the simplest tools do it.
        let whole = manifests::route();
        std::fs::write(&here, &whole[..whole.len() / 2]).unwrap();
        pause();
        std::fs::write(&here, &whole).unwrap();
        pause();
    }
    gateway.wait_for_answer("/", &[], |a| a.text() == "fine").unwrap();
    let report = load.stop();
    assert_eq!(report.failures, Vec::<String>::new());
    // A route that is not there is no failure; anything else would be one.
    let only = |(status, body): &(u16, String)| (*status, body.as_str()) == (200, "fine") || *status == 404;
    assert!(report.answers.keys().all(only), "{:?}", report.answers);
    assert_eq!(gateway.admin_get("/ready").unwrap().status, 200);
}
