//! TLS of listeners and clusters. Source: Envoy `extensions.transport_sockets.tls.v3`.
//!
//! Certificates, keys and lists are bytes here, read when configuration was converted; where they came from stays beside
//! them, so that they can be read again when the file changes. `protocol::tls` compiles these types.
use std::fmt;
use std::time::Duration;

use super::ads::Sds;
use super::matcher::StringMatcher;
use super::secret::{NamedCertificate, NamedSecrets};
use super::shared_bytes::SharedBytes;

/// TLS of a filter chain. Source: Envoy `DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DownstreamTls {
    /// What both sides have. Source: `common_tls_context`.
    pub common: CommonTls,
    /// Whether a client without a certificate is refused. Default false: one is asked for if there is something to verify
    /// it by. Source: `require_client_certificate`.
    pub require_client_certificate: bool,
    /// How sessions are resumed without state. Source: `session_ticket_keys_type`.
    pub session_tickets: SessionTickets,
    /// The secret that has the keys of tickets, those known of it being in `session_tickets`; `None`: no secret has. Source:
    /// `session_ticket_keys_sds_secret_config`.
    pub named_ticket_keys: Option<Sds>,
    /// Longest life of a session, in whole seconds, at most a week. Default `None`, as less than a second:
    /// [`SESSION_TIMEOUT_DEFAULT`]. Source: `session_timeout`.
    pub session_timeout: Option<Duration>,
    /// What certificates without a valid OCSP response are good for. Source: `ocsp_staple_policy`.
    pub ocsp_staple_policy: OcspStaplePolicy,
    /// Whether a server name that no certificate has lets all certificates be looked at, for key type and OCSP response.
    /// Default false: the first certificate. Source: `full_scan_certs_on_sni_mismatch`.
    pub full_scan_certs_on_sni_mismatch: bool,
    /// Whether the client's order of cipher suites counts. Default false: ours does. Source: `prefer_client_ciphers`.
    pub prefer_client_ciphers: bool,
}

/// TLS towards endpoints. Source: Envoy `UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// What both sides have; at most one certificate. Source: `common_tls_context`.
    pub common: CommonTls,
    /// Server name sent; empty: none, unless one of the others says so. Source: `sni`.
    pub sni: Box<str>,
    /// Whether the endpoint's host name, where it has one, is the server name instead. Default false. Source:
    /// `auto_host_sni`.
    pub auto_host_sni: bool,
    /// Whether the certificate must have the server name that was sent among its DNS names, instead of any other condition
    /// on names. Default false. Source: `auto_sni_san_validation`.
    pub auto_sni_san_validation: bool,
    /// Most sessions kept for resumption, one per server name. Default 1; 0: none is resumed. Source: `max_session_keys`.
    pub max_session_keys: u32,
}

/// What both sides of TLS have. Source: Envoy `CommonTlsContext`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommonTls {
    /// Versions and algorithms. Source: `tls_params`.
    pub params: TlsParameters,
    /// Certificates shown, in the order given. Source: `tls_certificates`, or the secrets that
    /// `tls_certificate_sds_secret_configs` names, as far as they are known.
    pub certificates: Vec<TlsCertificate>,
    /// How the peer's certificate is verified; `None`: it is not. Source: `validation_context_type`.
    pub validation: Option<CertificateValidation>,
    /// Protocols of the next layer, best first; empty: ALPN is not spoken. Source: `alpn_protocols`.
    pub alpn_protocols: Vec<Box<str>>,
    /// What of it is told by name; `None`: nothing. Source: `SdsSecretConfig.sds_config`.
    pub named: Option<Box<NamedSecrets>>,
}

