//! Round robin: in turn when all weights are equal, else earliest deadline first, where a host of weight w comes up
//! every 1/w. Each core starts at a random place, so that the cores do not visit the hosts in step.

use std::rc::Rc;

use super::schedule::Schedule;
use crate::base::rng::Rng;
use crate::cluster::host::Host;

#[derive(Debug)]
pub(super) enum RoundRobin {
    Equal { hosts: Vec<Rc<Host>>, next: usize },
    Weighted { schedule: Schedule, hosts: Vec<Rc<Host>> },
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
        let weights = weights.iter().map(|&weight| f64::from(weight.max(1)));
        Self::Weighted { schedule: Schedule::new(weights, rng), hosts }
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
            Self::Weighted { schedule, hosts } => {
                let index = schedule.next(|host, weight| weigh(&hosts[host], weight))?;
                Some(Rc::clone(&hosts[index]))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::host_spec::HostSpec;

    pub(in super::super) fn host(port: u16) -> Rc<Host> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Host::new(Arc::new(HostSpec::new(address.into())), 0, 1)
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
