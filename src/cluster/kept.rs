//! A cluster that somebody asks for again and again, so that it is looked up only once.

use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};

use super::local::Cluster;
use super::manager::ClusterManager;

/// The cluster of one name, once it was asked for and until another one has its name. It does not keep one that has gone.
#[derive(Default)]
pub struct KeptCluster(Cell<Weak<Cluster>>);

/// Each worker has one for each cluster that a routing table names.
const _: () = assert!(size_of::<KeptCluster>() <= 8);

impl KeptCluster {
    /// The cluster that has this name now; `None`: none has.
    #[inline]
    pub fn get<'a>(
        &self,
        clusters: &ClusterManager,
        name: impl FnOnce() -> Option<&'a str>,
    ) -> Option<Rc<Cluster>> {
        let kept = self.0.take();
        let cluster = kept.upgrade();
        self.0.set(kept);
        match cluster {
            Some(cluster) if !cluster.is_retired() => Some(cluster),
            _ => self.find(clusters, name()?),
        }
    }

    #[cold]
    fn find(&self, clusters: &ClusterManager, name: &str) -> Option<Rc<Cluster>> {
        let found = clusters.find(name);
        self.0.set(found.as_ref().map(Rc::downgrade).unwrap_or_default());
        found
    }
}

impl fmt::Debug for KeptCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptCluster")
    }
}
