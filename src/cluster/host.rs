//! One endpoint of a cluster on this core: its address and its idle connections.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::host_spec::HostSpec;
use super::pool::{SharedConnections, Turns, UpstreamConnection};
use crate::base::clock::Now;
use crate::base::socket_address::SocketAddress;
use crate::base::{heaps, limits};
use crate::config::cluster::RoutingPriority;
use crate::config::proxy_protocol::OwnedTlv;
use crate::protocol::stream_info::StreamAddress;
use crate::runtime::RawOption;
use crate::telemetry::{Cells, HostStat, Scope, Slot};

/// An endpoint on this core. Small: a core has one of each endpoint of a cluster that is asked for, and most serve seldom.
#[derive(Debug)]
pub struct Host {
    /// What was published, replaced by updates that keep the address.
    spec: RefCell<Arc<HostSpec>>,
    address: SocketAddress,
    /// The same, as records of requests share it on this core; `None`: they copy it.
    shown: Option<Box<StreamAddress>>,
    /// None before something is counted.
    stats: OnceCell<Cells<HostStat>>,
    /// Most recently used last: the warmest connection serves next, the rest grow old and go.
    idle: RefCell<Vec<UpstreamConnection>>,
    /// Connections that requests share.
    shared: OnceCell<Box<SharedConnections>>,
    /// How many there are, and who waits for one.
    turns: OnceCell<Box<Turns>>,
    /// What its connections have of their own; `None`: nothing.
    own: Option<Box<Own>>,
    /// The same endpoint with connections of a name or a client each. No name is the key of a client.
    named: OnceCell<Box<Named>>,
    /// When this name was asked for last.
    asked: Cell<Now>,
    /// Which of its cluster's transport sockets reaches it.
    socket: Cell<u16>,
    /// Which worker this is, of how many.
    worker: u16,
    workers: u16,
    /// Updates took it out: connections are not kept any more.
    removed: Cell<bool>,
    /// The keeper has it on its list.
    kept: Cell<bool>,
}

type Named = RefCell<BTreeMap<Box<[u8]>, Rc<Host>>>;

/// What sets connections to an endpoint apart from others to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// The name that requests give to TLS.
    pub(super) name: Option<Box<str>>,
    /// What they begin with: a client's header of the PROXY protocol.
    pub(super) header: Option<Box<[u8]>>,
    /// Where they come from, and the options of their sockets: a client's address.
    pub(super) source: Option<(SocketAddr, Box<[RawOption]>)>,
    /// Which requests have them, and which limits.
    pub(super) priority: RoutingPriority,
}

/// The key of the connections of high priority: no name and no client has it.
const HIGH_PRIORITY: &[u8] = &[0];

impl Host {
    /// The endpoint on this worker, of so many that count for it.
    pub(super) fn new(spec: Arc<HostSpec>, worker: usize, workers: usize) -> Rc<Self> {
        Self::with(spec, worker, workers, None)
    }

    fn with(spec: Arc<HostSpec>, worker: usize, workers: usize, own: Option<Own>) -> Rc<Self> {
        let address = spec.address();
        let [worker, workers] = [worker, workers].map(|number| u16::try_from(number).unwrap_or(u16::MAX));
        Rc::new(Self {
            shown: match &address {
                SocketAddress::Ip(_) => None,
                SocketAddress::Pipe(path) => Some(Box::new(StreamAddress::Pipe((**path).into()))),
                SocketAddress::Internal(address) => {
                    Some(Box::new(StreamAddress::Internal(Rc::new(address.clone()))))
                }
            },
            address,
            socket: Cell::new(spec.socket()),
            spec: RefCell::new(spec),
            stats: OnceCell::new(),
            idle: RefCell::default(),
            shared: OnceCell::new(),
            turns: OnceCell::new(),
            own: own.map(Box::new),
            named: OnceCell::new(),
            asked: Cell::default(),
            worker,
            workers,
            removed: Cell::new(false),
            kept: Cell::new(false),
        })
    }

