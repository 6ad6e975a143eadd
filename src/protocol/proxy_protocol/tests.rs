//! Headers good and bad; the verdicts are those of Envoy 1.40 on the same bytes.

use std::net::SocketAddr;

use super::*;

pub(crate) fn settings() -> ProxyProtocol {
    ProxyProtocol {
        allow_without: false,
        allow_v1: true,
        allow_v2: true,
        stat_prefix: Box::default(),
        pass_through: Default::default(),
        rules: Vec::new(),
        in_filter_state: false,
    }
}

/// A header of version 2 with `body` behind its first bytes.
pub(crate) fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE_V2.to_vec();
    bytes.extend([command, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

const INET_BODY: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 3, 0xe8, 7, 0xd0];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&INET_BODY, tlvs].concat())
}

/// What comes of it in one piece; byte by byte it comes to the same, and as soon as the header is whole.
fn seen(bytes: &[u8], rules: &ProxyProtocol) -> Seen {
    let followed = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
    let whole = look(&followed, rules);
    let mut first = Seen::More;
    for end in 0..=followed.len() {
        first = look(&followed[..end], rules);
        if first != Seen::More {
            if let Seen::Header(header) = &first {
                assert_eq!(header.bytes, end, "it is told as soon as it is whole");
            }
            break;
        }
    }
    let kind = |seen: &Seen| matches!(seen, Seen::Header(_));
    assert_eq!(kind(&first), kind(&whole), "{}", bytes.escape_ascii());
    if kind(&whole) {
        assert_eq!(first, whole);
    }
    whole
}

fn header(bytes: &[u8]) -> Header {
    match seen(bytes, &settings()) {
        Seen::Header(header) => {
            assert_eq!(header.bytes, bytes.len());
            header
        }
        other => panic!("{other:?} of {}", bytes.escape_ascii()),
    }
}

#[test]
fn clients_without_an_address_of_ip_are_unknown_or_nobody() {
    let (mut line, mut binary) = (Vec::new(), Vec::new());
    encode_v1(None, &mut line);
    assert_eq!(line, b"PROXY UNKNOWN\r\n");
    assert!(encode_v2(None, [Tlv { kind: 5, value: b"x" }].into_iter(), &mut binary));
    assert_eq!(binary[12..], [0x20, 0, 0, 4, 5, 0, 1, b'x']);
    for written in [line, binary] {
        let found = header(&written);
        assert_eq!((found.addresses, found.bytes), (None, written.len()));
    }
}

fn ends(source: &str, destination: &str) -> Option<[SocketAddr; 2]> {
    Some([source, destination].map(|text| text.parse().unwrap()))
}

#[test]
fn lines_of_version_1_name_both_ends() {
    for (line, addresses) in [
        ("TCP4 1.2.3.4 5.6.7.8 1000 2000", ends("1.2.3.4:1000", "5.6.7.8:2000")),
        ("TCP6 1:2::3 5::6 1000 2000", ends("[1:2::3]:1000", "[5::6]:2000")),
        ("TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 80 90", ends("[::ffff:1.2.3.4]:80", "[::ffff:5.6.7.8]:90")),
        ("TCP6 fe80::1%1 fe80::2 80 90", ends("[fe80::1%1]:80", "[fe80::2]:90")),
        ("TCP4 1.2.3.4 5.6.7.8 0 2000", ends("1.2.3.4:0", "5.6.7.8:2000")),
        ("TCP4 1.2.3.4 5.6.7.8 0080 02000", ends("1.2.3.4:80", "5.6.7.8:2000")),
        ("TCP4 1.2.3.4 5.6.7.8 +80 2000", ends("1.2.3.4:80", "5.6.7.8:2000")),
        ("TCP4 1.2.3.4 5.6.7.8 1000\r 2000", ends("1.2.3.4:1000", "5.6.7.8:2000")),
        ("TCP4 1.2.3.4 5.6.7.8 1000 2000 \t\x0b ", ends("1.2.3.4:1000", "5.6.7.8:2000")),
        ("UNKNOWN", None),
        ("UNKNOWN a b c d e f g", None),
        ("UNKNOWN\t", None),
    ] {
        let found = header(format!("PROXY {line}\r\n").as_bytes());
        assert_eq!((found.version, found.addresses), (Version::V1, addresses), "{line}");
    }
}

