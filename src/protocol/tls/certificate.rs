//! What a certificate says: names, validity, fingerprints.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use x509_cert::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use super::name;
use crate::config::tls::SanKind;

/// Extension by which a certificate asks to be used with an OCSP response only. RFC 7633.
const TLS_FEATURE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.24");
/// Its value for `status_request`: SEQUENCE { INTEGER 5 }.
const STATUS_REQUEST: &[u8] = &[0x30, 0x03, 0x02, 0x01, 0x05];

/// A certificate, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Subject, by RFC 2253.
    pub subject: String,
    /// Issuer, by RFC 2253.
    pub issuer: String,
    /// The subject's first common name.
    pub common_name: Option<String>,
    /// Serial number in hexadecimal, lower case, without leading zeros.
    pub serial: String,
    /// Alternative names, in order; other kinds are left out.
    pub alt_names: Vec<(SanKind, String)>,
    /// Whether it has alternative names of any kind.
    pub has_alt_names: bool,
    /// Valid from, in seconds since the epoch.
    pub not_before: u64,
    /// Valid until, in seconds since the epoch.
    pub not_after: u64,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// SHA-1 of the certificate.
    pub sha1: [u8; 20],
    /// SHA-256 of its public key's `SubjectPublicKeyInfo`.
    pub spki_sha256: [u8; 32],
    /// Whether it says that it is an authority's.
    pub is_authority: bool,
    /// Whether its key may sign certificates or revocation lists, by its `keyUsage`.
    pub may_sign: bool,
    /// Whether it may be the issuer of others: an authority's whose `keyUsage`, if there is one, says so, or self-signed and of
    /// the first version, which has no extensions. As BoringSSL.
    pub may_issue: bool,
    /// Purposes of its key; `None`: any.
    pub purposes: Option<Vec<String>>,
    /// Whether it asks to be used with an OCSP response only.
    pub must_staple: bool,
    /// Object identifier of the key's algorithm, and of its curve if it has one.
    pub key: (String, Option<String>),
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// What is not as X.509 has it.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let unreadable = |error: x509_cert::der::Error| format!("not a readable certificate: {error}");
        let parsed = x509_cert::Certificate::from_der(der).map_err(unreadable)?;
        let tbs = &parsed.tbs_certificate;
        let names = tbs.get::<SubjectAltName>().map_err(unreadable)?.map(|(_, names)| names.0);
        let constraints = tbs.get::<BasicConstraints>().map_err(unreadable)?;
        let is_authority = constraints.is_some_and(|(_, constraints)| constraints.ca);
        let usage = tbs.get::<KeyUsage>().map_err(unreadable)?;
        let purposes = tbs.get::<ExtendedKeyUsage>().map_err(unreadable)?;
        let spki = tbs.subject_public_key_info.to_der().map_err(unreadable)?;
        let algorithm = &tbs.subject_public_key_info.algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|parameters| {
            parameters.decode_as::<ObjectIdentifier>().ok().map(|curve| curve.to_string())
        });
        let mut extensions = tbs.extensions.iter().flatten();
        Ok(Self {
            subject: name::rfc2253(&tbs.subject),
            issuer: name::rfc2253(&tbs.issuer),
            common_name: name::common_name(&tbs.subject),
            serial: serial(tbs.serial_number.as_bytes()),
            has_alt_names: names.is_some(),
            alt_names: names.iter().flatten().filter_map(alt_name).collect(),
            not_before: tbs.validity.not_before.to_unix_duration().as_secs(),
            not_after: tbs.validity.not_after.to_unix_duration().as_secs(),
            sha256: fixed(digest(&SHA256, der).as_ref()),
            sha1: fixed(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
            spki_sha256: fixed(digest(&SHA256, &spki).as_ref()),
            is_authority,
            may_sign: usage.as_ref().is_some_and(|(_, usage)| usage.key_cert_sign() || usage.crl_sign()),
            may_issue: usage.as_ref().is_none_or(|(_, usage)| usage.key_cert_sign())
                && (is_authority || tbs.version == Version::V1 && tbs.subject == tbs.issuer),
            purposes: purposes.map(|(_, list)| list.0.iter().map(ToString::to_string).collect()),
            must_staple: extensions.any(|extension| {
                extension.extn_id == TLS_FEATURE && extension.extn_value.as_bytes() == STATUS_REQUEST
            }),
            key: (algorithm.oid.to_string(), curve),
        })
    }

    /// Its alternative names of one kind.
    pub fn names(&self, kind: SanKind) -> impl Iterator<Item = &str> {
        self.alt_names.iter().filter(move |(of, _)| *of == kind).map(|(_, name)| name.as_str())
    }

    /// Names by which a server's certificate is found: DNS names, else the common name.
    pub(super) fn server_names(&self) -> Vec<&str> {
        if self.has_alt_names {
            self.names(SanKind::Dns).collect()
        } else {
            self.common_name.as_deref().filter(|name| !name.is_empty()).into_iter().collect()
        }
    }

    /// Whole days until it is no longer valid; 0 when it is not.
    pub fn days_until_expiration(&self, now_unix: u64) -> u64 {
        Self::days_until(self.not_after, now_unix)
    }

    /// Whole days until then, both in seconds since the epoch; 0 behind it.
    pub fn days_until(then_unix: u64, now_unix: u64) -> u64 {
        then_unix.saturating_sub(now_unix) / 86_400
    }
}

