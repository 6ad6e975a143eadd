//! What is wrong with a secret by itself, and with a context whose secrets are still to come: said when they are told, and not
//! only when both meet.
use super::TlsConfigError;
use super::params::Algorithms;
use super::server::{certified_key, ticket_keys, validator};
use super::validator::Validator;
use crate::config::secret::Secret;
use crate::config::tls::{CommonTls, TlsParameters, TlsVersion};

/// Checks a secret.
///
/// # Errors
/// The field below `Secret`, and what is wrong with it.
pub fn check_secret(secret: &Secret) -> Result<(), TlsConfigError> {
    let algorithms = Algorithms::compile(&TlsParameters::default(), TlsVersion::Tls13)?;
    match secret {
        Secret::Certificate(certificate) => {
            certified_key(certificate, &algorithms).map(drop).map_err(|error| error.within("tls_certificate"))
        }
        // Names without trust may be merged with trust that the context has.
        Secret::Validation { alone, .. } if !alone.trusts_somebody() => Ok(()),
        Secret::Validation { alone, .. } => {
            let known = algorithms.provider.signature_verification_algorithms.all;
            Validator::compile(alone, known).map(drop).map_err(|error| error.within("validation_context"))
        }
        Secret::TicketKeys(keys) => ticket_keys(keys).map(drop),
    }
}

/// Checks what a context has itself; `highest`: the version where none is named.
///
/// # Errors
/// The field below the context, and what is wrong with it.
pub fn check_context(common: &CommonTls, highest: TlsVersion) -> Result<(), TlsConfigError> {
    let algorithms = Algorithms::compile(&common.params, highest)
        .map_err(|error| error.within("tls_params").within("common_tls_context"))?;
    validator(common, &algorithms).map(drop)
}