#[test]
fn malformed_lines_are_bad() {
    for line in [
        "PROXY  TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1000 2000\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2000\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -80 2000\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 80 90 100\r\n",
        "PROXY TCP4 01.2.3.4 5.6.7.8 80 90\r\n",
        "PROXY TCP4 1::2 3::4 80 90\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 80 90\r\n",
        "PROXY TCP4 0.0.0.0 5.6.7.8 80 90\r\n",
        "PROXY TCP4 255.255.255.255 5.6.7.8 80 90\r\n",
        "PROXY TCP4 224.0.0.1 5.6.7.8 80 90\r\n",
        "PROXY TCP4 1.2.3.4 0.0.0.0 80 90\r\n",
        "PROXY TCP6 :: 5::6 80 90\r\n",
        "PROXY TCP6 ff02::1 5::6 80 90\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\0\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(seen(line.as_bytes(), &settings()), Seen::Bad(Some(Version::V1)), "{line:?}");
    }
    for other in ["proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", " PROXY UNKNOWN\r\n", "PROXY\tUNKNOWN\r\n", ""] {
        assert_eq!(seen(other.as_bytes(), &settings()), Seen::Bad(None), "{other:?}");
    }
}

#[test]
fn line_ends_within_108_bytes() {
    let line = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16)).into_bytes();
    assert_eq!(header(&line(108)).bytes, 108);
    assert_eq!(seen(&line(109), &settings()), Seen::Bad(None));
    assert_eq!(look(&line(109)[..108], &settings()), Seen::More);
    assert_eq!(look(&line(200)[..109], &settings()), Seen::Bad(None));
}

#[test]
fn headers_of_version_2_name_both_ends_or_none() {
    let inet6: Vec<u8> = (0..32).chain([3, 0xe8, 7, 0xd0]).collect();
    let sixes =
        ends("[1:203:405:607:809:a0b:c0d:e0f]:1000", "[1011:1213:1415:1617:1819:1a1b:1c1d:1e1f]:2000");
    let fours = ends("1.2.3.4:1000", "5.6.7.8:2000");
    for (bytes, addresses) in [
        (v2(0x21, 0x11, &INET_BODY), fours),
        (v2(0x21, 0x12, &INET_BODY), fours),
        (v2(0x21, 0x21, &inet6), sixes),
        (v2(0x20, 0, &[]), None),
        (v2(0x20, 0x11, &INET_BODY), None),
        (v2(0x20, 0x31, &[1; 216]), None),
        // What is behind the addresses of the proxy's own connection is nobody's business.
        (v2(0x20, 0x11, &[234, 0, 5, 1]), None),
    ] {
        let found = header(&bytes);
        assert_eq!((found.version, found.addresses), (Version::V2, addresses));
    }
}

#[test]
fn malformed_headers_of_version_2_are_bad() {
    let change = |at: usize, to: u8| {
        let mut bytes = v2(0x21, 0x11, &INET_BODY);
        bytes[at] = to;
        bytes
    };
    let any = [&[0; 16][..], &[1; 20]].concat();
    for bytes in [
        v2(0x21, 0, &[]),
        v2(0x21, 0, &INET_BODY),
        v2(0x21, 0x01, &INET_BODY),
        v2(0x21, 0x10, &INET_BODY),
        v2(0x21, 0x13, &INET_BODY),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x22, 0x11, &INET_BODY),
        v2(0x11, 0x11, &INET_BODY),
        v2(0x31, 0x11, &INET_BODY),
        v2(0x21, 0x21, &INET_BODY),
        v2(0x21, 0x21, &any),
        change(15, 11),
        change(16, 224),
        with_tlvs(&[0]),
        with_tlvs(&[234, 0]),
        with_tlvs(&[234, 0, 5, 1, 2, 3]),
    ] {
        assert_eq!(seen(&bytes, &settings()), Seen::Bad(Some(Version::V2)), "{}", bytes.escape_ascii());
    }
    assert_eq!(seen(&change(11, b'x'), &settings()), Seen::Bad(None));
}

