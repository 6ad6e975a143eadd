//! Picking a host. A policy is rebuilt when hosts change and picked from per request; it never allocates when picking.

mod bounded;
mod hash_table;
mod least_request;
mod locality;
mod maglev;
mod mersenne;
mod murmur;
mod priority;
mod ring;
mod round_robin;
mod schedule;

use std::rc::Rc;
use std::sync::Arc;

use super::host::Host;
use super::host_spec::HostSpec;
use super::set::HostSpecs;
use crate::base::rng::Rng;
use crate::config::cluster::{Cluster, LoadBalancingPolicy, LocalityMode};
use crate::telemetry::ClusterStat;
use crate::telemetry::metrics::ClusterCells;
use bounded::Bounded;
pub use hash_table::{HashTable, Size};
use least_request::LeastRequest;
use priority::{Groups, Priorities};
use round_robin::RoundRobin;
use schedule::Schedule;

/// A cluster's load balancer on this core.
#[derive(Debug)]
pub struct LoadBalancer {
    priorities: Priorities,
    hashes: bool,
    /// One picker per group of hosts that `priorities` may choose.
    pickers: Vec<Picker>,
}

#[derive(Debug)]
enum Picker {
    RoundRobin(RoundRobin),
    LeastRequest(LeastRequest),
    Random(Vec<Rc<Host>>),
    Hashing(Hashing),
    Localities(Localities),
}

/// Localities that take turns, and the picker of each.
#[derive(Debug)]
struct Localities {
    schedule: Schedule,
    pickers: Vec<Picker>,
}

/// Hosts by the hash of what asks for one.
#[derive(Debug)]
struct Hashing {
    hosts: Vec<Rc<Host>>,
    /// They have the table.
    specs: Arc<HostSpecs>,
    /// Which of their tables is this group's.
    group: usize,
    bounded: Option<Bounded>,
}

/// A host, and whether it was chosen although too few are healthy.
#[derive(Debug)]
pub struct Pick {
    pub host: Rc<Host>,
    /// The cluster panics: health was ignored.
    pub panic: bool,
}

impl LoadBalancer {
    /// Without hosts.
    pub fn new(config: &Cluster) -> Self {
        Self {
            priorities: Priorities::default(),
            hashes: config.load_balancing.hashing().is_some(),
            pickers: Vec::new(),
        }
    }

    /// Takes a new set of hosts, which are those of `specs`, in their order.
    pub fn rebuild(&mut self, hosts: &[Rc<Host>], specs: &Arc<HostSpecs>, config: &Cluster, rng: &mut Rng) {
        let overprovisioning = specs.overprovisioning_percent();
        let groups = groups(specs, overprovisioning, config);
        self.priorities = groups.priorities;
        let chooses_locality = config.common_lb.locality == LocalityMode::Weighted && !self.hashes;
        let picker = |(number, (group, panic)): (usize, (Vec<u32>, bool))| {
            let mut make = |group: &[u32]| Picker::new(number, group, hosts, specs, config, rng);
            let parts = (chooses_locality && !panic)
                .then(|| locality::split(specs, &group, overprovisioning))
                .flatten();
            let Some(parts) = parts else { return make(&group) };
            let pickers = parts.iter().map(|(_, members)| make(members)).collect();
            let schedule = Schedule::new(parts.iter().map(|(weight, _)| *weight), rng);
            Picker::Localities(Localities { schedule, pickers })
        };
        self.pickers = groups.hosts.into_iter().zip(groups.panics).enumerate().map(picker).collect();
    }

    /// Whether it asks for a hash.
    pub fn hashes(&self) -> bool {
        self.hashes
    }

    /// The host for the next request, by its hash where the policy hashes; `None` when there is none.
    pub fn pick(&mut self, hash: Option<u64>, rng: &mut Rng, stats: &ClusterCells) -> Option<Pick> {
        let hash = if self.hashes { hash.unwrap_or_else(|| rng.next_u64()) } else { 0 };
        let draw = || if self.hashes { hash % 100 } else { rng.below(100) };
        let choice = self.priorities.choose(draw)?;
        let picker = match self.pickers.get_mut(choice.group)? {
            Picker::Localities(Localities { schedule, pickers }) => {
                pickers.get_mut(schedule.next(|_, weight| weight)?)?
            }
            picker => picker,
        };
        let host = picker.pick(hash, rng, stats)?;
        Some(Pick { host, panic: choice.panic })
    }
}

