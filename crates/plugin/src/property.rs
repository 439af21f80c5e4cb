//! Attributes of a stream (spec: proxy-wasm-host §14). Unlike Envoy they are answered in every phase, from what the
//! stream has seen so far.

use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, REFERER, USER_AGENT};
use wasmgate_host::PropertyValue;
use wasmgate_stream::{RequestHead, StreamData, StreamInfo, grpc_status};

pub(crate) fn find(data: &StreamData, path: &[&[u8]]) -> Option<PropertyValue> {
    // What a plug-in stores never hides what the proxy knows: another plug-in may decide by it (spec: proxy-wasm-host §14.1).
    attribute(data, path)
        .or_else(|| Some(PropertyValue::Bytes(data.properties.get(&path.join(&0))?.to_vec())))
}

fn attribute(data: &StreamData, path: &[&[u8]]) -> Option<PropertyValue> {
    let info = &data.info;
    match path {
        [b"request" | b"response", ..] if data.is_tcp => None,
        [b"request", b"headers"] => Some(joined(|each| data.request.for_each(each))),
        [b"request", b"headers", name] => all_values(name, |each| data.request.for_each(each)),
        [b"request", field] => request(&data.request, info, field),
        // Before there is one, a map without entries.
        [b"response", b"headers"] => Some(joined(|each| data.response.iter().for_each(|r| r.for_each(each)))),
        [b"response", b"headers", name] => {
            let response = data.response.as_ref()?;
            all_values(name, |each| response.for_each(each))
        }
        [b"response", b"trailers"] => Some(joined(|each| {
            let pairs = data.response_trailers.iter().flatten();
            pairs.for_each(|(name, value)| each(name.as_str().as_bytes(), value.as_bytes()));
        })),
        [b"response", field] => response(data, field),
        [b"source", b"address"] => Some(PropertyValue::text(info.downstream_remote.to_string())),
        [b"source", b"port"] => Some(PropertyValue::Int(info.downstream_remote.port().into())),
        [b"destination", b"address"] => Some(PropertyValue::text(info.downstream_local.to_string())),
        [b"destination", b"port"] => Some(PropertyValue::Int(info.downstream_local.port().into())),
        [b"connection", b"id"] | [b"connection_id"] => {
            Some(PropertyValue::Int(i64::try_from(info.connection_id).unwrap_or(i64::MAX)))
        }
        [b"connection", field] => connection(info, field),
        [b"upstream", field] => upstream(info, field),
        [b"filter_state"] => Some(PropertyValue::Map(
            data.properties
                .iter()
                .map(|(path, value)| ([FILTER_STATE_PREFIX, path].concat(), PropertyValue::text(value)))
                .collect(),
        )),
        [b"filter_state", key @ ..] => {
            let key = key.join(&0);
            data.properties.get(key.strip_prefix(FILTER_STATE_PREFIX)?).map(PropertyValue::text)
        }
        [b"upstream_filter_state"] => info.upstream_host.map(|_| PropertyValue::Map(Vec::new())),
        [b"metadata" | b"cluster_metadata" | b"route_metadata" | b"listener_metadata", rest @ ..] => {
            metadata(info, path.first()?, rest)
        }
        [b"xds", b"filter_chain_name"] => Some(PropertyValue::text("")),
        [b"xds", kind, rest @ ..] if kind.ends_with(b"_metadata") => metadata(info, kind, rest),
        [b"xds", b"route_name"] | [b"route_name"] => named(&info.route_name),
        [b"xds", b"virtual_host_name"] => named(&info.virtual_host_name),
        [b"xds", b"cluster_name"] | [b"cluster_name"] => named(&info.cluster_name),
        _ => None,
    }
}

/// Before the names of what plug-ins store, where everything that is stored on a stream is seen.
const FILTER_STATE_PREFIX: &[u8] = b"wasm.";

