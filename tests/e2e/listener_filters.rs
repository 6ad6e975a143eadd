//! Listener filters and the PROXY protocol over real sockets: who a request is said to come from, on both sides, and what
//! clients cost that say too little.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{
    Authority, Client, Config, PATIENCE, Peer, Proxy, TlsClient, Upstream, cluster_to, downstream_tls, ok,
    on_each_backend, upstream_tls,
};

const HEADER: &str = "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Fields of a listener with these filters.
fn filters(filters: &[(&str, &str, &str)]) -> String {
    let filter = |(name, message, more): &(&str, &str, &str)| {
        format!(
            "{{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}{more}}}}}"
        )
    };
    format!("listener_filters: [{}]", filters.iter().map(filter).collect::<Vec<_>>().join(", "))
}

fn proxy_protocol(more: &str) -> String {
    filters(&[("proxy_protocol", "ProxyProtocol", more)])
}

/// The transport socket that tells endpoints of clients.
fn upstream_proxy_protocol(config: &str, inner: &str) -> String {
    format!(
        "transport_socket: {{name: proxy, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {{{config}}}, {inner}}}}}"
    )
}

const RAW: &str = "transport_socket: {name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";

/// Reads a line that ends like those of HTTP.
fn line(peer: &mut Peer) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(peer.read(1)?);
    }
    Some(String::from_utf8(line).unwrap())
}

/// Reads a header of version 2.
fn header_2(peer: &mut Peer) -> Option<Vec<u8>> {
    let start = peer.read(16)?;
    let rest = peer.read(usize::from(start[14]) << 8 | usize::from(start[15]))?;
    Some([start, rest].concat())
}

/// Answers each request with the connection's header and number.
fn told() -> Upstream {
    Upstream::start(|peer| {
        let Some(header) = line(peer) else { return };
        while peer.request().is_some() {
            if peer.try_send(ok(format!("{} {header}", peer.connection).as_bytes())).is_err() {
                return;
            }
        }
    })
}

/// Answers each request with the connection's header of version 2.
fn told_2() -> Upstream {
    Upstream::start(|peer| {
        let Some(header) = header_2(peer) else { return };
        while peer.request().is_some() {
            if peer.try_send(ok(&header)).is_err() {
                return;
            }
        }
    })
}

/// A header of version 2.
fn version_2(body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &len, body].concat()
}

const ENDS: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 3, 0xe8, 7, 0xd0];

