//! Shell around [`ringway::fuzz::http_inspector`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::http_inspector(input));
