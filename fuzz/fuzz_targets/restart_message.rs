//! Shell around [`ringway::fuzz::restart_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::restart_message(input));
