//! The TCP proxy by seed: what either end sends arrives at the other, byte by byte, and so does each end, as it was sent: a
//! finish (FIN) alone and behind everything, a reset (RST) as one, at whatever stage it comes.
//!
//! Half of the seeds have one relay, whose endpoint may speak first; in the others a crowd of relays begin with a number each,
//! by which an endpoint knows whose script it plays. `RINGWAY_SEED=1 RINGWAY_SIM_ROUNDS=1600` are more than 10,000 relays.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::{ENDPOINTS, Ended, FRONT, World, for_seeds, values};
use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::buffer::ChunkSize;
use crate::runtime::sim::SimConfig;
use crate::runtime::{Runtime, TcpListener, TcpStream};
use crate::telemetry::names::Stats as Metric;
use crate::telemetry::{ClusterStat, ListenerStat, Registry, TcpStat};

/// Relays of a crowd.
const CROWD: usize = 12;
/// Worlds by default; the number of relays is printed.
const SEEDS: u64 = 400;
/// Virtual time in which everything that was sent has arrived.
const SETTLE_NS: u64 = 10_000_000_000;
/// Bytes of the number with which a relay of a crowd begins.
const NUMBER_BYTES: usize = 2;

/// How an end of a relayed connection leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Finishes behind what it sends.
    InOrder,
    /// Says nothing before it has heard the other's finish.
    Last,
    /// Resets behind what it sends, or hands over and may not send.
    Reset { flushed: bool },
    /// Resets once it has heard so much.
    ResetHearing { bytes: usize },
    /// Finishes behind what it sends, and resets once it has heard so much.
    ResetFinished { bytes: usize },
}

impl Leaves {
    fn finishes(self) -> bool {
        matches!(self, Self::InOrder | Self::Last | Self::ResetFinished { .. })
    }

    fn resets(self) -> bool {
        !matches!(self, Self::InOrder | Self::Last)
    }
}

/// What an end of a relayed connection does.
#[derive(Clone, Debug)]
struct Script {
    /// What it sends.
    bytes: Rc<[u8]>,
    /// The most that it hands over at once.
    write: usize,
    /// It reads nothing before it has said everything.
    late: bool,
    leaves: Leaves,
}

/// What an end saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// It was there.
    began: bool,
    bytes: usize,
    ended: bool,
    broke: bool,
}

/// A relayed connection: the client's part and the endpoint's.
#[derive(Clone, Debug)]
struct Planned {
    scripts: [Script; 2],
    seen: [Rc<Cell<Seen>>; 2],
}

impl Planned {
    fn random(rng: &mut Rng, number: Option<usize>, most: u64) -> Self {
        let mut scripts = [(); 2].map(|()| {
            let bytes = [rng.below(40), rng.below(6 * 1024), rng.below(most)][rng.below(3) as usize] as usize;
            let write = [1 + rng.below(64), 1 + rng.below(8 * 1024), 64 * 1024][rng.below(3) as usize];
            // Tiny writes of much would only take long.
            let write = (write as usize).max(bytes / 64 + 1).min(64 * 1024);
            let drawn = (0..bytes.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes());
            let bytes = drawn.take(bytes).collect();
            Script { bytes, write, late: false, leaves: Leaves::InOrder }
        });
        if let Some(number) = number {
            let number = u16::try_from(number).unwrap().to_le_bytes();
            scripts[0].bytes = number.iter().chain(scripts[0].bytes.iter()).copied().collect();
        }
        let lengths = [1, 0].map(|other: usize| scripts[other].bytes.len() as u64);
        for (script, others) in scripts.iter_mut().zip(lengths) {
            let bytes = rng.below(others + 1) as usize;
            script.leaves = match rng.below(10) {
                0 => Leaves::Reset { flushed: rng.below(2) == 0 },
                1 => Leaves::ResetHearing { bytes },
                2 => Leaves::ResetFinished { bytes },
                _ => Leaves::InOrder,
            };
        }
        // One of them at most waits for the other.
        let side = rng.below(2) as usize;
        let is_client_of_crowd = number.is_some() && side == 0;
        if !matches!(scripts[1 - side].leaves, Leaves::ResetHearing { .. }) {
            match rng.below(4) {
                0 if !is_client_of_crowd => scripts[side].leaves = Leaves::Last,
                1 => scripts[side].late = true,
                _ => {}
            }
        }
        Self { scripts, seen: [(); 2].map(|()| Rc::default()) }
    }
}

