//! Upgrades over HTTP/2 upstream (RFC 8441): only for endpoints that have said that they take them, and not before they have.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use h2::ext::Protocol;
use http::Request;

use crate::harness::{
    Client, Config, Http2Client, Http2Upstream, PATIENCE, Proxy, RawHttp2, TO_HTTP2, cluster_to,
    on_each_backend, pattern, until,
};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const UPGRADES: &str = "upgrade_configs: [{upgrade_type: websocket}]";
/// SETTINGS_ENABLE_CONNECT_PROTOCOL: 1.
const ENABLE_CONNECT: [u8; 6] = [0, 8, 0, 0, 0, 1];
const NOT_TAKEN: &str = "cluster.upstream.upstream_rq_extended_connect_not_taken";
/// A request for a WebSocket.
const CHAT: &[u8] = b"\x02\x07CONNECT\x00\x09:protocol\x09websocket\x86\x84\x41\x01a";
/// `:status: 200`.
const STATUS_200: &[u8] = &[0x88];

fn to_http2(port: u16) -> Config {
    Config::to(port).cluster(TO_HTTP2).manager(UPGRADES)
}

fn chat(path: &str) -> http::request::Builder {
    let request = Request::connect(format!("http://a{path}")).header("sec-websocket-version", "13");
    request.extension(Protocol::from_static("websocket"))
}

/// The port of an endpoint that takes the upgrade which is the first request of a connection, and then does `go_on`.
fn taking(go_on: impl Fn(&mut RawHttp2) + Send + Sync + 'static) -> u16 {
    RawHttp2::server(move |raw| {
        raw.frame(4, 0, 0, &ENABLE_CONNECT);
        if raw.frames_until(|frame| frame.kind == 1).is_some() {
            raw.frame(1, 4, 1, STATUS_200);
            go_on(raw);
        }
    })
}

/// A client whose first request is an upgrade that was taken.
fn upgraded(proxy: &Proxy) -> RawHttp2 {
    let mut raw = RawHttp2::connect(proxy.port);
    raw.frame(1, 4, 1, CHAT);
    raw.frames_until(|frame| frame.kind == 1).unwrap();
    raw
}

