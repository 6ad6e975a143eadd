//! Both sides of a session over pipes in memory: every suite, every cut of the stream, and peers that break the rules.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::{AlertDescription, Error, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

use super::inbound::{Inbound, Next};
use super::meter::Meter;
use super::outbound::{Outbound, Records};
use super::recipe::{Recipe, server_name};
use super::session::{Fault, Session};
use super::{ServerTls, Staple, testing};
use crate::base::clock::Now;
use crate::base::limits;
use crate::buffer::{Chunk, ChunkSize, Pool};
use crate::config::tls::{CommonTls, DownstreamTls, OcspStaplePolicy, Source, TlsCertificate};

/// What encrypting adds to a record of TLS 1.3.
const OVERHEAD_BYTES: usize = 22;

/// One side of a connection, and what it came to.
struct Side {
    session: Session,
    inbound: Inbound,
    outbound: Outbound,
    pool: Pool,
    meter: Meter,
    /// Written and not delivered.
    wire: Vec<u8>,
    read: Vec<u8>,
    /// Chunks that were handed out to the reader, in which the bytes were.
    views: usize,
    closed: bool,
    fault: Option<Fault>,
}

impl Side {
    fn new(session: Session) -> Self {
        Self {
            session,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            pool: Pool::with_capacity(1024, 64).unwrap(),
            meter: Meter::default(),
            wire: Vec::new(),
            read: Vec::new(),
            views: 0,
            closed: false,
            fault: None,
        }
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Session, &mut Outbound, &mut Inbound, &mut Records<'_>) -> T,
    ) -> T {
        let Self { session, inbound, outbound, pool, wire, .. } = self;
        let mut send = |chunk: Chunk| wire.extend_from_slice(&chunk);
        let mut records = Records::new(pool, &mut send);
        let outcome = work(session, outbound, inbound, &mut records);
        records.finish();
        outcome
    }

    /// Takes bytes in chunks of `size`, each filled with at most `piece` of them, and works on all.
    fn receive(&mut self, bytes: &[u8], piece: usize, size: ChunkSize) {
        for piece in bytes.chunks(piece) {
            let mut left = piece;
            while !left.is_empty() {
                let mut chunk = self.pool.alloc(size).unwrap();
                left = &left[chunk.write(left)..];
                let mut rest = Some(chunk.freeze());
                while let Some(chunk) = rest {
                    if self.fault.is_some() {
                        return;
                    }
                    match self.inbound.take(&self.pool, chunk) {
                        Ok(more) => rest = more,
                        Err(fault) => return self.fault = Some(fault),
                    }
                    self.work();
                }
            }
        }
    }

    fn work(&mut self) {
        loop {
            let pool = self.pool.clone();
            match self.write(|session, _, inbound, out| inbound.next(&pool, session, out)) {
                Ok(Next::Data(data)) => {
                    assert!(!data.is_empty());
                    self.read.extend_from_slice(&data);
                    self.views += 1;
                }
                Ok(Next::More) => return,
                Ok(Next::Closed) => return self.closed = true,
                Err(fault) => return self.fault = Some(fault),
            }
        }
    }

    /// Sends bytes that are queued in pieces.
    fn send(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            let mut chunk = self.pool.alloc_for(piece.len()).unwrap();
            chunk.write(piece);
            self.outbound.push(chunk.freeze());
        }
        self.write(|session, outbound, inbound, out| outbound.encrypt(Now(5), session, inbound.held(), out))
            .unwrap();
    }

    fn close(&mut self) {
        self.write(|session, _, inbound, out| session.close(inbound.held(), out)).unwrap();
    }

    fn holds_nothing(&self) -> bool {
        self.inbound.is_empty() && self.outbound.bytes() == 0 && self.pool.chunks_in_use() == 0
    }
}

/// A server and a client that has greeted it.
fn pair(recipe: &Recipe) -> (Side, Side) {
    let (server, client) = recipe.configs();
    let server = Side::new(Session::server(server).unwrap());
    let mut client = Side::new(Session::client(client, server_name()).unwrap());
    client.write(|session, _, _, out| session.ingest(&mut [], out)).outcome.unwrap();
    (server, client)
}