/// Plays a script until both directions have ended, or one of them broke; `seen` is what was read before.
async fn play(runtime: &Runtime, stream: &TcpStream, script: &Script, from: &[u8], mut seen: Seen) -> Seen {
    let (mut sent, mut said) = (0, false);
    seen.began = true;
    stream.set_bulk(true);
    poll_fn(|_| {
        loop {
            let before = (sent, said, seen);
            while !said && !seen.broke && (script.leaves != Leaves::Last || seen.ended) {
                let resets = matches!(script.leaves, Leaves::Reset { .. } | Leaves::ResetHearing { .. });
                let is_all = sent == script.bytes.len();
                let flushed = Leaves::Reset { flushed: true };
                match stream.poll_sent(if is_all && script.leaves == flushed { 0 } else { 64 * 1024 }) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => seen.broke = true,
                    Poll::Ready(Ok(())) if is_all => {
                        said = true;
                        if !resets {
                            stream.shutdown_write();
                        }
                    }
                    Poll::Ready(Ok(())) => {
                        let Some(mut chunk) = runtime.pool().alloc(ChunkSize::Large) else {
                            // There may be memory the next time.
                            runtime.wake(runtime.current_task());
                            break;
                        };
                        let end = script.bytes.len().min(sent + script.write);
                        sent += chunk.write(&script.bytes[sent..end]);
                        stream.send(chunk.freeze());
                        stream.flush();
                    }
                }
            }
            if said && matches!(script.leaves, Leaves::Reset { .. }) {
                stream.set_reset_on_close();
                return Poll::Ready(());
            }
            while !seen.ended && !seen.broke && (said || !script.late) {
                match stream.poll_recv() {
                    Poll::Pending => break,
                    Poll::Ready(Ok(Some(chunk))) => {
                        let end = seen.bytes + chunk.len();
                        assert!(end <= from.len(), "{end} bytes of {}: out of nowhere", from.len());
                        assert!(chunk[..] == from[seen.bytes..end], "other bytes, before {end}");
                        seen.bytes = end;
                    }
                    Poll::Ready(Ok(None)) => seen.ended = true,
                    Poll::Ready(Err(_)) => seen.broke = true,
                }
            }
            let has_heard = |bytes| said && (seen.bytes >= bytes || seen.ended);
            if let Leaves::ResetHearing { bytes } | Leaves::ResetFinished { bytes } = script.leaves
                && has_heard(bytes)
            {
                stream.set_reset_on_close();
                return Poll::Ready(());
            }
            if seen.broke || said && seen.ended && stream.poll_sent(0).is_ready() {
                return Poll::Ready(());
            }
            if before == (sent, said, seen) {
                return Poll::Pending;
            }
        }
    })
    .await;
    seen
}

/// Accepts for ever; whose script is played, the only one or that of the number.
async fn serve(
    runtime: Runtime,
    listener: TcpListener,
    plans: Rc<[Planned]>,
    crowd: bool,
    playing: Rc<Cell<usize>>,
) {
    loop {
        // In a hostile world some accepts fail.
        let Ok(stream) = poll_fn(|_| listener.poll_accept()).await else {
            runtime.sleep_until(Now(runtime.now().0 + 1000)).await;
            continue;
        };
        let (rt, plans, playing) = (runtime.clone(), Rc::clone(&plans), Rc::clone(&playing));
        playing.set(playing.get() + 1);
        runtime.spawn(async move {
            let number = if crowd { number(&stream).await } else { Some(0) };
            if let Some(number) = number {
                let planned = &plans[number];
                let bytes = if crowd { NUMBER_BYTES } else { 0 };
                let seen = Seen { began: true, bytes, ..Seen::default() };
                assert!(!planned.seen[1].replace(seen).began, "an endpoint's part is played once");
                let [client, endpoint] = &planned.scripts;
                planned.seen[1].set(play(&rt, &stream, endpoint, &client.bytes, seen).await);
            }
            drop(stream);
            playing.set(playing.get() - 1);
        });
    }
}

