//! What `make bench` times between host and guest: each callback makes so many hostcalls as its first number says.
//!
//! An empty callback is `proxy_on_request_trailers`; `proxy_on_request_headers` reads one header again and again, each
//! time into memory of this module's own allocator; `proxy_on_response_headers` reads, sets and removes that
//! many; `proxy_on_response_body` reads each piece of a body.

use std::ptr::null_mut;

const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const RESPONSE_BODY: u32 = 1;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_value(map: u32, name: *const u8, len: usize, out: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(map: u32, name: *const u8, len: usize, value: *const u8, size: usize) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, out: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, len: usize) -> u32;
}

fn read(map: u32, name: &[u8]) -> usize {
    let (mut pointer, mut size) = (null_mut(), 0);
    // SAFETY: the parameters are as the ABI wants them.
    let status = unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), &mut pointer, &mut size) };
    if status != 0 || pointer.is_null() {
        return 0;
    }
    // SAFETY: the host got it from `proxy_on_memory_allocate`, with this capacity.
    unsafe { Vec::from_raw_parts(pointer, size, size) }.len()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut memory = Vec::with_capacity(size);
    let pointer = memory.as_mut_ptr();
    std::mem::forget(memory);
    pointer
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(_: u32, _: u32) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(_: u32, count: u32, _: u32) -> u32 {
    let read: usize = (0..count).map(|_| read(REQUEST_HEADERS, b"user-agent")).sum();
    u32::from(read == 0)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(_: u32, size: usize, _: u32) -> u32 {
    let (mut pointer, mut len) = (null_mut(), 0);
    // SAFETY: as above, and as for headers.
    unsafe {
        if proxy_get_buffer_bytes(RESPONSE_BODY, 0, size, &mut pointer, &mut len) == 0 && !pointer.is_null() {
            drop(Vec::from_raw_parts(pointer, len, len));
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(_: u32, count: u32, _: u32) -> u32 {
    let name = |i: u32| [b'x', b'-', b'a' + (i / 10) as u8, b'0' + (i % 10) as u8];
    for i in 0..count {
        read(RESPONSE_HEADERS, &name(i));
    }
    for i in 0..count {
        let name = name(i);
        // SAFETY: the parameters are as the ABI wants them.
        unsafe { proxy_replace_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len(), b"value".as_ptr(), 5) };
    }
    for i in 0..count {
        let name = name(i);
        // SAFETY: as above.
        unsafe { proxy_remove_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len()) };
    }
    0
}
