//! Clusters, hosts, balancing and connection pools of one core.
