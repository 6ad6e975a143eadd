//! The listeners of one core: started, given other places, stopped; what becomes of the connections of those that are gone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Now;
use crate::base::socket_address::SocketAddress;
use crate::config::listener::TrafficDirection;
use crate::proxy::{
    self, Access, AccessFilter, Courier, Drain, FilterChain, FilterChains, Gate, Handover, HttpChain,
    Listener, ListenerFilters, NetworkFilters, Seat, Share, TcpChain, Terminal, WorkerContext,
};
use crate::runtime::{Endpoint, TcpListener};
use crate::snapshot::{
    self, ChainTls, FilterChainResource, FilterResource, FiltersResource, HttpResource,
    ListenerFiltersResource, ListenerResource, ListenersChange, NewFilters, PutListener, Replaced,
    RoutesResource, Snapshot,
};
use crate::telemetry::Slot;

/// A listener, and what its sockets accept for.
type Seated = (Rc<Listener>, Rc<Seat>);

/// Chains that end, and when.
type Ending = Vec<(Now, Weak<HttpChain>)>;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Listeners {
    context: Rc<WorkerContext>,
    index: usize,
    courier: Courier,
    /// By number.
    current: RefCell<BTreeMap<usize, Seated>>,
    /// Where sockets are bound, and whose they are.
    bound: RefCell<Vec<(SocketAddr, usize)>>,
    /// Those that are gone while connections of theirs are on their way from other workers, or open.
    retired: RefCell<Vec<Rc<Listener>>>,
    /// Chains whose clients are told to go, with the time when those that are idle then are closed.
    ending: Rc<RefCell<Ending>>,
    /// Whether a task looks at them.
    ends: Rc<Cell<bool>>,
}

impl Listeners {
    pub(super) fn new(context: &Rc<WorkerContext>, index: usize, courier: Courier) -> Self {
        Self {
            context: Rc::clone(context),
            index,
            courier,
            current: RefCell::default(),
            bound: RefCell::default(),
            retired: RefCell::default(),
            ending: Rc::default(),
            ends: Rc::default(),
        }
    }

    /// Those of a snapshot, whose numbers are their places.
    pub(super) fn start(&self, snapshot: &Snapshot, sockets: Vec<(usize, impl Into<Endpoint>)>) {
        for (number, resource) in snapshot.listeners.iter().enumerate() {
            let listener = self.listener(resource, |_| None);
            set_tls(&listener, snapshot.tls.iter().filter(|tls| tls.listener == number));
            let seat = Seat::new(Rc::clone(&listener));
            self.open_internal(&listener, &seat);
            self.current.borrow_mut().insert(number, (listener, seat));
        }
        self.open(sockets);
    }

    /// Takes what has changed.
    pub(super) fn change(&self, change: &ListenersChange, sockets: Vec<(usize, impl Into<Endpoint>)>) {
        self.retired.borrow_mut().retain(|listener| !listener.expects_none());
        let mut ending = Vec::new();
        let now = self.context.runtime.now();
        for put in &change.put {
            ending.extend(self.put(put, now, change.spread));
        }
        for number in &change.removed {
            let gone = self.current.borrow_mut().remove(number);
            self.bound.borrow_mut().retain(|(_, of)| of != number);
            if let Some((gone, _)) = gone {
                gone.stop(&Arc::default());
                ending.extend(gone.chains.succeed(None, &[]));
                gone.chains.drain_relays(&[], now, change.spread);
                self.retire(gone);
            }
        }
        self.open(sockets);
        self.end(ending, change);
        // Accept loops look at what has become of their listeners.
        self.context.runtime.wake_all();
    }

