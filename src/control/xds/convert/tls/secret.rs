//! Secrets: the static ones, those that are told, and the names by which contexts have either.
use std::collections::BTreeMap;

use prost::Message;

use super::super::at::{At, Context};
use super::super::config_source;
use super::super::fields::classify;
use super::super::report::{Class, Report};
use super::certificate::{certificate, ticket_keys};
use super::validation::validation_context;
use crate::config::ads::{Sds, SecretKind};
use crate::config::secret::Secret;
use crate::config::tls::{CertificateValidation, Source, TlsCertificate};
use crate::control::xds::pb;
use pb::tls::SecretTypeOneOf;

/// The static secrets of a bootstrap, by name and kind.
#[derive(Clone, Debug, Default)]
pub(in crate::control::xds::convert) struct Secrets {
    pub(super) certificates: BTreeMap<String, Option<TlsCertificate>>,
    /// Not converted: they may be merged with others first.
    pub(super) validations: BTreeMap<String, pb::tls::CertificateValidationContext>,
    pub(super) ticket_keys: BTreeMap<String, Vec<Source>>,
}

/// A secret that a context has by name.
pub(super) enum Named {
    /// A static one of this name.
    Static(String),
    /// One that is told.
    Told(Sds),
}

/// `static_resources.secrets`.
pub(in crate::control::xds::convert) fn secrets(at: &At<'_>, messages: Vec<pb::tls::Secret>) -> Secrets {
    let mut secrets = Secrets::default();
    for (index, message) in messages.into_iter().enumerate() {
        let at = &at.item("secrets", index);
        let (name, of_type) = parts(at, message);
        let twice = match of_type {
            Some(SecretTypeOneOf::TlsCertificate(message)) => {
                let certificate = certificate(&at.field("tls_certificate"), message);
                secrets.certificates.insert(name.clone(), certificate).is_some()
            }
            Some(SecretTypeOneOf::ValidationContext(message)) => {
                secrets.validations.insert(name.clone(), message).is_some()
            }
            Some(SecretTypeOneOf::SessionTicketKeys(message)) => {
                let keys = ticket_keys(&at.field("session_ticket_keys"), message);
                secrets.ticket_keys.insert(name.clone(), keys).is_some()
            }
            Some(SecretTypeOneOf::GenericSecret(_)) => {
                at.field("generic_secret").found(
                    Class::NoEffect,
                    format!("{}Secret.generic_secret", super::TLS),
                    "no filter of this version asks for one",
                );
                false
            }
            None => {
                at.error(NO_TYPE);
                false
            }
        };
        if twice {
            at.field("name").error(format!("duplicate secret {name:?} of this kind"));
        }
    }
    secrets
}

const NO_TYPE: &str =
    "one of tls_certificate, session_ticket_keys, validation_context, generic_secret must be set";

fn parts(at: &At<'_>, message: pb::tls::Secret) -> (String, Option<SecretTypeOneOf>) {
    classify!(at, message => pb::tls::Secret {
        implemented: name, r#type = "tls_certificate, validation_context, session_ticket_keys";
    });
    (name, r#type)
}

/// A name by which a context has a secret of this kind.
pub(super) fn named(at: &At<'_>, message: pb::tls::SdsSecretConfig, kind: SecretKind) -> Option<Named> {
    classify!(at, message => pb::tls::SdsSecretConfig {
        implemented: name, sds_config = "of secrets that are told; without it a static one is meant";
    });
    match sds_config {
        None => Some(Named::Static(name)),
        Some(source) => config_source::sds(at, source, name, kind).map(Named::Told),
    }
}

/// Converts a `envoy.extensions.transport_sockets.tls.v3.Secret` that was told.
pub(in crate::control::xds::convert) fn told(context: &Context, message: pb::tls::Secret) -> Option<Secret> {
    let at = &At::root(context);
    let (_, of_type) = parts(at, message);
    match of_type {
        Some(SecretTypeOneOf::TlsCertificate(message)) => {
            certificate(&at.field("tls_certificate"), message).map(Secret::Certificate)
        }
        Some(SecretTypeOneOf::ValidationContext(message)) => {
            let encoded = message.encode_to_vec().into();
            let alone = validation_context(&at.field("validation_context"), message)?;
            Some(Secret::Validation { alone, encoded })
        }
        Some(SecretTypeOneOf::SessionTicketKeys(message)) => {
            Some(Secret::TicketKeys(ticket_keys(&at.field("session_ticket_keys"), message)))
        }
        Some(SecretTypeOneOf::GenericSecret(_)) => {
            at.field("generic_secret").error("no filter of this version asks for one");
            None
        }
        None => {
            at.error(NO_TYPE);
            None
        }
    }
}

/// Rules of verification that are told, merged into what the context has of them: as Envoy, protobuf's own merge.
pub(in crate::control::xds::convert) fn merged(
    context: &Context,
    default: &[u8],
    told: &[u8],
) -> Option<CertificateValidation> {
    let at = &At::root(context);
    let at = &at.field("combined_validation_context");
    let both = [default, told].concat();
    match pb::tls::CertificateValidationContext::decode(&*both) {
        Ok(message) => validation_context(at, message),
        Err(error) => {
            at.error(error.to_string());
            None
        }
    }
}

/// What was converted, or why it was not.
pub(in crate::control::xds::convert) fn outcome<T>(
    context: Context,
    converted: Option<T>,
) -> Result<(T, Report), Report> {
    let report = context.report.into_inner();
    match converted {
        Some(converted) if report.errors.0.is_empty() => Ok((converted, report)),
        _ => Err(report),
    }
}
