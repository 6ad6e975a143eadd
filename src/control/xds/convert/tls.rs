//! TLS contexts of listeners and clusters, and the secrets that they name.
//!
//! A context is compiled once here, so that what is wrong with a certificate is reported with the field's path.
use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use crate::config::ads::SecretKind;
use crate::config::secret::{NamedCertificate, NamedSecrets};
use crate::config::tls::{
    CommonTls, DownstreamTls, OcspStaplePolicy, SessionTickets, TlsVersion, UpstreamTls,
};
use crate::control::xds::pb::{self, Named as _};
use crate::protocol::tls::{ClientTls, ServerTls, TlsConfigError, check_context};
use pb::tls::DownstreamTlsContextSessionTicketKeysTypeOneOf as TicketsType;

mod certificate;
mod params;
mod secret;
mod validation;

pub(super) use certificate::directory;
use certificate::{certificate, ticket_keys};
use params::params;
use secret::{Named, named};
pub(super) use secret::{Secrets, merged, outcome, secrets, told};
use validation::validation;

/// Transport socket without encryption: what a chain or a cluster has without one.
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.";

/// The transport socket of a filter chain; `None`: plain text.
pub(super) fn downstream(at: &At<'_>, message: pb::core::TransportSocket) -> Option<Arc<DownstreamTls>> {
    let any = transport_socket(at, message)?;
    let at = &at.field("typed_config");
    if type_name(&any) != pb::tls::DownstreamTlsContext::NAME {
        at.extension(Class::Refused, &any, "raw_buffer and TLS only");
        return None;
    }
    let message = at.unpack::<pb::tls::DownstreamTlsContext>(&any)?;
    classify!(at, message => pb::tls::DownstreamTlsContext {
        implemented: common_tls_context, require_client_certificate, session_ticket_keys_type, session_timeout,
            ocsp_staple_policy, full_scan_certs_on_sni_mismatch, prefer_client_ciphers;
        no_effect: disable_stateful_session_resumption = "no state is kept for sessions: tickets only";
        refused: require_sni = "Envoy does not read it either";
    });
    let mut named_ticket_keys = None;
    let session_tickets = match session_ticket_keys_type {
        None | Some(TicketsType::DisableStatelessSessionResumption(false)) => SessionTickets::Generated,
        Some(TicketsType::DisableStatelessSessionResumption(true)) => SessionTickets::Disabled,
        Some(TicketsType::SessionTicketKeys(message)) => {
            SessionTickets::Keys(ticket_keys(&at.field("session_ticket_keys"), message))
        }
        Some(TicketsType::SessionTicketKeysSdsSecretConfig(message)) => {
            let at = &at.field("session_ticket_keys_sds_secret_config");
            match named(at, message, SecretKind::TicketKeys)? {
                Named::Static(name) => match at.context.secrets.ticket_keys.get(&name) {
                    Some(keys) => SessionTickets::Keys(keys.clone()),
                    None => {
                        at.field("name")
                            .error(format!("unknown static secret {name:?} of session ticket keys"));
                        return None;
                    }
                },
                Named::Told(secret) => {
                    named_ticket_keys = Some(secret);
                    SessionTickets::Keys(Vec::new())
                }
            }
        }
    };
    let ocsp_staple_policy = match at.enumeration("ocsp_staple_policy", ocsp_staple_policy) {
        pb::tls::DownstreamTlsContextOcspStaplePolicy::LenientStapling => OcspStaplePolicy::Lenient,
        pb::tls::DownstreamTlsContextOcspStaplePolicy::StrictStapling => OcspStaplePolicy::Strict,
        pb::tls::DownstreamTlsContextOcspStaplePolicy::MustStaple => OcspStaplePolicy::MustStaple,
    };
    let session_timeout = at.duration("session_timeout", session_timeout);
    let (common, origin) = common(&at.field("common_tls_context"), common_tls_context)?;
    let tls = DownstreamTls {
        common,
        require_client_certificate: require_client_certificate.unwrap_or(false),
        session_tickets,
        named_ticket_keys,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch: full_scan_certs_on_sni_mismatch.unwrap_or(false),
        prefer_client_ciphers,
    };
    let compiled = match tls.is_whole() {
        true => ServerTls::compile(&tls, None, None).map(drop),
        false => check_context(&tls.common, TlsVersion::Tls13),
    };
    report(at, compiled, &origin)?;
    Some(Arc::new(tls))
}

