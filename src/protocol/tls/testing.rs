//! Certificates of tests, made with rcgen.
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection, SignatureScheme};

use super::ServerTls;
use crate::config::tls::{Source, TlsCertificate};

/// What a certificate of a test is to be.
pub(crate) struct Spec {
    params: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
}

/// A certificate of a test.
pub(crate) struct Issued {
    pub(crate) leaf: Vec<u8>,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

/// An authority of tests.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Spec {
    pub(crate) fn nameless() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        Self { params, algorithm: &PKCS_ECDSA_P256_SHA256 }
    }

    pub(crate) fn dns(name: &str) -> Self {
        Self::nameless().also_dns(name)
    }

    pub(crate) fn also_dns(self, name: &str) -> Self {
        self.san(SanType::DnsName(name.try_into().unwrap()))
    }

    pub(crate) fn uri(self, name: &str) -> Self {
        self.san(SanType::URI(name.try_into().unwrap()))
    }

    pub(crate) fn email(self, name: &str) -> Self {
        self.san(SanType::Rfc822Name(name.try_into().unwrap()))
    }

    pub(crate) fn ip(self, address: IpAddr) -> Self {
        self.san(SanType::IpAddress(address))
    }

    fn san(mut self, name: SanType) -> Self {
        self.params.subject_alt_names.push(name);
        self
    }

    pub(crate) fn subject(mut self, attributes: &[(&str, &str)]) -> Self {
        self.params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            let kind = match *kind {
                "CN" => DnType::CommonName,
                "O" => DnType::OrganizationName,
                "C" => DnType::CountryName,
                other => DnType::CustomDnType(other.split('.').map(|part| part.parse().unwrap()).collect()),
            };
            self.params.distinguished_name.push(kind, DnValue::Utf8String((*value).to_owned()));
        }
        self
    }

    pub(crate) fn serial(mut self, serial: &[u8]) -> Self {
        self.params.serial_number = Some(SerialNumber::from_slice(serial));
        self
    }

    /// Valid in these years only.
    pub(crate) fn years(mut self, from: i32, to: i32) -> Self {
        self.params.not_before = date_time_ymd(from, 1, 1);
        self.params.not_after = date_time_ymd(to, 1, 1);
        self
    }

    pub(crate) fn purposes(mut self, purposes: &[ExtendedKeyUsagePurpose]) -> Self {
        self.params.extended_key_usages = purposes.to_vec();
        self
    }

    pub(crate) fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.params.key_usages = usages.to_vec();
        self
    }

    pub(crate) fn algorithm(mut self, algorithm: &'static SignatureAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    pub(crate) fn must_staple(mut self) -> Self {
        let feature =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
        self.params.custom_extensions.push(feature);
        self
    }

    pub(crate) fn authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Signed by its own key.
    pub(crate) fn self_signed(self) -> Issued {
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        let certificate = self.params.self_signed(&key).unwrap();
        Issued::new(certificate.der().to_vec(), certificate.pem(), &key)
    }
}

impl Issued {
    fn new(leaf: Vec<u8>, chain_pem: String, key: &KeyPair) -> Self {
        Self { leaf, chain_pem, key_pem: key.serialize_pem() }
    }

    /// As configuration.
    pub(crate) fn config(&self) -> TlsCertificate {
        TlsCertificate {
            chain: source(&self.chain_pem),
            private_key: source(&self.key_pem),
            password: None,
            ocsp_staple: None,
        }
    }

    /// Its certificate alone, as rustls takes it.
    pub(crate) fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.leaf.clone().into()
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { issuer: CertifiedIssuer::self_signed(Self::params(name), key).unwrap() }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = Spec::nameless().subject(&[("CN", name)]).authority().params;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// One that is not valid any more.
    pub(crate) fn expired(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = Self::params(name);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// A certificate of its own making, authority's or not, whose key signs others.
    pub(crate) fn of(spec: Spec) -> Self {
        let key = KeyPair::generate_for(spec.algorithm).unwrap();
        Self { issuer: CertifiedIssuer::self_signed(spec.params, key).unwrap() }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { issuer: CertifiedIssuer::signed_by(Self::params(name), key, &self.issuer).unwrap() }
    }

    pub(crate) fn issue(&self, spec: Spec) -> Issued {
        let key = KeyPair::generate_for(spec.algorithm).unwrap();
        let certificate = spec.params.signed_by(&key, &self.issuer).unwrap();
        Issued::new(certificate.der().to_vec(), certificate.pem(), &key)
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A revocation list of these serial numbers, current until that year.
    pub(crate) fn crl(&self, serials: &[&[u8]], until: i32) -> String {
        self.crl_since(2020, serials, until)
    }

    /// The same, made in that year.
    pub(crate) fn crl_since(&self, since: i32, serials: &[&[u8]], until: i32) -> String {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(since, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn source(text: &str) -> Source {
    Source::inline(text.as_bytes())
}

/// Bases of tests that need a purpose.
pub(crate) const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
pub(crate) const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];

/// An unsigned OCSP response for a serial number.
pub(crate) fn ocsp_response(serial: &[u8], this_update: &str, next_update: Option<&str>) -> Vec<u8> {
    super::ocsp::tests::response(serial, this_update, next_update)
}

/// Takes everybody, and keeps what was stapled.
#[derive(Debug, Default)]
struct Notes(OnceLock<Vec<u8>>);

impl ServerCertVerifier for Notes {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        staple: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.set(staple.to_vec()).unwrap();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// The OCSP response that a client is shown in a handshake.
pub(crate) fn staple_shown_by(tls: &ServerTls) -> Vec<u8> {
    let notes = Arc::new(Notes::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Notes>::clone(&notes);
    let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "a".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(tls.config())).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    notes.0.get().cloned().unwrap_or_default()
}
