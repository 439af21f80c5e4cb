//! The way to foreign functions (spec: proxy-wasm-host §13).

use super::{Answer, status};
use crate::abi::Status;
use crate::foreign;
use crate::memory::{Call, give, read, split};
use crate::stream::StreamContext;

/// A guest that wants no result passes null for its address or size. The cells are written even when the function fails.
pub(crate) fn call<S: StreamContext>(
    mut caller: Call<'_, S>,
    name: u32,
    name_len: u32,
    arguments: u32,
    arguments_len: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let (memory, state) = split(&mut caller);
    let parts = (read(memory, name, name_len), read(memory, arguments, arguments_len));
    let (Some(name), Some(arguments)) = parts else { return status(Status::InvalidMemoryAccess) };
    let wanted = ptr_out != 0 && len_out != 0;
    if wanted && (read(memory, ptr_out, 4).is_none() || read(memory, len_out, 4).is_none()) {
        return status(Status::InvalidMemoryAccess);
    }
    let (result, answer) = match foreign::call(state, name, arguments) {
        Ok(result) => (result, Status::Ok),
        Err(refused) => (Vec::new(), refused),
    };
    if !wanted {
        return status(answer);
    }
    match give(&mut caller, &result, ptr_out, len_out)? {
        Status::Ok => status(answer),
        failed => status(failed),
    }
}
