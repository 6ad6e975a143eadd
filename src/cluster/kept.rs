//! A cluster that somebody asks for again and again, so that it is looked up only once.

use std::cell::RefCell;
use std::rc::Rc;

use super::local::Cluster;
use super::manager::ClusterManager;

/// The cluster of one name, once it was asked for and until another one has its name.
#[derive(Debug, Default)]
pub struct KeptCluster(RefCell<Option<Rc<Cluster>>>);

impl KeptCluster {
    /// The cluster that has this name now; `None`: none has.
    #[inline]
    pub fn get<'a>(
        &self,
        clusters: &ClusterManager,
        name: impl FnOnce() -> Option<&'a str>,
    ) -> Option<Rc<Cluster>> {
        if let Some(cluster) = &*self.0.borrow()
            && !cluster.is_retired()
        {
            return Some(Rc::clone(cluster));
        }
        self.find(clusters, name()?)
    }

    #[cold]
    fn find(&self, clusters: &ClusterManager, name: &str) -> Option<Rc<Cluster>> {
        let found = clusters.find(name);
        let before = self.0.replace(found.clone());
        // Not while it is borrowed: with the last holder of a cluster its hosts go.
        drop(before);
        found
    }
}
