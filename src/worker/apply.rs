//! Commands applied to one core: listeners started and stopped, clusters put, endpoints updated, the drain.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::Command;
use crate::base::clock::Now;
use crate::base::heaps;
use crate::base::socket_address::SocketAddress;
use crate::config::listener::TrafficDirection;
use crate::proxy::{
    self, Access, AccessFilter, Courier, FilterChain, FilterChains, Gate, HttpChain, Listener, Share,
    TcpChain, Terminal, WorkerContext,
};
use crate::runtime::mailbox::MailboxSender;
use crate::runtime::{Endpoint, TcpListener};
use crate::snapshot::{self, FilterChainResource, ListenerResource, RoutesResource, Snapshot};
use crate::telemetry::{ServerStat, Slot};

/// What one core serves.
#[derive(Debug)]
pub(super) struct Worker {
    context: Rc<WorkerContext>,
    index: usize,
    listeners: RefCell<Vec<Rc<Listener>>>,
    courier: Courier,
    /// When the drain ends in any case.
    drain_until: Cell<Option<Now>>,
}

impl Worker {
    pub(super) fn new(context: Rc<WorkerContext>, index: usize, peers: Vec<MailboxSender<Command>>) -> Self {
        let courier = Courier::new(move |to, handover| {
            // A worker that is gone was out of time, as this one will be: the connection is closed.
            peers.get(to).map(|peer| peer.send(Command::Serve(handover)));
        });
        Self { context, index, listeners: RefCell::default(), courier, drain_until: Cell::new(None) }
    }

    pub(super) fn obey(&self, command: Command) {
        match command {
            Command::Serve(handover) => {
                let listeners = self.listeners.borrow();
                // Nobody gives to a worker before it has opened the listener.
                let listener = listeners.iter().find(|listener| handover.is_of(listener));
                debug_assert!(listener.is_some());
                if let Some(listener) = listener {
                    handover.serve(&self.context, listener);
                }
            }
            // What else it is told outlives the connections.
            other => heaps::lasting(|| self.change(other)),
        }
    }

