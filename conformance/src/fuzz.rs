//! Differential fuzzing: random scripts and messages through two hosts, whose visible results are compared.
//!
//! A seed makes a case ([`generate`]), the same one each time. Cases run in batches, for a host reads all scripts when it
//! starts. A case on which the hosts disagree is made smaller as long as they still do ([`smaller`]), and printed as a
//! case file: once it is clear who is right, it belongs into `cases/`.
//!
//! The generator stays away from what the table of statuses says is different, and from what never ends: a campaign
//! that is silent means that nothing else was found. Bodies are chunked: of one with a length, Envoy tells the end in a
//! callback of its own, and sends the old length after an edit.

use fastrand::Rng;

use crate::case::{Case, Message};
use crate::matrix::Cell;

/// Operations of one callback.
const STEPS_MAX: usize = 4;
/// Pieces of a body.
const CHUNKS_MAX: usize = 4;

/// One line of a script that both hosts answer alike, and where it may stand.
#[derive(Clone, Debug)]
pub struct Known {
    callback: &'static str,
    operation: String,
}

/// Operations of the table that end the exchange, change what others see of the process, or whose answer is the host's own.
const WILD: [&str; 26] = [
    "close",
    "tick",
    "done",
    "continue",
    "effective",
    "raw proxy_continue",
    "raw proxy_close",
    "raw proxy_done",
    "raw proxy_set_effective",
    "raw proxy_set_tick",
    "property xds",
    "property source",
    "property destination",
    "property connection_id",
    "property connection.id",
    "property request.time",
    "property request.headers",
    "property response.headers",
    "property response.grpc_status",
    "property response.code",
    "property response.trailers",
    // The edit is refused here; Envoy answers the whole request with 503.
    "add 0 bad",
    "http_call",
    "pairs",
    "property listener",
    "property upstream",
];

/// The rows of the table of statuses on which both hosts agree.
#[must_use]
pub fn pool(cells: &[Cell]) -> Vec<Known> {
    let agreed = cells.iter().filter(|cell| cell.ours == cell.envoy && cell.ours != "crash");
    agreed
        .filter_map(|cell| {
            let operation = cell.case.script.trim_end().strip_prefix(&format!("{}@1 ", cell.callback))?;
            let is_tame = !WILD.iter().any(|wild| operation.starts_with(wild));
            is_tame.then(|| Known { callback: cell.callback, operation: operation.to_owned() })
        })
        .collect()
}

fn pick<'p>(rng: &mut Rng, of: &[&'p str]) -> &'p str {
    rng.choice(of).copied().unwrap_or_default()
}

fn text(rng: &mut Rng, max: usize) -> String {
    (0..rng.usize(1..=max)).map(|_| rng.lowercase()).collect()
}

/// A name of a header, often one that is there.
fn name(rng: &mut Rng, map: u32) -> &'static str {
    const REQUEST: [&str; 14] = [
        ":path",
        ":method",
        ":authority",
        ":scheme",
        "host",
        "x-a",
        "x-b",
        "X-Mixed-Case",
        "cookie",
        "accept",
        "user-agent",
        "content-type",
        "referer",
        "x-new",
    ];
    const RESPONSE: [&str; 11] = [
        ":status",
        "x-a",
        "x-b",
        "X-Mixed-Case",
        "set-cookie",
        "content-type",
        "location",
        "etag",
        "cache-control",
        "vary",
        "x-new",
    ];
    pick(rng, if map == 0 { &REQUEST } else { &RESPONSE })
}

