//! What hashing balancers look endpoints up in: made once of a cluster's endpoints, off the data path, and shared by all
//! cores. Both pick the very endpoints that Envoy picks.

use std::sync::Arc;

use super::{maglev, ring};
use crate::cluster::HostSpec;
use crate::config::cluster::{Hashing, LoadBalancingPolicy};

/// The endpoints of one group by hash, as places in the group's list.
#[derive(Debug)]
pub enum HashTable {
    /// Ketama.
    Ring(ring::Ring),
    /// Maglev.
    Maglev(maglev::Maglev),
}

/// How many entries a table has, and the endpoints with the fewest and the most, as statistics show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub entries: u64,
    pub per_host_min: u64,
    pub per_host_max: u64,
}

/// What a table is made of: an endpoint's name on it, and its share of all.
pub(super) type Member<'a> = (&'a str, f64);

impl HashTable {
    /// The table of these hosts, which have these shares; `None`: the policy has none.
    pub fn build(
        policy: &LoadBalancingPolicy,
        hosts: &[Arc<HostSpec>],
        group: &[u32],
        shares: &[f64],
    ) -> Option<Self> {
        let hashing = policy.hashing()?;
        let members = || group.iter().filter_map(|&place| hosts.get(place as usize));
        let names: Vec<String> = members().map(|host| name(host, hashing)).collect();
        let list: Vec<Member<'_>> = names.iter().map(|name| &**name).zip(shares.iter().copied()).collect();
        match policy {
            LoadBalancingPolicy::RingHash(config) => Some(Self::Ring(ring::Ring::build(&list, config))),
            LoadBalancingPolicy::Maglev(config) => {
                Some(Self::Maglev(maglev::Maglev::build(&list, config.table_size)))
            }
            LoadBalancingPolicy::RoundRobin
            | LoadBalancingPolicy::LeastRequest(_)
            | LoadBalancingPolicy::Random
            | LoadBalancingPolicy::ClusterProvided => None,
        }
    }

    /// The place of the host that has this hash; `None`: there are none.
    #[inline]
    pub fn find(&self, hash: u64) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.find(hash),
            Self::Maglev(maglev) => maglev.find(hash),
        }
    }

    /// Its size.
    pub fn size(&self) -> Size {
        match self {
            Self::Ring(ring) => ring.size(),
            Self::Maglev(maglev) => maglev.size(),
        }
    }
}

/// What is hashed of an endpoint. Source: Envoy `HashingLoadBalancer::hashKey`.
fn name(host: &HostSpec, hashing: Hashing) -> String {
    if !host.hash_key().is_empty() {
        host.hash_key().to_owned()
    } else if hashing.use_hostname {
        host.hostname().to_owned()
    } else {
        host.address().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::socket_address::SocketAddress;
    use crate::cluster::HostDetails;

    #[test]
    fn endpoint_is_known_by_its_key_then_its_name_or_its_address() {
        let host = |address: SocketAddress, key: &str| {
            let details =
                HostDetails { hostname: "h.test".into(), hash_key: key.into(), ..HostDetails::default() };
            HostSpec::with(address, 1, 0, details)
        };
        let hashing = |use_hostname| Hashing { use_hostname, ..Hashing::default() };
        let ip = |text: &str| SocketAddress::Ip(text.parse().unwrap());
        assert_eq!(name(&host(ip("127.0.0.1:80"), "k"), hashing(true)), "k");
        assert_eq!(name(&host(ip("127.0.0.1:80"), ""), hashing(true)), "h.test");
        assert_eq!(name(&host(ip("127.0.0.1:80"), ""), hashing(false)), "127.0.0.1:80");
        assert_eq!(name(&host(ip("[::1]:80"), ""), hashing(false)), "[::1]:80");
        assert_eq!(name(&host(SocketAddress::Pipe("@a".into()), ""), hashing(false)), "@a");
    }
}
