//! Which priority, and within it healthy or degraded hosts, or all of them in panic, takes the next request.
//!
//! Envoy's rule: a priority's health is its share of healthy hosts times the overprovisioning factor, at most 100 %;
//! load goes to priorities in order, each taking what its health allows of what is left; degraded hosts take part
//! after all healthy ones. When no priority is fully available the loads are scaled to 100 %. A priority whose share of
//! healthy and degraded hosts lies below the panic threshold while the total is not fully available ignores health; if
//! all do, each gets by its number of hosts. Hosts that drain are not among those of which shares are.

use std::sync::Arc;

use crate::cluster::host_spec::HostSpec;
use crate::config::endpoint::HealthStatus;

/// Loads of the groups, in percent of all requests.
#[derive(Debug, Default)]
pub(super) struct Priorities {
    /// (upper bound of the draw, group, panic), ascending.
    shares: Vec<(u32, usize, bool)>,
}

pub(super) struct Choice {
    pub(super) group: usize,
    pub(super) panic: bool,
}

pub(super) struct Groups {
    pub(super) priorities: Priorities,
    /// Places in the cluster's list.
    pub(super) hosts: Vec<Vec<u32>>,
    /// Which of them ignore health.
    pub(super) panics: Vec<bool>,
}

#[derive(Default)]
struct Level {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    all: Vec<u32>,
    /// How many shares are of: all but those that drain.
    counted: usize,
}

impl Priorities {
    /// `draw`: a number below 100.
    pub(super) fn choose(&self, draw: impl FnOnce() -> u64) -> Option<Choice> {
        let choice = match self.shares.as_slice() {
            [] => return None,
            [(_, group, panic)] => (*group, *panic),
            shares => {
                let draw = draw() as u32;
                let (_, group, panic) =
                    shares.iter().find(|(bound, ..)| draw < *bound).unwrap_or(&shares[shares.len() - 1]);
                (*group, *panic)
            }
        };
        Some(Choice { group: choice.0, panic: choice.1 })
    }
}

