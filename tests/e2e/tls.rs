//! TLS on either side: every byte, who is trusted, who is told what, and connections that never become ones.

use std::io::Read;
use std::net::TcpStream;

use http::Request;

use crate::harness::{
    Authority, Config, Http2Client, Io, Proxy, TLS_INSPECTOR, TlsClient, Upstream, downstream_tls,
    on_each_backend, pattern, until, upstream_tls,
};
use crate::tcp::filter;

const NAME: &str = "server.example";
const ALPN: &str = "alpn_protocols: [h2, http/1.1]";
const TO_HTTP2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                        {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                        explicit_http_config: {http2_protocol_options: {}}}}";

/// Access logs are written at once.
const FLUSH: [&str; 2] = ["--file-flush-interval-msec", "10"];

/// Serves under TLS, and forwards in plain text.
fn protected(io: Io, upstream: &Upstream, authority: &Authority) -> Proxy {
    let common = format!("{ALPN}, {}", authority.shown(NAME));
    Proxy::start(io, &Config::to(upstream.port).chain(&downstream_tls("", &common)))
}

/// Serves in plain text, and forwards under TLS.
fn protecting(port: u16, common: &str) -> Config {
    Config::to(port).cluster(&upstream_tls(&format!("sni: {NAME},"), common))
}

