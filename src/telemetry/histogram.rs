//! Histograms: a log-linear one per writer, their merged form, quantiles and cumulative buckets.
//!
//! Buckets are those of Envoy's histograms (two significant decimal digits), so that quantiles and Prometheus
//! buckets come out alike: 90 buckets per power of ten, values up to 99 exact. Workers have several for each cluster, and
//! most values of one are alike: buckets are allocated, those of a first digit together, when their first value arrives;
//! a histogram that saw nothing is 88 bytes.
use crate::base::heaps;
use once_cell::race::OnceBox;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One writer's histogram. Single writer: the thread that owns the cells.
#[derive(Debug, Default)]
pub struct Histogram {
    zeros: AtomicU64,
    sum: AtomicU64,
    /// 1 to 9, which are exact.
    ones: OnceBox<[AtomicU64; DIGITS]>,
    /// `decades[d]` counts values in `10^(d+1) .. 10^(d+2)`; the last decade takes whatever is larger as well.
    decades: [OnceBox<Decade>; DECADES - 1],
}

const _: () = assert!(size_of::<Histogram>() == 88);

impl Histogram {
    /// Counts one value. Allocates at most once for all values below ten, and for what lies above once per decade and
    /// once per first digit of one, in the histogram's life.
    pub fn record(&self, value: u64) {
        self.sum.store(self.sum.load(Relaxed).wrapping_add(value), Relaxed);
        let cell = match bucket(value) {
            None => Some(&self.zeros),
            Some((0, slot)) => self.ones.get_or_init(lasting).get(slot / SECOND_DIGITS),
            Some((decade, slot)) => self.decades.get(decade - 1).and_then(|decade| {
                let group = decade.get_or_init(lasting).get(slot / SECOND_DIGITS)?;
                group.get_or_init(lasting).get(slot % SECOND_DIGITS)
            }),
        };
        if let Some(cell) = cell {
            cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Adds the counts to `into`. For the scraping side.
    pub fn merge_into(&self, into: &mut Distribution) {
        into.sum = into.sum.wrapping_add(self.sum.load(Relaxed));
        into.add(0, self.zeros.load(Relaxed));
        for (digit, cell) in self.ones.get().into_iter().flatten().enumerate() {
            into.add((1 + digit * SECOND_DIGITS) as u16, cell.load(Relaxed));
        }
        for (decade, groups) in self.decades.iter().enumerate() {
            for (digit, cells) in groups.get().into_iter().flatten().enumerate() {
                let first = 1 + (decade + 1) * SLOTS + digit * SECOND_DIGITS;
                for (at, cell) in cells.get().into_iter().flatten().enumerate() {
                    into.add((first + at) as u16, cell.load(Relaxed));
                }
            }
        }
    }
}

/// Buckets without values, made where they outlive what is served.
#[cold]
fn lasting<T: Default>() -> Box<T> {
    heaps::lasting(Box::default)
}

/// A merged histogram: counts by bucket, sorted, without zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    buckets: Vec<(u16, u64)>,
    sum: u64,
}

impl Distribution {
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Sum of the values recorded, exact.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    pub fn add_all(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        for (bucket, count) in &other.buckets {
            self.add(*bucket, *count);
        }
    }

    /// What was recorded since `earlier`, an older state of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut result = Self { buckets: Vec::new(), sum: self.sum.wrapping_sub(earlier.sum) };
        for (bucket, count) in &self.buckets {
            let before = earlier.buckets.binary_search_by_key(bucket, |(bucket, _)| *bucket);
            let before = before.ok().and_then(|at| earlier.buckets.get(at)).map_or(0, |(_, count)| *count);
            result.add(*bucket, count.saturating_sub(before));
        }
        result
    }

    /// Values at the quantiles of [`QUANTILES`]; `None` when nothing was recorded. The values of a bucket are taken
    /// to be spread evenly over it, and a quantile is one of the values, as in Envoy.
    pub fn quantiles(&self) -> Option<[f64; QUANTILES.len()]> {
        let total = self.count();
        (total > 0)
            .then(|| QUANTILES.map(|(_, quantile)| self.ranked((quantile * total as f64).ceil() as u64)))
    }

    /// Number of values at or below a bound, as Prometheus wants it. The default bounds are all limits of buckets; the
    /// bucket that begins at a bound counts as below it, as in Envoy: integers are exact up to 99.
    pub fn count_to(&self, bound: f64) -> u64 {
        let below = self.buckets.iter().take_while(|(bucket, _)| limits(*bucket).0 <= bound);
        below.map(|(_, count)| count).sum()
    }

    /// The value at a rank counted from 1.
    fn ranked(&self, rank: u64) -> f64 {
        let mut rank = rank.max(1);
        for (bucket, count) in &self.buckets {
            if rank <= *count {
                let (low, high) = limits(*bucket);
                return low + (high - low) * (rank as f64 / (*count + 1) as f64);
            }
            rank -= count;
        }
        0.0
    }

