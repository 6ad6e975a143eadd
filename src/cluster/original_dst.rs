//! The hosts of a cluster of type `ORIGINAL_DST` on this core: one for each address that clients meant to connect to.
//!
//! A host is made when a connection or request first asks for its address, found again by it, and goes when nobody has asked for
//! it in a `cleanup_interval` and it has no connections, as in Envoy. A core knows its own only: the counters of members are
//! the sum over all cores.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::host::Host;
use super::host_spec::{HostDetails, HostSpec};
use super::local::{Cluster, Wanted};
use crate::base::{heaps, limits};
use crate::config::cluster::{Cluster as Config, OriginalDst};
use crate::config::metadata::Metadata;
use crate::protocol::http::headers::HeaderName;
use crate::telemetry::metrics::ClusterCells;
use crate::telemetry::names::ClusterStat;

/// Shortest time between two looks for hosts that nobody needs. Reason: Envoy takes less as no time at all.
const CLEANUP_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// See the file's head.
#[derive(Debug)]
pub(super) struct OriginalDstHosts {
    /// The header that goes before the destination.
    header: Option<HeaderName>,
    port_override: Option<u16>,
    cleanup_interval: Duration,
    hosts: RefCell<HashMap<SocketAddr, Entry>>,
    /// A task looks for hosts that nobody needs.
    cleaning: Cell<bool>,
}

#[derive(Debug)]
struct Entry {
    host: Rc<Host>,
    /// Somebody has asked for it since the last look.
    asked: Cell<bool>,
}

impl OriginalDstHosts {
    pub(super) fn new(settings: &OriginalDst) -> Self {
        Self {
            // No request has a header of a name that none can have.
            header: settings.header.as_ref().and_then(|name| HeaderName::parse(name.as_bytes())),
            port_override: settings.port_override,
            cleanup_interval: settings.cleanup_interval.max(CLEANUP_INTERVAL_MIN),
            hosts: RefCell::default(),
            cleaning: Cell::new(false),
        }
    }

    /// Where a connection or request is to go; `None`: it does not say so.
    pub(super) fn destination(&self, wanted: Wanted<'_>, stats: &ClusterCells) -> Option<SocketAddr> {
        let value = self.header.as_ref().and_then(|name| wanted.request?.get(name));
        let by_header = value.and_then(|value| {
            let address = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            if address.is_none() {
                stats.inc(ClusterStat::OriginalDstHostInvalid);
            }
            address
        });
        let mut address: SocketAddr = by_header.or(wanted.destination)?;
        if let Some(port) = self.port_override {
            address.set_port(port);
        }
        Some(address)
    }

    /// The host of an address that was asked for before.
    pub(super) fn find(&self, address: SocketAddr) -> Option<Rc<Host>> {
        let hosts = self.hosts.borrow();
        let entry = hosts.get(&address)?;
        entry.asked.set(true);
        Some(Rc::clone(&entry.host))
    }

    /// The host of a further address; `None`: there are as many as may be, all with connections.
    pub(super) fn add(
        &self,
        address: SocketAddr,
        config: &Config,
        stats: &ClusterCells,
        worker: usize,
    ) -> Option<Rc<Host>> {
        if self.len() >= limits::ORIGINAL_DST_HOSTS_MAX {
            self.retain(stats, |entry| entry.host.is_in_use());
        }
        if self.len() >= limits::ORIGINAL_DST_HOSTS_MAX {
            stats.inc(ClusterStat::UpstreamCxPoolOverflow);
            return None;
        }
        let none = Metadata::default();
        // As Envoy calls it.
        let hostname = format!("{}{address}", config.name).into();
        let details = HostDetails { hostname, ..HostDetails::default() };
        let spec = HostSpec::with(address.into(), 1, config.sockets().of(&none, &none), details);
        // Nobody else counts for it.
        let host = Host::new(Arc::new(spec), worker, 1);
        self.hosts.borrow_mut().insert(address, Entry { host: Rc::clone(&host), asked: Cell::new(true) });
        stats.inc(ClusterStat::MembershipChange);
        stats.gauge_inc(ClusterStat::MembershipTotal);
        stats.gauge_inc(ClusterStat::MembershipHealthy);
        Some(host)
    }

    /// Takes out what nobody has asked for since the last call and what has no connections; whether any are left.
    fn clean(&self, stats: &ClusterCells) -> bool {
        self.retain(stats, |entry| entry.asked.replace(false) || entry.host.is_in_use());
        self.len() > 0
    }

    /// Takes out all of them.
    pub(super) fn clear(&self, stats: &ClusterCells) {
        self.retain(stats, |_| false);
    }

    fn len(&self) -> usize {
        self.hosts.borrow().len()
    }

    fn retain(&self, stats: &ClusterCells, mut keeps: impl FnMut(&Entry) -> bool) {
        let mut gone = Vec::new();
        {
            let mut hosts = self.hosts.borrow_mut();
            gone.extend(hosts.extract_if(|_, entry| !keeps(entry)).map(|(_, entry)| entry.host));
            if hosts.capacity() > 4 * hosts.len() {
                hosts.shrink_to_fit();
            }
        }
        if gone.is_empty() {
            return;
        }
        let count = gone.len() as u64;
        stats.inc(ClusterStat::MembershipChange);
        stats.gauge_sub(ClusterStat::MembershipTotal, count);
        stats.gauge_sub(ClusterStat::MembershipHealthy, count);
        gone.iter().for_each(|host| host.remove());
    }
}

