//! `expr_create`, `expr_evaluate`, `expr_delete`: CEL expressions over a stream's attributes.

mod cost;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::objects::{Key, Map};
use cel::{Context, Program, Value};

use super::Outcome;
use crate::abi::{LogLevel, Status};
use crate::hostcalls::general::find_property;
use crate::limits::Limits;
use crate::property::PropertyValue;
use crate::state::VmState;
use crate::stream::StreamContext;

/// The expressions of a VM.
#[derive(Default)]
pub(crate) struct Expressions {
    programs: HashMap<u32, Program>,
    next: u32,
}

impl Expressions {
    pub(super) fn create(&mut self, source: &[u8], limits: &Limits) -> Outcome {
        let full = self.programs.len() >= limits.expressions_max;
        if full || source.is_empty() || source.len() > limits.expression_bytes_max {
            return Err(Status::BadArgument);
        }
        let source = std::str::from_utf8(source).map_err(|_| Status::BadArgument)?;
        // A parser that panics is the same to the guest as one that refuses.
        let program =
            catch_unwind(|| Program::compile(source).ok()).ok().flatten().ok_or(Status::BadArgument)?;
        if !cost::has_bounded_patterns(program.expression()) {
            return Err(Status::BadArgument);
        }
        let token = self.next;
        self.next = self.next.checked_add(1).ok_or(Status::BadArgument)?;
        self.programs.insert(token, program);
        Ok(token.to_le_bytes().to_vec())
    }

    /// Deleting what is not there is no error.
    pub(super) fn delete(&mut self, token: &[u8]) -> Outcome {
        self.programs.remove(&parse_token(token)?);
        Ok(Vec::new())
    }
}

fn parse_token(bytes: &[u8]) -> Result<u32, Status> {
    <[u8; 4]>::try_from(bytes).map(u32::from_le_bytes).map_err(|_| Status::BadArgument)
}

/// Attribute objects and their fields (spec: proxy-wasm-host §14).
const OBJECTS: &[(&str, &[&str])] = &[
    (
        "request",
        &[
            "path",
            "url_path",
            "query",
            "host",
            "scheme",
            "method",
            "headers",
            "referer",
            "useragent",
            "id",
            "time",
            "protocol",
            "duration",
            "size",
            "total_size",
        ],
    ),
    (
        "response",
        &[
            "code",
            "code_details",
            "flags",
            "grpc_status",
            "headers",
            "trailers",
            "size",
            "total_size",
            "backend_latency",
        ],
    ),
    (
        "connection",
        &[
            "id",
            "mtls",
            "requested_server_name",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "sha256_peer_certificate_digest",
            "termination_details",
            "transport_failure_reason",
        ],
    ),
    ("source", &["address", "port"]),
    ("destination", &["address", "port"]),
    (
        "upstream",
        &[
            "address",
            "port",
            "local_address",
            "transport_failure_reason",
            "request_attempt_count",
            "cx_pool_ready_duration",
            "num_endpoints",
            "locality",
            "tls_version",
        ],
    ),
    (
        "xds",
        &[
            "node",
            "cluster_name",
            "cluster_metadata",
            "route_name",
            "route_metadata",
            "virtual_host_name",
            "virtual_host_metadata",
            "upstream_host_metadata",
            "listener_direction",
            "listener_metadata",
            "filter_chain_name",
        ],
    ),
];