/// Splits hosts into the groups that may be chosen, with their loads. `hashing`: as Envoy's hashing balancers have it, a
/// priority has one group only, its healthy hosts, which takes the share of degraded ones as well.
pub(super) fn group(
    hosts: &[Arc<HostSpec>],
    overprovisioning_percent: u32,
    panic_threshold: f64,
    hashing: bool,
) -> Groups {
    let mut levels: Vec<Level> = Vec::new();
    for (entry, spec) in (0u32..).zip(hosts) {
        let priority = spec.priority as usize;
        if levels.len() <= priority {
            levels.resize_with(priority + 1, Level::default);
        }
        let level = &mut levels[priority];
        match spec.health() {
            HealthStatus::Unknown | HealthStatus::Healthy => level.healthy.push(entry),
            HealthStatus::Degraded => level.degraded.push(entry),
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => {}
        }
        level.all.push(entry);
        level.counted += usize::from(spec.health() != HealthStatus::Draining);
    }

    let availability = |available: usize, all: usize| {
        if all == 0 {
            0
        } else {
            (u64::from(overprovisioning_percent) * available as u64 / all as u64).min(100) as u32
        }
    };
    let healthy: Vec<u32> =
        levels.iter().map(|level| availability(level.healthy.len(), level.counted)).collect();
    let degraded: Vec<u32> =
        levels.iter().map(|level| availability(level.degraded.len(), level.counted)).collect();
    let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
    let in_panic = |level: &Level| {
        total < 100
            && !level.all.is_empty()
            && 100.0 * (level.healthy.len() + level.degraded.len()) as f64 / (level.counted.max(1) as f64)
                < panic_threshold
    };

    let mut groups = Groups { priorities: Priorities::default(), hosts: Vec::new(), panics: Vec::new() };
    let mut bound = 0;
    let mut left = 100u32;
    let mut group_of: Vec<Option<usize>> = vec![None; levels.len()];
    let mut add = |share: u32, level: usize, hosts: &[u32], panic: bool| {
        if share > 0 && (hashing || !hosts.is_empty()) {
            bound += share;
            let known = group_of[level].filter(|_| hashing);
            let group = known.unwrap_or_else(|| {
                groups.hosts.push(hosts.to_vec());
                groups.panics.push(panic);
                groups.hosts.len() - 1
            });
            group_of[level] = Some(group);
            groups.priorities.shares.push((bound, group, panic));
        }
    };
    if levels.iter().all(|level| level.all.is_empty() || in_panic(level)) {
        // All panic: each gets by its number of hosts, the first what rounding has left.
        let hosts = levels.iter().map(|level| level.all.len()).sum::<usize>().max(1);
        let share = |level: &Level| (100 * level.all.len() / hosts) as u32;
        let mut rest = 100u32.saturating_sub(levels.iter().map(share).sum());
        for (index, level) in levels.iter().enumerate().filter(|(_, level)| !level.all.is_empty()) {
            add(share(level) + std::mem::take(&mut rest), index, &level.all, true);
        }
        return groups;
    }
    if total == 0 {
        // Nobody is available, and nobody may panic.
        return groups;
    }
    for available in [&healthy, &degraded] {
        for (index, share) in available.iter().enumerate() {
            let share = (share * 100 / total).min(left);
            left -= share;
            let level = &levels[index];
            let hosts = if in_panic(level) {
                &level.all
            } else if hashing || std::ptr::eq(available, &healthy) {
                &level.healthy
            } else {
                &level.degraded
            };
            add(share, index, hosts, in_panic(level));
        }
    }
    // What rounding has left goes to the first.
    if let Some(first) = groups.priorities.shares.first().copied() {
        let missing = 100 - groups.priorities.shares.last().map_or(first.0, |last| last.0).min(100);
        groups.priorities.shares.iter_mut().for_each(|share| share.0 += missing);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(spec: &[(u32, HealthStatus)]) -> Vec<Arc<HostSpec>> {
        spec.iter()
            .zip(1..)
            .map(|(&(priority, health), port)| {
                let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                let mut host = HostSpec::new(address.into());
                host.priority = u8::try_from(priority).unwrap();
                host.set_health(health);
                Arc::new(host)
            })
            .collect()
    }

    fn shares(spec: &[(u32, HealthStatus)]) -> Vec<(u32, usize, bool)> {
        shares_if(spec, false)
    }

    fn shares_if(spec: &[(u32, HealthStatus)], hashing: bool) -> Vec<(u32, usize, bool)> {
        let groups = group(&hosts(spec), 140, 50.0, hashing);
        let mut before = 0;
        groups
            .priorities
            .shares
            .iter()
            .map(|&(bound, index, panic)| {
                let share = bound - before;
                before = bound;
                (share, groups.hosts[index].len(), panic)
            })
            .collect()
    }

    use HealthStatus::{Degraded, Healthy, Unhealthy};

    #[test]
    fn healthy_first_priority_takes_all() {
        assert_eq!(shares(&[(0, Healthy), (0, Healthy), (1, Healthy)]), [(100, 2, false)]);
    }

    #[test]
    fn load_spills_below_71_percent() {
        // 1 of 2 healthy: 70 % stays, 30 % spills.
        assert_eq!(shares(&[(0, Healthy), (0, Unhealthy), (1, Healthy)]), [(70, 1, false), (30, 1, false)]);
    }

    #[test]
    fn too_few_healthy_means_panic() {
        assert_eq!(shares(&[(0, Healthy), (0, Unhealthy), (0, Unhealthy)]), [(100, 3, true)]);
        assert_eq!(shares(&[(0, Unhealthy), (0, Unhealthy)]), [(100, 2, true)]);
    }

    #[test]
    fn degraded_hosts_are_none_too_few() {
        let all = [(0, Healthy), (0, Degraded), (0, Unhealthy), (0, Unhealthy)];
        assert_eq!(shares(&all), [(50, 1, false), (50, 1, false)]);
        assert_eq!(shares_if(&all, true), [(50, 1, false), (50, 1, false)]);
        assert_eq!(shares(&[(0, Degraded), (0, Unhealthy), (0, Unhealthy)]), [(100, 3, true)]);
    }

    #[test]
    fn hosts_that_drain_make_no_panic_and_take_part_in_one() {
        use HealthStatus::Draining;
        assert_eq!(shares(&[(0, Healthy), (0, Unhealthy), (0, Draining), (0, Draining)]), [(100, 1, false)]);
        assert_eq!(shares(&[(0, Draining), (0, Draining)]), [(100, 2, true)]);
    }

    #[test]
    fn priorities_that_all_panic_share_by_their_hosts() {
        let all = [(0, Unhealthy), (1, Unhealthy), (1, Unhealthy)];
        assert_eq!(shares(&all), [(34, 1, true), (66, 2, true)]);
        let all = [(0, Unhealthy), (0, Unhealthy), (0, Healthy), (2, Unhealthy)];
        assert_eq!(shares(&all), [(75, 3, true), (25, 1, true)]);
    }

    #[test]
    fn degraded_hosts_serve_what_healthy_ones_cannot() {
        assert_eq!(shares(&[(0, Healthy), (0, Degraded)]), [(70, 1, false), (30, 1, false)]);
    }

    #[test]
    fn hashing_knows_healthy_hosts_only() {
        assert_eq!(shares_if(&[(0, Healthy), (0, Degraded)], true), [(70, 1, false), (30, 1, false)]);
        assert_eq!(shares_if(&[(0, Degraded)], true), [(100, 0, false)]);
        assert_eq!(shares_if(&[(0, Unhealthy), (0, Unhealthy)], true), [(100, 2, true)]);
    }

    #[test]
    fn no_hosts_no_choice() {
        assert!(group(&[], 140, 50.0, false).priorities.choose(|| 1).is_none());
    }
}