/// Delivers what either side has written, until both are silent.
fn deliver(a: &mut Side, b: &mut Side, piece: usize, size: ChunkSize) {
    while !a.wire.is_empty() || !b.wire.is_empty() {
        let (to_b, to_a) = (std::mem::take(&mut a.wire), std::mem::take(&mut b.wire));
        b.receive(&to_b, piece, size);
        a.receive(&to_a, piece, size);
    }
}

fn shaken(recipe: &Recipe, piece: usize) -> (Side, Side) {
    let (mut server, mut client) = pair(recipe);
    deliver(&mut client, &mut server, piece, ChunkSize::Small);
    for side in [&server, &client] {
        assert_eq!(side.fault, None);
        assert!(!side.session.is_handshaking() && side.holds_nothing());
    }
    (server, client)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at >> 9) as u8).collect()
}

/// Besides the bytes this shows where each suite has its plaintext: a suite that did not decrypt in place would fail.
#[test]
fn bytes_of_every_suite_pass_both_ways_whatever_the_pieces() {
    for &suite in aws_lc_rs::ALL_CIPHER_SUITES {
        for (piece, size) in [
            (1, ChunkSize::Small),
            (7, ChunkSize::Small),
            (4096, ChunkSize::Small),
            (16_406, ChunkSize::Large),
            (usize::MAX, ChunkSize::Large),
        ] {
            let (server, client) = &mut shaken(&Recipe::of(suite), piece);
            let bytes = pattern(if piece < 100 { 20_000 } else { 300_000 });
            for sent_in in [700, 5000, 65_536] {
                server.send(&bytes, sent_in);
                client.send(&bytes[1..], sent_in);
                deliver(server, client, piece, size);
                assert_eq!((&server.fault, &client.fault), (&None, &None), "{suite:?}");
                assert!(client.read == bytes && server.read == bytes[1..], "{suite:?} {piece} {sent_in}");
                assert!(server.holds_nothing() && client.holds_nothing(), "{suite:?} {piece}");
                (server.read, client.read) = Default::default();
            }
            server.close();
            deliver(server, client, piece, size);
            assert!(client.closed && !server.closed);
            // The other direction goes on.
            client.send(b"later", 5);
            client.close();
            deliver(server, client, piece, size);
            assert!(server.closed && server.read == b"later" && server.holds_nothing());
        }
    }
}

