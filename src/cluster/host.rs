//! One endpoint of a cluster on this core: its address and its idle connections.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::pool::{SharedConnections, UpstreamConnection};
use crate::config::endpoint::HealthStatus;
use crate::telemetry::{Cells, HostStat, Scope, Slot};

/// An endpoint as published: resolved, with what balancing needs.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Where to connect.
    pub address: SocketAddr,
    /// Name for `auto_host_rewrite`; empty: none.
    pub hostname: Box<str>,
    /// Share among the hosts of its priority, at least 1.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Health as configured.
    pub health: HealthStatus,
    /// Which of its cluster's transport sockets reaches it.
    pub socket: u16,
    /// Its counters, all cores.
    pub stats: Arc<Scope<HostStat>>,
}

/// An endpoint on this core.
#[derive(Debug)]
pub struct Host {
    /// What was published, replaced by updates that keep the address.
    spec: RefCell<HostSpec>,
    address: SocketAddr,
    stats: Cells<HostStat>,
    /// Most recently used last: the warmest connection serves next, the rest grow old and go.
    idle: RefCell<Vec<UpstreamConnection>>,
    /// Connections that requests share.
    shared: SharedConnections,
    /// Updates took it out: connections are not kept any more.
    removed: Cell<bool>,
    /// The keeper has it on its list.
    kept: Cell<bool>,
}

impl Host {
    pub(super) fn new(spec: HostSpec, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            stats: spec.stats.cells(Slot::Worker(worker)),
            address: spec.address,
            spec: RefCell::new(spec),
            idle: RefCell::default(),
            shared: SharedConnections::default(),
            removed: Cell::new(false),
            kept: Cell::new(false),
        })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which of its cluster's transport sockets reaches it.
    pub fn socket(&self) -> u16 {
        self.spec.borrow().socket
    }

    /// Its counters on this core.
    pub fn stats(&self) -> &Cells<HostStat> {
        &self.stats
    }

    /// Runs `read` on the host's name; empty: it has none.
    pub fn with_hostname<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        read(&self.spec.borrow().hostname)
    }

    pub(super) fn spec(&self) -> HostSpec {
        self.spec.borrow().clone()
    }

    pub(super) fn update(&self, spec: HostSpec) {
        debug_assert_eq!(spec.address, self.address);
        *self.spec.borrow_mut() = spec;
    }

    pub(super) fn remove(&self) {
        self.removed.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.into_iter().for_each(UpstreamConnection::close_local);
        self.shared.retire_all();
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.get()
    }

    /// Takes note whether the keeper has the host on its list; what was noted before.
    pub(super) fn set_kept(&self, kept: bool) -> bool {
        self.kept.replace(kept)
    }

    pub(super) fn shared(&self) -> &SharedConnections {
        &self.shared
    }

    pub(super) fn idle(&self) -> &RefCell<Vec<UpstreamConnection>> {
        &self.idle
    }
}
