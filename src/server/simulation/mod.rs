//! The whole proxy on the simulated back end: a bootstrap's text becomes workers through the code that serves, clients and
//! endpoints are scripted tasks, and everything steps on this one thread in virtual time.
//!
//! A run is determined by its seed, which every test prints: `RINGWAY_SEED=N` runs that one alone, `RINGWAY_SIM_ROUNDS=N`
//! runs that many from a fresh start.

mod bursts;
mod client;
mod exchange;
mod handover;
mod handshakes;
mod interference;
mod listener_filters;
mod message;
mod panics;
mod peer;
mod preface;
mod relays;
mod soak;
mod tls;
mod upstream;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::{SharedLimits, Surroundings, compile};
use crate::base::clock;
use crate::cluster::{ClusterSet, Resource};
use crate::config::bootstrap::Overload;
use crate::config::cluster::RoutingPriority;
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::{LoadOptions, load_bootstrap};
use crate::format::access_log_queue::{LogMessage, LogQueue, SinkId};
use crate::proxy::ConnectionLimit;
use crate::runtime::mailbox::{Mailbox, MailboxSender, mailbox};
use crate::runtime::sim::{SimConfig, SimNetwork};
use crate::runtime::{Leaks, Runtime, Stats, TcpListener};
use crate::telemetry::names::Stats as Metric;
use crate::telemetry::{ClusterStat, HttpStat, ListenerStat, Registry, Scope, ServerStat, Slot};
use crate::worker::{AccessLogSetup, Command, Core, Setup};
use tls::Tls;

/// Where the bootstrap's listener is.
const FRONT: &str = "10.0.0.1:80";
/// Where its cluster's endpoints are.
const ENDPOINTS: [&str; 2] = ["10.0.1.1:80", "10.0.1.2:80"];
/// Virtual time that the drain at the end may take.
const DRAIN: Duration = Duration::from_secs(600);
/// Turns after which a run is taken for a livelock.
const TURNS_MAX: u64 = 40_000_000;

/// A proxy and the world around it.
struct World {
    network: SimNetwork,
    registry: Registry,
    clusters: Arc<ClusterSet>,
    cores: Vec<(Core, MailboxSender<Command>, Runtime)>,
    clients: Runtime,
    servers: Runtime,
    log: Receiver<LogMessage>,
    /// What everybody speaks; `None`: plain text.
    tls: Option<&'static Tls>,
    /// The bells of those two.
    _bells: [Mailbox<()>; 2],
    /// Access-log records so far.
    records: RefCell<Vec<u8>>,
}