#[test]
fn handshake_in_small_fragments_passes_with_client_certificates_whatever_the_pieces() {
    for suite in
        [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
    {
        for (fragment, piece) in [(Some(64), 1), (Some(64), 4096), (Some(1000), 3), (None, 1)] {
            let recipe = Recipe {
                fragment,
                more_names: 100,
                client_certificate: true,
                alpn: vec![b"h2".into()],
                ..Recipe::of(suite)
            };
            let (server, client) = &mut shaken(&recipe, piece);
            assert_eq!((server.session.alpn(), client.session.alpn()), (Some(&b"h2"[..]), Some(&b"h2"[..])));
            assert_eq!(server.session.peer_certificates().map(<[_]>::len), Some(1));
            server.send(b"hello", 5);
            deliver(server, client, piece, ChunkSize::Small);
            assert_eq!(client.read, b"hello");
        }
    }
}

/// A byte per record: the views that are handed out must not keep a chunk, or an entry of a queue, for each.
#[test]
fn tiny_records_are_put_together() {
    let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
    let bytes = pattern(3000);
    for byte in &bytes {
        client.send(&[*byte], 1);
    }
    let wire = std::mem::take(&mut client.wire);
    server.receive(&wire, usize::MAX, ChunkSize::Small);
    assert_eq!(server.read, bytes);
    // One for what lies whole in a chunk, one for what straddles two.
    assert!(server.views <= 2 * (wire.len() / limits::SMALL_CHUNK_BYTES + 1), "{} views", server.views);
}

/// A plaintext that is kept keeps its chunk; the rest of that chunk must not be kept with it.
#[test]
fn begun_record_moves_away_from_the_plaintext_before_it() {
    let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
    client.send(b"first", 5);
    client.send(b"second", 6);
    let wire = std::mem::take(&mut client.wire);
    let mut chunk = server.pool.alloc(ChunkSize::Small).unwrap();
    chunk.write(&wire[..wire.len() - 3]);
    assert!(server.inbound.take(&server.pool, chunk.freeze()).unwrap().is_none());
    let pool = server.pool.clone();
    let first = match server.write(|session, _, inbound, out| inbound.next(&pool, session, out)) {
        Ok(Next::Data(data)) => data,
        other => panic!("{other:?}"),
    };
    assert!(first.try_into_mut().is_ok(), "nobody else looks at the chunk");
    server.receive(&wire[wire.len() - 3..], 1, ChunkSize::Small);
    assert_eq!(server.read, b"second");
}

#[test]
fn small_pieces_become_one_record_and_large_bodies_fill_their_chunks() {
    let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
    server.send(&pattern(1500), 700);
    assert_eq!(server.wire.len(), 1500 + OVERHEAD_BYTES);
    deliver(&mut server, &mut client, usize::MAX, ChunkSize::Small);
    client.read.clear();
    let mut sizes = Vec::new();
    let Side { session, outbound, pool, .. } = &mut server;
    let mut chunk = pool.alloc(ChunkSize::Large).unwrap();
    chunk.advance(limits::LARGE_CHUNK_BYTES);
    let chunk = chunk.freeze();
    (0..8).for_each(|_| outbound.push(chunk.clone()));
    let mut wire = Vec::new();
    let mut send = |chunk: Chunk| {
        sizes.push(chunk.len());
        wire.extend_from_slice(&chunk);
    };
    let mut records = Records::new(pool, &mut send);
    outbound.encrypt(Now(6), session, &mut [], &mut records).unwrap();
    records.finish();
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| limits::LARGE_CHUNK_BYTES - size < 2100), "{sizes:?}");
    assert!(*last <= limits::RECORD_CHUNK_BYTES);
    // Those of the first burst are small: four.
    let records = sizes.len() * 4 + 4;
    assert!(wire.len() - 8 * limits::LARGE_CHUNK_BYTES <= records * OVERHEAD_BYTES);
    client.receive(&wire, usize::MAX, ChunkSize::Large);
    assert_eq!(client.read.len(), 8 * limits::LARGE_CHUNK_BYTES);
    drop(chunk);
    assert!(server.holds_nothing());
}

#[test]
fn what_is_no_tls_is_refused_with_an_alert() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[22, 3, 1, 0xff, 0xff, 0],
        &[23, 3, 3, 0, 2, 1, 1],
        &[22, 3, 1, 0, 0],
    ] {
        let (mut server, _) = pair(&Recipe::default());
        server.receive(bytes, 1, ChunkSize::Small);
        assert!(matches!(server.fault, Some(Fault::Protocol(_))), "{bytes:?}: {:?}", server.fault);
        assert!(server.inbound.is_empty() && server.pool.chunks_in_use() == 0);
    }
}

#[test]
fn changed_byte_anywhere_ends_the_session_with_an_alert_and_without_a_byte() {
    let mut server_alerts = 0;
    for at in 0..60 {
        let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
        client.send(b"thirty-eight bytes of secret plaintext", 64);
        let mut wire = std::mem::take(&mut client.wire);
        let Some(byte) = wire.get_mut(at) else { break };
        *byte ^= 1;
        server.receive(&wire, usize::MAX, ChunkSize::Small);
        // A longer record is waited for. Type and version are no part of what is authenticated, as TLS 1.3 sees them.
        if server.fault.is_some() {
            client.receive(&std::mem::take(&mut server.wire), usize::MAX, ChunkSize::Small);
            let alerted = matches!(&client.fault, Some(Fault::Protocol(Error::AlertReceived(_))));
            server_alerts += usize::from(alerted);
        }
        assert!(server.read.is_empty() || at < 3, "{at}");
    }
    assert!(server_alerts >= 55, "{server_alerts}");
}

