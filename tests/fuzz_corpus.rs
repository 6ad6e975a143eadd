//! Replays the fuzzers' committed seeds and findings (`fuzz/corpus/TARGET/*`), so that what a fuzzer
//! once found stays fixed without a fuzzer at hand.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its fixtures has failed")]

use std::path::Path;

#[test]
fn corpus_keeps_every_invariant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in [
        ("request_head", ringway::fuzz::request_head as fn(&[u8])),
        ("response_head", ringway::fuzz::response_head),
        ("chunked", ringway::fuzz::chunked),
        ("http2_frames", ringway::fuzz::http2_frames),
        ("http2_head", ringway::fuzz::http2_head),
        ("route_match", ringway::fuzz::route_match),
        ("matcher", ringway::fuzz::matcher),
        ("grpc_web", ringway::fuzz::grpc_web),
        ("grpc_timeout", ringway::fuzz::grpc_timeout),
        ("load_report", ringway::fuzz::load_report),
        ("config_text", ringway::fuzz::config_text),
        ("config_wire", ringway::fuzz::config_wire),
        ("proxy_header", ringway::fuzz::proxy_header),
        ("http_inspector", ringway::fuzz::http_inspector),
        ("restart_message", ringway::fuzz::restart_message),
        ("xds_cache", ringway::fuzz::xds_cache),
        ("client_hello", ringway::fuzz::client_hello),
        ("tls_session", ringway::fuzz::tls_session),
    ] {
        let mut count = 0;
        for entry in std::fs::read_dir(root.join(target)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            check(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{target} has a corpus");
    }
}
