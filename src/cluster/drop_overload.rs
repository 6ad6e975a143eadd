//! Requests that endpoints are spared: a share of all, as whoever tells the endpoints wants it (`drop_overloads`).

use crate::base::rng::Rng;
use crate::config::endpoint::DropOverload;

/// A request that is not sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// None is sent: nothing was drawn.
    pub unconditional: bool,
}

/// Draws whether a request is dropped, where so many of a million are. Source: Envoy `Router::Filter::checkDropOverload`.
pub(super) fn draw(per_million: u32, rng: &mut Rng) -> Option<Dropped> {
    if per_million >= DropOverload::ALL {
        return Some(Dropped { unconditional: true });
    }
    let is_drawn = per_million > 0 && rng.below(u64::from(DropOverload::ALL)) < u64::from(per_million);
    is_drawn.then_some(Dropped { unconditional: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_dropped_none_and_all_without_a_draw() {
        let mut rng = Rng::from_seed(1);
        for (share, expected) in [(0, 0), (1_000, 10), (300_000, 3_000), (999_000, 9_990)] {
            let dropped = (0..10_000).filter_map(|_| draw(share, &mut rng)).collect::<Vec<_>>();
            assert!(dropped.len().abs_diff(expected) <= 300, "{share}: {}", dropped.len());
            assert!(dropped.iter().all(|dropped| !dropped.unconditional));
            assert_eq!(dropped.is_empty(), share == 0);
        }
        let untouched = rng.clone().next_u64();
        assert_eq!(draw(DropOverload::ALL, &mut rng), Some(Dropped { unconditional: true }));
        assert_eq!(draw(0, &mut rng), None);
        assert_eq!(rng.next_u64(), untouched);
    }
}
