//! Secrets of a control plane and of files: who needs one waits for it, new connections have the latest, and none is ever served
//! in plain text.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::pki_types::CertificateDer;

use crate::harness::ToldCluster::{At, Secured};
use crate::harness::{
    Authority, Client, Config, ControlPlane, Io, PATIENCE, Proxy, TempFolder, TlsClient, Upstream,
    cluster_to, downstream_tls, free_port, on_each_backend, put_secret, told_certificate, told_socket,
    told_trust, until, upstream_tls,
};
use crate::xds::named;

const NAME: &str = "server.example";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A secret that is told over aggregated discovery, and waited for so long.
fn told(field: &str, name: &str, wait: &str) -> String {
    let source = format!("{{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {wait}}}");
    match field {
        "tls_certificate_sds_secret_configs" => format!("{field}: [{{name: {name}, sds_config: {source}}}]"),
        _ => format!("{field}: {{name: {name}, sds_config: {source}}}"),
    }
}

fn own(name: &str, wait: &str) -> String {
    told("tls_certificate_sds_secret_configs", name, wait)
}

fn trusted(name: &str, wait: &str) -> String {
    told("validation_context_sds_secret_config", name, wait)
}

/// A proxy, two of its workers, that asks there; its one listener has this transport socket, its one cluster these fields.
fn config(plane: &ControlPlane, upstream: &Upstream, listener: &str, cluster: &str) -> Config {
    let clusters = format!("{}, {{{cluster}{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
    let config = Config { clusters: Some(clusters), ..Config::to(0) };
    let config = if listener.is_empty() { config } else { config.chain(listener) };
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// What a new connection is shown.
fn shown(port: u16, authority: &Authority) -> Option<CertificateDer<'static>> {
    let mut client = TlsClient::connect(port, authority, NAME, &["http/1.1"]);
    client.try_send(GET.as_bytes()).ok()?;
    client.shown().cloned()
}

/// Whether a connection ends without a byte for whoever speaks plain text.
fn is_refused(port: u16) -> bool {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = socket.write_all(GET.as_bytes());
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => bytes.is_empty(),
        Err(error) => bytes.is_empty() && error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Counters of the listener at that port.
fn listener_stat(proxy: &Proxy, name: &str) -> u64 {
    proxy.stat(&format!("listener.127.0.0.1_{}.server_ssl_socket_factory.{name}", proxy.port))
}

on_each_backend! {
    fn certificate_is_waited_for_and_its_successor_is_shown_to_new_connections(io) {
        let (upstream, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[]));
        let socket = downstream_tls("", &own("own", "15s"));
        let proxy = Proxy::launch(io, &config(&plane, &upstream, &socket, ""), free_port(), free_port());
        assert!(plane.wait_for_secrets(&["own"]).nonce.is_empty());
        assert_ne!(proxy.admin("GET", "/ready").status(), 200);
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_warming_secrets").text();
        assert!(dump.contains("\"own\"") && dump.contains("uninitialized"), "{dump}");
        let (first, first_pair) = (authority.issue(NAME), authority.pair(NAME));
        let nonce = plane.tell_secrets(&[told_certificate("own", &first_pair)]);
        assert!(plane.answer(&nonce).error.is_none());
        proxy.wait_for_log("serving");
        assert_eq!(shown(proxy.port, &authority), Some(first.clone()));
        let mut stays = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
        assert_eq!(stays.ask(GET).text(), "a");
        // K2: another is for new connections, and those that are there go on.
        let (second, second_pair) = (authority.issue(NAME), authority.pair(NAME));
        plane.answer(&plane.tell_secrets(&[told_certificate("own", &second_pair)]));
        until("the second certificate", || shown(proxy.port, &authority) == Some(second.clone()));
        assert_eq!(stays.ask(GET).text(), "a");
        assert_eq!(stays.shown(), Some(&first));
        // One that is no good leaves it, and is named.
        let [chain, key] = [first_pair[0].clone(), second_pair[1].clone()];
        let answer = plane.answer(&plane.tell_secrets(&[told_certificate("own", &[chain, key])]));
        let reason = answer.error.unwrap().message;
        assert_eq!(reason, "own: tls_certificate.private_key: is not the key of the certificate");
        let quarantined = proxy.admin("GET", "/quarantine").text();
        assert!(quarantined.contains("own") && quarantined.contains("private_key"), "{quarantined}");
        assert_eq!(shown(proxy.port, &authority), Some(second.clone()));
        for (stat, value) in [("sds.own.update_success", 2), ("sds.own.update_rejected", 1)] {
            assert_eq!(proxy.stat(stat), value, "{stat}");
        }
        assert_eq!(listener_stat(&proxy, "ssl_context_update_by_sds"), 2);
        // K5
        let dump = proxy.admin("GET", "/config_dump").text();
        assert!(dump.contains("dynamic_active_secrets") && dump.contains("[redacted]"), "{dump}");
        for pair in [&first_pair, &second_pair] {
            let part = pair[1].lines().nth(1).unwrap();
            assert!(!dump.contains(part) && proxy.count_in_log(part) == 0);
        }
        assert!(proxy.admin("GET", "/certs").text().contains("<inline>"));
        proxy.end();
    }

    /// Without the control plane everything stays; another one is asked anew.
    fn secrets_outlive_the_stream(io) {
        let (upstream, mut plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[]));
        let socket = downstream_tls("", &own("own", "15s"));
        let first = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("own", &authority.pair(NAME))]);
        let proxy = Proxy::start(io, &config(&plane, &upstream, &socket, ""));
        assert_eq!(shown(proxy.port, &authority), Some(first.clone()));
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(shown(proxy.port, &authority), Some(first.clone()));
        let second = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("own", &authority.pair(NAME))]);
        plane.restart();
        until("the second certificate", || shown(proxy.port, &authority) == Some(second.clone()));
        let again = plane.wait_for("secrets", |asked| asked.names == ["own"] && asked.nonce.is_empty() && asked.version == "v1");
        assert!(again.error.is_none());
        proxy.end();
    }

    /// K4: who goes without refuses connections, whatever they speak, until the secret is there.
    fn listener_without_its_secret_refuses_connections(io) {
        let (upstream, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[]));
        let socket = downstream_tls("", &own("own", "0.2s"));
        let log = "access_log: [{name: log, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
                   {text_format_source: {inline_string: \"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\\n\"}}}}]";
        let config = config(&plane, &upstream, &socket, "").listener(log);
        let proxy = Proxy::start(io, &config.arguments(&["--file-flush-interval-msec", "10"]));
        assert_eq!(proxy.stat("sds.own.init_fetch_timeout"), 1);
        assert!(is_refused(proxy.port) && is_refused(proxy.port));
        proxy.wait_for_log("TLS_error:_Secret_is_not_supplied_by_SDS");
        assert_eq!(listener_stat(&proxy, "downstream_context_secrets_not_ready"), 2);
        let certificate = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("own", &authority.pair(NAME))]);
        // The other worker may still be without.
        let mut client = None;
        until("the certificate", || {
            let mut one = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
            let is_there = one.try_send(GET.as_bytes()).is_ok() && one.shown() == Some(&certificate);
            client = is_there.then_some(one);
            is_there
        });
        assert_eq!(client.unwrap().ask(GET).text(), "a");
        proxy.end();
    }

    fn certificate_of_a_file_is_shown_and_its_successor_is(io) {
        let (upstream, authority, folder) = (named("a"), Authority::of(&[]), TempFolder::new());
        let path = folder.path().join("sds.yaml");
        let first = authority.issue(NAME);
        put_secret(&path, "own", &authority.pair(NAME));
        let source = format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", path.display());
        let common = format!("tls_certificate_sds_secret_configs: [{{name: own, sds_config: {source}}}]");
        let proxy = Proxy::start(io, &Config::to(upstream.port).chain(&downstream_tls("", &common)));
        assert_eq!(shown(proxy.port, &authority), Some(first.clone()));
        // What is no good leaves it.
        let [chain, _] = authority.pair(NAME);
        put_secret(&path, "own", &[chain, "rubbish".to_owned()]);
        proxy.wait_for_stat("sds.own.update_rejected", 1);
        assert_eq!(shown(proxy.port, &authority), Some(first));
        let second = authority.issue(NAME);
        put_secret(&path, "own", &authority.pair(NAME));
        until("the second certificate", || shown(proxy.port, &authority) == Some(second.clone()));
        proxy.end();
    }

    /// Whom a cluster trusts, and what it shows, come and change.
    fn endpoints_are_verified_by_and_shown_what_is_told(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let (authority, other) = (Authority::of(&[NAME, "client"]), Authority::of(&["client"]));
        let common = format!("{}, {}", authority.shown(NAME), authority.trusted());
        let once = "common_http_protocol_options: {max_requests_per_connection: 1}";
        let inner = Config::to(upstream.port).chain(&downstream_tls("require_client_certificate: true,", &common));
        let inner = Proxy::start(io, &inner.manager(once));
        let fields = upstream_tls("", &format!("{}, {}", own("mine", "0.2s"), trusted("trust", "0.2s")));
        let clusters = format!("{}, {{{fields}, {}}}", plane.clusters(&[]), cluster_to("upstream", inner.port));
        let outer = Config { clusters: Some(clusters), ..Config::to(0) };
        let outer = Proxy::start(io, &outer.arguments(&["--config-yaml", &plane.bootstrap()]));
        let mut client = outer.connect();
        assert_eq!(client.get("/").status(), 503, "there is neither");
        assert_eq!(outer.stat("cluster.upstream.client_ssl_socket_factory.upstream_context_secrets_not_ready"), 1);
        let trust = told_trust("trust", &authority.pem());
        plane.answer(&plane.tell_secrets(&[told_certificate("mine", &authority.pair("client"))]));
        assert_eq!(client.get("/").status(), 503, "nobody is trusted");
        plane.answer(&plane.tell_secrets(&[told_certificate("mine", &authority.pair("client")), trust.clone()]));
        until("an answer", || client.get("/").text() == "a");
        // The other side does not know its authority.
        plane.answer(&plane.tell_secrets(&[told_certificate("mine", &other.pair("client")), trust]));
        until("another certificate", || client.get("/").status() == 503);
        let distrust = told_trust("trust", &other.pem());
        plane.answer(&plane.tell_secrets(&[told_certificate("mine", &authority.pair("client")), distrust]));
        outer.wait_for_stat("sds.trust.update_success", 3);
        until("distrust", || {
            assert_eq!(client.get("/").status(), 503);
            outer.stat("cluster.upstream.ssl.fail_verify_error") > 0
        });
        outer.end();
        inner.end();
    }

    /// Whose word counts on the names that requests ask for is told, too.
    fn names_of_requests_are_vouched_for_by_whom_is_told(io) {
        let (upstream, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[NAME]));
        let inner = Config::to(upstream.port).chain(&downstream_tls("", &authority.shown(NAME)));
        let inner = Proxy::start(io, &inner);
        let fields = format!(
            "{}, typed_extension_protocol_options: {{{OPTIONS}: {{\"@type\": type.googleapis.com/{OPTIONS}, \
             explicit_http_config: {{http_protocol_options: {{}}}}, \
             upstream_http_protocol_options: {{auto_sni: true, auto_san_validation: true}}}}}}",
            upstream_tls("", &trusted("trust", "0.2s"))
        );
        let clusters = format!("{}, {{{fields}, {}}}", plane.clusters(&[]), cluster_to("upstream", inner.port));
        let outer = Config { clusters: Some(clusters), ..Config::to(0) };
        let outer = Proxy::start(io, &outer.arguments(&["--config-yaml", &plane.bootstrap()]));
        let mut client = outer.connect();
        let mut get = |host: &str| client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(get(NAME).status(), 503, "nobody is trusted yet");
        plane.answer(&plane.tell_secrets(&[told_trust("trust", &authority.pem())]));
        until("an answer", || get(NAME).text() == "a");
        assert_eq!(get("other.example").status(), 503);
        assert_eq!(outer.stat("cluster.upstream.ssl.fail_verify_san"), 1);
        outer.end();
        inner.end();
    }

    /// Whom a listener trusts changes for new handshakes.
    fn clients_are_verified_by_what_is_told(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let (authority, other) = (Authority::of(&[NAME, "client"]), Authority::of(&[]));
        let common = format!("{}, {}", authority.shown(NAME), trusted("trust", "15s"));
        let socket = downstream_tls("require_client_certificate: true,", &common);
        let once = "common_http_protocol_options: {max_requests_per_connection: 1}";
        let inner = config(&plane, &upstream, &socket, "").manager(once);
        plane.tell_secrets(&[told_trust("trust", &authority.pem())]);
        let inner = Proxy::start(io, &inner);
        let common = format!("{}, {}", authority.shown("client"), authority.trusted());
        let outer = Proxy::start(io, &Config::to(inner.port).cluster(&upstream_tls("", &common)));
        let mut client = outer.connect();
        assert_eq!(client.get("/").text(), "a");
        plane.tell_secrets(&[told_trust("trust", &other.pem())]);
        until("distrust", || client.get("/").status() == 503);
        plane.tell_secrets(&[told_trust("trust", &authority.pem())]);
        until("trust", || client.get("/").text() == "a");
        outer.end();
        inner.end();
    }

    /// V1: without aggregated discovery, through a cluster of the bootstrap.
    fn secrets_have_a_stream_of_their_own(io) {
        let (upstream, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[]));
        let source = "{api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: \
                      [{envoy_grpc: {cluster_name: plane}}]}, resource_api_version: V3}";
        let common = format!("tls_certificate_sds_secret_configs: [{{name: own, sds_config: {source}}}]");
        let clusters = format!("{}, {{{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
        let config = Config { clusters: Some(clusters), ..Config::to(0) }.chain(&downstream_tls("", &common));
        let config = config.arguments(&["--config-yaml", "{node: {id: me, cluster: us}}"]);
        let certificate = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("own", &authority.pair(NAME))]);
        let proxy = Proxy::start(io, &config);
        assert_eq!(shown(proxy.port, &authority), Some(certificate));
        proxy.end();
    }

    /// K1, O5: listeners and their secrets, told together; a name that no listener has is not asked for.
    fn listener_waits_for_its_secret_and_takes_it_along(io) {
        let (a, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[]));
        plane.tell_clusters(&[("a", At(&[a.port]))]);
        plane.tell_routes(&[("/", "a")]);
        let config = Config { clusters: Some(plane.clusters(&[])), no_listener: true, ..Config::to(0) };
        let bootstrap = plane.bootstrap_with_listeners("15s");
        let config = config.arguments(&["--concurrency", "2", "--config-yaml", &bootstrap]);
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        let listeners = [("one", u32::from(proxy.port), "routes")];
        let socket = |name| told_socket("Downstream", Some(name), None);
        let nonce = plane.tell_secured_listeners(&listeners, &socket("own"));
        assert!(plane.answer(&nonce).error.is_none());
        plane.wait_for_secrets(&["own"]);
        assert!(Client::try_connect(proxy.port).is_err(), "nobody listens");
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_listeners").text();
        assert!(dump.contains("warming_state"), "{dump}");
        let first = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("own", &authority.pair(NAME))]);
        proxy.wait_for_log("serving");
        assert_eq!(shown(proxy.port, &authority), Some(first.clone()));
        // Another listener in its place waits for its own; the one before it serves.
        plane.tell_secured_listeners(&listeners, &socket("other"));
        plane.wait_for_secrets(&["other", "own"]);
        assert_eq!(shown(proxy.port, &authority), Some(first));
        let second = authority.issue(NAME);
        plane.tell_secrets(&[told_certificate("other", &authority.pair(NAME))]);
        until("the other certificate", || {
            let shown = shown(proxy.port, &authority);
            // Never is there a moment without one.
            assert!(shown.is_some());
            shown == Some(second.clone())
        });
        plane.wait_for_secrets(&["other"]);
        assert_eq!(listener_stat(&proxy, "downstream_context_secrets_not_ready"), 0);
        // One that has another port has its secret at once: it is known.
        let elsewhere = free_port();
        let listeners = [("one", u32::from(proxy.port), "routes"), ("two", elsewhere.into(), "routes")];
        plane.tell_secured_listeners(&listeners, &socket("other"));
        until("another listener", || Client::try_connect(elsewhere).is_ok());
        assert_eq!(shown(elsewhere, &authority), Some(second));
        plane.tell_listeners(&[]);
        plane.wait_for("no secrets", |asked| asked.type_url.ends_with(".Secret") && asked.names.is_empty());
        proxy.end();
    }

    /// O3: a cluster with its secrets, told together.
    fn cluster_waits_for_its_secrets(io) {
        let (upstream, plane, authority) = (named("a"), ControlPlane::start(), Authority::of(&[NAME]));
        let inner = Config::to(upstream.port).chain(&downstream_tls("", &authority.shown(NAME)));
        let inner = Proxy::start(io, &inner);
        let clusters = Config { clusters: Some(plane.clusters(&[])), ..Config::to(0) };
        let chain = crate::xds::manager("{ads: {}, resource_api_version: V3}");
        let bootstrap = plane.bootstrap_with_clusters("15s");
        plane.tell_routes(&[("/", "a")]);
        let config = clusters.chains(&[chain]).arguments(&["--concurrency", "2", "--config-yaml", &bootstrap]);
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        let socket = told_socket("Upstream", None, Some("trust"));
        plane.tell_clusters(&[("a", Secured(&[inner.port], &socket))]);
        plane.wait_for_secrets(&["trust"]);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200);
        plane.tell_secrets(&[told_trust("trust", &authority.pem())]);
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        // It changes while what it trusts does.
        let other = Authority::of(&[]);
        plane.tell_secrets(&[told_trust("trust", &other.pem())]);
        plane.tell_clusters(&[("a", Secured(&[inner.port, inner.port], &socket))]);
        until("distrust", || client.get("/").status() == 503);
        plane.tell_secrets(&[told_trust("trust", &authority.pem())]);
        until("trust", || client.get("/").text() == "a");
        plane.tell_clusters(&[("a", At(&[upstream.port]))]);
        plane.wait_for("no secrets", |asked| asked.type_url.ends_with(".Secret") && asked.names.is_empty());
        until("plain text", || client.get("/").text() == "a");
        proxy.end();
        inner.end();
    }

    /// The way to the control plane is protected by secrets of files.
    fn control_plane_is_reached_with_secrets_of_files(io) {
        let upstream = named("a");
        let (authority, folder) = (Authority::of(&[NAME, "client"]), TempFolder::new());
        let path = folder.path().join("sds.yaml");
        put_secret(&path, "mine", &authority.pair("client"));
        let source = format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", path.display());
        let common = format!(
            "tls_certificate_sds_secret_configs: [{{name: mine, sds_config: {source}}}], {}",
            authority.trusted()
        );
        let plane = ControlPlane::start_protected(authority.server(NAME), upstream_tls(&format!("sni: {NAME},"), &common));
        plane.tell("upstream", "127.0.0.1", &[upstream.port]);
        let config = Config { clusters: Some(plane.clusters(&["upstream"])), ..Config::to(0) };
        let proxy = Proxy::start(io, &config.arguments(&["--config-yaml", &plane.bootstrap()]));
        assert_eq!(proxy.connect().get("/").text(), "a");
        proxy.end();
    }
}

/// K5: secrets are not among what outlives the process.
#[test]
fn cache_of_resources_has_no_secret() {
    let (upstream, plane, authority, folder) =
        (named("a"), ControlPlane::start(), Authority::of(&[NAME]), TempFolder::new());
    let socket = downstream_tls("", &own("own", "15s"));
    let pair = authority.pair(NAME);
    plane.tell_secrets(&[told_certificate("own", &pair)]);
    plane.tell_clusters(&[("other", At(&[upstream.port]))]);
    let clusters = format!("{}, {{{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
    let config = Config { clusters: Some(clusters), ..Config::to(0) }.chain(&socket);
    let directory = folder.path().join("cache");
    let (bootstrap, path) = (plane.bootstrap_with_clusters("15s"), directory.display().to_string());
    let config = config.arguments(&["--config-yaml", &bootstrap, "--xds-cache", &path]);
    let proxy = Proxy::start(Io::Epoll, &config);
    assert!(shown(proxy.port, &authority).is_some());
    let kept = std::fs::read(directory.join("resources")).unwrap();
    let has = |text: &str| kept.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("other") && !has("PRIVATE KEY") && !has("BEGIN CERTIFICATE"));
    proxy.end();
}
