//! Reading from and writing to the guest (spec: proxy-wasm-host §1.6, §1.7).

use wasmtime::Caller;

use crate::abi::Status;
use crate::state::VmState;

pub(crate) type Call<'a, S> = Caller<'a, VmState<S>>;

/// The guest's memory and the host's state, both at once.
pub(crate) fn split<'c, S: 'static>(caller: &'c mut Call<'_, S>) -> (&'c mut [u8], &'c mut VmState<S>) {
    match caller.data().memory {
        Some(memory) => memory.data_and_store_mut(caller),
        // Only before the instance is complete: a start section that calls the host.
        None => (&mut [], caller.data_mut()),
    }
}

/// Bytes of the guest. A length of zero is fine with any pointer: SDKs pass dangling ones.
pub(crate) fn read(memory: &[u8], ptr: u32, len: u32) -> Option<&[u8]> {
    if len == 0 {
        return Some(&[]);
    }
    let start = ptr as usize;
    memory.get(start..start.checked_add(len as usize)?)
}

/// A mutable view of guest bytes.
pub(crate) fn slice_mut(memory: &mut [u8], ptr: u32, len: u32) -> Option<&mut [u8]> {
    if len == 0 {
        return Some(&mut []);
    }
    let start = ptr as usize;
    memory.get_mut(start..start.checked_add(len as usize)?)
}

/// Stores a word for the guest.
pub(crate) fn write_u32(memory: &mut [u8], ptr: u32, value: u32) -> bool {
    write(memory, ptr, &value.to_le_bytes())
}

/// Stores a long word for the guest.
pub(crate) fn write_u64(memory: &mut [u8], ptr: u32, value: u64) -> bool {
    write(memory, ptr, &value.to_le_bytes())
}

/// Stores bytes for the guest; false when they do not fit its memory.
pub(crate) fn write(memory: &mut [u8], ptr: u32, bytes: &[u8]) -> bool {
    let Ok(len) = u32::try_from(bytes.len()) else { return false };
    match slice_mut(memory, ptr, len) {
        Some(target) => {
            target.copy_from_slice(bytes);
            true
        }
        None => false,
    }
}

/// Hands a value to the guest in memory from its own allocator and stores address and size in the two out cells.
///
/// Out cells are checked first and written last; an empty value allocates nothing, because Go's allocator panics
/// when asked for zero bytes.
///
/// # Errors
/// When the allocator traps: that ends the VM.
pub(crate) fn give<S: 'static>(
    caller: &mut Call<'_, S>,
    value: &[u8],
    ptr_out: u32,
    len_out: u32,
) -> wasmtime::Result<Status> {
    let (memory, state) = split(caller);
    if read(memory, ptr_out, 4).is_none() || read(memory, len_out, 4).is_none() {
        return Ok(Status::InvalidMemoryAccess);
    }
    let Ok(len) = u32::try_from(value.len()) else { return Ok(Status::InternalFailure) };
    let mut ptr = 0;
    if len > 0 {
        let Some(allocate) = state.allocate.take() else { return Ok(Status::InvalidMemoryAccess) };
        let allocated = allocate.call(&mut *caller, len);
        caller.data_mut().allocate = Some(allocate);
        ptr = allocated?;
    }
    let (memory, _) = split(caller);
    if len > 0 && (ptr == 0 || !write(memory, ptr, value)) {
        return Ok(Status::InvalidMemoryAccess);
    }
    write_u32(memory, ptr_out, ptr);
    write_u32(memory, len_out, len);
    Ok(Status::Ok)
}

/// Like [`give`] for a value in the state's scratch buffer, which goes back for the next one.
///
/// # Errors
/// When the allocator traps.
pub(crate) fn give_scratch<S: 'static>(
    caller: &mut Call<'_, S>,
    scratch: Vec<u8>,
    ptr_out: u32,
    len_out: u32,
) -> wasmtime::Result<Status> {
    let status = give(caller, &scratch, ptr_out, len_out);
    caller.data_mut().scratch = scratch;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_past_the_end_is_refused_and_an_empty_one_is_not() {
        let mut memory = [1, 2, 3, 4];
        assert_eq!(read(&memory, 1, 3), Some(&[2, 3, 4][..]));
        assert_eq!(read(&memory, 2, 3), None);
        assert_eq!(read(&memory, u32::MAX, u32::MAX), None);
        assert_eq!(read(&memory, u32::MAX, 0), Some(&[][..]));
        assert!(!write_u32(&mut memory, 1, 7));
        assert!(write_u32(&mut memory, 0, 7));
    }
}
