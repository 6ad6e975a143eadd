//! Filter chains, the TCP proxy and small network filters over real sockets. What they have in common with Envoy, case by case,
//! is `tests/peers/protocols.py`'s and `filter_chains.py`'s.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{
    Authority, Client, Config, Proxy, Random, TLS_INSPECTOR, TlsClient, Upstream, cluster_to, downstream_tls,
    free_port, on_each_backend, set_receive_buffer, until, upstream_tls,
};

const LARGE: usize = 12 << 20;
/// A field of the listener: its log, on the standard error.
pub(crate) const LOGS_ENDS: &str = "access_log: {name: stderr, typed_config: {\"@type\": \
     type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
     {text_format_source: {inline_string: \"ended <%RESPONSE_FLAGS%>\\n\"}}}}";
/// In so many pieces, and with such a rest before each, a slow reader takes what is left.
const PIECES: usize = 40;
const BETWEEN_PIECES: Duration = Duration::from_millis(75);

/// A filter by what its type ends with.
pub(crate) fn filter(kind: &str, message: &str, fields: &str) -> String {
    format!(
        "{{name: {kind}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.{kind}.v3.{message}, {fields}}}}}"
    )
}

/// The port of an endpoint that tells so many clients, as soon as they say something, that it has no room, and breaks off behind
/// that.
pub(crate) fn without_room(clients: usize) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        for _ in 0..clients {
            let mut peer = Client::from_stream(listener.accept().unwrap().0);
            assert_eq!(peer.read(1), b"x");
            peer.send("no room");
            peer.reset_on_close();
        }
    });
    (port, serving)
}

pub(crate) fn tcp_proxy(fields: &str) -> String {
    filter("tcp_proxy", "TcpProxy", &format!("stat_prefix: relay, {fields}"))
}

fn direct_response(text: &str) -> String {
    filter("direct_response", "Config", &format!("response: {{inline_string: {text}}}"))
}

/// A chain of these filters, with more fields.
pub(crate) fn chain(fields: &str, filters: &[String]) -> String {
    format!("{{{fields}filters: [{}]}}", filters.join(", "))
}

/// A listener whose only chain relays to that port, after other filters.
pub(crate) fn relaying(port: u16, before: &[String], fields: &str) -> Config {
    let mut filters = before.to_vec();
    filters.push(tcp_proxy(&format!("cluster: upstream, {fields}")));
    Config::to(port).chains(&[chain("", &filters)])
}

/// What arrives until the end, and how that came.
fn rest(client: &Client) -> (Vec<u8>, Option<i32>) {
    let mut bytes = Vec::new();
    let outcome = client.stream().read_to_end(&mut bytes);
    (bytes, outcome.err().and_then(|error| error.raw_os_error()))
}

/// The listener's sockets take few bytes for a client (SO_SNDBUF): up to that many wait in the proxy.
pub(crate) fn taking_little(config: Config, limit: usize) -> Config {
    config
        .listener("socket_options: [{level: 1, name: 7, int_value: 16384, state: STATE_PREBIND}]")
        .listener(&format!("per_connection_buffer_limit_bytes: {limit}"))
}

/// Reads that many bytes, and takes three seconds for the last of them.
pub(crate) fn read_slowly(client: &Client, count: usize, last: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let (soon, late) = bytes.split_at_mut(count - last);
    let mut stream = client.stream();
    stream.read_exact(soon).unwrap();
    for piece in late.chunks_mut(last / PIECES + 1) {
        std::thread::park_timeout(BETWEEN_PIECES);
        stream.read_exact(piece).unwrap();
    }
    bytes
}