/// The number with which a relay of a crowd begins; `None`: it broke before.
async fn number(stream: &TcpStream) -> Option<usize> {
    let mut first = Vec::new();
    while first.len() < NUMBER_BYTES {
        let mut chunk = stream.recv().await.ok()??;
        let count = chunk.len().min(NUMBER_BYTES - first.len());
        first.extend_from_slice(&chunk[..count]);
        chunk.advance(count);
        if !chunk.is_empty() {
            stream.unread(chunk);
        }
    }
    Some(usize::from(u16::from_le_bytes([first[0], first[1]])))
}

/// `inner`: between the proxy and the endpoints there is another, behind an internal listener.
fn bootstrap(rng: &mut Rng, has_much: bool, inner: bool) -> String {
    let limits: &[u32] =
        if has_much { &[256 * 1024, 1 << 20] } else { &[1, 1000, 65_536, 256 * 1024, 1 << 20, 4 << 20] };
    let limit = |rng: &mut Rng| limits[rng.below(limits.len() as u64) as usize];
    let (down, up) = (limit(rng), limit(rng));
    let endpoints = ENDPOINTS.map(|address| {
        let address = address.strip_suffix(":80").unwrap();
        format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: 80}}}}}}}}")
    });
    let internal = format!(
        r#"
  - name: inner
    internal_listener: {{}}
    per_connection_buffer_limit_bytes: {down}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: inner
          cluster: endpoints
          idle_timeout: 3000s"#
    );
    let cluster = if inner { "inner" } else { "endpoints" };
    let internal = if inner { &*internal } else { "" };
    format!(
        r#"bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
    buffer_size_kb: {buffer_kb}
static_resources:
  listeners:
  - name: front
    stat_prefix: sim
    address: {{socket_address: {{address: {host}, port_value: 80}}}}
    per_connection_buffer_limit_bytes: {down}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: sim
          cluster: {cluster}
          idle_timeout: 3000s
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {{text_format_source: {{inline_string: "%BYTES_RECEIVED% %BYTES_SENT%\n"}}}}{internal}
  clusters:
  - name: inner
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: {up}
    load_assignment:
      cluster_name: inner
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{envoy_internal_address: {{server_listener_name: inner}}}}}}}}]}}]
  - name: endpoints
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: {up}
    load_assignment: {{cluster_name: endpoints, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}
"#,
        host = FRONT.strip_suffix(":80").unwrap(),
        endpoints = endpoints.join(", "),
        buffer_kb = down.clamp(1024, 1 << 20) / 1024,
    )
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    ended: Ended,
    relays: Vec<[Seen; 2]>,
    tcp: Vec<(&'static str, u64)>,
}

fn run(seed: u64, hostile: bool) -> Outcome {
    run_with(seed, hostile, false)
}

