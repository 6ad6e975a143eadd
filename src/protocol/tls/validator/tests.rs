//! Rules of verification, one test each.
use std::time::Duration;

use rcgen::KeyUsagePurpose;
use rustls::crypto::aws_lc_rs::default_provider;

use super::*;
use crate::config::matcher::{StringMatcher, StringPattern};
use crate::config::tls::{SanMatcher, TrustDomain};
use crate::protocol::tls::testing::{Authority, CLIENT, Issued, SERVER, Spec, source};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn compile(config: &CertificateValidation) -> Result<Validator, TlsConfigError> {
    Validator::compile(config, default_provider().signature_verification_algorithms.all)
}

fn trusting(pem: &str) -> CertificateValidation {
    CertificateValidation { trusted_ca: Some(source(pem)), ..CertificateValidation::default() }
}

fn verify(config: &CertificateValidation, leaf: &Issued, chain: &[&Authority]) -> Result<(), Refusal> {
    verify_names(config, leaf, chain, Names::Configured)
}

fn verify_names(
    config: &CertificateValidation,
    leaf: &Issued,
    chain: &[&Authority],
    names: Names<'_>,
) -> Result<(), Refusal> {
    let chain: Vec<_> = chain.iter().map(|authority| authority.der()).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    compile(config).unwrap().verify(&leaf.der(), &chain, Purpose::Client, names, now)
}

fn exact(kind: SanKind, name: &str) -> SanMatcher {
    let matcher = StringMatcher { pattern: StringPattern::Exact(name.into()), ignore_case: false };
    SanMatcher { kind, matcher }
}

#[test]
fn chain_has_to_lead_to_a_trusted_certificate() {
    let (root, other) = (Authority::new("root"), Authority::new("root"));
    let leaf = root.issue(Spec::dns("a"));
    assert_eq!(verify(&trusting(&root.pem()), &leaf, &[]), Ok(()));
    assert!(
        matches!(verify(&trusting(&other.pem()), &leaf, &[]), Err(Refusal::Chain(_))),
        "same name, another key"
    );
    assert_eq!(verify(&trusting(&format!("{}{}", other.pem(), root.pem())), &leaf, &[]), Ok(()));
    let middle = root.intermediate("middle");
    let leaf = middle.issue(Spec::dns("a"));
    assert_eq!(verify(&trusting(&root.pem()), &leaf, &[]), Err(Refusal::Chain(webpki::Error::UnknownIssuer)));
    assert_eq!(verify(&trusting(&root.pem()), &leaf, &[&middle]), Ok(()));
    assert_eq!(verify(&trusting(&middle.pem()), &leaf, &[]), Ok(()), "a partial chain");
}

#[test]
fn certificate_that_no_authority_signed_is_refused() {
    let root = Authority::new("root");
    let usurper = root.issue(Spec::dns("a").subject(&[("CN", "usurper")]));
    // A leaf's key signs another leaf: the chain is intact but for its middle being no authority.
    let own = Spec::dns("a").self_signed();
    assert!(matches!(verify(&trusting(&root.pem()), &own, &[]), Err(Refusal::Chain(_))));
    assert!(matches!(verify(&trusting(&usurper.chain_pem), &own, &[]), Err(Refusal::Chain(_))));
}

#[test]
fn trusted_certificate_vouches_for_others_while_it_is_valid_and_an_authoritys() {
    let expired = Authority::expired("old");
    let leaf = expired.issue(Spec::dns("a"));
    let mut config = trusting(&expired.pem());
    assert!(matches!(verify(&config, &leaf, &[]), Err(Refusal::Chain(_))));
    config.allow_expired = true;
    assert_eq!(verify(&config, &leaf, &[]), Ok(()));
    // A partner's own certificate is trusted: that does not make the partner an authority.
    let usages = [KeyUsagePurpose::DigitalSignature];
    for pinned in [Spec::dns("partner"), Spec::dns("partner").authority().key_usages(&usages)] {
        let partner = Authority::of(pinned);
        let forged = partner.issue(Spec::dns("admin"));
        let root = Authority::new("root");
        let both = trusting(&format!("{}{}", root.pem(), partner.pem()));
        assert!(matches!(verify(&both, &forged, &[]), Err(Refusal::Chain(_))));
        assert_eq!(verify(&both, &root.issue(Spec::dns("a")), &[]), Ok(()));
    }
}

