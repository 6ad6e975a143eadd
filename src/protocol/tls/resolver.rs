//! Which certificate a client is shown, by Envoy's rules: its server name, what it can verify, and OCSP responses.
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::Certificate;
use super::ocsp::OcspResponse;
use crate::base::clock;
use crate::config::tls::OcspStaplePolicy;

/// A certificate that may be shown.
#[derive(Debug)]
pub(super) struct Candidate {
    /// With its OCSP response.
    pub(super) key: Arc<CertifiedKey>,
    /// Without.
    pub(super) bare: Arc<CertifiedKey>,
    pub(super) certificate: Arc<Certificate>,
    /// The file it came from.
    pub(super) file: Option<Box<str>>,
    pub(super) ocsp: Option<OcspResponse>,
}

/// What is done about the OCSP response that a client asks for. Envoy's `OcspStapleAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staple {
    /// It is sent.
    Sent,
    /// The certificate is shown without one.
    Omitted,
    /// No certificate is shown without one, so that the handshake fails.
    Failed,
}

thread_local! {
    /// Whether the client whose hello is worked on asks for an OCSP response, and what was done about it: rustls neither tells a
    /// resolver the one nor takes the other from it, and it asks within the call that works on the hello.
    static ASKS: Cell<bool> = const { Cell::new(true) };
    static STAPLE: Cell<Option<Staple>> = const { Cell::new(None) };
}

/// Says whether the client whose hello is worked on next asks for an OCSP response.
pub(super) fn set_asks(asks: bool) {
    ASKS.set(asks);
}

/// What was done about an OCSP response since this was last asked for; `None`: none was asked for.
pub(super) fn take_staple() -> Option<Staple> {
    STAPLE.take()
}

/// Algorithms of ECDSA: who has one of them can verify it.
const ECDSA: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
];

/// All certificates of a server.
#[derive(Debug)]
pub(super) struct Resolver {
    candidates: Vec<Candidate>,
    /// Places of candidates by name, one per kind of key; of `*.example.com` the name is `.example.com`.
    by_name: HashMap<Box<str>, Vec<usize>>,
    policy: OcspStaplePolicy,
    full_scan: bool,
    has_rsa: bool,
    /// Wall clock in seconds.
    now: fn() -> u64,
}

impl Resolver {
    pub(super) fn new(candidates: Vec<Candidate>, policy: OcspStaplePolicy, full_scan: bool) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (place, candidate) in candidates.iter().enumerate() {
            for name in candidate.certificate.server_names() {
                let name = name.to_ascii_lowercase();
                let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(&name);
                let places = by_name.entry(name.into()).or_default();
                // Of the same name and kind of key the earlier one counts.
                let kind = candidate.key.key.algorithm();
                if places.iter().all(|other| candidates[*other].key.key.algorithm() != kind) {
                    places.push(place);
                }
            }
        }
        let has_rsa =
            candidates.iter().any(|candidate| candidate.key.key.algorithm() == SignatureAlgorithm::RSA);
        let now = || clock::wall_ns() / 1_000_000_000;
        Self { candidates, by_name, policy, full_scan, has_rsa, now }
    }

    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The certificate that a client with this server name is usually shown, which asks for an OCSP response or not.
    pub(super) fn certificate_for(&self, server_name: Option<&str>, asks: bool) -> Option<&Arc<Certificate>> {
        let (place, _) = self.find(server_name, &ECDSA, asks)?;
        self.candidates.get(place).map(|candidate| &candidate.certificate)
    }

    /// What is done about a candidate's OCSP response for a client that asks for one or not.
    fn staple(&self, candidate: &Candidate, asks: bool) -> Option<Staple> {
        if !asks {
            return None;
        }
        let is_current = candidate.ocsp.as_ref().is_some_and(|response| response.is_current((self.now)()));
        let policy =
            if candidate.certificate.must_staple { OcspStaplePolicy::MustStaple } else { self.policy };
        Some(match policy {
            _ if is_current => Staple::Sent,
            OcspStaplePolicy::Lenient => Staple::Omitted,
            OcspStaplePolicy::Strict if candidate.ocsp.is_none() => Staple::Omitted,
            OcspStaplePolicy::Strict | OcspStaplePolicy::MustStaple => Staple::Failed,
        })
    }

    /// The candidate for a client with this server name and these signature algorithms, which asks for an OCSP response or not.
    /// Envoy's `DefaultTlsCertificateSelector`.
    fn find(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
        asks: bool,
    ) -> Option<(usize, Option<Staple>)> {
        let wants_ecdsa = schemes.iter().any(|scheme| ECDSA.contains(scheme));
        let mut search =
            Search { resolver: self, schemes, asks, wants_ecdsa, selected: None, candidate: None };
        if let Some(name) = server_name.filter(|name| !name.is_empty()) {
            let name = name.to_ascii_lowercase();
            search.among(self.by_name.get(name.as_str()));
            search.settle();
            let wildcard = name.get(1..).and_then(|rest| rest.find('.')).map(|at| &name[at + 1..]);
            if search.selected.is_none()
                && let Some(wildcard) = wildcard.filter(|wildcard| wildcard.len() > 1)
            {
                search.among(self.by_name.get(wildcard));
            }
            search.settle();
            if search.selected.is_none() && !self.full_scan {
                return self.fallback(asks);
            }
        }
        if search.selected.is_none() {
            search.candidate = None;
            if wants_ecdsa || self.has_rsa {
                for place in 0..self.candidates.len() {
                    if search.looks_at(place) {
                        break;
                    }
                }
            }
            search.settle();
        }
        search.selected.or_else(|| self.fallback(asks))
    }

    /// The first one, whatever it is.
    fn fallback(&self, asks: bool) -> Option<(usize, Option<Staple>)> {
        self.candidates.first().map(|first| (0, self.staple(first, asks)))
    }
}

