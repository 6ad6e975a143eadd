//! What all connections of a worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::date::DateCache;
use super::drain::Drain;
use super::listener::ConnectionLimit;
use super::stream::StreamPool;
use crate::base::rng::Rng;
use crate::cluster::ClusterManager;
use crate::runtime::Runtime;
use crate::telemetry::metrics::ServerCells;

/// The shared state of one core.
#[derive(Debug)]
pub struct WorkerContext {
    /// The event loop.
    pub runtime: Runtime,
    /// Clusters, by name.
    pub clusters: ClusterManager,
    /// The process's counters, this core's part.
    pub server: ServerCells,
    /// Recycled request state.
    pub streams: StreamPool,
    /// Whether connections are being ended.
    pub drain: Drain,
    /// The process's limit of connections.
    pub connections: ConnectionLimit,
    /// Balancing, request ids, fractions.
    pub rng: RefCell<Rng>,
    /// The `date` header of this second.
    pub date: DateCache,
    /// Open connections of clients on this core.
    pub open: Cell<usize>,
    ids: Cell<u64>,
    ids_step: u64,
}

impl WorkerContext {
    /// The state of worker `index` of `workers`.
    pub fn new(
        runtime: Runtime,
        server: ServerCells,
        connections: ConnectionLimit,
        seed: u64,
        index: usize,
        workers: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            clusters: ClusterManager::new(&runtime, index),
            runtime,
            server,
            streams: StreamPool::default(),
            drain: Drain::default(),
            connections,
            rng: RefCell::new(Rng::from_seed(seed)),
            date: DateCache::default(),
            open: Cell::new(0),
            ids: Cell::new(index as u64),
            ids_step: workers.max(1) as u64,
        })
    }

    /// A number no other connection of the process has; never 0.
    pub fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + self.ids_step);
        self.ids.get()
    }

    /// 64 random bits.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }
}
