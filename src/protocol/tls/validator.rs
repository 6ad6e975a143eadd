//! Whether a peer's certificate is one that the configuration trusts, by Envoy's rules.
//!
//! First the chain, up to a trusted certificate; then conditions on names; then digests. Stricter than BoringSSL, since
//! webpki is: a certificate of an authority is no peer's (unless it is itself among the trusted ones), and version 1
//! certificates are refused.
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::certificate::fixed;
use super::crl::Lists;
use super::san::{SanTest, any_name_is, host_matches};
use super::{Certificate, TlsConfigError, pem};
use crate::base::heaps;
use crate::config::tls::{CertificateValidation, SanKind, Source};

/// What a peer's certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Client,
    Server,
}

/// The condition on names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names<'a> {
    /// That of the configuration.
    Configured,
    /// One of the DNS names is this one. Envoy: `auto_sni_san_validation`.
    Dns(&'a str),
    /// One of the names is this one, besides that of the configuration. Envoy: `auto_san_validation`.
    Any(&'a str),
}

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be read.
    Unreadable(String),
    /// No chain leads to a trusted certificate, or it does not hold.
    Chain(webpki::Error),
    /// The certificate is pinned and not valid at this time, or for this purpose.
    Pinned(&'static str),
    /// No SPIFFE trust domain that is configured.
    TrustDomain,
    /// None of its names meets a condition.
    San,
    /// Its digest is not among those expected.
    Hash,
}

/// The rules of one context.
pub(super) struct Validator {
    trust: Trust,
    crls: Vec<CertRevocationList<'static>>,
    only_leaf_crl: bool,
    sans: Vec<SanTest>,
    certificate_hashes: Vec<[u8; 32]>,
    spki_hashes: Vec<[u8; 32]>,
    allow_expired: bool,
    accept_untrusted: bool,
    /// Most certificates between the peer's and the trusted one.
    intermediates_max: Option<u32>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    /// The first trusted certificate and its file, for `/certs`.
    pub(super) authority: Option<(Option<Box<str>>, Arc<Certificate>)>,
    /// Whether clients are told whom is trusted.
    tells_subjects: bool,
}

/// Certificates of a chain whose times are tried where expired ones are allowed. Reason: each costs up to a hundred
/// signatures, and no honest chain is as long.
const EXPIRED_CHAIN_MAX: usize = 16;

enum Trust {
    /// Nothing: only digests decide.
    Nothing,
    Store(Arc<Store>),
    /// By SPIFFE trust domain. Revocation lists that came with its certificates hold for them alone, to every depth.
    Domains(Vec<(Box<str>, Arc<Store>)>),
}

/// Trusted certificates. All who have the same bytes share it.
struct Store {
    anchors: Vec<Anchor>,
    /// Digests of the certificates themselves: one of them may be the peer's own.
    digests: Vec<[u8; 32]>,
    /// Revocation lists that came with them.
    crls: Vec<CertRevocationList<'static>>,
    first: Option<Arc<Certificate>>,
}

/// By whom a chain may end.
#[derive(Clone, Copy)]
struct Trusted<'a> {
    store: &'a Store,
    /// Revocation lists that hold for them alone, to every depth.
    own_crls: &'a [CertRevocationList<'static>],
}

/// One of them, and what webpki does not ask of an anchor.
struct Anchor {
    trust: TrustAnchor<'static>,
    /// In seconds since the epoch.
    not_before: u64,
    not_after: u64,
    may_issue: bool,
}

