//! What belongs to one core: buffers, timers, the choice of a host, a cluster's endpoints.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::clock::Now;
use ringway::base::rng::Rng;
use ringway::buffer::{ChunkSize, Pool};
use ringway::cluster::{ClusterManager, ClusterSet, ClusterSpec, HostSpecs, PublishedCluster};
use ringway::config::cluster::Cluster;
use ringway::runtime::Runtime;
use ringway::runtime::mailbox::mailbox;
use ringway::snapshot::resolve_hosts;
use ringway::telemetry::Registry;

use crate::config::{clusters, load};
use crate::{Case, Step};

/// Hosts of a cluster.
const HOSTS: [usize; 2] = [10, 1_000];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::hot("pool/small_chunk", || chunk(ChunkSize::Small)),
        Case::hot("pool/large_chunk", || chunk(ChunkSize::Large)),
        Case::hot("timer/arm_and_drop_alone", || timer(0)),
        Case::hot("timer/arm_and_drop_beside_10000", || timer(10_000)),
        Case::waiting("timer/fire_64", || fire(64)),
    ];
    for (name, policy, weighted) in [
        ("round_robin", "ROUND_ROBIN", false),
        ("weighted", "ROUND_ROBIN", true),
        ("least_request", "LEAST_REQUEST", false),
        ("random", "RANDOM", false),
        ("ring_hash", "RING_HASH", false),
        ("maglev", "MAGLEV", false),
    ] {
        let case =
            |hosts| Case::hot(format!("balancer/{name}_{hosts}"), move || pick(hosts, policy, weighted));
        cases.extend(HOSTS.map(case));
    }
    cases.extend(
        HOSTS.map(|hosts| Case::slow(format!("cluster/first_use_{hosts}"), move || first_use(hosts))),
    );
    cases.extend(HOSTS.map(|hosts| Case::slow(format!("cluster/endpoint_{hosts}"), move || endpoint(hosts))));
    cases
}

/// Taken, written to, split as a head and its body are, given back.
fn chunk(size: ChunkSize) -> Step {
    let pool = Pool::with_capacity(64, 8).expect("address space");
    Box::new(move || {
        let mut chunk = black_box(&pool).alloc(size).expect("a chunk");
        chunk.write(b"GET / HTTP/1.1\r\n\r\nbody");
        let mut whole = chunk.freeze();
        let head = whole.split_to(18);
        drop(black_box((head, whole)));
    })
}

pub(crate) fn runtime() -> Runtime {
    // The bell outlives the runtime: it is never rung, and the process is short.
    let (sender, receiver) = mailbox::<()>().expect("a mailbox");
    let runtime = Runtime::epoll(receiver.bell()).expect("a runtime");
    std::mem::forget((sender, receiver));
    runtime
}

/// A connection's timer, armed for 15 s and dropped, while others wait for theirs.
fn timer(others: u64) -> Step {
    let runtime = runtime();
    let after = |now: Now, millis| Now(now.0 + Duration::from_millis(millis).as_nanos() as u64);
    let waiting: Vec<_> = (0..others).map(|_| runtime.timer()).collect();
    for (timer, place) in waiting.iter().zip(0..) {
        assert!(timer.poll_at(after(runtime.now(), 1_000 + place * 7)).is_pending());
    }
    Box::new(move || {
        let (timer, _others) = (runtime.timer(), &waiting);
        assert!(timer.poll_at(after(runtime.now(), black_box(15_000))).is_pending());
    })
}

/// The timers of that many tasks fire at the same moment, and each task arms its own anew for a millisecond later. The
/// step waits for that moment.
fn fire(tasks: usize) -> Step {
    let (runtime, fired) = (runtime(), Rc::new(Cell::new(0)));
    for _ in 0..tasks {
        let (handle, fired) = (runtime.clone(), Rc::clone(&fired));
        runtime.spawn(async move {
            let timer = handle.timer();
            loop {
                let due = Now(handle.now().0 + 1_000_000);
                let _elapsed = timer.at(due, std::future::pending::<()>()).await;
                fired.set(fired.get() + 1);
            }
        });
    }
    runtime.turn().expect("a turn");
    Box::new(move || {
        let before = fired.get();
        while fired.get() == before {
            runtime.turn().expect("a turn");
        }
        assert_eq!(fired.get(), before + tasks);
    })
}

/// A cluster of that many hosts, as published.
fn cluster(hosts: usize, policy: &str, weighted: bool) -> (Arc<Cluster>, Arc<HostSpecs>, Arc<ClusterSet>) {
    let registry = Registry::new(1);
    let bootstrap = load(&clusters(1, hosts, policy, weighted));
    let config = Arc::clone(&bootstrap.clusters[0]);
    let specs = resolve_hosts(&[], &config, &config.load_assignment, &registry);
    assert_eq!(specs.len(), hosts);
    let spec = Arc::new(ClusterSpec::new(Arc::clone(&config), Arc::default(), &registry));
    let published = PublishedCluster { spec, hosts: Arc::clone(&specs) };
    (config, specs, Arc::new(ClusterSet::new(vec![published])))
}

/// A host for a request, each with another hash.
fn pick(hosts: usize, policy: &str, weighted: bool) -> Step {
    let (config, _, set) = cluster(hosts, policy, weighted);
    let manager = ClusterManager::new(&runtime(), 0, 1);
    manager.publish(set);
    let cluster = manager.find(&config.name).expect("it was published");
    let (mut rng, mut hash, hashes) = (Rng::from_seed(1), 1_u64, cluster.hashes());
    Box::new(move || {
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let (_manager, host) = (&manager, cluster.pick(hashes.then_some(hash), &mut rng));
        assert!(black_box(host).is_some());
    })
}

/// What the first request to a cluster takes: the core makes hosts, balancer and counters of its own.
fn first_use(hosts: usize) -> Step {
    let (config, _, set) = cluster(hosts, "ROUND_ROBIN", false);
    let manager = ClusterManager::new(&runtime(), 0, 1);
    Box::new(move || {
        manager.publish(Arc::clone(&set));
        assert!(black_box(manager.find(&config.name)).is_some());
    })
}

/// A control plane adds an endpoint to a cluster that is in use, and takes it away again, in turns.
fn endpoint(hosts: usize) -> Step {
    let (config, fewer, set) = cluster(hosts, "ROUND_ROBIN", false);
    let (_, more, _) = cluster(hosts + 1, "ROUND_ROBIN", false);
    let name: Arc<str> = Arc::from(&*config.name);
    let manager = ClusterManager::new(&runtime(), 0, 1);
    manager.publish(set);
    let _in_use = manager.find(&name).expect("it was published");
    let mut is_more = false;
    Box::new(move || {
        is_more = !is_more;
        let hosts = if is_more { &more } else { &fewer };
        manager.update_hosts(Arc::clone(&name), Arc::clone(black_box(hosts)));
    })
}