/// What a header may be set to: percent-encoded, as scripts want it.
fn value(rng: &mut Rng, name: &str) -> String {
    match name {
        ":path" => pick(rng, &["/", "/x", "/a/b?c=d", "/deep/er/"]).to_owned(),
        ":method" => pick(rng, &["GET", "POST", "PUT", "DELETE"]).to_owned(),
        ":authority" | "host" => pick(rng, &["a.example", "b.example:81"]).to_owned(),
        ":scheme" => pick(rng, &["http", "https"]).to_owned(),
        ":status" => pick(rng, &["200", "201", "404", "503"]).to_owned(),
        _ => match rng.u8(0..6) {
            0 => "-".to_owned(),
            1 => "a%20b%3B%2C".to_owned(),
            2 => "%C3%A9".to_owned(),
            _ => text(rng, 12),
        },
    }
}

/// An edit or a look at the headers of the message at hand.
fn header_step(rng: &mut Rng, map: u32) -> String {
    let name = name(rng, map);
    let pseudo = name.starts_with(':');
    match rng.u8(0..10) {
        0..=2 => format!("get {map} {name}"),
        // Envoy keeps the values of well-known names in one, separated by commas.
        3 | 4 if name.starts_with("x-") || matches!(name, "set-cookie" | "vary" | "etag") => {
            format!("add {map} {name} {}", value(rng, name))
        }
        5 | 6 => format!("replace {map} {name} {}", value(rng, name)),
        7 if !pseudo && name != "host" => format!("remove {map} {name}"),
        8 => format!("pairs {map}"),
        _ => format!("get {map} {name}"),
    }
}

/// A look at the body at hand, or an edit of it.
fn body_step(rng: &mut Rng, buffer: u32) -> String {
    let (start, length) = (rng.u32(0..12), rng.u32(0..40));
    match rng.u8(0..6) {
        0 | 1 => format!("body {buffer} {start} {length}"),
        2 => format!("body {buffer} 0 1000"),
        3 => format!("body_status {buffer}"),
        // The specification allows the middle of a body, Envoy only its edges.
        4 => format!("set_body {buffer} 0 {} {}", pick(rng, &["0", "1000"]), text(rng, 20)),
        _ => format!("set_body {buffer} 1000 0 {}", text(rng, 20)),
    }
}

/// What is possible in any callback.
fn general_step(rng: &mut Rng, callback: &str, seed: u64) -> String {
    const ANYWHERE: [&str; 5] =
        ["plugin_name", "plugin_root_id", "source.address.nothing", "nothing", "request.nothing"];
    // Of the response Envoy tells in its own phase and in the log only, of the request likewise.
    const REQUEST: [&str; 10] = [
        "request.method",
        "request.path",
        "request.url_path",
        "request.host",
        "request.scheme",
        "request.protocol",
        "request.query",
        "request.headers.x-a",
        "request.useragent",
        "request.referer",
    ];
    const RESPONSE: [&str; 1] = ["response.headers.x-a"];
    let properties = match callback {
        "request_headers" => &REQUEST[..],
        "response_headers" => &RESPONSE[..],
        _ => &ANYWHERE[..],
    };
    match rng.u8(0..9) {
        0..=2 => format!("property {}", pick(rng, properties)),
        3 => format!("set_property k{} {}", rng.u8(0..3), text(rng, 8)),
        4 => format!("property k{}", rng.u8(0..3)),
        5 => format!("shared_set s{seed}-{} {} 0", rng.u8(0..2), text(rng, 8)),
        6 => format!("shared_get s{seed}-{}", rng.u8(0..2)),
        7 => format!("foreign compress {}", "-"),
        _ => pick(rng, &["time", "level", "status"]).to_owned(),
    }
}

fn message(rng: &mut Rng, of_response: bool) -> Message {
    let mut message = Message::default();
    for _ in 0..rng.usize(0..4) {
        let name = pick(rng, &["x-a", "x-b", "x-mixed-case", "accept", "content-type", "cache-control"]);
        message.headers.insert(name.to_owned(), text(rng, 12));
    }
    if of_response {
        message.status =
            pick(rng, &["200 OK", "200 OK", "201 Created", "404 Not Found", "500 Internal Server Error"])
                .to_owned();
    } else {
        message.method = pick(rng, &["GET", "POST", "PUT", "DELETE", "PATCH"]).to_owned();
        message.path = pick(rng, &["/", "/a?b=c", "/x/y/z", "/a//b"]).to_owned();
    }
    if of_response || (message.method != "GET" && rng.bool()) {
        message.chunks = (0..rng.usize(1..=CHUNKS_MAX)).map(|_| text(rng, 20)).collect();
    }
    message
}

