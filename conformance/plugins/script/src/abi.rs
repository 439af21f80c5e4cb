//! The hostcalls as the ABI has them.

use std::ptr::null_mut;

macro_rules! hostcalls {
    ($($name:ident($($ty:ty),*);)*) => {
        #[link(wasm_import_module = "env")]
        unsafe extern "C" {
            $(pub fn $name($(_: $ty),*) -> u32;)*
        }

        /// Calls a function with numbers for all of its parameters. `None`: there is none of this name and arity.
        pub fn raw(name: &str, numbers: &[u64]) -> Option<u32> {
            $(if name == stringify!($name) {
                let mut numbers = numbers.iter().copied();
                // SAFETY: the host checks every pointer that it is given; finding out how is what this is for.
                let status = unsafe { $name($(<$ty as FromNumber>::from_number(numbers.next()?)),*) };
                return Some(status);
            })*
            None
        }
    };
}

trait FromNumber {
    fn from_number(number: u64) -> Self;
}

impl FromNumber for u32 {
    fn from_number(number: u64) -> Self {
        number as u32
    }
}

impl FromNumber for u64 {
    fn from_number(number: u64) -> Self {
        number
    }
}

impl FromNumber for *const u8 {
    fn from_number(number: u64) -> Self {
        number as usize as Self
    }
}

impl FromNumber for *mut *mut u8 {
    fn from_number(number: u64) -> Self {
        number as usize as Self
    }
}

impl FromNumber for *mut usize {
    fn from_number(number: u64) -> Self {
        number as usize as Self
    }
}

impl FromNumber for *mut u64 {
    fn from_number(number: u64) -> Self {
        number as usize as Self
    }
}

type In = *const u8;
type Out = *mut *mut u8;
type Size = *mut usize;

hostcalls! {
    proxy_log(u32, In, u32);
    proxy_get_log_level(Size);
    proxy_get_current_time_nanoseconds(*mut u64);
    proxy_set_tick_period_milliseconds(u32);
    proxy_get_status(Size, Out, Size);
    proxy_set_effective_context(u32);
    proxy_done();
    proxy_get_property(In, u32, Out, Size);
    proxy_set_property(In, u32, In, u32);
    proxy_get_buffer_bytes(u32, u32, u32, Out, Size);
    proxy_get_buffer_status(u32, Size, Size);
    proxy_set_buffer_bytes(u32, u32, u32, In, u32);
    proxy_get_header_map_pairs(u32, Out, Size);
    proxy_set_header_map_pairs(u32, In, u32);
    proxy_get_header_map_value(u32, In, u32, Out, Size);
    proxy_add_header_map_value(u32, In, u32, In, u32);
    proxy_replace_header_map_value(u32, In, u32, In, u32);
    proxy_remove_header_map_value(u32, In, u32);
    proxy_get_header_map_size(u32, Size);
    proxy_continue_stream(u32);
    proxy_close_stream(u32);
    proxy_send_local_response(u32, In, u32, In, u32, In, u32, u32);
    proxy_http_call(In, u32, In, u32, In, u32, In, u32, u32, Size);
    proxy_grpc_call(In, u32, In, u32, In, u32, In, u32, In, u32, u32, Size);
    proxy_grpc_stream(In, u32, In, u32, In, u32, In, u32, Size);
    proxy_grpc_send(u32, In, u32, u32);
    proxy_grpc_cancel(u32);
    proxy_grpc_close(u32);
    proxy_set_shared_data(In, u32, In, u32, u32);
    proxy_get_shared_data(In, u32, Out, Size, Size);
    proxy_register_shared_queue(In, u32, Size);
    proxy_resolve_shared_queue(In, u32, In, u32, Size);
    proxy_enqueue_shared_queue(u32, In, u32);
    proxy_dequeue_shared_queue(u32, Out, Size);
    proxy_define_metric(u32, In, u32, Size);
    proxy_increment_metric(u32, u64);
    proxy_record_metric(u32, u64);
    proxy_get_metric(u32, *mut u64);
    proxy_call_foreign_function(In, u32, In, u32, Out, Size);
}

/// Takes over what the host has put into memory of ours.
fn taken(pointer: *mut u8, size: usize) -> Option<Vec<u8>> {
    // SAFETY: the host got it from `proxy_on_memory_allocate`, with this capacity.
    (!pointer.is_null()).then(|| unsafe { Vec::from_raw_parts(pointer, size, size) })
}

/// A call that gives bytes: its status and them.
pub fn giving(call: impl FnOnce(Out, Size) -> u32) -> (u32, Option<Vec<u8>>) {
    let (mut pointer, mut size) = (null_mut(), 0);
    let status = call(&mut pointer, &mut size);
    (status, if status == 0 { taken(pointer, size) } else { None })
}

pub fn header(map: u32, name: &[u8]) -> (u32, Option<Vec<u8>>) {
    // SAFETY: the parameters are as the ABI wants them.
    giving(|p, s| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len() as u32, p, s) })
}

pub fn buffer(kind: u32, start: u32, max: u32) -> (u32, Option<Vec<u8>>) {
    // SAFETY: as above.
    giving(|p, s| unsafe { proxy_get_buffer_bytes(kind, start, max, p, s) })
}

pub fn log(level: u32, text: &[u8]) -> u32 {
    // SAFETY: as above.
    unsafe { proxy_log(level, text.as_ptr(), text.len() as u32) }
}
