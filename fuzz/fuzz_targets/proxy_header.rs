//! Shell around [`ringway::fuzz::proxy_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::proxy_header(input));
