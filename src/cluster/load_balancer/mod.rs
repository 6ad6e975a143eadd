//! Picking a host. A policy is rebuilt when hosts change and picked from per request; it never allocates when picking.

mod priority;
mod round_robin;

use std::rc::Rc;

use super::host::Host;
use crate::base::rng::Rng;
use crate::config::cluster::{Cluster, LoadBalancingPolicy};
use priority::Priorities;
use round_robin::RoundRobin;

/// A cluster's load balancer on this core.
#[derive(Debug)]
pub struct LoadBalancer {
    priorities: Priorities,
    panic_threshold_percent: f64,
    policy: LoadBalancingPolicy,
    /// One picker per group of hosts that `priorities` may choose.
    pickers: Vec<RoundRobin>,
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
            panic_threshold_percent: config.common_lb.healthy_panic_threshold_percent,
            policy: config.load_balancing,
            pickers: Vec::new(),
        }
    }

    /// Takes a new set of hosts.
    pub fn rebuild(&mut self, hosts: &[Rc<Host>], overprovisioning_percent: u32, rng: &mut Rng) {
        let groups = priority::group(hosts, overprovisioning_percent, self.panic_threshold_percent);
        self.priorities = groups.priorities;
        self.pickers = match self.policy {
            LoadBalancingPolicy::RoundRobin => {
                groups.hosts.into_iter().map(|hosts| RoundRobin::new(hosts, rng)).collect()
            }
            // It has no hosts that could be picked.
            LoadBalancingPolicy::ClusterProvided => Vec::new(),
        };
    }

    /// The host for the next request; `None` when there is none.
    pub fn pick(&mut self, rng: &mut Rng) -> Option<Pick> {
        let choice = self.priorities.choose(rng)?;
        let host = self.pickers.get_mut(choice.group)?.pick()?;
        Some(Pick { host, panic: choice.panic })
    }
}
