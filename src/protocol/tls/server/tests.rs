//! Contexts compiled, and handshakes between the two sides.
use super::super::client::{ClientTls, Connecting, Endpoint};
use super::super::resolver::{Staple, set_asks, take_staple};
use super::super::testing::{Authority, CLIENT, Issued, SERVER, Spec, source};
use super::*;
use crate::config::tls::{CertificateValidation, CommonTls, TlsParameters, UpstreamTls};
use crate::protocol::tls::VerifyFailure;
use rustls::{ClientConnection, ProtocolVersion, ServerConnection};

fn server(certificates: &[&Issued], trusted: Option<&Authority>) -> DownstreamTls {
    let validation = trusted.map(trusting);
    let certificates = certificates.iter().map(|issued| issued.config()).collect();
    let common = CommonTls { certificates, validation, ..CommonTls::default() };
    DownstreamTls { common, ..DownstreamTls::default() }
}

fn trusting(authority: &Authority) -> CertificateValidation {
    CertificateValidation { trusted_ca: Some(source(&authority.pem())), ..CertificateValidation::default() }
}

fn client(sni: &str, certificate: Option<&Issued>, trusted: Option<&Authority>) -> UpstreamTls {
    let validation = trusted.map(trusting);
    let params = TlsParameters { maximum: Some(TlsVersion::Tls13), ..TlsParameters::default() };
    let certificates = certificate.iter().map(|issued| issued.config()).collect();
    let common = CommonTls { certificates, validation, params, ..CommonTls::default() };
    UpstreamTls { common, sni: sni.into(), ..UpstreamTls::default() }
}

fn compile(config: &DownstreamTls) -> ServerTls {
    ServerTls::compile(config, None, None).unwrap()
}

fn field(config: &DownstreamTls) -> String {
    ServerTls::compile(config, None, None).unwrap_err().field
}

fn endpoint() -> Endpoint<'static> {
    Endpoint {
        address: "10.0.0.1".parse().unwrap(),
        host_name: "",
        offer: super::super::Offer::Http1,
        auto_sni: None,
        auto_san: None,
    }
}

/// Both sides after their handshake, or whose error ended it.
fn handshake(
    server: &ServerTls,
    client: &ClientTls,
) -> Result<(ServerConnection, ClientConnection), (&'static str, rustls::Error)> {
    let Connecting { config, name, .. } = client.connect(&endpoint());
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server.config())).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|error| ("server", error))?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| ("client", error))?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((server, client))
}