/// The transport socket of a cluster; `None`: plain text.
pub(super) fn upstream(at: &At<'_>, message: pb::core::TransportSocket) -> Option<Arc<UpstreamTls>> {
    let any = transport_socket(at, message)?;
    let at = &at.field("typed_config");
    if type_name(&any) != pb::tls::UpstreamTlsContext::NAME {
        at.extension(Class::Refused, &any, "raw_buffer and TLS only");
        return None;
    }
    let message = at.unpack::<pb::tls::UpstreamTlsContext>(&any)?;
    classify!(at, message => pb::tls::UpstreamTlsContext {
        implemented: common_tls_context, sni, auto_host_sni, auto_sni_san_validation,
            max_session_keys = "one per server name, at most 4096";
        no_effect: enforce_rsa_key_usage = "key usage is always enforced";
        refused: allow_renegotiation = "rustls does not renegotiate";
    });
    let (common, origin) = common(&at.field("common_tls_context"), common_tls_context)?;
    let told = common.named.as_ref().map_or(0, |named| named.certificates.len());
    if common.certificates.len().max(told) > 1 {
        at.field("common_tls_context")
            .field("tls_certificates")
            .error("multiple TLS certificates are not supported for client contexts");
    }
    if sni.contains('\0') {
        at.field("sni").error("SNI names containing NULL-byte are not allowed");
    }
    let tls = UpstreamTls {
        common,
        sni: sni.into(),
        auto_host_sni,
        auto_sni_san_validation,
        max_session_keys: max_session_keys.unwrap_or(1),
    };
    let compiled = match tls.common.is_whole() {
        true => ClientTls::compile(&tls).map(|compiled| compiled.verifies()),
        false => check_context(&tls.common, TlsVersion::Tls12)
            .map(|()| tls.common.validation.is_some() || tls.common.names_validation()),
    };
    if compiled.as_ref().is_ok_and(|verifies| !verifies) {
        at.warn(
            "the certificates of endpoints are NOT verified: whoever answers is believed \
             (set common_tls_context.validation_context.trusted_ca)",
        );
    }
    report(at, compiled.map(drop), &origin)?;
    Some(Arc::new(tls))
}

/// What a transport socket is configured by; `None`: plain text, or a mistake that was reported.
fn transport_socket(at: &At<'_>, message: pb::core::TransportSocket) -> Option<pb::google::Any> {
    classify!(at, message => pb::core::TransportSocket {
        implemented: config_type = "raw_buffer and TLS, and towards endpoints upstream_proxy_protocol and internal_upstream \
                                    around them; others are refused";
        no_effect: name = "a transport socket is found by the type of its typed_config";
    });
    match config_type {
        Some(pb::core::TransportSocketConfigTypeOneOf::TypedConfig(any)) => {
            (type_name(&any) != RAW_BUFFER).then_some(any)
        }
        None => {
            at.field("typed_config").error("must be set");
            None
        }
    }
}

/// Fields under which certificates and validation were configured, for errors.
struct Origin {
    certificates: &'static str,
    validation: &'static str,
}

fn report(at: &At<'_>, outcome: Result<(), TlsConfigError>, origin: &Origin) -> Option<()> {
    let Err(TlsConfigError { field, reason, file }) = outcome else { return Some(()) };
    let field = field
        .replace(
            "common_tls_context.tls_certificates",
            &format!("common_tls_context.{}", origin.certificates),
        )
        .replace(
            "common_tls_context.validation_context",
            &format!("common_tls_context.{}", origin.validation),
        );
    let reason = file.map_or_else(|| reason.clone(), |file| format!("{file}: {reason}"));
    at.field(&field).error(reason);
    None
}

fn common(at: &At<'_>, message: Option<pb::tls::CommonTlsContext>) -> Option<(CommonTls, Origin)> {
    let message = message.unwrap_or_default();
    classify!(at, message => pb::tls::CommonTlsContext {
        implemented: tls_params, tls_certificates,
            tls_certificate_sds_secret_configs, validation_context_type,
            alpn_protocols;
        refused: tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
            key_log = "keys are not written anywhere";
    });
    let mut origin = Origin { certificates: "tls_certificates", validation: "validation_context" };
    let mut told = NamedSecrets::default();
    let certificates: Option<Vec<_>> = if tls_certificates.is_empty() {
        origin.certificates = "tls_certificate_sds_secret_configs";
        let names = tls_certificate_sds_secret_configs.into_iter().enumerate();
        let all: Vec<_> = names
            .map(|(index, message)| {
                let at = &at.item("tls_certificate_sds_secret_configs", index);
                let name = match named(at, message, SecretKind::Certificate)? {
                    Named::Static(name) => name,
                    Named::Told(secret) => return Some(NamedCertificate::Told(secret)),
                };
                match at.context.secrets.certificates.get(&name) {
                    Some(certificate) => certificate.clone().map(NamedCertificate::Fixed),
                    None => {
                        at.field("name").error(format!("unknown static secret {name:?} of a certificate"));
                        None
                    }
                }
            })
            .collect();
        if all.is_empty() {
            origin.certificates = "tls_certificates";
        }
        let all: Option<Vec<_>> = all.into_iter().collect();
        all.map(|all| {
            let fixed = all.iter().filter_map(|one| match one {
                NamedCertificate::Fixed(certificate) => Some(certificate.clone()),
                NamedCertificate::Told(_) => None,
            });
            let fixed: Vec<_> = fixed.collect();
            if fixed.len() < all.len() {
                told.certificates = all;
            }
            fixed
        })
    } else {
        let all: Vec<_> = tls_certificates
            .into_iter()
            .enumerate()
            .map(|(index, message)| certificate(&at.item("tls_certificates", index), message))
            .collect();
        all.into_iter().collect()
    };
    let validation = match validation_context_type {
        None => Some(None),
        Some(kind) => validation(at, kind, &mut origin, &mut told),
    };
    let params = tls_params.map(|message| params(&at.field("tls_params"), message)).unwrap_or_default();
    for (index, protocol) in alpn_protocols.iter().enumerate() {
        if protocol.is_empty() || protocol.len() > 255 {
            at.item("alpn_protocols", index).error("must have 1 to 255 bytes");
        }
    }
    let common = CommonTls {
        params,
        certificates: certificates?,
        validation: validation?,
        alpn_protocols: alpn_protocols.into_iter().map(Into::into).collect(),
        named: (!told.is_empty()).then(|| Box::new(told)),
    };
    Some((common, origin))
}

#[cfg(test)]
mod tests;
