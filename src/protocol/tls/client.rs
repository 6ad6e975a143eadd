//! TLS towards endpoints, compiled.
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use once_cell::race::OnceBox;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};

use super::io::TlsError;
use super::params::Algorithms;
use super::server::{alpn, certified_key, validator};
use super::session::Fault;
use super::validator::Validator;
use super::verifier::{Expected, ServerVerifier};
use super::{Certificate, TlsConfigError};
use crate::base::heaps;
use crate::config::tls::{TlsVersion, UpstreamTls};

/// What connects with TLS. Immutable: a file that changes makes another one.
pub struct ClientTls {
    algorithms: Algorithms,
    /// What all its configurations have in common, sessions among it.
    common: ClientConfig,
    validator: Option<Arc<Validator>>,
    certificate: Option<(Option<Box<str>>, Arc<Certificate>)>,
    /// For names as the configuration says.
    plain: PerProtocol,
    /// For connections whose server has to have the server name of the connection besides.
    auto_san: PerProtocol,
    sni: Box<str>,
    auto_host_sni: bool,
    auto_sni_san_validation: bool,
}

/// What verifies servers, and configurations with it for connections of each kind of [`Offer`], made with the first of that kind: they
/// offer that where the configuration does not say what to offer. Source: Envoy `applicationProtocolFallback`.
struct PerProtocol {
    verifier: Arc<ServerVerifier>,
    configs: [OnceBox<Arc<ClientConfig>>; 4],
}

impl PerProtocol {
    fn new(verifier: Arc<ServerVerifier>) -> Self {
        Self { verifier, configs: [const { OnceBox::new() }; 4] }
    }

    fn config(&self, offer: Offer, common: &ClientConfig) -> &Arc<ClientConfig> {
        let [http1, http2, either, opaque] = &self.configs;
        let (place, fallback): (_, &[&[u8]]) = match offer {
            Offer::Http1 => (http1, &[b"http/1.1"]),
            Offer::Http2 => (http2, &[b"h2"]),
            Offer::Either => (either, &[b"h2", b"http/1.1"]),
            Offer::Opaque => (opaque, &[]),
        };
        // It outlives the connection.
        place.get_or_init(|| heaps::lasting(|| Box::new(self.offering(fallback, common))))
    }

    fn offering(&self, fallback: &[&[u8]], common: &ClientConfig) -> Arc<ClientConfig> {
        let mut offering = common.clone();
        if offering.alpn_protocols.is_empty() {
            offering.alpn_protocols.extend(fallback.iter().map(|protocol| protocol.to_vec()));
        }
        offering.dangerous().set_certificate_verifier(Arc::clone(&self.verifier) as _);
        Arc::new(offering)
    }
}

/// What a connection is made with.
#[derive(Debug)]
pub struct Connecting {
    /// How.
    pub config: Arc<ClientConfig>,
    /// Server name; an address is not sent.
    pub name: ServerName<'static>,
    verifier: Arc<ServerVerifier>,
}

impl Connecting {
    /// Whether a server is still accepted whose session was resumed, by what it has shown when that began: rustls looks at it no
    /// more, and each resumption brings a new ticket, so that a session would outlive the certificate. Sessions of a context
    /// that was replaced are not resumed: they belong to their verifier.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts_still(&self, shown: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let Some((leaf, chain)) = shown.split_first() else { return Ok(()) };
        let verified = self
            .config
            .time_provider
            .current_time()
            .ok_or(rustls::Error::FailedToGetCurrentTime)
            .and_then(|now| self.verifier.verify_server_cert(leaf, chain, &self.name, &[], now));
        verified.map(drop).map_err(|error| TlsError::Session(Fault::Protocol(error)))
    }
}

/// What a connection may speak above TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the server chooses of the two, HTTP/2 rather.
    Either,
    /// Whatever its two ends speak, of which nothing is known.
    Opaque,
}

/// Where a connection goes, and what the request says of it.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The endpoint's address.
    pub address: IpAddr,
    /// Its host name; empty: it has none.
    pub host_name: &'a str,
    /// What will be spoken.
    pub offer: Offer,
    /// Server name that the request asks for. Envoy: `auto_sni`.
    pub auto_sni: Option<&'a str>,
    /// Name that the request asks the certificate to have. Envoy: `auto_san_validation`.
    pub auto_san: Option<&'a str>,
}