    /// A new listener; the chains of the one whose place it takes that have no successor. Relayed connections of those that it
    /// does not have are told to go over the time `spread`.
    fn put(&self, put: &PutListener, now: Now, spread: Duration) -> Vec<Weak<HttpChain>> {
        let replaced = put.replaces.as_ref();
        let before = replaced.and_then(|replaced| self.current.borrow_mut().remove(&replaced.number));
        let relays = |place: usize| {
            let ((before, _), Replaced { kept, .. }) = (before.as_ref()?, replaced?);
            before.chains.relays(kept.iter().position(|next| *next == Some(place))?)
        };
        let listener = self.listener(&put.resource, relays);
        set_routes(&listener, &put.routes, Slot::Worker(self.index));
        set_tls(&listener, &put.tls);
        put.filters.iter().for_each(|filters| set_filters(&listener, filters, Slot::Worker(self.index)));
        let mut ending = Vec::new();
        let mut seat = None;
        if let (Some(replaced), Some((before, own_seat))) = (replaced, before) {
            let mut bound = self.bound.borrow_mut();
            if replaced.keeps_sockets {
                own_seat.take(Rc::clone(&listener));
                seat = Some(own_seat);
                let own = bound.iter_mut().filter(|(_, of)| *of == replaced.number);
                own.for_each(|(_, of)| *of = put.number);
            } else {
                before.stop(&Arc::default());
                bound.retain(|(_, of)| *of != replaced.number);
            }
            ending = before.chains.succeed(Some(&listener.chains), &replaced.successors);
            before.chains.drain_relays(&replaced.kept, now, spread);
            self.retire(before);
        }
        let seat = seat.unwrap_or_else(|| {
            let seat = Seat::new(Rc::clone(&listener));
            self.open_internal(&listener, &seat);
            seat
        });
        self.current.borrow_mut().insert(put.number, (listener, seat));
        ending
    }

    fn retire(&self, listener: Rc<Listener>) {
        if !listener.expects_none() {
            self.retired.borrow_mut().push(listener);
        }
    }

    /// Accepts what this worker's connections send to an internal listener.
    fn open_internal(&self, listener: &Listener, seat: &Rc<Seat>) {
        if let Some(address) = listener.config.internal() {
            let socket = TcpListener::internal(&self.context.runtime, address.clone());
            self.context.runtime.spawn(proxy::accept(Rc::clone(&self.context), Rc::clone(seat), socket));
        }
    }

    /// Accepts from these sockets, by the listeners' numbers.
    fn open(&self, sockets: Vec<(usize, impl Into<Endpoint>)>) {
        let context = &self.context;
        for (number, socket) in sockets {
            let Some((listener, seat)) = self.current.borrow().get(&number).cloned() else { continue };
            match TcpListener::new(&context.runtime, socket) {
                Ok(socket) => {
                    let address = socket.address().ok().and_then(|address| address.socket());
                    self.bound.borrow_mut().extend(address.map(|address| (address, number)));
                    context.runtime.spawn(proxy::accept(Rc::clone(context), seat, socket));
                }
                Err(error) => log::error!("listener {} cannot be watched: {error}", listener.config.name),
            }
        }
        let current = self.current.borrow();
        let listeners: Vec<_> = current.values().map(|(listener, _)| Rc::clone(listener)).collect();
        let bound = self.bound.borrow();
        let owned =
            |(address, number): &(SocketAddr, usize)| Some((*address, Rc::clone(&current.get(number)?.0)));
        let bound: Vec<_> = bound.iter().filter_map(owned).collect();
        context.listeners.set(&listeners, &bound);
    }

    /// Has the clients of these chains told to go.
    fn end(&self, chains: Vec<Weak<HttpChain>>, change: &ListenersChange) {
        let now = self.context.runtime.now();
        let until = now.after(change.stay);
        let mut ending = self.ending.borrow_mut();
        // Of many changes few have connections left.
        ending.retain(|(_, chain)| chain.strong_count() > 0);
        for chain in chains {
            if let Some(served) = chain.upgrade() {
                served.drain(now, change.spread);
                ending.push((until, chain));
            }
        }
        if ending.is_empty() || self.ends.replace(true) {
            return;
        }
        let (context, ending, ends) =
            (Rc::clone(&self.context), Rc::clone(&self.ending), Rc::clone(&self.ends));
        self.context.runtime.spawn(async move {
            loop {
                let next = ending.borrow().iter().map(|(until, _)| *until).min();
                let Some(until) = next else { break };
                context.runtime.sleep_until(until).await;
                let now = context.runtime.now();
                ending.borrow_mut().retain(|(until, chain)| {
                    let is_due = *until <= now;
                    if let Some(chain) = chain.upgrade().filter(|_| is_due) {
                        chain.end(now);
                    }
                    !is_due
                });
                // Connections look at it.
                context.runtime.wake_all();
            }
            ends.set(false);
        });
    }

