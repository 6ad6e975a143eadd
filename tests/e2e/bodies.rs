//! Bodies of every framing and size, both ways, with slow peers.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::channel;

use crate::harness::{Config, Proxy, Random, Upstream, chunked, ok, on_each_backend, set_receive_buffer};

const TRAILERS: &str = "http_protocol_options: {enable_trailers: true}";
const CLUSTER_TRAILERS: &str = "typed_extension_protocol_options: \
    {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
    {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}";
/// A large body.
const LARGE: usize = 8 << 20;
/// What a proxied body may add to resident memory at most: a watermark of 1 MiB, what a read brings beyond it, and slack.
const RESIDENT_GROWTH_MAX: u64 = 2 << 20;

on_each_backend! {
    fn chunked_bodies_pass_both_ways(io) {
        let upstream = Upstream::answering(|request| {
            let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            text.extend(chunked(&[b"one, ", &request.body, b", three"], ""));
            text
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for size in [1, 2, 100, 4095, 4096, 4097, 70_000] {
            let body = Random::new(size as u64).bytes(size);
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(chunked(&[&body[..size / 2 + 1], &body[size / 2..size / 2 + 1]], ""));
            let response = client.response();
            let sent = [&body[..size / 2 + 1], &body[size / 2..size / 2 + 1]].concat();
            assert!(response.body == [b"one, ", &sent[..], b", three"].concat(), "{size} bytes");
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.is_chunked()));
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    fn trailers_pass_where_enabled_and_are_dropped_where_not(io) {
        let upstream = Upstream::answering(|request| {
            let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            let got = request.trailers.iter().map(|(name, value)| format!("{name}={value};")).collect::<String>();
            text.extend(chunked(&[format!("[{got}]").as_bytes()], "X-Down: 1\r\nX-Down-Too: 2\r\n"));
            text
        });
        let ask = |proxy: &Proxy| {
            let mut client = proxy.connect();
            let mut responses = Vec::new();
            for _ in 0..2 {
                client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                client.send(chunked(&[b"x"], "X-Up: 1\r\n"));
                responses.push(client.response());
            }
            responses
        };
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(TRAILERS).cluster(CLUSTER_TRAILERS));
        for response in ask(&proxy) {
            assert_eq!(response.text(), "[x-up=1;]");
            let trailers = response.trailers.iter().map(|(name, value)| format!("{name}={value};")).collect::<String>();
            assert_eq!(trailers, "x-down=1;x-down-too=2;");
        }
        proxy.end();

        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for response in ask(&proxy) {
            assert_eq!((response.text().as_str(), response.trailers.len()), ("[]", 0));
        }
        proxy.end();
    }

    fn trailers_of_both_directions_do_not_mix_when_both_are_under_way(io) {
        const REQUEST_TRAILERS: &str = "0\r\nx-up: 1\r\nx-up-too: 2\r\n\r\n";
        let (got, has_got) = channel();
        let upstream = Upstream::start(move |peer| {
            peer.request_head();
            // The chunk comes with the first half of the trailers behind it.
            assert_eq!(peer.read(6).as_deref(), Some(&b"1\r\nx\r\n"[..]));
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\nX-Down: 1\r\nX-Do");
            let trailers = peer.read(REQUEST_TRAILERS.len());
            let _ = got.send(trailers.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
            peer.send("wn-Too: 2\r\n\r\n");
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(TRAILERS).cluster(CLUSTER_TRAILERS));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("1\r\nx\r\n0\r\nX-Up: 1\r\nX-U");
        assert_eq!(client.head().status(), 200);
        assert_eq!(client.read(6), b"1\r\ny\r\n");
        client.send("p-Too: 2\r\n\r\n");
        assert_eq!(has_got.recv_timeout(crate::harness::PATIENCE), Ok(Some(REQUEST_TRAILERS.to_owned())));
        assert_eq!(String::from_utf8_lossy(&client.read_to_end()), "0\r\nx-down: 1\r\nx-down-too: 2\r\n\r\n");
        proxy.end();
    }

    fn body_delimited_by_the_upstreams_end_is_chunked_for_11_and_closes_for_10(io) {
        let upstream = Upstream::start(|peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\n\r\nall ");
            peer.send("of it");
        });
        let options = "http_protocol_options: {accept_http_10: true}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!((response.text().as_str(), response.is_chunked()), ("all of it", true));
        }
        let mut client = proxy.connect();
        let response = client.ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((response.text().as_str(), response.is_chunked()), ("all of it", false));
        assert_eq!(response.header("connection"), Some("close"));
        proxy.end();
    }

    fn chunked_response_reaches_an_http_10_client_without_chunks(io) {
        let upstream = Upstream::answering(|_| {
            [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &chunked(&[b"a", b"bc"], "")].concat()
        });
        let options = "http_protocol_options: {accept_http_10: true}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        let response = client.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!((response.text().as_str(), response.is_chunked()), ("abc", false));
        proxy.end();
    }

    fn large_bodies_pass_unchanged_both_ways(io) {
        let body = Arc::new(Random::new(1).bytes(LARGE));
        let expected = Arc::clone(&body);
        let upstream = Upstream::answering(move |request| {
            assert!(request.body == *expected, "the request's body changed on its way");
            ok(&expected)
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for is_chunked in [false, true] {
            let client = proxy.connect();
            let mut writer = client.stream().try_clone().unwrap();
            let sent = Arc::clone(&body);
            let sending = std::thread::spawn(move || {
                if is_chunked {
                    writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
                    let pieces = sent.chunks(33_333).collect::<Vec<_>>();
                    writer.write_all(&chunked(&pieces, "")).unwrap();
                } else {
                    writer.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).unwrap();
                    writer.write_all(&sent).unwrap();
                }
            });
            let mut client = client;
            let response = client.response_to("POST");
            sending.join().unwrap();
            assert!(response.body == *body, "the response's body changed on its way");
        }
        proxy.end();
    }

    /// Through the pipes that relayed connections have, by the same counters. What is chunked has to be looked at.
    fn bodies_of_known_length_go_by_pipe_and_no_others_do(io) {
        let body = Arc::new(Random::new(4).bytes(LARGE));
        let expected = Arc::clone(&body);
        let upstream = Upstream::answering(move |request| match request.method() {
            "GET" if request.path() == "/chunked" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                [head.as_bytes(), &chunked(&[&expected[..]], "")].concat()
            }
            "GET" => ok(&expected),
            _ => ok(if request.body == *expected { b"whole" } else { b"other" }),
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let spliced = || proxy.stat("ringway.io.spliced_bytes");
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(chunked(&[&body[..]], ""));
        assert_eq!(client.response_to("POST").text(), "whole");
        assert!(client.get("/chunked").body == *body, "the response's body changed on its way");
        assert_eq!((spliced(), proxy.stat("ringway.io.splices")), (0, 0));
        assert!(client.get("/").body == *body, "the response's body changed on its way");
        // How much of it: what is there when the worker looks. Trickles go by chunks.
        crate::harness::until("some of the response went by pipe", || spliced() > 0);
        let downloaded = spliced();
        assert!(downloaded <= LARGE as u64);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
        client.send(&*body);
        assert_eq!(client.response_to("POST").text(), "whole");
        crate::harness::until("some of the request went by pipe", || spliced() > downloaded);
        // Of both: a turn is counted when it is over, so that a part of the response may have been missing before.
        assert!(spliced() <= 2 * LARGE as u64);
        proxy.wait_for_stat("ringway.io.pipes", 0);
        proxy.end();
    }

    fn slow_reader_downstream_holds_back_the_upstream_not_memory(io) {
        let body = Arc::new(Random::new(2).bytes(4 * LARGE));
        let sent = Arc::clone(&body);
        let (blocked, is_blocked) = channel();
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()));
                for piece in sent.chunks(1 << 20) {
                    if peer.try_send(piece).is_err() {
                        return;
                    }
                    let _ = blocked.send(());
                }
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        set_receive_buffer(client.stream(), 32 * 1024);
        let before = proxy.resident_bytes();
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        // The first megabyte has left the upstream; then it is held back until the client reads.
        is_blocked.recv().unwrap();
        proxy.wait_until_held_back();
        let mut most = proxy.resident_bytes();
        let head = client.head();
        assert_eq!(head.status(), 200);
        let mut received = 0;
        while received < body.len() {
            let piece = client.read((body.len() - received).min(1 << 20));
            assert!(piece == body[received..received + piece.len()], "changed after {received} bytes");
            received += piece.len();
            most = most.max(proxy.resident_bytes());
        }
        let grown = most.saturating_sub(before);
        println!("grew by {grown} bytes");
        assert!(grown < RESIDENT_GROWTH_MAX, "grew by {grown} bytes");
        proxy.end();
    }

    fn slow_reader_upstream_holds_back_the_client_not_memory(io) {
        let (go, may_go) = channel::<()>();
        let may_go = std::sync::Mutex::new(may_go);
        let body = Arc::new(Random::new(3).bytes(4 * LARGE));
        let expected = Arc::clone(&body);
        let upstream = Upstream::start(move |peer| {
            let Some(mut request) = peer.request_head() else { return };
            let _ = may_go.lock().unwrap().recv();
            assert!(peer.body(&mut request) && request.body == *expected, "the body changed on its way");
            peer.send(ok(b"got it"));
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let before = proxy.resident_bytes();
        let mut client = proxy.connect();
        let mut writer = client.stream().try_clone().unwrap();
        let sent = Arc::clone(&body);
        let sending = std::thread::spawn(move || {
            writer.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len()).as_bytes()).unwrap();
            writer.write_all(&sent).unwrap();
        });
        upstream.wait_for_requests(1);
        crate::harness::until("the client is held back", || {
            proxy.stat("http.test.downstream_flow_control_paused_reading_total") > 0
        });
        assert!(!sending.is_finished());
        let grown = proxy.resident_bytes().saturating_sub(before);
        println!("grew by {grown} bytes");
        assert!(grown < RESIDENT_GROWTH_MAX, "grew by {grown} bytes");
        go.send(()).unwrap();
        assert_eq!(client.response_to("POST").text(), "got it");
        sending.join().unwrap();
        proxy.end();
    }

    fn slow_writers_are_waited_for(io) {
        let upstream = Upstream::start(|peer| {
            while let Some(request) = peer.request() {
                for byte in ok(&request.body) {
                    peer.send([byte]);
                }
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for byte in b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n3\r\ner!\r\n0\r\n\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.response_to("POST").text(), "slower!");
        proxy.end();
    }

    fn early_response_reaches_a_client_that_still_uploads(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request_head().is_some() {
                peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!");
                peer.sees_end();
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe beginning");
        let response = client.response_to("POST");
        assert_eq!((response.status(), response.text().as_str()), (413, "no!"));
        assert_eq!(response.header("connection"), Some("close"));
        // The rest is read and dropped, so that the answer is not destroyed by a reset.
        let _ = client.try_send(vec![b'x'; 500_000]);
        client.shutdown_write();
        let mut rest = Vec::new();
        let _ = client.stream().read_to_end(&mut rest);
        assert!(rest.is_empty());
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_rq_response_before_rq_complete"), 1);
        proxy.end();
    }
}

impl Proxy {
    /// Waits until a client that does not read has made it stop reading from upstream.
    fn wait_until_held_back(&self) {
        crate::harness::until("the upstream is held back", || {
            self.stat("cluster.upstream.upstream_flow_control_paused_reading_total") > 0
        });
    }
}
