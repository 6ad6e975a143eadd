//! Shell around [`ringway::fuzz::tls_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::tls_session(input));
