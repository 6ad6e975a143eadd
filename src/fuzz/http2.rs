//! Invariants around the HTTP/2 codec: the guard counts the same however bytes are cut, and a head that is let pass reads
//! back from HTTP/1.1 as the same one message.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::base::clock::Now;
use crate::config::http::HeaderKeyFormat;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Head;
use crate::protocol::http1::encode::{RequestEncoding, encode_request};
use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
use crate::protocol::http1::hop_by_hop;
use crate::protocol::http1::parse::{ParseOptions, parse_request};
use crate::protocol::http2::guard::{Flood, Guard, Limits};
use crate::protocol::http2::head;

/// Received bytes, behind a byte that says how they are cut.
pub fn http2_frames(input: &[u8]) {
    let Some((&cut, input)) = input.split_first() else { return };
    let limits = Limits {
        empty_in_a_row_max: 1,
        priority_per_stream_max: 2,
        window_updates_per_data_max: 1,
        control_per_second_max: 3,
    };
    let guard = || Guard::new(limits, true, Now(0));
    let (mut whole, mut pieces) = (guard(), guard());
    let all = |guard: &mut Guard, mut rest: &[u8], has_room: bool| -> Result<(), Flood> {
        while !rest.is_empty() {
            let taken = guard.received(rest, !has_room, u64::MAX, Now(0))?.taken;
            assert!(taken > 0);
            rest = &rest[taken..];
        }
        Ok(())
    };
    let verdict = all(&mut whole, input, true);
    let receive = |piece: &[u8]| {
        // Some of it, and the rest then.
        let taken = pieces.received(piece, false, 0, Now(0))?.taken;
        assert!(taken > 0);
        all(&mut pieces, &piece[taken..], false)
    };
    let cut = input.chunks(usize::from(cut).max(1)).try_for_each(receive);
    assert_eq!(verdict, cut);
    if verdict.is_ok() {
        assert_eq!(whole.seen(), pieces.seen());
    }
}

/// A request's head as the codec would hand it over: lines of method, target, then `name:value`.
pub fn http2_head(input: &[u8]) {
    let Some((&bits, input)) = input.split_first() else { return };
    let mut lines = input.split(|&byte| byte == b'\n');
    let (method, target) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(method) = Method::from_bytes(method) else { return };
    let Ok(uri) = http::Uri::try_from(target) else { return };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    *request.headers_mut() = map(lines);
    let (parts, ()) = request.into_parts();
    let limits = HeadLimits::default();
    let mut taken = Head::new();
    let Ok(meta) = head::take_request(&parts, bits & 1 != 0, &limits, &mut taken) else { return };
    assert!(taken.is_sendable());
    hop_by_hop::strip_request(&mut taken, &meta);
    let encoding =
        RequestEncoding { body: meta.body, names: HeaderKeyFormat::LowerCase, absolute_target: false };
    let mut room = vec![0; 1 << 18];
    let length = encode_request(&taken, &encoding, &mut room).expect("what was let pass can be written");
    let mut again = Head::new();
    let wide = HeadLimits { bytes_max: 1 << 20, headers_max: 1000 };
    let fed = HeadReader::request().feed(&mut again, &room[..length], &wide).expect("it is a head");
    assert!(fed.complete && fed.consumed == length, "one head, and nothing behind it");
    let options = ParseOptions { allow_custom_methods: true, ..ParseOptions::default() };
    let reread = parse_request(&mut again, &options).expect("HTTP/1.1 reads it");
    // A length of zero without the stream's end is no body yet to come, and HTTP/1.1 calls it none.
    let plain = |body| if body == BodyLength::Length(0) { BodyLength::None } else { body };
    assert_eq!(plain(reread.body), plain(meta.body));
    assert_eq!(
        (again.method(), again.path(), again.authority()),
        (taken.method(), taken.path(), taken.authority())
    );
    let [mut read, mut written] = [&again, &taken].map(|head| head.iter().filter(|(name, _)| !frames(name)));
    assert!(read.by_ref().eq(written.by_ref()));
}

/// Whether a header says how its message is framed: that is the encoder's.
fn frames(name: &[u8]) -> bool {
    [&b"content-length"[..], b"transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing))
}

fn map<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value)
            && !is_connections_own(&name)
        {
            map.append(name, value);
        }
    }
    map
}

/// What the codec refuses by itself (RFC 9113 section 8.2.2).
fn is_connections_own(name: &HeaderName) -> bool {
    let barred = ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "te"];
    barred.contains(&name.as_str())
}
