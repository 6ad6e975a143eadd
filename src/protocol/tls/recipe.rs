//! Certificates and configurations for tests: one authority, one server, one client.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SignatureAlgorithm,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion, version,
};

/// The name in the server's certificate.
pub(crate) const NAME: &str = "server.example";

/// An authority, and what it has signed.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A certificate for a name, with `more` other names that make it larger.
    pub(crate) fn issue(
        &self,
        name: &str,
        more: usize,
        algorithm: &'static SignatureAlgorithm,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let names = (0..more).map(|number| format!("name-{number:050}.example"));
        let names: Vec<_> = std::iter::once(name.to_owned()).chain(names).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }
}

/// What a test's connections are to be like.
pub(crate) struct Recipe {
    pub(crate) suite: SupportedCipherSuite,
    /// Other names in the certificates.
    pub(crate) more_names: usize,
    pub(crate) client_certificate: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Longest record of both sides.
    pub(crate) fragment: Option<usize>,
}

impl Default for Recipe {
    fn default() -> Self {
        let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        Self { suite, more_names: 0, client_certificate: false, alpn: Vec::new(), fragment: None }
    }
}

impl Recipe {
    pub(crate) fn of(suite: SupportedCipherSuite) -> Self {
        Self { suite, ..Self::default() }
    }

    pub(crate) fn configs(&self) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let authority = Authority::new();
        let roots = Arc::new(authority.roots());
        let provider =
            Arc::new(CryptoProvider { cipher_suites: vec![self.suite], ..aws_lc_rs::default_provider() });
        let versions: &[&SupportedProtocolVersion] =
            if self.suite.version().version == ProtocolVersion::TLSv1_3 {
                &[&version::TLS13]
            } else {
                &[&version::TLS12]
            };
        let rsa = format!("{:?}", self.suite.suite()).contains("ECDHE_RSA");
        let algorithm = if rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 };
        let (chain, key) = authority.issue(NAME, self.more_names, algorithm);
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let server = if self.client_certificate {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                    .build()
                    .unwrap();
            server.with_client_cert_verifier(verifier)
        } else {
            server.with_no_client_auth()
        };
        let mut server = server.with_single_cert(chain, key).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut client = if self.client_certificate {
            let (chain, key) = authority.issue("client.example", self.more_names, algorithm);
            client.with_client_auth_cert(chain, key).unwrap()
        } else {
            client.with_no_client_auth()
        };
        (server.alpn_protocols, client.alpn_protocols) = (self.alpn.clone(), self.alpn.clone());
        (server.max_fragment_size, client.max_fragment_size) = (self.fragment, self.fragment);
        (Arc::new(server), Arc::new(client))
    }
}

/// The name that the certificate is for.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}
