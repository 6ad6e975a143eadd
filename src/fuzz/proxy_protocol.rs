//! Invariants of the PROXY protocol's headers: the cut of the input does not matter, nothing beyond the header is needed, and
//! what is written back is read as the same.

use crate::config::listener_filter::ProxyProtocol;
use crate::config::proxy_protocol::TlvTypes;
use crate::protocol::proxy_protocol::{
    self, Header, Seen, Tlvs, V1_BYTES_MAX, V2_BYTES_MAX, Version, encode_v1, encode_v2,
};

/// A connection's first bytes, behind a byte that says which headers are taken.
pub fn proxy_header(input: &[u8]) {
    let Some((&bits, bytes)) = input.split_first() else { return };
    let rules = ProxyProtocol {
        allow_without: bits & 1 != 0,
        allow_v1: bits & 2 == 0,
        allow_v2: bits & 4 == 0,
        stat_prefix: Box::default(),
        pass_through: TlvTypes::All,
        rules: Vec::new(),
        in_filter_state: false,
    };
    let whole = proxy_protocol::look(bytes, &rules);
    let mut first = Seen::More;
    for end in 1..=bytes.len() {
        first = proxy_protocol::look(&bytes[..end], &rules);
        if first != Seen::More {
            break;
        }
    }
    let Seen::Header(header) = &whole else {
        assert!(!matches!(first, Seen::Header(_)), "a header that more bytes unmake");
        return;
    };
    assert_eq!(first, whole);
    let most = if header.version == Version::V1 { V1_BYTES_MAX } else { V2_BYTES_MAX };
    assert!(header.bytes <= most && header.bytes <= bytes.len() && header.tlvs.end <= header.bytes);
    assert_eq!(proxy_protocol::look(&bytes[..header.bytes], &rules), whole);
    let Some(addresses) = header.addresses else { return };
    let mut written = Vec::new();
    let tlvs = || Tlvs::new(&bytes[header.tlvs.clone()]);
    match header.version {
        Version::V1 => encode_v1(addresses, &mut written),
        Version::V2 => assert!(encode_v2(addresses, tlvs(), &mut written)),
    }
    let Seen::Header(Header { addresses: again, bytes: len, tlvs: place, .. }) =
        proxy_protocol::look(&written, &rules)
    else {
        panic!("{} is no header", written.escape_ascii())
    };
    // Of an IPv6 address a scope is not written.
    let plain = |addresses: [std::net::SocketAddr; 2]| addresses.map(|end| (end.ip(), end.port()));
    assert_eq!((again.map(plain), len), (Some(plain(addresses)), written.len()));
    assert!(Tlvs::new(&written[place]).eq(tlvs()));
}