/// The case of a seed.
#[must_use]
pub fn generate(seed: u64, pool: &[Known]) -> Case {
    let mut rng = Rng::with_seed(seed);
    let (request, response) = (message(&mut rng, false), message(&mut rng, true));
    let mut script = String::new();
    let (has_body, mut replied) = (!request.chunks.is_empty(), false);
    let mut line = |callback: &str, operation: &str| script.push_str(&format!("{callback} {operation}\n"));
    let sides = [("request_headers", "request_body", 0), ("response_headers", "response_body", 2)];
    for (headers, body, map) in sides {
        for _ in 0..rng.usize(0..=STEPS_MAX) {
            let known: Vec<&Known> = pool.iter().filter(|k| k.callback == headers).collect();
            let step = match (rng.u8(0..4), rng.choice(&known)) {
                (0, Some(known)) => known.operation.clone(),
                (1, _) => general_step(&mut rng, headers, seed),
                _ => header_step(&mut rng, map),
            };
            line(headers, &step);
        }
        match rng.u8(0..16) {
            0 => {
                let (status, text) = (rng.u16(200..=599), text(&mut rng, 12));
                // Envoy closes the connection after each 400 of its own, and sends the length of a body that 204 and 304
                // do not have.
                let status = if matches!(status, 204 | 304 | 400) { 401 } else { status };
                line(headers, &format!("reply {status} - {text} x-r={seed}"));
                replied = true;
            }
            1 if map == 0 => {
                let cluster = "outbound%7C8000%7C%7Chttpbin.default.svc.cluster.local";
                line(headers, &format!("http_call {cluster} :method=GET,:path=/call,:authority=a - 2000"));
                line(headers, "return 1");
                line("http_call_response", "effective self");
                line("http_call_response", "get 6 x-called");
                line("http_call_response", "body 4 0 1000");
                line("http_call_response", &header_step(&mut rng, 0));
                line("http_call_response", "continue 0");
            }
            // What it answers is carried out before what it asks for. (Envoy holds a body and a response for ever.)
            2 if map == 0 && !has_body => {
                line(headers, "continue 0");
                line(headers, "return 1");
            }
            _ => {}
        }
        let buffer = u32::from(map != 0);
        for _ in 0..rng.usize(0..=STEPS_MAX) {
            let known: Vec<&Known> = pool.iter().filter(|k| k.callback == body).collect();
            let at = pick(&mut rng, &["", "@1", "@end", "@2"]);
            let step = match (rng.u8(0..4), rng.choice(&known)) {
                (0, Some(known)) if !(replied && known.operation.starts_with("set_body")) => {
                    known.operation.clone()
                }
                (1, _) => general_step(&mut rng, body, seed),
                // Envoy sends a local reply with the length that it had before the edit.
                _ if replied => general_step(&mut rng, body, seed),
                _ => body_step(&mut rng, buffer),
            };
            line(&format!("{body}{at}"), &step);
        }
        if rng.u8(0..3) == 0 {
            let at = pick(&mut rng, &["", "@1", "@2"]);
            line(&format!("{body}{at}"), "return 1");
            line(&format!("{body}@end"), "return 0");
        }
    }
    for _ in 0..rng.usize(0..=2) {
        line("log", &general_step(&mut rng, "log", seed));
    }
    Case {
        id: format!("fuzz-{seed}"),
        spec: String::new(),
        checklist: Vec::new(),
        script,
        request,
        response,
        expect: String::new(),
        envoy: None,
        why: String::new(),
    }
}

