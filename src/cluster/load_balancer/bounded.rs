//! Bounded load: a host that has more than its share of what this core has under way is passed over for the next of a
//! sequence that the hash alone decides. Source: Envoy `BoundedLoadHashingLoadBalancer`.

use std::rc::Rc;

use super::mersenne::Mersenne;
use crate::cluster::host::Host;
use crate::telemetry::HostStat;

/// What one group of hosts needs for it.
#[derive(Debug)]
pub(super) struct Bounded {
    factor_percent: u32,
    /// Each host's share.
    weights: Box<[f64]>,
    /// Room for the sequence.
    order: Box<[u32]>,
}

impl Bounded {
    pub(super) fn new(factor_percent: u32, weights: Box<[f64]>) -> Self {
        Self { factor_percent, order: (0..).take(weights.len()).collect(), weights }
    }

    /// The host in place of `found`. `active`: what is under way in the cluster.
    pub(super) fn choose(&mut self, hosts: &[Rc<Host>], found: usize, hash: u64, active: u64) -> usize {
        let load = |place: usize| {
            let active_here = hosts.get(place).map_or(0, |host| host.value(HostStat::RqActive));
            let weight = self.weights.get(place).copied().unwrap_or_default();
            overload(self.factor_percent, active as u32, active_here as u32, weight)
        };
        let mut least = (load(found), found);
        if least.0 <= 1.0 {
            return found;
        }
        let order = &mut self.order;
        order.iter_mut().zip(0..).for_each(|(place, index)| *place = index);
        let mut random = Mersenne::from_seed(hash as u32);
        for index in 0..order.len() {
            let other = random.below((order.len() - index) as u32) as usize;
            order.swap(index, index + other);
            // In bounds: `index` counts the list's places.
            let place = order[index] as usize;
            if place == found {
                continue;
            }
            let load = load(place);
            if load <= 1.0 {
                return place;
            }
            if load < least.0 {
                least = (load, place);
            }
        }
        least.1
    }
}

fn overload(factor_percent: u32, overall: u32, here: u32, weight: f64) -> f64 {
    let slots = overall.wrapping_add(1).wrapping_mul(factor_percent).wrapping_add(99) / 100;
    let slots = ((f64::from(slots) * weight).ceil() as u32).max(1);
    f64::from(here) / f64::from(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_overloaded_beyond_its_share_of_slots() {
        // 10 under way and one to come, a factor of 120 %: 14 slots, half of them this host's.
        assert!(overload(120, 10, 7, 0.5) <= 1.0);
        assert!(overload(120, 10, 8, 0.5) > 1.0);
        assert!(overload(100, 0, 1, 0.01) <= 1.0, "one slot at least");
    }
}