impl Validator {
    pub(super) fn compile(
        config: &CertificateValidation,
        algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    ) -> Result<Self, TlsConfigError> {
        let roots = match (&config.trusted_ca, &config.system_roots) {
            (Some(source), _) => Some(("trusted_ca", source)),
            (None, Some(source)) => Some(("system_root_certs", source)),
            (None, None) => None,
        };
        let mut trust = Trust::Nothing;
        let mut authority = None;
        let mut crls = Lists::default();
        if let Some(domains) = &config.trust_domains {
            let store = |(index, domain): (usize, &crate::config::tls::TrustDomain)| {
                let field =
                    format!("custom_validator_config.typed_config.trust_domains[{index}].trust_bundle");
                let store = Store::of(&domain.bundle, &field)?;
                authority = authority.take().or_else(|| store.first_of(&domain.bundle));
                Ok((domain.name.clone(), store))
            };
            trust = Trust::Domains(domains.iter().enumerate().map(store).collect::<Result<_, _>>()?);
        } else if let Some((field, source)) = roots {
            let store = Store::of(source, field)?;
            authority = store.first_of(source);
            // Envoy takes revocation lists out of the trusted certificates' file as well.
            if !store.crls.is_empty() {
                crls.read(source, field)?;
            }
            trust = Trust::Store(store);
        }
        if let Some(source) = &config.crl {
            if matches!(trust, Trust::Nothing) {
                return Err(TlsConfigError::new("crl", "without trusted_ca there is nobody who may revoke"));
            }
            if crls.read(source, "crl")? == 0 {
                return Err(
                    TlsConfigError::new("crl", "no revocation list in it (PEM is expected)").of(source)
                );
            }
        }
        if matches!(trust, Trust::Nothing) {
            if !config.subject_alt_names.is_empty() {
                return Err(TlsConfigError::new(
                    "match_typed_subject_alt_names",
                    "names that nobody trusted vouches for prove nothing: set trusted_ca",
                ));
            }
            if config.allow_expired {
                return Err(TlsConfigError::new(
                    "allow_expired_certificate",
                    "without trusted_ca the time is never looked at",
                ));
            }
        }
        let test =
            |(index, matcher)| SanTest::compile(matcher, &format!("match_typed_subject_alt_names[{index}]"));
        Ok(Self {
            trust,
            crls: crls.newest_first(),
            only_leaf_crl: config.only_verify_leaf_crl,
            sans: config.subject_alt_names.iter().enumerate().map(test).collect::<Result<_, _>>()?,
            certificate_hashes: config.certificate_hashes.clone(),
            spki_hashes: config.spki_hashes.clone(),
            allow_expired: config.allow_expired,
            // Of a SPIFFE validator Envoy does not ask it.
            accept_untrusted: config.accept_untrusted && config.trust_domains.is_none(),
            // The trusted certificate counts in the configuration, and not here.
            intermediates_max: config.depth_max.map(|depth| depth.saturating_sub(1)),
            algorithms,
            authority,
            tells_subjects: !config.suppress_client_ca_list,
        })
    }

    /// Names that clients are told: of whom is trusted.
    pub(super) fn hints(&self) -> Vec<DistinguishedName> {
        match &self.trust {
            Trust::Store(store) if self.tells_subjects => subjects([&**store]),
            Trust::Domains(domains) if self.tells_subjects => {
                subjects(domains.iter().map(|(_, store)| &**store))
            }
            Trust::Nothing | Trust::Store(_) | Trust::Domains(_) => Vec::new(),
        }
    }

    /// Whether there is anything to verify by; without it every certificate is accepted.
    pub(super) fn verifies(&self) -> bool {
        !matches!(self.trust, Trust::Nothing) || self.has_hashes()
    }

    /// Whether there is somebody who vouches for names.
    pub(super) fn trusts_somebody(&self) -> bool {
        !matches!(self.trust, Trust::Nothing)
    }

    /// Whether a peer's certificate has to meet conditions of its own, so that it has to show one.
    pub(super) fn has_conditions(&self) -> bool {
        let by_domain = matches!(self.trust, Trust::Domains(_));
        by_domain || !self.accept_untrusted && (self.has_hashes() || !self.sans.is_empty())
    }

    /// Whether what fails is accepted all the same.
    pub(super) fn accepts_untrusted(&self) -> bool {
        self.accept_untrusted
    }

    fn has_hashes(&self) -> bool {
        !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty()
    }

