//! Circuit breakers: how many connections, requests that wait for one, requests in flight and pools a cluster may have, by
//! priority and for the whole process. Source: Envoy `CircuitBreakers`.
//!
//! Each worker counts in cells that it alone writes, as with statistics. The limit is one number for all of them: as long as
//! no worker has more than its equal share, the sum cannot be beyond it, and nobody looks at the others' cells. A worker that
//! goes beyond its share says so in a flag that all read and hardly anybody writes; while it is set, each adds up the cells of
//! all before it takes another. As in Envoy, what several workers take in the same moment may go beyond the limit.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::config::cluster::{self, RoutingPriority, Thresholds};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections, those that are being made included. Source: `max_connections`.
    Connections,
    /// Requests, and relayed connections, that wait for a connection. Source: `max_pending_requests`.
    PendingRequests,
    /// Requests, and relayed connections, that have one. Source: `max_requests`.
    Requests,
    /// Pools: hosts that have connections for requests, once for each name, client and protocol that sets them apart, and
    /// once for each worker. Source: `max_connection_pools`.
    ConnectionPools,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; RESOURCES] =
        [Self::Connections, Self::PendingRequests, Self::Requests, Self::ConnectionPools];

    /// How much of it there may be.
    pub fn max(self, thresholds: &Thresholds) -> u32 {
        match self {
            Self::Connections => thresholds.max_connections,
            Self::PendingRequests => thresholds.max_pending_requests,
            Self::Requests => thresholds.max_requests,
            Self::ConnectionPools => thresholds.max_connection_pools,
        }
    }
}

const RESOURCES: usize = 4;
const PRIORITIES: usize = 2;

/// The circuit breakers of a cluster, all cores; nothing before a worker asks for them or they have other limits.
#[derive(Debug, Default)]
pub struct CircuitBreakers(OnceLock<Arc<State>>);

#[derive(Debug)]
struct State {
    limits: [[Limit; RESOURCES]; PRIORITIES],
    /// Among how many workers a limit is divided; at least one.
    parts: u32,
    /// Most connections of one host, by priority. Source: `per_host_thresholds`.
    connections_per_host_max: [u32; PRIORITIES],
    /// One for each worker; none before it asks.
    used: Box<[OnceLock<Arc<Used>>]>,
}

/// A [`Room`] in one word: workers write what they have found out of it, and never over what control has put there meanwhile.
#[derive(Debug)]
struct Limit(AtomicU64);

/// What is known of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// How much of it there may be.
    max: u32,
    /// How much of it a worker takes without a look at the others: its part, or, which is the flag, nothing while some worker may
    /// have more than that.
    free: u32,
}

/// What one worker has. Two lines: the processor fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Used([[AtomicU32; RESOURCES]; PRIORITIES]);

/// The circuit breakers of a cluster as one worker uses them.
#[derive(Debug)]
pub struct Breakers {
    all: Arc<State>,
    own: Arc<Used>,
}

// === impl CircuitBreakers ===

impl CircuitBreakers {
    /// For one of so many workers: make it on the worker's own thread.
    pub(super) fn of_worker(
        &self,
        config: &cluster::CircuitBreakers,
        workers: usize,
        worker: usize,
    ) -> Breakers {
        let all = self.0.get_or_init(|| Arc::new(State::new(config, workers.max(1))));
        let own = &all.used[worker.min(all.used.len() - 1)];
        Breakers { all: Arc::clone(all), own: Arc::clone(own.get_or_init(Arc::default)) }
    }

    /// Has these limits from now on, in place of what the cluster's configuration says or was said here before; off the data path.
    /// What is in use beyond a lower limit stays. Those of hosts are the configuration's in any case.
    pub fn set_limits(&self, limits: &cluster::CircuitBreakers, workers: usize) {
        let all = self.0.get_or_init(|| Arc::new(State::new(limits, workers.max(1))));
        for (of_priority, thresholds) in all.limits.iter().zip([&limits.default, &limits.high]) {
            for (limit, resource) in of_priority.iter().zip(Resource::ALL) {
                limit.set(resource.max(thresholds));
            }
        }
    }

    /// How much of a resource there may be, as workers have it; `None`: as it is configured.
    pub fn max(&self, priority: RoutingPriority, resource: Resource) -> Option<u32> {
        Some(self.0.get()?.limit(priority, resource).room().max)
    }

    /// How much of a resource is in use.
    pub fn used(&self, priority: RoutingPriority, resource: Resource) -> u64 {
        self.0.get().map_or(0, |all| all.add_up(priority, resource).0)
    }
}

// === impl State ===

impl State {
    fn new(config: &cluster::CircuitBreakers, workers: usize) -> Self {
        let parts = u32::try_from(workers).unwrap_or(u32::MAX);
        let limit = |max| Limit(AtomicU64::new(Room { max, free: max / parts }.packed()));
        let priorities = [&config.default, &config.high];
        Self {
            limits: priorities
                .map(|thresholds| Resource::ALL.map(|resource| limit(resource.max(thresholds)))),
            parts,
            connections_per_host_max: priorities.map(|thresholds| thresholds.max_connections_per_host),
            used: (0..workers).map(|_| OnceLock::new()).collect(),
        }
    }

