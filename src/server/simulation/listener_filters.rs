//! Listener filters: bytes in every piece and at every pace, what a connection is then said to be, who is cut off when, and
//! that nothing is held that need not be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{FRONT, World};
use crate::base::clock::Now;
use crate::protocol::proxy_protocol::{self, Tlv};
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpStream};
use crate::telemetry::names::Stats;
use crate::telemetry::{ListenerStat, ProxyProtocolStat, ServerStat, Slot};

/// Answers by what the listener filters found.
pub(super) fn bootstrap(listener: &str) -> String {
    const PACKAGE: &str = "type.googleapis.com/envoy.extensions.filters";
    let host = FRONT.strip_suffix(":80").unwrap();
    format!(
        r#"static_resources:
  listeners:
  - name: front
    stat_prefix: sim
    address: {{socket_address: {{address: {host}, port_value: 80}}}}
    {listener}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {PACKAGE}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: sim
          stream_idle_timeout: 600s
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {{text_format_source: {{inline_string: "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_LOCAL_ADDRESS% %REQUESTED_SERVER_NAME%\n"}}}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: "served"}}}}}}]}}
          http_filters:
          - {{name: router, typed_config: {{"@type": {PACKAGE}.http.router.v3.Router}}}}
  clusters:
  - name: endpoints
    load_assignment: {{cluster_name: endpoints, endpoints: []}}
"#
    )
}

