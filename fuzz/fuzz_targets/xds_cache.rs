//! Shell around [`ringway::fuzz::xds_cache`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway::fuzz::xds_cache(input));