on_each_backend! {
    fn requests_come_from_whom_the_header_names(io) {
        let upstream = Upstream::answering(|request| {
            ok(request.header("x-forwarded-for").unwrap_or("-").as_bytes())
        });
        let config = Config::to(upstream.port).listener(&proxy_protocol("")).manager("use_remote_address: true");
        let proxy = Proxy::start(io, &config);
        let ask = |header: &[u8]| {
            let mut client = proxy.connect();
            client.send(header);
            // The header is the connection's, not the first request's.
            let first = client.get("/").text();
            assert_eq!(client.get("/").text(), first);
            first
        };
        assert_eq!(ask(HEADER.as_bytes()), "1.2.3.4");
        assert_eq!(ask(b"PROXY TCP6 1::2 3::4 1000 2000\r\n"), "1::2");
        assert_eq!(ask(&version_2(&ENDS)), "1.2.3.4");
        let own = ask(b"PROXY UNKNOWN\r\n");
        assert_ne!(own, "1.2.3.4");
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.expect_closed();
        assert_eq!(proxy.stat("downstream_cx_proxy_proto_error"), 1);
        assert_eq!(proxy.stat("proxy_proto.not_found_disallowed"), 1);
        assert_eq!(proxy.stat("proxy_proto.versions.v1.found"), 3);
        assert_eq!(proxy.stat("proxy_proto.versions.v2.found"), 1);
        proxy.end();
    }

    fn header_before_tls_and_hello_after_it_are_read_in_their_order(io) {
        let authority = Authority::of(&["a.example"]);
        let upstream = Upstream::answering(|request| {
            ok(request.header("x-forwarded-for").unwrap_or("-").as_bytes())
        });
        let config = Config::to(upstream.port)
            .listener(&filters(&[
                ("proxy_protocol", "ProxyProtocol", ", allow_requests_without_proxy_protocol: true"),
                ("tls_inspector", "TlsInspector", ""),
                ("http_inspector", "HttpInspector", ""),
            ]))
            .chain(&downstream_tls("", &authority.shown("a.example")))
            .manager("use_remote_address: true");
        let proxy = Proxy::start(io, &config);
        let direct = TlsClient::connect(proxy.ports().0, &authority, "a.example", &["http/1.1"])
            .ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(direct.status(), 200);
        let config = authority.client(&["http/1.1"], &[&rustls::version::TLS13]);
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.ports().0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session = rustls::ClientConnection::new(config, "a.example".try_into().unwrap()).unwrap();
        let mut first = HEADER.as_bytes().to_vec();
        session.write_tls(&mut first).unwrap();
        // Every byte on its own.
        socket.set_nodelay(true).unwrap();
        first.iter().for_each(|byte| socket.write_all(&[*byte]).unwrap());
        let mut stream = rustls::StreamOwned::new(session, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("1.2.3.4"), "{answer}");
        assert_eq!(proxy.stat("tls_inspector.tls_found"), 2);
        assert_eq!(proxy.stat("tls_inspector.sni_found"), 2);
        assert_eq!(proxy.stat("tls_inspector.alpn_found"), 2);
        assert_eq!(proxy.stat("http_inspector.http_not_found"), 0);
        proxy.end();
    }

    fn slow_clients_are_cut_off_in_time_and_cost_little(io) {
        const CLIENTS: usize = 400;
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port)
            .listener(&filters(&[("http_inspector", "HttpInspector", "")]))
            .listener("listener_filters_timeout: 4s");
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/a").text(), "GET /a\n");
        let before = proxy.resident_bytes();
        let begun = Instant::now();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        for round in 0..20 {
            for client in &mut clients {
                client.send(if round == 0 { "GET /" } else { "a" });
            }
        }
        let gauge = format!("listener.127.0.0.1_{}.downstream_pre_cx_active", proxy.ports().0);
        proxy.wait_for_stat(&gauge, CLIENTS as u64);
        let held = proxy.resident_bytes().saturating_sub(before) / CLIENTS as u64;
        assert!(held < 24 * 1024, "{held} bytes per client");
        // A bystander does not wait for them.
        assert_eq!(proxy.connect().get("/b").text(), "GET /b\n");
        for client in &mut clients {
            client.expect_closed();
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(12), "{took:?}");
        let cut = format!("listener.127.0.0.1_{}.downstream_pre_cx_timeout", proxy.ports().0);
        assert_eq!((proxy.stat(&cut), proxy.stat(&gauge)), (CLIENTS as u64, 0));
        proxy.end();
    }

    fn lines_without_end_and_hellos_too_large_are_closed(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port).listener(&filters(&[
            ("tls_inspector", "TlsInspector", ", max_client_hello_size: 300"),
            ("http_inspector", "HttpInspector", ""),
        ]));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        // The beginning of a hello of 512 bytes.
        client.send([&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 400]].concat());
        client.expect_closed();
        assert_eq!(proxy.stat("tls_inspector.client_hello_too_large"), 1);
        let mut client = proxy.connect();
        let _ = client.try_send([&b"GET /"[..], &[b'a'; 70_000]].concat());
        client.expect_closed();
        assert_eq!(proxy.stat("http_inspector.read_error"), 1);
        proxy.end();
    }

    fn draining_ends_connections_that_filters_wait_for(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port).listener(&proxy_protocol("")));
        let mut client = proxy.connect();
        client.send("PROXY ");
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_pre_cx_active", proxy.ports().0), 1);
        proxy.signal(libc::SIGTERM);
        client.expect_closed();
        proxy.end();
    }

    fn endpoints_are_told_of_each_client_on_connections_of_its_own(io) {
        let upstream = told();
        let cluster = upstream_proxy_protocol("version: V1", RAW);
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(&cluster));
        let ask = |client: &mut Client| {
            let own = client.stream().local_addr().unwrap().port();
            let text = client.get("/").text();
            let (connection, header) = text.split_once(' ').unwrap();
            let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {}\r\n", proxy.ports().0);
            assert_eq!(header, expected);
            connection.to_owned()
        };
        let (mut one, mut other) = (proxy.connect(), proxy.connect());
        let (first, second) = (ask(&mut one), ask(&mut other));
        assert_ne!(first, second);
        // A client's connection is used again for its next request.
        assert_eq!([ask(&mut one), ask(&mut other), ask(&mut one)], [first.clone(), second, first]);
        proxy.end();
    }

    fn clients_headers_and_their_tlvs_are_passed_on(io) {
        let upstream = told_2();
        let passed = ", pass_through_tlvs: {match_type: INCLUDE, tlv_type: [234, 5]}";
        let cluster = upstream_proxy_protocol(
            "version: V2, pass_through_tlvs: {}, added_tlvs: [{type: 5, value: b3du}]",
            RAW,
        );
        let config = Config::to(upstream.port).listener(&proxy_protocol(passed)).cluster(&cluster);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let tlvs = [&[234, 0, 2][..], b"ab", &[5, 0, 1], b"x", &[2, 0, 1], b"h"].concat();
        client.send(version_2(&[&ENDS[..], &tlvs].concat()));
        let expected = [&ENDS[..], &[5, 0, 3], b"own", &[234, 0, 2], b"ab"].concat();
        assert_eq!(client.get("/").body, version_2(&expected));
        proxy.end();
    }

    /// They were kept, and read by nobody.
    fn tlvs_are_metadata_for_the_records_of_a_connection_and_for_who_may_pass(io) {
        let upstream = Upstream::echo_bytes();
        let namespace = "envoy.filters.listener.proxy_protocol";
        let asked = format!("{{metadata: {{filter: {namespace}, path: [{{key: vpc}}], value: {{string_match: {{exact: ab}}}}}}}}");
        let rules = format!("{{policies: {{these: {{permissions: [{{any: true}}], principals: [{asked}]}}}}}}");
        let filter = |name: &str, message: &str, fields: &str| format!(
            "{{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.{name}.v3.{message}, {fields}}}}}"
        );
        let rbac = filter("rbac", "RBAC", &format!("stat_prefix: who, rules: {rules}"));
        let relay = filter("tcp_proxy", "TcpProxy", "stat_prefix: relay, cluster: upstream");
        let log = crate::tcp::LOGS_ENDS.replace("RESPONSE_FLAGS", &format!("DYNAMIC_METADATA({namespace}:vpc)"));
        let config = Config::to(upstream.port)
            .listener(&proxy_protocol(", rules: [{tlv_type: 234, on_tlv_present: {key: vpc}}]"))
            .listener(&log)
            .chains(&[format!("{{filters: [{rbac}, {relay}]}}")]);
        let proxy = Proxy::start(io, &config);
        for (value, passes) in [("ab", true), ("cd", false)] {
            let mut client = proxy.connect();
            client.send(version_2(&[&ENDS[..], &[234, 0, 2], value.as_bytes()].concat()));
            client.send("x");
            let mut said = [0];
            assert_eq!(matches!(client.stream().read(&mut said), Ok(1)), passes, "{value}");
            drop(client);
            proxy.wait_for_log(&format!("ended <{value}>"));
        }
        proxy.wait_for_stat("who.rbac.allowed", 1);
        proxy.wait_for_stat("who.rbac.denied", 1);
        proxy.end();
    }

    fn tlvs_that_are_filter_state_are_known_to_requests_and_records(io) {
        let upstream = Upstream::answering(|request| ok(request.header("x-vpc").unwrap_or("-").as_bytes()));
        let rules = ", tlv_location: FILTER_STATE, rules: [{tlv_type: 234, on_tlv_present: {key: vpc}}]";
        let field = "%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:vpc)%";
        let mut config = Config::to(upstream.port)
            .listener(&proxy_protocol(rules))
            .listener(&crate::tcp::LOGS_ENDS.replace("%RESPONSE_FLAGS%", field));
        config.routes = Some(format!(
            "{{match: {{prefix: /}}, request_headers_to_add: [{{header: {{key: x-vpc, value: \"{field}\"}}}}], route: {{cluster: upstream}}}}"
        ));
        let proxy = Proxy::start(io, &config);
        for (tlvs, told) in [(&[234, 0, 2, b'a', b'b'][..], "ab"), (&[][..], "-")] {
            let mut client = proxy.connect();
            client.send(version_2(&[&ENDS[..], tlvs].concat()));
            for _ in 0..2 {
                assert_eq!(client.get("/").text(), told);
            }
            drop(client);
            proxy.wait_for_log(&format!("ended <{told}>"));
        }
        proxy.end();
    }

    fn endpoints_have_tlvs_of_their_own_in_place_of_their_transport_sockets(io) {
        let upstream = told_2();
        let metadata = "metadata: {typed_filter_metadata: {envoy.transport_sockets.proxy_protocol: {\"@type\": \
             type.googleapis.com/envoy.config.core.v3.PerHostConfig, added_tlvs: [{type: 5, value: aG9zdA==}, \
             {type: 8, value: aG9zdA==}]}}}";
        let cluster = cluster_to("upstream", upstream.port);
        let cluster = cluster.replace("{endpoint:", &format!("{{{metadata}, endpoint:"));
        let socket = upstream_proxy_protocol(
            "version: V2, pass_through_tlvs: {}, added_tlvs: [{type: 5, value: b3du}, {type: 9, value: b3du}]",
            RAW,
        );
        let clusters = Some(format!("{{{cluster}, {socket}}}"));
        let config = Config { clusters, ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config.listener(&proxy_protocol(", pass_through_tlvs: {}")));
        let mut client = proxy.connect();
        let theirs = [&[8, 0, 1][..], b"x", &[9, 0, 1], b"y", &[7, 0, 1], b"z"].concat();
        client.send(version_2(&[&ENDS[..], &theirs].concat()));
        let ours = [&[5, 0, 4][..], b"host", &[8, 0, 4], b"host", &[9, 0, 3], b"own", &[7, 0, 1], b"z"].concat();
        assert_eq!(client.get("/").body, version_2(&[&ENDS[..], &ours].concat()));
        drop(client);
        proxy.end();
    }

    fn endpoints_are_told_of_nobody_where_the_manager_says_so(io) {
        let config = |port: u16, version: &str| {
            Config::to(port)
                .listener(&proxy_protocol(", allow_requests_without_proxy_protocol: true"))
                .manager("add_proxy_protocol_connection_state: false")
                .cluster(&upstream_proxy_protocol(version, RAW))
        };
        let upstream = told();
        let proxy = Proxy::start(io, &config(upstream.port, "version: V1"));
        // All clients share a connection, which names its own ends.
        let texts = [(); 2].map(|()| proxy.connect().get("/").text());
        assert_eq!(texts[0], texts[1]);
        let (_, header) = texts[0].split_once(' ').unwrap();
        assert!(header.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{header}");
        assert!(header.ends_with(&format!(" {}\r\n", upstream.port)), "{header}");
        // Who has brought a header is told of.
        let mut client = proxy.connect();
        client.send(HEADER);
        assert!(client.get("/").text().ends_with(&format!(" {HEADER}")));
        drop(client);
        proxy.end();

        let upstream = told_2();
        let proxy = Proxy::start(io, &config(upstream.port, "version: V2, added_tlvs: [{type: 5, value: b3du}]"));
        assert_eq!(proxy.connect().get("/").body, [SIGNATURE, &[0x20, 0, 0, 0]].concat());
        proxy.end();
    }

    fn relays_tell_tlvs_of_their_own_as_their_policy_says(io) {
        let upstream = Upstream::start(|peer| {
            let Some(header) = header_2(peer) else { return };
            peer.send(&header);
            while peer.read(1).is_some() {}
        });
        let cluster = upstream_proxy_protocol(
            "version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [234, 5, 6]}",
            RAW,
        );
        let theirs = [&[234, 0, 2][..], b"ab", &[5, 0, 1], b"x"].concat();
        let ours = |address: &[u8]| [&[5, 0, 3][..], b"own", &[6, 0, address.len() as u8], address].concat();
        for (policy, expected) in [
            ("ADD_IF_ABSENT", theirs.clone()),
            ("OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD", [&ours(b"1.2.3.4")[..], &theirs[..5]].concat()),
            ("APPEND_IF_EXISTS_OR_ADD", [&theirs[..], &ours(b"1.2.3.4")].concat()),
        ] {
            let relay = format!(
                "{{filters: [{{name: relay, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
                 stat_prefix: relay, cluster: upstream, proxy_protocol_tlv_merge_policy: {policy}, proxy_protocol_tlvs: [\
                 {{type: 6, format_string: {{text_format_source: {{inline_string: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}}}}}}, \
                 {{type: 5, value: b3du}}, {{type: 7, value: b3du}}]}}}}]}}"
            );
            let filter = proxy_protocol(", allow_requests_without_proxy_protocol: true, pass_through_tlvs: {}");
            let config = Config::to(upstream.port).listener(&filter).cluster(&cluster).chains(&[relay]);
            let proxy = Proxy::start(io, &config);
            let mut named = proxy.connect();
            named.send(version_2(&[&ENDS[..], &theirs].concat()));
            let expected = version_2(&[&ENDS[..], &expected].concat());
            assert_eq!(named.read(expected.len()), expected, "{policy}");
            let mut bare = proxy.connect();
            bare.send("x");
            let expected = ours(b"127.0.0.1");
            let header = bare.read(16 + ENDS.len() + expected.len());
            assert_eq!(header[16 + ENDS.len()..], expected, "{policy}: there is no header");
            drop((named, bare));
            proxy.end();
        }
    }

    fn header_comes_before_the_handshake_with_an_endpoint(io) {
        let authority = Authority::of(&["up.example"]);
        let (tell, seen) = mpsc::channel();
        let upstream = Upstream::start(move |peer| {
            let _ = tell.send((line(peer), peer.read(1)));
        });
        let tls = upstream_tls("sni: up.example,", &authority.trusted());
        let proxy =
            Proxy::start(io, &Config::to(upstream.port).cluster(&upstream_proxy_protocol("", &tls)));
        let client = std::thread::spawn({
            let mut client = proxy.connect();
            move || client.get("/").status()
        });
        let (header, record) = seen.recv_timeout(PATIENCE).unwrap();
        assert!(header.is_some_and(|header| header.starts_with("PROXY TCP4 127.0.0.1 ")));
        assert_eq!(record, Some(vec![22]), "a hello follows");
        assert_eq!(client.join().unwrap(), 503);
        proxy.end();
    }
}
