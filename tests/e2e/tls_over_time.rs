//! TLS over time: certificates that are replaced under load, sessions that are resumed, tunnels within TLS, and what a
//! connection leaves behind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use h2::ext::Protocol;
use http::Request;
use rustls::version::{TLS12, TLS13};

use crate::harness::{
    Authority, Config, Http2Client, Io, Proxy, Random, TlsClient, Upstream, downstream_tls, ok,
    on_each_backend, pattern, tls_bridge, until, upstream_tls,
};

const NAME: &str = "server.example";
const ALPN: &str = "alpn_protocols: [h2, http/1.1]";
const WEBSOCKETS: &str = "upgrade_configs: [{upgrade_type: websocket}]";

/// Accepts TLS, and forwards to a port.
fn protected(port: u16, authority: &Authority) -> Config {
    Config::to(port).chain(&downstream_tls("", &format!("{ALPN}, {}", authority.shown(NAME))))
}

/// Accepts TLS, and forwards under TLS to one that is [`protected`].
fn between(port: u16, authority: &Authority, more: &str) -> Config {
    let common = format!("{more}{}", authority.trusted());
    protected(port, authority).cluster(&upstream_tls(&format!("sni: {NAME},"), &common))
}

fn mirror() -> Upstream {
    Upstream::answering(|request| ok(&request.body))
}

fn post(body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// Ends a test's threads however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Switches where it is asked to, repeats everything it hears, says goodbye at the other end's end.
fn repeater() -> Upstream {
    Upstream::start(|peer| {
        while let Some(head) = peer.request_head() {
            if head.header("upgrade").is_none() {
                peer.send(ok(b"plain"));
                continue;
            }
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
            );
            while let Some(byte) = peer.read(1) {
                if peer.try_send(byte).is_err() {
                    return;
                }
            }
            return peer.send("goodbye");
        }
    })
}

/// What the worker holds for connections and requests: chunks, and bytes of what lives as long as they do.
fn held(proxy: &Proxy) -> [u64; 5] {
    ["buffer.chunks_in_use", "memory.tasks", "memory.futures", "memory.sockets", "memory.socket_queues"]
        .map(|gauge| proxy.stat(&format!("ringway.{gauge}")))
}

fn resumption(io: Io, down: &'static rustls::SupportedProtocolVersion, up: &str) {
    let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
    // One request on each connection between the two.
    let inner = protected(upstream.port, &authority)
        .manager("common_http_protocol_options: {max_requests_per_connection: 1}");
    let inner = Proxy::start(io, &inner);
    let more = format!("tls_params: {{tls_maximum_protocol_version: {up}}}, ");
    let outer = Proxy::start(io, &between(inner.port, &authority, &more));
    let sessions = authority.client(&["http/1.1"], &[down]);
    for number in 0..4 {
        let mut client = TlsClient::with(outer.port, sessions.clone(), NAME);
        let body = pattern(5000);
        assert!(client.ask(post(&body)).body == body);
        assert_eq!(client.is_resumed(), number > 0, "connection {number}");
    }
    let listener = format!("listener.127.0.0.1_{}.ssl", outer.port);
    assert_eq!(outer.stat(&format!("{listener}.handshake")), 4);
    assert_eq!(outer.stat(&format!("{listener}.session_reused")), 3);
    assert_eq!(outer.stat("cluster.upstream.ssl.handshake"), 4);
    assert_eq!(outer.stat("cluster.upstream.ssl.session_reused"), 3);
    let version = up.replace('_', ".");
    for prefix in [&*listener, "cluster.upstream.ssl"] {
        assert_eq!(outer.stat(&format!("{prefix}.versions.{version}")), 4, "{prefix}");
        let counted = |group: &str| {
            let names = outer.admin("GET", &format!("/stats?filter=^{prefix}.{group}.*")).text();
            names.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
        };
        assert_eq!(counted("ciphers"), 4, "{prefix}");
        // A session of TLS 1.2 is gone on with without a key exchange.
        assert_eq!(counted("curves"), if version == "TLSv1.2" { 1 } else { 4 }, "{prefix}");
        // The clients show no certificate, and a session is resumed without a signature.
        assert_eq!(counted("sigalgs"), u64::from(prefix == "cluster.upstream.ssl"), "{prefix}");
    }
    outer.end();
    inner.end();
}

