//! Tests of `forwarding`: tables of what each setting does to a request.

use std::sync::Arc;

use super::*;
use crate::config::route::RouteConfiguration;

fn manager(edit: impl FnOnce(&mut HttpConnectionManager)) -> HttpConnectionManager {
    let mut manager = HttpConnectionManager::new("t", Arc::new(RouteConfiguration::default()));
    edit(&mut manager);
    manager
}

fn settings(edit: impl FnOnce(&mut HttpConnectionManager)) -> ForwardingSettings {
    ForwardingSettings::new(&manager(edit), &LocalInfo::default())
}

fn name(text: &str) -> HeaderName {
    HeaderName::parse(text.as_bytes()).unwrap()
}

/// The request's head after [`mutate_request`] from `remote`, and who the client was.
fn mutated(settings: &ForwardingSettings, remote: &str, sent: &[(&str, &str)]) -> (Head, Client) {
    let mut head = Head::new();
    for (key, value) in sent {
        head.append(&name(key), value.as_bytes());
    }
    let remote = (!remote.is_empty()).then(|| remote.parse().unwrap());
    let downstream = Downstream::new(remote, Some("10.9.9.9:8443".parse().unwrap()), false, settings);
    let internal_only = [name("x-secret")];
    let mut rng = Rng::from_seed(1);
    let client = mutate_request(&mut head, settings, &downstream, &internal_only, &mut rng, &mut Vec::new());
    (head, client)
}

fn text(head: &Head, key: &str) -> String {
    let values: Vec<_> =
        head.get_all(&name(key)).map(|value| String::from_utf8(value.to_vec()).unwrap()).collect();
    values.join("|")
}

fn ranges(manager: &mut HttpConnectionManager) {
    manager.internal_addresses.cidr_ranges = vec![CidrRange::new("10.0.0.0".parse().unwrap(), 8)];
}

#[test]
fn client_certificate_is_told_by_mode() {
    use crate::protocol::tls::testing::{Authority, Spec};
    let issued = Authority::new("ca").issue(Spec::nameless().uri("spiffe://td/c"));
    let peer = PeerIdentity::of(&[issued.der()], false).unwrap();
    let own = format!("Hash={};URI=spiffe://td/c", peer.fingerprint_256());
    use ForwardClientCertDetails::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    for (mode, mutual, sent, expected) in [
        (Sanitize, true, "By=x", String::new()),
        (Sanitize, false, "By=x", String::new()),
        (ForwardOnly, true, "By=x", "By=x".into()),
        (ForwardOnly, false, "By=x", String::new()),
        (AppendForward, true, "By=x", format!("By=x,{own}")),
        (AppendForward, true, "", own.clone()),
        (AppendForward, false, "By=x", String::new()),
        (SanitizeSet, true, "By=x", own.clone()),
        (SanitizeSet, true, "", own),
        (SanitizeSet, false, "By=x", String::new()),
        (AlwaysForwardOnly, true, "By=x", "By=x".into()),
        (AlwaysForwardOnly, false, "By=x", "By=x".into()),
    ] {
        let settings = settings(|m| {
            m.forward_client_cert_details = mode;
            m.set_current_client_cert_details.uri = true;
        });
        let mut downstream = Downstream::new(Some("1.2.3.4".parse().unwrap()), None, true, &settings);
        if mutual {
            downstream = downstream.with_client_cert(None, &peer, &settings);
        }
        let mut head = Head::new();
        if !sent.is_empty() {
            head.append(&name("x-forwarded-client-cert"), sent.as_bytes());
        }
        let mut rng = Rng::from_seed(1);
        mutate_request(&mut head, &settings, &downstream, &[], &mut rng, &mut Vec::new());
        assert_eq!(text(&head, "x-forwarded-client-cert"), expected, "{mode:?} {mutual} {sent}");
        assert_eq!(text(&head, "x-forwarded-proto"), "https");
    }
}