impl ClientTls {
    /// Compiles a context.
    ///
    /// # Errors
    /// The field below `UpstreamTlsContext`, and what is wrong with it.
    pub fn compile(config: &UpstreamTls) -> Result<Self, TlsConfigError> {
        let common = |error: TlsConfigError| error.within("common_tls_context");
        let algorithms = Algorithms::compile(&config.common.params, TlsVersion::Tls12)
            .map_err(|error| error.within("tls_params").within("common_tls_context"))?;
        let validator = validator(&config.common, &algorithms)?;
        if config.auto_sni_san_validation
            && !validator.as_ref().is_some_and(|validator| validator.trusts_somebody())
        {
            return Err(TlsConfigError::new(
                "auto_sni_san_validation",
                "names that nobody trusted vouches for prove nothing: set validation_context.trusted_ca",
            ));
        }
        let mut own = None;
        if let Some(certificate) = config.common.certificates.first() {
            let (key, read) = certified_key(certificate, &algorithms)
                .map_err(|error| common(error.within("tls_certificates[0]")))?;
            own = Some((Arc::new(key), certificate.chain.file.clone(), read));
        }
        let expected =
            if config.auto_sni_san_validation { Expected::DnsOfConnection } else { Expected::Configured };
        let verifier = Arc::new(ServerVerifier::new(validator.clone(), expected, &algorithms));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&algorithms.provider))
            .with_protocol_versions(&algorithms.versions)
            .map_err(|error| common(TlsConfigError::new("tls_params", error.to_string())))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let mut compiled = match &own {
            Some((key, ..)) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(key)))),
            None => builder.with_no_client_auth(),
        };
        compiled.alpn_protocols = alpn(&config.common.alpn_protocols);
        compiled.resumption = match config.max_session_keys {
            0 => Resumption::disabled(),
            count => {
                Resumption::in_memory_sessions(usize::try_from(count).unwrap_or(usize::MAX).min(SESSIONS_MAX))
            }
        };
        let plain = PerProtocol::new(verifier);
        let any = ServerVerifier::new(validator.clone(), Expected::AnyOfConnection, &algorithms);
        let auto_san = PerProtocol::new(Arc::new(any));
        Ok(Self {
            common: compiled,
            validator,
            certificate: own.map(|(_, file, read)| (file, read)),
            plain,
            auto_san,
            sni: config.sni.clone(),
            auto_host_sni: config.auto_host_sni,
            auto_sni_san_validation: config.auto_sni_san_validation,
            algorithms,
        })
    }

    /// What to connect with.
    pub fn connect(&self, endpoint: &Endpoint<'_>) -> Connecting {
        let configured =
            if self.auto_host_sni && !endpoint.host_name.is_empty() { endpoint.host_name } else { &self.sni };
        let text = endpoint.auto_sni.unwrap_or(configured);
        let name = DnsName::try_from(text.to_owned()).ok().map(ServerName::DnsName);
        let is_sent = name.is_some();
        let name = name.unwrap_or_else(|| ServerName::IpAddress(endpoint.address.into()));
        // Most connections share one of a few configurations, and with it their sessions; the others have names of
        // their own to verify.
        let of = |kind: &PerProtocol| {
            (Arc::clone(kind.config(endpoint.offer, &self.common)), Arc::clone(&kind.verifier))
        };
        let with = |expected| {
            let verifier = Arc::new(ServerVerifier::new(self.validator.clone(), expected, &self.algorithms));
            (verified_by(self.plain.config(endpoint.offer, &self.common), &verifier), verifier)
        };
        let (config, verifier) = match endpoint.auto_san {
            Some(wanted) if wanted == name.to_str() => of(&self.auto_san),
            Some(wanted) => with(Expected::Any(wanted.into())),
            None if self.auto_sni_san_validation && !is_sent && !text.is_empty() => {
                with(Expected::Dns(text.into()))
            }
            None => of(&self.plain),
        };
        Connecting { config, name, verifier }
    }

    /// Whether servers are verified at all.
    pub fn verifies(&self) -> bool {
        self.validator
            .as_ref()
            .is_some_and(|validator| validator.verifies() && !validator.accepts_untrusted())
    }

    /// Its certificate and the file, for `/certs`.
    pub fn certificate(&self) -> Option<(Option<&str>, &Certificate)> {
        self.certificate.as_ref().map(|(file, certificate)| (file.as_deref(), &**certificate))
    }

    /// The first certificate that it trusts and its file, for `/certs`.
    pub fn authority(&self) -> Option<(Option<&str>, &Certificate)> {
        let (file, certificate) = self.validator.as_ref()?.authority.as_ref()?;
        Some((file.as_deref(), &**certificate))
    }
}

/// Most sessions kept, whatever the configuration says: each is some kilobytes.
const SESSIONS_MAX: usize = 4096;

