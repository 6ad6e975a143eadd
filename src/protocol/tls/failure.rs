//! [`HandshakeFailure`]: why no TLS connection with a peer came to be, in words that a log can hold.

use rustls::{AlertDescription, CertificateError, Error};

use super::io::TlsError;
use super::session::Fault;
use super::verifier::VerifyFailure;

/// Small enough to be part of an error that is passed around by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The peer has shown no certificate.
    NoCertificate,
    /// Nobody trusted has issued it.
    UnknownIssuer,
    /// Its time is over, or has not come.
    Expired,
    Revoked,
    /// Its chain does not hold otherwise.
    Chain,
    /// It has no name that is expected.
    San,
    /// Its digest is not one of those expected.
    Hash,
    /// The peer does not like this side's certificate, or misses one.
    CertificateRefused,
    /// Both have no version, cipher suite or group in common.
    NothingInCommon,
    /// Both have no protocol above TLS in common.
    NoProtocol,
    /// The peer refuses, with another alert.
    Refused,
    /// The peer ended the connection.
    Closed,
    /// What the peer said was not TLS.
    NotTls,
    /// A secret that this side needs is still to come.
    NoSecret,
    Other,
}

impl HandshakeFailure {
    /// The failure behind an error.
    pub fn of(error: &TlsError) -> Self {
        let error = match error {
            TlsError::Io(_) | TlsError::Closed => return Self::Closed,
            TlsError::Session(Fault::Protocol(error)) => error,
            TlsError::Session(_) => return Self::Other,
        };
        match (VerifyFailure::of(error), error) {
            (Some(VerifyFailure::NoCertificate), _) => Self::NoCertificate,
            (Some(VerifyFailure::San), _) => Self::San,
            (Some(VerifyFailure::Hash), _) => Self::Hash,
            (Some(VerifyFailure::Chain), Error::InvalidCertificate(error)) => match error {
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. } => {
                    Self::Expired
                }
                CertificateError::Revoked => Self::Revoked,
                _ => Self::Chain,
            },
            (Some(VerifyFailure::Chain), _) => Self::Chain,
            (None, Error::AlertReceived(alert)) => match alert {
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA => Self::CertificateRefused,
                AlertDescription::HandshakeFailure
                | AlertDescription::ProtocolVersion
                | AlertDescription::InsufficientSecurity => Self::NothingInCommon,
                AlertDescription::NoApplicationProtocol => Self::NoProtocol,
                _ => Self::Refused,
            },
            (None, Error::PeerIncompatible(_)) => Self::NothingInCommon,
            (None, Error::NoApplicationProtocol) => Self::NoProtocol,
            (None, Error::InvalidMessage(_)) => Self::NotTls,
            (None, _) => Self::Other,
        }
    }

    /// In words, as Envoy's begin.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoCertificate => "TLS error: no certificate shown",
            Self::UnknownIssuer => "TLS error: certificate verify failed: unknown issuer",
            Self::Expired => "TLS error: certificate verify failed: not valid at this time",
            Self::Revoked => "TLS error: certificate verify failed: revoked",
            Self::Chain => "TLS error: certificate verify failed",
            Self::San => "TLS error: certificate verify failed: no expected subject alternative name",
            Self::Hash => "TLS error: certificate verify failed: not an expected digest",
            Self::CertificateRefused => "TLS error: the peer refused our certificate, or misses one",
            Self::NothingInCommon => "TLS error: no version, cipher suite or group in common",
            Self::NoProtocol => "TLS error: no application protocol in common",
            Self::Refused => "TLS error: the peer refused the handshake",
            Self::Closed => "TLS error: connection closed during the handshake",
            Self::NotTls => "TLS error: the peer does not speak TLS",
            Self::NoSecret => "TLS error: Secret is not supplied by SDS",
            Self::Other => "TLS error: handshake failed",
        }
    }
}

impl From<VerifyFailure> for HandshakeFailure {
    fn from(failure: VerifyFailure) -> Self {
        match failure {
            VerifyFailure::NoCertificate => Self::NoCertificate,
            VerifyFailure::Chain => Self::Chain,
            VerifyFailure::San => Self::San,
            VerifyFailure::Hash => Self::Hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let of = |error| HandshakeFailure::of(&TlsError::Session(Fault::Protocol(error)));
        assert_eq!(of(CertificateError::UnknownIssuer.into()), HandshakeFailure::UnknownIssuer);
        assert_eq!(of(CertificateError::BadEncoding.into()), HandshakeFailure::Chain);
        assert_eq!(of(Error::NoCertificatesPresented), HandshakeFailure::NoCertificate);
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(of(alert), HandshakeFailure::CertificateRefused);
        assert_eq!(HandshakeFailure::of(&TlsError::Closed), HandshakeFailure::Closed);
        assert_eq!(HandshakeFailure::of(&TlsError::Io(104)), HandshakeFailure::Closed);
    }
}