#[test]
fn x_forwarded_for_grows_only_at_the_edge() {
    let inner = settings(|_| {});
    assert_eq!(
        text(&mutated(&inner, "1.2.3.4", &[("x-forwarded-for", "9.9.9.9")]).0, "x-forwarded-for"),
        "9.9.9.9"
    );
    let edge = settings(|m| m.use_remote_address = true);
    let (head, client) = mutated(&edge, "1.2.3.4", &[("x-forwarded-for", "9.9.9.9")]);
    assert_eq!(text(&head, "x-forwarded-for"), "9.9.9.9,1.2.3.4");
    assert_eq!(client.address, Some("1.2.3.4".parse().unwrap()));
    assert_eq!(text(&head, "x-envoy-external-address"), "1.2.3.4");
    let skip = settings(|m| (m.use_remote_address, m.skip_xff_append) = (true, true));
    assert_eq!(text(&mutated(&skip, "1.2.3.4", &[]).0, "x-forwarded-for"), "");
    let mapped = settings(|m| {
        (m.use_remote_address, m.represent_ipv4_remote_address_as_ipv4_mapped_ipv6) = (true, true)
    });
    assert_eq!(text(&mutated(&mapped, "1.2.3.4", &[]).0, "x-forwarded-for"), "::ffff:1.2.3.4");
}

#[test]
fn trusted_hops_choose_the_client_address() {
    for (edge, hops, forwarded, expected) in [
        (true, 1, "8.8.8.8, 7.7.7.7", "7.7.7.7"),
        (true, 2, "8.8.8.8, 7.7.7.7", "8.8.8.8"),
        (true, 3, "8.8.8.8, 7.7.7.7", "1.2.3.4"),
        (true, 1, "junk", "1.2.3.4"),
        (false, 0, "8.8.8.8, 7.7.7.7", "7.7.7.7"),
        (false, 1, "8.8.8.8, 7.7.7.7", "8.8.8.8"),
        (false, 2, "8.8.8.8, 7.7.7.7", "1.2.3.4"),
        (false, 0, "8.8.8.8,", "1.2.3.4"),
        (false, 0, "10.0.0.1:80", "1.2.3.4"),
        (false, 0, "fd00::1", "fd00::1"),
    ] {
        let settings = settings(|m| (m.use_remote_address, m.xff_num_trusted_hops) = (edge, hops));
        let (_, client) = mutated(&settings, "1.2.3.4", &[("x-forwarded-for", forwarded)]);
        assert_eq!(client.address, Some(expected.parse().unwrap()), "{edge} {hops} {forwarded}");
        assert_eq!(client.forwarded, expected != "1.2.3.4", "{edge} {hops} {forwarded}");
    }
    // The peer's own address in the header is one without a port all the same.
    let (_, client) = mutated(&settings(|_| {}), "1.2.3.4", &[("x-forwarded-for", "1.2.3.4")]);
    assert!(client.forwarded && client.address == Some("1.2.3.4".parse().unwrap()));
}

#[test]
fn internal_request_needs_a_single_internal_address() {
    for (edge, remote, forwarded, expected) in [
        (true, "10.0.0.7", None, true),
        (true, "10.0.0.7", Some("10.0.0.1"), false),
        (true, "1.2.3.4", None, false),
        (false, "10.0.0.7", None, false),
        (false, "1.2.3.4", Some("10.0.0.1"), true),
        (false, "1.2.3.4", Some("10.0.0.1, 10.0.0.2"), false),
        (false, "1.2.3.4", Some("9.9.9.9"), false),
    ] {
        let settings = settings(|m| {
            m.use_remote_address = edge;
            ranges(m);
        });
        let sent: Vec<_> = forwarded.map(|value| ("x-forwarded-for", value)).into_iter().collect();
        let (head, client) = mutated(&settings, remote, &sent);
        assert_eq!(client.internal, expected, "{edge} {remote} {forwarded:?}");
        assert_eq!(text(&head, "x-envoy-internal"), if expected { "true" } else { "" });
    }
}

#[test]
fn unix_peer_is_internal_when_configured() {
    let unix = settings(|m| {
        m.use_remote_address = true;
        m.internal_addresses.unix_sockets = true;
    });
    assert!(mutated(&unix, "", &[]).1.internal);
    assert!(!mutated(&settings(|m| m.use_remote_address = true), "", &[]).1.internal);
}

