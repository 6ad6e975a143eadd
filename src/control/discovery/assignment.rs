//! The endpoints of a cluster on the way from their source to whoever publishes them, and what is kept of them for those who ask
//! later. What a control plane has told is kept as it came, a third of the size, and converted again when somebody asks.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::endpoint::ClusterLoadAssignment;
use crate::control::xds::convert::accepted_endpoints;

/// Endpoints, to which it derefs, and what is to be kept of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    endpoints: Arc<ClusterLoadAssignment>,
    kept: Arc<KeptAssignment>,
}

/// See the file's head.
#[derive(Debug, PartialEq)]
pub enum KeptAssignment {
    /// An encoded `envoy.config.endpoint.v3.ClusterLoadAssignment` of a control plane, which was accepted.
    Told(Box<[u8]>),
    /// Names that were resolved, what the configuration has, or nothing.
    Found(Arc<ClusterLoadAssignment>),
}

impl Assignment {
    /// What a control plane has told; `wire`: of which `endpoints` were converted.
    pub fn told(endpoints: Arc<ClusterLoadAssignment>, wire: &[u8]) -> Self {
        Self { endpoints, kept: Arc::new(KeptAssignment::Told(wire.into())) }
    }

    /// What was found otherwise.
    pub fn found(endpoints: impl Into<Arc<ClusterLoadAssignment>>) -> Self {
        let endpoints: Arc<ClusterLoadAssignment> = endpoints.into();
        Self { kept: Arc::new(KeptAssignment::Found(Arc::clone(&endpoints))), endpoints }
    }

    /// What is to be kept.
    pub fn kept(&self) -> &Arc<KeptAssignment> {
        &self.kept
    }
}

impl Deref for Assignment {
    type Target = ClusterLoadAssignment;

    fn deref(&self) -> &ClusterLoadAssignment {
        &self.endpoints
    }
}

impl KeptAssignment {
    /// The endpoints.
    pub fn endpoints(&self) -> Arc<ClusterLoadAssignment> {
        match self {
            Self::Told(wire) => Arc::new(accepted_endpoints(wire)),
            Self::Found(endpoints) => Arc::clone(endpoints),
        }
    }

    /// The same for somebody who publishes them.
    pub fn assignment(self: &Arc<Self>) -> Assignment {
        Assignment { endpoints: self.endpoints(), kept: Arc::clone(self) }
    }
}

/// There is one of each of thousands of clusters.
const _: () = assert!(size_of::<KeptAssignment>() <= 16);
