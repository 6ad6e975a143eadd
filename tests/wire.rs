//! One file per wire case: `tests/wire/KIND/SECTION.SUBJECT.OUTCOME.http` holds the bytes, its name the
//! RFC section and what must come of them. Each is read whole, byte by byte and in random pieces (the
//! seed is printed), always with the same outcome.
//!
//! Outcomes: `refused-CAUSE`, the variant of the error; `none`, `length3`, `chunked`, `until-close`,
//! `interim`, `tunnel` for accepted heads, with `+close`, `+upgrade`, `+expect`, `+te` where they hold;
//! `body3`, `incomplete3` for chunked bodies, with `+trailers2` and `+rest18` (bytes of the next message).
//! Responses name what was asked (`get`, `head`, `connect`, `upgrade`) before their subject.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its fixtures has failed")]

use std::fmt::Write as _;
use std::path::Path;

use ringway::protocol::http::body::{BodyDecoder, BodyLength};
use ringway::protocol::http::head::Head;
use ringway::protocol::http1::framing::{Asked, MethodKind, ResponseKind};
use ringway::protocol::http1::head_reader::{HeadLimits, HeadReader};
use ringway::protocol::http1::parse::{ParseOptions, parse_request, parse_response};

/// How an input is cut into pieces: the length of the next one.
type Cut<'a> = &'a mut dyn FnMut() -> usize;

#[test]
fn requests_have_the_outcome_in_their_name() {
    run("requests", |_, bytes, cut| request(bytes, cut, &ParseOptions::default()));
}

#[test]
fn requests_under_permissive_options_have_the_outcome_in_their_name() {
    let options = ParseOptions {
        accept_http_10: true,
        allow_absolute_url: false,
        allow_custom_methods: true,
        allow_chunked_length: true,
    };
    run("requests-permissive", |_, bytes, cut| request(bytes, cut, &options));
}

#[test]
fn responses_have_the_outcome_in_their_name() {
    run("responses", |subject, bytes, cut| {
        let (method, upgrade) = match subject.split('.').next() {
            Some("head") => (MethodKind::Head, false),
            Some("connect") => (MethodKind::Connect, false),
            Some("upgrade") => (MethodKind::Plain, true),
            Some("get") => (MethodKind::Plain, false),
            asked => panic!("what was asked? {asked:?}"),
        };
        response(bytes, cut, Asked { method, upgrade })
    });
}

#[test]
fn chunked_bodies_have_the_outcome_in_their_name() {
    run("chunked", |_, bytes, cut| chunked(bytes, cut));
}

/// Every fixture through the functions the fuzzers run.
#[test]
fn fixtures_keep_the_invariants_of_the_fuzzers() {
    for (kind, check) in [
        ("requests", ringway::fuzz::request_head as fn(&[u8])),
        ("requests-permissive", ringway::fuzz::request_head),
        ("responses", ringway::fuzz::response_head),
        ("chunked", ringway::fuzz::chunked),
    ] {
        for (_, bytes) in fixtures(kind) {
            for first in 0..=u8::MAX {
                // Large inputs do not gain from every option and every cut.
                if bytes.len() < 4096 || first % 64 == 0 {
                    check(&[&[first], bytes.as_slice()].concat());
                }
            }
        }
    }
}

/// Paths and authorities of targets are not in the outcome: they are checked here.
#[test]
fn request_targets_become_scheme_authority_and_path() {
    for (line, scheme, authority, path) in [
        ("GET /p?q HTTP/1.1", "", "h", "/p?q"),
        ("OPTIONS * HTTP/1.1", "", "h", "*"),
        ("GET http://b HTTP/1.1", "http", "b", "/"),
        ("GET http://b?q HTTP/1.1", "http", "b", "/?q"),
        ("GET HTTPS://B:8/x?y HTTP/1.1", "https", "B:8", "/x?y"),
        ("CONNECT b:443 HTTP/1.1", "", "b:443", ""),
    ] {
        let mut head = Head::new();
        let text = format!("{line}\r\nHost: h\r\nX: y\r\n\r\n");
        assert!(
            HeadReader::request().feed(&mut head, text.as_bytes(), &HeadLimits::default()).unwrap().complete
        );
        parse_request(&mut head, &ParseOptions::default()).unwrap();
        let parts =
            [head.scheme(), head.authority(), head.path()].map(|part| std::str::from_utf8(part).unwrap());
        assert_eq!(parts, [scheme, authority, path], "{line}");
        assert_eq!(head.iter().collect::<Vec<_>>(), [(&b"X"[..], &b"y"[..])], "Host has left the list");
    }
}