#[test]
fn plaintext_before_a_fault_is_handed_out_first() {
    let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
    client.send(b"good", 4);
    let good = client.wire.len();
    client.send(b"bad", 3);
    let mut wire = std::mem::take(&mut client.wire);
    wire[good + 7] ^= 1;
    server.receive(&wire, usize::MAX, ChunkSize::Small);
    assert_eq!(server.read, b"good");
    assert_eq!(server.fault, Some(Fault::Protocol(Error::DecryptError)));
    client.receive(&std::mem::take(&mut server.wire), usize::MAX, ChunkSize::Small);
    let alert = Error::AlertReceived(AlertDescription::BadRecordMac);
    assert_eq!(client.fault, Some(Fault::Protocol(alert)));
}

#[test]
fn bytes_behind_the_announced_end_are_ignored() {
    let (mut server, mut client) = shaken(&Recipe::default(), usize::MAX);
    client.send(b"all", 3);
    client.close();
    client.wire.extend_from_slice(b"\x17\x03\x03\x00\x04none");
    deliver(&mut client, &mut server, usize::MAX, ChunkSize::Small);
    assert!(server.closed && server.read == b"all" && server.fault.is_none() && server.holds_nothing());
}

/// A chain of certificates that comes in many records is counted while it is put together, and given up where others need
/// the room.
#[test]
fn message_in_many_records_is_counted_until_it_is_whole() {
    let recipe = Recipe { more_names: 600, client_certificate: true, ..Recipe::default() };
    let (mut server, mut client) = pair(&recipe);
    server.receive(&std::mem::take(&mut client.wire), usize::MAX, ChunkSize::Small);
    let flight = std::mem::take(&mut server.wire);
    let (begun, rest) = flight.split_at(flight.len() / 2);
    client.receive(begun, usize::MAX, ChunkSize::Small);
    assert_eq!((&client.fault, client.inbound.keep(client.meter.anybody())), (&None, Ok(())));
    assert!(client.meter.bytes() > limits::SMALL_CHUNK_BYTES);
    let mut another = None;
    assert!(client.meter.anybody().ask(&mut another, limits::TLS_UNFINISHED_BYTES_MAX));
    assert_eq!(client.inbound.keep(client.meter.anybody()), Err(Fault::Exhausted));
    assert_eq!(client.meter.refused(), 1);
    drop(another);
    client.receive(rest, usize::MAX, ChunkSize::Small);
    assert_eq!(client.meter.bytes(), 0);
    let (server, client) = shaken(&recipe, usize::MAX);
    for side in [server, client] {
        assert!(side.meter.bytes() == 0 && side.meter.refused() == 0);
    }
}

#[test]
fn message_that_no_chunk_holds_is_refused() {
    let recipe = Recipe { more_names: 930, fragment: Some(200), ..Recipe::default() };
    let (mut server, mut client) = pair(&recipe);
    deliver(&mut client, &mut server, 4096, ChunkSize::Small);
    assert_eq!(client.fault, Some(Fault::TooLarge));
}

#[test]
fn hello_that_waits_is_freed_at_once_when_others_need_the_room() {
    let (mut server, client) = pair(&Recipe::default());
    let owner = server.meter.anybody();
    let mut chunk = server.pool.alloc(ChunkSize::Small).unwrap();
    chunk.write(&client.wire[..100]);
    server.inbound.gather(&server.pool, chunk.freeze()).unwrap();
    server.inbound.park(owner).unwrap();
    assert!(!server.inbound.is_empty() && server.inbound.bytes().is_empty());
    server.inbound.unpark().unwrap();
    assert_eq!(server.inbound.bytes(), &client.wire[..100]);
    server.inbound.park(owner).unwrap();
    let mut another = None;
    assert!(owner.ask(&mut another, limits::TLS_UNFINISHED_BYTES_MAX));
    assert_eq!(server.pool.chunks_in_use(), 0);
    assert_eq!(server.inbound.unpark(), Err(Fault::Exhausted));
}

