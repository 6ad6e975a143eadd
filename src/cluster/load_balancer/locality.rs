//! Localities that share the traffic of their priority by weight. Source: Envoy `locality_weighted_lb_config`.
//!
//! Policies that do not hash choose a locality first, by its weight times how far it is available: its share of hosts of the kind
//! that is looked for, times the overprovisioning factor, at most all of it. Those that hash give each host its share of its
//! locality's weight, whatever is available. A locality without a weight gets nothing. In panic the former know no localities.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::host_spec::HostSpec;
use crate::config::endpoint::HealthStatus;

/// The hosts of a group, by locality, with what each has of the traffic, to any scale; `None`: weights leave nothing to anybody,
/// and localities do not matter.
pub(super) fn split(
    hosts: &[Arc<HostSpec>],
    group: &[u32],
    overprovisioning_percent: u32,
) -> Option<Vec<(f64, Vec<u32>)>> {
    struct Part {
        weight: u32,
        counted: usize,
        members: Vec<u32>,
    }
    let priority = hosts.get(*group.first()? as usize)?.priority;
    let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
    for spec in hosts.iter().filter(|spec| spec.priority == priority) {
        let none = Part { weight: spec.locality_weight(), counted: 0, members: Vec::new() };
        let part = parts.entry(spec.locality()).or_insert(none);
        part.counted += usize::from(spec.health() != HealthStatus::Draining);
    }
    for &place in group {
        let part = hosts.get(place as usize).and_then(|spec| parts.get_mut(&spec.locality()));
        part.into_iter().for_each(|part| part.members.push(place));
    }
    let share = |Part { weight, counted, members }: Part| {
        let available = members.len() as f64 / counted.max(1) as f64;
        let weight = f64::from(weight) * (f64::from(overprovisioning_percent) / 100.0 * available).min(1.0);
        (weight > 0.0).then_some((weight, members))
    };
    let parts: Vec<_> = parts.into_values().filter_map(share).collect();
    (!parts.is_empty()).then_some(parts)
}

/// The hosts of a group in the order in which policies that hash take them: by locality, without those that get nothing.
pub(super) fn ordered(hosts: &[Arc<HostSpec>], group: &[u32]) -> Vec<u32> {
    let spec = |place: &u32| hosts.get(*place as usize);
    let is_weighed = |place: &u32| spec(place).is_some_and(|spec| spec.locality_weight() > 0);
    let mut ordered: Vec<u32> = group.iter().copied().filter(is_weighed).collect();
    ordered.sort_by_key(|place| spec(place).map(|spec| spec.locality()));
    ordered
}

/// What share of all each host of a group has: its share of its locality's. What a locality without hosts in the group would have
/// nobody has. `weighted`: localities have weights; else they do not matter.
pub(super) fn shares(hosts: &[Arc<HostSpec>], group: &[u32], weighted: bool) -> Vec<f64> {
    let members = || group.iter().filter_map(|&place| hosts.get(place as usize));
    // Those of the whole priority: one of which every host is ill has its weight all the same.
    let mut weights: BTreeMap<u32, u32> = BTreeMap::new();
    if let Some(first) = members().next().filter(|_| weighted) {
        let all = hosts.iter().filter(|spec| spec.priority == first.priority);
        weights.extend(all.map(|spec| (spec.locality(), spec.locality_weight())));
    }
    let sum: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let mut within: BTreeMap<u32, u64> = BTreeMap::new();
    let locality = |spec: &HostSpec| if weighted { spec.locality() } else { 0 };
    members().for_each(|spec| *within.entry(locality(spec)).or_default() += u64::from(spec.weight()));
    let share = |spec: &HostSpec| {
        let part = if weighted { f64::from(spec.locality_weight()) / sum as f64 } else { 1.0 };
        let whole = within.get(&locality(spec)).copied().unwrap_or(1);
        f64::from(spec.weight()) * part / whole as f64
    };
    members().map(|spec| share(spec)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::HostDetails;
    use HealthStatus::{Degraded, Draining, Healthy, Unhealthy};

    /// Locality, its weight, the host's health.
    fn hosts(list: &[(u32, u32, HealthStatus)]) -> Vec<Arc<HostSpec>> {
        list.iter()
            .zip(1..)
            .map(|(&(locality, locality_weight, health), port)| {
                let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                let details = HostDetails { locality, locality_weight, ..HostDetails::default() };
                let mut host = HostSpec::with(address.into(), 1, 0, details);
                host.set_health(health);
                Arc::new(host)
            })
            .collect()
    }

    #[test]
    fn locality_has_its_weight_as_far_as_it_is_available() {
        // 140 % of a half are 70 %; all of the second, whatever drains.
        let all = hosts(&[(0, 10, Healthy), (0, 10, Unhealthy), (1, 30, Healthy), (1, 30, Draining)]);
        assert_eq!(split(&all, &[0, 2], 140), Some(vec![(7.0, vec![0]), (30.0, vec![2])]));
        let all = hosts(&[(0, 1, Healthy), (0, 1, Healthy), (0, 1, Degraded), (1, 1, Degraded)]);
        let parts = split(&all, &[2, 3], 100).unwrap();
        assert!((parts[0].0 - 1.0 / 3.0).abs() < 1e-9 && parts[1].0 == 1.0, "{parts:?}");
    }

    #[test]
    fn without_weights_localities_do_not_matter_and_one_without_gets_nothing() {
        assert_eq!(split(&hosts(&[(0, 0, Healthy), (1, 0, Healthy)]), &[0, 1], 140), None);
        assert_eq!(split(&[], &[], 140), None);
        let all = hosts(&[(0, 0, Healthy), (1, 2, Healthy)]);
        assert_eq!(split(&all, &[0, 1], 140), Some(vec![(2.0, vec![1])]));
        assert_eq!(ordered(&all, &[0, 1]), [1]);
    }

    #[test]
    fn hashing_shares_a_locality_out_among_its_hosts_in_its_order() {
        let mut all = hosts(&[(2, 1, Healthy), (0, 3, Healthy), (2, 1, Healthy), (1, 4, Unhealthy)]);
        let details = HostDetails { locality: 2, locality_weight: 1, ..HostDetails::default() };
        all[2] = Arc::new(HostSpec::with(all[2].address(), 3, 0, details));
        let group = ordered(&all, &[0, 1, 2]);
        assert_eq!(group, [1, 0, 2]);
        // Of 8 the first locality has 3, the last 1, and nobody the 4 of the one that is ill.
        assert_eq!(shares(&all, &group, true), [0.375, 0.03125, 0.09375]);
        assert_eq!(shares(&all, &[0, 2], false), [0.25, 0.75]);
    }
}