    /// Whether the certificate is accepted.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        names: Names<'_>,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        if self.accept_untrusted || !self.verifies() {
            return Ok(());
        }
        self.check(leaf, chain, purpose, names, now)
    }

    /// Whether nothing is wrong with the certificate, be it accepted all the same.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        names: Names<'_>,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let certificate = Certificate::parse(leaf).map_err(Refusal::Unreadable)?;
        match &self.trust {
            Trust::Nothing => {}
            // Its lists are among all others.
            Trust::Store(store) => {
                self.check_chain(Trusted { store, own_crls: &[] }, &certificate, leaf, chain, purpose, now)?
            }
            Trust::Domains(domains) => {
                let domain = spiffe_domain(&certificate).ok_or(Refusal::TrustDomain)?;
                let known = domains.iter().find(|(name, _)| **name == *domain);
                let (_, store) = known.ok_or(Refusal::TrustDomain)?;
                self.check_chain(
                    Trusted { store, own_crls: &store.crls },
                    &certificate,
                    leaf,
                    chain,
                    purpose,
                    now,
                )?;
            }
        }
        self.check_names(&certificate, names)?;
        let has = |list: &[[u8; 32]], hash| list.contains(hash);
        if self.has_hashes()
            && !has(&self.certificate_hashes, &certificate.sha256)
            && !has(&self.spki_hashes, &certificate.spki_sha256)
        {
            return Err(Refusal::Hash);
        }
        Ok(())
    }

    fn check_names(&self, certificate: &Certificate, names: Names<'_>) -> Result<(), Refusal> {
        let configured = || self.sans.is_empty() || self.sans.iter().any(|test| test.holds(certificate));
        let hold = match names {
            Names::Configured => configured(),
            Names::Dns(wanted) => certificate.names(SanKind::Dns).any(|name| host_matches(wanted, name)),
            Names::Any(wanted) => any_name_is(certificate, wanted) && configured(),
        };
        if hold { Ok(()) } else { Err(Refusal::San) }
    }

    fn check_chain(
        &self,
        Trusted { store, own_crls }: Trusted<'_>,
        certificate: &Certificate,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        // A trusted certificate may be the peer's own: often a self-signed one, which no authority has signed. With
        // revocation lists somebody has to be its issuer.
        if self.crls.is_empty() && own_crls.is_empty() && store.digests.contains(&certificate.sha256) {
            return self.check_pinned(certificate, purpose, now);
        }
        let mut outcome = self.chain_at(Trusted { store, own_crls }, leaf, chain, purpose, now);
        if self.allow_expired && outcome.is_err() {
            // A chain holds whatever the time if it ever held: at the begin or the end of one of its parts. What a stranger
            // sends decides how often it is looked for.
            let parts = chain.iter().take(EXPIRED_CHAIN_MAX).filter_map(|part| Certificate::parse(part).ok());
            let parts = parts.chain([certificate.clone()]);
            let times: BTreeSet<u64> = parts.flat_map(|part| [part.not_before, part.not_after]).collect();
            for time in times {
                let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(time));
                match self.chain_at(Trusted { store, own_crls }, leaf, chain, purpose, time) {
                    Ok(()) => {
                        outcome = Ok(());
                        break;
                    }
                    Err(
                        webpki::Error::MaximumSignatureChecksExceeded
                        | webpki::Error::MaximumPathBuildCallsExceeded,
                    ) => break,
                    Err(_) => {}
                }
            }
        }
        outcome.map_err(Refusal::Chain)
    }

    fn chain_at(
        &self,
        Trusted { store, own_crls }: Trusted<'_>,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        time: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().chain(own_crls).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            let depth = if self.only_leaf_crl && own_crls.is_empty() {
                RevocationCheckDepth::EndEntity
            } else {
                RevocationCheckDepth::Chain
            };
            let expiration =
                if self.allow_expired { ExpirationPolicy::Ignore } else { ExpirationPolicy::Enforce };
            builder
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(expiration)
                .build()
        });
        let usage = match purpose {
            Purpose::Client => KeyUsage::client_auth(),
            Purpose::Server => KeyUsage::server_auth(),
        };
        let limit = self.intermediates_max.unwrap_or(u32::MAX);
        let short = |path: &webpki::VerifiedPath<'_>| {
            let length = path.intermediate_certificates().count();
            if length as u64 > u64::from(limit) {
                Err(webpki::Error::MaximumPathDepthExceeded)
            } else {
                Ok(())
            }
        };
        let anchors = store.anchors_at(time.as_secs(), self.allow_expired);
        EndEntityCert::try_from(leaf)?.verify_for_usage(
            self.algorithms,
            &anchors,
            chain,
            time,
            usage,
            revocation,
            Some(&short),
        )?;
        Ok(())
    }

    fn check_pinned(
        &self,
        certificate: &Certificate,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let now = now.as_secs();
        if !self.allow_expired && (now < certificate.not_before || certificate.not_after < now) {
            return Err(Refusal::Pinned("it is not valid at this time"));
        }
        let wanted = match purpose {
            Purpose::Client => "1.3.6.1.5.5.7.3.2",
            Purpose::Server => "1.3.6.1.5.5.7.3.1",
        };
        let allowed = certificate.purposes.as_ref().is_none_or(|list| list.iter().any(|oid| oid == wanted));
        if allowed { Ok(()) } else { Err(Refusal::Pinned("its extended key usage is another")) }
    }
}