/// What a run came to; two runs of one seed agree in all of it.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    now_ns: u64,
    stats: Vec<Stats>,
    records: String,
    downstream: Vec<(&'static str, u64)>,
    cluster: Vec<(&'static str, u64)>,
    panics: u64,
}

impl Ended {
    fn downstream(&self, stat: HttpStat) -> u64 {
        value(&self.downstream, stat)
    }

    fn cluster(&self, stat: ClusterStat) -> u64 {
        value(&self.cluster, stat)
    }
}

fn value<S: Metric>(values: &[(&'static str, u64)], stat: S) -> u64 {
    values[stat.index()].1
}

/// All values of a scope, in the order of its rows.
fn values<S: Metric>(scope: &Arc<Scope<S>>) -> Vec<(&'static str, u64)> {
    S::ROWS.iter().enumerate().map(|(row, metric)| (metric.name, scope.value(row).0)).collect()
}

impl World {
    /// `workers` workers serve what `bootstrap` says, at [`FRONT`].
    fn start(seed: u64, config: SimConfig, bootstrap: &str, workers: usize) -> Self {
        Self::start_with(seed, config, bootstrap, workers, None)
    }

    /// The same, with TLS on every connection.
    fn start_with(
        seed: u64,
        config: SimConfig,
        bootstrap: &str,
        workers: usize,
        tls: Option<&'static Tls>,
    ) -> Self {
        let source = Source { name: "simulation.yaml", text: bootstrap, format: Format::Yaml };
        let mut loaded = load_bootstrap(&[source], LoadOptions::default()).unwrap_or_else(|report| {
            panic!("{:#?}\n{bootstrap}", report.errors);
        });
        let registry = Registry::new(workers);
        let (queue, log) = LogQueue::new();
        let surroundings = Surroundings {
            local_address: None,
            hash_seed: seed,
            regexes: &Arc::default(),
            limits: &SharedLimits::default(),
            open_sink: &mut |_| Ok(SinkId(0)),
        };
        let mut snapshot = compile(&mut loaded.bootstrap, &registry, surroundings).unwrap();
        if let Some(tls) = tls {
            tls.put_into(&mut snapshot);
        }
        let network = SimNetwork::new(seed, config);
        let front: SocketAddr = FRONT.parse().unwrap();
        let connections = ConnectionLimit::new(&Overload::default());
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mailbox().unwrap()).unzip();
        let cores = senders.iter().zip(receivers).enumerate().map(|(index, (sender, receiver))| {
            let runtime = Runtime::sim(&network, receiver.bell()).unwrap();
            let setup = Setup {
                index,
                workers,
                peers: senders.clone(),
                seed: seed ^ (index as u64 + 1),
                connections: connections.clone(),
                access_log: AccessLogSetup {
                    queue: queue.clone(),
                    flush_interval: Duration::from_secs(1),
                    flush_min_bytes: 16 * 1024,
                },
                // There is no control thread.
                asked_hosts: None,
                maker: None,
            };
            let core = Core::new(&setup, &runtime, &registry, receiver);
            core.start_for_test(&snapshot, vec![(0, network.listen(front))]);
            (core, sender.clone(), runtime)
        });
        let cores = cores.collect();
        let bells = [(); 2].map(|()| mailbox::<()>().unwrap().1);
        let [clients, servers] = [0, 1].map(|far| Runtime::sim(&network, bells[far].bell()).unwrap());
        let records = RefCell::default();
        let clusters = snapshot.clusters;
        Self { registry, clusters, cores, clients, servers, log, tls, _bells: bells, records, network }
    }

    /// A listening endpoint of the cluster.
    fn endpoint(&self, index: usize) -> TcpListener {
        let address = ENDPOINTS[index].parse().unwrap();
        TcpListener::new(&self.servers, self.network.listen(address)).unwrap()
    }

    /// One turn of everybody.
    fn turn(&self) {
        self.clients.turn().unwrap();
        self.servers.turn().unwrap();
        assert_eq!(self.clients.panics() + self.servers.panics(), 0, "a script has failed: see above");
        self.cores.iter().for_each(|(core, ..)| core.turn().unwrap());
        for message in self.log.try_iter() {
            if let LogMessage::Piece(piece) = message {
                self.records.borrow_mut().extend_from_slice(&piece.records);
            }
        }
    }

    /// Turns until `done`.
    fn run(&self, done: impl Fn() -> bool) {
        let mut turns = 0;
        while !done() {
            self.turn();
            turns += 1;
            assert!(turns < TURNS_MAX, "no end after {turns} turns");
        }
    }

    /// Drains the workers and ends them; checks that nothing is left of anything, and that the counters of HTTP agree with
    /// each other.
    fn end(self) -> Ended {
        self.end_with(check_counters)
    }

    /// The same with other counters.
    fn end_with(self, check: impl FnOnce(&Registry, &Ended)) -> Ended {
        for (_, sender, _) in &self.cores {
            assert!(sender.send(Command::Drain { deadline: DRAIN }));
        }
        self.run(|| self.cores.iter().all(|(core, ..)| core.is_finished()));
        self.clients.shut_down();
        self.servers.shut_down();
        let Self { network, registry, clusters, cores, clients, servers, log, tls: _, records, _bells } =
            self;
        let mut runtimes = vec![clients, servers];
        let mut panics = 0;
        let mut senders = Vec::new();
        for (core, sender, runtime) in cores {
            // Keeps the bell that the runtime looks at.
            senders.push(sender);
            panics += runtime.panics();
            core.end();
            runtimes.push(runtime);
        }
        // Sends under way end by their completions.
        for _ in 0..10_000 {
            if runtimes.iter().all(|runtime| runtime.leaks() == Leaks::default()) {
                break;
            }
            for runtime in &runtimes {
                runtime.spawn(async {});
                runtime.turn().unwrap();
            }
        }
        for (index, runtime) in runtimes.iter().enumerate() {
            assert_eq!(runtime.leaks(), Leaks::default(), "runtime {index}");
        }
        assert_eq!(network.open_sockets(), 0, "sockets are left in the world");
        for (spec, resource) in
            clusters.iter().flat_map(|spec| Resource::ALL.map(|resource| (spec, resource)))
        {
            let used = spec.breakers.used(RoutingPriority::Default, resource);
            assert_eq!(used, 0, "{resource:?} of {}", spec.config.name);
        }
        let mut records = records.take();
        for message in log.try_iter() {
            if let LogMessage::Piece(piece) = message {
                records.extend_from_slice(&piece.records);
            }
        }
        let ended = Ended {
            now_ns: network.now_ns(),
            stats: runtimes.iter().map(Runtime::stats).collect(),
            records: String::from_utf8(records).unwrap(),
            downstream: values(&registry.http("sim", "sim")),
            cluster: values(&registry.cluster("endpoints")),
            panics,
        };
        check(&registry, &ended);
        ended
    }
}

/// What holds between counters whatever happened.
fn check_counters(registry: &Registry, ended: &Ended) {
    use ClusterStat as C;
    use HttpStat as H;
    let listener = registry.listener("sim");
    let listener = |stat: ListenerStat| listener.value(stat.index()).0;
    let (h, c) = (|stat| ended.downstream(stat), |stat| ended.cluster(stat));
    for gauge in [
        H::DownstreamCxActive,
        H::DownstreamCxSslActive,
        H::DownstreamCxHttp1Active,
        H::DownstreamCxHttp1SoftDrain,
        H::DownstreamRqActive,
        H::DownstreamCxUpgradesActive,
    ] {
        assert_eq!(h(gauge), 0, "{gauge:?}");
    }
    for gauge in [C::UpstreamCxActive, C::UpstreamRqActive, C::UpstreamRqPendingActive] {
        assert_eq!(c(gauge), 0, "{gauge:?}");
    }
    assert_eq!(listener(ListenerStat::DownstreamCxActive), 0);
    assert_eq!(listener(ListenerStat::DownstreamCxTotal), h(H::DownstreamCxTotal));
    assert_eq!(h(H::DownstreamCxTotal), h(H::DownstreamCxDestroy));
    assert_eq!(h(H::DownstreamCxDestroy), h(H::DownstreamCxDestroyLocal) + h(H::DownstreamCxDestroyRemote));
    assert_eq!(c(C::UpstreamCxTotal), c(C::UpstreamCxDestroy));
    assert_eq!(c(C::UpstreamCxDestroy), c(C::UpstreamCxDestroyLocal) + c(C::UpstreamCxDestroyRemote));
    // As in Envoy an interim response completes a request, too.
    assert!(h(H::DownstreamRqCompleted) <= h(H::DownstreamRqTotal) + h(H::DownstreamRq1xx));
    let server = registry.server(Slot::Worker(0));
    assert_eq!(server.value(ServerStat::Workers), 0);
    // What a panic has cut off is counted as one, and not logged.
    let records = ended.records.lines().count() as u64;
    assert!(records <= h(H::DownstreamRqTotal) && records + ended.panics >= h(H::DownstreamRqTotal));
}

/// Runs a test for the seed that is asked for, for as many as are asked for, or for a fixed few.
fn for_seeds(few: u64, mut test: impl FnMut(u64)) {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let (first, count) = match (setting("RINGWAY_SEED"), setting("RINGWAY_SIM_ROUNDS")) {
        (Some(seed), rounds) => (seed, rounds.unwrap_or(1)),
        (None, Some(rounds)) => (clock::wall_ns() / 1_000_000, rounds),
        (None, None) => (1, few),
    };
    for seed in first..first + count {
        println!("RINGWAY_SEED={seed}");
        test(seed);
    }
}