/// Looks for hosts that nobody needs in a task of its own, as long as there are any.
pub(super) fn clean_up(cluster: &Rc<Cluster>, hosts: &OriginalDstHosts) {
    if hosts.cleaning.replace(true) {
        return;
    }
    let (runtime, interval) = (cluster.runtime().clone(), hosts.cleanup_interval);
    let weak = Rc::downgrade(cluster);
    // It outlives the connection that has brought the host.
    heaps::lasting(|| {
        cluster.runtime().spawn(async move {
            loop {
                runtime.sleep_until(runtime.now().after(interval)).await;
                let Some(cluster) = weak.upgrade() else { return };
                let Some(hosts) = cluster.original_dst() else { return };
                if !runtime.edit(|| hosts.clean(cluster.stats())) {
                    hosts.cleaning.set(false);
                    return;
                }
            }
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::head::Head;
    use crate::telemetry::{Registry, Slot};

    fn address(number: usize) -> SocketAddr {
        let octets = u32::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, octets[1], octets[2], octets[3]], 80))
    }

    fn setup(settings: OriginalDst) -> (OriginalDstHosts, ClusterCells, Config) {
        let stats = Registry::new(1).cluster("c").cells(Slot::Worker(0));
        (OriginalDstHosts::new(&settings), stats, Config::new("c"))
    }

    #[test]
    fn hosts_are_found_again_and_go_when_nobody_needs_them() {
        let (hosts, stats, config) = setup(OriginalDst::default());
        let add = |number| hosts.add(address(number), &config, &stats, 0).unwrap();
        assert!(hosts.find(address(1)).is_none());
        let first = add(1);
        assert!(Rc::ptr_eq(&first, &hosts.find(address(1)).unwrap()));
        first.with_hostname(|name| assert_eq!(name, "c10.0.0.1:80"));
        drop(add(2));
        assert_eq!(stats.value(ClusterStat::MembershipTotal), 2);
        assert!(hosts.clean(&stats) && hosts.len() == 2, "they were asked for a moment ago");
        assert!(hosts.clean(&stats) && hosts.len() == 1, "the other is in use");
        assert_eq!(stats.value(ClusterStat::MembershipTotal), 1);
        drop(first);
        hosts.find(address(1));
        assert!(hosts.clean(&stats), "asked for again");
        assert!(!hosts.clean(&stats));
        assert_eq!(stats.value(ClusterStat::MembershipHealthy), 0);
        assert_eq!(stats.value(ClusterStat::MembershipChange), 4);
    }

    #[test]
    fn beyond_the_limit_those_without_connections_go_and_without_such_nothing_is_added() {
        let (hosts, stats, config) = setup(OriginalDst::default());
        let add = |number| hosts.add(address(number), &config, &stats, 0);
        let mut held: Vec<_> =
            (0..limits::ORIGINAL_DST_HOSTS_MAX).map(|number| add(number).unwrap()).collect();
        assert!(add(1 << 20).is_none());
        assert_eq!(stats.value(ClusterStat::UpstreamCxPoolOverflow), 1);
        held.pop();
        held.pop();
        assert!(add(1 << 20).is_some() && hosts.len() == limits::ORIGINAL_DST_HOSTS_MAX - 1);
        hosts.clear(&stats);
        assert!(hosts.len() == 0 && held[0].is_removed());
    }

    #[test]
    fn header_goes_before_the_destination_and_the_port_is_overridden() {
        let header = Some(Box::from("x-to"));
        let (hosts, stats, _) =
            setup(OriginalDst { header, port_override: Some(9), ..OriginalDst::default() });
        let asked = |value: Option<&str>, destination: Option<&str>| {
            let mut head = Head::default();
            if let Some(value) = value {
                head.append(&HeaderName::parse(b"x-to").unwrap(), value.as_bytes());
            }
            let destination = destination.map(|text| text.parse().unwrap());
            let address = hosts.destination(Wanted { destination, request: Some(&head), hash: None }, &stats);
            address.map(|address| address.to_string())
        };
        assert_eq!(asked(None, None), None);
        assert_eq!(asked(None, Some("10.0.0.1:80")).as_deref(), Some("10.0.0.1:9"));
        assert_eq!(asked(Some("[::1]:80"), Some("10.0.0.1:80")).as_deref(), Some("[::1]:9"));
        assert_eq!(stats.value(ClusterStat::OriginalDstHostInvalid), 0);
        for invalid in ["a.example:80", "10.0.0.1", "[::1]", ""] {
            assert_eq!(asked(Some(invalid), Some("10.0.0.2:80")).as_deref(), Some("10.0.0.2:9"), "{invalid}");
        }
        assert_eq!(stats.value(ClusterStat::OriginalDstHostInvalid), 4);
        let wanted = Wanted { destination: Some(address(1)), request: None, hash: None };
        assert_eq!(hosts.destination(wanted, &stats).map(|address| address.port()), Some(9));
    }
}