fn upgrades(client: &mut Client) {
    client.send(WEBSOCKET);
    let response = client.head();
    assert_eq!((response.status(), response.header("upgrade")), (101, Some("websocket")));
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

on_each_backend! {
    fn upgrade_waits_until_a_cold_connection_has_said_that_it_takes_it(io) {
        let (go, may_go) = channel::<()>();
        let (order, in_order) = channel();
        let (may_go, order) = (Mutex::new(may_go), Mutex::new(order));
        let port = RawHttp2::server(move |raw| {
            let wait = || may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            wait();
            // The frame comes in two pieces: what it says is not known with its header.
            raw.write(&[0, 0, 6, 4, 0, 0, 0, 0, 0]);
            wait();
            raw.write(&ENABLE_CONNECT);
            let frames = raw.frames_until(|frame| frame.kind == 1).unwrap();
            let kinds: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags & 1)).collect();
            order.lock().unwrap().send(kinds).unwrap();
            raw.frame(1, 4, 1, STATUS_200);
            raw.frame(0, 0, 1, b"hello");
            let data = raw.frames_until(|frame| frame.kind == 0).unwrap().pop().unwrap();
            raw.frame(0, 1, 1, &data.payload);
            raw.frames_until(|_| false);
        });
        let proxy = Proxy::start(io, &to_http2(port));
        let mut client = proxy.connect();
        client.send(WEBSOCKET);
        // The request has its place on the connection, and would go out if it did not wait.
        until("it waits", || proxy.stat("cluster.upstream.upstream_rq_active") == 1);
        go.send(()).unwrap();
        until("the header is there", || proxy.stat("cluster.upstream.upstream_cx_rx_bytes_total") == 9);
        go.send(()).unwrap();
        // SETTINGS and a window of ours, the acknowledgement of theirs, and only then the request.
        let kinds = in_order.recv_timeout(PATIENCE).unwrap();
        assert_eq!(kinds.last(), Some(&(1, 0)), "{kinds:?}");
        assert!(kinds[..kinds.len() - 1].contains(&(4, 1)), "asked before it was allowed: {kinds:?}");
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.read(5), b"hello");
        client.send("back");
        assert_eq!(client.read(4), b"back");
        assert_eq!(proxy.stat(NOT_TAKEN), 0);
        proxy.end();
    }

    fn endpoint_that_takes_no_upgrades_is_asked_for_none(io) {
        let (seen, has_seen) = channel();
        let seen = Mutex::new(seen);
        // It answers every request, and tells on which streams they came.
        let port = RawHttp2::server(move |raw| {
            raw.frame(4, 0, 0, &[]);
            while let Some(frames) = raw.frames_until(|frame| frame.kind == 1) {
                let stream = frames.last().unwrap().stream;
                seen.lock().unwrap().send(stream).unwrap();
                raw.frame(1, 5, stream, STATUS_200);
            }
        });
        let log = "access_log: [{name: log, typed_config: {\"@type\": \
            type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
            {text_format_source: {inline_string: \"why=%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n\"}}}}]";
        let config = to_http2(port)
            .manager("http2_protocol_options: {allow_connect: true}")
            .manager(log)
            .arguments(&["--file-flush-interval-msec", "10"]);
        let proxy = Proxy::start(io, &config);
        // Cold first, then on the connection that is there.
        for round in 1..=3 {
            let mut client = proxy.connect();
            let refused = client.ask(WEBSOCKET);
            assert_eq!(refused.status(), 503);
            assert!(refused.text().ends_with("reset reason: local reset"), "{}", refused.text());
            assert_eq!(proxy.connect().get("/").status(), 200);
            let client = Http2Client::connect(proxy.port);
            assert_eq!(client.get("/").status, 200);
            assert_eq!(client.send(chat("/chat"), b"", None).status, 503);
            assert_eq!(proxy.stat(NOT_TAKEN), 2 * round);
        }
        proxy.wait_for_log("why=LR upstream_reset_before_response_started{local_reset}");
        let streams: Vec<u32> = has_seen.try_iter().collect();
        assert_eq!(streams, [1, 3, 5, 7, 9, 11], "the requests that are none for upgrades, and nothing else");
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_total"), 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_active"), 0);
        proxy.end();
    }

    fn endpoint_that_says_nothing_is_waited_for_as_long_as_for_a_connection(io) {
        let (seen, has_seen) = channel();
        let seen = Mutex::new(seen);
        let port = RawHttp2::server(move |raw| {
            let frames: Vec<_> = std::iter::from_fn(|| raw.read()).collect();
            seen.lock().unwrap().send(frames).unwrap();
        });
        let mut config = to_http2(port);
        let cluster = cluster_to("upstream", port).replace("connect_timeout: 5s", "connect_timeout: 0.3s");
        config.clusters = Some(format!("{{{TO_HTTP2}, {cluster}}}"));
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().ask(WEBSOCKET).status(), 503);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_timeout"), 1);
        assert_eq!(proxy.stat(NOT_TAKEN), 0);
        proxy.end();
        let frames = has_seen.recv_timeout(PATIENCE).unwrap();
        assert!(!frames.is_empty() && frames.iter().all(|frame| frame.kind != 1), "{frames:?}");
    }

    fn client_that_resets_a_tunnel_whose_endpoint_takes_nothing_is_heard(io) {
        const PIECE: usize = 16_000;
        let (heard, has_heard) = channel();
        let heard = Mutex::new(heard);
        let port = RawHttp2::server(move |raw| {
            // With windows of zero.
            raw.frame(4, 0, 0, &[ENABLE_CONNECT, [0, 4, 0, 0, 0, 0]].concat());
            if raw.frames_until(|frame| frame.kind == 1).is_some() {
                raw.frame(1, 4, 1, STATUS_200);
                let is_reset = raw.frames_until(|frame| frame.kind == 3).is_some();
                heard.lock().unwrap().send(is_reset).unwrap();
            }
        });
        let config = to_http2(port).manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let mut raw = RawHttp2::connect(proxy.port);
        // The windows that we are told, which count once they are acknowledged.
        raw.frames_until(|frame| frame.kind == 8).unwrap();
        raw.frame(4, 1, 0, &[]);
        raw.frame(1, 4, 1, CHAT);
        raw.frames_until(|frame| frame.kind == 1).unwrap();
        for _ in 0..8 {
            raw.frame(0, 0, 1, &[b'x'; PIECE]);
        }
        let come = || proxy.stat("http.test.downstream_cx_rx_bytes_total");
        until("all of it has come", || come() >= 8 * PIECE as u64);
        raw.frame(3, 0, 1, &[0, 0, 0, 8]);
        assert_eq!(has_heard.recv_timeout(PATIENCE), Ok(true));
        proxy.wait_for_stat("http.test.downstream_rq_active", 0);
        drop(raw);
        proxy.end();
    }

    fn client_that_resets_a_tunnel_behind_its_end_is_heard(io) {
        let (heard, has_heard) = channel();
        let heard = Mutex::new(heard);
        let port = taking(move |raw| {
            // The end of its bytes, and the reset.
            for kind in [0, 3] {
                let has_come = raw.frames_until(|frame| frame.kind == kind).is_some();
                heard.lock().unwrap().send(has_come).unwrap();
            }
        });
        let config = to_http2(port).manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let mut raw = upgraded(&proxy);
        raw.frame(0, 1, 1, &[]);
        assert_eq!(has_heard.recv_timeout(PATIENCE), Ok(true));
        raw.frame(3, 0, 1, &[0, 0, 0, 8]);
        assert_eq!(has_heard.recv_timeout(PATIENCE), Ok(true));
        proxy.wait_for_stat("http.test.downstream_rq_active", 0);
        drop(raw);
        proxy.end();
    }

    /// The codec lets go of what it has not written of a stream that is reset.
    fn words_of_a_client_that_come_with_its_reset_go_before_it(io) {
        let (heard, has_heard) = channel();
        let heard = Mutex::new(heard);
        let port = taking(move |raw| heard.lock().unwrap().send(raw.said_until_reset()).unwrap());
        let config = to_http2(port).manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let mut raw = upgraded(&proxy);
        raw.say_and_reset(b"last words");
        assert_eq!(has_heard.recv_timeout(PATIENCE).unwrap(), b"last words");
        proxy.wait_for_stat("http.test.downstream_rq_active", 0);
        drop(raw);
        proxy.end();
    }

    /// The same the other way.
    fn words_of_an_endpoint_that_come_with_its_reset_go_before_it(io) {
        let port = taking(|raw| {
            raw.frames_until(|frame| frame.kind == 0);
            raw.say_and_reset(b"last words");
            raw.frames_until(|_| false);
        });
        let config = to_http2(port).manager("http2_protocol_options: {allow_connect: true}");
        let proxy = Proxy::start(io, &config);
        let mut raw = upgraded(&proxy);
        raw.frame(0, 0, 1, b"go");
        assert_eq!(raw.said_until_reset(), b"last words");
        proxy.wait_for_stat("http.test.downstream_rq_active", 0);
        drop(raw);
        proxy.end();
    }

    /// The end of the body is not that of the stream.
    fn tunnel_goes_on_behind_the_body_of_its_upgrade(io) {
        let upstream = Http2Upstream::start(100);
        let proxy = Proxy::start(io, &to_http2(upstream.port));
        let mut client = proxy.connect();
        client.send(WEBSOCKET.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"));
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.read(4), b"body");
        client.send("more");
        assert_eq!(client.read(4), b"more");
        client.shutdown_write();
        assert_eq!(client.read_to_end(), b"");
        proxy.end();
    }

    fn websocket_passes_from_http2_and_http1_to_http2(io) {
        let upstream = Http2Upstream::start(100);
        let mut config = to_http2(upstream.port).manager("http2_protocol_options: {allow_connect: true}");
        config.routes = Some("{match: {path: /here}, direct_response: {status: 200}}, \
            {match: {prefix: /}, route: {cluster: upstream}}".to_owned());
        let proxy = Proxy::start(io, &config);
        let client = Http2Client::connect(proxy.port);
        // Our SETTINGS come with the first answer; the connection to the endpoint is still cold.
        assert_eq!(client.get("/here").status, 200);
        for bytes in [0, 5, 300_000] {
            let body = pattern(bytes);
            let answer = client.send(chat("/chat"), &body, None);
            assert_eq!((answer.status, answer.broken), (200, None));
            assert!(answer.body == body, "{} of {bytes} bytes", answer.body.len());
            let seen = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!((seen("x-seen-method"), seen("x-seen-protocol")), (Some("CONNECT"), Some("websocket")));
            assert_eq!((seen("upgrade"), seen("sec-websocket-accept")), (None, None));
        }
        let mut client1 = proxy.connect();
        upgrades(&mut client1);
        for word in ["one", "two", "three"] {
            client1.send(word);
            assert_eq!(client1.read(word.len()), word.as_bytes());
        }
        client1.shutdown_write();
        assert_eq!(client1.read_to_end(), b"");
        assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 4);
        assert_eq!(upstream.connections(), 1);
        drop((client, client1));
        proxy.end();
    }
}
