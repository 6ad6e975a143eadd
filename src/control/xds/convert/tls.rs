//! TLS contexts of listeners and clusters, and the static secrets that they name.
//!
//! A context is compiled once here, so that what is wrong with a certificate is reported with the field's path.
use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::at::At;
use super::fields::classify;
use super::matcher;
use super::report::Class;
use super::value::type_name;
use crate::config::tls::{
    CertificateValidation, CommonTls, DownstreamTls, OcspStaplePolicy, SanKind, SanMatcher, SessionTickets,
    Source, TlsCertificate, TlsParameters, TlsVersion, TrustDomain, UpstreamTls,
};
use crate::control::xds::pb::{self, Named};
use crate::protocol::tls::{ClientTls, ServerTls, TlsConfigError, UnknownKind, unknown};
use pb::tls::{
    CommonTlsContextValidationContextTypeOneOf as ValidationType,
    DownstreamTlsContextSessionTicketKeysTypeOneOf as TicketsType, SecretTypeOneOf,
};

/// Transport socket without encryption: what a chain or a cluster has without one.
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Files in which distributions keep the certificates that they trust, the first that is there counts.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.";

/// The static secrets of a bootstrap, by name and kind.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    certificates: BTreeMap<String, Option<TlsCertificate>>,
    /// Not converted: they may be merged with others first.
    validations: BTreeMap<String, pb::tls::CertificateValidationContext>,
    ticket_keys: BTreeMap<String, Vec<Source>>,
}

