//! Upgrades and CONNECT: after the handshake bytes pass both ways until both sides have ended.

use std::io::Write;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use h2::ext::Protocol;
use http::Request;

use crate::harness::{
    Config, Http2Client, Http2Upstream, PATIENCE, Proxy, Random, RawHttp2, TO_HTTP2, Upstream, ok,
    on_each_backend,
};

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

/// The answer to a key, by RFC 6455 section 4.2.2.
fn answer_to(key: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let mut text = String::new();
    for group in digest.as_ref().chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        let digits = [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift & 63) as usize]));
        text.extend(&digits[..=group.len()]);
    }
    // Twenty bytes leave two.
    text + "="
}

/// A WebSocket over HTTP/2.
fn chat(path: &str) -> http::request::Builder {
    let request = Request::connect(format!("http://a{path}")).header("sec-websocket-version", "13");
    request.extension(Protocol::from_static("websocket"))
}

on_each_backend! {
    /// RFC 8441 in front, RFC 6455 behind: the proxy is the client that has a key and insists on its answer.
    fn websocket_of_http2_has_a_key_towards_http1(io) {
        let upstream = Upstream::start(|peer| {
            let Some(request) = peer.request_head() else { return };
            let Some(key) = request.header("sec-websocket-key") else {
                return peer.send(ok(b"plain"));
            };
            let answer = if request.path() == "/wrong" { "wrong".to_owned() } else { answer_to(key) };
            peer.send(SWITCHED.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Accept: {answer}\r\n\r\nhello")));
            while let Some(byte) = peer.read(1) {
                if peer.try_send(byte).is_err() {
                    return;
                }
            }
        });
        let config = Config::to(upstream.port)
            .manager("upgrade_configs: [{upgrade_type: websocket}]")
            .manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let client = Http2Client::connect(proxy.port);
        // The peer's SETTINGS allow it; they come with the first answer.
        assert_eq!(client.get("/").body, b"plain");
        let answer = client.send(chat("/chat"), b"bytes", None);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hellobytes"[..]));
        assert_eq!(answer.headers.get("sec-websocket-accept"), None);
        let seen = upstream.seen().pop().unwrap().request;
        assert_eq!(seen.header("sec-websocket-key").map(str::len), Some(24));
        let refused = client.send(chat("/wrong"), b"", None);
        assert_eq!(refused.status, 502);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_protocol_error"), 1);
        drop(client);
        proxy.end();
    }

    /// To a client of HTTP/2 any success would be its tunnel.
    fn upgrade_of_http2_that_http1_declines_is_no_success(io) {
        let upstream = Upstream::answering(|request| match request.path() {
            "/missing" => b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".to_vec(),
            _ => ok(b"page"),
        });
        let config = Config::to(upstream.port)
            .manager("upgrade_configs: [{upgrade_type: websocket}]")
            .manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let client = Http2Client::connect(proxy.port);
        assert_eq!(client.get("/").body, b"page");
        assert_eq!(client.send(chat("/page"), b"", None).status, 502);
        let missing = client.send(chat("/missing"), b"", None);
        assert_eq!((missing.status, missing.body.as_slice()), (404, &b"no"[..]));
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 0);
        drop(client);
        proxy.end();
    }

    fn upgrade_that_is_to_be_ignored_is_one_of_http1(io) {
        let upstream = Upstream::start(|peer| {
            let Some(request) = peer.request_head() else { return };
            if request.header("upgrade").is_none() {
                return peer.send(ok(b"plain"));
            }
            let answer = answer_to(request.header("sec-websocket-key").unwrap());
            peer.send(SWITCHED.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Accept: {answer}\r\n\r\nhello")));
        });
        let config = Config::to(upstream.port)
            .manager("upgrade_configs: [{upgrade_type: websocket}]")
            .manager("http2_protocol_options: {allow_connect: true}")
            .manager("http_protocol_options: {ignore_http_11_upgrade: [{exact: websocket}]}");
        let proxy = Proxy::start(io, &config);
        let answer = proxy.connect().ask(WEBSOCKET);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "plain"));
        let client = Http2Client::connect(proxy.port);
        assert_eq!(client.get("/").body, b"plain");
        let answer = client.send(chat("/chat"), b"", None);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
        drop(client);
        proxy.end();
    }

    /// The other way: the proxy answers the key that HTTP/2 behind does not know.
    fn websocket_of_http1_has_its_key_answered_for_http2(io) {
        let upstream = Http2Upstream::start(100);
        let config = Config::to(upstream.port).cluster(TO_HTTP2).manager("upgrade_configs: [{upgrade_type: websocket}]");
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/early").status(), 200);
        let mut client = proxy.connect();
        client.send(WEBSOCKET.replace("Key: x", "Key: dGhlIHNhbXBsZSBub25jZQ==").replace("/chat", "/early"));
        let response = client.head();
        assert_eq!((response.status(), response.header("upgrade")), (101, Some("websocket")));
        assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        proxy.end();
    }

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

    /// More than the sockets between hold, to an endpoint that has ended its own direction and reads late.
    fn last_bytes_of_the_client_arrive_however_late_they_are_read(io) {
        let (heard, has_heard) = std::sync::mpsc::channel();
        let upstream = Upstream::start(move |peer| {
            peer.keeps_little();
            peer.request_head();
            peer.send(SWITCHED);
            peer.shutdown_write();
            let mut bytes = Vec::new();
            // Not byte by byte: with each the harness moves all that it has read ahead.
            while let Some(few) = peer.read(16) {
                bytes.extend(few);
            }
            let _ = heard.send(bytes);
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]"));
        let mut client = proxy.connect();
        client.send(WEBSOCKET);
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.read_to_end(), b"");
        let bytes = Random::new(6).bytes(5 << 20);
        client.send(&bytes);
        client.shutdown_write();
        let all = has_heard.recv_timeout(PATIENCE).unwrap();
        assert!(all == bytes, "{} of {} bytes", all.len(), bytes.len());
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    /// Of more than the sockets between hold some lies in a pipe then.
    fn body_that_is_under_way_when_its_tunnel_begins_arrives_whole(io) {
        const BYTES: usize = 8 << 20;
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        let may_go = std::sync::Mutex::new(may_go);
        let (heard, has_heard) = std::sync::mpsc::channel();
        let upstream = Upstream::start(move |peer| {
            peer.keeps_little();
            peer.request_head();
            let _ = may_go.lock().unwrap().recv();
            peer.send(SWITCHED);
            let _ = heard.send(peer.read(BYTES));
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]"));
        let mut client = proxy.connect();
        let mut writer = client.stream().try_clone().unwrap();
        let bytes = Random::new(7).bytes(BYTES);
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || {
            let head = WEBSOCKET.replace("\r\n\r\n", &format!("\r\nContent-Length: {BYTES}\r\n\r\n"));
            writer.write_all(head.as_bytes()).unwrap();
            writer.write_all(&sent).unwrap();
        });
        crate::harness::until("the client is held back", || {
            proxy.stat("http.test.downstream_flow_control_paused_reading_total") > 0
        });
        go.send(()).unwrap();
        assert_eq!(client.head().status(), 101);
        sending.join().unwrap();
        let all = has_heard.recv_timeout(PATIENCE).unwrap().expect("the tunnel stays open");
        assert!(all == bytes, "the body changed on its way");
        drop(client);
        proxy.wait_until_idle();
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

    fn endpoint_that_breaks_off_a_tunnel_is_who_has_ended_it(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request_head().is_some() {
                peer.send(SWITCHED);
                // What comes behind it is not read: the close is a reset.
                peer.read(1);
            }
        });
        let log = "access_log: [{name: log, typed_config: {\"@type\": \
            type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
            {text_format_source: {inline_string: \"why=%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n\"}}}}]";
        let config = Config::to(upstream.port).manager("upgrade_configs: [{upgrade_type: websocket}]").manager(log);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send(WEBSOCKET);
        assert_eq!(client.head().status(), 101);
        let _ = client.try_send(vec![0; 1 << 20]);
        proxy.wait_for_log("why=UC upstream_reset_after_response_started{connection_termination}");
        assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), 0);
        drop(client);
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

    fn upgrade_that_nothing_allows_is_answered_403_whatever_its_route_does(io) {
        let routes = "{match: {path: /away}, redirect: {host_redirect: b}}, {match: {path: /here}, direct_response: {status: 200}}";
        let upstream = repeater();
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        for (path, plain, upgrade) in [("/away", 301, 403), ("/here", 200, 403), ("/nowhere", 404, 404)] {
            assert_eq!(proxy.connect().get(path).status(), plain, "{path}");
            let asked = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            assert_eq!(proxy.connect().ask(&asked).status(), upgrade, "{path}");
        }
        // As in Envoy a redirect is a direct response, and a request without a route one that the router has had.
        for (stat, value) in [("rq_direct_response", 2), ("rq_redirect", 1), ("no_route", 2), ("rq_total", 4)] {
            assert_eq!(proxy.stat(&format!("http.test.{stat}")), value, "{stat}");
        }
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

    fn connect_of_http2_whose_endpoint_breaks_off_ends_with_its_error(io) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // What it has not read makes its close a reset.
        std::thread::spawn(move || listener.accept().unwrap().0.peek(&mut [0]).unwrap());
        let routes = "{match: {connect_matcher: {}}, route: {cluster: upstream, upgrade_configs: \
            [{upgrade_type: CONNECT, connect_config: {}}]}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(port) };
        let proxy = Proxy::start(io, &config.manager("upgrade_configs: [{upgrade_type: CONNECT}]"));
        let mut raw = RawHttp2::connect(proxy.port);
        // :method CONNECT and :authority.
        raw.frame(1, 4, 1, b"\x02\x07CONNECT\x41\x0dsomewhere:443");
        raw.frames_until(|frame| frame.kind == 1).unwrap();
        raw.frame(0, 0, 1, b"unread");
        let reset = raw.frames_until(|frame| frame.kind == 3).unwrap().pop().unwrap();
        assert_eq!((reset.stream, reset.number()), (1, 10), "CONNECT_ERROR");
        drop(raw);
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
