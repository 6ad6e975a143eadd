//! The inspector beside rustls' own parser, over hellos whole, cut, spread over records and changed at random.

use rustls::server::Acceptor;

use super::super::recipe::Recipe;
use super::super::session::{Outgoing, Session};
use super::*;
use crate::base::rng::Rng;
use rustls::pki_types::ServerName as Name;

#[derive(Default)]
struct Wire(Vec<u8>, Vec<u8>);

impl Outgoing for Wire {
    fn room(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.1.resize(bytes, 0);
        Some(&mut self.1)
    }

    fn advance(&mut self, bytes: usize) {
        self.0.extend_from_slice(&self.1[..bytes]);
    }
}

/// A hello as rustls says it.
fn hello(name: &'static str, alpn: &[&[u8]], fragment: Option<usize>) -> Vec<u8> {
    let alpn = alpn.iter().map(|name| name.to_vec()).collect();
    let (_, client) = Recipe { alpn, fragment, ..Recipe::default() }.configs();
    let mut session = Session::client(client, Name::try_from(name).unwrap()).unwrap();
    let mut wire = Wire::default();
    session.ingest(&mut [], &mut wire).outcome.unwrap();
    wire.0
}

fn seen(bytes: &[u8]) -> (Seen, Option<Hello>) {
    let mut inspector = Inspector::default();
    let seen = inspector.look(bytes);
    (seen, (seen == Seen::Hello).then(|| inspector.hello(bytes)).flatten())
}

/// What rustls' own parser makes of it; `None`: it refuses, or waits.
fn rustls_sees(bytes: &[u8]) -> Option<Hello> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
    }
    let accepted = acceptor.accept().ok()??;
    let hello = accepted.client_hello();
    let protocols = hello.alpn().map(|names| names.map(Box::from).collect()).unwrap_or_default();
    Some(Hello { server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()), protocols })
}

#[test]
fn server_name_and_protocols_are_found_whatever_the_pieces_and_records() {
    for fragment in [None, Some(64), Some(33)] {
        let bytes = hello("Some.Example", &[b"h2", b"http/1.1"], fragment);
        let mut inspector = Inspector::default();
        for end in 0..bytes.len() {
            assert_eq!(inspector.look(&bytes[..end]), Seen::More, "{end}");
        }
        assert_eq!(inspector.look(&bytes), Seen::Hello);
        let expected = Hello {
            server_name: Some("some.example".into()),
            protocols: vec![(*b"h2").into(), (*b"http/1.1").into()],
        };
        assert_eq!(inspector.hello(&bytes), Some(expected.clone()));
        assert_eq!(rustls_sees(&bytes), Some(expected));
        // What follows does not matter.
        assert_eq!(seen(&[&bytes[..], b"more"].concat()), seen(&bytes));
    }
}

#[test]
fn message_header_that_is_spread_over_records_is_put_together() {
    let bytes = hello("some.example", &[], None);
    let spread: Vec<u8> = bytes[5..].iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect();
    assert_eq!(seen(&spread), seen(&bytes));
    assert_eq!(rustls_sees(&spread), seen(&spread).1);
}

/// As BoringSSL has it; rustls is alone in taking what says to be of SSL 2.
#[test]
fn record_of_another_version_is_none_of_a_hello() {
    let mut bytes = hello("some.example", &[], Some(64));
    bytes[64 + 1..64 + 3].copy_from_slice(&[0, 2]);
    assert!(rustls_sees(&bytes).is_some());
    assert_eq!(seen(&bytes), (Seen::Other, None));
}

#[test]
fn address_is_no_server_name() {
    let (seen, hello) = seen(&hello("10.0.0.1", &[b"h2"], None));
    let hello = hello.unwrap();
    assert_eq!((seen, hello.server_name, hello.protocols.len()), (Seen::Hello, None, 1));
}

#[test]
fn hello_that_asks_for_an_ocsp_response_is_told_from_one_that_does_not() {
    let asks = |bytes: &[u8]| {
        let mut inspector = Inspector::default();
        assert_eq!(inspector.look(bytes), Seen::Hello);
        inspector.asks_for_staple(bytes)
    };
    // As rustls always does.
    let mut bytes = hello("some.example", &[], None);
    assert!(asks(&bytes));
    let request = memchr::memmem::find(&bytes, &[0, 5, 0, 5, 1, 0, 0, 0, 0]).unwrap();
    // An extension that nobody knows.
    bytes[request] = 0xfa;
    assert!(!asks(&bytes));
}

#[test]
fn what_is_no_hello_is_told_by_its_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0",
        &[0x80, 0x2e, 1, 3, 1],
        &[22, 2, 0],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0xff, 0xff],
        &[22, 3, 1, 0, 5, 2],
        &[22, 3, 1, 0, 4, 1, 1, 0, 0],
    ] {
        assert_eq!(seen(bytes).0, Seen::Other, "{bytes:?}");
    }
    assert_eq!(seen(&[]).0, Seen::More);
    assert_eq!(seen(&[22, 3, 1, 0, 5, 1]).0, Seen::More);
}

/// Bytes of a good hello changed at random: whatever rustls takes is seen as rustls sees it.
#[test]
fn changed_hellos_are_seen_as_rustls_sees_them() {
    let bytes = hello("some.example", &[b"h2", b"http/1.1"], None);
    let mut rng = Rng::from_seed(11);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut bytes = bytes.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] = rng.next_u64() as u8,
                1 => bytes[at] = bytes[at].wrapping_add(1),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Some(theirs) = rustls_sees(&bytes) {
            taken += 1;
            assert_eq!(seen(&bytes), (Seen::Hello, Some(theirs)), "{bytes:?}");
        }
    }
    assert!(taken > 5000, "{taken}");
}
