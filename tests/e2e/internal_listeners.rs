//! Listeners within the process: HTTP, relayed bytes and tunnels that pass one on their way, under TLS too; how they end, what
//! they hold, listeners that are not there, that lead to themselves, and that a control plane puts and takes away.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::harness::{
    Authority, Client, Config, Http2Upstream, Io, Proxy, Random, TO_HTTP2, TempFolder, Upstream, cluster_to,
    downstream_tls, free_port, ok, on_each_backend, until,
};
use crate::upstream_failures::log_to;
use crate::xds_listeners::{following, put};

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
const LARGE: usize = 12 << 20;

/// A cluster of that internal listener, with more of its fields.
fn inside(name: &str, listener: &str, fields: &str) -> String {
    format!(
        "{{name: {name}, connect_timeout: 5s, {fields} load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{envoy_internal_address: {{server_listener_name: {listener}, endpoint_id: id-1}}}}}}}}]}}]}}}}"
    )
}

/// A filter chain whose manager sends everything to that cluster, with more fields of both.
fn http_chain(cluster: &str, chain: &str, manager: &str) -> String {
    format!(
        "filter_chains: [{{{chain} filters: [{{name: manager, typed_config: {{\"@type\": \
         {NETWORK}.http_connection_manager.v3.HttpConnectionManager, stat_prefix: inner, {manager} \
         route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, \
         route: {{cluster: {cluster}}}}}]}}]}}, http_filters: [{{name: router, typed_config: \
         {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]"
    )
}

/// A filter that relays everything to that cluster.
fn relay(prefix: &str, cluster: &str, fields: &str) -> String {
    format!(
        "{{name: tcp, typed_config: {{\"@type\": {NETWORK}.tcp_proxy.v3.TcpProxy, stat_prefix: {prefix}, {fields} \
         cluster: {cluster}}}}}"
    )
}

fn tcp_chain(cluster: &str, fields: &str) -> String {
    format!("filter_chains: [{{filters: [{}]}}]", relay("inner", cluster, fields))
}

/// The clusters `upstream`, which is at that port, and `inner`, which is an internal listener with these fields, where the
/// first listener sends everything. `buffer_kb`: what connections there hold.
fn with_inner(config: Config, fields: &str, cluster: &str, buffer_kb: u32) -> Config {
    let port = config.port;
    let routes = "{match: {prefix: /}, route: {cluster: inner, timeout: 30s}}".to_owned();
    let clusters = format!("{{{}}}, {}", cluster_to("upstream", port), inside("inner", "inner", cluster));
    let config = Config { clusters: Some(clusters), routes: Some(config.routes.unwrap_or(routes)), ..config };
    config.arguments(&["--config-yaml", &internal(&[("inner", fields)], buffer_kb)])
}

/// What a bootstrap has beside, with these internal listeners.
fn internal(listeners: &[(&str, &str)], buffer_kb: u32) -> String {
    let listeners: Vec<_> = listeners
        .iter()
        .map(|(name, fields)| format!("{{name: {name}, internal_listener: {{}}, {fields}}}"))
        .collect();
    format!(
        "{{bootstrap_extensions: [{{name: internal, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener, \
         buffer_size_kb: {buffer_kb}}}}}], static_resources: {{listeners: [{}]}}}}",
        listeners.join(", ")
    )
}

/// A first listener that relays to the cluster `inner`.
fn relaying(port: u16, fields: &str) -> Config {
    Config::to(port).chains(&[format!("{{filters: [{}]}}", relay("outer", "inner", fields))])
}

/// Sends and receives at once.
fn exchange(client: &mut Client, up: &Arc<Vec<u8>>, down: usize) -> Vec<u8> {
    let (mut writer, up) = (client.stream().try_clone().unwrap(), Arc::clone(up));
    let sending = std::thread::spawn(move || writer.write_all(&up).unwrap());
    let received = client.read(down);
    sending.join().unwrap();
    received
}

/// A proxy whose first listener is at the upstream's and whose others follow a file.
fn followed(io: Io, port: u16, folder: &TempFolder) -> Proxy {
    put(folder, &[]);
    let dynamic = following(folder);
    let clusters = format!("{{{}}}, {}", cluster_to("upstream", port), inside("inner", "inner", ""));
    let routes = "{match: {prefix: /}, route: {cluster: inner}}".to_owned();
    let config = Config { clusters: Some(clusters), routes: Some(routes), ..Config::to(port) };
    // The last of them wins where both say something.
    let config = config.arguments(&["--config-yaml", &merged(&dynamic)]);
    Proxy::start(io, &config)
}