pub(super) fn evaluate<S: StreamContext>(state: &mut VmState<S>, token: &[u8]) -> Outcome {
    let token = parse_token(token)?;
    let program = state.foreign.expressions.programs.get(&token).ok_or(Status::NotFound)?;
    let references = program.references();
    let variables: HashMap<&str, Value> =
        references.variables().into_iter().filter_map(|name| Some((name, variable(state, name)?))).collect();
    let (cost, cost_max) = (cost::bound(program.expression(), &variables), state.limits.expression_cost_max);
    if cost > cost_max {
        let text = format!("expr_evaluate: the expression may cost {cost}, at most {cost_max} is allowed");
        state.log(LogLevel::Warn, text.as_bytes());
        return Err(Status::InternalFailure);
    }
    let mut context = Context::default();
    for (name, value) in variables {
        context.add_variable_from_value(name, value);
    }
    let result = catch_unwind(AssertUnwindSafe(|| program.execute(&context).map_err(|e| e.to_string())));
    let value = match result {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            state.log(LogLevel::Debug, format!("expr_evaluate: {error}").as_bytes());
            return Err(Status::InternalFailure);
        }
        Err(_) => return Err(Status::InternalFailure),
    };
    let mut out = Vec::new();
    if from_cel(&value).is_some_and(|v| v.encode(&mut out)) {
        Ok(out)
    } else {
        Err(Status::SerializationFailure)
    }
}

/// The value of a variable: an attribute object with all the fields that have a value, or a single attribute.
fn variable<S: StreamContext>(state: &VmState<S>, name: &str) -> Option<Value> {
    let Some((_, fields)) = OBJECTS.iter().find(|(object, _)| *object == name) else {
        return find_property(state, &[name.as_bytes()]).map(|v| to_cel(&v));
    };
    let value = |field: &&str| {
        let value = find_property(state, &[name.as_bytes(), field.as_bytes()])?;
        Some((Key::from(*field), to_cel(&value)))
    };
    let map: HashMap<Key, Value> = fields.iter().filter_map(value).collect();
    Some(Value::Map(Map { map: map.into() }))
}

fn to_cel(value: &PropertyValue) -> Value {
    match value {
        PropertyValue::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::from(text),
            Err(_) => Value::Bytes(bytes.clone().into()),
        },
        PropertyValue::Int(value) => Value::Int(*value),
        PropertyValue::Double(value) => Value::Float(*value),
        PropertyValue::Bool(value) => Value::Bool(*value),
        PropertyValue::Timestamp(time) => {
            Value::Timestamp(chrono::DateTime::<chrono::Utc>::from(*time).fixed_offset())
        }
        PropertyValue::Duration(duration) => {
            chrono::Duration::from_std(*duration).map_or(Value::Null, Value::Duration)
        }
        PropertyValue::Map(pairs) => {
            let entry = |(key, value): &(Vec<u8>, PropertyValue)| {
                (Key::from(String::from_utf8_lossy(key).into_owned()), to_cel(value))
            };
            Value::Map(Map { map: pairs.iter().map(entry).collect::<HashMap<_, _>>().into() })
        }
        PropertyValue::List(values) => Value::List(values.iter().map(to_cel).collect::<Vec<_>>().into()),
        PropertyValue::Null => Value::Null,
    }
}

fn from_cel(value: &Value) -> Option<PropertyValue> {
    Some(match value {
        Value::Int(value) => PropertyValue::Int(*value),
        // The same eight bytes.
        Value::UInt(value) => PropertyValue::Int(value.cast_signed()),
        Value::Float(value) => PropertyValue::Double(*value),
        Value::String(text) => PropertyValue::text(text.as_bytes()),
        Value::Bytes(bytes) => PropertyValue::Bytes(bytes.to_vec()),
        Value::Bool(value) => PropertyValue::Bool(*value),
        Value::Duration(duration) => PropertyValue::Int(duration.num_nanoseconds()?),
        Value::Timestamp(time) => PropertyValue::Int(time.timestamp_nanos_opt()?),
        Value::List(values) => PropertyValue::List(values.iter().map(from_cel).collect::<Option<_>>()?),
        Value::Map(map) => {
            let mut pairs = Vec::with_capacity(map.map.len());
            for (key, value) in map.map.iter() {
                let mut encoded = Vec::new();
                from_cel(&Value::from(key))?.encode(&mut encoded);
                pairs.push((encoded, from_cel(value)?));
            }
            // The map has no order of its own.
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            PropertyValue::Map(pairs)
        }
        Value::Null => PropertyValue::Null,
        _ => return None,
    })
}
