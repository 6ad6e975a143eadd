//! The rules of [`Validator`](super::validator) as rustls asks for them.
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::params::Algorithms;
use super::validator::{Names, Purpose, Refusal, Validator};

/// Why a handshake failed on the peer's certificate; which counter it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyFailure {
    /// There was none. Envoy: `fail_verify_no_cert`.
    NoCertificate,
    /// The chain does not hold. Envoy: `fail_verify_error`.
    Chain,
    /// No name that is expected. Envoy: `fail_verify_san`.
    San,
    /// Another digest. Envoy: `fail_verify_cert_hash`.
    Hash,
}

impl VerifyFailure {
    /// The failure behind an error of rustls; `None`: it is about something else.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
                Some(match cause.downcast_ref() {
                    Some(Cause(Refusal::San)) => Self::San,
                    Some(Cause(Refusal::Hash)) => Self::Hash,
                    _ => Self::Chain,
                })
            }
            Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Some(Self::Chain),
            _ => None,
        }
    }
}

/// A refusal within an error of rustls.
#[derive(Debug)]
struct Cause(Refusal);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {}

/// Errors that have an alert of their own keep it.
pub(super) fn error(refusal: Refusal) -> Error {
    Error::InvalidCertificate(match refusal {
        Refusal::Unreadable(_) => CertificateError::BadEncoding,
        Refusal::Chain(webpki::Error::CertExpired { time, not_after }) => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Refusal::Chain(webpki::Error::CertNotValidYet { time, not_before }) => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Refusal::Chain(webpki::Error::CertRevoked) => CertificateError::Revoked,
        Refusal::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(Cause(other)))),
    })
}

thread_local! {
    /// What the signature verified last is made with: rustls tells it to the verifier alone, within the call that works on the
    /// peer's records.
    static SIGNED: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
    /// What is wrong with the certificate verified last that was accepted all the same.
    static FORGIVEN: Cell<Option<VerifyFailure>> = const { Cell::new(None) };
}

/// What the peer's signature is made with that was verified since this was last asked for.
pub(super) fn take_scheme() -> Option<SignatureScheme> {
    SIGNED.take()
}

/// What was wrong with a certificate that was accepted all the same since this was last asked for.
pub(super) fn take_forgiven() -> Option<VerifyFailure> {
    FORGIVEN.take()
}

/// Verifies a certificate, and notes what is wrong with one that is accepted all the same.
fn verify(
    validator: &Validator,
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    names: Names<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    if validator.accepts_untrusted() {
        let wrong = validator.check(leaf, chain, purpose, names, now).err();
        FORGIVEN.set(wrong.and_then(|refusal| VerifyFailure::of(&error(refusal))));
        return Ok(());
    }
    validator.verify(leaf, chain, purpose, names, now).map_err(error)
}

/// What both verifiers check of a handshake: that the peer has the key of its certificate.
#[derive(Debug)]
struct Signatures {
    provider: Arc<CryptoProvider>,
    schemes: Vec<SignatureScheme>,
}

impl Signatures {
    fn new(algorithms: &Algorithms) -> Self {
        let supported = algorithms.provider.signature_verification_algorithms.supported_schemes();
        let schemes = match &algorithms.schemes {
            Some(chosen) => chosen.iter().filter(|scheme| supported.contains(scheme)).copied().collect(),
            None => supported,
        };
        Self { provider: Arc::clone(&algorithms.provider), schemes }
    }

    /// What was not offered is not accepted.
    fn check_offered(&self, signed: &DigitallySignedStruct) -> Result<(), Error> {
        if self.schemes.contains(&signed.scheme) {
            Ok(())
        } else {
            Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
        }
    }

    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_offered(signed)?;
        SIGNED.set(Some(signed.scheme));
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_offered(signed)?;
        SIGNED.set(Some(signed.scheme));
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

/// Verifies clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    validator: Option<Arc<Validator>>,
    required: bool,
    hints: Vec<DistinguishedName>,
    signatures: Signatures,
}

impl ClientVerifier {
    /// `None`: clients are not asked for a certificate.
    pub(super) fn new(
        validator: Option<Arc<Validator>>,
        required: bool,
        algorithms: &Algorithms,
    ) -> Option<Self> {
        let asked = required
            || validator
                .as_ref()
                .is_some_and(|validator| validator.verifies() || validator.accepts_untrusted());
        let required = required || validator.as_ref().is_some_and(|validator| validator.has_conditions());
        let hints = validator.as_ref().map_or_else(Vec::new, |validator| validator.hints());
        asked.then(|| Self { validator, required, hints, signatures: Signatures::new(algorithms) })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(validator) = &self.validator {
            verify(validator, end_entity, intermediates, Purpose::Client, Names::Configured, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes.clone()
    }
}

/// Which name a server has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// What the configuration says.
    Configured,
    /// The server name of the connection as a DNS name, if it has one.
    DnsOfConnection,
    /// The server name of the connection, as a name of any kind.
    AnyOfConnection,
    /// This DNS name.
    Dns(Box<str>),
    /// This name, of any kind.
    Any(Box<str>),
}

/// Verifies servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    validator: Option<Arc<Validator>>,
    expected: Expected,
    signatures: Signatures,
}

impl ServerVerifier {
    pub(super) fn new(
        validator: Option<Arc<Validator>>,
        expected: Expected,
        algorithms: &Algorithms,
    ) -> Self {
        Self { validator, expected, signatures: Signatures::new(algorithms) }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let validator = match &self.validator {
            Some(validator) if validator.verifies() || validator.accepts_untrusted() => validator,
            // What a request asks for is no name that nobody trusted vouches for. Source: Envoy `ClientContextImpl::newSsl`.
            _ if matches!(self.expected, Expected::AnyOfConnection | Expected::Any(_)) => {
                return Err(CertificateError::UnknownIssuer.into());
            }
            _ => return Ok(ServerCertVerified::assertion()),
        };
        let of_connection = server_name.to_str();
        let names = match &self.expected {
            Expected::Configured => Names::Configured,
            Expected::DnsOfConnection if matches!(server_name, ServerName::DnsName(_)) => {
                Names::Dns(&of_connection)
            }
            Expected::DnsOfConnection => Names::Configured,
            Expected::AnyOfConnection => Names::Any(&of_connection),
            Expected::Dns(name) => Names::Dns(name),
            Expected::Any(name) => Names::Any(name),
        };
        verify(validator, end_entity, intermediates, Purpose::Server, names, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes.clone()
    }
}