    /// The listener of a connection from another worker.
    pub(super) fn of(&self, handover: &Handover) -> Option<Rc<Listener>> {
        let current = self.current.borrow();
        let retired = self.retired.borrow();
        let all = current.values().map(|(listener, _)| listener).chain(&*retired);
        all.into_iter().find(|listener| handover.is_of(listener)).cloned()
    }

    /// Does something to a chain, if it is there.
    pub(super) fn with_chain(&self, listener: usize, chain: usize, work: impl FnOnce(&FilterChain)) {
        let current = self.current.borrow();
        if let Some(chain) = current.get(&listener).and_then(|(listener, _)| listener.chains.get(chain)) {
            work(chain);
        }
    }

    /// Takes other filters, for connections from now on.
    pub(super) fn set_filters<'a>(&self, filters: impl Iterator<Item = &'a FiltersResource>) {
        let current = self.current.borrow();
        for resource in filters {
            if let Some((listener, _)) = current.get(&resource.listener) {
                set_filters(listener, resource, Slot::Worker(self.index));
            }
        }
    }

    /// Whether no connection is on its way to any of them.
    pub(super) fn expect_none(&self) -> bool {
        let (current, retired) = (self.current.borrow(), self.retired.borrow());
        let all = current.values().map(|(listener, _)| listener).chain(&*retired);
        all.into_iter().all(|listener| listener.expects_none())
    }

    /// Stops those for which the filter holds, and no internal one: connections that go on need them to their end, as in
    /// Envoy. The accept loops must be woken.
    pub(super) fn stop(&self, inbound_only: bool, handed_over: &Arc<[SocketAddress]>) {
        for (listener, _) in self.current.borrow().values() {
            if listener.config.internal().is_some() {
                continue;
            }
            if !inbound_only || listener.config.traffic_direction == TrafficDirection::Inbound {
                listener.stop(handed_over);
            }
        }
    }

    /// Frees what has not been needed lately.
    pub(super) fn trim(&self) {
        self.current.borrow().values().for_each(|(listener, _)| listener.chains.trim());
        self.retired.borrow_mut().retain(|listener| !listener.expects_none());
    }

    /// One of these chains; `relays`: what relayed connections are told of the very same chain that was there before, by its place.
    fn listener(
        &self,
        resource: &ListenerResource,
        relays: impl Fn(usize) -> Option<Rc<Drain>>,
    ) -> Rc<Listener> {
        let slot = Slot::Worker(self.index);
        let chain = |(place, chain): (usize, &FilterChainResource)| {
            filter_chain(chain, relays(place).unwrap_or_default(), slot)
        };
        let chains = resource.chains.iter().enumerate().map(chain).collect();
        let chains = FilterChains::new(Arc::clone(&resource.choice), chains, resource.default_chain());
        let share = resource
            .balance
            .as_ref()
            .map(|balance| Share::open(Arc::clone(balance), self.index, self.courier.clone()));
        let access_logs = Arc::clone(&resource.access_logs);
        let filters = resource.filters.as_ref().map(|filters| listener_filters(filters, slot));
        let (stats, limit) = (resource.stats.cells(slot), resource.limit.clone());
        Listener::new(Arc::clone(&resource.config), stats, chains, filters, access_logs, (share, limit))
    }
}

/// Gives a listener that is not in use yet TLS that is newer than it.
fn set_tls<'a>(listener: &Listener, contexts: impl IntoIterator<Item = &'a ChainTls>) {
    for ChainTls { chain, tls, .. } in contexts {
        if let Some(chain) = listener.chains.get(*chain) {
            chain.set_tls(Arc::clone(tls));
        }
    }
}

