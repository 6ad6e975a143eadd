//! What a handshake agreed on, for logs, headers and the choice of a codec.

use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SignatureScheme};

use super::session::Session;

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

/// What a handshake agreed on.
#[derive(Debug, Default)]
pub struct Facts {
    /// `TLSv1.3`, as Envoy writes it.
    pub version: &'static str,
    /// Name of the cipher suite as OpenSSL has it, which is what Envoy writes.
    pub cipher: &'static str,
    /// Name of the group of the key exchange; empty: there was none.
    pub group: &'static str,
    /// Name of what the peer's signature is made with, as BoringSSL has it; empty: it has made none.
    pub scheme: &'static str,
    /// The server that the client asked for.
    pub server_name: Option<Box<str>>,
    pub alpn: Alpn,
    /// An earlier session was gone on with.
    pub resumed: bool,
    /// The peer has shown a certificate.
    pub peer_certificate: bool,
}

impl Facts {
    pub(super) fn of(session: &Session, server_name: Option<Box<str>>) -> Self {
        Self {
            version: version(session.version()),
            cipher: cipher(session.cipher().map(|suite| suite.suite())),
            group: group(session.group()),
            scheme: scheme(session.scheme()),
            server_name,
            alpn: match session.alpn() {
                None => Alpn::None,
                Some(b"http/1.1" | b"http/1.0") => Alpn::Http1,
                Some(b"h2") => Alpn::Http2,
                Some(_) => Alpn::Other,
            },
            resumed: session.is_resumed(),
            peer_certificate: session
                .peer_certificates()
                .is_some_and(|certificates| !certificates.is_empty()),
        }
    }
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

fn cipher(suite: Option<CipherSuite>) -> &'static str {
    match suite {
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => "ECDHE-RSA-AES128-GCM-SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => "ECDHE-RSA-AES256-GCM-SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}

fn group(group: Option<NamedGroup>) -> &'static str {
    match group {
        Some(NamedGroup::X25519) => "X25519",
        Some(NamedGroup::secp256r1) => "P-256",
        Some(NamedGroup::secp384r1) => "P-384",
        Some(NamedGroup::secp521r1) => "P-521",
        Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
        _ => "",
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
