//! Upgrades and CONNECT: after the handshake bytes pass both ways until both sides have ended.

use crate::harness::{Config, Proxy, Random, Upstream, on_each_backend};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Switches, repeats everything it hears, says goodbye at the client's end.
fn repeater() -> Upstream {
    Upstream::start(|peer| {
        if peer.request_head().is_none() {
            return;
        }
        // The first words come with the head, as they may.
        peer.send(format!("{SWITCHED}hello"));
        while let Some(byte) = peer.read(1) {
            if peer.try_send(byte).is_err() {
                return;
            }
        }
        peer.send("goodbye");
    })
}

on_each_backend! {
    fn websocket_passes_bytes_both_ways_and_half_closes(io) {
        let upstream = repeater();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]"));
        let mut client = proxy.connect();
        // Bytes right behind the head belong to the tunnel.
        client.send(format!("{WEBSOCKET}early"));
        let response = client.head();
        assert_eq!((response.status(), response.header("upgrade")), (101, Some("websocket")));
        assert_eq!(client.read(10), b"helloearly");
        let bytes = Random::new(4).bytes(10_000);
        client.send(&bytes);
        assert!(client.read(bytes.len()) == bytes);
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_active"), 1);
        client.shutdown_write();
        assert_eq!(client.read_to_end(), b"goodbye");
        let seen = upstream.seen();
        assert_eq!(seen[0].request.header("upgrade"), Some("websocket"));
        assert_eq!(seen[0].request.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(seen[0].request.header("sec-websocket-key"), Some("x"));
        drop(client);
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_active"), 0);
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 1);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    fn upstreams_end_reaches_the_client_while_it_still_talks(io) {
        let (heard, has_heard) = std::sync::mpsc::channel();
        let upstream = Upstream::start(move |peer| {
            peer.request_head();
            peer.send(format!("{SWITCHED}all I have to say"));
            peer.shutdown_write();
            let _ = heard.send(peer.read(5));
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]"));
        let mut client = proxy.connect();
        client.send(WEBSOCKET);
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.read_to_end(), b"all I have to say");
        client.send("later");
        let heard = has_heard.recv_timeout(crate::harness::PATIENCE).unwrap();
        assert_eq!(heard.as_deref(), Some(&b"later"[..]));
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn upgrade_that_nothing_allows_is_answered_403(io) {
        let upstream = repeater();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.connect().ask(WEBSOCKET).status(), 403);
        assert_eq!(upstream.connections(), 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_ws_on_non_ws_route"), 1);
        proxy.end();
    }

    fn upgrade_that_the_upstream_declines_is_an_ordinary_response_and_the_last(io) {
        let upstream = Upstream::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_vec());
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]"));
        let mut client = proxy.connect();
        // What an eager client says in the protocol it asked for must not be read as a request.
        client.send(format!("{WEBSOCKET}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.text(), response.header("connection")), ("no".to_owned(), Some("close")));
        client.expect_closed();
        assert_eq!(upstream.seen().len(), 1);
        proxy.end();
    }

    fn connect_ends_here_and_tunnels_plain_bytes(io) {
        let upstream = Upstream::start(|peer| {
            let heard = peer.read(4).unwrap();
            assert_eq!(heard, b"ping");
            peer.send("pong");
            peer.sees_end();
            peer.send("end");
        });
        let routes = "{match: {connect_matcher: {}}, route: {cluster: upstream, upgrade_configs: \
            [{upgrade_type: CONNECT, connect_config: {}}]}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config.manager("upgrade_configs: [{upgrade_type: CONNECT}]"));
        let mut client = proxy.connect();
        client.send("CONNECT somewhere:443 HTTP/1.1\r\nHost: somewhere:443\r\n\r\nping");
        let response = client.head();
        assert_eq!((response.status(), response.header("content-length")), (200, None));
        assert_eq!(response.header("transfer-encoding"), None);
        assert_eq!(client.read(4), b"pong");
        client.shutdown_write();
        assert_eq!(client.read_to_end(), b"end");
        proxy.wait_until_idle();
        proxy.end();
    }

    fn connect_without_consent_is_refused(io) {
        let upstream = repeater();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        client.send("CONNECT somewhere:443 HTTP/1.1\r\nHost: somewhere:443\r\n\r\n");
        let status = client.response_to("GET").status();
        assert!(status == 403 || status == 404, "{status}");
        assert_eq!(upstream.connections(), 0);
        proxy.end();
    }
}
