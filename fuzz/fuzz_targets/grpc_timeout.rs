//! Shell around [`ringway::fuzz::grpc_timeout`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::grpc_timeout(input));