fn filter(name: &str, message: &str, more: &str) -> String {
    let package = "type.googleapis.com/envoy.extensions.filters.listener";
    format!(r#"{{name: {name}, typed_config: {{"@type": {package}.{name}.v3.{message}{more}}}}}"#)
}

fn proxy_protocol(more: &str) -> String {
    filter("proxy_protocol", "ProxyProtocol", more)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Writes `pieces`, resting `rest_ms` between them, and reads to the end. `None`: nothing came back.
async fn talk(runtime: &Runtime, pieces: Vec<Vec<u8>>, rest_ms: u64) -> Option<Vec<u8>> {
    let stream =
        TcpStream::connect(runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[]).await.unwrap();
    for piece in pieces {
        if !stream.send_copy(&piece) {
            break;
        }
        stream.flush();
        if rest_ms > 0 {
            runtime.sleep_until(Now(runtime.now().0 + rest_ms * 1_000_000)).await;
        }
    }
    let mut all = Vec::new();
    while let Ok(Some(bytes)) = stream.recv().await {
        all.extend_from_slice(&bytes);
    }
    (!all.is_empty()).then_some(all)
}

pub(super) type Answer = Option<Vec<u8>>;

/// Runs clients one after another; what came back to each, and when it was over, in milliseconds.
pub(super) fn play(world: &World, clients: Vec<(Vec<Vec<u8>>, u64)>) -> Vec<(Answer, u64)> {
    let done = Rc::new(Cell::new(false));
    let answers = Rc::new(RefCell::new(Vec::new()));
    let (over, runtime, results) = (Rc::clone(&done), world.clients.clone(), Rc::clone(&answers));
    world.clients.spawn(async move {
        for (pieces, rest_ms) in clients {
            let begun = runtime.now();
            let answer = talk(&runtime, pieces, rest_ms).await;
            results.borrow_mut().push((answer, runtime.now().since(begun).as_millis() as u64));
        }
        over.set(true);
    });
    world.run(|| done.get());
    answers.take()
}

fn listener(world: &World, stat: ListenerStat) -> u64 {
    world.registry.listener("sim").value(stat.index()).0
}

fn server(world: &World, stat: ServerStat) -> u64 {
    world.registry.server(Slot::Worker(0)).value(stat)
}

fn is_served(answer: &Answer) -> bool {
    answer.as_ref().is_some_and(|bytes| bytes.starts_with(b"HTTP/1.1 200") && bytes.ends_with(b"served"))
}

fn header() -> Vec<u8> {
    let mut bytes = Vec::new();
    let addresses = ["1.2.3.4:1000", "5.6.7.8:2000"].map(|text| text.parse().unwrap());
    let tlvs = [Tlv { kind: 234, value: b"vpc" }];
    assert!(proxy_protocol::encode_v2(addresses, tlvs.into_iter(), &mut bytes));
    bytes
}

#[test]
fn header_and_request_are_taken_apart_wherever_they_are_cut() {
    super::for_seeds(2, |seed| {
        let all = ["proxy_protocol", "tls_inspector", "http_inspector"];
        let filters = [
            proxy_protocol(", rules: [{tlv_type: 234, on_tlv_present: {key: vpc}}]"),
            filter(all[1], "TlsInspector", ""),
            filter(all[2], "HttpInspector", ""),
        ];
        let text = bootstrap(&format!("listener_filters: [{}]", filters.join(", ")));
        let world = World::start(seed, SimConfig::KIND, &text, 1);
        let mut clients = Vec::new();
        for header in [header(), b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n".to_vec()] {
            let bytes = [&header[..], REQUEST].concat();
            for cut in 0..bytes.len() {
                clients.push((vec![bytes[..cut].to_vec(), bytes[cut..].to_vec()], 1));
            }
            clients.push((bytes.chunks(1).map(<[u8]>::to_vec).collect(), 1));
        }
        let count = clients.len();
        let answers = play(&world, clients);
        assert!(answers.iter().all(|(answer, _)| is_served(answer)), "seed {seed}");
        assert_eq!(server(&world, ServerStat::HttpInspectorHttp11Found), count as u64);
        assert_eq!(server(&world, ServerStat::TlsInspectorTlsNotFound), count as u64);
        let found = world.registry.proxy_protocol("");
        let found =
            [ProxyProtocolStat::V1Found, ProxyProtocolStat::V2Found].map(|s| found.value(s.index()).0);
        assert_eq!(found.iter().sum::<u64>(), count as u64);
        let ended = world.end();
        let expected = "1.2.3.4:1000 5.6.7.8:2000 10.0.0.1:80 -";
        assert!(ended.records.lines().all(|line| line == expected), "{}", ended.records);
    });
}

#[test]
fn clients_that_say_too_little_are_closed_when_their_time_is_over() {
    let text =
        bootstrap(&format!("listener_filters: [{}]\n    listener_filters_timeout: 3s", proxy_protocol("")));
    let world = World::start(1, SimConfig::KIND, &text, 1);
    let drip = |count: usize| vec![b"P".to_vec(); count];
    let answers = play(
        &world,
        vec![
            (Vec::new(), 0),
            (vec![b"PROXY TCP4 ".to_vec()], 0),
            (drip(1), 100),
            (header().chunks(1).map(<[u8]>::to_vec).collect(), 1000),
        ],
    );
    for (answer, took) in &answers[..3] {
        assert!(answer.is_none() && (3000..3200).contains(took), "{took} ms");
    }
    assert!(answers[3].0.is_none());
    assert_eq!(listener(&world, ListenerStat::DownstreamPreCxTimeout), 4);
    assert_eq!(listener(&world, ListenerStat::DownstreamPreCxActive), 0);
    assert_eq!(listener(&world, ListenerStat::DownstreamCxTotal), 0);
    world.end();
}

#[test]
fn connection_goes_on_after_the_timeout_where_that_is_configured() {
    let text = bootstrap(&format!(
        "listener_filters: [{}]\n    listener_filters_timeout: 1s\n    continue_on_listener_filters_timeout: true",
        filter("http_inspector", "HttpInspector", "")
    ));
    let world = World::start(1, SimConfig::KIND, &text, 1);
    // What came in time is served with what came later.
    let answers = play(&world, vec![(vec![REQUEST[..9].to_vec(), REQUEST[9..].to_vec()], 1500)]);
    assert!(is_served(&answers[0].0));
    assert_eq!(listener(&world, ListenerStat::DownstreamPreCxTimeout), 1);
    assert_eq!(server(&world, ServerStat::HttpInspectorHttp11Found), 0);
    world.end();
}

#[test]
fn filters_that_need_no_bytes_or_are_switched_off_wait_for_none() {
    let off = r#", filter_disabled: {destination_port_range: {start: 80, end: 81}}}"#;
    let disabled = proxy_protocol("").strip_suffix('}').unwrap().to_owned() + off;
    let text = bootstrap(&format!(
        "listener_filters: [{}, {disabled}]\n    listener_filters_timeout: 0s",
        filter("original_dst", "OriginalDst", "")
    ));
    let world = World::start(1, SimConfig::KIND, &text, 1);
    let done = Rc::new(Cell::new(false));
    let (over, runtime) = (Rc::clone(&done), world.clients.clone());
    world.clients.spawn(async move {
        let stream = TcpStream::connect(&runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[])
            .await
            .unwrap();
        runtime.sleep_until(Now(runtime.now().0 + 1_000_000_000)).await;
        over.set(true);
        drop(stream);
    });
    world.run(|| done.get());
    assert_eq!(listener(&world, ListenerStat::DownstreamCxTotal), 1, "it is served though it said nothing");
    assert_eq!(listener(&world, ListenerStat::DownstreamPreCxActive), 0);
    world.end();
}

#[test]
fn client_that_goes_away_is_counted_and_nothing_is_left() {
    let text = bootstrap(&format!("listener_filters: [{}]", proxy_protocol("")));
    let world = World::start(1, SimConfig::KIND, &text, 1);
    let done = Rc::new(Cell::new(false));
    let (over, runtime) = (Rc::clone(&done), world.clients.clone());
    world.clients.spawn(async move {
        for reset in [false, true] {
            let stream =
                TcpStream::connect(&runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[])
                    .await
                    .unwrap();
            assert!(stream.send_copy(b"PROXY TCP"));
            stream.flush();
            runtime.sleep_until(Now(runtime.now().0 + 10_000_000)).await;
            if reset {
                stream.set_reset_on_close();
            }
            drop(stream);
        }
        over.set(true);
    });
    let gone = |world: &World| {
        [ListenerStat::DownstreamListenerFilterRemoteClose, ListenerStat::DownstreamListenerFilterError]
            .map(|stat| listener(world, stat))
    };
    world.run(|| done.get() && gone(&world) == [1, 1]);
    assert_eq!(listener(&world, ListenerStat::DownstreamPreCxActive), 0);
    world.end();
}

#[test]
fn what_a_slow_client_says_is_held_once_and_within_bounds() {
    let text = bootstrap(&format!("listener_filters: [{}]", filter("http_inspector", "HttpInspector", "")));
    let world = World::start(1, SimConfig::KIND, &text, 1);
    let proxy = world.cores[0].2.clone();
    let done = Rc::new(Cell::new(false));
    let (over, runtime) = (Rc::clone(&done), world.clients.clone());
    world.clients.spawn(async move {
        let stream = TcpStream::connect(&runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[])
            .await
            .unwrap();
        assert!(stream.send_copy(b"GET /"));
        for _ in 0..300 {
            assert!(stream.send_copy(b"a"));
            stream.flush();
            runtime.sleep_until(Now(runtime.now().0 + 1_000_000)).await;
            assert!(proxy.leaks().chunks <= 2, "{:?}", proxy.leaks());
        }
        // A line without end.
        for _ in 0..100 {
            let _ = stream.send_copy(&[b'a'; 1024]);
            stream.flush();
        }
        while let Ok(Some(_)) = stream.recv().await {}
        over.set(true);
    });
    world.run(|| done.get());
    assert_eq!(server(&world, ServerStat::HttpInspectorReadError), 1);
    world.end();
}
