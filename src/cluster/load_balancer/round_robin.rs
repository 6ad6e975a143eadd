//! Round robin: in turn when all weights are equal, else earliest deadline first, where a host of weight w comes up
//! every 1/w. Each core starts at a random place, so that the cores do not visit the hosts in step.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::base::rng::Rng;
use crate::cluster::host::Host;

#[derive(Debug)]
pub(super) enum RoundRobin {
    Equal { hosts: Vec<Rc<Host>>, next: usize },
    Weighted { queue: BinaryHeap<Entry>, hosts: Vec<Rc<Host>> },
}

#[derive(Debug)]
pub(super) struct Entry {
    deadline: f64,
    /// Ties are broken by who came first.
    order: u64,
    weight: f64,
    host: usize,
}

impl RoundRobin {
    pub(super) fn new(weighted: Vec<(Rc<Host>, u32)>, rng: &mut Rng) -> Self {
        let equal = weighted.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let weights: Vec<u32> = weighted.iter().map(|(_, weight)| *weight).collect();
        let hosts: Vec<_> = weighted.into_iter().map(|(host, _)| host).collect();
        if equal {
            let next = rng.below(hosts.len() as u64) as usize;
            return Self::Equal { hosts, next };
        }
        let mut queue: BinaryHeap<_> = weights
            .iter()
            .enumerate()
            .map(|(host, &weight)| {
                let weight = f64::from(weight.max(1));
                Entry { deadline: 1.0 / weight, order: host as u64, weight, host }
            })
            .collect();
        // Skip a random part of the first round.
        for _ in 0..rng.below(hosts.len() as u64) {
            next(&mut queue, |_, weight| weight);
        }
        Self::Weighted { queue, hosts }
    }

    pub(super) fn pick(&mut self) -> Option<Rc<Host>> {
        self.pick_with(|_, weight| weight)
    }

    /// With weights that change: `weigh` says what a host's is by now.
    pub(super) fn pick_with(&mut self, weigh: impl Fn(&Host, f64) -> f64) -> Option<Rc<Host>> {
        match self {
            Self::Equal { hosts, next } => {
                let host = hosts.get(*next).or_else(|| hosts.first())?;
                *next = if *next + 1 < hosts.len() { *next + 1 } else { 0 };
                Some(Rc::clone(host))
            }
            Self::Weighted { queue, hosts } => {
                let index = next(queue, |host, weight| weigh(&hosts[host], weight))?;
                Some(Rc::clone(&hosts[index]))
            }
        }
    }
}

fn next(queue: &mut BinaryHeap<Entry>, weigh: impl Fn(usize, f64) -> f64) -> Option<usize> {
    let len = queue.len() as u64;
    let mut first = queue.peek_mut()?;
    first.deadline += 1.0 / weigh(first.host, first.weight);
    first.order += len;
    Some(first.host)
}

// The heap's greatest is the earliest deadline.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::host::HostSpec;
    use crate::config::endpoint::HealthStatus;
    use crate::telemetry::Registry;

    pub(in super::super) fn host(port: u16) -> Rc<Host> {
        Host::new(
            Arc::new(HostSpec {
                address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
                hostname: Box::default(),
                hash_key: Box::default(),
                weight: 1,
                priority: 0,
                health: HealthStatus::Unknown,
                socket: 0,
                stats: Registry::new(1).host(),
            }),
            0,
        )
    }

    fn picks(weights: &[u32], count: usize) -> Vec<usize> {
        let hosts = weights.iter().zip(1..).map(|(&weight, port)| (host(port), weight)).collect();
        let mut robin = RoundRobin::new(hosts, &mut Rng::from_seed(3));
        let mut seen = vec![0; weights.len()];
        for _ in 0..count {
            seen[robin.pick().unwrap().address().socket().unwrap().port() as usize - 1] += 1;
        }
        seen
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        assert_eq!(picks(&[5, 5, 5], 300), [100, 100, 100]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let seen = picks(&[1, 2, 7], 1000);
        assert!(
            seen.iter().zip([100, 200, 700]).all(|(&got, want): (&usize, usize)| got.abs_diff(want) <= 2),
            "{seen:?}"
        );
    }

    #[test]
    fn no_hosts_give_none() {
        assert!(RoundRobin::new(Vec::new(), &mut Rng::from_seed(1)).pick().is_none());
    }
}