/// A suite whose keys may encrypt a few records only.
fn short_lived(suite: SupportedCipherSuite, records: u64) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: rustls::crypto::CipherSuiteCommon { confidentiality_limit: records, ..suite.common },
                ..*suite
            })))
        }
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: rustls::crypto::CipherSuiteCommon { confidentiality_limit: records, ..suite.common },
                ..*suite
            })))
        }
    }
}

#[test]
fn keys_are_changed_before_they_have_encrypted_too_much() {
    let suite = short_lived(cipher_suite::TLS13_AES_128_GCM_SHA256, 16);
    for piece in [1, usize::MAX] {
        let (server, client) = &mut shaken(&Recipe::of(suite), piece);
        let bytes = pattern(2000);
        for _ in 0..200 {
            server.send(&bytes, 2000);
            client.send(&bytes, 2000);
            deliver(server, client, piece, ChunkSize::Small);
        }
        assert_eq!((&server.fault, &client.fault), (&None, &None));
        assert!(server.read == bytes.repeat(200) && client.read == bytes.repeat(200));
        assert!(server.holds_nothing() && client.holds_nothing());
    }
}

#[test]
fn keys_that_cannot_be_changed_end_the_session_in_time() {
    let suite = short_lived(cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 16);
    let (mut server, mut client) = shaken(&Recipe::of(suite), usize::MAX);
    let mut sent = 0;
    let fault = loop {
        let mut chunk = server.pool.alloc(ChunkSize::Small).unwrap();
        chunk.write(b"record");
        server.outbound.push(chunk.freeze());
        let outcome = server
            .write(|session, outbound, inbound, out| outbound.encrypt(Now(5), session, inbound.held(), out));
        match outcome {
            Ok(()) => sent += 1,
            Err(fault) => break fault,
        }
        assert!(sent < 20);
    };
    assert_eq!(fault, Fault::KeysExhausted);
    deliver(&mut server, &mut client, usize::MAX, ChunkSize::Small);
    assert_eq!(client.read, b"record".repeat(sent));
}

#[test]
fn resumed_session_is_known_as_one() {
    let (server, client) = Recipe::default().configs();
    for resumed in [false, true] {
        let mut server = Side::new(Session::server(Arc::clone(&server)).unwrap());
        let mut client = Side::new(Session::client(Arc::clone(&client), server_name()).unwrap());
        client.write(|session, _, _, out| session.ingest(&mut [], out)).outcome.unwrap();
        deliver(&mut client, &mut server, usize::MAX, ChunkSize::Small);
        assert_eq!((server.session.is_resumed(), client.session.is_resumed()), (resumed, resumed));
    }
}

/// rustls tells its resolver of certificates too little of a hello, and takes nothing back from it.
#[test]
fn session_knows_what_became_of_the_ocsp_response_that_its_client_asked_for() {
    let leaf = testing::Authority::new("root").issue(testing::Spec::dns("server.example").serial(&[5]));
    let expired = testing::ocsp_response(&[5], "20200101000000Z", Some("20200102000000Z"));
    let certificate = TlsCertificate { ocsp_staple: Some(Source::inline(expired)), ..leaf.config() };
    let common = CommonTls { certificates: vec![certificate], ..CommonTls::default() };
    let ocsp_staple_policy = OcspStaplePolicy::Strict;
    let config = DownstreamTls { common, ocsp_staple_policy, ..DownstreamTls::default() };
    let tls = ServerTls::compile(&config, None, None).unwrap();
    for asks in [true, false] {
        let mut session = Session::server(Arc::clone(tls.config())).unwrap();
        session.set_asks_for_staple(asks);
        let mut server = Side::new(session);
        let mut client = Side::new(Session::client(Recipe::default().configs().1, server_name()).unwrap());
        client.write(|session, _, _, out| session.ingest(&mut [], out)).outcome.unwrap();
        deliver(&mut client, &mut server, usize::MAX, ChunkSize::Small);
        assert_eq!(server.session.staple(), asks.then_some(Staple::Failed));
        // It does not trust whom it is shown.
        let is_shown = matches!(client.fault, Some(Fault::Protocol(Error::InvalidCertificate(_))));
        assert_eq!(is_shown, !asks);
    }
}
