//! Shell around [`ringway::fuzz::client_hello`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::client_hello(input));
