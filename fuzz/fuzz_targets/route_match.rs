//! Shell around [`ringway::fuzz::route_match`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::route_match(input));