/// Versions and algorithms of TLS. Source: Envoy `TlsParameters`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsParameters {
    /// Lowest version. Default `None`: TLS 1.2. Source: `tls_minimum_protocol_version`.
    pub minimum: Option<TlsVersion>,
    /// Highest version. Default `None`: TLS 1.3 for servers, TLS 1.2 for clients, as in Envoy. Source:
    /// `tls_maximum_protocol_version`.
    pub maximum: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2, best first, by BoringSSL's names; empty: all that are there. Source: `cipher_suites`.
    pub cipher_suites: Vec<Box<str>>,
    /// Groups of the key exchange, best first, by BoringSSL's names; empty: X25519, P-256. Source: `ecdh_curves`.
    pub curves: Vec<Box<str>>,
    /// Signature algorithms, by BoringSSL's names; empty: all that are there. Source: `signature_algorithms`.
    pub signature_algorithms: Vec<Box<str>>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A certificate that this side shows. Source: Envoy `TlsCertificate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCertificate {
    /// Its chain in PEM, the certificate itself first. Source: `certificate_chain`.
    pub chain: Source,
    /// Its private key in PEM: PKCS#8, encrypted or not, PKCS#1 or SEC1. Source: `private_key`.
    pub private_key: Source,
    /// What a key is encrypted with. Source: `password`.
    pub password: Option<Source>,
    /// OCSP response sent with it, in DER. Source: `ocsp_staple`.
    pub ocsp_staple: Option<Source>,
}

/// How a peer's certificate is verified. Source: Envoy `CertificateValidationContext`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CertificateValidation {
    /// Certificates, in PEM, one of which must be at the end of the peer's chain. Source: `trusted_ca`.
    pub trusted_ca: Option<Source>,
    /// Whether those of the system are trusted. Default false. Source: `system_root_certs`.
    pub system_roots: Option<Source>,
    /// Trusted certificates by SPIFFE trust domain, in place of `trusted_ca`. Source: `custom_validator_config`,
    /// `envoy.tls.cert_validator.spiffe`.
    pub trust_domains: Option<Vec<TrustDomain>>,
    /// Revocation lists, in PEM. Every certificate of the chain needs one that is current. Source: `crl`.
    pub crl: Option<Source>,
    /// Whether only the peer's own certificate needs one. Default false. Source: `only_verify_leaf_cert_crl`.
    pub only_verify_leaf_crl: bool,
    /// Conditions on alternative names, of which one must hold; empty: none. Source: `match_typed_subject_alt_names`,
    /// `match_subject_alt_names`.
    pub subject_alt_names: Vec<SanMatcher>,
    /// SHA-256 of certificates, of which the peer's must be one; with `spki_hashes`: one of either. Empty: none. Source:
    /// `verify_certificate_hash`.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of public keys. Source: `verify_certificate_spki`.
    pub spki_hashes: Vec<[u8; 32]>,
    /// Whether the time does not matter. Default false. Source: `allow_expired_certificate`.
    pub allow_expired: bool,
    /// Whether a certificate that fails is accepted all the same. Default false. Source: `trust_chain_verification:
    /// ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
    /// Most certificates above the peer's own, the trusted one among them. Default `None`: 6 between the two. Source:
    /// `max_verify_depth`.
    pub depth_max: Option<u32>,
    /// Whether clients are not told whom is trusted. Default false. Source: `suppress_client_ca_list`.
    pub suppress_client_ca_list: bool,
}

/// A SPIFFE trust domain. Source: Envoy `SPIFFECertValidatorConfig.TrustDomain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain {
    /// Name, unique. Source: `name`.
    pub name: Box<str>,
    /// Certificates trusted for it, in PEM. Source: `trust_bundle`.
    pub bundle: Source,
}

/// A condition on one kind of alternative names. Source: Envoy `SubjectAltNameMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanMatcher {
    /// Which names. Source: `san_type`.
    pub kind: SanKind,
    /// What is asked of one. Of DNS names, `exact` is compared as host names are: wildcards count. Source: `matcher`.
    pub matcher: StringMatcher,
}

/// A kind of alternative names. Source: Envoy `SubjectAltNameMatcher.SanType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// rfc822Name.
    Email,
    /// dNSName.
    Dns,
    /// uniformResourceIdentifier.
    Uri,
    /// iPAddress, as text.
    IpAddress,
}

/// How sessions are resumed without state. Source: Envoy `DownstreamTlsContext.session_ticket_keys_type`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SessionTickets {
    /// By tickets under keys of this process. The default.
    #[default]
    Generated,
    /// By tickets under these keys, 80 bytes each: the first encrypts, all decrypt. Source: `session_ticket_keys`.
    Keys(Vec<Source>),
    /// Not at all. Source: `disable_stateless_session_resumption`.
    Disabled,
}

/// What certificates without a valid OCSP response are good for, for clients that ask for one; to others they are shown. Source: Envoy
/// `DownstreamTlsContext.OcspStaplePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OcspStaplePolicy {
    /// They are shown without one. The default.
    #[default]
    Lenient,
    /// Without one they are shown, with an expired one they are not.
    Strict,
    /// They are not shown.
    MustStaple,
}

/// Bytes of the configuration, and the file that they came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The file; `None`: they are in the configuration, or in the environment. Source: `DataSource.filename`.
    pub file: Option<Box<str>>,
    /// A directory whose changes tell that the file may have changed, besides the file's own. Source: `watched_directory`.
    pub watched_directory: Option<Box<str>>,
    /// The bytes.
    pub data: SharedBytes,
}

/// Default of [`DownstreamTls::session_timeout`]: BoringSSL's.
pub const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(7200);

/// Length of a session ticket key: 16 bytes of name, 32 to authenticate, 32 to encrypt. From Envoy.
pub const TICKET_KEY_BYTES: usize = 80;

impl Source {
    /// Bytes that no file has.
    pub fn inline(data: impl Into<SharedBytes>) -> Self {
        Self { file: None, watched_directory: None, data: data.into() }
    }
}

/// Never the bytes: they may be a private key.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.data.len(), self.file.as_deref().unwrap_or("<inline>"))
    }
}

impl CertificateValidation {
    /// Whether there is anybody whose word on a certificate counts.
    pub fn trusts_somebody(&self) -> bool {
        self.trusted_ca.is_some() || self.system_roots.is_some() || self.trust_domains.is_some()
    }