#[test]
fn chain_of_a_stranger_costs_a_bounded_number_of_tries_where_expired_ones_are_allowed() {
    let root = Authority::new("root");
    let config = CertificateValidation { allow_expired: true, ..trusting(&root.pem()) };
    let stranger = Authority::new("root");
    let leaf = stranger.issue(Spec::dns("a"));
    let chain: Vec<_> = (0..100).map(|_| Authority::new("root")).collect();
    assert!(verify(&config, &leaf, &chain.iter().collect::<Vec<_>>()).is_err());
}

#[test]
fn validity_is_looked_at_unless_the_configuration_says_otherwise() {
    let root = Authority::new("root");
    let mut config = trusting(&root.pem());
    let expired = root.issue(Spec::dns("a").years(2020, 2021));
    let early = root.issue(Spec::dns("a").years(2030, 2031));
    assert!(matches!(verify(&config, &expired, &[]), Err(Refusal::Chain(webpki::Error::CertExpired { .. }))));
    assert!(matches!(
        verify(&config, &early, &[]),
        Err(Refusal::Chain(webpki::Error::CertNotValidYet { .. }))
    ));
    config.allow_expired = true;
    assert_eq!(verify(&config, &expired, &[]), Ok(()));
    assert_eq!(verify(&config, &early, &[]), Ok(()));
    let stranger = Authority::new("root").issue(Spec::dns("a").years(2020, 2021));
    assert!(verify(&config, &stranger, &[]).is_err(), "only the time is forgiven");
}

#[test]
fn trusted_certificate_may_be_the_peers_own() {
    let own = Spec::dns("a").authority().self_signed();
    assert_eq!(verify(&trusting(&own.chain_pem), &own, &[]), Ok(()), "although it is an authority's");
    let expired = Spec::dns("a").authority().years(2020, 2021).self_signed();
    let mut config = trusting(&expired.chain_pem);
    assert!(matches!(verify(&config, &expired, &[]), Err(Refusal::Pinned(_))));
    config.allow_expired = true;
    assert_eq!(verify(&config, &expired, &[]), Ok(()));
    let server = Spec::dns("a").authority().purposes(SERVER).self_signed();
    assert!(matches!(verify(&trusting(&server.chain_pem), &server, &[]), Err(Refusal::Pinned(_))));
}

#[test]
fn purpose_has_to_fit() {
    let root = Authority::new("root");
    let config = trusting(&root.pem());
    assert_eq!(verify(&config, &root.issue(Spec::dns("a").purposes(CLIENT)), &[]), Ok(()));
    let server = root.issue(Spec::dns("a").purposes(SERVER));
    assert!(matches!(verify(&config, &server, &[]), Err(Refusal::Chain(_))));
}

#[test]
fn depth_counts_what_lies_above_the_peers_certificate() {
    let root = Authority::new("root");
    let (first, second) = (root.intermediate("1"), root.intermediate("x"));
    let second = {
        drop(second);
        first.intermediate("2")
    };
    let leaf = second.issue(Spec::dns("a"));
    for (depth, expected) in [(0, false), (1, false), (2, false), (3, true), (100, true)] {
        let config = CertificateValidation { depth_max: Some(depth), ..trusting(&root.pem()) };
        assert_eq!(verify(&config, &leaf, &[&second, &first]).is_ok(), expected, "{depth}");
    }
    let config = CertificateValidation { depth_max: Some(1), ..trusting(&root.pem()) };
    assert_eq!(verify(&config, &root.issue(Spec::dns("a")), &[]), Ok(()));
}

