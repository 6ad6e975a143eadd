//! Versions, cipher suites, groups and signature algorithms: BoringSSL's names and what rustls has of them.
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::sign::{Signer, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, NamedGroup, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::TlsConfigError;
use crate::config::tls::{TlsParameters, TlsVersion};

/// What a name of [`TlsParameters`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKind {
    CipherSuite,
    Curve,
    SignatureAlgorithm,
}

/// A name that BoringSSL may know and rustls does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    pub kind: UnknownKind,
    /// Place in its list.
    pub index: usize,
    pub name: Box<str>,
}

/// Cipher suites of TLS 1.2 by their names in OpenSSL and in the RFCs, in Envoy's order of preference.
const SUITES: [(&str, &str, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
];

/// Those of TLS 1.3, which no configuration chooses, in BoringSSL's order with AES in hardware.
const SUITES_13: [SupportedCipherSuite; 3] =
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];

/// Groups by BoringSSL's names; the first two are Envoy's default.
const GROUPS: [(&[&str], &dyn SupportedKxGroup); 5] = [
    (&["X25519", "x25519"], kx_group::X25519),
    (&["P-256", "prime256v1"], kx_group::SECP256R1),
    (&["P-384", "secp384r1"], kx_group::SECP384R1),
    (&["X25519MLKEM768"], kx_group::X25519MLKEM768),
    (&["MLKEM1024"], kx_group::MLKEM1024),
];
const GROUPS_DEFAULT: usize = 2;

/// Signature algorithms by their names in the RFCs and in OpenSSL.
const SCHEMES: [(&[&str], SignatureScheme); 10] = [
    (&["ecdsa_secp256r1_sha256", "ECDSA+SHA256"], SignatureScheme::ECDSA_NISTP256_SHA256),
    (&["rsa_pss_rsae_sha256", "RSA-PSS+SHA256", "PSS+SHA256"], SignatureScheme::RSA_PSS_SHA256),
    (&["rsa_pkcs1_sha256", "RSA+SHA256"], SignatureScheme::RSA_PKCS1_SHA256),
    (&["ecdsa_secp384r1_sha384", "ECDSA+SHA384"], SignatureScheme::ECDSA_NISTP384_SHA384),
    (&["rsa_pss_rsae_sha384", "RSA-PSS+SHA384", "PSS+SHA384"], SignatureScheme::RSA_PSS_SHA384),
    (&["rsa_pkcs1_sha384", "RSA+SHA384"], SignatureScheme::RSA_PKCS1_SHA384),
    (&["ecdsa_secp521r1_sha512", "ECDSA+SHA512"], SignatureScheme::ECDSA_NISTP521_SHA512),
    (&["rsa_pss_rsae_sha512", "RSA-PSS+SHA512", "PSS+SHA512"], SignatureScheme::RSA_PSS_SHA512),
    (&["rsa_pkcs1_sha512", "RSA+SHA512"], SignatureScheme::RSA_PKCS1_SHA512),
    (&["ed25519"], SignatureScheme::ED25519),
];

/// The names that rustls does not know. The rest can be compiled without them.
pub fn unknown(params: &TlsParameters) -> Vec<Unknown> {
    let mut found = Vec::new();
    let mut look = |kind, list: &[Box<str>], known: &dyn Fn(&str) -> bool| {
        for (index, entry) in list.iter().enumerate() {
            let names = names(entry).filter(|name| !known(name));
            found.extend(names.map(|name| Unknown { kind, index, name: name.into() }));
        }
    };
    look(UnknownKind::CipherSuite, &params.cipher_suites, &|name| suite_named(name).is_some());
    look(UnknownKind::Curve, &params.curves, &|name| group_named(name).is_some());
    look(UnknownKind::SignatureAlgorithm, &params.signature_algorithms, &|name| scheme_named(name).is_some());
    found
}

/// What TLS of one context is made with.
#[derive(Debug)]
pub(super) struct Algorithms {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// Signature algorithms that may be used, best first; `None`: all.
    pub(super) schemes: Option<Arc<[SignatureScheme]>>,
}