    fn limit(&self, priority: RoutingPriority, resource: Resource) -> &Limit {
        &self.limits[priority as usize][resource as usize]
    }

    /// What all workers have, and the most that one has.
    fn add_up(&self, priority: RoutingPriority, resource: Resource) -> (u64, u32) {
        let all = self.used.iter().filter_map(OnceLock::get);
        all.map(|used| used.cell(priority, resource).load(Relaxed))
            .fold((0, 0), |(sum, most), used| (sum + u64::from(used), most.max(used)))
    }
}

impl Room {
    fn packed(self) -> u64 {
        u64::from(self.free) << u32::BITS | u64::from(self.max)
    }
}

impl Limit {
    fn room(&self) -> Room {
        let packed = self.0.load(Relaxed);
        Room { max: packed as u32, free: (packed >> u32::BITS) as u32 }
    }

    /// Says how much workers take without a look, unless the limit is another meanwhile.
    fn set_free(&self, known: Room, free: u32) {
        let next = Room { free, ..known };
        let _ = self.0.compare_exchange(known.packed(), next.packed(), Relaxed, Relaxed);
    }

    /// Another limit: who comes next looks whether somebody has more than its part of it.
    fn set(&self, max: u32) {
        if self.room().max != max {
            self.0.store(Room { max, free: 0 }.packed(), Relaxed);
        }
    }
}

impl Used {
    fn cell(&self, priority: RoutingPriority, resource: Resource) -> &AtomicU32 {
        &self.0[priority as usize][resource as usize]
    }
}

// === impl Breakers ===

impl Breakers {
    /// Whether another one may be taken.
    #[inline]
    pub fn has_room(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let room = self.all.limit(priority, resource).room();
        let own = self.own.cell(priority, resource).load(Relaxed);
        own < room.free || self.look_around(priority, resource)
    }

    /// Takes one, be there room or not.
    #[inline]
    pub fn take(&self, priority: RoutingPriority, resource: Resource) {
        let cell = self.own.cell(priority, resource);
        let own = cell.load(Relaxed).saturating_add(1);
        cell.store(own, Relaxed);
        let limit = self.all.limit(priority, resource);
        let room = limit.room();
        if room.free > 0 && own > room.free {
            limit.set_free(room, 0);
        }
    }

    /// Gives back one that was taken.
    #[inline]
    pub fn give_back(&self, priority: RoutingPriority, resource: Resource) {
        let cell = self.own.cell(priority, resource);
        let own = cell.load(Relaxed);
        debug_assert!(own > 0, "{resource:?} were given back that nobody took");
        cell.store(own.saturating_sub(1), Relaxed);
    }

    /// Most connections of one host; `None`: any number.
    pub fn connections_per_host_max(&self, priority: RoutingPriority) -> Option<u32> {
        let max = self.all.connections_per_host_max[priority as usize];
        (max != u32::MAX).then_some(max)
    }

