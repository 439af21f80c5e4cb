#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| wasmgate_fuzz_inputs::access_log_format(data));