/// `static_resources.secrets`.
pub(super) fn secrets(at: &At<'_>, messages: Vec<pb::tls::Secret>) -> Secrets {
    let mut secrets = Secrets::default();
    for (index, message) in messages.into_iter().enumerate() {
        let at = &at.item("secrets", index);
        classify!(at, message => pb::tls::Secret {
            implemented: name, r#type = "tls_certificate, validation_context, session_ticket_keys";
        });
        let twice = match r#type {
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
                    format!("{TLS}Secret.generic_secret"),
                    "no filter of this version asks for one",
                );
                false
            }
            None => {
                at.error("one of tls_certificate, session_ticket_keys, validation_context, generic_secret must be set");
                false
            }
        };
        if twice {
            at.field("name").error(format!("duplicate secret {name:?} of this kind"));
        }
    }
    secrets
}

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
            ocsp_staple_policy = "clients that do not ask for a response are treated like those that do",
            full_scan_certs_on_sni_mismatch, prefer_client_ciphers;
        no_effect: disable_stateful_session_resumption = "no state is kept for sessions: tickets only";
        refused: require_sni = "Envoy does not read it either";
    });
    let session_tickets = match session_ticket_keys_type {
        None | Some(TicketsType::DisableStatelessSessionResumption(false)) => SessionTickets::Generated,
        Some(TicketsType::DisableStatelessSessionResumption(true)) => SessionTickets::Disabled,
        Some(TicketsType::SessionTicketKeys(message)) => {
            SessionTickets::Keys(ticket_keys(&at.field("session_ticket_keys"), message))
        }
        Some(TicketsType::SessionTicketKeysSdsSecretConfig(message)) => {
            let at = &at.field("session_ticket_keys_sds_secret_config");
            let name = secret_name(at, message)?;
            match at.context.secrets.ticket_keys.get(&name) {
                Some(keys) => SessionTickets::Keys(keys.clone()),
                None => {
                    at.field("name").error(format!("unknown static secret {name:?} of session ticket keys"));
                    return None;
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
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch: full_scan_certs_on_sni_mismatch.unwrap_or(false),
        prefer_client_ciphers,
    };
    report(at, ServerTls::compile(&tls, None, None).map(drop), &origin)?;
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
    if common.certificates.len() > 1 {
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
    let compiled = ClientTls::compile(&tls);
    if compiled.as_ref().is_ok_and(|compiled| !compiled.verifies()) {
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
        implemented: config_type = "raw_buffer and TLS; others are refused";
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
            tls_certificate_sds_secret_configs = "of static secrets; sds_config is refused", validation_context_type,
            alpn_protocols;
        refused: tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
            key_log = "keys are not written anywhere";
    });
    let mut origin = Origin { certificates: "tls_certificates", validation: "validation_context" };
    let certificates: Option<Vec<_>> = if tls_certificates.is_empty() {
        origin.certificates = "tls_certificate_sds_secret_configs";
        let names = tls_certificate_sds_secret_configs.into_iter().enumerate();
        let all: Vec<_> = names
            .map(|(index, message)| {
                let at = &at.item("tls_certificate_sds_secret_configs", index);
                let name = secret_name(at, message)?;
                match at.context.secrets.certificates.get(&name) {
                    Some(certificate) => certificate.clone(),
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
        all.into_iter().collect()
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
        Some(kind) => validation(at, kind, &mut origin).map(Some),
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
    };
    Some((common, origin))
}

/// The name of a static secret.
fn secret_name(at: &At<'_>, message: pb::tls::SdsSecretConfig) -> Option<String> {
    classify!(at, message => pb::tls::SdsSecretConfig {
        implemented: name;
        refused: sds_config = "no xDS yet: write the secret into static_resources.secrets";
    });
    sds_config.is_none().then_some(name)
}

fn certificate(at: &At<'_>, message: pb::tls::TlsCertificate) -> Option<TlsCertificate> {
    let is_elsewhere = message.pkcs12.is_some() || message.private_key_provider.is_some();
    classify!(at, message => pb::tls::TlsCertificate {
        implemented: certificate_chain, private_key, watched_directory, ocsp_staple;
        refused: pkcs12 = "write the chain and the key as PEM", private_key_provider,
            password = "write the key without a password", signed_certificate_timestamp,
            tls_params = "they are those of the context";
    });
    let directory = watched_directory.map(|message| directory(&at.field("watched_directory"), message));
    let source = |field: &str, source: Option<pb::core::DataSource>| {
        let mut source = at.field(field).source(source?)?;
        source.watched_directory = directory.clone().or(source.watched_directory);
        Some(source)
    };
    let has = (certificate_chain.is_some(), private_key.is_some());
    let has_staple = ocsp_staple.is_some();
    let chain = source("certificate_chain", certificate_chain);
    let key = source("private_key", private_key);
    let staple = source("ocsp_staple", ocsp_staple);
    match has {
        _ if is_elsewhere => {}
        (false, _) => at.field("certificate_chain").error("must be set"),
        (true, false) => at.field("private_key").error("must be set"),
        (true, true) => {}
    }
    let ocsp_staple = if has_staple { Some(staple?) } else { None };
    Some(TlsCertificate { chain: chain?, private_key: key?, ocsp_staple })
}

pub(super) fn directory(at: &At<'_>, message: pb::core::WatchedDirectory) -> Box<str> {
    classify!(at, message => pb::core::WatchedDirectory {
        implemented: path;
        no_effect: watch_modify = "every change of a file is seen";
    });
    path.into()
}

fn ticket_keys(at: &At<'_>, message: pb::tls::TlsSessionTicketKeys) -> Vec<Source> {
    classify!(at, message => pb::tls::TlsSessionTicketKeys {
        implemented: keys = "Envoy's 80 bytes; tickets are sealed in a way of our own";
    });
    let key = |(index, key)| at.item("keys", index).source(key);
    keys.into_iter().enumerate().filter_map(key).collect()
}

fn params(at: &At<'_>, message: pb::tls::TlsParameters) -> TlsParameters {
    classify!(at, message => pb::tls::TlsParameters {
        implemented: tls_minimum_protocol_version = "TLS 1.2 and 1.3", tls_maximum_protocol_version = "TLS 1.2 and 1.3",
            cipher_suites = "ECDHE with AES-GCM or ChaCha20-Poly1305; of equals in brackets the first counts",
            ecdh_curves = "X25519, P-256, P-384, X25519MLKEM768, MLKEM1024",
            signature_algorithms = "those of TLS 1.3 but rsa_pss_pss and SHA-1";
        refused: compliance_policies;
    });
    let version = |field: &str, value: i32| {
        let version = at.enumeration::<pb::tls::TlsParametersTlsProtocol>(field, value);
        match version {
            pb::tls::TlsParametersTlsProtocol::TlsAuto => None,
            pb::tls::TlsParametersTlsProtocol::TLSv12 => Some(TlsVersion::Tls12),
            pb::tls::TlsParametersTlsProtocol::TLSv13 => Some(TlsVersion::Tls13),
            pb::tls::TlsParametersTlsProtocol::TLSv10 | pb::tls::TlsParametersTlsProtocol::TLSv11 => {
                let name = pb::EnumName::proto_name(version);
                at.field(field).found(
                    Class::NotYet,
                    format!("{TLS}TlsParameters.TlsProtocol.{name}"),
                    "rustls speaks TLS 1.2 and 1.3",
                );
                // What is left of the range: from TLS 1.2 on.
                Some(TlsVersion::Tls12)
            }
        }
    };
    let list = |names: Vec<String>| names.into_iter().map(Into::into).collect();
    let params = TlsParameters {
        minimum: version("tls_minimum_protocol_version", tls_minimum_protocol_version),
        maximum: version("tls_maximum_protocol_version", tls_maximum_protocol_version),
        cipher_suites: list(cipher_suites),
        curves: list(ecdh_curves),
        signature_algorithms: list(signature_algorithms),
    };
    for unknown in unknown(&params) {
        let (field, note) = match unknown.kind {
            UnknownKind::CipherSuite => ("cipher_suites", "rustls does not have this cipher suite"),
            UnknownKind::Curve => ("ecdh_curves", "rustls does not have this curve"),
            UnknownKind::SignatureAlgorithm => {
                ("signature_algorithms", "rustls does not have this signature algorithm")
            }
        };
        at.item(field, unknown.index).found(
            Class::NotYet,
            format!("{TLS}TlsParameters.{field}: {}", unknown.name),
            note,
        );
        if at.context.unimplemented == super::Unimplemented::Refuse {
            at.item(field, unknown.index).error(format!("{:?} is not known here", unknown.name));
        }
    }
    params
}

fn validation(at: &At<'_>, kind: ValidationType, origin: &mut Origin) -> Option<CertificateValidation> {
    let named = |at: &At<'_>, message| {
        let name = secret_name(at, message)?;
        let found = at.context.secrets.validations.get(&name).cloned();
        if found.is_none() {
            at.field("name").error(format!("unknown static certificate validation context {name:?}"));
        }
        found
    };
    match kind {
        ValidationType::ValidationContext(message) => {
            validation_context(&at.field("validation_context"), message)
        }
        ValidationType::ValidationContextSdsSecretConfig(message) => {
            origin.validation = "validation_context_sds_secret_config";
            let at = &at.field(origin.validation);
            validation_context(at, named(at, message)?)
        }
        ValidationType::CombinedValidationContext(message) => {
            origin.validation = "combined_validation_context";
            let at = &at.field(origin.validation);
            classify!(at, message => pb::tls::CommonTlsContextCombinedCertificateValidationContext {
                implemented: default_validation_context, validation_context_sds_secret_config;
                refused: validation_context_certificate_provider, validation_context_certificate_provider_instance;
            });
            let Some(secret) = validation_context_sds_secret_config else {
                at.field("validation_context_sds_secret_config").error("must be set");
                return None;
            };
            let secret = named(&at.field("validation_context_sds_secret_config"), secret)?;
            let mut merged = default_validation_context.unwrap_or_default();
            // As Envoy: protobuf's own merge.
            if let Err(error) = merged.merge(&*secret.encode_to_vec()) {
                at.error(error.to_string());
                return None;
            }
            validation_context(at, merged)
        }
        ValidationType::ValidationContextCertificateProvider(_)
        | ValidationType::ValidationContextCertificateProviderInstance(_) => {
            at.value_refused(
                "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.validation_context_type",
                "",
            );
            None
        }
    }
}

fn validation_context(
    at: &At<'_>,
    message: pb::tls::CertificateValidationContext,
) -> Option<CertificateValidation> {
    classify!(at, message => pb::tls::CertificateValidationContext {
        implemented: trusted_ca, system_root_certs = "without trusted_ca", watched_directory, verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names = "EMAIL, DNS, URI, IP_ADDRESS; OTHER_NAME is refused",
            match_subject_alt_names, crl, allow_expired_certificate = "a chain that held at some time holds",
            trust_chain_verification,
            custom_validator_config = "envoy.tls.cert_validator.spiffe; others are refused", only_verify_leaf_cert_crl,
            max_verify_depth = "for servers too; at most 6 certificates between the two ends", suppress_client_ca_list;
        refused: ca_certificate_provider_instance, require_signed_certificate_timestamp = "Envoy does not check it either";
    });
    let directory = watched_directory.map(|message| directory(&at.field("watched_directory"), message));
    let source = |field: &str, source: Option<pb::core::DataSource>| match source {
        None => Some(None),
        Some(source) => {
            let mut source = at.field(field).source(source)?;
            source.watched_directory = directory.clone().or(source.watched_directory);
            Some(Some(source))
        }
    };
    let system_roots = match system_root_certs {
        None => Some(None),
        Some(_) => system_roots(&at.field("system_root_certs")).map(Some),
    };
    if !match_typed_subject_alt_names.is_empty() && !match_subject_alt_names.is_empty() {
        at.field("match_subject_alt_names").error("not together with match_typed_subject_alt_names");
    }
    let mut subject_alt_names: Vec<_> = match_typed_subject_alt_names
        .into_iter()
        .enumerate()
        .filter_map(|(index, message)| san(&at.item("match_typed_subject_alt_names", index), message))
        .collect();
    for matcher in matcher::strings(at, "match_subject_alt_names", match_subject_alt_names) {
        // Names of any kind, as before kinds could be told apart.
        let kinds = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::IpAddress];
        subject_alt_names.extend(kinds.map(|kind| SanMatcher { kind, matcher: matcher.clone() }));
    }
    let certificate_hashes =
        hashes(at, "verify_certificate_hash", verify_certificate_hash, hex, "a SHA-256 in hexadecimal");
    let spki_hashes =
        hashes(at, "verify_certificate_spki", verify_certificate_spki, base64, "a SHA-256 in Base64");
    let trust_domains = match custom_validator_config {
        None => Some(None),
        Some(extension) => custom_validator(&at.field("custom_validator_config"), extension).map(Some),
    };
    let trust: pb::tls::CertificateValidationContextTrustChainVerification =
        at.enumeration("trust_chain_verification", trust_chain_verification);
    let accept_untrusted =
        trust == pb::tls::CertificateValidationContextTrustChainVerification::AcceptUntrusted;
    let (trusted_ca, crl) = (source("trusted_ca", trusted_ca), source("crl", crl));
    Some(CertificateValidation {
        trusted_ca: trusted_ca?,
        system_roots: system_roots?,
        trust_domains: trust_domains?,
        crl: crl?,
        only_verify_leaf_crl: only_verify_leaf_cert_crl,
        subject_alt_names,
        certificate_hashes,
        spki_hashes,
        allow_expired: allow_expired_certificate,
        accept_untrusted,
        depth_max: max_verify_depth,
        suppress_client_ca_list,
    })
}

fn system_roots(at: &At<'_>) -> Option<Source> {
    let Some(file) = SYSTEM_ROOTS.iter().find(|file| std::path::Path::new(file).is_file()) else {
        at.error(format!("this system has none of {}", SYSTEM_ROOTS.join(", ")));
        return None;
    };
    at.source(pb::core::DataSource {
        specifier: Some(pb::core::DataSourceSpecifierOneOf::Filename((*file).to_owned())),
        ..pb::core::DataSource::default()
    })
}

fn san(at: &At<'_>, message: pb::tls::SubjectAltNameMatcher) -> Option<SanMatcher> {
    classify!(at, message => pb::tls::SubjectAltNameMatcher {
        implemented: san_type = "EMAIL, DNS, URI, IP_ADDRESS; OTHER_NAME is refused", matcher;
        refused: oid = "only OTHER_NAME, which is refused, has one";
    });
    use pb::tls::SubjectAltNameMatcherSanType as Kind;
    let kind = match at.enumeration("san_type", san_type) {
        Kind::Email => SanKind::Email,
        Kind::Dns => SanKind::Dns,
        Kind::Uri => SanKind::Uri,
        Kind::IpAddress => SanKind::IpAddress,
        Kind::OtherName => {
            at.field("san_type").value_refused(
                "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher.SanType.OTHER_NAME",
                "",
            );
            return None;
        }
        Kind::Unspecified => {
            at.field("san_type").error("must be set");
            return None;
        }
    };
    let Some(matcher) = matcher else {
        at.field("matcher").error("must be set");
        return None;
    };
    Some(SanMatcher { kind, matcher: matcher::string(&at.field("matcher"), matcher)? })
}

fn custom_validator(at: &At<'_>, extension: pb::core::TypedExtensionConfig) -> Option<Vec<TrustDomain>> {
    let any = super::http::typed_config(at, extension)?;
    let at = &at.field("typed_config");
    if type_name(&any) != pb::tls::SPIFFECertValidatorConfig::NAME {
        at.extension(Class::Refused, &any, "");
        return None;
    }
    let message = at.unpack::<pb::tls::SPIFFECertValidatorConfig>(&any)?;
    classify!(at, message => pb::tls::SPIFFECertValidatorConfig {
        implemented: trust_domains;
        refused: trust_bundles = "write them as trust_domains";
    });
    if trust_domains.is_empty() {
        at.field("trust_domains").error("must not be empty");
    }
    let mut converted: Vec<TrustDomain> = Vec::new();
    for (index, message) in trust_domains.into_iter().enumerate() {
        let at = &at.item("trust_domains", index);
        classify!(at, message => pb::tls::SPIFFECertValidatorConfigTrustDomain {
            implemented: name, trust_bundle;
            refused: workload_trust_domain;
        });
        if converted.iter().any(|domain| *domain.name == *name) {
            at.field("name").error(format!("duplicate trust domain {name:?}"));
        }
        match trust_bundle {
            Some(source) => {
                let bundle = at.field("trust_bundle").source(source);
                converted.extend(bundle.map(|bundle| TrustDomain { name: name.into(), bundle }));
            }
            None => at.field("trust_bundle").error("must be set"),
        }
    }
    Some(converted)
}

fn hashes(
    at: &At<'_>,
    field: &str,
    values: Vec<String>,
    decode: fn(&str) -> Option<[u8; 32]>,
    wanted: &str,
) -> Vec<[u8; 32]> {
    let hash = |(index, value): (usize, String)| {
        let hash = decode(&value);
        if hash.is_none() {
            at.item(field, index).error(format!("{value:?} is not {wanted}"));
        }
        hash
    };
    values.into_iter().enumerate().filter_map(hash).collect()
}

/// 64 digits, or pairs of them with colons between.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits = if text.len() == 95 { text.replace(':', "") } else { text.to_owned() };
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// 44 letters, the last of them the one `=` that 32 bytes need.
fn base64(text: &str) -> Option<[u8; 32]> {
    let letters = text.strip_suffix('=').filter(|letters| letters.len() == 43)?;
    let mut hash = Vec::with_capacity(33);
    let (mut bits, mut count) = (0u32, 0);
    for letter in letters.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            hash.push((bits >> count & 0xff) as u8);
        }
    }
    // What is left over are bits that no byte has.
    if bits & ((1 << count) - 1) != 0 { None } else { hash.try_into().ok() }
}

#[cfg(test)]
mod tests;