on_each_backend! {
    fn bytes_pass_both_ways_and_each_end_is_passed_on_behind_them(io) {
        let up = Arc::new(Random::new(1).bytes(LARGE));
        let down = Arc::new(Random::new(2).bytes(LARGE));
        let (expected, answer) = (Arc::clone(&up), Arc::clone(&down));
        let upstream = Upstream::start(move |peer| {
            let received = peer.read(expected.len()).unwrap();
            assert!(received == *expected, "bytes changed on their way");
            assert!(peer.sees_end(), "the client's end comes behind its last byte");
            peer.send(&*answer);
        });
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], ""));
        let mut client = proxy.connect();
        client.send(&*up);
        client.shutdown_write();
        let (received, broken) = rest(&client);
        assert!(received == *down && broken.is_none(), "{} bytes, {broken:?}", received.len());
        drop(client);
        proxy.wait_for_stat("tcp.relay.downstream_cx_rx_bytes_total", LARGE as u64);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_rx_bytes_total", LARGE as u64);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.port), 0);
        proxy.end();
    }

    /// An endpoint that has no room for another client says so, and often breaks off behind it.
    fn what_comes_before_a_break_goes_before_it(io) {
        const ROUNDS: usize = 20;
        let (port, serving) = without_room(ROUNDS);
        let proxy = Proxy::start(io, &relaying(port, &[], ""));
        for _ in 0..ROUNDS {
            let mut client = proxy.connect();
            client.send("x");
            assert_eq!(rest(&client), (b"no room".to_vec(), Some(libc::ECONNRESET)));
        }
        serving.join().unwrap();
        proxy.end();
    }

    fn server_that_ends_first_still_hears_the_client(io) {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            peer.send("greeting");
            peer.shutdown_write();
            let _ = tell.lock().unwrap().send(peer.read(5));
        });
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], ""));
        let mut client = proxy.connect();
        assert_eq!(client.read_to_end(), b"greeting");
        client.send("later");
        assert_eq!(told.recv().unwrap().as_deref(), Some(&b"later"[..]));
        proxy.end();
    }

    fn break_of_either_side_breaks_the_other(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            let outcome = first.read(&mut [0; 8]).map_err(|error| error.kind());
            let _ = tell.lock().unwrap().send(outcome);
            let (second, _) = listener.accept().unwrap();
            let _ = may_go.lock().unwrap().recv();
            Client::from_stream(second).reset_on_close();
        });
        let types = "%DOWNSTREAM_DETECTED_CLOSE_TYPE% %UPSTREAM_DETECTED_CLOSE_TYPE%";
        let log = LOGS_ENDS.replace("%RESPONSE_FLAGS%", types);
        let proxy = Proxy::start(io, &relaying(port, &[], "").listener(&log));
        let client = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
        client.reset_on_close();
        drop(client);
        assert_eq!(told.recv().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
        proxy.wait_for_log("ended <RemoteReset ");
        let client = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_total", 2);
        go.send(()).unwrap();
        assert_eq!(rest(&client).1, Some(libc::ECONNRESET));
        proxy.wait_for_log("ended <LocalReset RemoteReset>");
        serving.join().unwrap();
        proxy.end();
    }

    /// The kernel tells of it only to who writes.
    fn break_behind_an_end_shows_with_the_next_byte(io) {
        let (go, may_go) = channel::<()>();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the client's end");
            may_go.recv().unwrap();
            peer.write_all(b"x").unwrap();
            may_go.recv().unwrap();
            while peer.write(b"x").is_ok() {}
        });
        let proxy = Proxy::start(io, &relaying(port, &[], ""));
        let client = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
        client.shutdown_write();
        client.reset_on_close();
        drop(client);
        go.send(()).unwrap();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        go.send(()).unwrap();
        serving.join().unwrap();
        proxy.end();
    }

    fn slow_reader_holds_back_the_sender_not_memory(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let body = Arc::new(Random::new(3).bytes(4 * LARGE));
        let expected = Arc::clone(&body);
        let upstream = Upstream::start(move |peer| {
            let _ = may_go.lock().unwrap().recv();
            let received = peer.read(expected.len()).unwrap();
            assert!(received == *expected, "bytes changed on their way");
            peer.send("got it");
        });
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], ""));
        let before = proxy.resident_bytes();
        let mut client = proxy.connect();
        let mut writer = client.stream().try_clone().unwrap();
        let sent = Arc::clone(&body);
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &sent).unwrap());
        until("the client is held back", || {
            proxy.stat("tcp.relay.downstream_flow_control_paused_reading_total") > 0
        });
        assert!(!sending.is_finished());
        let grown = proxy.resident_bytes().saturating_sub(before);
        assert!(grown < 12 << 20, "grew by {grown} bytes");
        go.send(()).unwrap();
        assert_eq!(client.read(6), b"got it");
        sending.join().unwrap();
        proxy.end();
    }

    fn silence_ends_a_relay_after_its_idle_timeout(io) {
        let upstream = Upstream::echo_bytes();
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], "idle_timeout: 1s"));
        let mut client = proxy.connect();
        client.send("x");
        assert_eq!(client.read(1), b"x");
        client.expect_closed();
        proxy.wait_for_stat("tcp.relay.idle_timeout", 1);
        proxy.end();
    }

    /// It counted from what was taken last: a reader that had more than that to take was cut off.
    fn transfer_that_moves_outlives_the_idle_timeout_however_slow_its_reader_is(io) {
        let body = Arc::new(Random::new(8).bytes(2 << 20));
        // As chunks all of it is taken at once; of what goes by pipe the last waits there.
        for (limit, last) in [(4 << 20, 1 << 20), (1 << 20, 512 << 10)] {
            let sent = Arc::clone(&body);
            let upstream = Upstream::start(move |peer| {
                peer.send(&*sent);
                peer.sees_end();
            });
            let config = relaying(upstream.port, &[], "idle_timeout: 1s");
            let proxy = Proxy::start(io, &taking_little(config, limit));
            let mut client = proxy.connect();
            set_receive_buffer(client.stream(), 64 * 1024);
            assert!(read_slowly(&client, body.len(), last) == *body, "bytes changed on their way");
            client.expect_closed();
            proxy.wait_for_stat("tcp.relay.idle_timeout", 1);
            proxy.end();
        }
    }

    fn transfer_that_does_not_move_ends_after_the_idle_timeout(io) {
        for limit in [4 << 20, 1 << 20] {
            let upstream = Upstream::start(|peer| {
                let _ = peer.try_send(vec![0u8; 8 << 20]);
            });
            let config = relaying(upstream.port, &[], "idle_timeout: 0.5s");
            let proxy = Proxy::start(io, &taking_little(config, limit));
            let _client = proxy.connect();
            proxy.wait_for_stat("tcp.relay.idle_timeout", 1);
            proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
            proxy.end();
        }
    }

    fn relay_lasts_no_longer_than_it_may(io) {
        let upstream = Upstream::echo_bytes();
        let fields = "max_downstream_connection_duration: 0.3s";
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], fields));
        proxy.connect().expect_closed();
        proxy.wait_for_stat("tcp.relay.max_downstream_connection_duration", 1);
        proxy.end();
    }

    fn drain_ends_a_relay_that_heeds_it_with_its_next_bytes(io) {
        let upstream = Upstream::echo_bytes();
        let reason = LOGS_ENDS.replace("RESPONSE_FLAGS", "DOWNSTREAM_LOCAL_CLOSE_REASON");
        for (fields, heeds) in [("check_drain_close: true", true), ("", false)] {
            let proxy = Proxy::start(io, &relaying(upstream.port, &[], fields).listener(&reason));
            let active = format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.port);
            let (mut client, mut idle) = (proxy.connect(), proxy.connect());
            for client in [&mut client, &mut idle] {
                client.send("x");
                assert_eq!(client.read(1), b"x");
            }
            assert_eq!(proxy.admin("POST", "/healthcheck/fail").status(), 200);
            let mut echoes = || client.try_send("x").is_ok() && matches!(client.stream().read(&mut [0]), Ok(1));
            if heeds {
                until("the next bytes are the last", || !echoes());
                proxy.wait_for_log("ended <tcp_proxy_drain_close>");
                proxy.wait_for_stat("tcp.relay.downstream_cx_drain_close", 1);
                // Who says nothing stays.
                proxy.wait_for_stat(&active, 1);
            } else {
                // Workers have been told by then.
                until("it is not ready", || proxy.admin("GET", "/ready").status() == 503);
                assert!((0..20).all(|_| echoes()));
                assert_eq!(proxy.stat(&active), 2);
            }
            proxy.end();
        }
    }

    fn last_bytes_wait_for_their_reader_no_longer_than_the_relay_may_last(io) {
        let upstream = Upstream::start(|peer| {
            peer.send(vec![0u8; 2 << 20]);
            peer.shutdown_write();
            peer.sees_end();
        });
        let fields = "max_downstream_connection_duration: 2s, idle_timeout: 0s";
        let config = taking_little(relaying(upstream.port, &[], fields), 4 << 20).listener(LOGS_ENDS);
        let proxy = Proxy::start(io, &config);
        let client = proxy.connect();
        client.shutdown_write();
        // Both sides have ended in order before the time was up.
        proxy.wait_for_log("ended <->");
        proxy.wait_for_stat("tcp.relay.max_downstream_connection_duration", 1);
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.port), 0);
        proxy.end();
    }

    /// Neither an attempt nor the wait between two outlives it.
    fn connection_that_reaches_nobody_lasts_no_longer_than_it_may(io) {
        let silent = Upstream::start(|peer| while peer.read(1).is_some() {});
        let dead = free_port();
        let fields = "max_downstream_connection_duration: 0.3s";
        let mut handshake = relaying(silent.port, &[], fields);
        handshake.cluster = format!("{}, ", upstream_tls("", ""));
        let waits = "max_connect_attempts: 9, backoff_options: {base_interval: 1000s, max_interval: 1000s}";
        for config in [handshake, relaying(dead, &[], &format!("{fields}, {waits}"))] {
            let proxy = Proxy::start(io, &config);
            proxy.connect().expect_closed();
            proxy.wait_for_stat("tcp.relay.max_downstream_connection_duration", 1);
            assert_eq!(proxy.stat("cluster.upstream.upstream_cx_active"), 0);
            assert_eq!(proxy.stat("cluster.upstream.upstream_rq_pending_active"), 0);
            proxy.end();
        }
    }

    /// Its task waited the time before the next attempt out, and so did the end of the process.
    fn client_that_breaks_off_between_two_attempts_is_gone_at_once(io) {
        let dead = free_port();
        let waits = "max_connect_attempts: 9, backoff_options: {base_interval: 1000s, max_interval: 1000s}";
        let proxy = Proxy::start(io, &relaying(dead, &[], waits));
        for (round, said) in ["", "said before"].iter().enumerate() {
            let mut client = proxy.connect();
            client.send(said);
            proxy.wait_for_stat("cluster.upstream.upstream_cx_connect_fail", 1 + round as u64);
            client.reset_on_close();
            drop(client);
            proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.port), 0);
        }
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_attempts_exceeded"), 0);
        proxy.end();
    }

    fn endpoint_that_refuses_is_followed_by_another_as_often_as_allowed(io) {
        let upstream = Upstream::echo_bytes();
        let dead = free_port();
        let endpoint = |port| format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}");
        let cluster = |name: &str, endpoints: &[String]| format!(
            "{{name: {name}, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            endpoints.join(", ")
        );
        let mut config = relaying(upstream.port, &[], "max_connect_attempts: 2");
        config.clusters = Some(cluster("upstream", &[endpoint(dead), endpoint(upstream.port)]));
        let proxy = Proxy::start(io, &config);
        for _ in 0..4 {
            let mut client = proxy.connect();
            client.send("hello");
            assert_eq!(client.read(5), b"hello");
        }
        assert!(proxy.stat("cluster.upstream.upstream_cx_connect_fail") >= 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_attempts_exceeded"), 0);
        proxy.end();
        config.clusters = Some(cluster("upstream", &[endpoint(dead)]));
        let proxy = Proxy::start(io, &config);
        proxy.connect().expect_closed();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_connect_attempts_exceeded", 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_fail"), 2);
        proxy.end();
    }

    /// As in Envoy: each attempt draws anew.
    fn endpoint_that_refuses_is_followed_by_one_of_another_cluster_where_they_have_weights(io) {
        let upstream = Upstream::echo_bytes();
        let dead = free_port();
        let weighted = "weighted_clusters: {clusters: [{name: dead, weight: 1}, {name: upstream, weight: 1}]}, max_connect_attempts: 60";
        let mut config = Config::to(1).chains(&[chain("", &[tcp_proxy(weighted)])]);
        config.clusters =
            Some(format!("{{{}}}, {{{}}}", cluster_to("dead", dead), cluster_to("upstream", upstream.port)));
        let proxy = Proxy::start(io, &config);
        until("the first draw was the wrong one", || {
            let mut client = proxy.connect();
            client.send("hello");
            assert_eq!(client.read(5), b"hello");
            proxy.stat("cluster.dead.upstream_cx_connect_fail") > 0
        });
        assert_eq!(proxy.stat("cluster.dead.upstream_cx_connect_attempts_exceeded"), 0);
        proxy.end();
    }

    /// As in Envoy: the time begins before there is an endpoint.
    fn silence_of_an_endpoint_that_is_not_reached_is_silence(io) {
        let silent = Upstream::start(|peer| while peer.read(1).is_some() {});
        let mut config = relaying(silent.port, &[], "idle_timeout: 0.3s");
        config.cluster = format!("{}, ", upstream_tls("", ""));
        let proxy = Proxy::start(io, &config.listener(&LOGS_ENDS.replace("RESPONSE_FLAGS", "DOWNSTREAM_LOCAL_CLOSE_REASON")));
        proxy.connect().expect_closed();
        proxy.wait_for_log("ended <tcp_session_idle_timeout>");
        assert_eq!(proxy.stat("tcp.relay.idle_timeout"), 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_cancelled"), 1);
        for gone in ["upstream_cx_active", "upstream_rq_pending_active", "upstream_cx_connect_timeout"] {
            assert_eq!(proxy.stat(&format!("cluster.upstream.{gone}")), 0, "{gone}");
        }
        proxy.end();
    }

    fn relay_to_a_cluster_that_is_not_there_is_closed(io) {
        let config = Config::to(1).chains(&[chain("", &[tcp_proxy("cluster: nowhere")])]);
        let proxy = Proxy::start(io, &config);
        proxy.connect().expect_closed();
        proxy.wait_for_stat("tcp.relay.downstream_cx_no_route", 1);
        proxy.end();
    }

    /// In Envoy's words and numbers.
    fn records_tell_why_a_connection_reaches_no_endpoint(io) {
        let reason = LOGS_ENDS.replace("RESPONSE_FLAGS", "DOWNSTREAM_LOCAL_CLOSE_REASON");
        let refuses = || relaying(free_port(), &[], "");
        let no_endpoint = "{name: upstream, load_assignment: {cluster_name: upstream}}".to_owned();
        let without = Config { clusters: Some(no_endpoint), ..refuses() };
        let full = refuses().cluster("circuit_breakers: {thresholds: [{max_connections: 0}]}");
        let nowhere = Config::to(1).chains(&[chain("", &[tcp_proxy("cluster: nowhere")])]);
        for (number, config) in [refuses(), without, full, nowhere].into_iter().enumerate() {
            let proxy = Proxy::start(io, &config.listener(&reason));
            proxy.connect().expect_closed();
            proxy.wait_for_log(&format!("ended <tcp_initializion_failure:{number}>"));
            proxy.end();
        }
    }

    fn records_of_a_connection_have_one_id_and_what_has_passed_on_both_sides(io) {
        let upstream = Upstream::start(|peer| {
            assert!(peer.read(5).is_some());
            peer.send("squack");
        });
        let log = LOGS_ENDS.replace("ended <%RESPONSE_FLAGS%>", "%ACCESS_LOG_TYPE% \
            <%DOWNSTREAM_WIRE_BYTES_RECEIVED% %DOWNSTREAM_WIRE_BYTES_SENT% %UPSTREAM_WIRE_BYTES_RECEIVED% %UPSTREAM_WIRE_BYTES_SENT% \
            %UPSTREAM_REQUEST_ATTEMPT_COUNT%> %STREAM_ID%");
        let log = log.strip_prefix("access_log: ").unwrap();
        let fields = format!("access_log: [{log}], access_log_options: {{flush_access_log_on_start: true}}");
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], &fields));
        let mut client = proxy.connect();
        client.send("hello");
        assert_eq!(client.read(6), b"squack");
        drop(client);
        let (start, end) = ("TcpConnectionStart <0 0 0 0 0> ", "TcpConnectionEnd <5 6 6 5 1> ");
        proxy.wait_for_log(end);
        let id = proxy.after_in_log(start).unwrap();
        assert_eq!((id.len(), Some(&id)), (36, proxy.after_in_log(end).as_ref()));
        proxy.end();
    }

    /// Those of all attempts, in Envoy's order; a connection has the last at most.
    fn records_tell_of_every_endpoint_that_was_tried(io) {
        let upstream = Upstream::echo_bytes();
        let dead = free_port();
        let attempts = "%UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT% \
            %UPSTREAM_REQUEST_ATTEMPT_COUNT%> %UPSTREAM_CONNECTION_IDS_ATTEMPTED% %UPSTREAM_CONNECTION_ID%";
        let log = LOGS_ENDS.replace("%RESPONSE_FLAGS%>", attempts);
        let trying = |endpoints: &[u16]| {
            let endpoint = |port: &u16| format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}");
            let endpoints = endpoints.iter().map(endpoint).collect::<Vec<_>>().join(", ");
            let mut config = relaying(upstream.port, &[], "max_connect_attempts: 2").listener(&log);
            config.clusters = Some(format!(
                "{{name: upstream, connect_timeout: 5s, load_assignment: {{cluster_name: upstream, endpoints: \
                 [{{lb_endpoints: [{endpoints}]}}]}}}}"
            ));
            Proxy::start(io, &config)
        };
        let proxy = trying(&[dead]);
        proxy.connect().expect_closed();
        proxy.wait_for_log(&format!("ended <127.0.0.1:{dead},127.0.0.1:{dead} 127.0.0.1,127.0.0.1 2> - 0\n"));
        proxy.end();
        for (endpoints, tried) in [
            (vec![dead, upstream.port], format!("127.0.0.1:{dead},127.0.0.1:{} 127.0.0.1,127.0.0.1 2", upstream.port)),
            (vec![upstream.port], format!("127.0.0.1:{} 127.0.0.1 1", upstream.port)),
        ] {
            let proxy = trying(&endpoints);
            // They take turns, whoever begins: the second client's first is the one that is dead.
            for _ in 0..2 {
                let mut client = proxy.connect();
                client.send("hello");
                assert_eq!(client.read(5), b"hello");
            }
            let tried = format!("ended <{tried}> ");
            proxy.wait_for_log(&tried);
            let ids = proxy.after_in_log(&tried).unwrap();
            let (attempted, last) = ids.split_once(' ').unwrap();
            assert_eq!(attempted, last);
            assert_ne!(last, "0");
            proxy.end();
        }
    }

    fn records_tell_why_the_connection_to_an_endpoint_was_closed(io) {
        let upstream = Upstream::start(|peer| while peer.read(1).is_some() {});
        let reason = LOGS_ENDS.replace("RESPONSE_FLAGS", "UPSTREAM_LOCAL_CLOSE_REASON");
        let of_client = "closing_upstream_tcp_connection_due_to_downstream";
        for (fields, expected) in [
            ("idle_timeout: 0.3s", "tcp_session_idle_timeout".to_owned()),
            ("max_downstream_connection_duration: 0.3s", format!("{of_client}_local_close")),
        ] {
            let proxy = Proxy::start(io, &relaying(upstream.port, &[], fields).listener(&reason));
            proxy.connect().expect_closed();
            proxy.wait_for_log(&format!("ended <{expected}>"));
            proxy.end();
        }
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], "").listener(&reason));
        let client = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
        client.reset_on_close();
        drop(client);
        proxy.wait_for_log(&format!("ended <{of_client}_reset_close>"));
        // Who ends in order closes nothing.
        proxy.connect().shutdown_write();
        proxy.wait_for_log("ended <->");
        proxy.end();
    }

    fn records_name_the_cluster_as_its_statistics_do(io) {
        let upstream = Upstream::echo_bytes();
        let names = LOGS_ENDS.replace("%RESPONSE_FLAGS%", "%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%");
        let config = relaying(upstream.port, &[], "").cluster("alt_stat_name: other").listener(&names);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("hello");
        assert_eq!(client.read(5), b"hello");
        drop(client);
        proxy.wait_for_log("ended <other upstream>");
        proxy.end();
    }

    fn records_tell_when_both_connections_of_a_relay_were_made(io) {
        let upstream = Upstream::echo_bytes();
        let moments = "%COMMON_DURATION(DS_CX_BEG:US_CX_BEG:ns)% %COMMON_DURATION(US_CX_BEG:US_CX_END:ns)% \
            %COMMON_DURATION(US_CX_END:DS_CX_END:ns)% %COMMON_DURATION(DS_CX_BEG:DS_CX_END:ns)% \
            %UPSTREAM_CONNECTION_POOL_READY_DURATION%";
        let log = LOGS_ENDS.replace("ended <%RESPONSE_FLAGS%>", &format!("%ACCESS_LOG_TYPE% <{moments}>"));
        let log = log.strip_prefix("access_log: ").unwrap();
        let fields = format!("access_log: [{log}], access_log_options: {{flush_access_log_on_start: true}}");
        let proxy = Proxy::start(io, &relaying(upstream.port, &[], &fields));
        let mut client = proxy.connect();
        client.send("hello");
        assert_eq!(client.read(5), b"hello");
        proxy.wait_for_log("TcpConnectionStart <- - - - ->");
        drop(client);
        proxy.wait_for_log("TcpConnectionEnd <");
        let text = proxy.after_in_log("TcpConnectionEnd <").unwrap();
        let numbers = text.trim_end_matches('>').split(' ');
        let took: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        assert_eq!(took[0] + took[1] + took[2], took[3], "{took:?}");
        assert!(took[4] <= took[3] / 1_000_000, "{took:?}");
        proxy.end();
    }

    fn weights_share_connections_out(io) {
        let (one, three) = (Upstream::echo_bytes(), Upstream::echo_bytes());
        let weighted = "weighted_clusters: {clusters: [{name: one, weight: 1}, {name: three, weight: 3}]}";
        let mut config = Config::to(1).chains(&[chain("", &[tcp_proxy(weighted)])]);
        config.clusters =
            Some(format!("{{{}}}, {{{}}}", cluster_to("one", one.port), cluster_to("three", three.port)));
        let proxy = Proxy::start(io, &config);
        for _ in 0..200 {
            let mut client = proxy.connect();
            client.send("x");
            assert_eq!(client.read(1), b"x");
        }
        let share = proxy.stat("cluster.three.upstream_cx_total");
        assert!((120..=180).contains(&share), "{share} of 200 where 150 are due");
        proxy.end();
    }

    fn connection_is_served_by_the_chain_that_it_matches(io) {
        let here = chain("filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]}, ", &[direct_response("here")]);
        let there = chain("filter_chain_match: {source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}, ", &[direct_response("there")]);
        let config = Config::to(1).chains(&[there.clone(), here]);
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().read_to_end(), b"here");
        proxy.end();
        let config = Config::to(1).chains(std::slice::from_ref(&there));
        let proxy = Proxy::start(io, &config);
        proxy.connect().expect_closed();
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.no_filter_chain_match", proxy.port), 1);
        proxy.end();
        let default = format!("default_filter_chain: {}", chain("", &[direct_response("default")]));
        let config = Config::to(1).chains(&[there]).listener(&default);
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().read_to_end(), b"default");
        proxy.end();
    }

    fn chains_have_certificates_of_their_own_by_server_name(io) {
        let upstream = Upstream::echo_bytes();
        let names = ["one.example", "two.example"];
        let authorities = names.map(|name| Authority::of(&[name]));
        let chains: Vec<_> = names.iter().zip(&authorities).map(|(name, authority)| {
            let fields = format!(
                "filter_chain_match: {{server_names: [{name}]}}, {}, ",
                downstream_tls("", &authority.shown(name))
            );
            chain(&fields, &[tcp_proxy("cluster: upstream")])
        }).collect();
        let proxy = Proxy::start(io, &Config::to(upstream.port).chains(&chains).listener(TLS_INSPECTOR));
        for (name, authority) in names.iter().zip(&authorities) {
            let mut client = TlsClient::connect(proxy.port, authority, name, &[]);
            client.try_send(b"secret").unwrap();
            assert_eq!(client.read(6), b"secret");
        }
        proxy.end();
    }

    fn connections_beyond_a_limit_are_closed_until_one_has_gone(io) {
        let upstream = Upstream::echo_bytes();
        let limit = filter("connection_limit", "ConnectionLimit", "stat_prefix: few, max_connections: 1");
        let proxy = Proxy::start(io, &relaying(upstream.port, &[limit], ""));
        let mut first = proxy.connect();
        first.send("x");
        assert_eq!(first.read(1), b"x");
        proxy.connect().expect_closed();
        assert_eq!(proxy.stat("connection_limit.few.limited_connections"), 1);
        drop(first);
        proxy.wait_for_stat("connection_limit.few.active_connections", 0);
        let mut next = proxy.connect();
        next.send("y");
        assert_eq!(next.read(1), b"y");
        proxy.end();
    }

    fn connections_take_tokens(io) {
        let bucket = "token_bucket: {max_tokens: 2, fill_interval: 3600s}";
        let limit = filter("local_ratelimit", "LocalRateLimit", &format!("stat_prefix: slow, {bucket}"));
        let config = Config::to(1).chains(&[chain("", &[limit, direct_response("hi")])]);
        let proxy = Proxy::start(io, &config);
        for _ in 0..2 {
            assert_eq!(proxy.connect().read_to_end(), b"hi");
        }
        proxy.connect().expect_closed();
        assert_eq!(proxy.stat("local_rate_limit.slow.rate_limited"), 1);
        proxy.end();
    }

    fn echo_sends_everything_back(io) {
        let config = Config::to(1).chains(&[chain("", &[filter("echo", "Echo", "")])]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let sent = Random::new(5).bytes(2 << 20);
        let mut writer = client.stream().try_clone().unwrap();
        let bytes = sent.clone();
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
        assert!(client.read(sent.len()) == sent);
        sending.join().unwrap();
        client.shutdown_write();
        assert!(client.read_to_end().is_empty());
        proxy.end();
    }

    /// However early that end is there, and however late the client reads.
    fn echo_sends_back_all_that_came_before_the_clients_end(io) {
        let config = Config::to(1).chains(&[chain("", &[filter("echo", "Echo", "")])]);
        let proxy = Proxy::start(io, &config);
        for size in [1, 1 << 20] {
            for _ in 0..5 {
                let mut client = proxy.connect();
                set_receive_buffer(client.stream(), 64 * 1024);
                let sent = Random::new(6).bytes(size);
                client.send(&sent);
                client.shutdown_write();
                let received = client.read_to_end();
                assert!(received == sent, "{} bytes of {size}", received.len());
            }
        }
        proxy.end();
    }

    fn records_tell_what_shadow_rules_say_and_whether_a_connection_is_to_be_logged(io) {
        let noted = LOGS_ENDS.replace(
            "%RESPONSE_FLAGS%",
            "%DYNAMIC_METADATA(envoy.filters.network.rbac)% %DYNAMIC_METADATA(envoy.common:access_log_hint)%",
        );
        let policies = |address: &str| format!(
            "policies: {{these: {{permissions: [{{any: true}}], principals: [{{direct_remote_ip: {{address_prefix: {address}, prefix_len: 32}}}}]}}}}"
        );
        let rbac = filter("rbac", "RBAC", &format!(
            "stat_prefix: who, rules: {{action: LOG, {}}}, shadow_rules: {{{}}}, shadow_rules_stat_prefix: dry_",
            policies("10.0.0.1"), policies("127.0.0.1")
        ));
        let expected = "{\"dry_shadow_effective_policy_id\":\"these\",\"dry_shadow_engine_result\":\"allowed\"} false";
        let upstream = Upstream::echo_bytes();
        let http = Upstream::echo();
        let echoes = Config::to(1).chains(&[chain("", &[rbac.clone(), filter("echo", "Echo", "")])]);
        let configs = [relaying(upstream.port, std::slice::from_ref(&rbac), ""), echoes, Config::to(http.port).network_filter(&rbac)];
        for (number, config) in configs.into_iter().enumerate() {
            let proxy = Proxy::start(io, &config.listener(&noted));
            let mut client = proxy.connect();
            if number == 2 {
                assert_eq!(client.get("/").status(), 200);
            } else {
                client.send("x");
                assert_eq!(client.read(1), b"x");
            }
            drop(client);
            proxy.wait_for_log(&format!("ended <{expected}>"));
            proxy.end();
        }
    }

    /// What the server says first does not pass unasked either.
    fn connection_without_access_gets_no_byte_through(io) {
        let upstream = Upstream::start(|peer| {
            peer.send("greeting");
            let _ = peer.sees_end();
        });
        let rules = |address: &str| filter("rbac", "RBAC", &format!(
            "stat_prefix: who, rules: {{policies: {{these: {{permissions: [{{any: true}}], principals: [{{direct_remote_ip: {{address_prefix: {address}, prefix_len: 32}}}}]}}}}}}"
        ));
        let proxy = Proxy::start(io, &relaying(upstream.port, &[rules("10.0.0.1")], ""));
        assert!(rest(&proxy.connect()).0.is_empty());
        proxy.wait_for_stat("who.rbac.denied", 1);
        proxy.end();
        let proxy = Proxy::start(io, &relaying(upstream.port, &[rules("127.0.0.1")], ""));
        assert_eq!(proxy.connect().read(8), b"greeting");
        proxy.wait_for_stat("who.rbac.allowed", 1);
        proxy.end();
        // The same before HTTP.
        let http = Upstream::answering(|_| crate::harness::ok(b"served"));
        for (address, served) in [("10.0.0.1", false), ("127.0.0.1", true)] {
            let config = Config::to(http.port).network_filter(&rules(address));
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            if served {
                assert_eq!(client.get("/").text(), "served");
            } else {
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                assert!(rest(&client).0.is_empty());
                proxy.wait_for_stat("who.rbac.denied", 1);
            }
            proxy.end();
        }
    }
}

/// A connection could take either: both Envoy and this refuse to choose.
#[test]
fn chains_that_overlap_are_refused_with_their_place() {
    let same =
        chain("filter_chain_match: {server_names: [a.example, b.example]}, ", &[direct_response("one")]);
    let other = chain("filter_chain_match: {server_names: [b.example]}, ", &[direct_response("two")]);
    let text = Config::to(1).chains(&[same, other]).text(0, 0);
    let checked =
        crate::harness::binary().args(["--mode", "validate", "--config-yaml", &text]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(
        said.contains("filter_chains[1].filter_chain_match: multiple filter chains with overlapping"),
        "{said}"
    );
}
