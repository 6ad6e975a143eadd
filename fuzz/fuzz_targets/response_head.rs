//! Shell around [`ringway::fuzz::response_head`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::response_head(input));