fn verified_by(config: &ClientConfig, verifier: &Arc<ServerVerifier>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.dangerous().set_certificate_verifier(Arc::clone(verifier) as _);
    Arc::new(config)
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::{CertificateValidation, CommonTls};
    use crate::protocol::tls::VerifyFailure;
    use crate::protocol::tls::testing::{Authority, Spec, source};

    fn compile(change: impl FnOnce(&mut UpstreamTls)) -> Result<ClientTls, TlsConfigError> {
        let validation = CertificateValidation {
            trusted_ca: Some(source(&Authority::new("root").pem())),
            ..CertificateValidation::default()
        };
        let common = CommonTls { validation: Some(validation), ..CommonTls::default() };
        let mut config = UpstreamTls { common, sni: "sni.example".into(), ..UpstreamTls::default() };
        change(&mut config);
        ClientTls::compile(&config)
    }

    const HOST: Endpoint<'static> = Endpoint {
        address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        host_name: "host.example",
        offer: Offer::Http1,
        auto_sni: None,
        auto_san: None,
    };

    #[test]
    fn server_name_is_that_of_request_host_or_configuration() {
        let name =
            |tls: &ClientTls, endpoint: Endpoint<'_>| tls.connect(&endpoint).name.to_str().into_owned();
        let fixed = compile(|_| {}).unwrap();
        assert_eq!(name(&fixed, HOST), "sni.example");
        assert_eq!(name(&fixed, Endpoint { auto_sni: Some("request.example"), ..HOST }), "request.example");
        let by_host = compile(|config| config.auto_host_sni = true).unwrap();
        assert_eq!(name(&by_host, HOST), "host.example");
        assert_eq!(name(&by_host, Endpoint { host_name: "", ..HOST }), "sni.example");
        assert_eq!(name(&by_host, Endpoint { auto_sni: Some("request.example"), ..HOST }), "request.example");
        let none = compile(|config| config.sni = Box::default()).unwrap();
        assert_eq!(name(&none, HOST), "10.0.0.1", "an address, which is not sent");
        let mesh = "outbound_.80_._.reviews.default.svc.cluster.local";
        assert_eq!(name(&fixed, Endpoint { auto_sni: Some(mesh), ..HOST }), mesh);
    }

    #[test]
    fn configuration_is_shared_unless_a_name_is_the_connections_own() {
        let tls = compile(|config| config.auto_sni_san_validation = true).unwrap();
        let config = |endpoint: Endpoint<'_>| tls.connect(&endpoint).config;
        assert!(Arc::ptr_eq(&config(HOST), tls.plain.configs[0].get().unwrap()));
        let same = Endpoint { auto_sni: Some("a.example"), auto_san: Some("a.example"), ..HOST };
        assert!(Arc::ptr_eq(&config(same), tls.auto_san.configs[0].get().unwrap()));
        let other = config(Endpoint { auto_san: Some("a.example"), ..HOST });
        assert!(
            !Arc::ptr_eq(&other, tls.plain.configs[0].get().unwrap())
                && !Arc::ptr_eq(&other, tls.auto_san.configs[0].get().unwrap())
        );
        let unsent = config(Endpoint { auto_sni: Some("10.0.0.9"), ..HOST });
        assert!(
            !Arc::ptr_eq(&unsent, tls.plain.configs[0].get().unwrap()),
            "a name that cannot be sent is asked for all the same"
        );
    }

    #[test]
    fn protocol_spoken_is_offered_unless_the_configuration_says_what() {
        let offered =
            |tls: &ClientTls, offer| tls.connect(&Endpoint { offer, ..HOST }).config.alpn_protocols.clone();
        let tls = compile(|_| {}).unwrap();
        assert_eq!(offered(&tls, Offer::Http1), [b"http/1.1".to_vec()]);
        assert_eq!(offered(&tls, Offer::Http2), [b"h2".to_vec()]);
        assert_eq!(offered(&tls, Offer::Either), [b"h2".to_vec(), b"http/1.1".to_vec()]);
        let tls = compile(|config| config.common.alpn_protocols = vec!["x".into()]).unwrap();
        for offer in [Offer::Http1, Offer::Http2, Offer::Either] {
            assert_eq!(offered(&tls, offer), [b"x".to_vec()]);
        }
    }

    /// Rules that are told may trust nobody.
    #[test]
    fn name_that_a_request_asks_for_is_none_where_nobody_is_trusted() {
        let leaf = Authority::new("root").issue(Spec::dns("a.example"));
        let accepts = |tls: &ClientTls, auto_san: Option<&'static str>| {
            tls.connect(&Endpoint { auto_san, ..HOST }).accepts_still(&[leaf.der()])
        };
        let nobody = compile(|config| config.common.validation = None).unwrap();
        assert_eq!(accepts(&nobody, None), Ok(()), "none is asked for");
        for name in ["a.example", "sni.example"] {
            let error = accepts(&nobody, Some(name)).unwrap_err();
            assert_eq!(error.verify_failure(), Some(VerifyFailure::Chain), "{name}");
        }
        let anybody = compile(|config| {
            let validation = config.common.validation.as_mut().unwrap();
            (validation.trusted_ca, validation.accept_untrusted) = (None, true);
        });
        assert_eq!(accepts(&anybody.unwrap(), Some("b.example")), Ok(()));
    }

    #[test]
    fn names_without_trust_are_a_mistake() {
        let error = compile(|config| {
            config.auto_sni_san_validation = true;
            config.common.validation = None;
        });
        assert_eq!(error.unwrap_err().field, "auto_sni_san_validation");
        assert!(compile(|_| {}).unwrap().verifies());
        assert!(!compile(|config| config.common.validation = None).unwrap().verifies());
        let untrusted = |config: &mut UpstreamTls| {
            config.common.validation.as_mut().unwrap().accept_untrusted = true;
        };
        assert!(!compile(untrusted).unwrap().verifies());
    }
}