#[test]
fn revoked_certificate_is_refused_and_so_is_one_without_a_list() {
    let root = Authority::new("root");
    let middle = root.intermediate("middle");
    let good = middle.issue(Spec::dns("a").serial(&[7]));
    let bad = middle.issue(Spec::dns("a").serial(&[8]));
    let with = |lists: &[String]| CertificateValidation {
        crl: Some(source(&lists.concat())),
        ..trusting(&root.pem())
    };
    let own = middle.crl(&[&[8]], 2030);
    let all = with(&[own.clone(), root.crl(&[], 2030)]);
    assert_eq!(verify(&all, &good, &[&middle]), Ok(()));
    assert_eq!(verify(&all, &bad, &[&middle]), Err(Refusal::Chain(webpki::Error::CertRevoked)));
    let mut leaf_only = with(std::slice::from_ref(&own));
    let unknown = Err(Refusal::Chain(webpki::Error::UnknownRevocationStatus));
    assert_eq!(verify(&leaf_only, &good, &[&middle]), unknown, "nobody lists the middle one");
    leaf_only.only_verify_leaf_crl = true;
    assert_eq!(verify(&leaf_only, &good, &[&middle]), Ok(()));
    assert_eq!(verify(&leaf_only, &bad, &[&middle]), Err(Refusal::Chain(webpki::Error::CertRevoked)));
    let old = with(&[middle.crl(&[&[8]], 2021), root.crl(&[], 2030)]);
    assert!(matches!(verify(&old, &good, &[&middle]), Err(Refusal::Chain(webpki::Error::CrlExpired { .. }))));
    let forged = with(&[Authority::new("middle").crl(&[], 2030), root.crl(&[], 2030)]);
    assert!(verify(&forged, &good, &[&middle]).is_err(), "a list that somebody else signed");
    let within = trusting(&format!("{}{}", middle.pem(), own));
    assert_eq!(verify(&within, &bad, &[]), Err(Refusal::Chain(webpki::Error::CertRevoked)), "in trusted_ca");
}

/// It was the one that came first: who was revoked since came in, or nobody did once it had expired.
#[test]
fn newest_revocation_list_of_an_authority_counts() {
    let root = Authority::new("root");
    let (good, bad) = (root.issue(Spec::dns("a").serial(&[7])), root.issue(Spec::dns("a").serial(&[8])));
    let revoked = Err(Refusal::Chain(webpki::Error::CertRevoked));
    let lists = [root.crl(&[], 2024), root.crl_since(2021, &[], 2030), root.crl_since(2022, &[&[8]], 2030)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let all = order.map(|place: usize| lists[place].as_str()).concat();
        let config = CertificateValidation { crl: Some(source(&all)), ..trusting(&root.pem()) };
        assert_eq!(verify(&config, &good, &[]), Ok(()), "{order:?}");
        assert_eq!(verify(&config, &bad, &[]), revoked, "{order:?}");
    }
    let within = trusting(&format!("{}{}", root.pem(), lists[1]));
    let both = CertificateValidation { crl: Some(source(&lists[2])), ..within };
    assert_eq!(verify(&both, &bad, &[]), revoked, "an older one beside whom is trusted");
}

#[test]
fn one_condition_on_names_has_to_hold() {
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("*.example.com").uri("spiffe://td/a"));
    let mut config = trusting(&root.pem());
    config.subject_alt_names = vec![exact(SanKind::Dns, "b.com"), exact(SanKind::Uri, "spiffe://td/a")];
    assert_eq!(verify(&config, &leaf, &[]), Ok(()));
    config.subject_alt_names.pop();
    assert_eq!(verify(&config, &leaf, &[]), Err(Refusal::San));
    assert_eq!(verify(&config, &root.issue(Spec::nameless()), &[]), Err(Refusal::San));
    let stranger = Authority::new("root").issue(Spec::dns("b.com"));
    assert!(matches!(verify(&config, &stranger, &[]), Err(Refusal::Chain(_))), "names do not replace trust");
}

