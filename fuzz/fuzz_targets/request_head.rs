//! Shell around [`ringway::fuzz::request_head`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::request_head(input));