on_each_backend! {
    /// By a ticket of before, an endpoint would be let in that nobody trusted has vouched for.
    fn endpoint_is_not_resumed_once_its_authority_is_not_trusted(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let inner = protected(upstream.port, &authority)
            .manager("common_http_protocol_options: {max_requests_per_connection: 1}");
        let inner = Proxy::start(io, &inner);
        let tls = upstream_tls(&format!("sni: {NAME},"), &authority.trusted());
        let outer = Proxy::start(io, &Config::to(inner.port).cluster(&tls));
        let mut client = outer.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").status(), 200);
        }
        assert_eq!(outer.stat("cluster.upstream.ssl.session_reused"), 2);
        authority.is_replaced();
        until("it is taken", || outer.stat("ringway.tls.update_success") > 0);
        until("new handshakes use it", || client.get("/").status() == 503);
        assert_eq!(outer.stat("cluster.upstream.ssl.fail_verify_error"), 1);
        assert_eq!(client.get("/").status(), 503);
        drop(client);
        outer.end();
        inner.end();
    }

    fn certificate_is_replaced_under_load_and_costs_no_connection(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let proxy = Proxy::start(io, &protected(upstream.port, &authority).arguments(&["--concurrency", "2"]));
        let (over, served, short) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let _over = Over(&over);
            // Connections that were there before go on under what they were made with.
            for place in 0..3 {
                let (authority, proxy, over, served) = (&authority, &proxy, &over, &served);
                scope.spawn(move || {
                    let mut client = TlsClient::connect(proxy.port, authority, NAME, &["http/1.1"]);
                    while !over.load(Ordering::SeqCst) {
                        let body = pattern((served.fetch_add(1, Ordering::SeqCst) * 977 + place) % 40_000);
                        assert!(client.ask(post(&body)).body == body);
                    }
                });
            }
            // And new ones are made all the time.
            for alpn in ["http/1.1", "h2"] {
                let (authority, proxy, over, short) = (&authority, &proxy, &over, &short);
                scope.spawn(move || while !over.load(Ordering::SeqCst) {
                    let body = pattern(1000);
                    if alpn == "h2" {
                        let bridge = tls_bridge(proxy.port, authority.client(&[alpn], rustls::ALL_VERSIONS), NAME);
                        let answer = Http2Client::connect(bridge).send(Request::post("https://a/"), &body, None);
                        assert!(answer.status == 200 && answer.body == body);
                    } else {
                        let mut client = TlsClient::connect(proxy.port, authority, NAME, &[alpn]);
                        assert!(client.ask(post(&body)).body == body);
                    }
                    short.fetch_add(1, Ordering::SeqCst);
                });
            }
            for _ in 0..2 {
                let (long, made) = (served.load(Ordering::SeqCst), short.load(Ordering::SeqCst));
                let issued = authority.issue(NAME);
                until("a new connection sees the new certificate", || {
                    let mut client = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
                    assert_eq!(client.ask(post(b"x")).text(), "x");
                    client.shown() == Some(&issued)
                });
                // The other worker's, too: whoever comes now comes after.
                for _ in 0..8 {
                    let mut client = TlsClient::connect(proxy.port, &authority, NAME, &["http/1.1"]);
                    assert_eq!(client.ask(post(b"x")).text(), "x");
                }
                assert!(served.load(Ordering::SeqCst) > long && short.load(Ordering::SeqCst) > made);
            }
        });
        assert_eq!(proxy.stat(&format!("listener.127.0.0.1_{}.ssl.connection_error", proxy.port)), 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_5xx"), 0);
        proxy.end();
    }

    fn sessions_are_resumed_on_both_sides_by_tls12(io) {
        resumption(io, &TLS12, "TLSv1_2");
    }

    fn sessions_are_resumed_on_both_sides_by_tls13(io) {
        resumption(io, &TLS13, "TLSv1_3");
    }

    fn websocket_passes_bytes_and_half_closes_through_tls_on_both_sides(io) {
        let (upstream, authority) = (repeater(), Authority::of(&[NAME]));
        let inner = Proxy::start(io, &protected(upstream.port, &authority).manager(WEBSOCKETS));
        let outer = Proxy::start(io, &between(inner.port, &authority, "").manager(WEBSOCKETS));
        let mut client = TlsClient::connect(outer.port, &authority, NAME, &["http/1.1"]);
        client.try_send(
            b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        ).unwrap();
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.read(10), b"helloearly");
        let bytes = Random::new(4).bytes(50_000);
        client.try_send(&bytes).unwrap();
        assert!(client.read(bytes.len()) == bytes);
        assert_eq!(outer.stat("http.test.downstream_cx_upgrades_active"), 1);
        client.shutdown_write();
        // The end is announced, too.
        assert_eq!(client.read_to_end(), b"goodbye");
        drop(client);
        outer.wait_until_idle();
        inner.wait_until_idle();
        outer.end();
        inner.end();
    }

    /// RFC 8441 within TLS, on to an endpoint that knows HTTP/1.1 upgrades alone.
    fn websocket_on_a_stream_of_http2_passes_through_tls_on_both_sides(io) {
        let (upstream, authority) = (repeater(), Authority::of(&[NAME]));
        let inner = Proxy::start(io, &protected(upstream.port, &authority).manager(WEBSOCKETS));
        let outer = between(inner.port, &authority, "")
            .manager(WEBSOCKETS)
            .manager("http2_protocol_options: {allow_connect: true}");
        let outer = Proxy::start(io, &outer);
        let sessions = authority.client(&["h2"], rustls::ALL_VERSIONS);
        let client = Http2Client::connect(tls_bridge(outer.port, sessions, NAME));
        // The peer's SETTINGS allow it; they come with the first answer.
        assert_eq!(client.get("/").body, b"plain");
        // With a key of its own, which passes: this endpoint answers none.
        let chat = || {
            let request = Request::connect("https://a/chat").header("sec-websocket-key", "x");
            request.extension(Protocol::from_static("websocket"))
        };
        let bytes = Random::new(5).bytes(50_000);
        let answer = client.send(chat(), &bytes, None);
        assert_eq!(answer.status, 200);
        let wanted = [b"hello", &bytes[..], b"goodbye"].concat();
        assert!(answer.body == wanted, "{} of {} bytes", answer.body.len(), wanted.len());
        drop(client);
        outer.wait_until_idle();
        outer.end();
        inner.end();
    }

    fn upload_leaves_nothing_behind(io) {
        let (upstream, authority) = (mirror(), Authority::of(&[NAME]));
        let inner = Proxy::start(io, &protected(upstream.port, &authority));
        let outer = Proxy::start(io, &between(inner.port, &authority, ""));
        let body = pattern(60_000);
        let upload = || {
            let mut client = TlsClient::connect(outer.port, &authority, NAME, &["http/1.1"]);
            assert!(client.ask(post(&body)).body == body);
            client
        };
        // The connection to the endpoint stays, and so do slots and tables that it and the first client needed.
        drop(upload());
        let mut before = [0; 5];
        until("the first is gone", || {
            before = held(&outer);
            outer.stat("http.test.downstream_cx_active") == 0 && before[0] == 0
        });
        let client = upload();
        until("an idle connection holds no chunk", || outer.stat("ringway.buffer.chunks_in_use") == 0);
        drop(client);
        for _ in 0..20 {
            drop(upload());
        }
        until("everything is given back", || held(&outer).iter().zip(before).all(|(now, before)| *now <= before));
        until("by the one behind, too", || inner.stat("ringway.buffer.chunks_in_use") == 0);
        outer.end();
        inner.end();
    }
}