fn run_with(seed: u64, hostile: bool, inner: bool) -> Outcome {
    let mut rng = Rng::from_seed(seed);
    let config = if hostile { SimConfig::HOSTILE } else { SimConfig::KIND };
    let crowd = seed.is_multiple_of(2);
    // Some have much to say, and room for it: that goes by pipe.
    let has_much = !hostile && !crowd && rng.below(3) == 0;
    let window_bytes_min = if has_much { 128 * 1024 } else { 1 << rng.below(15) };
    let config = SimConfig { window_bytes_min, ..config };
    let text = bootstrap(&mut rng, has_much, inner);
    let world = World::start(seed, config, &text, 1 + rng.below(3) as usize);
    let most = if has_much { 2 * 1024 * 1024 } else { 20 * 1024 };
    let count = if crowd { CROWD } else { 1 };
    let plans: Rc<[_]> =
        (0..count).map(|number| Planned::random(&mut rng, crowd.then_some(number), most)).collect();
    let playing = Rc::new(Cell::new(0));
    for index in 0..ENDPOINTS.len() {
        let (plans, playing) = (Rc::clone(&plans), Rc::clone(&playing));
        let serving = serve(world.servers.clone(), world.endpoint(index), plans, crowd, playing);
        world.servers.spawn(serving);
    }
    let left = Rc::new(Cell::new(count));
    for planned in plans.iter() {
        let (runtime, planned, left) = (world.clients.clone(), planned.clone(), Rc::clone(&left));
        world.clients.spawn(async move {
            let front: SocketAddr = FRONT.parse().unwrap();
            if let Ok(stream) = TcpStream::connect(&runtime, front, None, &[]).await {
                let [client, endpoint] = &planned.scripts;
                planned.seen[0].set(play(&runtime, &stream, client, &endpoint.bytes, Seen::default()).await);
            }
            left.set(left.get() - 1);
        });
    }
    world.run(|| left.get() == 0);
    // What was sent last is still on its way.
    let (runtime, settled) = (world.clients.clone(), Rc::new(Cell::new(false)));
    let told = Rc::clone(&settled);
    world.clients.spawn(async move {
        runtime.sleep_until(Now(runtime.now().0 + SETTLE_NS)).await;
        told.set(true);
    });
    world.run(|| settled.get() && playing.get() == 0);
    let tcp = world.registry.tcp("sim");
    let ended = world.end_with(check_counters);
    let relays: Vec<_> = plans.iter().map(|planned| planned.seen.clone().map(|seen| seen.get())).collect();
    for (planned, seen) in plans.iter().zip(&relays) {
        check(&planned.scripts, seen, hostile);
    }
    let outcome = Outcome { ended, relays, tcp: values(&tcp) };
    check_bytes(&plans, &outcome, hostile, inner);
    outcome
}

/// Whether both sides saw what the other did.
fn check(scripts: &[Script; 2], seen: &[Seen; 2], hostile: bool) {
    let told = format!(
        "{:?} {:?}",
        [0, 1].map(|side: usize| (scripts[side].bytes.len(), scripts[side].late, scripts[side].leaves)),
        seen
    );
    for (side, other) in [(0, 1), (1, 0)] {
        let (own, others, saw) = (&scripts[side], &scripts[other], seen[side]);
        if !saw.began {
            // Only who went, or was sent away, before all was connected leaves the other without a part.
            assert!(hostile || scripts[0].leaves.resets(), "{told}");
            continue;
        }
        let is_whole = saw.bytes == others.bytes.len();
        // Of an endpoint that is not reached the client is told by an end.
        let unreached = hostile && side == 0 && !seen[1].began;
        assert!(!saw.ended || unreached || is_whole && others.leaves.finishes(), "{told}");
        if hostile {
            continue;
        }
        if !own.leaves.resets() && !others.leaves.resets() {
            assert!(saw.ended && is_whole && !saw.broke, "{told}");
        }
        if !own.leaves.resets() && others.leaves.resets() {
            // A reset that overtakes a finish takes its place.
            assert!(saw.broke || others.leaves.finishes() && saw.ended, "{told}");
        }
    }
}

/// Whether counters and records tell of the bytes that passed.
fn check_bytes(plans: &[Planned], outcome: &Outcome, hostile: bool, inner: bool) {
    let value = |stat: TcpStat| outcome.tcp[stat.index()].1;
    let (received, sent) =
        (value(TcpStat::DownstreamCxRxBytesTotal), value(TcpStat::DownstreamCxTxBytesTotal));
    let of = |bytes: fn(&Planned) -> usize| plans.iter().map(bytes).sum::<usize>() as u64;
    let said = [of(|planned| planned.scripts[0].bytes.len()), of(|planned| planned.scripts[1].bytes.len())];
    let heard = [of(|planned| planned.seen[1].get().bytes), of(|planned| planned.seen[0].get().bytes)];
    assert!((heard[0]..=said[0]).contains(&received), "{received}: {heard:?} {said:?}");
    assert!((heard[1]..=said[1]).contains(&sent), "{sent}: {heard:?} {said:?}");
    let all_in_order =
        plans.iter().all(|planned| planned.scripts.iter().all(|script| !script.leaves.resets()));
    if all_in_order && !hostile {
        assert_eq!([received, sent], said);
    }
    let cluster = |stat| outcome.ended.cluster(stat);
    let passed = [cluster(ClusterStat::UpstreamCxTxBytesTotal), cluster(ClusterStat::UpstreamCxRxBytesTotal)];
    if inner && (hostile || !all_in_order) {
        // A reset destroys what is between the two.
        assert!(passed[0] <= received && passed[1] >= sent, "{passed:?}: {received} {sent}");
    } else {
        assert_eq!(passed, [received, sent]);
    }
    let mut recorded = [0; 2];
    for line in outcome.ended.records.lines() {
        for (sum, bytes) in recorded.iter_mut().zip(line.split(' ')) {
            *sum += bytes.parse::<u64>().unwrap();
        }
    }
    assert_eq!(recorded, [received, sent]);
    assert_eq!(value(TcpStat::IdleTimeout), 0, "nobody is left to wait");
}

