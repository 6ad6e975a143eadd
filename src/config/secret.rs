//! Secrets that TLS contexts name instead of having them: certificates, rules of verification and ticket keys that come from a
//! control plane or a file and change while the process runs. Source: Envoy `tls.v3.SdsSecretConfig`, `tls.v3.Secret`.
use super::ads::{Sds, SecretKind};
use super::tls::{CertificateValidation, Source, TlsCertificate};

/// What of a context is named. What is known of it stands in the context's own fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NamedSecrets {
    /// Certificates, in the order given; empty: those of the context are all there are. Source:
    /// `tls_certificate_sds_secret_configs`.
    pub certificates: Vec<NamedCertificate>,
    /// Source: `validation_context_sds_secret_config`, `combined_validation_context`.
    pub validation: Option<NamedValidation>,
}

/// A certificate among some of which others are named.
#[derive(Debug, Clone, PartialEq)]
pub enum NamedCertificate {
    /// A static secret.
    Fixed(TlsCertificate),
    /// One that is told.
    Told(Sds),
}

/// Rules of verification that are told.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedValidation {
    pub secret: Sds,
    /// An encoded `CertificateValidationContext` into which the secret is merged; `None`: the secret is all. Source:
    /// `combined_validation_context.default_validation_context`.
    pub default: Option<Box<[u8]>>,
}

/// A secret as it was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Secret {
    Certificate(TlsCertificate),
    Validation {
        /// Where nothing is merged with it.
        alone: CertificateValidation,
        /// The `CertificateValidationContext`, encoded.
        encoded: Box<[u8]>,
    },
    TicketKeys(Vec<Source>),
}

impl NamedSecrets {
    /// The secrets that are told.
    pub fn told(&self) -> impl Iterator<Item = &Sds> {
        let certificates = self.certificates.iter().filter_map(|named| match named {
            NamedCertificate::Told(secret) => Some(secret),
            NamedCertificate::Fixed(_) => None,
        });
        certificates.chain(self.validation.iter().map(|named| &named.secret))
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.told().next().is_none()
    }
}

impl Secret {
    pub fn kind(&self) -> SecretKind {
        match self {
            Self::Certificate(_) => SecretKind::Certificate,
            Self::Validation { .. } => SecretKind::Validation,
            Self::TicketKeys(_) => SecretKind::TicketKeys,
        }
    }
}
