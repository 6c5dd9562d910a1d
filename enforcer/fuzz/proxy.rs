//! See `src/proxy/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| enforcer::proxy::fuzz::client_bytes(data));