    fn add(&mut self, bucket: u16, count: u64) {
        if count == 0 {
            return;
        }
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }
}

/// Quantiles in `/stats`, with the names Envoy gives them.
pub const QUANTILES: [(&str, f64); 10] = [
    ("P0", 0.0),
    ("P25", 0.25),
    ("P50", 0.5),
    ("P75", 0.75),
    ("P90", 0.9),
    ("P95", 0.95),
    ("P99", 0.99),
    ("P99.5", 0.995),
    ("P99.9", 0.999),
    ("P100", 1.0),
];

/// Upper bounds of the buckets in `/stats/prometheus`. Source: Envoy `HistogramBucketSettings`, the default.
pub const BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0,
    300000.0, 600000.0, 1800000.0, 3600000.0,
];

/// Buckets of a decade, by the first digit.
type Decade = [OnceBox<[AtomicU64; SECOND_DIGITS]>; DIGITS];
/// First digits: 1 to 9.
const DIGITS: usize = 9;
const SECOND_DIGITS: usize = 10;
/// Buckets per decade: 10 to 99.
const SLOTS: usize = DIGITS * SECOND_DIGITS;
/// 10^0 to 10^9: in milliseconds, the last bucket begins at 11 days.
const DECADES: usize = 9;

/// Decade and slot of a value; `None` for zero.
fn bucket(value: u64) -> Option<(usize, usize)> {
    let decade = value.checked_ilog10()? as usize;
    if decade >= DECADES {
        return Some((DECADES - 1, SLOTS - 1));
    }
    let digits = if decade == 0 { value * 10 } else { value / 10u64.pow(decade as u32 - 1) };
    Some((decade, (digits as usize).saturating_sub(10)))
}

/// Lower and upper limit of a bucket.
fn limits(bucket: u16) -> (f64, f64) {
    let Some(bucket) = usize::from(bucket).checked_sub(1) else {
        return (0.0, 0.0);
    };
    // Decimal digits divided last, so that limits print as 1.1 and not 1.1000000000000001.
    let scale = |digits: usize| match bucket / SLOTS {
        0 => digits as f64 / 10.0,
        decade => digits as f64 * 10f64.powi(decade as i32 - 1),
    };
    (scale(10 + bucket % SLOTS), scale(11 + bucket % SLOTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: &[u64]) -> Distribution {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        let mut result = Distribution::default();
        histogram.merge_into(&mut result);
        result
    }

    #[test]
    fn record_of_any_value_lands_in_a_bucket_that_contains_it() {
        for value in (0..20_000).chain([999_999, 1_000_000, 123_456_789]) {
            let merged = distribution(&[value]);
            let (low, high) = limits(merged.buckets[0].0);
            assert!(low <= value as f64 && (value as f64) < high || value == 0, "{value} in {low}..{high}");
            assert!(high - low <= 0.1001 * low || value == 0);
        }
        assert_eq!(distribution(&[u64::MAX]).count(), 1);
    }

    #[test]
    fn quantiles_are_those_of_envoy() {
        // Printed by Envoy 1.40 for the same values.
        let quantiles = distribution(&[0, 1, 1, 3, 6, 14, 26, 50, 100, 250, 500, 500]).quantiles().unwrap();
        let expected =
            [0.0, 1.0666666666666667, 14.5, 105.0, 503.3333333333333, 506.6666666666667, 506.6666666666667];
        for (quantile, expected) in quantiles.into_iter().zip(expected) {
            assert!((quantile - expected).abs() < 1e-9, "{quantile} {expected}");
        }
        assert_eq!(distribution(&[]).quantiles(), None);
        assert_eq!(distribution(&[0, 0]).quantiles(), Some([0.0; 10]));
    }

    #[test]
    fn cumulative_counts_are_those_of_envoy() {
        let values = distribution(&[0, 1, 1, 3, 6, 14, 26, 50, 100, 250, 500, 500]);
        let cumulative = BOUNDS.map(|bound| values.count_to(bound));
        assert_eq!(cumulative, [1, 3, 4, 5, 6, 8, 9, 10, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12]);
        assert_eq!(BOUNDS.map(|bound| distribution(&[u64::MAX]).count_to(bound)), [0; 19]);
        assert_eq!([2.5, 13.7].map(|bound| values.count_to(bound)), [3, 5]);
    }

    #[test]
    fn since_gives_only_what_was_recorded_later() {
        let earlier = distribution(&[1, 2, 300]);
        let later = distribution(&[1, 2, 300, 300, 7]);
        assert_eq!(later.since(&earlier), distribution(&[300, 7]));
        assert!(later.since(&later).is_empty());
        assert_eq!(later.sum(), 610);
    }
}
