//! What a handshake agreed on, for logs, headers and the choice of a codec.

use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SignatureScheme};

use super::params;
use super::session::Session;
use super::verifier::VerifyFailure;

/// A protocol above TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// None was agreed on.
    #[default]
    None,
    /// `http/1.1` or `http/1.0`.
    Http1,
    /// `h2`.
    Http2,
    /// Another.
    Other,
}

/// What both sides agreed on, without its names: every connection keeps it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreed {
    version: Option<ProtocolVersion>,
    cipher: Option<CipherSuite>,
    group: Option<NamedGroup>,
    pub alpn: Alpn,
    /// An earlier session was gone on with.
    pub resumed: bool,
}

/// What a handshake agreed on.
#[derive(Debug, Default)]
pub struct Facts {
    pub agreed: Agreed,
    /// Name of what the peer's signature is made with, as BoringSSL has it; empty: it has made none.
    pub scheme: &'static str,
    /// The server that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The peer has shown a certificate.
    pub peer_certificate: bool,
    /// What is wrong with it; it is accepted all the same. Not of one that an earlier session has shown.
    pub forgiven: Option<VerifyFailure>,
}

impl Agreed {
    fn of(session: &Session) -> Self {
        Self {
            version: session.version(),
            cipher: session.cipher().map(|suite| suite.suite()),
            group: session.group(),
            alpn: match session.alpn() {
                None => Alpn::None,
                Some(b"http/1.1" | b"http/1.0") => Alpn::Http1,
                Some(b"h2") => Alpn::Http2,
                Some(_) => Alpn::Other,
            },
            resumed: session.is_resumed(),
        }
    }

    /// `TLSv1.3`, as Envoy writes it; empty: unknown, as below.
    pub fn version_name(self) -> &'static str {
        match self.version {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        }
    }

    /// Name of the cipher suite as OpenSSL has it, which is what Envoy writes.
    pub fn cipher_name(self) -> &'static str {
        self.cipher.map_or("", params::cipher_name)
    }

    /// Name of the group of the key exchange; empty: there was none, too.
    pub fn group_name(self) -> &'static str {
        self.group.map_or("", params::group_name)
    }
}

#[cfg(test)]
impl Agreed {
    /// TLS 1.3 with `TLS_AES_128_GCM_SHA256`.
    pub fn tls13() -> Self {
        let (version, cipher) = (ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256);
        Self { version: Some(version), cipher: Some(cipher), ..Self::default() }
    }
}

impl Facts {
    pub(super) fn of(session: &Session, server_name: Option<Box<str>>) -> Self {
        Self {
            agreed: Agreed::of(session),
            scheme: scheme(session.scheme()),
            server_name,
            peer_certificate: session
                .peer_certificates()
                .is_some_and(|certificates| !certificates.is_empty()),
            forgiven: session.forgiven(),
        }
    }
}

fn scheme(scheme: Option<SignatureScheme>) -> &'static str {
    match scheme {
        Some(SignatureScheme::ECDSA_NISTP256_SHA256) => "ecdsa_secp256r1_sha256",
        Some(SignatureScheme::ECDSA_NISTP384_SHA384) => "ecdsa_secp384r1_sha384",
        Some(SignatureScheme::ECDSA_NISTP521_SHA512) => "ecdsa_secp521r1_sha512",
        Some(SignatureScheme::ED25519) => "ed25519",
        Some(SignatureScheme::RSA_PKCS1_SHA256) => "rsa_pkcs1_sha256",
        Some(SignatureScheme::RSA_PKCS1_SHA384) => "rsa_pkcs1_sha384",
        Some(SignatureScheme::RSA_PKCS1_SHA512) => "rsa_pkcs1_sha512",
        Some(SignatureScheme::RSA_PSS_SHA256) => "rsa_pss_rsae_sha256",
        Some(SignatureScheme::RSA_PSS_SHA384) => "rsa_pss_rsae_sha384",
        Some(SignatureScheme::RSA_PSS_SHA512) => "rsa_pss_rsae_sha512",
        _ => "",
    }
}