impl Picker {
    /// Of these of `hosts`, which are those of `specs`; `number`: which group they are.
    fn new(
        number: usize,
        group: &[u32],
        hosts: &[Rc<Host>],
        specs: &Arc<HostSpecs>,
        config: &Cluster,
        rng: &mut Rng,
    ) -> Self {
        let members = || group.iter().filter_map(|&place| hosts.get(place as usize)).map(Rc::clone);
        let weighted = || members().map(|host| (Rc::clone(&host), host.weight())).collect();
        match &config.load_balancing {
            LoadBalancingPolicy::RoundRobin => Self::RoundRobin(RoundRobin::new(weighted(), rng)),
            LoadBalancingPolicy::LeastRequest(settings) => {
                Self::LeastRequest(LeastRequest::new(weighted(), settings, rng))
            }
            // A cluster that provides its hosts itself has none that could be picked.
            LoadBalancingPolicy::Random | LoadBalancingPolicy::ClusterProvided => {
                Self::Random(members().collect())
            }
            LoadBalancingPolicy::RingHash(_) | LoadBalancingPolicy::Maglev(_) => {
                let factor =
                    config.load_balancing.hashing().map_or(0, |hashing| hashing.balance_factor_percent);
                let bounded = (factor > 0).then(|| Bounded::new(factor, shares(specs, group, config).into()));
                let hosts = members().collect();
                Self::Hashing(Hashing { hosts, specs: Arc::clone(specs), group: number, bounded })
            }
        }
    }

    #[inline]
    fn pick(&mut self, hash: u64, rng: &mut Rng, stats: &ClusterCells) -> Option<Rc<Host>> {
        match self {
            Self::RoundRobin(policy) => policy.pick(),
            Self::LeastRequest(policy) => policy.pick(rng),
            Self::Random(hosts) => hosts.get(rng.below(hosts.len() as u64) as usize).cloned(),
            Self::Hashing(policy) => policy.pick(hash, stats),
            // A locality has none of its own.
            Self::Localities(_) => None,
        }
    }
}

impl Hashing {
    fn pick(&mut self, hash: u64, stats: &ClusterCells) -> Option<Rc<Host>> {
        let mut found = self.specs.table(self.group)?.find(hash)?;
        if let Some(bounded) = &mut self.bounded {
            let active = stats.value(ClusterStat::UpstreamRqActive);
            found = bounded.choose(&self.hosts, found, hash, active);
        }
        self.hosts.get(found).cloned()
    }
}

fn groups(hosts: &[Arc<HostSpec>], overprovisioning: u32, config: &Cluster) -> Groups {
    let panic_threshold = config.common_lb.healthy_panic_threshold_percent;
    let hashes = config.load_balancing.hashing().is_some();
    let mut groups = priority::group(hosts, overprovisioning, panic_threshold, hashes);
    if hashes && config.common_lb.locality == LocalityMode::Weighted {
        groups.hosts.iter_mut().for_each(|group| *group = locality::ordered(hosts, group));
    }
    groups
}

/// What share of its group each host has, for policies that hash.
fn shares(hosts: &[Arc<HostSpec>], group: &[u32], config: &Cluster) -> Vec<f64> {
    locality::shares(hosts, group, config.common_lb.locality == LocalityMode::Weighted)
}