/// Gives a listener that is not in use yet its routes.
fn set_routes(listener: &Listener, routes: &[RoutesResource], slot: Slot) {
    for RoutesResource { chain, manager, filter_stats, .. } in routes {
        if let Some(chain) = listener.chains.get(*chain) {
            chain.set_routes(Arc::clone(manager), filter_stats.cells(slot));
        }
    }
}

/// Gives a listener other filters.
fn set_filters(listener: &Listener, resource: &FiltersResource, slot: Slot) {
    match &resource.filters {
        NewFilters::Network(place, filters) => {
            if let Some(chain) = listener.chains.get(*place) {
                chain.set_filters(network_filters(chain.name(), filters, chain.http(), chain.relays(), slot));
            }
        }
        NewFilters::Listener(filters) => {
            listener.set_filters(filters.as_ref().map(|filters| listener_filters(filters, slot)));
        }
    }
}

/// Listener filters on the core of this slot.
fn listener_filters(resource: &ListenerFiltersResource, slot: Slot) -> ListenerFilters {
    let proxy_protocol = resource.proxy_protocol.iter().map(|scope| scope.cells(slot));
    ListenerFilters::new(Arc::clone(&resource.filters), proxy_protocol.collect())
}

/// A filter chain on the core of this slot.
fn filter_chain(resource: &FilterChainResource, relays: Rc<Drain>, slot: Slot) -> FilterChain {
    let FilterChainResource { name, tls, filters } = resource;
    let http = filters.iter().find_map(|filter| match filter {
        FilterResource::Http(http) => Some(http_chain(name, http, slot)),
        _ => None,
    });
    let filters = network_filters(name, filters, http.as_ref(), &relays, slot);
    FilterChain::new(name, tls.clone(), http, filters, relays)
}

fn http_chain(name: &str, http: &HttpResource, slot: Slot) -> Rc<HttpChain> {
    let HttpResource { manager, stats, filter_stats } = http;
    Rc::new(HttpChain::new(Arc::clone(manager), stats.cells(slot), filter_stats.cells(slot), name))
}

/// The filters of a chain on the core of this slot; `http`: its connection manager, which is never told; `relays`: what relayed
/// connections heed.
fn network_filters(
    name: &str,
    filters: &[FilterResource],
    http: Option<&Rc<HttpChain>>,
    relays: &Rc<Drain>,
    slot: Slot,
) -> NetworkFilters {
    let mut gates = Vec::new();
    let mut access = Vec::new();
    let mut sni_cluster = false;
    let mut terminal = Terminal::None;
    for filter in filters {
        match filter {
            FilterResource::Gate(snapshot::Gate::ConnectionLimit { limit, stats }) => {
                gates.push(Gate::ConnectionLimit(limit.clone(), stats.cells(slot)));
            }
            FilterResource::Gate(snapshot::Gate::LocalRateLimit { limit, stats }) => {
                gates.push(Gate::LocalRateLimit(limit.clone(), stats.cells(slot)));
            }
            FilterResource::Access(one) => {
                access.push(AccessFilter::new(Arc::clone(&one.filter), one.stats.cells(slot)));
            }
            FilterResource::SniCluster => sni_cluster = true,
            FilterResource::Off => {}
            // No filter has seen the connection when it is closed, as in Envoy.
            FilterResource::Missing => return NetworkFilters::new(Vec::new(), None, Terminal::None),
            FilterResource::Http(_) => {
                terminal = http.map_or(Terminal::None, |http| Terminal::Http(Rc::clone(http)));
            }
            FilterResource::Tcp(tcp) => {
                let chain = TcpChain::new(
                    Arc::clone(&tcp.config),
                    name,
                    sni_cluster,
                    tcp.tunneling.clone(),
                    tcp.tlvs.clone(),
                    Arc::clone(&tcp.access_logs),
                    tcp.stats.cells(slot),
                );
                terminal = Terminal::Tcp(Rc::new(chain.heeding(relays)));
            }
            FilterResource::Echo => terminal = Terminal::Echo,
            FilterResource::DirectResponse(bytes) => terminal = Terminal::DirectResponse(Arc::clone(bytes)),
        }
    }
    NetworkFilters::new(gates, Access::new(access), terminal)
}