/// Metadata of the stream, or of what serves it. A gateway whose manifests set none has empty ones, as Envoy has.
fn metadata(info: &StreamInfo, kind: &[u8], field: &[&[u8]]) -> Option<PropertyValue> {
    let exists = match kind {
        b"metadata" | b"listener_metadata" => true,
        b"route_metadata" | b"virtual_host_metadata" => !info.route_name.is_empty(),
        b"cluster_metadata" => !info.cluster_name.is_empty(),
        // Envoy has a null there.
        b"upstream_host_metadata" | b"upstream_host_locality_metadata" if field.is_empty() => {
            return info.upstream_host.map(|_| PropertyValue::Null);
        }
        _ => false,
    };
    match field {
        // A message without fields.
        [] if exists => Some(PropertyValue::text("")),
        [b"filter_metadata" | b"typed_filter_metadata"] if exists => Some(PropertyValue::Map(Vec::new())),
        _ => None,
    }
}

/// All values that a header has, separated by commas.
fn all_values(name: &[u8], for_each: impl Fn(&mut dyn FnMut(&[u8], &[u8]))) -> Option<PropertyValue> {
    let mut found: Option<Vec<u8>> = None;
    for_each(&mut |key, value| {
        if key.eq_ignore_ascii_case(name) {
            match &mut found {
                Some(all) => {
                    all.push(b',');
                    all.extend_from_slice(value);
                }
                None => found = Some(value.to_vec()),
            }
        }
    });
    found.map(PropertyValue::Bytes)
}

fn named(name: &str) -> Option<PropertyValue> {
    (!name.is_empty()).then(|| PropertyValue::text(name))
}

fn request(request: &RequestHead, info: &StreamInfo, field: &[u8]) -> Option<PropertyValue> {
    let path = || request.path();
    match field {
        b"path" => path().map(PropertyValue::text),
        b"url_path" => path().map(|p| PropertyValue::text(split_query(p).0)),
        b"query" => path().map(|p| PropertyValue::text(split_query(p).1)),
        b"host" => request.get(b":authority").map(PropertyValue::text),
        b"scheme" => request.get(b":scheme").map(PropertyValue::text),
        b"method" => request.get(b":method").map(PropertyValue::text),
        b"referer" => request.headers.get(REFERER).map(|v| PropertyValue::text(v.as_bytes())),
        b"useragent" => request.headers.get(USER_AGENT).map(|v| PropertyValue::text(v.as_bytes())),
        b"id" => request.headers.get("x-request-id").map(|v| PropertyValue::text(v.as_bytes())),
        b"time" => Some(PropertyValue::Timestamp(info.start)),
        b"protocol" => Some(PropertyValue::text(match info.protocol {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        })),
        b"duration" => info.duration.map(PropertyValue::Duration),
        b"size" => match request.headers.get(CONTENT_LENGTH) {
            Some(length) => length.to_str().ok()?.parse().ok().map(PropertyValue::Int),
            None => Some(size(info.bytes_received)),
        },
        b"total_size" => Some(size(info.bytes_received + map_size(&request.headers))),
        _ => None,
    }
}

fn response(data: &StreamData, field: &[u8]) -> Option<PropertyValue> {
    let info = &data.info;
    match field {
        b"code" => data.response.as_ref()?.status.map(|s| PropertyValue::Int(s.as_u16().into())),
        // A local reply without details has empty ones.
        b"code_details" if data.response.is_some() || !info.response_code_details.is_empty() => {
            Some(PropertyValue::text(info.response_code_details.as_bytes()))
        }
        b"backend_latency" => info.backend_latency.map(PropertyValue::Duration),
        b"flags" => Some(PropertyValue::Int(flags(info.response_flags))),
        b"size" => Some(size(info.bytes_sent)),
        b"total_size" => {
            let headers = data.response.as_ref().map_or(0, |r| map_size(&r.headers));
            Some(size(info.bytes_sent + headers + data.response_trailers.as_ref().map_or(0, map_size)))
        }
        b"grpc_status" => {
            let status =
                |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok().map(PropertyValue::Int);
            let response = data.response.as_ref()?;
            let told = data.response_trailers.as_ref().and_then(status).or_else(|| status(&response.headers));
            // Whatever the response is, as in Envoy.
            told.or_else(|| Some(PropertyValue::Int(grpc_status(response.status?).into())))
        }
        _ => None,
    }
}