#[test]
fn certificate_is_chosen_by_server_name_in_a_handshake() {
    let root = Authority::new("root");
    let (one, two) = (root.issue(Spec::dns("one.example")), root.issue(Spec::dns("*.two.example")));
    let server = compile(&server(&[&one, &two], None));
    for (name, shown) in [("one.example", &one), ("a.two.example", &two), ("three.example", &one)] {
        let client = ClientTls::compile(&client(name, None, Some(&root))).unwrap();
        let (accepted, connected) = handshake(&server, &client).unwrap();
        assert_eq!(accepted.server_name(), Some(name));
        assert_eq!(connected.peer_certificates().unwrap()[0], shown.der());
        assert_eq!(connected.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    assert_eq!(
        server.certificate_for(Some("b.two.example"), true).unwrap().names(SanKind::Dns).next(),
        Some("*.two.example")
    );
    assert_eq!(server.certificates().count(), 2);
}

#[test]
fn client_certificate_is_asked_for_and_verified() {
    let (root, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let own = root.issue(Spec::dns("s").purposes(SERVER));
    let good = root.issue(Spec::dns("c").purposes(CLIENT));
    let bad = stranger.issue(Spec::dns("c").purposes(CLIENT));
    let mut config = server(&[&own], Some(&root));
    let connect = |config: &DownstreamTls, certificate| {
        let client = ClientTls::compile(&client("s", certificate, Some(&root))).unwrap();
        handshake(&compile(config), &client).map(|(server, _)| server.peer_certificates().is_some())
    };
    assert_eq!(connect(&config, Some(&good)), Ok(true));
    assert_eq!(connect(&config, None), Ok(false), "it is optional");
    let (side, error) = connect(&config, Some(&bad)).unwrap_err();
    assert_eq!((side, VerifyFailure::of(&error)), ("server", Some(VerifyFailure::Chain)));
    config.require_client_certificate = true;
    assert!(compile(&config).requires_client_certificate);
    assert_eq!(connect(&config, Some(&good)), Ok(true));
    let (side, error) = connect(&config, None).unwrap_err();
    assert_eq!((side, VerifyFailure::of(&error)), ("server", Some(VerifyFailure::NoCertificate)));
    config.common.validation.as_mut().unwrap().certificate_hashes = vec![[0; 32]];
    let (_, error) = connect(&config, Some(&good)).unwrap_err();
    assert_eq!(VerifyFailure::of(&error), Some(VerifyFailure::Hash));
    config.common.validation = Some(CertificateValidation { accept_untrusted: true, ..trusting(&root) });
    for (certificate, forgiven) in [(&bad, Some(VerifyFailure::Chain)), (&good, None)] {
        assert_eq!(connect(&config, Some(certificate)), Ok(true));
        assert_eq!(verifier::take_forgiven(), forgiven);
    }
}

#[test]
fn server_certificate_is_verified_by_its_name_when_told() {
    let root = Authority::new("root");
    let server = compile(&server(&[&root.issue(Spec::dns("a.example"))], None));
    let mut config = client("b.example", None, Some(&root));
    let connect = |config: &UpstreamTls| handshake(&server, &ClientTls::compile(config).unwrap()).map(drop);
    assert_eq!(connect(&config), Ok(()), "a name is looked at only when told");
    config.auto_sni_san_validation = true;
    let (side, error) = connect(&config).unwrap_err();
    assert_eq!((side, VerifyFailure::of(&error)), ("client", Some(VerifyFailure::San)));
    config.sni = "a.example".into();
    assert_eq!(connect(&config), Ok(()));
    let stranger = client("a.example", None, Some(&Authority::new("stranger")));
    assert_eq!(VerifyFailure::of(&connect(&stranger).unwrap_err().1), Some(VerifyFailure::Chain));
    assert_eq!(connect(&client("a.example", None, None)), Ok(()), "nothing to verify by");
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_configuration() {
    let root = Authority::new("root");
    let mut config = server(&[&root.issue(Spec::dns("a"))], None);
    let mut upstream = client("a", None, Some(&root));
    let connect = |config: &DownstreamTls, upstream: &UpstreamTls| {
        let (server, _) = handshake(&compile(config), &ClientTls::compile(upstream).unwrap()).ok()?;
        Some((
            server.protocol_version().unwrap(),
            super::super::params::cipher_name(server.negotiated_cipher_suite().unwrap().suite()),
        ))
    };
    assert_eq!(connect(&config, &upstream), Some((ProtocolVersion::TLSv1_3, "TLS_AES_128_GCM_SHA256")));
    upstream.common.params.maximum = None;
    assert_eq!(
        connect(&config, &upstream),
        Some((ProtocolVersion::TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"))
    );
    config.common.params.cipher_suites = vec!["ECDHE-ECDSA-CHACHA20-POLY1305".into()];
    assert_eq!(
        connect(&config, &upstream),
        Some((ProtocolVersion::TLSv1_2, "ECDHE-ECDSA-CHACHA20-POLY1305"))
    );
    config.common.params.minimum = Some(TlsVersion::Tls13);
    assert_eq!(connect(&config, &upstream), None);
}

#[test]
fn session_is_resumed_by_a_ticket_until_its_keys_are_gone() {
    use rustls::HandshakeKind::{Full, Resumed};
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("a"));
    let mut config = server(&[&leaf], None);
    for maximum in [TlsVersion::Tls13, TlsVersion::Tls12] {
        let mut upstream = client("a", None, Some(&root));
        upstream.common.params.maximum = Some(maximum);
        let upstream = ClientTls::compile(&upstream).unwrap();
        let kind = |server: &ServerTls| handshake(server, &upstream).unwrap().0.handshake_kind().unwrap();
        config.session_tickets = SessionTickets::Generated;
        let first = compile(&config);
        assert_eq!(kind(&first), Full);
        assert_eq!(kind(&first), Resumed);
        let renewed = ServerTls::compile(&config, None, Some(&first)).unwrap();
        assert_eq!(kind(&renewed), Resumed, "a rotated certificate keeps the keys");
        let rotated = renewed.with_new_ticket_key().unwrap();
        assert_eq!(kind(&rotated), Resumed, "the key before is still good");
        let newest = rotated.with_new_ticket_key().unwrap();
        assert_eq!(kind(&newest), Resumed);
        let successor = compile(&config).with_ticket_keys_of(&newest).unwrap();
        assert_eq!(kind(&successor), Resumed, "the same chain of a listener that has changed");
        assert_eq!(kind(&compile(&config)), Full, "another process");
        config.session_tickets = SessionTickets::Disabled;
        let none = compile(&config);
        kind(&none);
        assert_eq!(kind(&none), Full);
        assert!(none.with_new_ticket_key().is_none());
        assert!(none.with_ticket_keys_of(&first).is_none() && first.with_ticket_keys_of(&none).is_none());
    }
}

#[test]
fn ticket_of_a_laxer_context_does_not_open_a_stricter_one() {
    use rustls::HandshakeKind::{Full, Resumed};
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("a"));
    let user = root.issue(Spec::dns("c").purposes(CLIENT));
    let mut config = server(&[&leaf], Some(&root));
    config.session_tickets = SessionTickets::Keys(vec![Source::inline([7; TICKET_KEY_BYTES])]);
    let upstream = ClientTls::compile(&client("a", Some(&user), Some(&root))).unwrap();
    let kind =
        |config: &DownstreamTls| handshake(&compile(config), &upstream).unwrap().0.handshake_kind().unwrap();
    assert_eq!(kind(&config), Full);
    assert_eq!(kind(&config), Resumed, "the same keys and the same rules");
    config.require_client_certificate = true;
    assert_eq!(kind(&config), Full);
    config.common.validation.as_mut().unwrap().subject_alt_names = vec![crate::config::tls::SanMatcher {
        kind: SanKind::Dns,
        matcher: crate::config::matcher::StringMatcher {
            pattern: crate::config::matcher::StringPattern::Exact("c".into()),
            ignore_case: false,
        },
    }];
    assert_eq!(kind(&config), Full);
    assert_eq!(kind(&config), Resumed);
}

#[test]
fn mistakes_name_their_field() {
    let root = Authority::new("root");
    let (leaf, other) = (root.issue(Spec::dns("a")), root.issue(Spec::dns("a")));
    let good = server(&[&leaf], None);
    assert_eq!(field(&server(&[], None)), "common_tls_context.tls_certificates");
    let mut config = good.clone();
    config.common.certificates[0].private_key = other.config().private_key;
    let error = ServerTls::compile(&config, None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "common_tls_context.tls_certificates[0].private_key: is not the key of the certificate"
    );
    config.common.certificates[0].private_key = source(&leaf.chain_pem);
    assert_eq!(field(&config), "common_tls_context.tls_certificates[0].private_key");
    config.common.certificates[0].chain = source("");
    assert_eq!(field(&config), "common_tls_context.tls_certificates[0].certificate_chain");
    let mut config = good.clone();
    config.common.certificates.push(root.issue(Spec::nameless()).config());
    assert_eq!(field(&config), "common_tls_context.tls_certificates[1].certificate_chain");
    let mut config = good.clone();
    config.require_client_certificate = true;
    assert_eq!(field(&config), "require_client_certificate");
    config.common.validation = Some(CertificateValidation::default());
    assert_eq!(field(&config), "require_client_certificate");
    config.common.validation =
        Some(CertificateValidation { trusted_ca: Some(source("x")), ..CertificateValidation::default() });
    assert_eq!(field(&config), "common_tls_context.validation_context.trusted_ca");
    let mut config = good.clone();
    config.session_tickets = SessionTickets::Keys(vec![Source::inline([0; 79])]);
    assert_eq!(field(&config), "session_ticket_keys.keys[0]");
    let mut config = good;
    config.ocsp_staple_policy = OcspStaplePolicy::MustStaple;
    assert_eq!(field(&config), "common_tls_context.tls_certificates[0].ocsp_staple");
    config.common.certificates[0].ocsp_staple =
        Some(Source::inline(super::super::ocsp::tests::response(&[1], "20260101000000Z", None)));
    assert_eq!(
        field(&config),
        "common_tls_context.tls_certificates[0].ocsp_staple",
        "of another certificate"
    );
    assert_eq!(
        field(&server(&[&root.issue(Spec::dns("a").must_staple())], None)),
        "common_tls_context.tls_certificates[0].ocsp_staple"
    );
}

#[test]
fn ocsp_response_is_sent_to_who_asks() {
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("a").serial(&[5, 5]));
    let mut config = server(&[&leaf], None);
    let response = super::super::ocsp::tests::response(&[5, 5], "20200101000000Z", Some("21000101000000Z"));
    config.common.certificates[0].ocsp_staple = Some(Source::inline(response));
    let server = compile(&config);
    let upstream = ClientTls::compile(&client("a", None, Some(&root))).unwrap();
    for (asks, staple) in [(true, Some(Staple::Sent)), (false, None)] {
        set_asks(asks);
        handshake(&server, &upstream).unwrap();
        assert_eq!((take_staple(), take_staple()), (staple, None));
    }
}

/// Who had not asked for a response was refused for one that had expired.
#[test]
fn ocsp_response_that_has_expired_concerns_only_clients_that_ask_for_one() {
    use OcspStaplePolicy::{Lenient, MustStaple, Strict};
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("a").serial(&[5, 5]));
    let mut config = server(&[&leaf], None);
    let response = super::super::ocsp::tests::response(&[5, 5], "20200101000000Z", Some("20200102000000Z"));
    config.common.certificates[0].ocsp_staple = Some(Source::inline(response));
    let upstream = ClientTls::compile(&client("a", None, Some(&root))).unwrap();
    for (policy, staple) in
        [(Lenient, Staple::Omitted), (Strict, Staple::Failed), (MustStaple, Staple::Failed)]
    {
        config.ocsp_staple_policy = policy;
        let server = compile(&config);
        set_asks(true);
        assert_eq!(handshake(&server, &upstream).is_ok(), staple == Staple::Omitted, "{policy:?}");
        assert_eq!(take_staple(), Some(staple));
        set_asks(false);
        assert!(handshake(&server, &upstream).is_ok(), "{policy:?}");
        assert_eq!(take_staple(), None);
    }
}

#[test]
fn session_does_not_outlive_the_clients_certificate() {
    let root = Authority::new("root");
    let own = root.issue(Spec::dns("server").purposes(SERVER));
    let server = compile(&server(&[&own], Some(&root)));
    let shown = |spec: Spec| [root.issue(spec.purposes(CLIENT)).der()];
    assert_eq!(server.accepts_still(&shown(Spec::dns("client"))), Ok(()));
    assert_eq!(
        server.accepts_still(&shown(Spec::dns("client").years(2020, 2021))),
        Err(VerifyFailure::Chain)
    );
    assert_eq!(server.accepts_still(&[]), Ok(()), "none was shown, and none was asked for");
}

/// A clock that stands.
#[derive(Debug)]
struct At(u64);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
    }
}

