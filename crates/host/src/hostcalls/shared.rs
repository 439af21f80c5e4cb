//! Shared data and queues (spec: proxy-wasm-host §4.6).

use std::sync::Arc;

use super::{Answer, status, text};
use crate::abi::{LogLevel, Status};
use crate::effects::QueueToken;
use crate::memory::{Call, give, read, split, write_u32};
use crate::shared::{EnqueueOutcome, SetOutcome};
use crate::stream::StreamContext;

/// A null pointer of no length removes the key: what the SDKs' `remove` sends.
pub(crate) fn set_data<S: StreamContext>(
    mut caller: Call<'_, S>,
    key: u32,
    key_len: u32,
    value: u32,
    value_len: u32,
    cas: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let (Some(key), Some(bytes)) = (read(memory, key, key_len), read(memory, value, value_len)) else {
        return status(Status::InvalidMemoryAccess);
    };
    let removes = value == 0 && value_len == 0;
    match state.shared.set(key, (!removes).then_some(bytes), cas) {
        SetOutcome::Done => status(Status::Ok),
        SetOutcome::CasMismatch => status(Status::CasMismatch),
        SetOutcome::Full => {
            state.log_once(
                LogLevel::Error,
                "shared data",
                "shared data is full: this write and further ones are dropped",
            );
            status(Status::Ok)
        }
    }
}

pub(crate) fn get_data<S: StreamContext>(
    mut caller: Call<'_, S>,
    key: u32,
    key_len: u32,
    ptr_out: u32,
    len_out: u32,
    cas_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(key) = read(memory, key, key_len) else { return status(Status::InvalidMemoryAccess) };
    let Some((value, cas)) = state.shared.get(key) else { return status(Status::NotFound) };
    if !write_u32(memory, cas_out, cas) {
        return status(Status::InvalidMemoryAccess);
    }
    status(give(&mut caller, &value, ptr_out, len_out)?)
}

pub(crate) fn register_queue<S: StreamContext>(
    mut caller: Call<'_, S>,
    name: u32,
    name_len: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let written = write_u32(memory, token_out, 0);
    let (Some(name), true) = (read(memory, name, name_len), written) else {
        return status(Status::InvalidMemoryAccess);
    };
    if !state.has_root() {
        return status(Status::InternalFailure);
    }
    let Some(token) = state.shared.create_queue(name) else {
        state.log_once(
            LogLevel::Error,
            "queues",
            "there are too many shared queues, or the name is too long: this one does not exist",
        );
        // 0 is no queue's number: what is put there is NotFound. Any status but Ok kills a Rust guest here.
        return status(Status::Ok);
    };
    match &state.consumer {
        Some(consumer) => state.shared.consume(token, Arc::clone(consumer)),
        None if !state.registered.contains(&token) => state.registered.push(token),
        None => {}
    }
    write_u32(memory, token_out, token.0);
    status(Status::Ok)
}

/// An empty `vm_id` is the caller's own.
pub(crate) fn resolve_queue<S: StreamContext>(
    mut caller: Call<'_, S>,
    vm_id: u32,
    vm_id_len: u32,
    name: u32,
    name_len: u32,
    token_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let written = write_u32(memory, token_out, 0);
    let (Some(vm_id), Some(name), true) =
        (read(memory, vm_id, vm_id_len), read(memory, name, name_len), written)
    else {
        return status(Status::InvalidMemoryAccess);
    };
    let found = match text(vm_id) {
        Some("") => state.shared.find_queue(name),
        Some(other) => state.shared.find_queue_of(other, name),
        None => None,
    };
    let Some(token) = found else { return status(Status::NotFound) };
    write_u32(memory, token_out, token.0);
    status(Status::Ok)
}

pub(crate) fn enqueue<S: StreamContext>(
    mut caller: Call<'_, S>,
    token: u32,
    value: u32,
    value_len: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let Some(item) = read(memory, value, value_len) else { return status(Status::InvalidMemoryAccess) };
    match state.shared.enqueue(QueueToken(token), item) {
        EnqueueOutcome::Done => status(Status::Ok),
        EnqueueOutcome::NoQueue => status(Status::NotFound),
        EnqueueOutcome::Full => {
            state.log_once(
                LogLevel::Error,
                "queue",
                "a shared queue is full: this item and further ones are dropped",
            );
            status(Status::Ok)
        }
    }
}

pub(crate) fn dequeue<S: StreamContext>(
    mut caller: Call<'_, S>,
    token: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    // Before anything is taken: an item that cannot be handed over stays.
    if read(memory, ptr_out, 4).is_none() || read(memory, len_out, 4).is_none() {
        return status(Status::InvalidMemoryAccess);
    }
    match state.shared.dequeue(QueueToken(token)) {
        None => status(Status::NotFound),
        Some(None) => status(Status::Empty),
        Some(Some(item)) => {
            let given = give(&mut caller, &item, ptr_out, len_out);
            if !matches!(given, Ok(Status::Ok)) {
                caller.data_mut().shared.put_back(QueueToken(token), item);
            }
            status(given?)
        }
    }
}