    /// The same as [`Self::has_room`], where a worker may have more than its share.
    #[cold]
    fn look_around(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let limit = self.all.limit(priority, resource);
        let room = limit.room();
        let (sum, most) = self.all.add_up(priority, resource);
        let share = room.max / self.all.parts;
        // Not at the share itself: it is not to go up and down with every request.
        let free = if most > share / 2 { 0 } else { share };
        if room.free != free {
            limit.set_free(room, free);
        }
        sum < u64::from(room.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: RoutingPriority = RoutingPriority::Default;
    const REQUESTS: Resource = Resource::Requests;

    fn limits(max_requests: u32) -> cluster::CircuitBreakers {
        let mut config = cluster::CircuitBreakers::default();
        config.default.max_requests = max_requests;
        config
    }

    /// Those of a cluster that has been asked for by so many workers.
    fn asked(all: CircuitBreakers, max_requests: u32, workers: usize) -> (CircuitBreakers, Vec<Breakers>) {
        let of_worker = |worker| all.of_worker(&limits(max_requests), workers, worker);
        let own = (0..workers).map(of_worker).collect();
        (all, own)
    }

    fn breakers(max_requests: u32, workers: usize) -> (CircuitBreakers, Vec<Breakers>) {
        asked(CircuitBreakers::default(), max_requests, workers)
    }

    /// Takes as long as there is room, in turn; how many each has got.
    fn fill(workers: &[Breakers]) -> Vec<u32> {
        let mut got = vec![0; workers.len()];
        loop {
            let before = got.clone();
            for (worker, got) in workers.iter().zip(&mut got) {
                if worker.has_room(DEFAULT, REQUESTS) {
                    worker.take(DEFAULT, REQUESTS);
                    *got += 1;
                }
            }
            if got == before {
                return got;
            }
        }
    }

    #[test]
    fn limit_is_one_number_for_all_workers() {
        for (max, workers) in [(0, 2), (1, 4), (3, 2), (7, 3), (64, 4), (1024, 1)] {
            let (all, workers) = breakers(max, workers);
            assert_eq!(fill(&workers).iter().sum::<u32>(), max);
            assert_eq!(all.used(DEFAULT, REQUESTS), u64::from(max));
            // And all of it for a single one.
            let (_, workers) = breakers(max, workers.len());
            assert_eq!(fill(&workers[..1]), [max]);
            assert!(workers.iter().all(|worker| !worker.has_room(DEFAULT, REQUESTS)), "{max}");
        }
    }

    #[test]
    fn what_is_given_back_is_there_for_others() {
        let (_, workers) = breakers(10, 2);
        let got = fill(&workers);
        workers[0].give_back(DEFAULT, REQUESTS);
        assert!(workers[1].has_room(DEFAULT, REQUESTS));
        workers[1].take(DEFAULT, REQUESTS);
        assert!(!workers[0].has_room(DEFAULT, REQUESTS) && !workers[1].has_room(DEFAULT, REQUESTS));
        (1..got[0]).for_each(|_| workers[0].give_back(DEFAULT, REQUESTS));
        assert_eq!(fill(&workers[..1]), [got[0] - 1]);
    }

    #[test]
    fn nobody_looks_around_while_all_are_within_their_shares() {
        let (_, workers) = breakers(100, 2);
        let is_near = || workers[0].all.limit(DEFAULT, REQUESTS).room().free == 0;
        (0..50).for_each(|_| workers[0].take(DEFAULT, REQUESTS));
        assert!(workers[1].has_room(DEFAULT, REQUESTS) && !is_near());
        workers[0].take(DEFAULT, REQUESTS);
        assert!(is_near(), "one more than a half");
        (0..25).for_each(|_| workers[0].give_back(DEFAULT, REQUESTS));
        assert!(workers[1].has_room(DEFAULT, REQUESTS) && is_near(), "not at once");
        workers[0].give_back(DEFAULT, REQUESTS);
        assert!(workers[1].has_room(DEFAULT, REQUESTS) && !is_near());
    }

    #[test]
    fn another_limit_counts_for_whoever_comes_next() {
        let (all, workers) = breakers(100, 2);
        let has_room = || workers.iter().any(|worker| worker.has_room(DEFAULT, REQUESTS));
        // Within its share, which is no reason for anybody to look around.
        (0..10).for_each(|_| workers[0].take(DEFAULT, REQUESTS));
        all.set_limits(&limits(10), 2);
        assert!(!has_room(), "what is beyond a share of the new limit is seen by the other, too");
        all.set_limits(&limits(4), 2);
        assert!(!has_room() && all.used(DEFAULT, REQUESTS) == 10, "what is in use stays");
        all.set_limits(&limits(13), 2);
        assert_eq!(fill(&workers).iter().sum::<u32>(), 3);
        all.set_limits(&limits(0), 2);
        (0..10).for_each(|_| workers[0].give_back(DEFAULT, REQUESTS));
        assert!(!has_room());
        all.set_limits(&limits(u32::MAX), 2);
        assert!(workers.iter().all(|worker| worker.has_room(DEFAULT, REQUESTS)));
    }

    #[test]
    fn limit_that_is_said_before_a_worker_asks_goes_before_the_configuration() {
        let all = CircuitBreakers::default();
        all.set_limits(&limits(3), 2);
        let (_, workers) = asked(all, 100, 2);
        assert_eq!(fill(&workers).iter().sum::<u32>(), 3);
    }

    /// A worker that has looked around before the limit was another must not undo it.
    #[test]
    fn what_a_worker_found_out_of_an_earlier_limit_is_no_more() {
        let (all, workers) = breakers(100, 2);
        let limit = workers[0].all.limit(DEFAULT, REQUESTS);
        let earlier = limit.room();
        all.set_limits(&limits(7), 2);
        limit.set_free(earlier, 50);
        assert_eq!(limit.room(), Room { max: 7, free: 0 });
    }

    #[test]
    fn priorities_and_resources_are_apart() {
        let (all, workers) = breakers(1, 1);
        workers[0].take(DEFAULT, REQUESTS);
        assert!(!workers[0].has_room(DEFAULT, REQUESTS));
        assert!(workers[0].has_room(RoutingPriority::High, REQUESTS));
        assert!(workers[0].has_room(DEFAULT, Resource::PendingRequests));
        assert_eq!(all.used(RoutingPriority::High, REQUESTS), 0);
        assert_eq!(CircuitBreakers::default().used(DEFAULT, REQUESTS), 0, "nobody has asked");
    }

    #[test]
    fn workers_share_no_cache_line() {
        assert_eq!((align_of::<Used>(), size_of::<Used>()), (128, 128));
    }
}
