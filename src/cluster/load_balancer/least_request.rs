//! Least request: of a few hosts drawn at random, the one with the fewest requests under way; where weights differ,
//! earliest deadline first with weights that shrink with what is under way. Each core counts its own requests.

use std::rc::Rc;

use super::round_robin::RoundRobin;
use crate::base::rng::Rng;
use crate::cluster::host::Host;
use crate::config::cluster::LeastRequest as Config;
use crate::config::runtime::RuntimeNumber;
use crate::telemetry::HostStat;

#[derive(Debug)]
pub(super) enum LeastRequest {
    Equal { hosts: Vec<Rc<Host>>, choices: u32, full_scan: bool },
    Weighted { queue: RoundRobin, bias: RuntimeNumber },
}

impl LeastRequest {
    pub(super) fn new(weighted: Vec<(Rc<Host>, u32)>, config: &Config, rng: &mut Rng) -> Self {
        if weighted.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            let hosts = weighted.into_iter().map(|(host, _)| host).collect();
            return Self::Equal { hosts, choices: config.choice_count, full_scan: config.full_scan };
        }
        Self::Weighted { queue: RoundRobin::new(weighted, rng), bias: config.active_request_bias.clone() }
    }

    pub(super) fn pick(&mut self, rng: &mut Rng) -> Option<Rc<Host>> {
        match self {
            Self::Equal { hosts, full_scan: true, .. } => scan(hosts, rng),
            Self::Equal { hosts, choices, full_scan: false } => {
                let mut draw = || hosts.get(rng.below(hosts.len() as u64) as usize);
                let mut best = draw()?;
                for _ in 1..*choices {
                    let other = draw()?;
                    if active(other) < active(best) {
                        best = other;
                    }
                }
                Some(Rc::clone(best))
            }
            Self::Weighted { queue, bias } => {
                // As in Envoy: what is no number from 0 on does not count.
                let bias = Some(bias.value()).filter(|bias| *bias >= 0.0 && bias.is_finite()).unwrap_or(1.0);
                queue.pick_with(|host, weight| {
                    let busy = active(host) as f64 + 1.0;
                    if bias == 1.0 { weight / busy } else { weight / busy.powf(bias) }
                })
            }
        }
    }
}

/// One of those with the fewest, all as likely.
fn scan(hosts: &[Rc<Host>], rng: &mut Rng) -> Option<Rc<Host>> {
    let (mut best, mut tied) = (hosts.first()?, 1);
    for host in hosts.iter().skip(1) {
        let (here, least) = (active(host), active(best));
        if here < least {
            (best, tied) = (host, 1);
        } else if here == least {
            tied += 1;
            if rng.below(tied) == 0 {
                best = host;
            }
        }
    }
    Some(Rc::clone(best))
}

fn active(host: &Host) -> u64 {
    host.value(HostStat::RqActive)
}

#[cfg(test)]
mod tests {
    use super::super::round_robin::tests::host;
    use super::*;

    fn picks(weights: &[u32], busy: &[u64], config: &Config) -> Vec<usize> {
        let hosts: Vec<_> = weights.iter().zip(1..).map(|(&weight, port)| (host(port), weight)).collect();
        for ((host, _), busy) in hosts.iter().zip(busy) {
            host.stats().gauge_set(HostStat::RqActive, *busy);
        }
        let mut rng = Rng::from_seed(5);
        let mut balancer = LeastRequest::new(hosts, config, &mut rng);
        let mut seen = vec![0; weights.len()];
        for _ in 0..3000 {
            seen[balancer.pick(&mut rng).unwrap().address().socket().unwrap().port() as usize - 1] += 1;
        }
        seen
    }

    #[test]
    fn busier_of_two_hosts_drawn_is_left_out() {
        let seen = picks(&[1, 1, 1], &[9, 0, 0], &Config::default());
        // Both draws have to be the busy one.
        assert!((230..440).contains(&seen[0]), "{seen:?}");
        let all = picks(&[1, 1, 1], &[9, 0, 0], &Config { full_scan: true, ..Config::default() });
        assert!(all[0] == 0 && all[1].abs_diff(all[2]) < 250, "{all:?}");
    }

    #[test]
    fn weights_shrink_with_requests_under_way_as_far_as_the_bias_says() {
        let seen = picks(&[2, 1], &[3, 0], &Config::default());
        // 2 / 4 and 1.
        assert!(seen[0].abs_diff(1000) < 5, "{seen:?}");
        let seen = picks(&[2, 1], &[3, 0], &Config { active_request_bias: 0.0.into(), ..Config::default() });
        assert!(seen[0].abs_diff(2000) < 5, "{seen:?}");
    }
}
