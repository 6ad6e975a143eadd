//! Shell around [`ringway::fuzz::load_report`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::load_report(input));
