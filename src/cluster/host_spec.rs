//! One endpoint as published: what all cores share of it. Small: there is one of each endpoint of every cluster, whether anybody
//! asks for it or not, and most of those of thousands of clusters are alike but for their addresses.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use once_cell::race::OnceBox;

use crate::base::socket_address::SocketAddress;
use crate::config::endpoint::HealthStatus;
use crate::config::proxy_protocol::OwnedTlv;
use crate::telemetry::{HostStat, Scope};

/// An endpoint: resolved, with what balancing needs.
#[derive(Debug)]
pub struct HostSpec {
    /// Where to connect, unless its particulars have another address.
    v4: SocketAddrV4,
    /// 0 is used first; at most 128.
    pub priority: u8,
    /// Health as configured, in [`HEALTH_BITS`], and above them which of its cluster's transport sockets reaches it, if that is one of
    /// the first: in a mesh each has another than the first.
    health_and_socket: u8,
    /// None before somebody counts, of one without particulars.
    more: OnceBox<More>,
}

/// What one has that serves, or is not as most are.
#[derive(Debug, Default)]
struct More {
    particulars: Particulars,
    /// None before somebody counts.
    stats: OnceBox<Arc<Scope<HostStat>>>,
}

/// What most have as [`COMMON`] says.
#[derive(Debug, PartialEq)]
struct Particulars {
    /// Share among the hosts of its priority, at least 1.
    weight: u32,
    /// Which of its cluster's transport sockets reaches it, where it is none of the first; else 0.
    socket: u16,
    /// Where to connect; `None`: to an address of IPv4.
    address: Option<Box<SocketAddress>>,
    /// `None`: nothing of it.
    details: Option<Box<HostDetails>>,
}

/// A place among [`HEALTHS`].
const HEALTH_BITS: u32 = 3;
const HEALTHS: [HealthStatus; 6] = [
    HealthStatus::Unknown,
    HealthStatus::Healthy,
    HealthStatus::Unhealthy,
    HealthStatus::Draining,
    HealthStatus::Timeout,
    HealthStatus::Degraded,
];
/// In place of a transport socket that stands in the particulars.
const SOCKET_ELSEWHERE: u8 = u8::MAX >> HEALTH_BITS;

static COMMON: Particulars = Particulars::common();

/// There is one for each endpoint of every cluster: with its counts of references 32 bytes. As much again for one that is not as most.
const _: () = assert!(size_of::<HostSpec>() <= 16 && size_of::<More>() <= 32);

/// What few endpoints have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostDetails {
    /// Name for `auto_host_rewrite`; empty: none.
    pub hostname: Box<str>,
    /// What hashing balancers hash of it; empty: its name or address, as the policy says.
    pub hash_key: Box<str>,
    /// Where connections to it, an internal listener, are told that they lead to; `None`: nowhere else.
    pub original_dst: Option<SocketAddr>,
    /// TLVs that PROXY headers to it have beside those of the transport socket; `None`: none.
    pub added_tlvs: Option<Arc<Vec<OwnedTlv>>>,
    /// Which locality it is of, in the order of their names; 0 where weights of localities do not matter.
    pub locality: u32,
    /// That locality's weight among those of the priority; 0: none.
    pub locality_weight: u32,
}

impl Particulars {
    const fn common() -> Self {
        Self { weight: 1, socket: 0, address: None, details: None }
    }
}

impl Default for Particulars {
    fn default() -> Self {
        Self::common()
    }
}

impl HostSpec {
    /// An endpoint of which no more is known than its address: of weight 1, of the first priority, reached in its cluster's own way.
    pub fn new(address: SocketAddress) -> Self {
        Self::with(address, 1, 0, HostDetails::default())
    }