    /// Takes the other's bytes where its own are equal: of what was merged from it, and of what was merged from it elsewhere, too, there
    /// is one then.
    pub fn share_bytes(&mut self, other: &Self) {
        let theirs: Vec<&Source> = other.sources().collect();
        for own in self.sources_mut() {
            if let Some(same) = theirs.iter().find(|same| same.data == own.data) {
                own.data = same.data.clone();
            }
        }
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        let domains = self.trust_domains.iter().flatten().map(|domain| &domain.bundle);
        domains.chain([&self.trusted_ca, &self.system_roots, &self.crl].into_iter().flatten())
    }

    fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        let domains = self.trust_domains.iter_mut().flatten().map(|domain| &mut domain.bundle);
        domains.chain([&mut self.trusted_ca, &mut self.system_roots, &mut self.crl].into_iter().flatten())
    }
}

impl CommonTls {
    /// Whether everything is known that it names. One certificate of several will do, as in Envoy.
    pub fn is_whole(&self) -> bool {
        self.named.as_ref().is_none_or(|named| {
            (named.certificates.is_empty() || !self.certificates.is_empty())
                && (named.validation.is_none() || self.validation.is_some())
        })
    }

    /// Whether rules of verification are told.
    pub fn names_validation(&self) -> bool {
        self.named.as_ref().is_some_and(|named| named.validation.is_some())
    }

    /// The secrets that it has told.
    pub fn told(&self) -> impl Iterator<Item = &Sds> {
        self.named.iter().flat_map(|named| named.told())
    }

    /// All its sources.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        let named = self.named.iter_mut().flat_map(|named| &mut named.certificates);
        let fixed = named.filter_map(|named| match named {
            NamedCertificate::Fixed(certificate) => Some(certificate),
            NamedCertificate::Told(_) => None,
        });
        let certificates = self.certificates.iter_mut().chain(fixed).flat_map(|certificate| {
            [&mut certificate.chain, &mut certificate.private_key]
                .into_iter()
                .chain(certificate.password.as_mut())
                .chain(certificate.ocsp_staple.as_mut())
        });
        certificates.chain(self.validation.iter_mut().flat_map(CertificateValidation::sources_mut))
    }
}

impl DownstreamTls {
    /// Whether everything is known that it names.
    pub fn is_whole(&self) -> bool {
        let has_keys = matches!(&self.session_tickets, SessionTickets::Keys(keys) if !keys.is_empty());
        self.common.is_whole() && (self.named_ticket_keys.is_none() || has_keys)
    }

    /// The secrets that it has told.
    pub fn told(&self) -> impl Iterator<Item = &Sds> {
        self.common.told().chain(&self.named_ticket_keys)
    }

    /// All its sources.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        let keys = match &mut self.session_tickets {
            SessionTickets::Keys(keys) => keys.as_mut_slice(),
            SessionTickets::Generated | SessionTickets::Disabled => &mut [],
        };
        self.common.sources_mut().chain(keys)
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self {
            common: CommonTls::default(),
            sni: Box::default(),
            auto_host_sni: false,
            auto_sni_san_validation: false,
            max_session_keys: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_debug_has_no_secret() {
        let source = Source::inline(*b"-----BEGIN PRIVATE KEY-----");
        assert_eq!(format!("{source:?}"), "27 bytes of <inline>");
    }

    #[test]
    fn merged_rules_share_the_bytes_of_the_secret() {
        let rules = |trusted: &str, crl: &str| CertificateValidation {
            trusted_ca: Some(Source::inline(trusted.as_bytes())),
            crl: Some(Source::inline(crl.as_bytes())),
            ..CertificateValidation::default()
        };
        let (secret, mut merged) = (rules("root", "list"), rules("root", "other"));
        merged.share_bytes(&secret);
        let same = |of: fn(&CertificateValidation) -> &Option<Source>| {
            let [own, theirs] = [&merged, &secret].map(|rules| of(rules).as_ref().unwrap());
            own.data.is(&theirs.data)
        };
        assert!(same(|rules| &rules.trusted_ca) && !same(|rules| &rules.crl));
        assert_eq!(merged, rules("root", "other"));
    }

    #[test]
    fn sources_of_a_context_are_all_that_it_has() {
        let source = || Source::inline(*b"x");
        let certificate = TlsCertificate {
            chain: source(),
            private_key: source(),
            password: Some(source()),
            ocsp_staple: Some(source()),
        };
        let validation = CertificateValidation {
            trusted_ca: Some(source()),
            system_roots: Some(source()),
            crl: Some(source()),
            trust_domains: Some(vec![TrustDomain { name: "d".into(), bundle: source() }]),
            ..CertificateValidation::default()
        };
        let common = CommonTls {
            certificates: vec![certificate],
            validation: Some(validation),
            ..CommonTls::default()
        };
        let session_tickets = SessionTickets::Keys(vec![source(), source()]);
        let mut tls = DownstreamTls { common, session_tickets, ..DownstreamTls::default() };
        assert_eq!(tls.sources_mut().count(), 10);
    }
}