/// An access log on standard error.
fn log(format: &str) -> String {
    format!(
        "access_log: [{{name: log, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
         {{text_format_source: {{inline_string: \"{format}\\n\"}}}}}}}}]"
    )
}

fn post(body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// The body comes back.
fn mirror() -> Upstream {
    Upstream::answering(|request| crate::harness::ok(&request.body))
}

on_each_backend! {
    fn http1_is_served_under_tls_and_ends_in_order(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let proxy = protected(io, &upstream, &authority);
        for alpn in [&["http/1.1"][..], &[]] {
            let mut client = TlsClient::connect(proxy.port, &authority, NAME, alpn);
            for bytes in [0, 1, 20_000, 8 << 20] {
                let body = pattern(bytes);
                let response = client.ask(post(&body));
                assert!(response.status() == 200 && response.body == body, "{bytes} bytes");
            }
            let last = client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert_eq!(last.status(), 200);
            assert!(client.read_to_end().is_empty());
        }
        let seen = upstream.seen().pop().unwrap().request;
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(proxy.stat("http.test.downstream_cx_http1_total"), 2);
        let name = format!("listener.127.0.0.1_{}.ssl", proxy.port);
        assert_eq!(proxy.stat(&format!("{name}.handshake")), 2);
        assert_eq!(proxy.stat(&format!("{name}.no_certificate")), 2);
        proxy.end();
    }

    fn big_bodies_are_exact_through_tls_on_both_sides(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let inner = protected(io, &upstream, &authority);
        for http2 in [false, true] {
            let mut config = protecting(inner.port, &authority.trusted());
            if http2 {
                config = config.cluster(TO_HTTP2);
            }
            let outer = Proxy::start(io, &config);
            let mut client = outer.connect();
            for bytes in [0, 1, 16_384, 8 << 20] {
                let body = pattern(bytes);
                client.send(post(&body));
                let response = client.response_to("POST");
                assert!(response.status() == 200 && response.body == body, "{bytes} bytes");
            }
            let client2 = Http2Client::connect(outer.port);
            let body = pattern(8 << 20);
            let answer = client2.send(Request::post("http://a/"), &body, None);
            assert!(answer.status == 200 && answer.body == body, "{} bytes came", answer.body.len());
            let handshakes = outer.stat("cluster.upstream.ssl.handshake");
            assert_eq!(handshakes, 1, "connections are kept, whatever tickets come on them");
            drop((client, client2));
            outer.end();
        }
        assert!(inner.stat("http.test.downstream_cx_http2_total") > 0);
        assert!(inner.stat("http.test.downstream_cx_http1_total") > 0);
        inner.end();
    }

    fn endpoint_that_is_not_trusted_is_refused(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME, "other.example"]));
        let inner = protected(io, &upstream, &authority);
        let stranger = Authority::of(&[]);
        let wrong_name = authority.trusted().replace(
            "}}",
            "}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: other.example}}]}",
        );
        let log = log("why=%RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%");
        for (common, counter, words) in [
            (stranger.trusted(), "fail_verify_error", "certificate_verify_failed"),
            (wrong_name, "fail_verify_san", "no_expected_subject_alternative_name"),
        ] {
            for http2 in [false, true] {
                let mut config = protecting(inner.port, &common).manager(&log)
                    .arguments(&FLUSH);
                if http2 {
                    config = config.cluster(TO_HTTP2);
                }
                let outer = Proxy::start(io, &config);
                let mut client = outer.connect();
                assert_eq!(client.get("/").status(), 503);
                assert_eq!(outer.stat(&format!("cluster.upstream.ssl.{counter}")), 1);
                assert_eq!(outer.stat("cluster.upstream.upstream_cx_connect_fail"), 1);
                outer.wait_for_log("why=UF");
                outer.wait_for_log(words);
                drop(client);
                outer.end();
            }
        }
        assert!(upstream.seen().is_empty());
        // Each was told by an alert, in time to be read.
        let told = format!("listener.127.0.0.1_{}.ssl.connection_error", inner.port);
        until("told", || inner.stat(&told) == 4);
        inner.end();
    }

    fn client_has_to_show_a_certificate_and_is_named(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME, "client.example"]));
        let common = format!("{ALPN}, {}, {}", authority.shown(NAME), authority.trusted());
        let config = Config::to(upstream.port)
            .chain(&downstream_tls("require_client_certificate: true,", &common))
            .manager("forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {dns: true}")
            .manager(&log(
                "%DOWNSTREAM_TLS_VERSION% %REQUESTED_SERVER_NAME% from=%DOWNSTREAM_PEER_DNS_SAN% to=%DOWNSTREAM_LOCAL_DNS_SAN% \
                 until=%DOWNSTREAM_PEER_CERT_V_END(%Y)% all=%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256%/%DOWNSTREAM_PEER_FINGERPRINT_256% \
                 %DOWNSTREAM_PEER_CERT%",
            ))
            .listener(TLS_INSPECTOR)
            .arguments(&FLUSH);
        let inner = Proxy::start(io, &config);
        let own = format!("{}, {}", authority.shown("client.example"), authority.trusted());
        let upstream_log = log(
            "%UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% of=%UPSTREAM_PEER_DNS_SAN% by=%UPSTREAM_PEER_ISSUER% \
             from=%UPSTREAM_PEER_CERT_V_START(%Y)% %UPSTREAM_PEER_CERT%",
        );
        let outer = Proxy::start(io, &protecting(inner.port, &own).manager(&upstream_log).arguments(&FLUSH));
        let mut client = outer.connect();
        assert_eq!(client.get("/").status(), 200);
        outer.wait_for_log("TLSv1.2 ECDHE-ECDSA-AES");
        outer.wait_for_log(&format!("of={NAME} by=CN=rcgen self signed cert from=1975 -----BEGIN%20CERTIFICATE-----"));
        let seen = upstream.seen().pop().unwrap().request;
        let told = seen.header("x-forwarded-client-cert").unwrap();
        assert!(told.contains("Hash=") && told.contains("DNS=client.example"), "{told}");
        inner.wait_for_log(&format!("TLSv1.2 {NAME} from=client.example to={NAME} until=4096 all="));
        inner.wait_for_log("-----BEGIN%20CERTIFICATE-----");
        drop(client);
        outer.end();

        let nameless = Proxy::start(io, &protecting(inner.port, &authority.trusted()));
        let mut client = nameless.connect();
        assert_eq!(client.get("/").status(), 503);
        let counter = format!("listener.127.0.0.1_{}.ssl.fail_verify_no_cert", inner.port);
        until("counted", || inner.stat(&counter) == 1);
        drop(client);
        nameless.end();
        inner.end();
    }

    /// They were not: who accepts everybody at first, to see whom it would refuse, saw nobody.
    fn certificates_that_are_accepted_all_the_same_are_counted(io) {
        let (upstream, authority, stranger) =
            (mirror(), Authority::of(&[NAME]), Authority::of(&["stranger.example"]));
        let accepting = |authority: &Authority| {
            authority.trusted().replace("}}", "}, trust_chain_verification: ACCEPT_UNTRUSTED}")
        };
        let common = format!("{ALPN}, {}, {}", authority.shown(NAME), accepting(&authority));
        let inner = Config::to(upstream.port).chain(&downstream_tls("require_client_certificate: true,", &common));
        let inner = Proxy::start(io, &inner);
        let own = format!("{}, {}", stranger.shown("stranger.example"), accepting(&stranger));
        let outer = Proxy::start(io, &protecting(inner.port, &own));
        let mut client = outer.connect();
        assert_eq!(client.get("/").status(), 200);
        let listener = format!("listener.127.0.0.1_{}.ssl", inner.port);
        for (proxy, scope) in [(&inner, &*listener), (&outer, "cluster.upstream.ssl")] {
            for name in ["handshake", "fail_verify_error"] {
                assert_eq!(proxy.stat(&format!("{scope}.{name}")), 1, "{scope}.{name}");
            }
        }
        drop(client);
        outer.end();
        inner.end();
    }

    /// As in Envoy; of HTTP it was taken from the handshake.
    fn name_that_is_asked_for_is_known_where_a_listener_filter_looks_for_it(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        for (filters, shown) in [("", "-"), (TLS_INSPECTOR, NAME)] {
            let config = Config::to(upstream.port)
                .chain(&downstream_tls("", &authority.shown(NAME)))
                .manager(&log("%DOWNSTREAM_TLS_VERSION% sni=<%REQUESTED_SERVER_NAME%>"));
            let config = if filters.is_empty() { config } else { config.listener(filters) };
            let proxy = Proxy::start(io, &config.arguments(&FLUSH));
            let mut client = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
            assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
            proxy.wait_for_log(&format!("TLSv1.3 sni=<{shown}>"));
            drop(client);
            proxy.end();
        }
    }

    fn handshake_that_does_not_come_is_cut(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let chain = format!(
            "transport_socket_connect_timeout: 1s\n      {}",
            downstream_tls("", &authority.shown(NAME))
        );
        let proxy = Proxy::start(io, &Config::to(upstream.port).chain(&chain));
        let mut silent = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        silent.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
        let listener = format!("listener.127.0.0.1_{}", proxy.port);
        assert_eq!(proxy.stat(&format!("{listener}.downstream_cx_transport_socket_connect_timeout")), 1);
        // What is no TLS is told so, and ends at once.
        let mut plain = proxy.connect();
        plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        plain.read_to_end();
        until("counted", || proxy.stat(&format!("{listener}.ssl.connection_error")) == 1);
        until("closed", || proxy.stat(&format!("{listener}.downstream_cx_active")) == 0);
        drop(plain);
        proxy.end();
    }

    fn handshakes_that_fail_are_recorded_with_the_reason(io) {
        let (upstream, authority, stranger) =
            (mirror(), Authority::of(&[NAME]), Authority::of(&["stranger.example"]));
        let tls = format!(
            "transport_socket_connect_timeout: 1s\n      {}",
            downstream_tls(
                "require_client_certificate: true,",
                &format!("{}, {}", authority.shown(NAME), authority.trusted()),
            )
        );
        let log = log("why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% of=%CONNECTION_TERMINATION_DETAILS% \
             by=%DOWNSTREAM_LOCAL_CLOSE_REASON% sni=%REQUESTED_SERVER_NAME%");
        let http = Config::to(upstream.port).chain(&tls);
        let tcp = Config::to(upstream.port).chains(&[format!(
            "{{{} , filters: [{{name: tcp, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, \
             cluster: upstream}}}}]}}",
            tls.replacen('\n', ",", 1)
        )]);
        let echo = Config::to(upstream.port).chains(&[format!(
            "{{{} , filters: [{{name: echo, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}}}]}}",
            tls.replacen('\n', ",", 1)
        )]);
        for config in [http, tcp, echo] {
            let proxy = Proxy::start(io, &config.listener(&log).arguments(&FLUSH));
            let stat = |name: &str| proxy.stat(&format!("listener.127.0.0.1_{}.ssl.{name}", proxy.port));
            let mut plain = proxy.connect();
            plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            plain.read_to_end();
            proxy.wait_for_log("why=TLS_error:_the_peer_does_not_speak_TLS of=- by=-");
            // It does not trust us.
            TlsClient::connect(proxy.port, &stranger, NAME, &[]).try_send(b"x").unwrap_err();
            proxy.wait_for_log("why=TLS_error:_the_peer_refused_");
            assert_eq!(stat("connection_error"), 2);
            let outer = |common: &str| {
                let outer = Proxy::start(io, &protecting(proxy.port, common));
                assert_eq!(outer.connect().get("/").status(), 503);
                outer.end();
            };
            outer(&authority.trusted());
            proxy.wait_for_log("why=TLS_error:_no_certificate_shown of=-");
            assert_eq!(stat("fail_verify_no_cert"), 1);
            outer(&format!("{}, {}", authority.trusted(), stranger.shown("stranger.example")));
            proxy.wait_for_log("why=TLS_error:_certificate_verify_failed");
            assert_eq!(stat("fail_verify_error"), 1);
            let mut silent = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
            silent.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
            assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
            proxy.wait_for_log(
                "why=connect_timeout of=transport socket timeout was reached by=transport_socket_timeout",
            );
            assert_eq!(proxy.count_in_log("why=TLS_error"), 4);
            proxy.end();
        }
        assert!(upstream.seen().is_empty());
    }

    fn session_that_breaks_after_its_handshake_is_counted(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let tls = downstream_tls("", &authority.shown(NAME));
        let http = Config::to(upstream.port).chain(&tls);
        let tcp = Config::to(upstream.port).chains(&[format!(
            "{{{tls}, filters: [{{name: tcp, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, \
             cluster: upstream}}}}]}}"
        )]);
        let echo = Config::to(1).chains(&[format!("{{{tls}, filters: [{}]}}", filter("echo", "Echo", ""))]);
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (config, is_echo) in [(http, false), (tcp, false), (echo, true)] {
            let proxy = Proxy::start(io, &config);
            let mut client = TlsClient::connect(proxy.port, &authority, NAME, &[]);
            if is_echo {
                client.try_send(request.as_bytes()).unwrap();
                assert_eq!(client.read(request.len()), request.as_bytes());
            } else {
                assert_eq!(client.ask(request).status(), 200);
            }
            // A record under no key that there is.
            client.send_beside(&[&[23, 3, 3, 0, 32][..], &[0; 32]].concat());
            proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.ssl.connection_error", proxy.port), 1);
            drop(client);
            proxy.end();
        }
    }

    /// In TLS 1.3 it says so when our handshake is over.
    fn endpoint_that_misses_our_certificate_is_counted(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let common = format!("{ALPN}, {}, {}", authority.shown(NAME), authority.trusted());
        let inner = Config::to(upstream.port).chain(&downstream_tls("require_client_certificate: true,", &common));
        let inner = Proxy::start(io, &inner);
        let common = format!("tls_params: {{tls_maximum_protocol_version: TLSv1_3}}, {}", authority.trusted());
        for http2 in [false, true] {
            let config = protecting(inner.port, &common);
            let outer = Proxy::start(io, &if http2 { config.cluster(TO_HTTP2) } else { config });
            let mut client = outer.connect();
            assert_eq!(client.get("/").status(), 503);
            until("counted", || outer.stat("cluster.upstream.ssl.connection_error") > 0);
            assert_eq!(outer.stat("cluster.upstream.ssl.fail_verify_error"), 0);
            drop(client);
            outer.end();
        }
        inner.end();
    }

    fn request_that_is_cut_off_is_not_taken_for_whole(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let proxy = protected(io, &upstream, &authority);
        let mut client = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
        client.try_send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        let seen = upstream.wait_for_requests(1).pop().unwrap().request;
        assert!(!seen.complete);
        // Without a close_notify.
        drop(client);
        until("noticed", || proxy.stat("http.test.downstream_cx_active") == 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 1);
        proxy.end();
    }
}
