//! Arbitrary bytes into the inspector and into a session, for `crate::fuzz`: invariants, and no panic.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::inbound::{Inbound, Next};
use super::inspector::{Hello, Inspector, Seen};
use super::outbound::Records;
use super::record;
use super::session::{Fault, Session};
use crate::buffer::Pool;

/// A hello: the cut of the input does not matter, and what rustls takes is seen as rustls sees it.
pub(crate) fn client_hello(input: &[u8]) {
    let Some((step, input)) = input.split_first() else { return };
    let mut whole = Inspector::default();
    let verdict = whole.look(input);
    let mut cut = Inspector::default();
    let mut end = 0;
    let (at, in_pieces) = loop {
        end = (end + usize::from(*step) + 1).min(input.len());
        let seen = cut.look(&input[..end]);
        if seen != Seen::More || end == input.len() {
            break (end, seen);
        }
    };
    assert_eq!(verdict, in_pieces);
    let hello = (verdict == Seen::Hello).then(|| whole.hello(input));
    if verdict == Seen::Hello {
        assert_eq!(hello, Some(cut.hello(&input[..at])));
    }
    if let Some(theirs) = seen_by_rustls(input).filter(|_| is_tls(input)) {
        assert_eq!(hello.flatten(), Some(theirs));
    }
}

/// Whether all records are of a version of TLS. rustls alone takes those of SSL 2 (0x0002) too; BoringSSL does not.
fn is_tls(mut bytes: &[u8]) -> bool {
    while let Some(len) = record::length(bytes) {
        if bytes.get(1) != Some(&3) {
            return false;
        }
        bytes = bytes.get(len..).unwrap_or_default();
    }
    true
}

fn seen_by_rustls(bytes: &[u8]) -> Option<Hello> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            break;
        }
    }
    let accepted = acceptor.accept().ok()??;
    let hello = accepted.client_hello();
    let protocols = hello.alpn().map(|names| names.map(Box::from).collect()).unwrap_or_default();
    Some(Hello { server_name: hello.server_name().map(|name| name.to_ascii_lowercase().into()), protocols })
}

/// A server without a certificate: a session that can only fail, but for its reasons.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// A client's bytes: the cut of the input does not matter, nothing is kept once the session has failed, and never more than
/// what one connection may hold.
pub(crate) fn session(input: &[u8]) {
    let Some((step, input)) = input.split_first() else { return };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let Ok(builder) = builder.with_safe_default_protocol_versions() else { return };
    let config = Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(Nobody)));
    let whole = outcome(&config, input, input.len().max(1));
    let cut = outcome(&config, input, usize::from(*step) + 1);
    assert_eq!(whole, cut);
}

fn outcome(config: &Arc<ServerConfig>, input: &[u8], piece: usize) -> Option<Fault> {
    let Ok(pool) = Pool::with_capacity(64, 8) else { return None };
    let Ok(mut session) = Session::server(Arc::clone(config)) else { return None };
    let mut inbound = Inbound::default();
    for piece in input.chunks(piece) {
        let mut left = piece;
        while !left.is_empty() {
            let mut chunk = pool.alloc_for(left.len().min(4096))?;
            left = &left[chunk.write(left)..];
            let mut rest = Some(chunk.freeze());
            while let Some(chunk) = rest {
                match inbound.take(&pool, chunk) {
                    Ok(more) => rest = more,
                    Err(fault) => return Some(fault),
                }
                let mut send = |_| {};
                let mut records = Records::new(&pool, &mut send);
                let next = inbound.next(&pool, &mut session, &mut records);
                records.finish();
                assert!(pool.chunks_in_use() <= 2, "the input, and what is left of the chunk");
                match next {
                    Ok(Next::Data(_)) => unreachable!("no handshake is ever complete"),
                    Ok(Next::More) => {}
                    Ok(Next::Closed) => return None,
                    Err(fault) => {
                        drop(rest);
                        assert!(inbound.is_empty() && pool.chunks_in_use() == 0);
                        return Some(fault);
                    }
                }
            }
        }
    }
    None
}
