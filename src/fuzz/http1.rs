//! Invariants of the HTTP/1.1 codec: the cut of the input does not matter, nothing accepted can split
//! a line, and what is written reads back as the same message.

use crate::config::http::HeaderKeyFormat;
use crate::protocol::http::body::{BodyDecoder, BodyLength};
use crate::protocol::http::error::{BodyError, HeadError};
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::{self, HeaderName, is_token};
use crate::protocol::http1::encode;
use crate::protocol::http1::framing::{Asked, MethodKind};
use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
use crate::protocol::http1::hop_by_hop;
use crate::protocol::http1::parse::{ParseOptions, parse_request, parse_response};

/// Room for the head written back: its names and values grow by a bounded amount.
const WIDE: HeadLimits = HeadLimits { bytes_max: 1 << 24, headers_max: 1000 };

/// A request head, read with options taken from the input's first byte.
pub fn request_head(input: &[u8]) {
    let Some((bits, input)) = input.split_first() else { return };
    let options = options(*bits);
    let (whole, consumed) = read(HeadReader::request(), input, input.len().max(1));
    let (cut, cut_consumed) = read(HeadReader::request(), input, usize::from(bits >> 4) + 1);
    assert_same_read(&whole, consumed, &cut, cut_consumed);
    let (Some(Ok(mut head)), Some(Ok(mut cut))) = (whole, cut) else { return };
    let outcome = parse_request(&mut head, &options);
    assert_eq!(outcome, parse_request(&mut cut, &options));
    assert_same_head(&head, &cut);
    let Ok(meta) = outcome else { return };
    assert_clean(&head);
    assert!(is_token(head.method()));
    assert!(!head.path().is_empty() || meta.method == MethodKind::Connect);
    if !head.has_authority() {
        // Only HTTP/1.0 may lack it, and it is written as HTTP/1.1.
        assert_eq!(head.version(), Version::Http10);
        head.set_authority(b"default");
    }
    let again = reread_request(&head, meta.body, &options);
    assert_same_head(&head, &again.0);
    assert_eq!(again.1.body, meta.body);
    if head.version() == Version::Http11 {
        assert_eq!((again.1.upgrade, again.1.te_trailers), (meta.upgrade, meta.te_trailers));
    }
    let authority = head.authority().to_vec();
    hop_by_hop::strip_request(&mut head, &meta);
    assert_eq!(head.authority(), authority);
    assert_eq!(head.get(&headers::CONNECTION).is_some(), meta.upgrade);
    let stripped = reread_request(&head, meta.body, &options);
    assert_same_head(&head, &stripped.0);
    assert_eq!((stripped.1.body, stripped.1.upgrade), (meta.body, meta.upgrade));
}

/// A response head; the input's first byte says what was asked.
pub fn response_head(input: &[u8]) {
    let Some((bits, input)) = input.split_first() else { return };
    let options = options(*bits >> 3);
    let method =
        [MethodKind::Plain, MethodKind::Head, MethodKind::Connect, MethodKind::Plain][usize::from(bits & 3)];
    let asked = Asked { method, upgrade: bits & 4 != 0 };
    let (whole, consumed) = read(HeadReader::response(), input, input.len().max(1));
    let (cut, cut_consumed) = read(HeadReader::response(), input, usize::from(bits >> 4) + 1);
    assert_same_read(&whole, consumed, &cut, cut_consumed);
    let (Some(Ok(mut head)), Some(Ok(mut cut))) = (whole, cut) else { return };
    let outcome = parse_response(&mut head, asked, &options);
    assert_eq!(outcome, parse_response(&mut cut, asked, &options));
    assert_same_head(&head, &cut);
    let Ok(meta) = outcome else { return };
    assert_clean(&head);
    assert!((100..1000).contains(&head.status()));
    let names = HeaderKeyFormat::PreserveCase { proper_case_added: true, forward_reason_phrase: true };
    let encoding = encode::ResponseEncoding { body: meta.body, names, version: head.version() };
    let text = written(|room| encode::encode_response(&head, &encoding, room));
    let mut again = whole_head(HeadReader::response(), &text);
    let reread = parse_response(&mut again, asked, &options).expect("a response written here parses");
    assert_eq!((reread.kind, reread.body), (meta.kind, meta.body));
    assert_eq!((head.status(), head.version()), (again.status(), again.version()));
    assert_same_head(&head, &again);
    hop_by_hop::strip_response(&mut head, &meta);
    assert!(!head.contains(&headers::TRANSFER_ENCODING));
}

/// A chunked body, fed whole and in pieces whose size the first byte gives.
pub fn chunked(input: &[u8]) {
    let Some((step, input)) = input.split_first() else { return };
    let whole = decode(input, input.len().max(1));
    let pieces = decode(input, usize::from(*step) + 1);
    assert_eq!(whole.outcome, pieces.outcome);
    let shared = whole.data.len().min(pieces.data.len());
    assert_eq!(whole.data[..shared], pieces.data[..shared]);
    let Ok(consumed) = whole.outcome else { return };
    assert_eq!(whole.data, pieces.data);
    let Some(consumed) = consumed else { return };
    assert!(input[..consumed].ends_with(b"\r\n"));
    assert_clean(&whole.trailers);
    let again = decode(&encode_chunks(&whole.data, &whole.trailers, usize::from(*step) + 1), 4096);
    assert!(matches!(again.outcome, Ok(Some(_))));
    assert_eq!(again.data, whole.data);
    assert_same_head(&whole.trailers, &again.trailers);
}

