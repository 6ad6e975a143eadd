//! Which priority, and within it healthy or degraded hosts, or all of them in panic, takes the next request.
//!
//! Envoy's rule: a priority's health is its share of healthy hosts times the overprovisioning factor, at most 100 %;
//! load goes to priorities in order, each taking what its health allows of what is left; degraded hosts take part
//! after all healthy ones. When no priority is fully available the loads are scaled to 100 %. A priority whose share of
//! healthy hosts lies below the panic threshold while the total is not fully available ignores health.

use std::rc::Rc;

use crate::base::rng::Rng;
use crate::cluster::host::Host;
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
    pub(super) hosts: Vec<Vec<(Rc<Host>, u32)>>,
}

#[derive(Default)]
struct Level {
    healthy: Vec<(Rc<Host>, u32)>,
    degraded: Vec<(Rc<Host>, u32)>,
    all: Vec<(Rc<Host>, u32)>,
}

impl Priorities {
    pub(super) fn choose(&self, rng: &mut Rng) -> Option<Choice> {
        let choice = match self.shares.as_slice() {
            [] => return None,
            [(_, group, panic)] => (*group, *panic),
            shares => {
                let draw = rng.below(100) as u32;
                let (_, group, panic) =
                    shares.iter().find(|(bound, ..)| draw < *bound).unwrap_or(&shares[shares.len() - 1]);
                (*group, *panic)
            }
        };
        Some(Choice { group: choice.0, panic: choice.1 })
    }
}

/// Splits hosts into the groups that may be chosen, with their loads.
pub(super) fn group(hosts: &[Rc<Host>], overprovisioning_percent: u32, panic_threshold: f64) -> Groups {
    let mut levels: Vec<Level> = Vec::new();
    for host in hosts {
        let spec = host.spec();
        let priority = spec.priority as usize;
        if levels.len() <= priority {
            levels.resize_with(priority + 1, Level::default);
        }
        let level = &mut levels[priority];
        let entry = (Rc::clone(host), spec.weight);
        match spec.health {
            HealthStatus::Unknown | HealthStatus::Healthy => level.healthy.push(entry.clone()),
            HealthStatus::Degraded => level.degraded.push(entry.clone()),
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => {}
        }
        level.all.push(entry);
    }

    let availability = |available: usize, all: usize| {
        if all == 0 {
            0
        } else {
            (u64::from(overprovisioning_percent) * available as u64 / all as u64).min(100) as u32
        }
    };
    let healthy: Vec<u32> =
        levels.iter().map(|level| availability(level.healthy.len(), level.all.len())).collect();
    let degraded: Vec<u32> =
        levels.iter().map(|level| availability(level.degraded.len(), level.all.len())).collect();
    let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
    let in_panic = |level: &Level| {
        total < 100
            && !level.all.is_empty()
            && 100.0 * level.healthy.len() as f64 / (level.all.len() as f64) < panic_threshold
    };

    let mut groups = Groups { priorities: Priorities::default(), hosts: Vec::new() };
    let mut bound = 0;
    let mut left = 100u32;
    let mut add = |share: u32, hosts: Vec<(Rc<Host>, u32)>, panic: bool| {
        if share > 0 && !hosts.is_empty() {
            bound += share;
            groups.hosts.push(hosts);
            groups.priorities.shares.push((bound, groups.hosts.len() - 1, panic));
        }
    };
    if total == 0 {
        // Nobody is available: the first priority that panics takes everything.
        if let Some(level) = levels.iter().find(|level| in_panic(level)) {
            add(100, level.all.clone(), true);
        }
        return groups;
    }
    for available in [&healthy, &degraded] {
        for (index, share) in available.iter().enumerate() {
            let share = (share * 100 / total).min(left);
            left -= share;
            let level = &levels[index];
            let hosts = if in_panic(level) {
                &level.all
            } else if std::ptr::eq(available, &healthy) {
                &level.healthy
            } else {
                &level.degraded
            };
            add(share, hosts.clone(), in_panic(level));
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
    use crate::cluster::host::HostSpec;
    use crate::telemetry::Registry;

    fn hosts(spec: &[(u32, HealthStatus)]) -> Vec<Rc<Host>> {
        spec.iter()
            .zip(1..)
            .map(|(&(priority, health), port)| {
                Host::new(
                    HostSpec {
                        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
                        hostname: Box::default(),
                        weight: 1,
                        priority,
                        health,
                        socket: 0,
                        stats: Registry::new(1).host(),
                    },
                    0,
                )
            })
            .collect()
    }

    fn shares(spec: &[(u32, HealthStatus)]) -> Vec<(u32, usize, bool)> {
        let groups = group(&hosts(spec), 140, 50.0);
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
    fn degraded_hosts_serve_what_healthy_ones_cannot() {
        assert_eq!(shares(&[(0, Healthy), (0, Degraded)]), [(70, 1, false), (30, 1, false)]);
    }

    #[test]
    fn no_hosts_no_choice() {
        assert!(group(&[], 140, 50.0).priorities.choose(&mut Rng::from_seed(1)).is_none());
    }
}