impl Algorithms {
    /// Those of a context whose highest version is `maximum` unless it says otherwise.
    pub(super) fn compile(params: &TlsParameters, maximum: TlsVersion) -> Result<Self, TlsConfigError> {
        let empty = |field: &str| TlsConfigError::new(field, "none of these is known here");
        let minimum = params.minimum.unwrap_or(TlsVersion::Tls12);
        // A lower bound above the default upper one means what it says.
        let maximum = params.maximum.unwrap_or_else(|| maximum.max(minimum));
        let has = |version| minimum <= version && version <= maximum;
        let mut versions = Vec::new();
        versions.extend(has(TlsVersion::Tls13).then_some(&TLS13));
        versions.extend(has(TlsVersion::Tls12).then_some(&TLS12));
        if versions.is_empty() {
            return Err(TlsConfigError::new("tls_maximum_protocol_version", "is below the minimum"));
        }
        let listed =
            |list: &[Box<str>]| list.iter().flat_map(|entry| names(entry)).map(str::to_owned).collect();
        let named: Vec<String> = listed(&params.cipher_suites);
        let suites: Vec<_> = if params.cipher_suites.is_empty() {
            SUITES.iter().map(|(_, _, suite)| *suite).collect()
        } else {
            named.iter().filter_map(|name| suite_named(name)).collect()
        };
        if suites.is_empty() && has(TlsVersion::Tls12) {
            return Err(empty("cipher_suites"));
        }
        let named: Vec<String> = listed(&params.curves);
        let groups: Vec<_> = if params.curves.is_empty() {
            GROUPS.iter().take(GROUPS_DEFAULT).map(|(_, group)| *group).collect()
        } else {
            named.iter().filter_map(|name| group_named(name)).collect()
        };
        if groups.is_empty() {
            return Err(empty("ecdh_curves"));
        }
        let named: Vec<String> = listed(&params.signature_algorithms);
        let schemes: Option<Arc<[_]>> = (!params.signature_algorithms.is_empty())
            .then(|| named.iter().filter_map(|name| scheme_named(name)).collect());
        if schemes.as_ref().is_some_and(|schemes| schemes.is_empty()) {
            return Err(empty("signature_algorithms"));
        }
        let provider = CryptoProvider {
            cipher_suites: SUITES_13.into_iter().chain(suites).collect(),
            kx_groups: groups,
            ..default_provider()
        };
        Ok(Self { provider: Arc::new(provider), versions, schemes })
    }

    /// A key that signs with these algorithms only.
    pub(super) fn restrict(&self, key: Arc<dyn SigningKey>) -> Arc<dyn SigningKey> {
        match &self.schemes {
            Some(schemes) => Arc::new(Restricted { key, schemes: Arc::clone(schemes) }),
            None => key,
        }
    }
}

/// A key that signs with some algorithms only, in the configuration's order.
#[derive(Debug)]
struct Restricted {
    key: Arc<dyn SigningKey>,
    schemes: Arc<[SignatureScheme]>,
}

impl SigningKey for Restricted {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut both = self.schemes.iter().filter(|scheme| offered.contains(scheme));
        both.find_map(|scheme| self.key.choose_scheme(&[*scheme]))
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

/// The names of one entry: BoringSSL joins entries with `:` and groups equals in brackets, `[A|B]`.
fn names(entry: &str) -> impl Iterator<Item = &str> {
    entry.split([':', '[', ']', '|']).filter(|name| !name.is_empty())
}

fn suite_named(name: &str) -> Option<SupportedCipherSuite> {
    SUITES.iter().find(|(openssl, rfc, _)| [*openssl, *rfc].contains(&name)).map(|(_, _, suite)| *suite)
}

fn group_named(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    GROUPS.iter().find(|(names, _)| names.contains(&name)).map(|(_, group)| *group)
}

fn scheme_named(name: &str) -> Option<SignatureScheme> {
    SCHEMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, scheme)| *scheme)
}

/// BoringSSL's name of a cipher suite, as Envoy prints it.
pub(super) fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => SUITES.iter().find(|(_, _, suite)| suite.suite() == other).map_or("", |(name, _, _)| name),
    }
}

