//! All clusters of this core, by name, and the keeper of their idle connections.
//!
//! A cluster is made when it is first asked for: before, a core holds nothing of it but the set that all cores share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::host::Host;
use super::local::{Cluster, Kept};
use super::pool;
use super::set::{ClusterSet, HostSpecs, TransportSockets};
use crate::base::clock::Now;
use crate::base::heaps;
use crate::base::rng::Rng;
use crate::protocol::tls::Meter;
use crate::runtime::{Runtime, TaskId};

/// The clusters of one core.
#[derive(Debug)]
pub struct ClusterManager {
    runtime: Runtime,
    /// This core's number, for its part of host counters.
    worker: usize,
    /// All that are configured.
    published: RefCell<Arc<ClusterSet>>,
    /// Newer endpoints than those published, of clusters that nobody has asked for.
    endpoints: RefCell<HashMap<Arc<str>, Arc<HostSpecs>>>,
    /// Newer transport sockets than those published, of clusters that nobody has asked for.
    sockets: RefCell<HashMap<Arc<str>, Arc<TransportSockets>>>,
    /// Those that somebody has asked for.
    clusters: RefCell<HashMap<Box<str>, Rc<Cluster>>>,
    /// Where balancing begins.
    rng: RefCell<Rng>,
    keeper: Rc<Keeper>,
    tls_meter: Meter,
}

/// As many hosts are on the keeper's list before it is looked through for those that are gone.
const KEPT_MIN: usize = 64;

/// Watches idle connections: one task per core, woken when any of them stirs or is due.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    task: Cell<Option<TaskId>>,
    /// Hosts that may have idle connections, each once.
    kept: RefCell<Vec<Kept>>,
    /// How many of them there may be before those that are gone are looked for: an idle connection may be due in an hour.
    crowded: Cell<usize>,
    /// The worker drains: connections within it are not kept.
    drains: Cell<bool>,
    /// When the keeper looks next; `None`: when something stirs.
    due: Cell<Option<Now>>,
    runtime: RefCell<Option<Runtime>>,
}

impl ClusterManager {
    /// Without clusters; starts the keeper.
    pub fn new(runtime: &Runtime, worker: usize, seed: u64) -> Self {
        let keeper = Rc::new(Keeper { runtime: RefCell::new(Some(runtime.clone())), ..Keeper::default() });
        let keeping = Rc::clone(&keeper);
        let handle = runtime.clone();
        let task = runtime.spawn(async move {
            let timer = handle.timer();
            timer.claim();
            poll_fn(|_| -> Poll<()> {
                keeping.due.set(keeping.sweep(handle.now()));
                if let Some(due) = keeping.due.get() {
                    // `sweep` dropped all that was due by now, so this arms.
                    let _ = timer.poll_at(due);
                }
                Poll::Pending
            })
            .await;
        });
        keeper.task.set(Some(task));
        Self {
            runtime: runtime.clone(),
            worker,
            published: RefCell::default(),
            endpoints: RefCell::default(),
            sockets: RefCell::default(),
            clusters: RefCell::default(),
            rng: RefCell::new(Rng::from_seed(seed)),
            keeper,
            tls_meter: Meter::default(),
        }
    }

    /// What TLS connections of this core share, clients' too.
    pub fn tls_meter(&self) -> &Meter {
        &self.tls_meter
    }

    /// The cluster of that name.
    pub fn find(&self, name: &str) -> Option<Rc<Cluster>> {
        let made = self.clusters.borrow().get(name).cloned();
        made.or_else(|| self.runtime.edit(|| heaps::lasting(|| self.make(name))))
    }

    /// Takes all clusters there are. Those that were there before close their idle connections.
    pub fn publish(&self, clusters: Arc<ClusterSet>) {
        self.close_all();
        self.endpoints.borrow_mut().clear();
        self.sockets.borrow_mut().clear();
        *self.published.borrow_mut() = clusters;
    }

    /// Takes other clusters: all there are now, with the endpoints that they have by now. Those of these names are new, changed or
    /// gone; the others stay with their connections. Requests and connections that have one of the old ones go on with it.
    pub fn change(&self, clusters: Arc<ClusterSet>, names: &BTreeSet<Arc<str>>) {
        *self.published.borrow_mut() = clusters;
        // None of them is newer any more.
        drop(self.endpoints.take());
        for name in names {
            self.sockets.borrow_mut().remove(name);
            let old = self.clusters.borrow_mut().remove(&**name);
            if let Some(old) = old {
                old.retire();
            }
        }
    }

