//! Everything at once, by seed: every byte exact on both sides, nothing left, counters in agreement.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::client::{Expectations, converse};
use super::exchange::{Exchange, Exchanges, Plan, Weather};
use super::tls::Tls;
use super::{ENDPOINTS, Ended, FRONT, World, for_seeds, upstream};
use crate::base::rng::Rng;
use crate::config::tls::TlsVersion;
use crate::runtime::sim::SimConfig;
use crate::telemetry::{ClusterStat, HttpStat};

/// Connections of clients in one run.
const CONNECTIONS: u64 = 10;

/// A bootstrap whose limits lie elsewhere for every seed.
pub(super) fn bootstrap(rng: &mut Rng, weather: Weather) -> String {
    let limit = |rng: &mut Rng| [1, 1000, 4096, 65_536, 1 << 20][rng.below(5) as usize];
    let (down, mut up) = (limit(rng), limit(rng));
    // A head alone is above it.
    if weather == Weather::Fickle && rng.below(2) == 0 {
        up = 1;
    }
    let per_connection = if rng.below(3) == 0 {
        format!("common_http_protocol_options: {{max_requests_per_connection: {}}}, ", 1 + rng.below(4))
    } else {
        String::new()
    };
    // Nobody is that slow unless a plan says that it stalls.
    let (idle, route) = if weather == Weather::Faulty { ("60s", "90s") } else { ("600s", "0s") };
    let balance = if rng.below(2) == 0 { "connection_balance_config: {exact_balance: {}}" } else { "" };
    let endpoints: Vec<_> = ENDPOINTS
        .iter()
        .map(|address| {
            let address = address.strip_suffix(":80").unwrap();
            format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: 80}}}}}}}}")
        })
        .collect();
    format!(
        r#"static_resources:
  listeners:
  - name: front
    stat_prefix: sim
    address: {{socket_address: {{address: {host}, port_value: 80}}}}
    per_connection_buffer_limit_bytes: {down}
    {balance}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: sim
          stream_idle_timeout: {idle}
          request_headers_timeout: 120s
          http_protocol_options: {{accept_http_10: true}}
          upgrade_configs: [{{upgrade_type: websocket}}]
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {{text_format_source: {{inline_string: "%REQ(X-ID)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: endpoints, timeout: {route}}}}}]}}
          http_filters:
          - {{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
  clusters:
  - name: endpoints
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: {up}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        {per_connection_block}
        explicit_http_config: {{http_protocol_options: {{}}}}
    load_assignment: {{cluster_name: endpoints, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}
"#,
        host = FRONT.strip_suffix(":80").unwrap(),
        per_connection_block = per_connection.trim_end_matches(", "),
        endpoints = endpoints.join(", "),
    )
}

/// What a run of the soak came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    ended: Ended,
    exchanges: usize,
    complete: usize,
    /// Final heads that clients read.
    answers: usize,
    written: usize,
    received: usize,
}

fn soak(seed: u64, weather: Weather, hostile: bool) -> Outcome {
    soak_of(seed, weather, hostile, None, |id, rng| Plan::random(id, weather, rng))
}

fn soak_of(
    seed: u64,
    weather: Weather,
    hostile: bool,
    tls: Option<&'static Tls>,
    plan: impl Fn(usize, &mut Rng) -> Plan,
) -> Outcome {
    soak_within("", seed, weather, hostile, tls, plan)
}

/// The same with more fields of the cluster.
fn soak_within(
    cluster: &str,
    seed: u64,
    weather: Weather,
    hostile: bool,
    tls: Option<&'static Tls>,
    plan: impl Fn(usize, &mut Rng) -> Plan,
) -> Outcome {
    let mut rng = Rng::from_seed(seed);
    let config = if hostile { SimConfig::HOSTILE } else { SimConfig::KIND };
    let config = SimConfig { window_bytes_min: 1 << rng.below(13), ..config };
    let text = bootstrap(&mut rng, weather)
        .replace("connect_timeout: 5s", &format!("connect_timeout: 5s\n    {cluster}"));
    let world = World::start_with(seed, config, &text, 1 + rng.below(3) as usize, tls);
    let exchanges = Exchanges::default();
    upstream::serve_all(&world, &exchanges, weather, &mut rng);
    let expect = Expectations { weather, hostile, panics: false, tls };
    let open = Rc::new(Cell::new(CONNECTIONS));
    let moved = Rc::new(RefCell::new((0, 0)));
    for _ in 0..CONNECTIONS {
        let plans = (0..1 + rng.below(6)).map(|_| exchanges.add(|id| plan(id, &mut rng))).collect();
        let rng = Rng::from_seed(rng.next_u64());
        let (open, moved) = (Rc::clone(&open), Rc::clone(&moved));
        let talking = converse(world.clients.clone(), FRONT.parse().unwrap(), plans, expect, rng);
        world.clients.spawn(async move {
            let (written, received) = talking.await;
            let mut moved = moved.borrow_mut();
            *moved = (moved.0 + written, moved.1 + received);
            open.set(open.get() - 1);
        });
    }
    world.run(|| open.get() == 0);
    let ended = world.end();
    assert_eq!(ended.panics, 0);
    let all = exchanges.0.borrow();
    let count = |of: fn(&Exchange) -> bool| all.iter().filter(|exchange| of(exchange)).count();
    let (written, received) = *moved.borrow();
    Outcome {
        exchanges: all.len(),
        complete: count(|exchange| exchange.complete.get()),
        answers: count(|exchange| exchange.status.get().is_some()),
        written,
        received,
        ended,
    }
}

/// Responses that were not their requests' last: all of 1xx but those that upgrade.
fn interim(ended: &Ended) -> u64 {
    ended.downstream(HttpStat::DownstreamRq1xx) - ended.downstream(HttpStat::DownstreamCxUpgradesTotal)
}

#[test]
fn calm_weather_completes_every_exchange_and_counts_every_byte() {
    let mut complete = 0;
    for_seeds(60, |seed| {
        let outcome = soak(seed, Weather::Calm, false);
        complete += outcome.complete;
        let ended = &outcome.ended;
        assert_eq!(outcome.answers, outcome.complete);
        assert_eq!(
            ended.downstream(HttpStat::DownstreamRqCompleted),
            outcome.answers as u64 + interim(ended)
        );
        assert_eq!(ended.downstream(HttpStat::DownstreamRqTotal), outcome.answers as u64);
        assert_eq!(ended.downstream(HttpStat::DownstreamCxTotal), CONNECTIONS);
        assert_eq!(ended.cluster(ClusterStat::UpstreamRqTotal), outcome.answers as u64);
        assert_eq!(ended.cluster(ClusterStat::UpstreamRqRetryReusedConnection), 0);
    });
    println!("{complete} exchanges");
    assert!(complete > 0);
}

/// Whoever waits for a connection that there may not be gets one of those that there are, or another when they end.
#[test]
fn requests_that_wait_for_a_connection_get_one() {
    let mut waited = 0;
    for_seeds(60, |seed| {
        let limits = format!("circuit_breakers: {{thresholds: [{{max_connections: {}}}]}}", 1 + seed / 3 % 3);
        let weather = [Weather::Calm, Weather::Fickle, Weather::Faulty][(seed % 3) as usize];
        let plan = |id, rng: &mut Rng| Plan::random(id, weather, rng);
        // Who waits for one that has stalled may wait too long.
        let outcome = soak_within(&limits, seed, weather, weather == Weather::Faulty, None, plan);
        waited += outcome.ended.cluster(ClusterStat::UpstreamCxOverflow);
        assert_eq!(outcome.ended.cluster(ClusterStat::UpstreamRqPendingOverflow), 0);
        if weather == Weather::Calm {
            assert_eq!(outcome.answers, outcome.complete);
            assert_eq!(outcome.ended.cluster(ClusterStat::UpstreamRqTotal), outcome.answers as u64);
        }
    });
    assert!(waited > 0 || std::env::var_os("RINGWAY_SEED").is_some());
}

#[test]
fn endpoints_that_close_idle_connections_cost_no_repeatable_request() {
    let mut retried = 0;
    for_seeds(60, |seed| {
        let outcome = soak(seed, Weather::Fickle, false);
        retried += outcome.ended.cluster(ClusterStat::UpstreamRqRetryReusedConnection);
    });
    println!("{retried} retries");
}

/// A body that was paused for the first endpoint must not wait for it any more, and the end of an empty one in chunks must
/// not get lost with it.
#[test]
fn request_on_a_connection_that_dies_is_repeated_whole_or_not_at_all() {
    let mut retried = 0;
    for_seeds(40, |seed| {
        let outcome = soak_of(seed, Weather::Fickle, false, None, |id, rng| {
            let bytes = rng.below(3) as usize * 400;
            Plan::put(id, bytes, rng.below(2) == 0)
        });
        retried += outcome.ended.cluster(ClusterStat::UpstreamRqRetryReusedConnection);
    });
    assert!(retried > 0 || std::env::var_os("RINGWAY_SEED").is_some());
}

#[test]
fn faults_of_either_side_never_touch_a_byte_of_another_exchange() {
    let (mut exchanges, mut complete) = (0, 0);
    for_seeds(80, |seed| {
        let outcome = soak(seed, Weather::Faulty, false);
        exchanges += outcome.exchanges;
        complete += outcome.complete;
    });
    println!("{complete} of {exchanges} complete");
    assert!(complete > 0);
}

#[test]
fn hostile_world_breaks_connections_and_never_bytes() {
    let (mut exchanges, mut complete) = (0, 0);
    for_seeds(80, |seed| {
        let weather = [Weather::Calm, Weather::Fickle, Weather::Faulty][(seed % 3) as usize];
        let outcome = soak(seed, weather, true);
        exchanges += outcome.exchanges;
        complete += outcome.complete;
    });
    println!("{complete} of {exchanges} complete");
}

#[test]
fn same_seed_replays_the_same_run_of_the_whole_proxy() {
    for_seeds(2, |seed| {
        assert_eq!(soak(seed, Weather::Faulty, true), soak(seed, Weather::Faulty, true));
    });
}

/// What of TLS a seed has.
fn tls_of(seed: u64) -> &'static Tls {
    Tls::of([TlsVersion::Tls13, TlsVersion::Tls12][(seed / 3 % 2) as usize], seed.is_multiple_of(2))
}

#[test]
fn calm_weather_under_tls_completes_every_exchange() {
    for_seeds(40, |seed| {
        let weather = Weather::Calm;
        let outcome =
            soak_of(seed, weather, false, Some(tls_of(seed)), |id, rng| Plan::random(id, weather, rng));
        let ended = &outcome.ended;
        assert_eq!(outcome.answers, outcome.complete);
        assert_eq!(
            ended.downstream(HttpStat::DownstreamRqCompleted),
            outcome.answers as u64 + interim(ended)
        );
        assert_eq!(ended.downstream(HttpStat::DownstreamCxSslTotal), CONNECTIONS);
        assert_eq!(ended.cluster(ClusterStat::SslHandshake), ended.cluster(ClusterStat::UpstreamCxTotal));
    });
}

#[test]
fn faults_under_tls_never_touch_a_byte_of_another_exchange() {
    let mut complete = 0;
    for_seeds(60, |seed| {
        let weather = [Weather::Fickle, Weather::Faulty][(seed % 2) as usize];
        let tls = Some(tls_of(seed));
        complete +=
            soak_of(seed, weather, seed % 5 == 0, tls, |id, rng| Plan::random(id, weather, rng)).complete;
    });
    assert!(complete > 0);
}