fn options(bits: u8) -> ParseOptions {
    ParseOptions {
        accept_http_10: bits & 1 != 0,
        allow_absolute_url: bits & 2 == 0,
        allow_custom_methods: bits & 4 != 0,
        allow_chunked_length: bits & 8 != 0,
    }
}

type Read = Option<Result<Head, HeadError>>;

/// The head read in pieces of `step` bytes (`None`: incomplete), and how many bytes belong to it.
fn read(mut reader: HeadReader, input: &[u8], step: usize) -> (Read, usize) {
    let (mut head, mut consumed) = (Head::new(), 0);
    for piece in input.chunks(step) {
        match reader.feed(&mut head, piece, &HeadLimits::default()) {
            Ok(fed) => {
                consumed += fed.consumed;
                if fed.complete {
                    return (Some(Ok(head)), consumed);
                }
                assert_eq!(fed.consumed, piece.len(), "an incomplete head takes everything");
            }
            Err(error) => return (Some(Err(error)), consumed),
        }
    }
    (None, consumed)
}

fn assert_same_read(left: &Read, left_consumed: usize, right: &Read, right_consumed: usize) {
    match (left, right) {
        (Some(Ok(left)), Some(Ok(right))) => {
            assert_eq!(left.text_bytes(), right.text_bytes());
            assert_eq!(left_consumed, right_consumed);
        }
        (Some(Err(left)), Some(Err(right))) => assert_eq!(left, right),
        (None, None) => {}
        _ => panic!("the cut of the input changed the outcome: {left:?} {right:?}"),
    }
}

fn whole_head(reader: HeadReader, text: &[u8]) -> Head {
    let (mut reader, mut head) = (reader, Head::new());
    let fed = reader.feed(&mut head, text, &WIDE).expect("a head written here is read");
    assert!(fed.complete && fed.consumed == text.len(), "a written head is one head");
    head
}

fn reread_request(
    head: &Head,
    body: BodyLength,
    options: &ParseOptions,
) -> (Head, crate::protocol::http1::framing::RequestMeta) {
    let encoding =
        encode::RequestEncoding { body, names: HeaderKeyFormat::LowerCase, absolute_target: false };
    let text = written(|room| encode::encode_request(head, &encoding, room));
    let mut again = whole_head(HeadReader::request(), &text);
    let meta = parse_request(&mut again, options).expect("a request written here parses");
    assert_eq!(
        (head.method(), head.path(), head.authority()),
        (again.method(), again.path(), again.authority())
    );
    (again, meta)
}

fn written(encode: impl Fn(&mut [u8]) -> Result<usize, encode::EncodeError>) -> Vec<u8> {
    let Err(encode::EncodeError::NeedsRoom(bytes)) = encode(&mut []) else {
        panic!("an accepted head can be written");
    };
    let mut room = vec![0; bytes];
    assert_eq!(encode(&mut room), Ok(bytes), "the room asked for is the room needed");
    room
}

/// Nothing accepted can end a line early or hide from a reader in C.
fn assert_clean(head: &Head) {
    let parts = [head.method(), head.path(), head.authority(), head.scheme(), head.reason()];
    for text in parts.into_iter().chain(head.iter().flat_map(|(name, value)| [name, value])) {
        assert!(
            !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)),
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }
    for (name, value) in head.iter() {
        let parsed = HeaderName::parse(name).expect("an accepted name is a name");
        assert!(!parsed.is_pseudo());
        assert!(head.get_all(&parsed).any(|found| found == value));
    }
}

/// Same fields in the same order, framing headers aside: the encoder writes its own.
fn assert_same_head(left: &Head, right: &Head) {
    let fields = |head: &Head| -> Vec<(Vec<u8>, Vec<u8>)> {
        let framing = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
        };
        let kept = head.iter().filter(|(name, _)| !framing(name));
        kept.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
    };
    assert_eq!(fields(left), fields(right));
}

struct Decoding {
    /// Bytes consumed when complete.
    outcome: Result<Option<usize>, BodyError>,
    data: Vec<u8>,
    trailers: Head,
}

fn decode(input: &[u8], step: usize) -> Decoding {
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, HeadLimits::default());
    let (mut data, mut trailers, mut at) = (Vec::new(), Head::new(), 0);
    while at < input.len() {
        let piece = &input[at..input.len().min(at + step)];
        match decoder.decode(piece, &mut trailers) {
            Ok(decoded) => {
                assert!(decoded.consumed > 0, "a call makes progress");
                data.extend_from_slice(&piece[decoded.data]);
                at += decoded.consumed;
                if decoded.end {
                    return Decoding { outcome: Ok(Some(at)), data, trailers };
                }
            }
            Err(error) => return Decoding { outcome: Err(error), data, trailers },
        }
    }
    Decoding { outcome: Ok(None), data, trailers }
}

fn encode_chunks(data: &[u8], trailers: &Head, chunk: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for piece in data.chunks(chunk) {
        text.extend_from_slice(encode::chunk_start(piece.len(), &mut [0; encode::CHUNK_START_BYTES_MAX]));
        text.extend_from_slice(piece);
        text.extend_from_slice(encode::CHUNK_END);
    }
    text.extend(written(|room| encode::encode_trailers(trailers, HeaderKeyFormat::LowerCase, room)));
    text
}
