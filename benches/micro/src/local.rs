//! What belongs to one core: buffers, timers, the choice of a host.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::clock::Now;
use ringway::base::rng::Rng;
use ringway::buffer::{ChunkSize, Pool};
use ringway::cluster::{ClusterManager, ClusterSet, ClusterSpec};
use ringway::runtime::Runtime;
use ringway::runtime::mailbox::mailbox;
use ringway::snapshot::HostRegistry;
use ringway::telemetry::Registry;

use crate::config::{clusters, load};
use crate::{Case, Step};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::hot("pool/small_chunk", || chunk(ChunkSize::Small)),
        Case::hot("pool/large_chunk", || chunk(ChunkSize::Large)),
        Case::hot("timer/arm_and_drop_alone", || timer(0)),
        Case::hot("timer/arm_and_drop_beside_10000", || timer(10_000)),
        Case::hot("balancer/round_robin_10", || pick(10, false)),
        Case::hot("balancer/round_robin_1000", || pick(1_000, false)),
        Case::hot("balancer/weighted_10", || pick(10, true)),
        Case::hot("balancer/weighted_1000", || pick(1_000, true)),
    ]
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

fn runtime() -> Runtime {
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

fn pick(hosts: usize, weighted: bool) -> Step {
    let (runtime, registry) = (runtime(), Registry::new(1));
    let bootstrap = load(&clusters(1, hosts, weighted));
    let config = &bootstrap.clusters[0];
    let specs = HostRegistry::default().resolve(config, &config.load_assignment, &registry);
    assert_eq!(specs.len(), hosts);
    let stats = registry.cluster("c");
    let spec = ClusterSpec { config: config.clone(), stats, hosts: specs, sockets: Arc::default() };
    let manager = ClusterManager::new(&runtime, 0, 1);
    manager.publish(Arc::new(ClusterSet::new(vec![Arc::new(spec)])));
    let cluster = manager.find(&config.name).expect("it was published");
    let mut rng = Rng::from_seed(1);
    Box::new(move || {
        let (_manager, host) = (&manager, cluster.pick(&mut rng));
        assert!(black_box(host).is_some());
    })
}