/// BoringSSL's name of a group.
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    GROUPS.iter().find(|(_, known)| known.name() == group).and_then(|(names, _)| names.first()).unwrap_or(&"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(suites: &[&str], curves: &[&str], schemes: &[&str]) -> TlsParameters {
        let list = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        TlsParameters {
            cipher_suites: list(suites),
            curves: list(curves),
            signature_algorithms: list(schemes),
            ..TlsParameters::default()
        }
    }

    fn suites(params: &TlsParameters) -> Vec<&'static str> {
        let algorithms = Algorithms::compile(params, TlsVersion::Tls13).unwrap();
        algorithms.provider.cipher_suites.iter().skip(3).map(|suite| cipher_name(suite.suite())).collect()
    }

    #[test]
    fn cipher_suites_keep_the_order_of_the_configuration() {
        let listed = params(
            &[
                "[ECDHE-RSA-AES256-GCM-SHA384|ECDHE-ECDSA-CHACHA20-POLY1305]",
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256",
            ],
            &[],
            &[],
        );
        assert_eq!(
            suites(&listed),
            [
                "ECDHE-RSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-CHACHA20-POLY1305",
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-AES128-GCM-SHA256"
            ]
        );
        assert_eq!(suites(&TlsParameters::default()).len(), 6);
        assert!(unknown(&listed).is_empty());
    }

    #[test]
    fn names_that_only_boringssl_knows_are_named() {
        let listed = params(
            &["ECDHE-RSA-AES128-GCM-SHA256", "[AES128-SHA|ECDHE-RSA-AES128-SHA]"],
            &["P-521", "P-384"],
            &["rsa_pkcs1_sha1"],
        );
        let found: Vec<_> = unknown(&listed).into_iter().map(|it| (it.kind, it.index, it.name)).collect();
        assert_eq!(
            found,
            [
                (UnknownKind::CipherSuite, 1, "AES128-SHA".into()),
                (UnknownKind::CipherSuite, 1, "ECDHE-RSA-AES128-SHA".into()),
                (UnknownKind::Curve, 0, "P-521".into()),
                (UnknownKind::SignatureAlgorithm, 0, "rsa_pkcs1_sha1".into()),
            ]
        );
        let field = |params| Algorithms::compile(&params, TlsVersion::Tls13).unwrap_err().field;
        assert_eq!(field(params(&["AES128-SHA"], &[], &[])), "cipher_suites");
        assert_eq!(field(params(&[], &["P-521"], &[])), "ecdh_curves");
        assert_eq!(field(params(&[], &[], &["rsa_pkcs1_sha1"])), "signature_algorithms");
    }

    #[test]
    fn versions_are_those_between_the_bounds() {
        let versions = |minimum, maximum, default| {
            let params = TlsParameters { minimum, maximum, ..TlsParameters::default() };
            Algorithms::compile(&params, default).map(|it| it.versions.len()).map_err(|error| error.field)
        };
        use TlsVersion::{Tls12, Tls13};
        assert_eq!(versions(None, None, Tls13), Ok(2));
        assert_eq!(versions(None, None, Tls12), Ok(1));
        assert_eq!(versions(Some(Tls13), None, Tls12), Ok(1));
        assert_eq!(versions(None, Some(Tls12), Tls13), Ok(1));
        assert_eq!(versions(Some(Tls13), Some(Tls12), Tls13), Err("tls_maximum_protocol_version".into()));
    }

    #[test]
    fn restricted_key_signs_with_nothing_else() {
        use crate::protocol::tls::testing::Spec;
        let issued = Spec::dns("a").self_signed();
        let algorithms =
            Algorithms::compile(&params(&[], &[], &["rsa_pss_rsae_sha256", "ed25519"]), TlsVersion::Tls13)
                .unwrap();
        let key = super::super::pem::private_key(issued.key_pem.as_bytes(), None).unwrap();
        let key = algorithms.provider.key_provider.load_private_key(key).unwrap();
        assert!(key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        assert!(algorithms.restrict(key).choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_none());
    }
}
