//! Shell around [`ringway::fuzz::chunked`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::chunked(input));
