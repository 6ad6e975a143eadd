//! Shell around [`ringway::fuzz::http2_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::http2_frames(input));