/// The tables of these hosts, one for each group; none, where the policy does not hash. `overprovisioning`: their
/// [`HostSpecs::overprovisioning_percent`].
pub(super) fn tables(hosts: &[Arc<HostSpec>], overprovisioning: u32, config: &Cluster) -> Box<[HashTable]> {
    if config.load_balancing.hashing().is_none() {
        return Box::default();
    }
    let groups = groups(hosts, overprovisioning, config);
    let table = |group: &Vec<u32>| {
        HashTable::build(&config.load_balancing, hosts, group, &shares(hosts, group, config))
    };
    groups.hosts.iter().filter_map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HostDetails;
    use crate::cluster::HostSpec;
    use crate::config::cluster::{
        Hashing as HashingConfig, LeastRequest as LeastRequestConfig, Maglev, RingHash,
    };
    use crate::config::endpoint::{HealthStatus, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
    use crate::telemetry::{Registry, Slot};

    fn balancer(policy: LoadBalancingPolicy, priorities: &[u32]) -> (LoadBalancer, ClusterCells) {
        balancer_of(policy, priorities, |_| 0)
    }

    /// By localities, if any has a weight: each host is one of its own.
    fn balancer_of(
        policy: LoadBalancingPolicy,
        priorities: &[u32],
        locality_weight: fn(u16) -> u32,
    ) -> (LoadBalancer, ClusterCells) {
        let registry = Registry::new(1);
        let mut config = Cluster::new("c");
        config.load_balancing = policy;
        if (1..).zip(priorities).any(|(port, _)| locality_weight(port) > 0) {
            config.common_lb.locality = LocalityMode::Weighted;
        }
        let spec = |(&priority, port): (&u32, u16)| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            let (locality, locality_weight) = (u32::from(port), locality_weight(port));
            let details = HostDetails { locality, locality_weight, ..HostDetails::default() };
            let mut host = HostSpec::with(address.into(), 1, 0, details);
            host.priority = u8::try_from(priority).unwrap();
            host
        };
        let specs = priorities.iter().zip(1..).map(spec).map(Arc::new).collect();
        let specs = HostSpecs::new(specs, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT, &config);
        (over(specs, &config), registry.cluster("c").cells(Slot::Worker(0)))
    }

    fn over(specs: HostSpecs, config: &Cluster) -> LoadBalancer {
        let specs = Arc::new(specs);
        let hosts: Vec<_> = specs.iter().map(|spec| Host::new(Arc::clone(spec), 0, 1)).collect();
        let mut balancer = LoadBalancer::new(config);
        balancer.rebuild(&hosts, &specs, config, &mut Rng::from_seed(1));
        balancer
    }

    /// Those of a control plane come with it: their cluster's own configuration has the default.
    #[test]
    fn overprovisioning_factor_is_that_of_the_endpoints() {
        use HealthStatus::{Healthy, Unhealthy};
        let registry = Registry::new(1);
        let stats = registry.cluster("c").cells(Slot::Worker(0));
        for policy in [LoadBalancingPolicy::Random, LoadBalancingPolicy::RingHash(RingHash::default())] {
            let mut config = Cluster::new("c");
            config.load_balancing = policy;
            // Of the first priority one half is ill: what the other may have, the second does not get.
            for (percent, expected) in [(140, &[1, 3][..]), (200, &[1])] {
                let hosts = [(0, Healthy), (0, Unhealthy), (1, Healthy)];
                let spec = |((priority, health), port): ((u8, HealthStatus), u16)| {
                    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                    let mut host = HostSpec::new(address.into());
                    host.priority = priority;
                    host.set_health(health);
                    Arc::new(host)
                };
                let specs = hosts.into_iter().zip(1..).map(spec).collect();
                let mut balancer = over(HostSpecs::new(specs, percent, &config), &config);
                let mut rng = Rng::from_seed(2);
                let mut pick = || balancer.pick(None, &mut rng, &stats).unwrap().host;
                let seen: std::collections::BTreeSet<u16> =
                    (0..200).map(|_| pick().address().socket().unwrap().port()).collect();
                assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected, "{percent}");
            }
        }
    }

    #[test]
    fn hash_decides_and_without_one_every_host_has_its_turn() {
        let policies = [
            LoadBalancingPolicy::RingHash(RingHash::default()),
            LoadBalancingPolicy::Maglev(Maglev::default()),
            LoadBalancingPolicy::Maglev(Maglev {
                hashing: HashingConfig { balance_factor_percent: 120, ..HashingConfig::default() },
                ..Maglev::default()
            }),
        ];
        for policy in policies {
            let (mut balancer, stats) = balancer(policy, &[0, 0, 0, 1]);
            let mut rng = Rng::from_seed(2);
            let mut pick =
                |hash| balancer.pick(hash, &mut rng, &stats).unwrap().host.address().socket().unwrap().port();
            for hash in [0, 1, 77, u64::MAX] {
                let first = pick(Some(hash));
                assert!((0..10).all(|_| pick(Some(hash)) == first));
            }
            let seen: std::collections::BTreeSet<u16> = (0..200).map(|_| pick(None)).collect();
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
        }
    }

    #[test]
    fn localities_share_by_weight_whatever_the_policy() {
        for policy in [
            LoadBalancingPolicy::RoundRobin,
            LoadBalancingPolicy::LeastRequest(LeastRequestConfig::default()),
            LoadBalancingPolicy::Random,
            LoadBalancingPolicy::RingHash(RingHash::default()),
            LoadBalancingPolicy::Maglev(Maglev::default()),
        ] {
            // Of the first two one has three quarters; the last has no weight.
            let weight = |port| [0, 3, 1, 0][usize::from(port)];
            let (mut balancer, stats) = balancer_of(policy.clone(), &[0, 0, 0], weight);
            let mut rng = Rng::from_seed(2);
            let mut seen = [0u32; 4];
            for _ in 0..4000 {
                let host = balancer.pick(None, &mut rng, &stats).unwrap().host;
                seen[usize::from(host.address().socket().unwrap().port())] += 1;
            }
            assert!(seen[3] == 0 && seen[1].abs_diff(3000) < 200, "{policy:?}: {seen:?}");
        }
    }

    #[test]
    fn random_picks_any() {
        let (mut balancer, stats) = balancer(LoadBalancingPolicy::Random, &[0, 0, 1]);
        let mut rng = Rng::from_seed(2);
        let seen: std::collections::BTreeSet<u16> = (0..100)
            .map(|_| {
                balancer.pick(Some(3), &mut rng, &stats).unwrap().host.address().socket().unwrap().port()
            })
            .collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
