//! Shell around [`ringway::fuzz::grpc_web`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::grpc_web(input));
