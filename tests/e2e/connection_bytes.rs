//! Bytes of connections: what the counters say is what passed on the wire, as a tap on each side of the proxy saw it, and says
//! so while a long exchange lasts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::harness::{
    Authority, Client, Config, Http2Client, Http2Upstream, Io, Peer, Proxy, Random, TO_HTTP2, TlsClient,
    Upstream, chunked, downstream_tls, ok, on_each_backend, until,
};

const LARGE: usize = 1 << 20;
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Passes connections on to a port, and counts their bytes.
#[derive(Debug)]
struct Tap {
    port: u16,
    /// Towards that port, and from there.
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Tap {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap =
            Self { port: listener.local_addr().unwrap().port(), up: Arc::default(), down: Arc::default() };
        let (up, down) = (Arc::clone(&tap.up), Arc::clone(&tap.down));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { continue };
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                for ((from, to), count) in [((near, far), &up), (back, &down)] {
                    from.set_nodelay(true).unwrap();
                    let count = Arc::clone(count);
                    std::thread::spawn(move || pass(from, to, &count));
                }
            }
        });
        tap
    }

    fn totals(&self) -> [u64; 2] {
        [&self.up, &self.down].map(|count| count.load(Ordering::SeqCst))
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        count.fetch_add(read as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

/// A proxy between two taps.
struct Tapped {
    proxy: Proxy,
    front: Tap,
    back: Tap,
}

impl Tapped {
    fn start(io: Io, port: u16, config: impl FnOnce(Config) -> Config) -> Self {
        let back = Tap::to(port);
        let proxy = Proxy::start(io, &config(Config::to(back.port)));
        let front = Tap::to(proxy.port);
        Self { proxy, front, back }
    }

    fn connect(&self) -> Client {
        Client::connect(self.front.port)
    }

    /// Waits until the counters agree with the taps: received and sent by the client, received and sent by the endpoint.
    fn agree(&self, when: &str) {
        let names = [
            "http.test.downstream_cx_rx_bytes_total",
            "http.test.downstream_cx_tx_bytes_total",
            "cluster.upstream.upstream_cx_tx_bytes_total",
            "cluster.upstream.upstream_cx_rx_bytes_total",
        ];
        until(&format!("counted is what passed: {when}"), || {
            let ([a, b], [c, d]) = (self.front.totals(), self.back.totals());
            let (counted, passed) = (names.map(|name| self.proxy.stat(name)), [a, b, c, d]);
            let agree = counted == passed && passed.iter().all(|&bytes| bytes > 0);
            if !agree {
                println!("{when}: counted {counted:?}, passed {passed:?}");
            }
            agree
        });
    }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Answers by the path.
fn answering() -> Upstream {
    Upstream::start(|peer| {
        while let Some(request) = peer.request() {
            let large = Random::new(1).bytes(LARGE);
            let answer = match request.path() {
                "/large" => ok(&large),
                "/chunked" => {
                    let head = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..];
                    [head, &chunked(&[b"one", b"two", &large], "")].concat()
                }
                "/interim" => [&b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"[..], &ok(b"later")].concat(),
                _ if request.method() == "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".to_vec(),
                _ => ok(&request.body),
            };
            if peer.try_send(answer).is_err() {
                return;
            }
        }
    })
}

/// Repeats what it hears, after a head.
fn repeat(peer: &mut Peer, head: &str) {
    peer.send(head);
    while let Some(byte) = peer.read(1) {
        if peer.try_send(byte).is_err() {
            return;
        }
    }
}

on_each_backend! {
    fn every_byte_of_http1_is_counted_once(io) {
        let upstream = answering();
        let tapped = Tapped::start(io, upstream.port, |config| Config {
            routes: Some(
                "{match: {path: /here}, direct_response: {status: 200, body: {inline_string: here}}}, \
                 {match: {prefix: /}, route: {cluster: upstream}}".to_owned(),
            ),
            ..config
        });
        let mut client = tapped.connect();
        for path in ["/", "/large", "/chunked", "/interim", "/here"] {
            assert_eq!(client.get(path).status(), 200);
            tapped.agree(path);
        }
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").status(), 200);
        tapped.agree("HEAD");
        // Small, and large enough for a pipe.
        for bytes in [0, 10, 10_000, LARGE] {
            let body = Random::new(2).bytes(bytes);
            client.send(post("/", &body));
            assert!(client.response().body == body);
            tapped.agree("a body");
        }
        let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        request.extend(chunked(&[b"abc", &[b'x'; 5000]], ""));
        client.send(&request);
        assert_eq!(client.response().body.len(), 5003);
        tapped.agree("a body in chunks");
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.head().status(), 100);
        client.send("later");
        assert_eq!(client.response().body, b"later");
        tapped.agree("what is sent for being asked to");
        // Behind a reply of our own, a body that nobody wants; then the next request with it.
        client.send([&post("/here", &[b'y'; 300])[..], &post("/", b"z")].concat());
        assert_eq!((client.response().body, client.response().body), (b"here".to_vec(), b"z".to_vec()));
        tapped.agree("two at once");
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().status(), 200);
        client.expect_closed();
        tapped.agree("the last");
        let mut client = tapped.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nnot a header\r\n\r\n");
        assert_eq!(client.response().status(), 400);
        client.expect_closed();
        tapped.agree("one that is refused");
        tapped.proxy.end();
    }

    fn long_exchanges_are_counted_as_they_pass(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let upstream = Upstream::start(move |peer| {
            if peer.request_head().is_none() {
                return;
            }
            // Half of the request, then half of the answer, is there while the rest is not.
            let (half, wait) = (LARGE / 2, || may_go.lock().unwrap().recv().unwrap_or_default());
            peer.read(half).unwrap();
            wait();
            peer.read(half).unwrap();
            let answer = ok(&Random::new(3).bytes(LARGE));
            peer.send(&answer[..half]);
            wait();
            peer.send(&answer[half..]);
        });
        let tapped = Tapped::start(io, upstream.port, |config| config);
        let mut client = tapped.connect();
        let request = post("/", &Random::new(4).bytes(LARGE));
        client.send(&request[..request.len() - LARGE / 2]);
        let name = "cluster.upstream.upstream_cx_tx_bytes_total";
        until("half of the request has passed", || tapped.back.totals()[0] > (LARGE / 2) as u64);
        until("it is counted", || tapped.proxy.stat(name) == tapped.back.totals()[0]);
        let received = "http.test.downstream_cx_rx_bytes_total";
        until("so is what came", || tapped.proxy.stat(received) == tapped.front.totals()[0]);
        go.send(()).unwrap();
        client.send(&request[request.len() - LARGE / 2..]);
        until("half of the answer has passed", || tapped.front.totals()[1] > (LARGE / 3) as u64);
        tapped.agree("half of an answer");
        go.send(()).unwrap();
        assert_eq!(client.response().body.len(), LARGE);
        tapped.agree("all of it");
        tapped.proxy.end();
    }

    fn tunnels_are_counted_as_they_pass_and_to_the_end(io) {
        let websocket = Upstream::start(|peer| {
            if peer.request_head().is_some() {
                repeat(peer, SWITCHED);
            }
        });
        let plain = Upstream::start(|peer| repeat(peer, ""));
        let ending = |matches: &str, fields: &str| format!(
            "{{match: {{{matches}}}, route: {{cluster: upstream, upgrade_configs: \
             [{{upgrade_type: CONNECT, connect_config: {{{fields}}}}}]}}}}"
        );
        let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        let posted = "POST / HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let announcing = "proxy_protocol_config: {version: V1}";
        let kinds = [
            (websocket.port, None, WEBSOCKET, false),
            (plain.port, Some(ending("connect_matcher: {}", "")), connect, false),
            (plain.port, Some(ending("connect_matcher: {}", announcing)), connect, false),
            (plain.port, Some(ending("prefix: /", "allow_post: true")), posted, true),
        ];
        for (port, routes, request, in_chunks) in kinds {
            let upgrades = "upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}]";
            let tapped = Tapped::start(io, port, |config| Config { routes, ..config.manager(upgrades) });
            let mut client = tapped.connect();
            client.send(request);
            assert!([101, 200].contains(&client.head().status()));
            let bytes = Random::new(5).bytes(50_000);
            if in_chunks {
                let pieces = chunked(&[&bytes], "");
                let last = pieces.len() - b"0\r\n\r\n".len();
                client.send(&pieces[..last]);
                until("all of it came back", || tapped.front.totals()[1] > 50_000);
                tapped.agree("a tunnel that is a POST");
                client.send(&pieces[last..]);
            } else {
                client.send(&bytes);
                until("all of it came back", || tapped.front.totals()[1] >= 50_000);
                tapped.agree("a tunnel");
                client.send("more");
                client.shutdown_write();
            }
            let rest = client.read_to_end();
            assert!(rest.len() >= 50_000, "{} bytes", rest.len());
            tapped.proxy.wait_until_idle();
            tapped.agree(request);
            tapped.proxy.end();
        }
    }

    /// Some clients ask for a tunnel with a body: Docker's for one.
    fn body_of_a_request_that_becomes_a_tunnel_is_counted_once(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some() {
                repeat(peer, SWITCHED);
            }
        });
        let upgrades = "upgrade_configs: [{upgrade_type: websocket}]";
        let tapped = Tapped::start(io, upstream.port, |config| config.manager(upgrades));
        let mut client = tapped.connect();
        let body = Random::new(8).bytes(10_000);
        let head = WEBSOCKET.replace("\r\n\r\n", &format!("\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.send([head.as_bytes(), &body].concat());
        assert_eq!(client.head().status(), 101);
        client.send("bytes");
        assert_eq!(client.read(5), b"bytes");
        tapped.agree("a tunnel behind a body");
        client.shutdown_write();
        assert_eq!(client.read_to_end(), b"");
        tapped.proxy.wait_until_idle();
        tapped.agree("all of it");
        tapped.proxy.end();
    }

    fn bytes_under_tls_are_those_of_http(io) {
        const NAME: &str = "front.test";
        let (upstream, authority) = (answering(), Authority::of(&[NAME]));
        let config = Config::to(upstream.port).chain(&downstream_tls("", &authority.shown(NAME)));
        let proxy = Proxy::start(io, &config);
        let mut client = TlsClient::connect(proxy.port, &authority, NAME, &[]);
        let head = "POST /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n";
        let request = [head.as_bytes(), &Random::new(6).bytes(100_000)].concat();
        client.try_send(&request).unwrap();
        let answer = client.read_to_end();
        assert!(answer.len() > LARGE);
        proxy.wait_for_stat("http.test.downstream_cx_rx_bytes_total", request.len() as u64);
        proxy.wait_for_stat("http.test.downstream_cx_tx_bytes_total", answer.len() as u64);
        proxy.end();
    }

    fn bytes_of_http2_are_its_frames(io) {
        let upstream = Http2Upstream::start(100);
        let tapped = Tapped::start(io, upstream.port, |config| config.cluster(TO_HTTP2));
        let client = Http2Client::connect(tapped.front.port);
        for bytes in [0, 10, 100_000] {
            let body = Random::new(7).bytes(bytes);
            let request = http::Request::post("http://a/");
            assert_eq!(client.send(request, &body, None).status, 200);
            tapped.agree("a request over HTTP/2");
        }
        assert!(tapped.front.totals()[0] > 100_000);
        drop(client);
        tapped.proxy.end();
    }

    fn header_that_names_the_client_is_counted_with_its_connection(io) {
        let upstream = Upstream::start(|peer| {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let Some(byte) = peer.read(1) else { return };
                line.extend(byte);
            }
            while let Some(request) = peer.request() {
                peer.send(ok(&request.body));
            }
        });
        let tapped = Tapped::start(io, upstream.port, |config| config.cluster(
            "transport_socket: {name: proxy, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {version: V1}, transport_socket: {name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}",
        ));
        let mut client = tapped.connect();
        for _ in 0..2 {
            client.send(post("/", b"abc"));
            assert_eq!(client.response().body, b"abc");
            tapped.agree("behind a header");
        }
        tapped.proxy.end();
    }
}