    /// One of this weight, at least 1, reached by this of its cluster's transport sockets, with these details.
    pub fn with(address: SocketAddress, weight: u32, socket: u16, details: HostDetails) -> Self {
        let (v4, address) = match address {
            SocketAddress::Ip(SocketAddr::V4(v4)) => (v4, None),
            other => (SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), Some(Box::new(other))),
        };
        let details = (details != HostDetails::default()).then(|| Box::new(details));
        let near = u8::try_from(socket).ok().filter(|socket| *socket < SOCKET_ELSEWHERE);
        let far = if near.is_some() { 0 } else { socket };
        let particulars = Particulars { weight: weight.max(1), socket: far, address, details };
        let more = if particulars == COMMON {
            OnceBox::new()
        } else {
            OnceBox::with_value(Box::new(More { particulars, ..More::default() }))
        };
        let health_and_socket = near.unwrap_or(SOCKET_ELSEWHERE) << HEALTH_BITS;
        Self { v4, priority: 0, health_and_socket, more }
    }

    /// Health as configured.
    pub fn health(&self) -> HealthStatus {
        let place = self.health_and_socket & !(u8::MAX << HEALTH_BITS);
        HEALTHS.get(usize::from(place)).copied().unwrap_or_default()
    }

    /// Gives it this health.
    pub fn set_health(&mut self, health: HealthStatus) {
        let place =
            HEALTHS.iter().zip(0..).find(|(known, _)| **known == health).map_or(0, |(_, place)| place);
        self.health_and_socket = self.health_and_socket & u8::MAX << HEALTH_BITS | place;
    }

    fn particulars(&self) -> &Particulars {
        self.more.get().map_or(&COMMON, |more| &more.particulars)
    }

    fn details(&self) -> Option<&HostDetails> {
        self.particulars().details.as_deref()
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddress {
        let other = self.particulars().address.as_deref();
        other.cloned().unwrap_or(SocketAddress::Ip(SocketAddr::V4(self.v4)))
    }

    /// Share among the hosts of its priority, at least 1.
    pub fn weight(&self) -> u32 {
        self.particulars().weight
    }

    /// Which of its cluster's transport sockets reaches it.
    pub fn socket(&self) -> u16 {
        match self.health_and_socket >> HEALTH_BITS {
            SOCKET_ELSEWHERE => self.particulars().socket,
            near => near.into(),
        }
    }

    /// See [`HostDetails::locality`].
    pub fn locality(&self) -> u32 {
        self.details().map_or(0, |details| details.locality)
    }

    /// See [`HostDetails::locality_weight`].
    pub fn locality_weight(&self) -> u32 {
        self.details().map_or(0, |details| details.locality_weight)
    }

    /// See [`HostDetails::hostname`].
    pub fn hostname(&self) -> &str {
        self.details().map_or("", |details| &details.hostname)
    }

    /// See [`HostDetails::hash_key`].
    pub fn hash_key(&self) -> &str {
        self.details().map_or("", |details| &details.hash_key)
    }

    /// See [`HostDetails::original_dst`].
    pub fn original_dst(&self) -> Option<SocketAddr> {
        self.details()?.original_dst
    }

    /// See [`HostDetails::added_tlvs`].
    pub fn added_tlvs(&self) -> &[OwnedTlv] {
        let added = self.details().and_then(|details| details.added_tlvs.as_deref());
        added.map_or(&[][..], Vec::as_slice)
    }

    /// Its counters, all cores: made for so many workers, if there are none yet.
    pub fn stats(&self, workers: usize) -> &Arc<Scope<HostStat>> {
        let more = self.more.get_or_init(Box::default);
        more.stats.get_or_init(|| Box::new(Arc::new(Scope::new(workers))))
    }

    /// The same; `None`: nobody has counted anything.
    pub fn counted(&self) -> Option<&Arc<Scope<HostStat>>> {
        self.more.get()?.stats.get()
    }

    /// The same with the counters of the endpoint as it was before, where so many workers may be about to count. It has none of its
    /// own yet.
    pub fn with_stats_of(self, before: &Self, workers: usize) -> Self {
        let more = self.more.get_or_init(Box::default);
        more.stats.get_or_init(|| Box::new(Arc::clone(before.stats(workers))));
        self
    }

    /// Whether it is the same endpoint, unchanged, whatever was counted.
    pub fn is(&self, other: &Self) -> bool {
        let Self { v4, priority, health_and_socket, more: _ } = self;
        (v4, priority, health_and_socket) == (&other.v4, &other.priority, &other.health_and_socket)
            && self.particulars() == other.particulars()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::socket_address::InternalAddress;

    fn address(text: &str) -> SocketAddress {
        SocketAddress::Ip(text.parse().unwrap())
    }

    #[test]
    fn particulars_are_kept_where_there_are_any() {
        let plain = || HostSpec::new(address("10.0.0.1:443"));
        assert!(plain().more.get().is_none() && plain().is(&plain()));
        assert_eq!((plain().weight(), plain().socket(), plain().hostname()), (1, 0, ""));
        let with = |weight, socket, details| HostSpec::with(address("10.0.0.1:443"), weight, socket, details);
        let none = HostDetails::default;
        assert!(with(0, 0, none()).is(&plain()), "no weight is less than 1");
        let named = || HostDetails { hostname: "h".into(), ..HostDetails::default() };
        let all = [with(2, 0, none()), with(1, 1, none()), with(1, 0, named())];
        let shown = all.each_ref().map(|host| (host.weight(), host.socket(), host.hostname()));
        assert_eq!(shown, [(2, 0, ""), (1, 1, ""), (1, 0, "h")]);
        assert_eq!((all[2].hash_key(), all[2].original_dst()), ("", None));
        for (place, host) in all.iter().enumerate() {
            assert!(!host.is(&plain()) && host.address() == plain().address());
            assert!(all.iter().enumerate().all(|(other, one)| host.is(one) == (place == other)));
        }
    }

    #[test]
    fn health_and_transport_socket_are_those_given() {
        for socket in [0, 1, 2, 30, 31, 32, 255, 256, u16::MAX] {
            for health in HEALTHS {
                let mut host = HostSpec::with(address("10.0.0.1:443"), 1, socket, HostDetails::default());
                assert_eq!((host.health(), host.socket()), (HealthStatus::Unknown, socket));
                host.set_health(HealthStatus::Degraded);
                host.set_health(health);
                assert_eq!((host.health(), host.socket()), (health, socket));
                assert_eq!(host.more.get().is_none(), socket < 31, "the first take no room");
            }
        }
    }

    #[test]
    fn address_of_any_kind_is_the_one_that_was_given() {
        let all = [
            address("10.0.0.1:443"),
            address("0.0.0.0:0"),
            address("[::1]:443"),
            SocketAddress::Pipe("@a".into()),
            SocketAddress::Internal(InternalAddress::new("l", "1")),
        ];
        for one in &all {
            let host = HostSpec::new(one.clone());
            assert_eq!(host.address(), *one);
            let same = all.iter().filter(|other| host.is(&HostSpec::new(SocketAddress::clone(other))));
            assert_eq!(same.count(), 1, "{one}");
        }
    }

    #[test]
    fn counters_make_no_other_endpoint_of_it() {
        let [before, plain] = [(); 2].map(|()| HostSpec::new(address("10.0.0.1:443")));
        assert!(before.counted().is_none());
        before.stats(1);
        assert!(before.counted().is_some() && before.is(&plain) && plain.is(&before));
        let after = HostSpec::with(before.address(), 2, 0, HostDetails::default()).with_stats_of(&before, 1);
        assert!(Arc::ptr_eq(after.stats(1), before.stats(1)) && after.weight() == 2);
    }
}