#[test]
fn external_request_loses_headers_that_steer() {
    let sent = [
        ("x-envoy-internal", "true"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-downstream-service-cluster", "c"),
        ("x-secret", "s"),
        ("x-kept", "k"),
    ];
    let (head, _) = mutated(&settings(|m| m.use_remote_address = true), "1.2.3.4", &sent);
    for gone in ["x-envoy-internal", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-secret"] {
        assert_eq!(text(&head, gone), "", "{gone}");
    }
    assert_eq!(text(&head, "x-envoy-downstream-service-cluster"), "", "at the edge only");
    assert_eq!(text(&head, "x-kept"), "k");
    let (head, _) = mutated(&settings(|_| {}), "1.2.3.4", &sent);
    assert_eq!(text(&head, "x-envoy-downstream-service-cluster"), "c");
    let (head, _) = mutated(
        &settings(|m| {
            m.use_remote_address = true;
            ranges(m);
        }),
        "10.0.0.1",
        &sent,
    );
    assert_eq!(text(&head, "x-envoy-retry-on"), "5xx", "internal clients may");
    assert_eq!(text(&head, "x-secret"), "s");
}

/// Lines without `edge` as observed from Envoy 1.40.
#[test]
fn proto_and_scheme_follow_trust() {
    for (edge, hops, sent, proto, scheme) in [
        (false, 0, None, "http", "http"),
        (false, 0, Some("https"), "https", "https"),
        (false, 0, Some("junk"), "junk", "http"),
        (false, 0, Some("HTTPS"), "HTTPS", "https"),
        (true, 0, Some("https"), "http", "http"),
        (true, 1, Some("https"), "https", "https"),
        (true, 1, None, "http", "http"),
    ] {
        let settings = settings(|m| (m.use_remote_address, m.xff_num_trusted_hops) = (edge, hops));
        let sent: Vec<_> = sent.map(|value| ("x-forwarded-proto", value)).into_iter().collect();
        let (head, _) = mutated(&settings, "1.2.3.4", &sent);
        assert_eq!(text(&head, "x-forwarded-proto"), proto, "{edge} {hops} {sent:?}");
        assert_eq!(text(&head, ":scheme"), scheme, "{edge} {hops} {sent:?}");
    }
    let overwrite = settings(|m| m.scheme_header_transformation = SchemeHeaderTransformation::Https);
    let (head, _) = mutated(&overwrite, "1.2.3.4", &[]);
    assert_eq!((text(&head, "x-forwarded-proto"), text(&head, ":scheme")), ("https".into(), "https".into()));
}

#[test]
fn x_forwarded_port_is_set_where_it_may_not_be_trusted() {
    let edge = settings(|m| (m.use_remote_address, m.append_x_forwarded_port) = (true, true));
    assert_eq!(text(&mutated(&edge, "1.2.3.4", &[("x-forwarded-port", "1")]).0, "x-forwarded-port"), "8443");
    let inner = settings(|m| m.append_x_forwarded_port = true);
    assert_eq!(text(&mutated(&inner, "1.2.3.4", &[("x-forwarded-port", "1")]).0, "x-forwarded-port"), "1");
    assert_eq!(text(&mutated(&inner, "1.2.3.4", &[]).0, "x-forwarded-port"), "8443");
}

#[test]
fn request_id_is_generated_kept_or_cleaned() {
    let traced = "12345678-1234-a234-1234-123456789012";
    let id = |settings: &ForwardingSettings, sent: Option<&str>| {
        let sent: Vec<_> = sent.map(|value| ("x-request-id", value)).into_iter().collect();
        text(&mutated(settings, "1.2.3.4", &sent).0, "x-request-id")
    };
    let inner = settings(|_| {});
    assert_eq!(id(&inner, None).len(), 36);
    assert_eq!(id(&inner, Some("abc")), "abc");
    assert_eq!(id(&inner, Some(traced)), traced);
    assert_eq!(id(&inner, Some("")).len(), 36);
    let edge = settings(|m| m.use_remote_address = true);
    assert_ne!(id(&edge, Some("abc")), "abc");
    let preserving = settings(|m| (m.use_remote_address, m.preserve_external_request_id) = (true, true));
    assert_eq!(id(&preserving, Some("abc")), "abc");
    assert_eq!(id(&preserving, Some(traced)), "12345678-1234-4234-1234-123456789012");
    assert_eq!(id(&settings(|m| m.generate_request_id = false), None), "");
}

#[test]
fn uuid_has_version_and_variant() {
    assert_eq!(&uuid_v4(0, 0), b"00000000-0000-4000-8000-000000000000");
    assert_eq!(&uuid_v4(u64::MAX, u64::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(
        &uuid_v4(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef),
        b"01234567-89ab-4def-8123-456789abcdef"
    );
}

/// As observed from Envoy 1.40.
#[test]
fn referer_that_is_no_reference_is_removed() {
    for (value, kept) in [
        ("http://x.com/a", true),
        ("/a/b", true),
        ("junk junk", false),
        ("http://x.com/#f", false),
        ("http://u:p@a/", false),
        ("about:blank", false),
    ] {
        let (head, _) = mutated(&settings(|_| {}), "1.2.3.4", &[("referer", value)]);
        assert_eq!(text(&head, "referer"), if kept { value } else { "" }, "{value}");
    }
    let twice = |second| {
        let lines = [("referer", "http://x.com/a"), ("referer", second)];
        let (head, _) = mutated(&settings(|_| {}), "1.2.3.4", &lines);
        head.get_all(&headers::REFERER).count()
    };
    assert_eq!((twice("http://x.com/b"), twice("http://x.com/#b")), (2, 0), "all of them or none");
}

#[test]
fn response_gets_server_via_and_request_id() {
    let respond = |settings: &ForwardingSettings, upstream: &[(&str, &str)]| {
        let (request, _) = mutated(settings, "1.2.3.4", &[("x-request-id", "abc")]);
        let mut head = Head::new();
        for (key, value) in upstream {
            head.append(&name(key), value.as_bytes());
        }
        mutate_response(&mut head, &request, settings);
        ["server", "via", "x-request-id"].map(|key| text(&head, key))
    };
    assert_eq!(respond(&settings(|_| {}), &[("server", "nginx")]), ["envoy", "", ""]);
    let append = settings(|m| {
        m.server_header_transformation = ServerHeaderTransformation::AppendIfAbsent;
        m.via = "1.1 r".into();
        m.always_set_request_id_in_response = true;
    });
    assert_eq!(respond(&append, &[("server", "nginx"), ("via", "1.0 x")]), ["nginx", "1.0 x, 1.1 r", "abc"]);
    assert_eq!(respond(&append, &[]), ["envoy", "1.1 r", "abc"]);
    let pass = settings(|m| m.server_header_transformation = ServerHeaderTransformation::PassThrough);
    assert_eq!(respond(&pass, &[]), ["", "", ""]);
}

#[test]
fn user_agent_and_local_address_come_from_the_node() {
    let manager = manager(|m| (m.add_user_agent, m.use_remote_address) = (true, true));
    let local =
        LocalInfo { cluster: "front".into(), node: "n1".into(), address: Some("10.5.5.5".parse().unwrap()) };
    let settings = ForwardingSettings::new(&manager, &local);
    let (head, _) = mutated(&settings, "127.0.0.1", &[]);
    assert_eq!(text(&head, "user-agent"), "front");
    assert_eq!(text(&head, "x-envoy-downstream-service-node"), "n1");
    assert_eq!(
        text(&head, "x-forwarded-for"),
        "10.5.5.5",
        "a loopback peer is called by this host's address"
    );
    for peer in ["127.0.0.2", "127.1.2.3"] {
        assert_eq!(
            text(&mutated(&settings, peer, &[]).0, "x-forwarded-for"),
            peer,
            "another has one of its own"
        );
    }
    assert_eq!(text(&mutated(&settings, "127.0.0.1", &[("user-agent", "curl")]).0, "user-agent"), "curl");
}
