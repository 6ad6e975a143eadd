//! What is known of a TLS connection once its handshake is done: for logs, headers and matching.
use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::certificate::fixed;
use super::facts::Agreed;
use super::{Certificate, TlsStream, Wanted};

/// Facts of one connection. Empty texts: unknown, or there is none.
#[derive(Debug, Default)]
pub struct TlsFacts {
    pub agreed: Agreed,
    /// Certificate of this side.
    pub local: Option<Arc<Certificate>>,
    /// Who the peer is. Apart: few clients show who they are, and every connection has these facts.
    pub peer: Option<Box<PeerIdentity>>,
}

/// A peer by its certificate.
#[derive(Debug)]
pub struct PeerIdentity {
    /// What the certificate says.
    pub certificate: Certificate,
    /// The chain as it came, the peer's own first; empty unless somebody asks for it.
    chain: Vec<Box<[u8]>>,
}

impl TlsFacts {
    /// What is known of a connection once its handshake is complete; this side's certificate is not. `keep_chain` as for
    /// [`PeerIdentity::of`].
    pub fn of(stream: &TlsStream, keep_chain: bool) -> Self {
        let peer = stream.with_peer_certificates(|shown| PeerIdentity::of(shown, keep_chain)).map(Box::new);
        let Some(known) = stream.facts() else { return Self { peer, ..Self::default() } };
        Self { agreed: known.agreed, local: None, peer }
    }

    /// The same of an endpoint's, if anybody writes it.
    pub fn of_upstream(stream: &TlsStream) -> Option<Self> {
        Wanted::Upstream.is_noted().then(|| Self::of(stream, true))
    }
}

impl PeerIdentity {
    /// The peer of these certificates; `None`: there are none, or they cannot be read. `keep_chain` says whether somebody
    /// will ask for them as PEM.
    pub fn of(chain: &[CertificateDer<'_>], keep_chain: bool) -> Option<Self> {
        let certificate = Certificate::parse(chain.first()?).ok()?;
        let chain =
            if keep_chain { chain.iter().map(|der| Box::from(der.as_ref())).collect() } else { Vec::new() };
        Some(Self { certificate, chain })
    }

    /// SHA-256 of the certificate in hexadecimal.
    pub fn fingerprint_256(&self) -> String {
        hex(&self.certificate.sha256)
    }

    /// SHA-1 of the certificate in hexadecimal.
    pub fn fingerprint_1(&self) -> String {
        hex(&self.certificate.sha1)
    }

    /// SHA-256 of the whole chain's certificates, the peer's own first; nothing unless it was kept.
    pub fn chain_sha256(&self) -> impl Iterator<Item = [u8; 32]> {
        self.chain.iter().map(|der| fixed(digest(&SHA256, der).as_ref()))
    }

    /// SHA-1 of the whole chain's certificates; as above.
    pub fn chain_sha1(&self) -> impl Iterator<Item = [u8; 20]> {
        self.chain.iter().map(|der| fixed(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()))
    }

    /// The whole chain's certificates, as above. What cannot be read ends it.
    pub fn chain(&self) -> impl Iterator<Item = Certificate> {
        self.chain.iter().map_while(|der| Certificate::parse(der).ok())
    }

    /// The certificate as URL-encoded PEM; empty unless the chain was kept.
    pub fn url_encoded_pem(&self) -> String {
        self.chain.first().map(|der| url_encode(&pem(der))).unwrap_or_default()
    }

    /// The chain as URL-encoded PEM; empty unless it was kept.
    pub fn url_encoded_pem_chain(&self) -> String {
        self.chain.iter().map(|der| url_encode(&pem(der))).collect()
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 7468, as OpenSSL writes it.
fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let mut bits = [0; 3];
            group.iter().zip(&mut bits).for_each(|(from, to)| *to = *from);
            let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
            for place in 0..4 {
                let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= group.len() { char::from(letter) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// As Envoy does for `x-forwarded-client-cert`: what Base64 and PEM have of special characters.
fn url_encode(pem: &str) -> String {
    let mut text = String::with_capacity(pem.len() + pem.len() / 8);
    for letter in pem.chars() {
        match letter {
            '\n' => text.push_str("%0A"),
            ' ' => text.push_str("%20"),
            '+' => text.push_str("%2B"),
            '/' => text.push_str("%2F"),
            '=' => text.push_str("%3D"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls::testing::{Authority, Spec};

    #[test]
    fn identity_tells_fingerprints_and_pem() {
        let authority = Authority::new("ca");
        let leaf = authority.issue(Spec::dns("a"));
        let chain = [leaf.der(), authority.der()];
        let identity = PeerIdentity::of(&chain, true).unwrap();
        assert_eq!(identity.fingerprint_256().len(), 64);
        assert_eq!(identity.fingerprint_1().len(), 40);
        let decoded = identity.url_encoded_pem().replace("%0A", "\n").replace("%20", " ").replace("%2B", "+");
        let decoded = decoded.replace("%2F", "/").replace("%3D", "=");
        assert_eq!(decoded, leaf.chain_pem.replace("\r\n", "\n"));
        let digests: Vec<_> = identity.chain_sha256().collect();
        assert_eq!((digests.len(), digests[0]), (2, identity.certificate.sha256));
        assert_eq!(identity.chain_sha1().next(), Some(identity.certificate.sha1));
        assert!(identity.chain().map(|read| read.subject).eq(["".to_owned(), "CN=ca".to_owned()]));
        assert!(identity.url_encoded_pem_chain().starts_with(&identity.url_encoded_pem()));
        assert!(PeerIdentity::of(&chain, false).unwrap().url_encoded_pem().is_empty());
        assert!(PeerIdentity::of(&[], true).is_none());
        assert!(PeerIdentity::of(&[vec![1, 2, 3].into()], true).is_none());
    }
}