/// Resumption went on for as long as tickets came, whatever became of the server's certificate.
#[test]
fn server_whose_session_is_resumed_is_verified_again() {
    let root = Authority::new("root");
    let own = root.issue(Spec::dns("s.example").years(2020, 2090));
    let server = compile(&server(&[&own], None));
    let client = ClientTls::compile(&client("s.example", None, Some(&root))).unwrap();
    handshake(&server, &client).unwrap();
    let (_, resumed) = handshake(&server, &client).unwrap();
    assert_eq!(resumed.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    let shown = resumed.peer_certificates().unwrap();
    let mut connecting = client.connect(&endpoint());
    assert_eq!(connecting.accepts_still(shown), Ok(()));
    let mut later = (*connecting.config).clone();
    // 2095.
    later.time_provider = Arc::new(At(3_944_678_400));
    connecting.config = Arc::new(later);
    let error = connecting.accepts_still(shown).unwrap_err();
    assert_eq!(error.verify_failure(), Some(VerifyFailure::Chain));
}

#[test]
fn session_of_another_context_is_not_resumed() {
    let root = Authority::new("root");
    let own = root.issue(Spec::dns("s.example"));
    let server = compile(&server(&[&own], None));
    let config = client("s.example", None, Some(&root));
    let kind = |client: &ClientTls| handshake(&server, client).map(|(_, client)| client.handshake_kind());
    let first = ClientTls::compile(&config).unwrap();
    assert_eq!(kind(&first).unwrap(), Some(rustls::HandshakeKind::Full));
    assert_eq!(kind(&first).unwrap(), Some(rustls::HandshakeKind::Resumed));
    // As after a rotation: the same text, then another authority.
    let again = ClientTls::compile(&config).unwrap();
    assert_eq!(kind(&again).unwrap(), Some(rustls::HandshakeKind::Full));
    let stranger = client("s.example", None, Some(&Authority::new("stranger")));
    let (side, error) = kind(&ClientTls::compile(&stranger).unwrap()).unwrap_err();
    assert_eq!((side, VerifyFailure::of(&error)), ("client", Some(VerifyFailure::Chain)));
    // Other names to verify are another verifier's, sessions or not.
    let mut named = config;
    named.auto_sni_san_validation = true;
    let named = ClientTls::compile(&named).unwrap();
    assert_eq!(kind(&named).unwrap(), Some(rustls::HandshakeKind::Full));
}