    /// Takes a new set of endpoints of one cluster.
    pub fn update_hosts(&self, name: Arc<str>, hosts: Arc<HostSpecs>) {
        match self.clusters.borrow().get(&*name) {
            Some(cluster) => cluster.update_hosts(&hosts, &mut self.rng.borrow_mut()),
            None => {
                self.endpoints.borrow_mut().insert(name, hosts);
            }
        }
    }

    /// Takes endpoints that the published cluster has as well.
    pub fn update_published_hosts(&self, name: &str, hosts: &Arc<HostSpecs>) {
        if let Some(cluster) = self.clusters.borrow().get(name) {
            cluster.update_hosts(hosts, &mut self.rng.borrow_mut());
        }
    }

    /// Takes other transport sockets of one cluster. Connections that are there go on.
    pub fn update_sockets(&self, name: Arc<str>, sockets: Arc<TransportSockets>) {
        match self.clusters.borrow().get(&*name) {
            Some(cluster) => cluster.set_sockets(sockets),
            None => {
                self.sockets.borrow_mut().insert(name, sockets);
            }
        }
    }

    /// Bytes of the lists of idle connections.
    pub fn idle_bytes(&self) -> usize {
        let kept = self.keeper.kept.borrow();
        let hosts = kept.iter().filter_map(|kept| kept.host.upgrade());
        hosts.map(|host| host.idle().borrow().capacity() * size_of::<pool::UpstreamConnection>()).sum()
    }

    /// The worker drains: connections within it that nobody uses would keep those at their other end, which it waits for.
    pub fn drain(&self) {
        self.keeper.drains.set(true);
        for cluster in self.clusters.borrow().values() {
            cluster.each_host(|host| {
                if host.is_internal() {
                    host.close_idle();
                }
            });
        }
    }

    /// Drops every cluster and every idle connection.
    pub fn clear(&self) {
        self.publish(Arc::default());
        self.keeper.runtime.borrow_mut().take();
    }

    #[cold]
    fn make(&self, name: &str) -> Option<Rc<Cluster>> {
        let published = Arc::clone(&self.published.borrow());
        let spec = published.find(name)?;
        let sockets = self.sockets.borrow_mut().remove(name).unwrap_or_else(|| Arc::clone(&spec.sockets));
        let (keeper, meter) = (&self.keeper, &self.tls_meter);
        let cluster = Cluster::new(spec, sockets, &self.runtime, keeper, self.worker, meter);
        let newer = self.endpoints.borrow_mut().remove(name);
        cluster.update_hosts(newer.as_ref().unwrap_or(&spec.hosts), &mut self.rng.borrow_mut());
        self.clusters.borrow_mut().insert(name.into(), Rc::clone(&cluster));
        Some(cluster)
    }

    fn close_all(&self) {
        let clusters = std::mem::take(&mut *self.clusters.borrow_mut());
        clusters.values().for_each(|cluster| cluster.retire());
    }
}

impl Keeper {
    pub(super) fn task(&self) -> TaskId {
        self.task.get().unwrap_or(TaskId::NONE)
    }

    /// Whether a connection to this host that nobody uses is not to be kept.
    pub(super) fn refuses(&self, host: &Host) -> bool {
        self.drains.get() && host.is_internal()
    }

    pub(super) fn keep(&self, cluster: &Rc<Cluster>, host: &Rc<Host>, due: Option<Now>) {
        if !host.set_kept(true) {
            let kept = Kept { cluster: Rc::downgrade(cluster), host: Rc::downgrade(host) };
            let mut all = self.kept.borrow_mut();
            if all.len() >= self.crowded.get() {
                all.retain(|kept| kept.host.strong_count() > 0 && kept.cluster.strong_count() > 0);
                self.crowded.set((2 * all.len()).max(KEPT_MIN));
            }
            heaps::lasting(|| all.push(kept));
        }
        // Usually the keeper is armed for an older connection, which is due earlier.
        if due.is_some_and(|due| self.due.get().is_none_or(|armed| due < armed))
            && let Some(runtime) = &*self.runtime.borrow()
        {
            runtime.wake(self.task());
        }
    }

    /// Looks at every idle connection; when the next one is due.
    fn sweep(&self, now: Now) -> Option<Now> {
        let mut next = None;
        self.kept.borrow_mut().retain(|entry| {
            let (Some(cluster), Some(host)) = (entry.cluster.upgrade(), entry.host.upgrade()) else {
                return false;
            };
            let due = pool::sweep(&host, &cluster, now);
            next = next.into_iter().chain(due).min();
            let idle = !host.idle().borrow().is_empty();
            host.set_kept(idle);
            idle
        });
        next
    }
}
