//! A filter chain that serves HTTP, on this core: the compiled connection manager, its counters, its scratch space, and
//! the clusters that its routes name.

use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::drain::Drain;
use crate::base::clock::Now;
use crate::base::heaps;
use crate::cluster::{Cluster, ClusterManager, KeptCluster};
use crate::filter::ConnectionManager;
use crate::filter::http::FilterCounters;
use crate::format::header_additions::HeaderScratch;
use crate::protocol::http::head::Head;
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
    pub(super) filter_stats: Rc<FilterCounters>,
    /// Name of the filter chain.
    pub(super) name: Box<str>,

    /// The routing table's clusters by slot, each from its first request on.
    clusters: Box<[KeptCluster]>,
    /// Those that serve requests of its scopes, each from its first request on.
    scopes: Box<[OnceCell<Rc<Self>>]>,
    /// The same with the routes that a control plane has told last; requests that begin take it.
    latest: RefCell<Option<Rc<Self>>>,
    /// The one whose latest it is or was, or that of which it is a scope.
    first: Weak<Self>,
    /// Where it is, once the chain of another listener has taken its place: however many more of them take it, there is one
    /// step to the last. The same for all that were its latest, and for their scopes.
    moved: Rc<RefCell<Option<Rc<Line>>>>,
    /// The line that ends at this one.
    behind: RefCell<Weak<Line>>,
    /// Whether its own connections are to end.
    pub(super) drain: Rc<Drain>,
    pub(super) scratch: RefCell<Scratch>,
}

/// Chains that have taken each other's place. All but the last hold it, and it holds the last.
#[derive(Debug)]
struct Line {
    end: RefCell<Rc<HttpChain>>,
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
        Self::with(manager, stats, Rc::new(filter_stats), name)
    }

    fn with(
        manager: Arc<ConnectionManager>,
        stats: HttpCells,
        filter_stats: Rc<FilterCounters>,
        name: &str,
    ) -> Self {
        let clusters = (0..manager.routes.cluster_count()).map(|_| KeptCluster::default()).collect();
        let scopes = manager.scopes.iter().flat_map(|scopes| scopes.managers.iter());
        let scopes = scopes.map(|_| OnceCell::new()).collect();
        Self {
            manager,
            stats,
            filter_stats,
            name: name.into(),
            clusters,
            scopes,
            latest: RefCell::default(),
            first: Weak::new(),
            moved: Rc::default(),
            behind: RefCell::default(),
            drain: Rc::default(),
            scratch: RefCell::default(),
        }
    }

    /// Whether requests may be served by chains of scopes instead.
    #[inline]
    pub(super) fn has_scopes(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// What serves a request with this head: the chain of its scope, which ends and moves with this one; itself, where it has no
    /// scopes or the request is in none. `scratch` is written to.
    pub(super) fn scope(self: &Rc<Self>, head: &Head, scratch: &mut Vec<u8>) -> Rc<Self> {
        self.find_scope(head, scratch).unwrap_or_else(|| Rc::clone(self))
    }

    fn find_scope(self: &Rc<Self>, head: &Head, scratch: &mut Vec<u8>) -> Option<Rc<Self>> {
        let scopes = self.manager.scopes.as_ref()?;
        let number = scopes.table.find(head, scratch)?;
        let (chain, manager) = (self.scopes.get(number)?, scopes.managers.get(number)?);
        Some(Rc::clone(chain.get_or_init(|| heaps::lasting(|| Rc::new(self.of_scope(number, manager))))))
    }

    fn of_scope(self: &Rc<Self>, number: usize, manager: &Arc<ConnectionManager>) -> Self {
        let filter_stats = self.filter_stats.scope(number).unwrap_or_default();
        let mut scope = Self::with(Arc::clone(manager), self.stats.clone(), filter_stats, &self.name);
        // One that is itself another's latest may be gone before the request is.
        let is_latest = self.first.strong_count() > 0;
        scope.first = if is_latest { Weak::clone(&self.first) } else { Rc::downgrade(self) };
        scope.moved = Rc::clone(&self.moved);
        scope.drain = Rc::clone(&self.drain);
        scope
    }

    /// Gives requests that begin from now on other routes. Those that run keep theirs, and what they need of them lives
    /// as long.
    pub fn set_routes(self: &Rc<Self>, manager: Arc<ConnectionManager>, filter_stats: FilterCounters) {
        let mut latest = Self::new(manager, self.stats.clone(), filter_stats, &self.name);
        latest.first = Rc::downgrade(self);
        latest.moved = Rc::clone(&self.moved);
        latest.drain = Rc::clone(&self.drain);
        let before = self.latest.borrow_mut().replace(Rc::new(latest));
        // Not while it is borrowed: with the last holder of a table much may go.
        drop(before);
    }

    /// Responses tell their clients to go, more and more of them over this time.
    pub fn drain(&self, now: Now, over: Duration) {
        self.drain.spread(now, over, false);
    }

    /// Its connections end, each when it has no request.
    pub fn end(&self, now: Now) {
        self.drain.begin(now);
    }

    /// What a request that begins is served by; `None`: by this one.
    pub(super) fn latest(&self) -> Option<Rc<Self>> {
        match self.current() {
            None => self.latest.borrow().clone(),
            Some(current) => {
                let latest = current.latest.borrow().clone();
                Some(latest.unwrap_or(current))
            }
        }
    }

    /// What a request that has waited for other routes goes on with; `None`: with this one.
    pub(super) fn renewed(&self) -> Option<Rc<Self>> {
        match self.resting() {
            Some(first) => Some(first.latest().unwrap_or(first)),
            None => self.latest(),
        }
    }

    /// The last of the chains that have taken its place, one after the other; `None`: none has.
    pub(super) fn current(&self) -> Option<Rc<Self>> {
        self.moved.borrow().as_ref().map(|line| Rc::clone(&line.end.borrow()))
    }

    /// What a connection without a request holds, lest it keeps a table that nobody needs; `None`: this one.
    pub(super) fn resting(&self) -> Option<Rc<Self>> {
        self.current().or_else(|| self.first.upgrade())
    }

    /// Another chain has taken the place of this one: whether its connections go on there, each with its next request. They
    /// do where nothing of them would be different but that; else they are to end.
    pub fn move_to(&self, other: &Rc<Self>) -> bool {
        let same = self.stats.is(&other.stats) && self.manager.forwarding == other.manager.forwarding;
        if same {
            let line = self.behind.borrow().upgrade();
            let line = line.unwrap_or_else(|| Rc::new(Line { end: RefCell::new(Rc::clone(other)) }));
            let before = line.end.replace(Rc::clone(other));
            other.behind.replace(Rc::downgrade(&line));
            self.moved.replace(Some(line));
            // Not while it is borrowed: with the last holder of a table much may go.
            drop(before);
        }
        same
    }

    /// Gives back what its scratch space has grown to.
    pub fn trim(&self) {
        if let Some(latest) = &*self.latest.borrow() {
            latest.trim();
        }
        self.scopes.iter().filter_map(OnceCell::get).for_each(|scope| scope.trim());
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
