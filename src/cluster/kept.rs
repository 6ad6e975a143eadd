//! A cluster that somebody asks for again and again, so that it is looked up only once.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::local::Cluster;
use super::manager::ClusterManager;

/// The cluster of one name, once it was asked for and until another one has its name. It does not keep one that has gone.
#[derive(Debug, Default)]
pub struct KeptCluster(RefCell<Weak<Cluster>>);

impl KeptCluster {
    /// The cluster that has this name now; `None`: none has.
    #[inline]
    pub fn get<'a>(
        &self,
        clusters: &ClusterManager,
        name: impl FnOnce() -> Option<&'a str>,
    ) -> Option<Rc<Cluster>> {
        let kept = self.0.borrow().upgrade();
        match kept {
            Some(cluster) if !cluster.is_retired() => Some(cluster),
            _ => self.find(clusters, name()?),
        }
    }

    #[cold]
    fn find(&self, clusters: &ClusterManager, name: &str) -> Option<Rc<Cluster>> {
        let found = clusters.find(name);
        *self.0.borrow_mut() = found.as_ref().map(Rc::downgrade).unwrap_or_default();
        found
    }
}
