//! Connections that one worker accepts and another serves, by seed: spread as configured, and none lost when the workers
//! drain while some are on their way.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{DRAIN, FRONT, World, for_seeds};
use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpStream};
use crate::telemetry::names::Stats as _;
use crate::telemetry::{HttpStat, ListenerStat};
use crate::worker::Command;

const WORKERS: usize = 3;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Answers by itself; `balance` is a field of the listener.
fn bootstrap(balance: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
  - name: front
    stat_prefix: sim
    address: {{socket_address: {{address: {host}, port_value: 80}}}}
    {balance}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: sim
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}
          http_filters:
          - {{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}
  clusters:
  - name: endpoints
    load_assignment: {{cluster_name: endpoints}}
"#,
        host = FRONT.strip_suffix(":80").unwrap(),
    )
}

const EXACT: &str = "connection_balance_config: {exact_balance: {}}";

/// What clients have come to.
#[derive(Debug, Default)]
struct Clients {
    connected: Cell<usize>,
    answered: Cell<usize>,
    /// They ask once this is set.
    ask: Cell<bool>,
}

/// Connects, asks when it may, and counts a complete answer.
async fn ask(runtime: Runtime, clients: Rc<Clients>) {
    let stream = TcpStream::connect(&runtime, FRONT.parse::<std::net::SocketAddr>().unwrap(), None, &[])
        .await
        .unwrap();
    clients.connected.set(clients.connected.get() + 1);
    while !clients.ask.get() {
        runtime.sleep_until(Now(runtime.now().0 + 1_000_000)).await;
    }
    assert!(stream.send_copy(REQUEST));
    stream.flush();
    let mut answer = Vec::new();
    while let Some(piece) = stream.recv().await.unwrap() {
        answer.extend_from_slice(&piece);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    clients.answered.set(clients.answered.get() + 1);
}

fn start(seed: u64, balance: &str, count: usize) -> (World, Rc<Clients>) {
    let world = World::start(seed, SimConfig::KIND, &bootstrap(balance), WORKERS);
    let clients = Rc::new(Clients::default());
    for _ in 0..count {
        world.clients.spawn(ask(world.clients.clone(), Rc::clone(&clients)));
    }
    (world, clients)
}

/// Open connections by worker, and those handed over.
fn spread(world: &World) -> ([u64; WORKERS], u64) {
    let scope = world.registry.listener("sim");
    let active = |worker| scope.worker_value(ListenerStat::DownstreamCxActive.index(), worker);
    let handed_over = scope.value(ListenerStat::DownstreamCxHandedOver.index()).0;
    (std::array::from_fn(active), handed_over)
}

#[test]
fn exact_balance_gives_every_worker_as_many_connections() {
    let mut handed = 0;
    for_seeds(20, |seed| {
        let count = 3 + Rng::from_seed(seed).below(60) as usize;
        let (world, clients) = start(seed, EXACT, count);
        world.run(|| spread(&world).0.iter().sum::<u64>() == count as u64);
        let (active, handed_over) = spread(&world);
        assert!(active.iter().max().unwrap() - active.iter().min().unwrap() <= 1, "{active:?}");
        handed += handed_over;
        clients.ask.set(true);
        world.run(|| clients.answered.get() == count);
        let ended = world.end();
        assert_eq!(ended.downstream(HttpStat::DownstreamCxTotal), count as u64);
    });
    assert!(handed > 0 || std::env::var_os("RINGWAY_SEED").is_some());
}

#[test]
fn default_balance_leaves_no_worker_far_behind() {
    for_seeds(20, |seed| {
        let count = 6 + Rng::from_seed(seed).below(60) as usize;
        let (world, clients) = start(seed, "", count);
        world.run(|| spread(&world).0.iter().sum::<u64>() == count as u64);
        let (active, _) = spread(&world);
        let (most, least) = (active.iter().max().unwrap(), active.iter().min().unwrap());
        assert!(*most <= least + least / 8 + 3, "{active:?}");
        clients.ask.set(true);
        world.run(|| clients.answered.get() == count);
        world.end();
    });
}

/// Connections handed over when clients with one request each come in waves.
fn handed_over_in_waves(seed: u64, balance: &str) -> u64 {
    const WAVE: usize = 18;
    let (world, clients) = start(seed, balance, WAVE);
    clients.ask.set(true);
    for wave in 1..=10 {
        world.run(|| clients.answered.get() == wave * WAVE);
        for _ in 0..WAVE {
            world.clients.spawn(ask(world.clients.clone(), Rc::clone(&clients)));
        }
    }
    world.run(|| clients.answered.get() == 11 * WAVE);
    let (_, handed_over) = spread(&world);
    world.end();
    handed_over
}

#[test]
fn connections_of_one_request_each_mostly_stay_where_they_were_accepted() {
    let (mut by_default, mut exactly) = (0, 0);
    for_seeds(5, |seed| {
        by_default += handed_over_in_waves(seed, "");
        exactly += handed_over_in_waves(seed, EXACT);
    });
    println!("{by_default} by default, {exactly} with exact_balance");
    assert!(by_default * 4 < exactly);
}

#[test]
fn workers_that_drain_lose_no_connection_on_its_way() {
    let mut handed = 0;
    for_seeds(60, |seed| {
        let mut rng = Rng::from_seed(seed);
        let count = 20 + rng.below(30) as usize;
        let (world, clients) = start(seed, EXACT, count);
        world.run(|| clients.connected.get() == count);
        // The kernel has completed all handshakes; who is accepted, and who is on the way, the seed decides.
        (0..rng.below(4)).for_each(|_| world.turn());
        clients.ask.set(true);
        let first = rng.below(WORKERS as u64) as usize;
        for step in 0..WORKERS {
            let (_, sender, _) = &world.cores[(first + step) % WORKERS];
            assert!(sender.send(Command::Drain { deadline: DRAIN }));
            (0..rng.below(3)).for_each(|_| world.turn());
        }
        world.run(|| clients.answered.get() == count);
        handed += spread(&world).1;
        let ended = world.end();
        assert_eq!(ended.downstream(HttpStat::DownstreamCxTotal), count as u64);
    });
    assert!(handed > 0 || std::env::var_os("RINGWAY_SEED").is_some());
}

#[test]
fn workers_that_stop_listening_serve_what_they_have_and_end() {
    for_seeds(20, |seed| {
        let (world, clients) = start(seed, EXACT, 12);
        world.run(|| clients.connected.get() == 12);
        for (_, sender, _) in &world.cores {
            assert!(sender.send(Command::StopListeners { inbound_only: false, handed_over: Arc::default() }));
            world.turn();
        }
        clients.ask.set(true);
        world.run(|| clients.answered.get() == 12);
        let before = world.network.now_ns();
        let ended = world.end();
        assert!(ended.now_ns - before < Duration::from_secs(60).as_nanos() as u64, "nobody is waited for");
    });
}
