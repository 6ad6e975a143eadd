//! Shell around [`ringway::fuzz::config_text`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::config_text(input));