    fn change(&self, command: Command) {
        let context = &self.context;
        match command {
            Command::Start { snapshot, sockets } => self.start(&snapshot, sockets),
            Command::Serve(_) => {}
            Command::Clusters { clusters, names } => context.clusters.change(clusters, &names),
            Command::Hosts { cluster, hosts } => {
                context.clusters.update_hosts(cluster, hosts);
            }
            Command::Routes(routes) => {
                let slot = Slot::Worker(self.index);
                let listeners = self.listeners.borrow();
                for RoutesResource { listener, chain, manager, filter_stats } in routes.iter() {
                    let chain = listeners.get(*listener).and_then(|listener| listener.chains.get(*chain));
                    if let Some(chain) = chain {
                        chain.set_routes(Arc::clone(manager), filter_stats.cells(slot));
                    }
                }
            }
            Command::ServerTls { listener, chain, tls } => {
                let listeners = self.listeners.borrow();
                let chain = listeners.get(listener).and_then(|listener| listener.chains.get(chain));
                if let Some(chain) = chain {
                    chain.set_tls(tls);
                }
            }
            Command::TransportSockets { cluster, sockets } => {
                context.clusters.update_sockets(cluster, sockets);
            }
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
                let until = context.runtime.now().after(deadline);
                self.drain_until.set(Some(self.drain_until.get().map_or(until, |old| old.min(until))));
                // Connections look at the drain; this one makes sure that somebody looks at its end.
                context.runtime.wake_all();
                let runtime = context.runtime.clone();
                context.runtime.spawn(async move { runtime.sleep_until(until).await });
            }
        }
    }

    /// Whether the drain is over: nobody is served any more, or its time is up.
    pub(super) fn is_finished(&self) -> bool {
        self.drain_until.get().is_some_and(|until| {
            (self.context.accepting.get() == 0
                && self.context.open.get() == 0
                && self.listeners.borrow().iter().all(|listener| listener.expects_none()))
                || self.context.runtime.now() >= until
        })
    }

    /// Copies the runtime's own counts to the metrics.
    pub(super) fn report(&self) {
        let server = &self.context.server;
        let (counts, pool) = (self.context.runtime.stats(), self.context.runtime.pool());
        for (counter, total) in [
            (ServerStat::Panics, self.context.runtime.panics()),
            (ServerStat::BufferExhausted, pool.exhausted_count()),
            (ServerStat::IoAcceptDropped, counts.accepts_dropped),
            (ServerStat::IoCompletions, counts.completions),
            (ServerStat::IoCqOverflow, counts.cq_overflows),
            (ServerStat::IoEnobufs, counts.recv_enobufs),
            (ServerStat::IoEnters, counts.visits),
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
        for listener in self.listeners.borrow().iter() {
            listener.chains.trim();
        }
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
        let context = &self.context;
        context.clusters.publish(Arc::clone(&snapshot.clusters));
        let listeners: Vec<_> = snapshot.listeners.iter().map(|resource| self.listener(resource)).collect();
        let mut bound = Vec::new();
        for (place, socket) in sockets {
            let Some(listener) = listeners.get(place) else { continue };
            match TcpListener::new(&context.runtime, socket) {
                Ok(socket) => {
                    let address = socket.address().ok().and_then(|address| address.socket());
                    bound.extend(address.map(|address| (address, Rc::clone(listener))));
                    context.runtime.spawn(proxy::accept(Rc::clone(context), Rc::clone(listener), socket));
                }
                Err(error) => log::error!("listener {} cannot be watched: {error}", listener.config.name),
            }
        }
        context.listeners.set(&listeners, &bound);
        self.listeners.borrow_mut().extend(listeners);
    }

    fn listener(&self, resource: &ListenerResource) -> Rc<Listener> {
        let slot = Slot::Worker(self.index);
        let chains = resource.chains.iter().map(|chain| filter_chain(chain, slot)).collect();
        let chains = FilterChains::new(Arc::clone(&resource.choice), chains, resource.default_chain());
        let share = resource
            .balance
            .as_ref()
            .map(|balance| Share::open(Arc::clone(balance), self.index, self.courier.clone()));
        let access_logs = Arc::clone(&resource.access_logs);
        let (stats, proxy_protocol) = (resource.stats.cells(slot), &resource.proxy_protocol);
        let proxy_protocol = proxy_protocol.iter().map(|scope| scope.cells(slot)).collect();
        Listener::new(Arc::clone(&resource.config), stats, chains, proxy_protocol, access_logs, share)
    }

    fn stop_listeners(&self, inbound_only: bool, handed_over: &Arc<[SocketAddress]>) {
        for listener in self.listeners.borrow().iter() {
            if !inbound_only || listener.config.traffic_direction == TrafficDirection::Inbound {
                listener.stop(handed_over);
            }
        }
        self.context.runtime.wake_all();
    }
}

/// A filter chain on the core of this slot.
fn filter_chain(resource: &FilterChainResource, slot: Slot) -> FilterChain {
    let gate = |gate: &snapshot::Gate| match gate {
        snapshot::Gate::ConnectionLimit { limit, stats } => {
            Gate::ConnectionLimit(limit.clone(), stats.cells(slot))
        }
        snapshot::Gate::LocalRateLimit { limit, stats } => {
            Gate::LocalRateLimit(limit.clone(), stats.cells(slot))
        }
    };
    let terminal = match &resource.terminal {
        snapshot::Terminal::None => Terminal::None,
        snapshot::Terminal::Http(http) => Terminal::Http(Rc::new(HttpChain::new(
            Arc::clone(&http.manager),
            http.stats.cells(slot),
            http.filter_stats.cells(slot),
            &resource.name,
        ))),
        snapshot::Terminal::Tcp(tcp) => Terminal::Tcp(Rc::new(TcpChain::new(
            Arc::clone(&tcp.config),
            &resource.name,
            tcp.sni_cluster,
            tcp.tunneling.clone(),
            Arc::clone(&tcp.access_logs),
            tcp.stats.cells(slot),
        ))),
        snapshot::Terminal::Echo => Terminal::Echo,
        snapshot::Terminal::DirectResponse(bytes) => Terminal::DirectResponse(Arc::clone(bytes)),
    };
    let access = resource.access.iter();
    let access = access.map(|one| AccessFilter::new(Arc::clone(&one.filter), one.stats.cells(slot)));
    FilterChain::new(
        &resource.name,
        resource.tls.clone(),
        resource.gates.iter().map(gate).collect(),
        Access::new(access.collect()),
        terminal,
    )
}