impl Anchor {
    fn borrowed(&self) -> TrustAnchor<'_> {
        let Self { trust, .. } = self;
        TrustAnchor {
            subject: Der::from_slice(trust.subject.as_ref()),
            subject_public_key_info: Der::from_slice(trust.subject_public_key_info.as_ref()),
            name_constraints: trust.name_constraints.as_ref().map(|names| Der::from_slice(names.as_ref())),
        }
    }
}

impl Store {
    /// What all have who have these bytes.
    fn of(source: &Source, field: &str) -> Result<Arc<Self>, TlsConfigError> {
        if let Some(known) = source.data.made() {
            return Ok(known);
        }
        heaps::lasting(|| {
            let read = Arc::new(Self::read(source, field)?);
            source.data.keep(&read);
            Ok(read)
        })
    }

    fn read(source: &Source, field: &str) -> Result<Self, TlsConfigError> {
        let wrong = |reason: String| TlsConfigError::new(field, reason).of(source);
        let certificates = pem::certificates(&source.data).map_err(wrong)?;
        let mut store = Self { anchors: Vec::new(), digests: Vec::new(), crls: Vec::new(), first: None };
        for (index, certificate) in certificates.iter().enumerate() {
            let anchor = anchor_from_trusted_cert(certificate)
                .map_err(|error| wrong(format!("certificate {index} cannot be trusted: {error}")))?;
            let read = Certificate::parse(certificate)
                .map_err(|error| wrong(format!("certificate {index} cannot be trusted: {error}")))?;
            store.anchors.push(Anchor {
                trust: anchor.to_owned(),
                not_before: read.not_before,
                not_after: read.not_after,
                may_issue: read.may_issue,
            });
            store.digests.push(fixed(digest(&SHA256, certificate).as_ref()));
            store.first.get_or_insert_with(|| Arc::new(read));
        }
        let mut crls = Lists::default();
        crls.read(source, field)?;
        store.crls = crls.newest_first();
        store.anchors.shrink_to_fit();
        store.digests.shrink_to_fit();
        Ok(store)
    }

    fn first_of(&self, source: &Source) -> Option<(Option<Box<str>>, Arc<Certificate>)> {
        Some((source.file.clone(), Arc::clone(self.first.as_ref()?)))
    }

    /// Those by whom a peer's certificate may have been issued, at this time or, if expired ones do, at any.
    fn anchors_at(&self, now: u64, allow_expired: bool) -> Vec<TrustAnchor<'_>> {
        let is_valid =
            |anchor: &&Anchor| allow_expired || (anchor.not_before..=anchor.not_after).contains(&now);
        self.anchors.iter().filter(|anchor| anchor.may_issue).filter(is_valid).map(Anchor::borrowed).collect()
    }
}

/// Subjects of whom is trusted, each once.
fn subjects<'a>(stores: impl IntoIterator<Item = &'a Store>) -> Vec<DistinguishedName> {
    let mut names: Vec<DistinguishedName> = Vec::new();
    for anchor in stores.into_iter().flat_map(|store| &store.anchors) {
        let name = DistinguishedName::in_sequence(anchor.trust.subject.as_ref());
        if names.iter().all(|other| other.as_ref() != name.as_ref()) {
            names.push(name);
        }
    }
    names
}

/// The trust domain of a SPIFFE certificate, which is no authority's and has one name of its kind, with a path behind the
/// domain as in Envoy. SPIFFE X509-SVID, sections 2 and 5.2.
fn spiffe_domain(certificate: &Certificate) -> Option<&str> {
    if certificate.is_authority || certificate.may_sign {
        return None;
    }
    let mut names = certificate.names(SanKind::Uri);
    let (name, None) = (names.next()?, names.next()) else { return None };
    let (domain, _) = name.strip_prefix("spiffe://")?.split_once('/')?;
    Some(domain).filter(|domain| !domain.is_empty())
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Validator")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => f.write_str(reason),
            Self::Chain(error) => write!(f, "certificate chain: {error}"),
            Self::Pinned(reason) => write!(f, "trusted certificate: {reason}"),
            Self::TrustDomain => f.write_str("no configured SPIFFE trust domain"),
            Self::San => f.write_str("no alternative name that is expected"),
            Self::Hash => f.write_str("another certificate hash or public key"),
        }
    }
}

#[cfg(test)]
mod tests;
