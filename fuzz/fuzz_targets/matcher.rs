//! Shell around [`ringway::fuzz::matcher`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::matcher(input));