#[test]
fn name_of_the_connection_replaces_or_adds_a_condition() {
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("*.example.com").ip("10.0.0.1".parse().unwrap()));
    let mut config = trusting(&root.pem());
    let is = |config: &_, names| verify_names(config, &leaf, &[], names).is_ok();
    assert!(is(&config, Names::Dns("a.example.com")) && !is(&config, Names::Dns("a.example.org")));
    assert!(!is(&config, Names::Dns("10.0.0.1")) && is(&config, Names::Any("10.0.0.1")));
    config.subject_alt_names = vec![exact(SanKind::Dns, "other.org")];
    assert!(is(&config, Names::Dns("a.example.com")), "in place of the configuration's");
    assert!(!is(&config, Names::Any("a.example.com")), "besides the configuration's");
}

#[test]
fn digest_of_certificate_or_key_has_to_be_expected() {
    let root = Authority::new("root");
    let (leaf, other) = (root.issue(Spec::dns("a")), root.issue(Spec::dns("a")));
    let read = Certificate::parse(&leaf.leaf).unwrap();
    let none = CertificateValidation::default();
    let by_hash = CertificateValidation { certificate_hashes: vec![[0; 32], read.sha256], ..none.clone() };
    let by_key = CertificateValidation { spki_hashes: vec![read.spki_sha256], ..none.clone() };
    for config in [&by_hash, &by_key] {
        assert_eq!(verify(config, &leaf, &[]), Ok(()), "no chain is asked for");
        assert_eq!(verify(config, &other, &[]), Err(Refusal::Hash));
    }
    let both = CertificateValidation { spki_hashes: vec![read.spki_sha256], ..by_hash };
    assert_eq!(verify(&both, &leaf, &[]), Ok(()));
    let with_trust = CertificateValidation {
        certificate_hashes: vec![read.sha256],
        ..trusting(&Authority::new("x").pem())
    };
    assert!(
        matches!(verify(&with_trust, &leaf, &[]), Err(Refusal::Chain(_))),
        "a digest does not replace trust"
    );
    assert!(!compile(&none).unwrap().verifies());
}

#[test]
fn untrusted_certificate_is_accepted_only_when_told() {
    let leaf = Authority::new("root").issue(Spec::dns("a").years(2020, 2021));
    let mut config = trusting(&Authority::new("other").pem());
    assert!(verify(&config, &leaf, &[]).is_err());
    config.accept_untrusted = true;
    assert_eq!(verify(&config, &leaf, &[]), Ok(()));
}

#[test]
fn spiffe_certificate_is_trusted_in_its_own_domain_only() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let domain = |name: &str, authority: &Authority| TrustDomain {
        name: name.into(),
        bundle: source(&authority.pem()),
    };
    let mut config = CertificateValidation {
        trust_domains: Some(vec![domain("one.example", &one), domain("two.example", &two)]),
        ..CertificateValidation::default()
    };
    let leaf = |authority: &Authority, name| authority.issue(Spec::nameless().uri(name));
    assert_eq!(verify(&config, &leaf(&one, "spiffe://one.example/a"), &[]), Ok(()));
    assert!(matches!(verify(&config, &leaf(&two, "spiffe://one.example/a"), &[]), Err(Refusal::Chain(_))));
    for name in [
        "spiffe://three.example/a",
        "spiffe://",
        "spiffe:///a",
        "http://one.example/a",
        "spiffe://one.example.evil/a",
    ] {
        assert_eq!(verify(&config, &leaf(&one, name), &[]), Err(Refusal::TrustDomain), "{name}");
    }
    assert_eq!(verify(&config, &one.issue(Spec::dns("one.example")), &[]), Err(Refusal::TrustDomain));
    let signer = Spec::nameless().uri("spiffe://one.example/a").key_usages(&[KeyUsagePurpose::KeyCertSign]);
    assert_eq!(verify(&config, &one.issue(signer), &[]), Err(Refusal::TrustDomain), "an authority's");
    for name in ["spiffe://one.example", "spiffe://one.examples/a"] {
        assert_eq!(verify(&config, &leaf(&one, name), &[]), Err(Refusal::TrustDomain), "{name}");
    }
    for names in
        [["https://x", "spiffe://one.example/a"], ["spiffe://one.example/a", "spiffe://one.example/b"]]
    {
        let two_names = one.issue(Spec::nameless().uri(names[0]).uri(names[1]));
        assert_eq!(verify(&config, &two_names, &[]), Err(Refusal::TrustDomain), "{names:?}");
    }
    assert!(compile(&config).unwrap().has_conditions(), "who shows no certificate has no domain");
    assert_eq!(compile(&config).unwrap().hints().len(), 2, "clients are told whom all domains trust");
    config.suppress_client_ca_list = true;
    assert!(compile(&config).unwrap().hints().is_empty());
    config.accept_untrusted = true;
    assert!(verify(&config, &leaf(&two, "spiffe://one.example/a"), &[]).is_err(), "as in Envoy");
    config.subject_alt_names = vec![exact(SanKind::Uri, "spiffe://one.example/b")];
    assert_eq!(verify(&config, &leaf(&one, "spiffe://one.example/a"), &[]), Err(Refusal::San));
    assert_eq!(verify(&config, &leaf(&one, "spiffe://one.example/b"), &[]), Ok(()));
}

