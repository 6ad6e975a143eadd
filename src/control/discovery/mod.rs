//! Where endpoints come from. Every source runs on the control thread and speaks in whole assignments of fixed
//! addresses, so that what publishes them cannot tell a resolved name from a static address.

use std::sync::Arc;

pub use assignment::{Assignment, KeptAssignment};

mod assignment;
pub mod dns;

/// The endpoints of one cluster, as its source sees them now. The first one of a cluster says that the source has
/// answered at all, if only that there are none: who waits for a cluster to warm up waits for it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointUpdate {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Which of the clusters that had this name one after the other; 0: that of the bootstrap. The source of an earlier one
    /// may have been about to say something.
    pub instance: u64,
    /// All endpoints; every address is fixed.
    pub assignment: Assignment,
}