/// Cases that have one thing less, the largest things first.
#[must_use]
pub fn smaller(case: &Case) -> Vec<Case> {
    let mut out: Vec<Case> = Vec::new();
    let mut add = |change: &dyn Fn(&mut Case)| {
        let mut candidate = case.clone();
        change(&mut candidate);
        candidate.id = format!("{}-{}", case.id, out.len());
        out.push(candidate);
    };
    let sides: [fn(&mut Case) -> &mut Message; 2] = [|c| &mut c.request, |c| &mut c.response];
    for of in sides {
        let message = of(&mut case.clone()).clone();
        if !message.body.is_empty() {
            add(&|c| of(c).body.clear());
        }
        // A response without chunks has a length.
        if !message.chunks.is_empty() && message.status.is_empty() {
            add(&|c| of(c).chunks.clear());
        }
        if message.chunks.len() > 1 {
            add(&|c| drop(of(c).chunks.pop()));
        }
        if !message.headers.is_empty() {
            add(&|c| of(c).headers.clear());
        }
        if !matches!(message.path.as_str(), "" | "/") {
            add(&|c| of(c).path.clear());
        }
    }
    let lines: Vec<&str> = case.script.lines().collect();
    for left_out in 0..lines.len() {
        // Without its end a call or a pause would last for ever.
        let ends = lines.get(left_out).is_some_and(|l| {
            l.ends_with("continue 0") || l.contains("@end return 0") || l.ends_with("effective self")
        });
        let waits = |l: &&str| l.contains("http_call ") || l.ends_with("return 1");
        if ends && lines.iter().any(waits) {
            continue;
        }
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != left_out);
        let script: String = kept.map(|(_, line)| format!("{line}\n")).collect();
        add(&|c| c.script.clone_from(&script));
    }
    out
}

/// A case as it stands in a file.
#[must_use]
pub fn print(case: &Case) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let block = |name: &str, text: &str| {
        let lines: String = text.lines().map(|l| format!("    {l}\n")).collect();
        if lines.is_empty() { String::new() } else { format!("  {name}: |\n{lines}") }
    };
    let message = |name: &str, m: &Message| {
        let mut parts: Vec<String> = Vec::new();
        for (key, value) in
            [("method", &m.method), ("path", &m.path), ("status", &m.status), ("body", &m.body)]
        {
            if !value.is_empty() {
                parts.push(format!("{key}: {}", quoted(value)));
            }
        }
        if !m.headers.is_empty() {
            let headers: Vec<String> = m.headers.iter().map(|(k, v)| format!("{k}: {}", quoted(v))).collect();
            parts.push(format!("headers: {{{}}}", headers.join(", ")));
        }
        if !m.chunks.is_empty() {
            let chunks: Vec<String> = m.chunks.iter().map(|c| quoted(c)).collect();
            parts.push(format!("chunks: [{}]", chunks.join(", ")));
        }
        if parts.is_empty() { String::new() } else { format!("  {name}: {{{}}}\n", parts.join(", ")) }
    };
    format!(
        "- id: {}\n{}{}{}{}{}",
        case.id,
        block("script", &case.script),
        message("request", &case.request),
        message("response", &case.response),
        block("expect", &case.expect),
        block("envoy", case.envoy.as_deref().unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_case_and_a_smaller_one_is_smaller() {
        for seed in 0..200 {
            let case = generate(seed, &[]);
            assert_eq!(print(&case), print(&generate(seed, &[])));
            for candidate in smaller(&case) {
                assert!(print(&candidate).len() < print(&case).len() + 4, "{}", print(&candidate));
            }
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        for seed in 0..50 {
            let case = generate(seed, &[]);
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("x.yaml"), format!("cases:\n{}", print(&case))).unwrap();
            let read = crate::case::read(dir.path()).unwrap();
            let again = read.first().unwrap();
            assert_eq!((&again.script, &again.request), (&case.script, &case.request), "{}", print(&case));
        }
    }
}
