//! How peers are verified: whom is trusted, and the names, digests and lists that count.
use prost::Message;

use super::super::at::At;
use super::super::fields::classify;
use super::super::report::Class;
use super::super::value::type_name;
use super::super::{http, matcher};
use super::secret::{Named as Name, named};
use super::{Origin, directory};
use crate::config::ads::SecretKind;
use crate::config::secret::{NamedSecrets, NamedValidation};
use crate::config::tls::{CertificateValidation, SanKind, SanMatcher, Source, TrustDomain};
use crate::control::xds::pb::{self, Named};
use pb::tls::CommonTlsContextValidationContextTypeOneOf as ValidationType;

/// Files in which distributions keep the certificates that they trust, the first that is there counts.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(super) fn validation(
    at: &At<'_>,
    kind: ValidationType,
    origin: &mut Origin,
    told: &mut NamedSecrets,
) -> Option<Option<CertificateValidation>> {
    let find = |at: &At<'_>, name: String| {
        let found = at.context.secrets.validations.get(&name).cloned();
        if found.is_none() {
            at.field("name").error(format!("unknown static certificate validation context {name:?}"));
        }
        found
    };
    match kind {
        ValidationType::ValidationContext(message) => {
            validation_context(&at.field("validation_context"), message).map(Some)
        }
        ValidationType::ValidationContextSdsSecretConfig(message) => {
            origin.validation = "validation_context_sds_secret_config";
            let at = &at.field(origin.validation);
            match named(at, message, SecretKind::Validation)? {
                Name::Static(name) => validation_context(at, find(at, name)?).map(Some),
                Name::Told(secret) => {
                    told.validation = Some(NamedValidation { secret, default: None });
                    Some(None)
                }
            }
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
            let mut merged = default_validation_context.unwrap_or_default();
            let secret_at = &at.field("validation_context_sds_secret_config");
            let secret = match named(secret_at, secret, SecretKind::Validation)? {
                Name::Static(name) => find(secret_at, name)?,
                Name::Told(secret) => {
                    let default = Some(merged.encode_to_vec().into());
                    validation_context(&at.field("default_validation_context"), merged)?;
                    told.validation = Some(NamedValidation { secret, default });
                    return Some(None);
                }
            };
            // As Envoy: protobuf's own merge.
            if let Err(error) = merged.merge(&*secret.encode_to_vec()) {
                at.error(error.to_string());
                return None;
            }
            validation_context(at, merged).map(Some)
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

pub(super) fn validation_context(
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
    // Collected in place of messages, which are larger.
    subject_alt_names.shrink_to_fit();
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
    let any = http::typed_config(at, extension)?;
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
pub(super) fn hex(text: &str) -> Option<[u8; 32]> {
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
pub(super) fn base64(text: &str) -> Option<[u8; 32]> {
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
