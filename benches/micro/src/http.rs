//! Heads: parsed, edited, written.

use std::hint::black_box;

use ringway::base::rng::Rng;
use ringway::config::http::{HeaderKeyFormat, HttpConnectionManager};
use ringway::protocol::http::body::BodyLength;
use ringway::protocol::http::forwarding::{self, Downstream, ForwardingSettings, LocalInfo};
use ringway::protocol::http::head::{Head, Version};
use ringway::protocol::http::headers::HeaderName;
use ringway::protocol::http1::encode::{RequestEncoding, ResponseEncoding, encode_request, encode_response};
use ringway::protocol::http1::framing::{Asked, MethodKind};
use ringway::protocol::http1::head_reader::{HeadLimits, HeadReader};
use ringway::protocol::http1::parse::{ParseOptions, parse_request, parse_response};

use crate::{Case, Step};

/// What wrk sends.
const SMALL: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: example.com\r\n\r\n";
/// What a browser sends.
const BROWSER: &[u8] = b"GET /static/app.js?v=20260722&theme=dark HTTP/1.1\r\nHost: www.example.com\r\n\
Connection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"126\", \"Not.A/Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
sec-ch-ua-platform: \"Linux\"\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n\
Referer: https://www.example.com/start\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=6f1d1e0c3b5a4f2e9d8c7b6a5f4e3d2c; consent=all; theme=dark\r\n\r\n";
/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 21 Jul 2026 08:00:00 GMT\r\n\
Content-Type: text/html\r\nContent-Length: 190\r\nLast-Modified: Mon, 20 Jul 2026 08:00:00 GMT\r\nConnection: keep-alive\r\n\
ETag: \"669b8a80-be\"\r\nAccept-Ranges: bytes\r\n\r\n";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::hot("parse/request_small", || parse(SMALL)),
        Case::hot("parse/request_browser", || parse(BROWSER)),
        Case::hot("parse/response", parse_answer),
        Case::hot("edit/forwarding", edit_forwarding),
        Case::hot("edit/set_append_remove", edit_headers),
        Case::hot("encode/request_browser", encode_ask),
        Case::hot("encode/response", encode_answer),
    ]
}

/// A head as received; what the parser makes of it is in there too.
pub(crate) fn request(text: &[u8]) -> Head {
    let mut head = Head::new();
    read_request(&mut head, text);
    head
}

fn read_request(head: &mut Head, text: &[u8]) {
    head.clear();
    let fed = HeadReader::request().feed(head, text, &HeadLimits::default()).expect("a head");
    assert!(fed.complete);
    parse_request(head, &ParseOptions::default()).expect("a request");
}

fn read_response(head: &mut Head) {
    head.clear();
    let fed = HeadReader::response().feed(head, RESPONSE, &HeadLimits::default()).expect("a head");
    assert!(fed.complete);
    parse_response(head, Asked { method: MethodKind::Plain, upgrade: false }, &ParseOptions::default())
        .expect("a response");
}

fn parse(text: &'static [u8]) -> Step {
    let mut head = Head::new();
    Box::new(move || read_request(black_box(&mut head), black_box(text)))
}

fn parse_answer() -> Step {
    let mut head = Head::new();
    Box::new(move || read_response(black_box(&mut head)))
}

/// With the copy of a received head, which each step edits anew.
fn edit_forwarding() -> Step {
    let (received, mut head) = (request(BROWSER), Head::new());
    let manager = HttpConnectionManager::new("http", Default::default());
    let settings = ForwardingSettings::new(&manager, &LocalInfo::default());
    let peer = "10.1.2.3:40000".parse().ok();
    let local = "10.0.0.1:80".parse().ok();
    let downstream = Downstream::new(peer, local, false, &settings);
    let (mut rng, mut scratch) = (Rng::from_seed(1), Vec::new());
    Box::new(move || {
        head.copy_from(&received);
        forwarding::mutate_request(black_box(&mut head), &settings, &downstream, &[], &mut rng, &mut scratch);
    })
}

fn edit_headers() -> Step {
    let (received, mut head) = (request(BROWSER), Head::new());
    let name = |text: &str| HeaderName::parse(text.as_bytes()).expect("a name");
    let (set, append, remove) = (name("accept-encoding"), name("x-added"), name("referer"));
    Box::new(move || {
        head.copy_from(&received);
        let head = black_box(&mut head);
        head.set(&set, b"identity");
        head.append(&append, b"value");
        head.remove(&remove);
    })
}

fn encode_ask() -> Step {
    let (head, mut room) = (request(BROWSER), vec![0; 4096]);
    let encoding =
        RequestEncoding { body: BodyLength::None, names: HeaderKeyFormat::LowerCase, absolute_target: false };
    Box::new(move || {
        let len = encode_request(black_box(&head), &encoding, black_box(&mut room)).expect("room");
        assert!(len > 500);
    })
}

fn encode_answer() -> Step {
    let (mut head, mut room) = (Head::new(), vec![0; 4096]);
    read_response(&mut head);
    let (body, version) = (BodyLength::Length(190), Version::Http11);
    let encoding = ResponseEncoding { body, names: HeaderKeyFormat::LowerCase, version };
    Box::new(move || {
        let len = encode_response(black_box(&head), &encoding, black_box(&mut room)).expect("room");
        assert!(len > 150);
    })
}
