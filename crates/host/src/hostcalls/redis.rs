//! Redis call-outs (Higress; spec: proxy-wasm-host §9.5).

use bytes::Bytes;

use super::calls::{open, timeout, upstream};
use super::{Answer, status, text};
use crate::abi::Status;
use crate::calls::CallKind;
use crate::effects::{Effect, RedisOptions, UpstreamState};
use crate::memory::{Call, read, split, write_u32};
use crate::stream::StreamContext;

/// The cluster's name ends at `?`; options follow.
fn split_cluster(cluster: &[u8]) -> (&[u8], &[u8]) {
    match cluster.iter().position(|b| *b == b'?') {
        Some(at) => (cluster.get(..at).unwrap_or_default(), cluster.get(at + 1..).unwrap_or_default()),
        None => (cluster, b""),
    }
}

fn database(options: &[u8]) -> u32 {
    let options = text(options).unwrap_or_default();
    options.split('&').find_map(|o| o.strip_prefix("db=")).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's own parameter list")]
pub(crate) fn init<S: StreamContext>(
    mut caller: Call<'_, S>,
    cluster: u32,
    cluster_len: u32,
    user: u32,
    user_len: u32,
    password: u32,
    password_len: u32,
    timeout_ms: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let parts = (
        read(memory, cluster, cluster_len),
        read(memory, user, user_len),
        read(memory, password, password_len),
    );
    let (Some(cluster), Some(user), Some(password)) = parts else {
        return status(Status::InvalidMemoryAccess);
    };
    let (name, options) = split_cluster(cluster);
    let (cluster, _) = match upstream(state, name) {
        Ok(known) => known,
        Err(refused) => return status(refused),
    };
    let (Some(user), Some(password)) = (text(user), text(password)) else {
        return status(Status::BadArgument);
    };
    let bytes = user.len() + password.len();
    if !state.has_root() || !state.has_room(bytes) {
        return status(Status::BadArgument);
    }
    let options = RedisOptions {
        cluster,
        user: user.to_owned(),
        password: password.to_owned(),
        database: database(options),
        timeout: timeout(state, timeout_ms),
    };
    state.note(Effect::RedisInit(Box::new(options)), bytes);
    status(Status::Ok)
}

pub(crate) fn call<S: StreamContext>(
    mut caller: Call<'_, S>,
    cluster: u32,
    cluster_len: u32,
    query: u32,
    query_len: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let written = write_u32(memory, token_out, 0);
    let (Some(cluster), Some(query), true) =
        (read(memory, cluster, cluster_len), read(memory, query, query_len), written)
    else {
        return status(Status::InvalidMemoryAccess);
    };
    let (cluster, known) = match upstream(state, split_cluster(cluster).0) {
        Ok(known) => known,
        Err(refused) => return status(refused),
    };
    if !state.has_root() || known == UpstreamState::NoHealthyHost || !state.has_room(query.len()) {
        return status(Status::InternalFailure);
    }
    let token = match open(state, CallKind::Other) {
        Ok(token) => token,
        Err(refused) => return status(refused),
    };
    state.note(Effect::RedisCall(token, cluster, Bytes::copy_from_slice(query)), query.len());
    write_u32(memory, token_out, token.0);
    status(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_behind_the_name() {
        assert_eq!(
            split_cluster(b"outbound|6379||r.static?db=3&x=1"),
            (&b"outbound|6379||r.static"[..], &b"db=3&x=1"[..])
        );
        assert_eq!((database(b"x=1&db=3"), database(b"db=no"), database(b"")), (3, 0, 0));
    }
}