struct Search<'a> {
    resolver: &'a Resolver,
    schemes: &'a [SignatureScheme],
    /// For an OCSP response.
    asks: bool,
    wants_ecdsa: bool,
    selected: Option<(usize, Option<Staple>)>,
    candidate: Option<(usize, Option<Staple>)>,
}

impl Search<'_> {
    fn among(&mut self, places: Option<&Vec<usize>>) {
        for place in places.into_iter().flatten() {
            if self.looks_at(*place) {
                break;
            }
        }
    }

    /// Whether it is the one.
    fn looks_at(&mut self, place: usize) -> bool {
        let Some(candidate) = self.resolver.candidates.get(place) else { return false };
        let staple = self.resolver.staple(candidate, self.asks);
        if staple == Some(Staple::Failed) {
            return false;
        }
        let is_ecdsa = candidate.key.key.algorithm() == SignatureAlgorithm::ECDSA;
        let can_verify = candidate.key.key.choose_scheme(self.schemes).is_some();
        match (is_ecdsa, self.wants_ecdsa) {
            (true, true) if can_verify => self.selected = Some((place, staple)),
            (false, false) => self.selected = Some((place, staple)),
            // An ECDSA certificate is better if there is one.
            (false, true) if self.candidate.is_none() => self.candidate = Some((place, staple)),
            _ => {}
        }
        self.selected.is_some()
    }

    fn settle(&mut self) {
        self.selected = self.selected.or(self.candidate);
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (name, schemes) = (client_hello.server_name(), client_hello.signature_schemes());
        let (place, staple) = self.find(name, schemes, ASKS.get())?;
        STAPLE.set(staple);
        let candidate = self.candidates.get(place)?;
        let shown = match staple {
            Some(Staple::Sent) => Some(&candidate.key),
            Some(Staple::Omitted) | None => Some(&candidate.bare),
            Some(Staple::Failed) => None,
        };
        shown.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tls::ocsp::tests::response;
    use crate::protocol::tls::pem;
    use crate::protocol::tls::testing::{Authority, Spec};
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
    use rustls::crypto::aws_lc_rs::default_provider;

    const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const P384: SignatureScheme = SignatureScheme::ECDSA_NISTP384_SHA384;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    fn candidate(spec: Spec, ocsp: Option<&[u8]>) -> Candidate {
        let issued = Authority::new("ca").issue(spec);
        let chain = pem::certificates(issued.chain_pem.as_bytes()).unwrap();
        let key = pem::private_key(issued.key_pem.as_bytes(), None).unwrap();
        let key = Arc::new(CertifiedKey::from_der(chain, key, &default_provider()).unwrap());
        Candidate {
            bare: Arc::clone(&key),
            key,
            certificate: Arc::new(Certificate::parse(&issued.leaf).unwrap()),
            file: None,
            ocsp: ocsp.map(|der| OcspResponse::parse(der).unwrap()),
        }
    }

    fn resolver(candidates: Vec<Candidate>, full_scan: bool) -> Resolver {
        Resolver::new(candidates, OcspStaplePolicy::Lenient, full_scan)
    }

    fn place(resolver: &Resolver, name: &str, schemes: &[SignatureScheme]) -> Option<usize> {
        resolver.find(Some(name), schemes, true).map(|(place, _)| place)
    }

    #[test]
    fn certificate_is_found_by_exact_name_then_wildcard_then_the_first() {
        let specs = [
            Spec::dns("first.org"),
            Spec::dns("*.example.com"),
            Spec::dns("a.example.com"),
            Spec::nameless().subject(&[("CN", "cn.example.com")]),
        ];
        let certificates = resolver(specs.into_iter().map(|spec| candidate(spec, None)).collect(), false);
        for (name, expected) in [
            ("a.example.com", 2),
            ("A.Example.COM", 2),
            ("b.example.com", 1),
            ("cn.example.com", 3),
            ("a.b.example.com", 0),
            ("example.com", 0),
            ("other", 0),
            ("", 0),
        ] {
            assert_eq!(place(&certificates, name, &[P256]), Some(expected), "{name}");
        }
        assert_eq!(certificates.find(None, &[P256], true).map(|(place, _)| place), Some(0));
    }

    #[test]
    fn key_is_chosen_by_what_the_client_can_verify() {
        let make = || {
            vec![
                candidate(Spec::dns("a.com").algorithm(&PKCS_RSA_SHA256), None),
                candidate(Spec::dns("a.com"), None),
                candidate(Spec::dns("b.com").algorithm(&PKCS_ECDSA_P384_SHA384), None),
            ]
        };
        let strict = resolver(make(), false);
        assert_eq!(place(&strict, "a.com", &[RSA]), Some(0));
        assert_eq!(place(&strict, "a.com", &[RSA, P256]), Some(1), "ECDSA is better");
        assert_eq!(place(&strict, "a.com", &[RSA, P384]), Some(0), "not that curve");
        assert_eq!(place(&strict, "b.com", &[P384]), Some(2));
        assert_eq!(place(&strict, "c.com", &[P384]), Some(0), "the first");
        let scanning = resolver(make(), true);
        assert_eq!(place(&scanning, "c.com", &[P384]), Some(2));
        assert_eq!(place(&scanning, "c.com", &[RSA]), Some(0));
    }

    #[test]
    fn ocsp_policy_decides_who_may_be_shown() {
        let old = response(&[1], "20200101000000Z", Some("20200102000000Z"));
        let open = response(&[1], "20200101000000Z", None);
        let good = response(&[1], "20200101000000Z", Some("21000101000000Z"));
        let action = |spec: Spec, ocsp, policy| {
            let resolver = Resolver::new(vec![candidate(spec, ocsp)], policy, false);
            assert_eq!(resolver.find(None, &[P256], false), Some((0, None)), "a client that asks for none");
            resolver.find(None, &[P256], true).unwrap().1.unwrap()
        };
        let plain = || Spec::dns("a");
        use OcspStaplePolicy::{Lenient, MustStaple, Strict};
        for (ocsp, lenient, strict, must) in [
            (None, Staple::Omitted, Staple::Omitted, Staple::Failed),
            (Some(&old[..]), Staple::Omitted, Staple::Failed, Staple::Failed),
            (Some(&open[..]), Staple::Omitted, Staple::Failed, Staple::Failed),
            (Some(&good[..]), Staple::Sent, Staple::Sent, Staple::Sent),
        ] {
            assert_eq!(action(plain(), ocsp, Lenient), lenient);
            assert_eq!(action(plain(), ocsp, Strict), strict);
            assert_eq!(action(plain(), ocsp, MustStaple), must);
            assert_eq!(action(plain().must_staple(), ocsp, Lenient), must);
        }
        let both = vec![candidate(plain(), Some(&old)), candidate(plain(), Some(&good))];
        let both = Resolver::new(both, Strict, true);
        assert_eq!(
            both.find(None, &[P256], true),
            Some((1, Some(Staple::Sent))),
            "an expired one is passed over"
        );
        assert_eq!(both.find(None, &[P256], false), Some((0, None)), "nobody asks for it");
        for (asks, place) in [(true, 1), (false, 0)] {
            let told = both.certificate_for(None, asks).unwrap();
            assert!(Arc::ptr_eq(told, &both.candidates()[place].certificate), "what is told of it: {asks}");
        }
    }
}