/// That flow text with the extension.
fn merged(dynamic: &str) -> String {
    let extension = internal(&[], 1024);
    format!("{}, {}", extension.strip_suffix('}').unwrap(), dynamic.strip_prefix('{').unwrap())
}

on_each_backend! {
    fn requests_pass_an_internal_manager_on_one_connection(io) {
        let upstream = Upstream::echo();
        let folder = TempFolder::new();
        let [outer, inner] = ["outer.log", "inner.log"].map(|name| folder.path().join(name));
        let outer_format = "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_PORT%";
        let inner_format = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
                            %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID% %REQ(X-FORWARDED-FOR)%";
        let manager = format!("use_remote_address: true, {},", log_to(&inner, inner_format));
        let config = with_inner(Config::to(upstream.port), &http_chain("upstream", "", &manager), "", 1024);
        let proxy = Proxy::start(io, &config.manager(&log_to(&outer, outer_format)));
        let mut client = proxy.connect();
        for path in ["/one", "/two"] {
            assert!(client.get(path).text().contains(path));
        }
        proxy.wait_for_stat("http.inner.downstream_rq_completed", 2);
        for name in [
            "cluster.inner.upstream_cx_total", "cluster.upstream.upstream_cx_total",
            "listener.envoy_internal_inner.downstream_cx_total", "listener.envoy_internal_inner.downstream_cx_active",
        ] {
            assert_eq!(proxy.stat(name), 1, "{name}");
        }
        let listeners = proxy.admin("GET", "/listeners").text();
        assert!(listeners.contains("inner::envoy://inner/\n"), "{listeners}");
        let json = proxy.admin("GET", "/listeners?format=json").text();
        assert!(json.contains("\"server_listener_name\": \"inner\""), "{json}");
        let clusters = proxy.admin("GET", "/clusters").text();
        assert!(clusters.contains("inner::envoy://inner/id-1::cx_active::1\n"), "{clusters}");
        assert!(proxy.admin("GET", "/clusters?format=json").text().contains("\"endpoint_id\": \"id-1\""));
        drop(client);
        proxy.end();
        let client = "envoy://internal_client_address/";
        assert_eq!(
            std::fs::read_to_string(outer).unwrap(),
            format!("envoy://inner/id-1 envoy://inner/id-1 {client} \n").repeat(2)
        );
        assert_eq!(
            std::fs::read_to_string(inner).unwrap(),
            format!("{client} {client} envoy://inner/id-1 envoy://inner/id-1 id-1 -\n").repeat(2)
        );
    }

    fn bodies_pass_over_http2_and_under_tls(io) {
        let upstream = Upstream::echo();
        let authority = Authority::of(&["inner.test"]);
        let trusted = crate::harness::upstream_tls("sni: inner.test,", &authority.trusted());
        let passing = format!(
            "transport_socket: {{name: internal, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport, {trusted}}}}},"
        );
        let shown = format!("{},", downstream_tls("", &authority.shown("inner.test")));
        let plain = "transport_socket: {name: internal, typed_config: {\"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport, \
             transport_socket: {name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}},";
        let http2 = format!("{TO_HTTP2},");
        for (chain, cluster, handshakes) in [
            ("", plain.to_owned(), 0),
            ("", http2.clone(), 0),
            (&*shown, passing.clone(), 1),
            (&*shown, format!("{http2} {passing}"), 1),
        ] {
            let config = with_inner(Config::to(upstream.port), &http_chain("upstream", chain, ""), &cluster, 64);
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            let body = Random::new(3).bytes(3 << 20);
            for _ in 0..2 {
                client.send(format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
                let (mut writer, sent) = (client.stream().try_clone().unwrap(), body.clone());
                let sending = std::thread::spawn(move || writer.write_all(&sent).unwrap());
                let response = client.response_to("POST");
                sending.join().unwrap();
                assert!(response.body.ends_with(&body), "{} bytes", response.body.len());
            }
            if handshakes > 0 {
                assert_eq!(proxy.stat("cluster.inner.ssl.handshake"), handshakes);
                assert_eq!(proxy.stat("listener.envoy_internal_inner.ssl.handshake"), handshakes);
            }
            drop(client);
            proxy.end();
        }
    }

    fn tunnel_is_asked_for_behind_an_internal_listener(io) {
        let (up, down) = (Arc::new(Random::new(1).bytes(LARGE)), Arc::new(Random::new(2).bytes(LARGE)));
        let (expected, answer) = (Arc::clone(&up), Arc::clone(&down));
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            let head = peer.request_head().unwrap();
            let local = head.header("x-local").map(str::to_owned);
            let _ = tell.lock().unwrap().send((head.method().to_owned(), head.path().to_owned(), local));
            peer.send("HTTP/1.1 200 OK\r\n\r\n");
            let received = peer.read(expected.len()).unwrap();
            assert!(received == *expected, "bytes changed on their way");
            assert!(peer.sees_end(), "the client's end comes behind its last byte");
            peer.send(&*answer);
        });
        let tunnel = "tunneling_config: {hostname: \"end.test:443\", headers_to_add: \
                      [{header: {key: x-local, value: \"%DOWNSTREAM_LOCAL_ADDRESS%\"}}]},";
        let config = with_inner(relaying(upstream.port, ""), &tcp_chain("upstream", tunnel), "", 256);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send(&*up);
        client.shutdown_write();
        let received = client.read_to_end();
        assert!(received == **down, "{} bytes", received.len());
        let local = Some("envoy://inner/id-1".to_owned());
        assert_eq!(told.recv().unwrap(), ("CONNECT".to_owned(), "end.test:443".to_owned(), local));
        for prefix in ["outer", "inner"] {
            proxy.wait_for_stat(&format!("tcp.{prefix}.downstream_cx_rx_bytes_total"), LARGE as u64);
            proxy.wait_for_stat(&format!("tcp.{prefix}.downstream_cx_tx_bytes_total"), LARGE as u64);
        }
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        proxy.end();
    }

    fn destination_that_an_endpoint_says_is_restored_behind_an_internal_listener(io) {
        let upstream = Upstream::start(|peer| {
            let Some(head) = peer.request_head() else { return };
            peer.send(format!("HTTP/1.1 200 OK\r\n\r\n{}", head.path()));
        });
        let listener = "listener_filters: [{name: o, typed_config: {\"@type\": \
                        type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}],";
        let tunnel = "tunneling_config: {hostname: \"%DOWNSTREAM_LOCAL_ADDRESS%\"},";
        let fields = format!("{listener} {}", tcp_chain("upstream", tunnel));
        let passing = |kind: &str| {
            format!(
                "transport_socket: {{name: internal, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport, \
                 passthrough_metadata: [{{kind: {{{kind}: {{}}}}, name: envoy.filters.listener.original_dst}}], transport_socket: \
                 {{name: raw, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}}}}},"
            )
        };
        let told = |local: &str| {
            format!("metadata: {{filter_metadata: {{envoy.filters.listener.original_dst: {{local: \"{local}\"}}}}}},")
        };
        for (kind, local, asked) in [
            ("cluster", "10.1.2.3:99", "10.1.2.3:99"),
            ("cluster", "[2001:db8::1]:99", "[2001:db8::1]:99"),
            ("cluster", "nonsense", "envoy://inner/id-1"),
            ("host", "10.1.2.3:99", "envoy://inner/id-1"),
        ] {
            let cluster = format!("{} {}", passing(kind), told(local));
            let config = with_inner(relaying(upstream.port, ""), &fields, &cluster, 64);
            let proxy = Proxy::start(io, &config);
            let mut client = proxy.connect();
            client.send("x");
            assert_eq!(String::from_utf8_lossy(&client.read(asked.len())), asked, "{kind} {local}");
            drop(client);
            proxy.end();
        }
    }

    /// What waits is bounded by the buffers of the way, whoever is slow.
    fn receiver_that_does_not_read_holds_its_sender_back(io) {
        const BODY: usize = 96 << 20;
        let upstream = Upstream::start(|peer| {
            let Some(count) = peer.read(1) else { return };
            let _ = peer.try_send(vec![count[0]; BODY]);
            peer.sees_end();
        });
        let config = with_inner(relaying(upstream.port, ""), &tcp_chain("upstream", ""), "", 64);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("a");
        assert_eq!(client.read(1), b"a");
        let before = proxy.resident_bytes();
        let mut most = 0;
        let mut left = BODY - 1;
        while left > 0 {
            let piece = left.min(8 << 20);
            assert!(client.read(piece).iter().all(|byte| *byte == b'a'));
            left -= piece;
            most = most.max(proxy.resident_bytes().saturating_sub(before));
        }
        assert!(most < 16 << 20, "{most} bytes for a relay");
        drop(client);
        proxy.end();
    }

    fn ends_of_either_side_pass_an_internal_listener(io) {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |peer| {
            let Some(word) = peer.read(1) else { return };
            peer.send(&word);
            match word[0] {
                // Ends first, and still hears what comes.
                b'f' => {
                    peer.shutdown_write();
                    let _ = tell.lock().unwrap().send(peer.read(4));
                }
                b'r' => drop(tell.lock().unwrap().send(peer.sees_end().then(Vec::new))),
                _ => {}
            }
        });
        let config = with_inner(relaying(upstream.port, ""), &tcp_chain("upstream", ""), "", 64);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("f");
        assert_eq!(client.read_to_end(), b"f");
        client.send("more");
        client.shutdown_write();
        assert_eq!(told.recv().unwrap().as_deref(), Some(&b"more"[..]));
        let mut client = proxy.connect();
        client.send("r");
        assert_eq!(client.read(1), b"r");
        client.reset_on_close();
        drop(client);
        assert!(told.recv().unwrap().is_some());
        for name in ["cluster.inner.upstream_cx_active", "listener.envoy_internal_inner.downstream_cx_active"] {
            proxy.wait_for_stat(name, 0);
        }
        proxy.end();
    }

    fn missing_listener_is_a_failed_connection_that_is_tried_again(io) {
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%";
        let clusters = inside("inner", "nowhere", "");
        let routes = "{match: {prefix: /}, route: {cluster: inner}}".to_owned();
        let config = Config { clusters: Some(clusters.clone()), routes: Some(routes), ..Config::to(1) };
        let config = config.manager(&log_to(&log, format)).arguments(&["--config-yaml", &internal(&[], 64)]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let response = client.get("/");
        assert_eq!(response.status(), 503);
        assert!(response.text().contains("remote connection failure"), "{response:?}");
        assert_eq!(proxy.stat("cluster.inner.upstream_cx_connect_fail"), 1);
        drop(client);
        proxy.end();
        let reason = "immediate_connect_error:_Invalid_argument|remote_address:envoy://nowhere/id-1";
        assert_eq!(std::fs::read_to_string(log).unwrap(), format!("503 UF {reason}\n"));

        let config = Config { clusters: Some(clusters), ..relaying(1, "max_connect_attempts: 3,") };
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().read_to_end(), b"");
        proxy.wait_for_stat("cluster.inner.upstream_cx_connect_fail", 3);
        proxy.end();
    }

    fn listener_that_leads_to_itself_is_refused_at_some_depth(io) {
        let upstream = Upstream::echo();
        let chains = [http_chain("inner", "", ""), tcp_chain("inner", "")];
        for (chain, cluster) in [(&chains[0], ""), (&chains[0], &*format!("{TO_HTTP2},")), (&chains[1], "")] {
            let routes = "{match: {prefix: /loop}, route: {cluster: inner, timeout: 30s}}, {match: {prefix: /}, route: {cluster: upstream}}";
            let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
            let proxy = Proxy::start(io, &with_inner(config, chain, cluster, 64));
            let mut client = proxy.connect();
            for _ in 0..3 {
                assert_eq!(client.get("/loop").status(), 503);
            }
            assert_eq!(client.get("/other").status(), 200, "the worker goes on");
            // Where requests share connections they are too many before those are too deep.
            let refused = "ringway.io.internal_refused";
            let ended_by = if cluster.is_empty() { refused } else { "cluster.inner.upstream_rq_active_overflow" };
            assert_eq!(proxy.stat(ended_by), 3);
            assert!(proxy.stat("listener.envoy_internal_inner.downstream_cx_total") <= 3 * 16);
            drop(client);
            proxy.end();
        }
    }

    /// The pool would keep it, and the relay at its other end, for an hour.
    fn idle_connection_to_a_relay_within_does_not_delay_the_end(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &with_inner(Config::to(upstream.port), &tcp_chain("upstream", ""), "", 64));
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 200);
        assert_eq!(proxy.stat("listener.envoy_internal_inner.downstream_cx_active"), 1);
        drop(client);
        proxy.end();
    }

    /// The same of one that is shared, and that is made once everything drains.
    fn shared_connection_that_a_drain_makes_does_not_delay_the_end(io) {
        let upstream = Http2Upstream::start(100);
        let cluster = format!("{TO_HTTP2},");
        let config = with_inner(Config::to(upstream.port), &tcp_chain("upstream", ""), &cluster, 64);
        let mut proxy = Proxy::start(io, &config.arguments(&["--drain-time-s", "60"]));
        let (mut client, mut idle) = (proxy.connect(), proxy.connect());
        client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n");
        proxy.wait_for_stat("http.test.downstream_rq_active", 1);
        proxy.wait_for_stat("http.test.downstream_cx_active", 2);
        proxy.signal(libc::SIGTERM);
        // Now the drain has begun on the worker, too.
        idle.expect_closed();
        client.send("\r\nx");
        assert_eq!(client.response().text(), "x");
        client.expect_closed();
        assert_eq!(proxy.wait().code(), Some(0));
        assert_eq!(upstream.connections(), 1);
    }

    fn listeners_of_a_control_plane_come_change_and_go(io) {
        let upstream = Upstream::echo();
        let folder = TempFolder::new();
        let proxy = followed(io, upstream.port, &folder);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 503, "nobody is there yet");
        let marked = |mark: &str| {
            let manager = format!("server_name: {mark}, server_header_transformation: OVERWRITE,");
            format!("internal_listener: {{}}, {}", http_chain("upstream", "", &manager))
        };
        put(&folder, &[("inner", marked("one"))]);
        until("the listener is there", || client.get("/").status() == 200);
        assert!(proxy.admin("GET", "/listeners").text().contains("inner::envoy://inner/\n"));
        put(&folder, &[("inner", marked("two")), ("other", format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}, {}", free_port(), http_chain("upstream", "", "")))]);
        until("the listener is another", || proxy.stat("listener_manager.listener_modified") == 1);
        until("requests go on", || client.get("/").status() == 200);
        put(&folder, &[]);
        until("it is gone", || client.get("/").status() == 503);
        assert!(!proxy.admin("GET", "/listeners").text().contains("inner::"));
        put(&folder, &[("inner", marked("three"))]);
        until("it is there again", || client.get("/").status() == 200);
        drop(client);
        proxy.end();
    }

    fn request_on_its_way_through_outlives_the_start_of_a_drain(io) {
        let (tell, told) = channel();
        let (go, gone) = channel();
        let (tell, gone) = (Mutex::new(tell), Mutex::new(gone));
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                let _ = tell.lock().unwrap().send(());
                if gone.lock().unwrap().recv().is_err() || peer.try_send(ok(b"whole")).is_err() {
                    return;
                }
            }
        });
        let config = with_inner(Config::to(upstream.port), &http_chain("upstream", "", ""), "", 64);
        let mut proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        told.recv().unwrap();
        proxy.signal(libc::SIGTERM);
        proxy.wait_for_log("drain");
        go.send(()).unwrap();
        assert_eq!(client.response().text(), "whole");
        client.expect_closed();
        assert_eq!(proxy.wait().code(), Some(0));
    }

    fn workers_keep_their_own_connections(io) {
        let upstream = Upstream::echo_bytes();
        let config = with_inner(relaying(upstream.port, ""), &tcp_chain("upstream", ""), "", 64);
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "3"]));
        let up = Arc::new(Random::new(7).bytes(300_000));
        let mut clients: Vec<_> = (0..12).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("x");
            assert_eq!(client.read(1), b"x");
        }
        let received = exchange(&mut clients[0], &up, up.len());
        assert!(received == *up);
        assert_eq!(proxy.stat("listener.envoy_internal_inner.downstream_cx_active"), 12);
        drop(clients);
        proxy.wait_for_stat("listener.envoy_internal_inner.downstream_cx_active", 0);
        proxy.end();
    }
}