/// Envoy's bit for a short flag (spec: proxy-wasm-host §14.3).
fn flags(short: &str) -> i64 {
    match short {
        "UH" => 0x2,
        "UT" => 0x4,
        "UR" => 0x10,
        "UF" => 0x20,
        "UC" => 0x40,
        "UO" => 0x80,
        "NR" => 0x100,
        "DC" => 0x4000,
        "SI" => 0x1_0000,
        "DPE" => 0x4_0000,
        "UPE" => 0x80_0000,
        "NC" => 0x100_0000,
        _ => 0,
    }
}

fn connection(info: &StreamInfo, field: &[u8]) -> Option<PropertyValue> {
    let tls = info.tls.as_deref();
    let (own, peer) = (tls.and_then(|t| t.own.as_ref()), tls.and_then(|t| t.peer.as_ref()));
    let text = |value: &String| PropertyValue::text(value);
    match field {
        b"mtls" => Some(PropertyValue::Bool(peer.is_some())),
        b"requested_server_name" => {
            Some(PropertyValue::text(tls.and_then(|t| t.server_name.as_deref()).unwrap_or_default()))
        }
        b"tls_version" => tls.map(|t| t.version).filter(|v| !v.is_empty()).map(PropertyValue::text),
        b"subject_local_certificate" => own.map(|c| text(&c.subject)),
        b"subject_peer_certificate" => peer.map(|c| text(&c.subject)),
        b"dns_san_local_certificate" => own?.dns_names.first().map(text),
        b"dns_san_peer_certificate" => peer?.dns_names.first().map(text),
        b"uri_san_local_certificate" => own?.uris.first().map(text),
        b"uri_san_peer_certificate" => peer?.uris.first().map(text),
        b"sha256_peer_certificate_digest" => peer.map(|c| text(&c.sha256)),
        _ => None,
    }
}

fn upstream(info: &StreamInfo, field: &[u8]) -> Option<PropertyValue> {
    match field {
        b"address" => info.upstream_host.map(|a| PropertyValue::text(a.to_string())),
        b"port" => info.upstream_host.map(|a| PropertyValue::Int(a.port().into())),
        b"local_address" => info.upstream_local.map(|a| PropertyValue::text(a.to_string())),
        // A message without fields: endpoints have no locality yet.
        b"locality" => info.upstream_host.map(|_| PropertyValue::text("")),
        b"transport_failure_reason" => info.upstream_host.map(|_| PropertyValue::text("")),
        b"cx_pool_ready_duration" => info.upstream_ready.map(PropertyValue::Duration),
        b"num_endpoints" => Some(PropertyValue::Int(info.upstream_endpoints.into())),
        b"request_attempt_count" => Some(PropertyValue::Int(info.upstream_attempts.into())),
        _ => None,
    }
}

fn size(bytes: u64) -> PropertyValue {
    PropertyValue::Int(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn map_size(map: &HeaderMap) -> u64 {
    map.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

fn split_query(path: &[u8]) -> (&[u8], &[u8]) {
    let path = path.split(|b| *b == b'#').next().unwrap_or(path);
    match path.iter().position(|b| *b == b'?') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (path, b""),
    }
}

type Each<'e> = &'e mut dyn FnMut(&[u8], &[u8]);

/// Every name once, several values as one list.
fn joined(for_each: impl Fn(Each<'_>)) -> PropertyValue {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for_each(&mut |name, value| match pairs.iter_mut().find(|(n, _)| n == name) {
        Some((_, all)) => {
            all.push(b',');
            all.extend_from_slice(value);
        }
        None => pairs.push((name.to_vec(), value.to_vec())),
    });
    PropertyValue::Map(pairs.into_iter().map(|(name, value)| (name, PropertyValue::Bytes(value))).collect())
}
