//! Commands applied to one core: listeners started and stopped, generations taken, the drain.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::Command;
use super::listeners::Listeners;
use crate::base::clock::Now;
use crate::base::heaps;
use crate::base::socket_address::SocketAddress;
use crate::proxy::{Courier, WorkerContext};
use crate::runtime::Endpoint;
use crate::runtime::mailbox::MailboxSender;
use crate::snapshot::{ChainTls, ClustersChange, Generation, RoutesResource, Snapshot};
use crate::telemetry::{ServerStat, Slot};

/// What one core serves.
#[derive(Debug)]
pub(super) struct Worker {
    context: Rc<WorkerContext>,
    listeners: Listeners,
    index: usize,
    /// When the drain ends in any case.
    drain_until: Cell<Option<Now>>,
}

impl Worker {
    pub(super) fn new(context: Rc<WorkerContext>, index: usize, peers: Vec<MailboxSender<Command>>) -> Self {
        let courier = Courier::new(move |to, handover| {
            // A worker that is gone was out of time, as this one will be: the connection is closed.
            peers.get(to).map(|peer| peer.send(Command::Serve(handover)));
        });
        let listeners = Listeners::new(&context, index, courier);
        Self { context, index, listeners, drain_until: Cell::new(None) }
    }

    pub(super) fn obey(&self, command: Command) {
        match command {
            Command::Serve(handover) => {
                // Nobody gives to a worker before it has opened the listener.
                let listener = self.listeners.of(&handover);
                debug_assert!(listener.is_some());
                if let Some(listener) = listener {
                    handover.serve(&self.context, &listener);
                }
            }
            Command::Made(task) => self.context.runtime.wake(task),
            // What else it is told outlives the connections.
            other => heaps::lasting(|| self.change(other)),
        }
    }

    fn change(&self, command: Command) {
        let context = &self.context;
        match command {
            Command::Start { snapshot } => self.start(&snapshot, Vec::<(usize, Endpoint)>::new()),
            Command::Serve(_) | Command::Made(_) => {}
            Command::Generation { generation, sockets } => self.take(&generation, sockets),
            Command::HealthFailed(failed) => context.drain.set_health_failed(failed),
            Command::Spread { over, inbound_only } => {
                context.drain.spread(context.runtime.now(), over, inbound_only);
            }
            Command::StopListeners { inbound_only, handed_over } => {
                self.stop_listeners(inbound_only, &handed_over);
            }
            Command::Drain { deadline } => {
                self.stop_listeners(false, &Arc::default());
                context.drain.begin(context.runtime.now());
                context.clusters.drain();
                let until = context.runtime.now().after(deadline);
                self.drain_until.set(Some(self.drain_until.get().map_or(until, |old| old.min(until))));
                // Connections look at the drain; this one makes sure that somebody looks at its end.
                context.runtime.wake_all();
                let runtime = context.runtime.clone();
                context.runtime.spawn(async move { runtime.sleep_until(until).await });
            }
        }
    }

    /// Takes all that has changed. Nothing else runs on this core meanwhile, so whoever is served next meets all of it.
    fn take(&self, generation: &Generation, sockets: Vec<(usize, OwnedFd)>) {
        let Generation {
            clusters,
            hosts,
            published_hosts,
            transport_sockets,
            listeners,
            filters,
            routes,
            tls,
            answered_hosts,
        } = generation;
        let own_clusters = &self.context.clusters;
        if let Some(ClustersChange { all, names }) = clusters {
            own_clusters.change(Arc::clone(all), names);
        }
        for (cluster, sockets) in transport_sockets {
            own_clusters.update_sockets(Arc::clone(cluster), Arc::clone(sockets));
        }
        for (cluster, hosts) in published_hosts {
            own_clusters.update_published_hosts(cluster, hosts);
        }
        for (cluster, hosts) in hosts {
            own_clusters.update_hosts(Arc::clone(cluster), Arc::clone(hosts));
        }
        if !listeners.is_empty() || !sockets.is_empty() {
            self.listeners.change(listeners, sockets);
        }
        // Behind the listeners: some of these are for those that are new.
        self.listeners.set_filters(filters.values());
        let slot = Slot::Worker(self.index);
        for RoutesResource { listener, chain, manager, filter_stats } in routes.values() {
            self.listeners.with_chain(*listener, *chain, |chain| {
                chain.set_routes(Arc::clone(manager), filter_stats.cells(slot));
            });
        }
        for ChainTls { listener, chain, tls } in tls.values() {
            self.listeners.with_chain(*listener, *chain, |chain| chain.set_tls(Arc::clone(tls)));
        }
        // Behind the routes, with which those who have waited go on.
        if !listeners.is_empty() || !routes.is_empty() {
            self.context.look_again_for_hosts();
        }
        answered_hosts.iter().for_each(|asked| self.context.answer_host(asked));
    }

