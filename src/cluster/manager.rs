//! All clusters of this core, by name, and the keeper of their idle connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::host::Host;
use super::local::{Cluster, Kept};
use super::pool;
use crate::base::clock::Now;
use crate::config::cluster::Cluster as Config;
use crate::runtime::{Runtime, TaskId};
use crate::telemetry::metrics::ClusterCells;

/// The clusters of one core.
#[derive(Debug)]
pub struct ClusterManager {
    runtime: Runtime,
    /// This core's number, for its part of host counters.
    worker: usize,
    clusters: RefCell<HashMap<Box<str>, Rc<Cluster>>>,
    keeper: Rc<Keeper>,
}

/// Watches idle connections: one task per core, woken when any of them stirs or is due.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    task: Cell<Option<TaskId>>,
    /// Hosts that may have idle connections, each once.
    kept: RefCell<Vec<Kept>>,
    /// When the keeper looks next; `None`: when something stirs.
    due: Cell<Option<Now>>,
    runtime: RefCell<Option<Runtime>>,
}

impl ClusterManager {
    /// Without clusters; starts the keeper.
    pub fn new(runtime: &Runtime, worker: usize) -> Self {
        let keeper = Rc::new(Keeper { runtime: RefCell::new(Some(runtime.clone())), ..Keeper::default() });
        let keeping = Rc::clone(&keeper);
        let handle = runtime.clone();
        let task = runtime.spawn(async move {
            let timer = handle.timer();
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
        Self { runtime: runtime.clone(), worker, clusters: RefCell::default(), keeper }
    }

    /// The cluster of that name.
    pub fn find(&self, name: &str) -> Option<Rc<Cluster>> {
        self.clusters.borrow().get(name).cloned()
    }

    /// Adds a cluster, or puts one in place of its predecessor. It has no hosts yet.
    pub fn put(&self, config: Arc<Config>, stats: ClusterCells) -> Rc<Cluster> {
        let name = config.name.clone();
        let cluster = Cluster::new(config, stats, &self.runtime, &self.keeper, self.worker);
        if let Some(old) = self.clusters.borrow_mut().insert(name, Rc::clone(&cluster)) {
            old.close_idle();
        }
        cluster
    }

    /// Drops every cluster and every idle connection.
    pub fn clear(&self) {
        let clusters = std::mem::take(&mut *self.clusters.borrow_mut());
        clusters.values().for_each(|cluster| cluster.close_idle());
        self.keeper.runtime.borrow_mut().take();
    }
}

impl Keeper {
    pub(super) fn task(&self) -> TaskId {
        self.task.get().unwrap_or(TaskId::NONE)
    }

    pub(super) fn keep(&self, cluster: &Rc<Cluster>, host: &Rc<Host>, due: Option<Now>) {
        if !host.set_kept(true) {
            self.kept.borrow_mut().push(Kept { cluster: Rc::downgrade(cluster), host: Rc::downgrade(host) });
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