fn alt_name(name: &GeneralName) -> Option<(SanKind, String)> {
    Some(match name {
        GeneralName::Rfc822Name(text) => (SanKind::Email, text.to_string()),
        GeneralName::DnsName(text) => (SanKind::Dns, text.to_string()),
        GeneralName::UniformResourceIdentifier(text) => (SanKind::Uri, text.to_string()),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(|v4| IpAddr::V4(Ipv4Addr::from(v4)));
            let address =
                v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|v6| IpAddr::V6(Ipv6Addr::from(v6))));
            (SanKind::IpAddress, address.ok()?.to_string())
        }
        GeneralName::OtherName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => return None,
    })
}

/// As BoringSSL's `BN_bn2hex`: whole bytes.
fn serial(bytes: &[u8]) -> String {
    let digits = bytes.iter().skip_while(|byte| **byte == 0);
    let text: String = digits.map(|byte| format!("{byte:02x}")).collect();
    if text.is_empty() { "00".into() } else { text }
}

/// A digest, whose length is that of its algorithm.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut fixed = [0; N];
    bytes.iter().zip(&mut fixed).for_each(|(from, to)| *to = *from);
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls::testing::{Authority, Spec};

    #[test]
    fn certificate_tells_its_names_by_kind() {
        let spec = Spec::dns("a.example")
            .also_dns("*.b.example")
            .uri("spiffe://td/w")
            .ip("10.0.0.1".parse().unwrap())
            .ip("2001:db8::1".parse().unwrap())
            .email("me@example")
            .serial(&[0x00, 0xab, 0x01]);
        let read = Certificate::parse(&Authority::new("ca").issue(spec).leaf).unwrap();
        let names = |kind| read.names(kind).collect::<Vec<_>>();
        assert_eq!(names(SanKind::Dns), ["a.example", "*.b.example"]);
        assert_eq!(names(SanKind::Uri), ["spiffe://td/w"]);
        assert_eq!(names(SanKind::IpAddress), ["10.0.0.1", "2001:db8::1"]);
        assert_eq!(names(SanKind::Email), ["me@example"]);
        assert_eq!((read.issuer.as_str(), read.serial.as_str()), ("CN=ca", "ab01"));
        assert_eq!(read.server_names(), ["a.example", "*.b.example"]);
        assert!(!read.is_authority && !read.must_staple && !read.may_sign);
        assert_eq!(read.key.1.as_deref(), Some("1.2.840.10045.3.1.7"));
    }

    #[test]
    fn common_name_is_a_server_name_only_without_alternative_names() {
        let read = |spec| Certificate::parse(&Authority::new("ca").issue(spec).leaf).unwrap();
        let plain = read(Spec::nameless().subject(&[("CN", "cn.example")]));
        assert_eq!(plain.server_names(), ["cn.example"]);
        let other = read(Spec::nameless().uri("spiffe://td/w").subject(&[("CN", "cn.example")]));
        assert!(other.server_names().is_empty());
    }

    #[test]
    fn bytes_that_are_no_certificate_are_an_error() {
        let good = Authority::new("ca").issue(Spec::dns("a")).leaf;
        for length in 0..good.len() {
            assert!(Certificate::parse(&good[..length]).is_err());
        }
        for place in 0..good.len() {
            let mut bad = good.to_vec();
            bad[place] ^= 0x55;
            // Must not panic; most are errors, some only another certificate.
            let _ = Certificate::parse(&bad);
        }
    }

    #[test]
    fn days_until_expiration_are_whole_and_end_at_zero() {
        let mut read = Certificate::parse(&Authority::new("ca").issue(Spec::dns("a")).leaf).unwrap();
        read.not_after = 86_400 * 10;
        assert_eq!(read.days_until_expiration(0), 10);
        assert_eq!(read.days_until_expiration(1), 9);
        assert_eq!(read.days_until_expiration(86_400 * 11), 0);
    }
}
