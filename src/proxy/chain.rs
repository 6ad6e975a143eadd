//! A filter chain that serves HTTP, on this core: the compiled connection manager, its counters, its scratch space, and
//! the clusters that its routes name.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::base::heaps;
use crate::cluster::{Cluster, ClusterManager, KeptCluster};
use crate::filter::ConnectionManager;
use crate::filter::http::FilterCounters;
use crate::format::header_additions::HeaderScratch;
use crate::protocol::http::matcher::MatchScratch;
use crate::route::{ClusterName, RouteScratch};
use crate::telemetry::HttpCells;

/// An HTTP connection manager on this core.
#[derive(Debug)]
pub struct HttpChain {
    /// What it was compiled to.
    pub manager: Arc<ConnectionManager>,
    /// Its counters on this core.
    pub stats: HttpCells,
    /// Those of its HTTP filters.
    pub(super) filter_stats: FilterCounters,
    /// Name of the filter chain.
    pub(super) name: Box<str>,
    /// The routing table's clusters by slot, each from its first request on.
    clusters: Box<[KeptCluster]>,
    /// The same with the routes that a control plane has told last; requests that begin take it.
    latest: RefCell<Option<Rc<Self>>>,
    /// The one whose latest it is or was.
    first: Weak<Self>,
    pub(super) scratch: RefCell<Scratch>,
}

/// What the steps of a request write to. Borrowed within a step, never across one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) route: RouteScratch,
    pub(super) matching: MatchScratch,
    pub(super) headers: HeaderScratch,
    pub(super) text: Vec<u8>,
    pub(super) path: Vec<u8>,
}

impl Scratch {
    /// Bytes of a text for which room is kept.
    const ROOM: usize = 256;
}

impl HttpChain {
    /// The chain of `manager`.
    pub fn new(
        manager: Arc<ConnectionManager>,
        stats: HttpCells,
        filter_stats: FilterCounters,
        name: &str,
    ) -> Self {
        let clusters = (0..manager.routes.cluster_count()).map(|_| KeptCluster::default()).collect();
        Self {
            manager,
            stats,
            filter_stats,
            name: name.into(),
            clusters,
            latest: RefCell::default(),
            first: Weak::new(),
            scratch: RefCell::default(),
        }
    }

    /// Gives requests that begin from now on other routes. Those that run keep theirs, and what they need of them lives
    /// as long.
    pub fn set_routes(self: &Rc<Self>, manager: Arc<ConnectionManager>, filter_stats: FilterCounters) {
        let mut latest = Self::new(manager, self.stats.clone(), filter_stats, &self.name);
        latest.first = Rc::downgrade(self);
        let before = self.latest.borrow_mut().replace(Rc::new(latest));
        // Not while it is borrowed: with the last holder of a table much may go.
        drop(before);
    }

    /// What a request that begins is served by; `None`: by this one.
    pub(super) fn latest(&self) -> Option<Rc<Self>> {
        self.latest.borrow().clone()
    }

    /// What a connection without a request holds, lest it keeps a table that nobody needs; `None`: this one.
    pub(super) fn first(&self) -> Option<Rc<Self>> {
        self.first.upgrade()
    }

    /// Gives back what its scratch space has grown to.
    pub fn trim(&self) {
        if let Some(latest) = &*self.latest.borrow() {
            latest.trim();
        }
        let Scratch { route, matching: _, headers, text, path } = &mut *self.scratch.borrow_mut();
        route.settle();
        headers.settle();
        heaps::settle_scratch(text, Scratch::ROOM);
        heaps::settle_scratch(path, Scratch::ROOM);
    }

    /// The cluster of that name, if there is one.
    pub(super) fn cluster(&self, name: ClusterName<'_>, clusters: &ClusterManager) -> Option<Rc<Cluster>> {
        match name {
            ClusterName::Slot(slot) => {
                let kept = self.clusters.get(slot.0 as usize)?;
                kept.get(clusters, || self.manager.routes.cluster_name(slot))
            }
            ClusterName::Text(text) => clusters.find(std::str::from_utf8(text).ok()?),
        }
    }
}
