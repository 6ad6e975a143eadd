//! Connections that go through tunnels: asked of an HTTP proxy (`tunneling_config`), over HTTP/1.1 and HTTP/2, and ended by
//! another Ringway (CONNECT, or POST, that ends there). Beside Envoy: `tests/peers/tunnels.py` and `protocols_tunnels.py`.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::harness::{
    Authority, Client, Config, PATIENCE, Proxy, Random, RawHttp2, TO_HTTP2, Upstream, downstream_tls,
    on_each_backend, set_receive_buffer, until, upstream_tls,
};
use crate::tcp::{LOGS_ENDS, read_slowly, taking_little, without_room};

const LARGE: usize = 12 << 20;
const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// A listener that asks the proxy at that port for tunnels.
fn asking(port: u16, tunnel: &str, fields: &str) -> Config {
    let filter = format!(
        "{{name: tcp, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: relay, cluster: upstream, {fields} tunneling_config: {{hostname: \"end.test:443\", {tunnel}}}}}}}"
    );
    Config::to(port).chains(&[format!("{{filters: [{filter}]}}")])
}

/// A listener in which tunnels end that lead to that port.
fn ending(port: u16, connect: &str, matches: &str) -> Config {
    let routes = format!(
        "{{match: {{{matches}}}, route: {{cluster: upstream, upgrade_configs: \
         [{{upgrade_type: CONNECT, connect_config: {{{connect}}}}}]}}}}"
    );
    let config = Config { routes: Some(routes), ..Config::to(port) };
    config
        .manager("upgrade_configs: [{upgrade_type: CONNECT}]")
        .manager("http2_protocol_options: {allow_connect: true}")
}

/// The kinds of tunnels between two proxies: what the first asks for, fields of its cluster, how the second is asked.
const KINDS: [(&str, &str, &str, &str); 4] = [
    ("", "", "", "connect_matcher: {}"),
    ("", TO_HTTP2, "", "connect_matcher: {}"),
    ("use_post: true", "", "allow_post: true", "prefix: /"),
    ("use_post: true", TO_HTTP2, "allow_post: true", "prefix: /"),
];

/// Both proxies of a chain, for each kind.
fn each_kind(io: crate::harness::Io, port: u16, mut check: impl FnMut(&Proxy, &Proxy)) {
    for (tunnel, cluster, connect, matches) in KINDS {
        let second = Proxy::start(io, &ending(port, connect, matches));
        let mut config = asking(second.port, tunnel, "");
        if !cluster.is_empty() {
            config = config.cluster(cluster);
        }
        let first = Proxy::start(io, &config);
        check(&first, &second);
        first.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", first.port), 0);
        second.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        first.end();
        second.end();
    }
}

/// Sends and receives at once.
fn exchange(client: &mut Client, up: &Arc<Vec<u8>>, down: usize) -> Vec<u8> {
    let (mut writer, up) = (client.stream().try_clone().unwrap(), Arc::clone(up));
    let sending = std::thread::spawn(move || writer.write_all(&up).unwrap());
    let received = client.read(down);
    sending.join().unwrap();
    received
}