#[test]
fn tlvs_are_read_in_order_and_checksums_are_not_verified() {
    let tlvs = [234, 0, 2, b'a', b'b', 3, 0, 4, 9, 9, 9, 9, 4, 0, 0];
    let bytes = with_tlvs(&tlvs);
    let found = header(&bytes);
    let read: Vec<_> = Tlvs::new(&bytes[found.tlvs]).map(|tlv| (tlv.kind, tlv.value.to_vec())).collect();
    assert_eq!(read, [(234, b"ab".to_vec()), (3, vec![9; 4]), (4, Vec::new())]);
    let largest = with_tlvs(&[&[4, 0xff, 0xf0][..], &[0; 0xfff0]].concat());
    assert_eq!(header(&largest[..]).bytes, V2_BYTES_MAX);
}

#[test]
fn versions_that_are_not_taken_are_denied_or_no_headers_at_all() {
    let line = b"PROXY UNKNOWN\r\n";
    let binary = v2(0x20, 0, &[]);
    let mut rules = ProxyProtocol { allow_v1: false, ..settings() };
    assert_eq!(seen(line, &rules), Seen::Denied(Version::V1));
    rules.allow_without = true;
    assert_eq!(seen(line, &rules), Seen::Absent);
    rules = ProxyProtocol { allow_v2: false, ..settings() };
    assert_eq!(seen(&binary, &rules), Seen::Denied(Version::V2));
    rules.allow_without = true;
    assert_eq!(seen(&binary, &rules), Seen::Absent);
    rules = ProxyProtocol { allow_without: true, ..settings() };
    for absent in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY\r\n", b"\r\nGET", b"proxy UNKNOWN\r\n"] {
        assert_eq!(seen(absent, &rules), Seen::Absent);
    }
    for bad in [&b"PROXY x\r\n"[..], &v2(0x21, 0, &[])] {
        assert!(matches!(seen(bad, &rules), Seen::Bad(Some(_))), "what begins right must be right");
    }
}

#[test]
fn written_headers_are_read_as_they_were_meant() {
    let pairs = [
        ends("1.2.3.4:1000", "5.6.7.8:2000"),
        ends("[1::2]:1000", "[3::4]:65535"),
        ends("1.2.3.4:1", "[3::4]:2"),
    ];
    for addresses in pairs.into_iter().flatten() {
        let expected = addresses.map(|address| match addresses.iter().all(SocketAddr::is_ipv4) {
            true => address,
            false => match address {
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
                SocketAddr::V6(_) => address,
            },
        });
        let mut line = Vec::new();
        encode_v1(addresses, &mut line);
        assert_eq!(header(&line).addresses, Some(expected), "{}", line.escape_ascii());
        let mut binary = Vec::new();
        let tlvs = [Tlv { kind: 4, value: &[0; 65_536] }, Tlv { kind: 234, value: b"vpc" }];
        assert!(!encode_v2(addresses, tlvs.into_iter(), &mut binary), "one is too long");
        let found = header(&binary);
        assert_eq!(found.addresses, Some(expected));
        assert!(Tlvs::new(&binary[found.tlvs]).eq([tlvs[1]]));
    }
    let mut local = Vec::new();
    encode_local(&mut local);
    assert_eq!(header(&local).addresses, None);
}
