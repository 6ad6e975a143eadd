//! Clusters, hosts, balancing and connection pools of one core.
//!
//! Everything here belongs to one worker: a cluster's hosts are built from published configuration ([`ClusterSet`]) and
//! endpoint updates when a request first asks for it, picked by its load balancer, and each keeps its own idle connections.
mod breakers;
mod drop_overload;
mod host;
mod host_spec;
mod kept;
pub mod load_balancer;
mod local;
mod manager;
mod original_dst;
pub mod pool;
mod set;

pub use breakers::{CircuitBreakers, Resource};
pub use drop_overload::Dropped;
pub use host::Host;
pub use host_spec::{HostDetails, HostSpec};
pub use kept::KeptCluster;
pub use local::{Cluster, ProxiedClient, Wanted};
pub use manager::ClusterManager;
pub use set::{ClusterSet, ClusterSpec, HostSpecs, PublishedCluster, TransportSockets};