on_each_backend! {
    fn endpoint_is_asked_and_bytes_pass_behind_its_answer(io) {
        let (up, down) = (Arc::new(Random::new(1).bytes(LARGE)), Arc::new(Random::new(2).bytes(LARGE)));
        let (expected, answer) = (Arc::clone(&up), Arc::clone(&down));
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            let head = peer.request_head().unwrap();
            let _ = tell.lock().unwrap().send((head.method().to_owned(), head.path().to_owned(), head.header("x-one").map(str::to_owned)));
            peer.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}first"));
            let received = peer.read(expected.len()).unwrap();
            assert!(received == *expected, "bytes changed on their way");
            assert!(peer.sees_end(), "the client's end comes behind its last byte");
            peer.send(&*answer);
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "headers_to_add: [{header: {key: x-one, value: \"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%\"}}]", ""));
        let mut client = proxy.connect();
        client.send(&*up);
        client.shutdown_write();
        let received = client.read_to_end();
        assert!(received.starts_with(b"first") && received[5..] == **down, "{} bytes", received.len());
        let asked = ("CONNECT".to_owned(), "end.test:443".to_owned(), Some("127.0.0.1".to_owned()));
        assert_eq!(told.recv().unwrap(), asked);
        proxy.wait_for_stat("tcp.relay.downstream_cx_rx_bytes_total", LARGE as u64);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_rx_bytes_total"), (LARGE + 28 + OK.len() + 5) as u64);
        proxy.end();
    }

    fn answers_that_make_no_tunnel_fail_the_attempt(io) {
        for answer in [
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret",
            "HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbroken",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: \0\r\n\r\nsecret",
            "",
        ] {
            let upstream = Upstream::start(move |peer| {
                peer.request_head();
                peer.send(answer);
            });
            let proxy = Proxy::start(io, &asking(upstream.port, "", "max_connect_attempts: 2,"));
            assert_eq!(proxy.connect().read_to_end(), b"", "{answer:?}");
            proxy.wait_for_stat("cluster.upstream.upstream_cx_connect_attempts_exceeded", 1);
            assert_eq!(upstream.connections(), 2, "{answer:?}");
            proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
            proxy.end();
        }
    }

    fn answer_without_end_is_given_up(io) {
        for line in ["x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", "\r\nHTTP/1.1 100 Continue\r\n", "a"] {
            let upstream = Upstream::start(move |peer| {
                peer.request_head();
                peer.send("HTTP/1.1 100 Continue\r\n");
                while peer.try_send(line).is_ok() {}
            });
            let proxy = Proxy::start(io, &asking(upstream.port, "", ""));
            proxy.connect().expect_closed();
            proxy.wait_for_stat("cluster.upstream.upstream_cx_protocol_error", 1);
            proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
            proxy.end();
        }
    }

    fn refused_tunnel_is_asked_for_again_and_nothing_is_lost(io) {
        let sent = Arc::new(Random::new(3).bytes(1 << 20));
        let expected = Arc::clone(&sent);
        let count = Mutex::new(0);
        let upstream = Upstream::start(move |peer| {
            peer.request_head();
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count < 3 {
                return peer.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
            }
            peer.send(OK);
            assert!(peer.read(expected.len()).unwrap() == *expected, "bytes changed on their way");
            peer.send("got it");
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "", "max_connect_attempts: 3,"));
        let mut client = proxy.connect();
        assert_eq!(exchange(&mut client, &sent, 6), b"got it");
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_attempts_exceeded"), 0);
        proxy.end();
    }

    fn endpoint_that_does_not_answer_is_waited_for_no_longer_than_a_silence_may_last(io) {
        let upstream = Upstream::start(|peer| {
            peer.request_head();
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "", "idle_timeout: 0.3s,"));
        proxy.connect().expect_closed();
        proxy.wait_for_stat("tcp.relay.idle_timeout", 1);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    fn transfer_through_a_post_outlives_the_idle_timeout_however_slow_its_reader_is(io) {
        let body = Arc::new(Random::new(9).bytes(2 << 20));
        let sent = Arc::clone(&body);
        let upstream = Upstream::start(move |peer| {
            peer.request_head();
            peer.send(OK);
            peer.send(&*sent);
            peer.sees_end();
        });
        let config = asking(upstream.port, "use_post: true", "idle_timeout: 1s,");
        let proxy = Proxy::start(io, &taking_little(config, 4 << 20));
        let mut client = proxy.connect();
        set_receive_buffer(client.stream(), 64 * 1024);
        assert!(read_slowly(&client, body.len(), 1 << 20) == *body, "bytes changed on their way");
        client.expect_closed();
        proxy.wait_for_stat("tcp.relay.idle_timeout", 1);
        proxy.end();
    }

    /// What it sent was swallowed, and its end taken for that of a tunnel that had ended in order.
    fn client_that_goes_on_when_the_endpoint_of_its_post_has_gone_is_reset(io) {
        let upstream = Upstream::start(|peer| {
            peer.request_head();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nanswer\r\n0\r\n\r\n");
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "use_post: true", "").listener(LOGS_ENDS));
        let mut client = proxy.connect();
        assert_eq!(client.read_to_end(), b"answer");
        until("it is told", || client.try_send("more").is_err());
        proxy.wait_for_log("ended <UR>");
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    /// The same where the tunnel ends here.
    fn client_that_goes_on_when_the_end_of_its_posted_tunnel_has_gone_is_told(io) {
        let upstream = Upstream::start(|peer| {
            peer.read(4);
            peer.send("answer");
        });
        let proxy = Proxy::start(io, &ending(upstream.port, "allow_post: true", "prefix: /"));
        let mut client = proxy.connect();
        let more = "4\r\nmore\r\n";
        client.send(format!("POST / HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n{more}"));
        assert_eq!(client.response().text(), "answer");
        until("it is told", || client.try_send(more).is_err());
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    /// The endpoint breaks while so much waits for it that the client is not read.
    fn what_an_endpoint_has_answered_to_a_post_arrives_although_it_breaks_off_then(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let upstream = Upstream::start(move |peer| {
            peer.request_head();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nanswer\r\n");
            let _ = may_go.lock().unwrap().recv();
            // Of what was sent to it much is unread: its close is a reset.
            peer.send("4\r\nlast\r\n0\r\n\r\n");
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "use_post: true", "").listener(LOGS_ENDS));
        let mut client = proxy.connect();
        assert_eq!(client.read(6), b"answer");
        let mut writer = client.stream().try_clone().unwrap();
        let sending = std::thread::spawn(move || writer.write_all(&vec![0; 4 * LARGE]).is_err());
        until("the client is held back", || proxy.stat("tcp.relay.downstream_flow_control_paused_reading_total") > 0);
        go.send(()).unwrap();
        assert_eq!(client.read(4), b"last");
        assert!(sending.join().unwrap(), "it is told that not all has arrived");
        proxy.wait_for_log("ended <UR>");
        proxy.end();
    }

    fn client_that_breaks_off_before_the_answer_leaves_nothing(io) {
        let upstream = Upstream::start(|peer| {
            peer.request_head();
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "", ""));
        let client = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
        upstream.wait_for_requests(1);
        client.reset_on_close();
        drop(client);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    /// Its task waited until the endpoint answered, and so did the end of the process.
    fn client_that_breaks_off_behind_its_words_before_the_answer_leaves_nothing(io) {
        let upstream = Upstream::start(|peer| {
            peer.request_head();
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &asking(upstream.port, "", ""));
        let mut client = proxy.connect();
        upstream.wait_for_requests(1);
        client.send("said before");
        client.reset_on_close();
        drop(client);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    /// The same, while it waited for a turn that did not come.
    fn client_that_breaks_off_while_it_waits_for_a_turn_leaves_nothing(io) {
        for cluster in ["", TO_HTTP2] {
            let upstream = Upstream::echo_bytes();
            let second = Proxy::start(io, &ending(upstream.port, "", "connect_matcher: {}"));
            let one_stream = cluster.replace("max_concurrent_streams: 100", "max_concurrent_streams: 1");
            assert!(cluster.is_empty() || one_stream != cluster, "{cluster}");
            let breakers = "circuit_breakers: {per_host_thresholds: [{max_connections: 1}]}";
            let mut config = asking(second.port, "", "").cluster(breakers).arguments(&["--concurrency", "1"]);
            if !cluster.is_empty() {
                config = config.cluster(&one_stream);
            }
            let first = Proxy::start(io, &config);
            let mut client = first.connect();
            client.send("ping");
            assert_eq!(client.read(4), b"ping");
            for said in ["", "said before"] {
                let mut late = first.connect();
                late.send(said);
                first.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
                late.reset_on_close();
                drop(late);
                first.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 0);
                first.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", first.port), 1);
            }
            client.send("pong");
            assert_eq!(client.read(4), b"pong");
            drop(client);
            first.end();
            second.end();
        }
    }

    fn large_transfers_pass_chains_of_every_kind(io) {
        let (up, down) = (Arc::new(Random::new(4).bytes(LARGE)), Arc::new(Random::new(5).bytes(LARGE)));
        let (expected, answer) = (Arc::clone(&up), Arc::clone(&down));
        let upstream = Upstream::start(move |peer| {
            let Some(received) = peer.read(expected.len()) else { return };
            assert!(received == *expected, "bytes changed on their way");
            peer.send(&*answer);
            assert!(peer.sees_end());
        });
        each_kind(io, upstream.port, |first, _| {
            let mut client = first.connect();
            assert!(exchange(&mut client, &up, down.len()) == *down, "bytes changed on their way");
        });
    }

    fn ends_of_one_direction_pass_chains_of_every_kind(io) {
        let upstream = Upstream::start(|peer| {
            if peer.read(4).is_some() && peer.sees_end() {
                peer.send("after the end");
            }
        });
        each_kind(io, upstream.port, |first, _| {
            let mut client = first.connect();
            client.send("ping");
            client.shutdown_write();
            assert_eq!(client.read_to_end(), b"after the end");
        });
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            peer.send("greeting");
            peer.shutdown_write();
            let _ = tell.lock().unwrap().send(peer.read(5));
        });
        each_kind(io, upstream.port, |first, _| {
            let mut client = first.connect();
            assert_eq!(client.read_to_end(), b"greeting");
            client.send("later");
            assert_eq!(told.recv().unwrap().as_deref(), Some(&b"later"[..]));
        });
    }

    fn break_of_the_client_ends_chains_of_every_kind(io) {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            peer.read(4);
            peer.send("pong");
            let _ = tell.lock().unwrap().send(peer.read(1));
        });
        each_kind(io, upstream.port, |first, _| {
            let mut client = first.connect();
            client.send("ping");
            assert_eq!(client.read(4), b"pong");
            client.reset_on_close();
            drop(client);
            assert_eq!(told.recv().unwrap(), None);
        });
    }

    /// The codec lets go of what it has not written of a stream that is reset.
    fn what_comes_before_a_client_breaks_off_goes_before_the_reset_of_its_stream(io) {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let port = RawHttp2::server(move |raw| {
            raw.frame(4, 0, 0, &[]);
            while let Some(frames) = raw.frames_until(|frame| frame.kind == 1) {
                let stream = frames.last().unwrap().stream;
                // `:status: 200`.
                raw.frame(1, 4, stream, &[0x88]);
                raw.frame(0, 0, stream, b"go");
                let _ = tell.lock().unwrap().send(raw.said_until_reset());
            }
        });
        let proxy = Proxy::start(io, &asking(port, "", "").cluster(TO_HTTP2));
        for _ in 0..20 {
            let mut client = proxy.connect();
            assert_eq!(client.read(2), b"go");
            client.send("last words");
            client.reset_on_close();
            drop(client);
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"last words");
        }
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        proxy.end();
    }

    /// The same the other way, of a tunnel that ends here.
    fn what_comes_before_an_endpoint_breaks_off_goes_before_the_reset_of_its_stream(io) {
        const ROUNDS: usize = 20;
        let (port, serving) = without_room(ROUNDS);
        let proxy = Proxy::start(io, &ending(port, "", "connect_matcher: {}"));
        for _ in 0..ROUNDS {
            let mut raw = RawHttp2::connect(proxy.port);
            // `:method: CONNECT`, `:authority: a:1`.
            raw.frame(1, 4, 1, b"\x02\x07CONNECT\x41\x03a:1");
            raw.frame(0, 0, 1, b"x");
            assert_eq!(raw.said_until_reset(), b"no room");
        }
        serving.join().unwrap();
        proxy.end();
    }

    fn tunnels_over_http2_share_a_connection(io) {
        let upstream = Upstream::echo_bytes();
        let second = Proxy::start(io, &ending(upstream.port, "", "connect_matcher: {}"));
        let config = asking(second.port, "", "").cluster(TO_HTTP2).arguments(&["--concurrency", "1"]);
        let first = Proxy::start(io, &config);
        let mut clients: Vec<_> = (0..40).map(|_| first.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send([number as u8; 1000]);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.read(1000), [number as u8; 1000]);
        }
        assert_eq!(first.stat("cluster.upstream.upstream_cx_total"), 1);
        assert_eq!(upstream.connections(), 40);
        drop(clients);
        first.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        second.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        first.end();
        second.end();
    }

    fn slow_reader_behind_streams_holds_back_the_sender_not_memory(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let body = Arc::new(Random::new(6).bytes(4 * LARGE));
        let expected = Arc::clone(&body);
        let upstream = Upstream::start(move |peer| {
            let _ = may_go.lock().unwrap().recv();
            assert!(peer.read(expected.len()).unwrap() == *expected, "bytes changed on their way");
            peer.send("got it");
        });
        let second = Proxy::start(io, &ending(upstream.port, "", "connect_matcher: {}"));
        let first = Proxy::start(io, &asking(second.port, "", "").cluster(TO_HTTP2));
        let before = (first.resident_bytes(), second.resident_bytes());
        let client = first.connect();
        let (mut writer, mut reader) = (client.stream().try_clone().unwrap(), client.stream().try_clone().unwrap());
        let sent = Arc::clone(&body);
        let sending = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        until("the client is held back", || first.stat("tcp.relay.downstream_flow_control_paused_reading_total") > 0);
        assert!(!sending.is_finished());
        let grown = (first.resident_bytes().saturating_sub(before.0), second.resident_bytes().saturating_sub(before.1));
        assert!(grown.0 < 12 << 20 && grown.1 < 12 << 20, "grew by {grown:?} bytes");
        go.send(()).unwrap();
        let mut answer = [0; 6];
        reader.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"got it");
        sending.join().unwrap();
        first.end();
        second.end();
    }

    fn tunnels_go_over_tls(io) {
        let upstream = Upstream::echo_bytes();
        let authority = Authority::of(&["end.test"]);
        for cluster in ["", TO_HTTP2] {
            let config = ending(upstream.port, "", "connect_matcher: {}");
            let common = format!("{}, alpn_protocols: [h2, http/1.1]", authority.shown("end.test"));
            let second = Proxy::start(io, &config.chain(&downstream_tls("", &common)));
            let mut config = asking(second.port, "", "").cluster(&upstream_tls("sni: end.test,", &authority.trusted()));
            if !cluster.is_empty() {
                config = config.cluster(cluster);
            }
            let first = Proxy::start(io, &config);
            let mut client = first.connect();
            let sent = Arc::new(Random::new(7).bytes(64 << 10));
            assert!(exchange(&mut client, &sent, sent.len()) == *sent, "bytes changed on their way");
            first.end();
            second.end();
        }
    }

    fn tunnel_that_ends_here_names_its_client_to_the_endpoint(io) {
        for (version, kind) in [("V1", 0), ("V2", 0), ("V1", 2)] {
            let upstream = Upstream::start(move |peer| {
                let (header, length) = if version == "V1" { (&b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..], 31) } else { (&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], 14) };
                assert_eq!(peer.read(length).unwrap(), header);
                while peer.read(1).unwrap() != b"!" {}
                peer.send("pong");
                peer.sees_end();
            });
            let (tunnel, _, connect, matches) = KINDS[kind];
            let connect = format!("proxy_protocol_config: {{version: {version}}}, {connect}");
            let second = Proxy::start(io, &ending(upstream.port, &connect, matches));
            let first = Proxy::start(io, &asking(second.port, tunnel, ""));
            let mut client = first.connect();
            client.send("ping!");
            assert_eq!(client.read(4), b"pong");
            first.end();
            second.end();
        }
    }
}