#[test]
fn revocation_lists_in_the_bundle_of_a_domain_hold_for_it_alone() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let domain = |name: &str, bundle: String| TrustDomain { name: name.into(), bundle: source(&bundle) };
    let config = CertificateValidation {
        trust_domains: Some(vec![
            domain("one.example", format!("{}{}", one.pem(), one.crl(&[&[8]], 2030))),
            domain("two.example", two.pem()),
        ]),
        ..CertificateValidation::default()
    };
    let leaf =
        |authority: &Authority, name, serial| authority.issue(Spec::nameless().uri(name).serial(&[serial]));
    assert_eq!(verify(&config, &leaf(&one, "spiffe://one.example/a", 7), &[]), Ok(()));
    let revoked = leaf(&one, "spiffe://one.example/a", 8);
    assert_eq!(verify(&config, &revoked, &[]), Err(Refusal::Chain(webpki::Error::CertRevoked)));
    assert_eq!(verify(&config, &leaf(&two, "spiffe://two.example/a", 8), &[]), Ok(()), "another's list");
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let root = Authority::new("root");
    let mut leaf = root.issue(Spec::dns("a"));
    let config = trusting(&root.pem());
    let good = leaf.leaf.clone();
    for place in (0..good.len()).step_by(3) {
        leaf.leaf = good.clone();
        leaf.leaf[place] ^= 0x20;
        assert!(verify(&config, &leaf, &[]).is_err(), "byte {place}");
    }
    leaf.leaf.clear();
    assert!(matches!(verify(&config, &leaf, &[]), Err(Refusal::Unreadable(_))));
}

#[test]
fn contexts_that_would_protect_less_than_they_seem_are_mistakes() {
    let field = |config: CertificateValidation| compile(&config).unwrap_err().field;
    let none = CertificateValidation::default;
    assert_eq!(field(CertificateValidation { crl: Some(source("")), ..none() }), "crl");
    assert_eq!(field(CertificateValidation { allow_expired: true, ..none() }), "allow_expired_certificate");
    let sans = vec![exact(SanKind::Dns, "a")];
    assert_eq!(
        field(CertificateValidation { subject_alt_names: sans, ..none() }),
        "match_typed_subject_alt_names"
    );
    assert_eq!(field(trusting("")), "trusted_ca");
    let root = Authority::new("root");
    assert_eq!(
        field(CertificateValidation { crl: Some(source(&root.pem())), ..trusting(&root.pem()) }),
        "crl"
    );
    let config = trusting(&root.pem());
    assert_eq!(compile(&config).unwrap().hints().len(), 1);
    let quiet = CertificateValidation { suppress_client_ca_list: true, ..config };
    assert!(compile(&quiet).unwrap().hints().is_empty());
}