    /// Where to connect.
    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// Whether it is a listener of this worker.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self.address, SocketAddress::Internal(_))
    }

    /// Where to connect, as records name it.
    pub fn stream_address(&self) -> StreamAddress {
        let address = || self.address.socket().map_or(StreamAddress::None, StreamAddress::Ip);
        self.shown.as_ref().map_or_else(address, |shown| StreamAddress::clone(shown))
    }

    /// Which of its cluster's transport sockets reaches it.
    pub fn socket(&self) -> u16 {
        self.socket.get()
    }

    /// Where connections to it, an internal listener, are told that they lead to.
    pub(super) fn original_dst(&self) -> Option<SocketAddr> {
        self.spec.borrow().original_dst()
    }

    /// Runs `read` on the TLVs that PROXY headers to it have beside those of the transport socket.
    pub(super) fn with_added_tlvs<T>(&self, read: impl FnOnce(&[OwnedTlv]) -> T) -> T {
        read(self.spec.borrow().added_tlvs())
    }

    /// Its share among the hosts of its priority.
    pub(super) fn weight(&self) -> u32 {
        self.spec.borrow().weight()
    }

    /// Its counters on this core.
    #[inline]
    pub fn stats(&self) -> &Cells<HostStat> {
        self.stats.get_or_init(|| heaps::lasting(|| self.scope().cells(Slot::Worker(self.worker.into()))))
    }

    /// What this core has counted, without making room for counters.
    #[inline]
    pub(super) fn value(&self, stat: HostStat) -> u64 {
        self.stats.get().map_or(0, |cells| cells.value(stat))
    }

    /// Runs `read` on the host's name; empty: it has none.
    pub fn with_hostname<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        read(self.spec.borrow().hostname())
    }

    fn spec(&self) -> Arc<HostSpec> {
        Arc::clone(&self.spec.borrow())
    }

    pub(super) fn update(&self, spec: Arc<HostSpec>) {
        debug_assert_eq!(spec.address(), self.address);
        self.each_named(|named| named.update(Arc::clone(&spec)));
        self.socket.set(spec.socket());
        let old = self.spec.replace(spec);
        let new = self.spec.borrow();
        if (old.socket(), old.hostname()) != (new.socket(), new.hostname()) {
            // They were made in another way, and may have been verified by another name.
            drop(new);
            self.close_idle();
        }
    }

    pub(super) fn remove(&self) {
        self.removed.set(true);
        self.close_idle();
        let named = self.named.get().map(|named| std::mem::take(&mut *named.borrow_mut()));
        named.iter().flat_map(BTreeMap::values).for_each(|named| named.remove());
    }

    fn each_named(&self, each: impl Fn(&Self)) {
        if let Some(named) = self.named.get() {
            named.borrow().values().for_each(|host| each(host));
        }
    }

    /// Closes its idle connections, and has the shared ones go once their streams have.
    pub(super) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.into_iter().for_each(UpstreamConnection::close_local);
        if let Some(shared) = self.shared.get() {
            shared.retire_all();
        }
        self.each_named(Self::close_idle);
    }

    /// Closes the connections of a pool that nobody uses, its own or of a host beside it that has the same limits; whether there
    /// was one.
    pub(super) fn free_pool(&self) -> bool {
        let shared = self.shared.get().map_or(0, |shared| shared.idle());
        if self.turns.get().is_some_and(|turns| turns.is_idle(self.idle.borrow().len(), shared)) {
            let idle = std::mem::take(&mut *self.idle.borrow_mut());
            idle.into_iter().for_each(UpstreamConnection::close_local);
            if let Some(shared) = self.shared.get() {
                shared.retire_all();
            }
            return true;
        }
        let beside = self.named.get().map(|named| named.borrow().values().cloned().collect::<Vec<_>>());
        let mut beside = beside.into_iter().flatten();
        beside.any(|host| host.priority() == self.priority() && host.free_pool())
    }

    /// The name that requests gave to the TLS of its connections.
    pub(super) fn name(&self) -> Option<&str> {
        self.own.as_ref()?.name.as_deref()
    }

    /// What its connections begin with.
    pub(super) fn header(&self) -> Option<&[u8]> {
        self.own.as_ref()?.header.as_deref()
    }

    /// Where its connections come from, and the options of their sockets, if they have any of their own.
    pub(super) fn source(&self) -> Option<(SocketAddr, &[RawOption])> {
        self.own.as_ref()?.source.as_ref().map(|(source, options)| (*source, &**options))
    }

    /// The same endpoint with the connections of this name or header, if there were any.
    pub(super) fn find_named(&self, name: &[u8], now: Now) -> Option<Rc<Self>> {
        let found = self.named.get()?.borrow().get(name).cloned()?;
        found.asked.set(now);
        Some(found)
    }

    /// The same endpoint for connections of a further name; and whether those of another had to go for it.
    pub(super) fn add_named(&self, name: &str, worker: usize, now: Now) -> (Rc<Self>, bool) {
        let own = self.own.as_deref().cloned().unwrap_or_default();
        let own = Own { name: Some(name.into()), ..own };
        let added = Self::with(self.spec(), worker, self.workers.into(), Some(own));
        self.add(name.as_bytes(), added, now, limits::NAMES_PER_HOST_MAX)
    }

    /// The same endpoint with the connections of this priority.
    pub(super) fn for_priority(
        self: Rc<Self>,
        priority: RoutingPriority,
        worker: usize,
        now: Now,
    ) -> (Rc<Self>, bool) {
        if priority == self.priority() {
            return (self, false);
        }
        if let Some(found) = self.find_named(HIGH_PRIORITY, now) {
            return (found, false);
        }
        let own = self.own.as_deref().cloned().unwrap_or_default();
        let added = Self::with(self.spec(), worker, self.workers.into(), Some(Own { priority, ..own }));
        self.add(HIGH_PRIORITY, added, now, limits::NAMES_PER_HOST_MAX)
    }

    /// The same for connections of a further client.
    pub(super) fn add_for_client(&self, key: &[u8], own: Own, worker: usize, now: Now) -> (Rc<Self>, bool) {
        self.add(key, self.apart(own, worker), now, limits::CLIENTS_PER_HOST_MAX)
    }

    /// The same endpoint for connections that are not kept.
    pub(super) fn apart(&self, own: Own, worker: usize) -> Rc<Self> {
        let (name, priority) = (self.name().map(Into::into), self.priority());
        Self::with(self.spec(), worker, self.workers.into(), Some(Own { name, priority, ..own }))
    }

    fn add(&self, key: &[u8], added: Rc<Self>, now: Now, max: usize) -> (Rc<Self>, bool) {
        added.asked.set(now);
        let mut named = self.named.get_or_init(Box::default).borrow_mut();
        if named.len() >= max {
            named.retain(|_, host| host.is_in_use());
        }
        let mut oldest = None;
        if named.len() >= max {
            let key = named.iter().min_by_key(|(_, host)| host.asked.get()).map(|(key, _)| key.clone());
            oldest = key.and_then(|key| named.remove(&key));
        }
        named.insert(key.into(), Rc::clone(&added));
        drop(named);
        if let Some(oldest) = &oldest {
            oldest.remove();
        }
        (added, oldest.is_some())
    }

    /// Whether there are connections of it, of whatever name or client, or somebody is about to make one.
    pub(super) fn is_in_use(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
            || self.shares()
            || self.named.get().is_some_and(|named| named.borrow().values().any(Self::is_in_use))
    }

    /// Whether there are connections that requests share.
    fn shares(&self) -> bool {
        self.shared.get().is_some_and(|shared| !shared.is_empty())
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.get()
    }

    /// Takes note whether the keeper has the host on its list; what was noted before.
    pub(super) fn set_kept(&self, kept: bool) -> bool {
        self.kept.replace(kept)
    }

    /// Which limits its connections and requests count for.
    #[inline]
    pub(super) fn priority(&self) -> RoutingPriority {
        self.own.as_ref().map_or_else(RoutingPriority::default, |own| own.priority)
    }

    /// Its counters, all cores.
    pub(super) fn scope(&self) -> Arc<Scope<HostStat>> {
        heaps::lasting(|| Arc::clone(self.spec.borrow().stats(self.workers.into())))
    }

    #[inline]
    pub(super) fn turns(&self) -> &Turns {
        self.turns.get_or_init(|| heaps::lasting(Box::default))
    }

    /// The connections that requests share, if there ever were any.
    pub(super) fn find_shared(&self) -> Option<&SharedConnections> {
        self.shared.get().map(|shared| &**shared)
    }

    /// The same, for one more.
    pub(super) fn shared(&self) -> &SharedConnections {
        self.shared.get_or_init(|| heaps::lasting(Box::default))
    }

    pub(super) fn idle(&self) -> &RefCell<Vec<UpstreamConnection>> {
        &self.idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HostDetails;
    use crate::telemetry::names::Stats;

    fn spec() -> Arc<HostSpec> {
        Arc::new(HostSpec::new(SocketAddress::Ip("10.0.0.1:443".parse().unwrap())))
    }

    #[test]
    fn host_is_small() {
        // There is one for each endpoint on each core.
        assert!(size_of::<Host>() <= 152, "{}", size_of::<Host>());
    }

    #[test]
    fn endpoint_that_changes_before_anything_is_counted_goes_on_with_the_same_counters() {
        let before = spec();
        let host = Host::new(Arc::clone(&before), 0, 1);
        let after = HostSpec::new(before.address()).with_stats_of(&before, 1);
        // A worker counts before it hears of the change.
        host.stats().inc(HostStat::CxTotal);
        assert_eq!(after.stats(1).value(HostStat::CxTotal.index()).0, 1);
        assert!(spec().counted().is_none() && before.is(&after));
    }

    #[test]
    fn transport_socket_is_the_one_published_last_with_every_name() {
        let host = Host::new(spec(), 0, 1);
        let (before, _) = host.add_named("a", 0, Now(1));
        host.update(Arc::new(HostSpec::with(spec().address(), 1, 3, HostDetails::default())));
        let (after, _) = host.add_named("b", 0, Now(2));
        assert_eq!([&host, &before, &after].map(|host| host.socket()), [3; 3]);
    }

    #[test]
    fn names_are_apart_and_the_one_asked_for_longest_ago_goes_beyond_the_limit() {
        let host = Host::new(spec(), 0, 1);
        assert!(host.find_named(b"a", Now(1)).is_none());
        let (first, _) = host.add_named("a", 0, Now(1));
        assert!(Rc::ptr_eq(&first, &host.find_named(b"a", Now(2)).unwrap()) && first.name() == Some("a"));
        let kept: Vec<_> = (1..limits::NAMES_PER_HOST_MAX)
            .map(|number| host.add_named(&number.to_string(), 0, Now(10 + number as u64)).0)
            .collect();
        assert!(host.find_named(b"a", Now(5000)).is_some(), "asked for again");
        let (_further, full) = host.add_named("further", 0, Now(6000));
        assert!(full && kept[0].is_removed() && !first.is_removed());
        assert!(host.find_named(b"1", Now(6001)).is_none());
        drop(kept);
        let (_, full) = host.add_named("another", 0, Now(7000));
        assert!(!full, "those without connections go first");
        host.remove();
        assert!(first.is_removed());
    }

    #[test]
    fn clients_are_apart_from_each_other_and_from_names_and_keep_the_name() {
        let host = Host::new(spec(), 0, 1);
        let (named, _) = host.add_named("a", 0, Now(1));
        let own = Own { header: Some(Box::from(&b"PROXY x"[..])), ..Own::default() };
        let (client, full) = named.add_for_client(b"PROXY x", own.clone(), 0, Now(2));
        assert!(!full && client.name() == Some("a") && client.header() == Some(b"PROXY x"));
        assert!(Rc::ptr_eq(&client, &named.find_named(b"PROXY x", Now(3)).unwrap()));
        assert!(host.find_named(b"PROXY x", Now(3)).is_none());
        let once = named.apart(own, 0);
        assert!(!Rc::ptr_eq(&client, &once) && once.header() == client.header());
        assert!(named.header().is_none() && named.source().is_none());
        host.remove();
        assert!(client.is_removed());
    }
}