    /// Whether the drain is over: nobody is served any more, or its time is up.
    pub(super) fn is_finished(&self) -> bool {
        self.drain_until.get().is_some_and(|until| {
            (self.context.accepting.get() == 0
                && self.context.open.get() == 0
                && self.listeners.expect_none())
                || self.context.runtime.now() >= until
        })
    }

    /// Copies the runtime's own counts to the metrics.
    pub(super) fn report(&self) {
        let server = &self.context.server;
        let (counts, pool) = (self.context.runtime.stats(), self.context.runtime.pool());
        for (counter, total) in [
            (ServerStat::Panics, self.context.runtime.panics()),
            (ServerStat::DeferredWaits, counts.deferred_waits),
            (ServerStat::DeferredMadeByWorkers, counts.deferred_made_here),
            (ServerStat::BufferExhausted, pool.exhausted_count()),
            (ServerStat::IoAcceptDropped, counts.accepts_dropped),
            (ServerStat::IoCompletions, counts.completions),
            (ServerStat::IoCqOverflow, counts.cq_overflows),
            (ServerStat::IoEnobufs, counts.recv_enobufs),
            (ServerStat::IoEnters, counts.visits),
            (ServerStat::IoInternalRefused, counts.internal_refused),
            (ServerStat::IoShortSends, counts.short_sends),
            (ServerStat::IoSpliceRefused, counts.splices_refused),
            (ServerStat::IoSplicedBytes, counts.spliced_bytes),
            (ServerStat::IoSplices, counts.splices),
        ] {
            server.raise(counter, total);
        }
        server.gauge_set(ServerStat::IoPipes, counts.pipes);
        server.gauge_set(ServerStat::BufferChunksInUse, u64::from(pool.chunks_in_use()));
        server.gauge_set(ServerStat::BufferResidentBytes, pool.resident_bytes());
    }

    /// Frees what has not been needed lately; whether the next call may free more.
    pub(super) fn trim(&self) -> bool {
        self.listeners.trim();
        self.context.streams.trim()
    }

    /// Copies what the memory went to, to the metrics. Once a second: a connection's coming and going need not show at once.
    pub(super) fn report_memory(&self) {
        let memory = self.context.runtime.memory();
        for (gauge, bytes) in [
            (ServerStat::MemoryHeap, usize::try_from(memory.heap).unwrap_or(0)),
            (ServerStat::MemoryFutures, memory.futures),
            (ServerStat::MemoryPools, self.context.clusters.idle_bytes()),
            (ServerStat::MemorySocketQueues, memory.socket_queues),
            (ServerStat::MemorySockets, memory.sockets),
            (ServerStat::MemoryStreams, self.context.streams.spare_bytes()),
            (ServerStat::MemoryTasks, memory.tasks),
            (ServerStat::MemoryTimers, memory.timers),
        ] {
            self.context.server.gauge_set(gauge, bytes as u64);
        }
    }

    pub(super) fn start(&self, snapshot: &Snapshot, sockets: Vec<(usize, impl Into<Endpoint>)>) {
        self.context.clusters.publish(Arc::clone(&snapshot.clusters));
        if let Some(bytes) = snapshot.internal_buffer_bytes {
            self.context.runtime.set_internal_buffer(bytes as usize);
        }
        self.listeners.start(snapshot, sockets);
    }

    fn stop_listeners(&self, inbound_only: bool, handed_over: &Arc<[SocketAddress]>) {
        self.listeners.stop(inbound_only, handed_over);
        self.context.runtime.wake_all();
    }
}