/// What holds between counters whatever happened.
fn check_counters(registry: &Registry, ended: &Ended) {
    use ClusterStat as C;
    let (listener, tcp) = (registry.listener("sim"), registry.tcp("sim"));
    let total = tcp.value(TcpStat::DownstreamCxTotal.index()).0;
    assert_eq!(listener.value(ListenerStat::DownstreamCxTotal.index()).0, total);
    assert_eq!(listener.value(ListenerStat::DownstreamCxActive.index()).0, 0);
    assert_eq!(ended.records.lines().count() as u64, total, "a record of each");
    let c = |stat| ended.cluster(stat);
    for gauge in [C::UpstreamCxActive, C::UpstreamRqActive, C::UpstreamRqPendingActive] {
        assert_eq!(c(gauge), 0, "{gauge:?}");
    }
    assert_eq!(c(C::UpstreamCxTotal), c(C::UpstreamCxDestroy));
    assert_eq!(ended.panics, 0);
}

#[test]
fn bytes_and_ends_pass_the_proxy_as_they_were_sent() {
    let (mut relays, mut half_closed, mut broken) = (0, 0, 0);
    let mut spliced = 0;
    for_seeds(SEEDS, |seed| {
        let outcome = run(seed, false);
        relays += outcome.relays.len();
        half_closed += outcome.relays.iter().filter(|seen| seen.iter().all(|seen| seen.ended)).count();
        broken += outcome.relays.iter().filter(|seen| seen.iter().any(|seen| seen.broke)).count();
        spliced += outcome.ended.stats.iter().map(|stats| stats.spliced_bytes).sum::<u64>();
    });
    println!("{relays} relays: {half_closed} ended on both sides, {broken} broken; {spliced} bytes by pipe");
    assert!(half_closed + broken > 0);
    assert!(spliced > 0 || relays < 1000, "some go by pipe");
}

#[test]
fn bytes_and_ends_pass_an_internal_listener_as_they_were_sent() {
    let (mut half_closed, mut broken) = (0, 0);
    for_seeds(SEEDS / 2, |seed| {
        let outcome = run_with(seed, false, true);
        half_closed += outcome.relays.iter().filter(|seen| seen.iter().all(|seen| seen.ended)).count();
        broken += outcome.relays.iter().filter(|seen| seen.iter().any(|seen| seen.broke)).count();
    });
    println!("{half_closed} ended on both sides, {broken} broken");
    assert!(half_closed > 0 && broken > 0 || half_closed + broken < 10);
    for_seeds(SEEDS / 8, |seed| drop(run_with(seed, true, true)));
    for_seeds(2, |seed| assert_eq!(run_with(seed, false, true), run_with(seed, false, true)));
}

#[test]
fn hostile_world_breaks_relays_and_never_bytes() {
    let mut relays = 0;
    for_seeds(SEEDS / 4, |seed| relays += run(seed, true).relays.len());
    println!("{relays} relays");
}

#[test]
fn same_seed_replays_the_same_relays() {
    for_seeds(4, |seed| assert_eq!(run(seed, seed > 2), run(seed, seed > 2)));
}