fn request(bytes: &[u8], cut: Cut<'_>, options: &ParseOptions) -> String {
    let mut head = match read(HeadReader::request(), bytes, cut) {
        Ok(head) => head,
        Err(outcome) => return outcome,
    };
    match parse_request(&mut head, options) {
        Err(error) => format!("refused-{error:?}"),
        Ok(meta) => {
            let mut outcome = body(meta.body);
            let flags = [
                (!meta.keep_alive, "close"),
                (meta.upgrade, "upgrade"),
                (meta.expect_continue, "expect"),
                (meta.te_trailers, "te"),
            ];
            flags
                .iter()
                .filter(|(holds, _)| *holds)
                .for_each(|(_, name)| write!(outcome, "+{name}").unwrap());
            outcome
        }
    }
}

fn response(bytes: &[u8], cut: Cut<'_>, asked: Asked) -> String {
    let mut head = match read(HeadReader::response(), bytes, cut) {
        Ok(head) => head,
        Err(outcome) => return outcome,
    };
    match parse_response(&mut head, asked, &ParseOptions::default()) {
        Err(error) => format!("refused-{error:?}"),
        Ok(meta) => {
            let outcome = match meta.kind {
                ResponseKind::Interim => "interim".to_string(),
                ResponseKind::Tunnel => "tunnel".to_string(),
                ResponseKind::Final => body(meta.body),
            };
            outcome + if meta.keep_alive { "" } else { "+close" }
        }
    }
}

fn read(mut reader: HeadReader, bytes: &[u8], cut: Cut<'_>) -> Result<Head, String> {
    let (mut head, mut at) = (Head::new(), 0);
    while at < bytes.len() {
        let piece = &bytes[at..bytes.len().min(at + cut())];
        let fed = reader
            .feed(&mut head, piece, &HeadLimits::default())
            .map_err(|error| format!("refused-{error:?}"))?;
        at += fed.consumed;
        if fed.complete {
            return Ok(head);
        }
    }
    Err("incomplete".to_string())
}

fn chunked(bytes: &[u8], cut: Cut<'_>) -> String {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, HeadLimits::default());
    let (mut trailers, mut data, mut at) = (Head::new(), 0, 0);
    while at < bytes.len() && !decoder.is_end() {
        let piece = &bytes[at..bytes.len().min(at + cut())];
        match decoder.decode(piece, &mut trailers) {
            Err(error) => return format!("refused-{error:?}"),
            Ok(decoded) => {
                data += decoded.data.len();
                at += decoded.consumed;
            }
        }
    }
    if !decoder.is_end() {
        assert!(decoder.finish().is_err(), "a peer that closes now has cut the body");
        return format!("incomplete{data}");
    }
    let mut outcome = format!("body{data}");
    for (name, count) in [("trailers", trailers.len()), ("rest", bytes.len() - at)] {
        if count > 0 {
            write!(outcome, "+{name}{count}").unwrap();
        }
    }
    outcome
}

fn body(length: BodyLength) -> String {
    match length {
        BodyLength::None => "none".to_string(),
        BodyLength::Length(bytes) => format!("length{bytes}"),
        BodyLength::Chunked => "chunked".to_string(),
        BodyLength::UntilClose => "until-close".to_string(),
    }
}

fn run(kind: &str, outcome_of: impl Fn(&str, &[u8], Cut<'_>) -> String) {
    let seed = std::env::var("RINGWAY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_u64);
    println!("RINGWAY_SEED={seed}");
    let mut random = seed | 1;
    let mut next = move |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound as u64) as usize + 1
    };
    let mut failures = String::new();
    for (name, bytes) in fixtures(kind) {
        let (rest, expected) = name.rsplit_once('.').unwrap();
        let subject =
            rest.trim_start_matches(|byte: char| byte.is_ascii_digit() || byte == '.' || byte == '-');
        let mut check = |outcome: String, cut: &str| {
            if outcome != expected {
                writeln!(failures, "{kind}/{name}: {outcome} ({cut})").unwrap();
            }
        };
        check(outcome_of(subject, &bytes, &mut || bytes.len()), "whole");
        check(outcome_of(subject, &bytes, &mut || 1), "byte by byte");
        for bound in [2, 3, 7, 20, 64, 4096] {
            check(outcome_of(subject, &bytes, &mut || next(bound)), "random pieces");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Names (without `.http`) and bytes, in order of their names.
fn fixtures(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire").join(kind);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (
                name.strip_suffix(".http").expect("fixtures end in .http").to_string(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    assert!(!found.is_empty());
    found.sort();
    found
}
