//! TLS contexts from YAML to `config` types, and the mistakes in them with their paths.
use super::validation::{base64, hex};
use super::*;
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::RequestNames;
use crate::config::http2::UpstreamProtocol;
use crate::config::tls::TlsVersion;
use crate::control::xds::convert::{Report, Unimplemented};
use crate::control::xds::loader::{Format, Source as Text};
use crate::control::xds::{LoadOptions, load_bootstrap};
use crate::protocol::tls::testing::{Authority, Issued, Spec};

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.";

/// A bootstrap with one listener and one cluster.
fn load_with(
    unimplemented: Unimplemented,
    down: &str,
    up: &str,
    more: &str,
) -> Result<(Bootstrap, Report), Report> {
    let socket = |kind: &str, body: &str| {
        if body.is_empty() {
            return String::new();
        }
        format!("transport_socket: {{name: t, typed_config: {{{TYPE}{kind}, {body}}}}}")
    };
    let (down, up) = (socket("DownstreamTlsContext", down), socket("UpstreamTlsContext", up));
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config: {{name: r}}
          http_filters: [{{name: r, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
      {down}
  clusters:
  - name: web
    {up}
  {more}
"#
    );
    let source = Text { name: "t.yaml", text: &text, format: Format::Yaml };
    let options = LoadOptions { unimplemented, ..LoadOptions::default() };
    load_bootstrap(&[source], options).map(|loaded| (loaded.bootstrap, loaded.report))
}

fn load(down: &str, up: &str, more: &str) -> Bootstrap {
    load_with(Unimplemented::Refuse, down, up, more).map_err(|report| report.errors.to_string()).unwrap().0
}

/// The first mistake's path below the context, and its reason.
fn mistake(down: &str, up: &str, more: &str) -> String {
    let report = load_with(Unimplemented::Refuse, down, up, more).map(drop).unwrap_err();
    let first = &report.errors.0[0];
    let path = first.path.rsplit("transport_socket.typed_config.").next().unwrap_or_default();
    format!("{path}: {}", first.reason)
}

fn quoted(text: &str) -> String {
    format!("{{inline_string: {:?}}}", text)
}

fn certificate(issued: &Issued) -> String {
    format!("{{certificate_chain: {}, private_key: {}}}", quoted(&issued.chain_pem), quoted(&issued.key_pem))
}

fn fixture() -> (Authority, Issued) {
    let root = Authority::new("root");
    let leaf = root.issue(Spec::dns("a"));
    (root, leaf)
}

#[test]
fn contexts_of_both_sides_are_converted() {
    let (root, leaf) = fixture();
    let (ca, own) = (quoted(&root.pem()), certificate(&leaf));
    let validation = format!(
        "validation_context: {{trusted_ca: {ca}, max_verify_depth: 2, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: 'spiffe://'}}}}]}}"
    );
    let down = format!(
        "common_tls_context: {{tls_certificates: [{own}], alpn_protocols: [h2, http/1.1], {validation}, tls_params: {{tls_minimum_protocol_version: TLSv1_3, ecdh_curves: [P-384]}}}}, require_client_certificate: true, session_timeout: 60s, disable_stateless_session_resumption: true"
    );
    let up = format!(
        "sni: a.example, auto_sni_san_validation: true, max_session_keys: 5, common_tls_context: {{{validation}}}"
    );
    let bootstrap = load(&down, &up, "");
    let tls = bootstrap.listeners[0].filter_chains[0].tls.as_ref().unwrap();
    assert!(tls.require_client_certificate && tls.session_tickets == SessionTickets::Disabled);
    assert_eq!(tls.session_timeout.unwrap().as_secs(), 60);
    assert_eq!(tls.common.alpn_protocols, ["h2".into(), "http/1.1".into()]);
    assert_eq!((tls.common.params.minimum, tls.common.params.maximum), (Some(TlsVersion::Tls13), None));
    let validation = tls.common.validation.as_ref().unwrap();
    assert_eq!((validation.depth_max, validation.subject_alt_names.len()), (Some(2), 1));
    let tls = bootstrap.clusters[0].sockets().tls.as_ref().unwrap();
    assert_eq!((&*tls.sni, tls.max_session_keys, tls.auto_sni_san_validation), ("a.example", 5, true));
}

#[test]
fn secrets_are_found_by_name_and_kind() {
    let (root, leaf) = fixture();
    let (ca, own) = (quoted(&root.pem()), certificate(&leaf));
    let secrets = format!(
        "secrets: [{{name: own, tls_certificate: {own}}}, {{name: trust, validation_context: {{trusted_ca: {ca}}}}}, {{name: keys, session_ticket_keys: {{keys: [{{inline_string: {:?}}}]}}}}]",
        "k".repeat(80)
    );
    let down = "common_tls_context: {tls_certificate_sds_secret_configs: [{name: own}], combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}, validation_context_sds_secret_config: {name: trust}}}, session_ticket_keys_sds_secret_config: {name: keys}";
    let up = "common_tls_context: {validation_context_sds_secret_config: {name: trust}}";
    let bootstrap = load(down, up, &secrets);
    let tls = bootstrap.listeners[0].filter_chains[0].tls.as_ref().unwrap();
    let validation = tls.common.validation.as_ref().unwrap();
    assert!(validation.trusted_ca.is_some() && validation.subject_alt_names.len() == 1, "merged");
    assert!(matches!(&tls.session_tickets, SessionTickets::Keys(keys) if keys.len() == 1));
    assert_eq!(tls.common.certificates.len(), 1);
    for (down, expected) in [
        (
            "common_tls_context: {tls_certificate_sds_secret_configs: [{name: trust}]}",
            "common_tls_context.tls_certificate_sds_secret_configs[0].name: unknown static secret \"trust\" of a certificate",
        ),
        (
            "session_ticket_keys_sds_secret_config: {name: own}",
            "session_ticket_keys_sds_secret_config.name: unknown static secret \"own\" of session ticket keys",
        ),
    ] {
        assert_eq!(mistake(down, "", &secrets), expected);
    }
    let twice =
        format!("secrets: [{{name: own, tls_certificate: {own}}}, {{name: own, tls_certificate: {own}}}]");
    assert!(mistake("", "", &twice).contains("duplicate secret"));
}

#[test]
fn mistakes_of_certificates_have_the_fields_path() {
    let (_, leaf) = fixture();
    let own = certificate(&leaf);
    let with = |certificate: &str| format!("common_tls_context: {{tls_certificates: [{certificate}]}}");
    for (certificate, expected) in [
        (
            "{certificate_chain: {filename: /nowhere}, private_key: {filename: /nowhere}}",
            "common_tls_context.tls_certificates[0].certificate_chain.filename: /nowhere: No such file or directory (os error 2)",
        ),
        (
            "{private_key: {inline_string: x}}",
            "common_tls_context.tls_certificates[0].certificate_chain: must be set",
        ),
        (
            "{certificate_chain: {inline_string: x}, private_key: {inline_string: x}}",
            "common_tls_context.tls_certificates[0].certificate_chain: no certificate in it (PEM is expected)",
        ),
        (
            "{pkcs12: {inline_string: x}}",
            "common_tls_context.tls_certificates[0].pkcs12: Envoy field that this version does not implement (write the chain and the key as PEM)",
        ),
    ] {
        assert_eq!(mistake(&with(certificate), "", ""), expected);
    }
    let password = own.replace("{certificate_chain", "{password: {filename: /nowhere}, certificate_chain");
    assert!(
        mistake(&with(&password), "", "")
            .starts_with("common_tls_context.tls_certificates[0].password.filename: /nowhere")
    );
    let staple = format!("{}, ocsp_staple_policy: MUST_STAPLE", with(&own));
    assert!(mistake(&staple, "", "").starts_with("common_tls_context.tls_certificates[0].ocsp_staple: "));
    assert_eq!(
        mistake("common_tls_context: {}", "", ""),
        "common_tls_context.tls_certificates: a server needs a certificate"
    );
    let log = format!("common_tls_context: {{tls_certificates: [{own}], key_log: {{path: /tmp/k}}}}");
    assert!(mistake(&log, "", "").starts_with("common_tls_context.key_log: "));
    let two = format!("common_tls_context: {{tls_certificates: [{own}, {own}]}}");
    assert!(mistake("", &two, "").contains("multiple TLS certificates"));
    assert!(mistake("", "allow_renegotiation: true", "").starts_with("allow_renegotiation: "));
    assert!(mistake("", "auto_sni_san_validation: true", "").starts_with("auto_sni_san_validation: "));
}

#[test]
fn algorithms_that_rustls_lacks_are_named() {
    let (_, leaf) = fixture();
    let with = |params: &str| {
        format!(
            "common_tls_context: {{tls_certificates: [{}], tls_params: {{{params}}}}}",
            certificate(&leaf)
        )
    };
    let params =
        with("cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA], ecdh_curves: [X25519, P-521]");
    let report = load_with(Unimplemented::Refuse, &params, "", "").map(drop).unwrap_err().errors.to_string();
    assert!(report.contains("cipher_suites[1]: \"AES128-SHA\" is not known here"), "{report}");
    assert!(report.contains("ecdh_curves[1]: \"P-521\" is not known here"), "{report}");
    let (_, report) = load_with(Unimplemented::Accept, &params, "", "").unwrap();
    assert!(report.unimplemented().any(|finding| finding.field.ends_with("cipher_suites: AES128-SHA")));
    let none = with("cipher_suites: [AES128-SHA]");
    let report = load_with(Unimplemented::Accept, &none, "", "").map(drop).unwrap_err().errors.to_string();
    assert!(
        report.contains("common_tls_context.tls_params.cipher_suites: none of these is known here"),
        "{report}"
    );
    let old = with("tls_minimum_protocol_version: TLSv1_0");
    assert!(
        mistake(&old, "", "").starts_with("common_tls_context.tls_params.tls_minimum_protocol_version: ")
    );
}

#[test]
fn validation_that_proves_nothing_is_refused_or_warned_of() {
    let (root, _) = fixture();
    let ca = quoted(&root.pem());
    let with = |validation: &str| format!("common_tls_context: {{validation_context: {{{validation}}}}}");
    for (validation, path) in [
        (
            "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]",
            "match_typed_subject_alt_names: ",
        ),
        (
            "match_typed_subject_alt_names: [{san_type: OTHER_NAME, oid: '1.2.3', matcher: {exact: a}}]",
            "match_typed_subject_alt_names[0].san_type: ",
        ),
        ("verify_certificate_hash: [ab]", "verify_certificate_hash[0]: "),
        ("verify_certificate_spki: [AAAA]", "verify_certificate_spki[0]: "),
        ("crl: {inline_string: x}", "crl: "),
        ("require_signed_certificate_timestamp: true", "require_signed_certificate_timestamp: "),
        ("allow_expired_certificate: true", "allow_expired_certificate: "),
    ] {
        let mistake = mistake("", &with(validation), "");
        assert!(mistake.starts_with(&format!("common_tls_context.validation_context.{path}")), "{mistake}");
    }
    let warnings = |up: &str| load_with(Unimplemented::Refuse, "", up, "").unwrap().1.warnings.to_string();
    assert!(warnings("sni: a").contains("static_resources.clusters[0].transport_socket.typed_config: the certificates of endpoints are NOT verified"));
    assert!(
        warnings(&with(&format!("trust_chain_verification: ACCEPT_UNTRUSTED, trusted_ca: {ca}")))
            .contains("NOT verified")
    );
    assert_eq!(warnings(&with(&format!("trusted_ca: {ca}"))), "");
    let hash = "ab:".repeat(32);
    assert_eq!(warnings(&with(&format!("verify_certificate_hash: ['{}']", &hash[..95]))), "");
}

#[test]
fn spiffe_domains_are_converted() {
    let (root, _) = fixture();
    let spiffe = |domains: &str| {
        format!(
            "common_tls_context: {{validation_context: {{custom_validator_config: {{name: envoy.tls.cert_validator.spiffe, typed_config: {{{TYPE}SPIFFECertValidatorConfig, trust_domains: [{domains}]}}}}}}}}"
        )
    };
    let domain = format!("{{name: td, trust_bundle: {}}}", quoted(&root.pem()));
    let bootstrap = load("", &spiffe(&domain), "");
    let tls = bootstrap.clusters[0].sockets().tls.as_ref().unwrap();
    assert_eq!(tls.common.validation.as_ref().unwrap().trust_domains.as_ref().unwrap().len(), 1);
    assert!(mistake("", &spiffe(&format!("{domain}, {domain}")), "").contains("duplicate trust domain"));
    assert!(
        mistake("", &spiffe("{name: td, trust_bundle: {inline_string: x}}"), "")
            .contains("trust_domains[0].trust_bundle: no certificate")
    );
}

#[test]
fn digests_are_read_in_their_two_notations() {
    assert_eq!(hex(&"0F".repeat(32)), Some([15; 32]));
    assert_eq!(hex(&"0f:".repeat(32)[..95]), Some([15; 32]));
    assert_eq!(hex(&"0g".repeat(32)), None);
    assert_eq!(hex("0f"), None);
    assert_eq!(base64("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), Some([0; 32]));
    assert_eq!(base64("//////////////////////////////////////////8="), Some([255; 32]));
    assert_eq!(base64("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="), None, "bits left over");
    assert_eq!(base64("AAAA"), None);
}

/// A further cluster, whose transport socket is given or not.
fn cluster_with(socket: &str, protocol: &str, names: &str) -> String {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let socket = if socket.is_empty() {
        String::new()
    } else {
        format!("transport_socket: {{name: t, typed_config: {{{TYPE}UpstreamTlsContext, {socket}}}}}, ")
    };
    format!(
        "- {{name: other, {socket}typed_extension_protocol_options: {{{OPTIONS}: {{\"@type\": \
         type.googleapis.com/{OPTIONS}, {protocol}, upstream_http_protocol_options: {{{names}}}}}}}}}"
    )
}

#[test]
fn names_of_requests_are_of_clusters_with_tls_and_need_somebody_trusted() {
    const HTTP1: &str = "explicit_http_config: {http_protocol_options: {}}";
    let trusted = format!(
        "common_tls_context: {{validation_context: {{trusted_ca: {{inline_string: {:?}}}}}}}",
        Authority::new("root").pem()
    );
    let names = |socket: &str, names: &str| {
        let loaded = load("", "", &cluster_with(socket, HTTP1, names));
        loaded.clusters.last().unwrap().request_names.clone()
    };
    let all = names(&trusted, "auto_sni: true, auto_san_validation: true, override_auto_sni_header: X-Name");
    assert_eq!(
        all,
        Some(RequestNames { server_name: true, subject_alt_name: true, header: "X-Name".into() })
    );
    assert_eq!(names("", "auto_sni: true, auto_san_validation: true"), None, "no TLS");
    assert_eq!(names(&trusted, "override_auto_sni_header: x-name"), None, "a header for nothing");
    let untrusted = load_with(
        Unimplemented::Refuse,
        "",
        "",
        &cluster_with("sni: a", HTTP1, "auto_sni: true, auto_san_validation: true"),
    );
    let errors = untrusted.unwrap_err().errors.to_string();
    assert!(errors.contains("auto_san_validation: names that nobody trusted"), "{errors}");
    let source = format!("{{path_config_source: {{path: {:?}}}}}", std::env::temp_dir());
    let told = format!("validation_context_sds_secret_config: {{name: trust, sds_config: {source}}}");
    let told = names(&format!("common_tls_context: {{{told}}}"), "auto_san_validation: true");
    assert!(told.is_some_and(|names| names.subject_alt_name), "whom what is told trusts is not known yet");
    let header = cluster_with(&trusted, HTTP1, "auto_sni: true, override_auto_sni_header: 'a b'");
    let errors = load_with(Unimplemented::Refuse, "", "", &header).unwrap_err().errors.to_string();
    assert!(errors.contains("override_auto_sni_header: \"a b\" cannot stand in a header name"), "{errors}");
}

#[test]
fn protocol_by_alpn_needs_tls() {
    let auto = |socket: &str| {
        let more =
            cluster_with(socket, "auto_config: {http2_protocol_options: {max_concurrent_streams: 7}}", "");
        load_with(Unimplemented::Refuse, "", "", &more)
    };
    let (bootstrap, _) = auto("sni: a").map_err(|report| report.errors.to_string()).unwrap();
    let cluster = bootstrap.clusters.last().unwrap();
    assert_eq!(cluster.upstream_protocol, UpstreamProtocol::Negotiated);
    assert_eq!(cluster.http2.max_concurrent_streams, 7);
    let errors = auto("").unwrap_err().errors.to_string();
    assert!(errors.contains("with auto_config every transport socket must be TLS"), "{errors}");
}

#[test]
fn secrets_that_are_told_are_named_and_awaited() {
    let (root, leaf) = fixture();
    let (ca, own) = (quoted(&root.pem()), certificate(&leaf));
    let scratch = std::env::temp_dir().join(format!("ringway-sds-{}", std::process::id()));
    std::fs::write(&scratch, "").unwrap();
    let source = format!(
        "sds_config: {{path_config_source: {{path: {}}}, initial_fetch_timeout: 3s}}",
        scratch.display()
    );
    let secrets = format!("secrets: [{{name: own, tls_certificate: {own}}}]");
    let down = format!(
        "common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: own}}, {{name: a, {source}}}], combined_validation_context: {{default_validation_context: {{allow_expired_certificate: true}}, validation_context_sds_secret_config: {{name: b, {source}}}}}}}, session_ticket_keys_sds_secret_config: {{name: c, {source}}}"
    );
    let up = format!(
        "common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: d, {source}}}], validation_context: {{trusted_ca: {ca}}}}}"
    );
    let bootstrap = load(&down, &up, &secrets);
    std::fs::remove_file(scratch).unwrap();
    let tls = bootstrap.listeners[0].filter_chains[0].tls.as_ref().unwrap();
    let told: Vec<_> = tls.told().map(|secret| (&*secret.name, secret.kind)).collect();
    let kinds = [SecretKind::Certificate, SecretKind::Validation, SecretKind::TicketKeys];
    assert_eq!(told, ["a", "b", "c"].into_iter().zip(kinds).collect::<Vec<_>>());
    assert!(tls.told().all(|secret| secret.initial_fetch_timeout.unwrap().as_secs() == 3));
    // The static one is there.
    assert!(!tls.is_whole() && tls.common.certificates.len() == 1);
    assert!(tls.common.named.as_ref().unwrap().validation.as_ref().unwrap().default.is_some());
    let cluster = &bootstrap.clusters[0];
    assert!(!cluster.sockets().tls.as_ref().unwrap().common.is_whole());
    assert!(cluster.told_secrets().map(|secret| &*secret.name).eq(["d"]));
    assert_eq!(bootstrap.told_secrets().count(), 4);
}

#[test]
fn mistakes_of_secrets_that_are_told_have_the_fields_path_and_say_what_to_write() {
    let with =
        |secret: &str| format!("common_tls_context: {{tls_certificate_sds_secret_configs: [{secret}]}}");
    let field = "common_tls_context.tls_certificate_sds_secret_configs[0]";
    for (secret, expected) in [
        (
            "{name: a, sds_config: {self: {}}}",
            format!(
                "{field}.sds_config.self: Envoy field that this version does not implement (write ads, api_config_source or path_config_source)"
            ),
        ),
        (
            "{name: a, sds_config: {path_config_source: {path: /nowhere}}}",
            format!(
                "{field}.sds_config.path_config_source.path: must refer to an existing path in the system: \"/nowhere\" does not exist"
            ),
        ),
    ] {
        assert_eq!(mistake(&with(secret), "", ""), expected);
    }
    let ads = with("{name: a, sds_config: {ads: {}}}");
    let expected =
        "secret \"a\": secrets come over the aggregated stream: dynamic_resources.ads_config must be set";
    assert_eq!(mistake(&ads, "", ""), format!("static_resources.listeners[0]: {expected}"));
    assert_eq!(mistake("", &ads, ""), format!("static_resources.clusters[0]: {expected}"));
    let streams = with(
        "{name: a, sds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: web}}]}}}",
    );
    assert!(mistake(&streams, "", "").contains("cluster \"web\" must speak HTTP/2"));
    // A context whose certificate is still to come is looked at nevertheless.
    let params = "common_tls_context: {tls_params: {cipher_suites: [none]}, tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}]}";
    assert!(mistake(params, "", "").starts_with("common_tls_context.tls_params.cipher_suites"));
}
