//! Balancers that hash: what a request has decides about its endpoint, cookies lead back, attempts keep it. That the endpoint is
//! Envoy's is for `tests/peers/hashing.py`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;

use crate::harness::{Client, Config, Http2Client, Message, Proxy, Upstream, ok, on_each_backend};

const ENDPOINTS: usize = 4;
const BALANCERS: [&str; 3] = [
    "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 4000}",
    "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2}",
    "lb_policy: MAGLEV, maglev_lb_config: {table_size: 1009}",
];

/// Endpoints that answer with their numbers, but for `/hold`, which they leave unanswered.
fn endpoints() -> Vec<Upstream> {
    let endpoint = |number: usize| {
        Upstream::start(move |peer| {
            while let Some(request) = peer.request() {
                if request.path() != "/hold" {
                    peer.send(ok(number.to_string().as_bytes()));
                }
            }
        })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

/// All of them in one cluster.
fn config(endpoints: &[Upstream], balancer: &str, policies: &str) -> Config {
    let endpoint = |upstream: &Upstream| {
        let port = upstream.port;
        format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
    };
    let all = endpoints.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    let cluster = format!(
        "{{name: upstream, {balancer}, load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: [{all}]}}]}}}}"
    );
    let route = format!("{{match: {{prefix: /}}, route: {{cluster: upstream, hash_policy: [{policies}]}}}}");
    Config { clusters: Some(cluster), routes: Some(route), ..Config::to(0) }
}

fn ask(client: &mut Client, path: &str, header: &str) -> Message {
    client.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n{header}\r\n"))
}

on_each_backend! {
    fn what_a_request_has_decides_about_its_endpoint(io) {
        let upstreams = endpoints();
        let policies = "{header: {header_name: x-key, regex_rewrite: {pattern: {regex: '-.*'}, substitution: ''}}, terminal: true}, \
            {query_parameter: {name: q}, terminal: true}, {cookie: {name: c}, terminal: true}, {connection_properties: {source_ip: true}}";
        for balancer in BALANCERS {
            let proxy = Proxy::start(io, &config(&upstreams, balancer, policies));
            let mut client = proxy.connect();
            let http2 = Http2Client::connect(proxy.port);
            let kinds: [fn(usize) -> (String, String); 4] = [
                |key| ("/".into(), format!("x-key: k{key}-{key}\r\n")),
                |key| (format!("/?a=1&q={key}"), String::new()),
                |key| ("/".into(), format!("cookie: a=1; c={key}\r\n")),
                |key| ("/".into(), format!("x-forwarded-for: 10.0.1.{key}\r\n")),
            ];
            for kind in kinds {
                let mut seen = BTreeSet::new();
                for key in 0..60 {
                    let (path, header) = kind(key);
                    let first = ask(&mut client, &path, &header).text();
                    assert_eq!(ask(&mut client, &path, &header).text(), first, "{balancer} {path} {header}");
                    let mut request = Request::get(format!("http://test{path}"));
                    if let Some((name, value)) = header.trim_end().split_once(": ") {
                        request = request.header(name, value);
                    }
                    assert_eq!(http2.send(request, &[], None).body, first.as_bytes(), "{balancer} {path} {header}");
                    seen.insert(first);
                }
                assert_eq!(seen.len(), ENDPOINTS, "{balancer} {:?}", kind(0));
            }
            drop(http2);
            proxy.end();
        }
    }

    fn request_without_a_hash_goes_to_any_endpoint(io) {
        let upstreams = endpoints();
        for balancer in BALANCERS {
            let proxy = Proxy::start(io, &config(&upstreams, balancer, "{header: {header_name: x-key}}"));
            let mut client = proxy.connect();
            let seen: BTreeSet<String> = (0..200).map(|_| client.get("/").text()).collect();
            assert_eq!(seen.len(), ENDPOINTS, "{balancer}");
            proxy.end();
        }
    }

    fn client_without_the_cookie_is_given_one_that_leads_back(io) {
        let upstreams = endpoints();
        let policy = "{cookie: {name: c, ttl: 60s, path: /p, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}}";
        let proxy = Proxy::start(io, &config(&upstreams, BALANCERS[0], policy));
        for _ in 0..8 {
            let mut client = proxy.connect();
            let answer = client.get("/");
            let given = answer.header("set-cookie").unwrap();
            let (cookie, attributes) = given.split_once("; ").unwrap();
            assert_eq!(attributes, "Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly");
            let value = cookie.strip_prefix("c=\"").unwrap().strip_suffix('"').unwrap();
            assert!(value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");
            assert_eq!(client.get("/").header("set-cookie"), Some(given), "the same on the same connection");
            for mut other in [client, proxy.connect()] {
                let again = ask(&mut other, "/", &format!("Cookie: a=1; {cookie}\r\n"));
                assert_eq!((again.text(), again.header("set-cookie")), (answer.text(), None));
            }
            let http2 = Http2Client::connect(proxy.port);
            let answer = http2.get("/");
            let given = answer.headers.get("set-cookie").unwrap().to_str().unwrap().to_owned();
            let (cookie, attributes) = given.split_once("; ").unwrap();
            assert_eq!(attributes, "Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly");
            let again = http2.send(Request::get("http://test/").header("cookie", cookie), &[], None);
            assert_eq!((again.body, again.headers.get("set-cookie")), (answer.body, None));
        }
        proxy.end();
    }

    fn cookie_is_given_by_balancers_that_hash_and_with_answers_of_endpoints_only(io) {
        let upstreams = endpoints();
        let policy = "{cookie: {name: c, ttl: 0s}}";
        let proxy = Proxy::start(io, &config(&upstreams, "lb_policy: ROUND_ROBIN", policy));
        assert_eq!(proxy.connect().get("/").header("set-cookie"), None);
        proxy.end();
        let proxy = Proxy::start(io, &config(&[], BALANCERS[0], policy));
        let answer = proxy.connect().get("/");
        assert_eq!((answer.status(), answer.header("set-cookie")), (503, None));
        proxy.end();
    }

    fn second_attempt_keeps_the_endpoint(io) {
        // Each connection serves one request, and dies with the second.
        let asked: &'static AtomicUsize = Box::leak(Box::default());
        let endpoint = |number: usize| {
            Upstream::start(move |peer| {
                if peer.request().is_some() {
                    peer.send(ok(number.to_string().as_bytes()));
                    if peer.request_head().is_some() {
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };
        let upstreams: Vec<_> = (0..ENDPOINTS).map(endpoint).collect();
        let proxy = Proxy::start(io, &config(&upstreams, BALANCERS[1], "{header: {header_name: x-key}}"));
        let mut client = proxy.connect();
        for key in 0..20 {
            let header = format!("x-key: {key}\r\n");
            let first = ask(&mut client, "/", &header).text();
            // On the connection of the first, then on another.
            assert_eq!(ask(&mut client, "/", &header).text(), first);
        }
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_reused_connection"), asked.load(Ordering::SeqCst) as u64);
        assert!(asked.load(Ordering::SeqCst) >= 20);
        proxy.end();
    }

    fn busy_endpoint_is_passed_over_where_load_is_bounded(io) {
        let upstreams = endpoints();
        let balancer = "lb_policy: MAGLEV, common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 100}}";
        let proxy = Proxy::start(io, &config(&upstreams, balancer, "{header: {header_name: x-key}}"));
        let mut client = proxy.connect();
        let usual: usize = ask(&mut client, "/", "x-key: k\r\n").text().parse().unwrap();
        let mut waiting = Vec::new();
        for held in 0..2 {
            // One under way is its share still.
            assert_eq!(ask(&mut client, "/", "x-key: k\r\n").text(), usual.to_string());
            let mut other = proxy.connect();
            other.send("GET /hold HTTP/1.1\r\nHost: test\r\nx-key: k\r\n\r\n");
            upstreams[usual].wait_for_requests(2 * held + 3);
            waiting.push(other);
        }
        let instead = ask(&mut client, "/", "x-key: k\r\n").text();
        assert_ne!(instead, usual.to_string());
        assert_eq!(ask(&mut client, "/", "x-key: k\r\n").text(), instead, "always the same other one");
        drop(waiting);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        assert_eq!(ask(&mut client, "/", "x-key: k\r\n").text(), usual.to_string());
        proxy.end();
    }

    fn relayed_connections_go_by_the_clients_address(io) {
        let upstreams = endpoints();
        let filter = "{name: tcp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
            stat_prefix: t, cluster: upstream, hash_policy: [{source_ip: {}}]}}";
        let header = "{name: proxy_protocol, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}";
        let config = config(&upstreams, BALANCERS[0], "")
            .chains(&[format!("{{filters: [{filter}]}}")])
            .listener(&format!("listener_filters: [{header}]"));
        let proxy = Proxy::start(io, &config);
        let ask = |host: usize, port: u16| {
            let mut client = proxy.connect();
            client.send(format!("PROXY TCP4 10.0.2.{host} 10.0.0.1 {port} 80\r\n"));
            client.get("/").text()
        };
        let mut seen = BTreeSet::new();
        for host in 0..60 {
            let first = ask(host, 1);
            assert_eq!(ask(host, 2), first);
            seen.insert(first);
        }
        assert_eq!(seen.len(), ENDPOINTS);
        proxy.end();
    }

    fn sizes_of_rings_and_tables_are_shown(io) {
        let upstreams = endpoints();
        let proxy = Proxy::start(io, &config(&upstreams, BALANCERS[0], ""));
        assert_eq!(proxy.stat("cluster.upstream.ring_hash_lb.size"), 4000);
        assert_eq!(proxy.stat("cluster.upstream.ring_hash_lb.min_hashes_per_host"), 1000);
        assert_eq!(proxy.stat("cluster.upstream.ring_hash_lb.max_hashes_per_host"), 1000);
        proxy.end();
        let proxy = Proxy::start(io, &config(&upstreams, BALANCERS[2], ""));
        assert_eq!(proxy.stat("cluster.upstream.maglev_lb.min_entries_per_host"), 252);
        assert_eq!(proxy.stat("cluster.upstream.maglev_lb.max_entries_per_host"), 253);
        proxy.end();
    }
}
