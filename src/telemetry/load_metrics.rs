//! What an endpoint reports of its load, added up by name: one writer's part.
//!
//! A worker adds and the control thread takes, without a lock and without a read-modify-write: each word has one writer. Unlike a
//! counter a sum of floating-point numbers cannot go on for ever, since large sums swallow small values, and what is not finite
//! never goes away: it begins anew with the first value that comes once all before are told. Who reads looks at a metric as it
//! was between two changes, and says how many of its values it has told; where the writer has come first, both go on with the
//! same sum, and the difference is told. So every value is told once.
//!
//! Names are what endpoints say, so their number is bounded. Beyond the bound a name that is told of takes another's place of which
//! all is told.

use std::fmt;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use once_cell::race::OnceBox;

use crate::base::{heaps, limits};

/// The metrics of one endpoint and one writer, none before it has some.
#[derive(Default)]
pub struct LoadMetrics {
    first: OnceBox<Metric>,
}

/// What was added under a name and is not told of yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadSum {
    /// Reports that had a value.
    pub count: u64,
    pub total: f64,
}

/// One metric: a name, and what was added under it.
struct Metric {
    /// Odd while the writer changes it.
    turn: AtomicU64,
    /// How many values were added, under whatever name.
    count: AtomicU64,
    /// Of them those that were there when the sum began.
    begun: AtomicU64,
    /// Sum of those that came after, as bits.
    total: AtomicU64,
    /// By the reader alone: how many values it has told, and what the sum was then.
    told: AtomicU64,
    told_total: AtomicU64,
    /// The name's bytes, and room for others in its place.
    name_bytes: AtomicU64,
    name: Box<[AtomicU64]>,
    next: OnceBox<Self>,
}

/// Words of the longest name.
const NAME_WORDS: usize = limits::LOAD_METRIC_NAME_BYTES_MAX / size_of::<u64>();
/// Words that every metric has room for, so that nearly any name may take another's place.
const NAME_WORDS_MIN: usize = 8;
/// How often a metric that is just being changed is looked at before it is left for the next report. Reason: its writer may have
/// lost its processor in between.
const LOOKS_MAX: usize = 1000;

/// A name as it is kept.
struct Name {
    words: [u64; NAME_WORDS],
    bytes: usize,
}

/// A metric as it was between two changes.
struct Seen {
    name: Name,
    count: u64,
    begun: u64,
    total: f64,
}

// === impl LoadMetrics ===

impl LoadMetrics {
    /// Adds a value to the metric whose name these two parts are. For the writer's thread alone. False: there is no room for it.
    pub fn add(&self, prefix: &str, name: &[u8], value: f64) -> bool {
        let Some(name) = Name::of(prefix.as_bytes(), name) else { return false };
        let (mut place, mut metrics, mut spare) = (&self.first, 0, None);
        while let Some(metric) = place.get() {
            if metric.is_called(&name) {
                metric.add(value);
                return true;
            }
            if spare.is_none() && metric.is_told() && metric.name.len() >= name.words().len() {
                spare = Some(metric);
            }
            metrics += 1;
            place = &metric.next;
        }
        if metrics < limits::LOAD_METRICS_PER_HOST_MAX {
            let metric = place.get_or_init(|| heaps::lasting(|| Box::new(Metric::called(&name))));
            metric.add(value);
            return true;
        }
        spare.is_some_and(|metric| {
            metric.rename(&name);
            metric.add(value);
            true
        })
    }

    /// Takes what has come since the last time, and gives it to `each` by name. For one reader alone.
    pub fn take(&self, mut each: impl FnMut(&[u8], LoadSum)) {
        let mut place = &self.first;
        while let Some(metric) = place.get() {
            if let Some((name, sum)) = metric.take() {
                each(&name.to_bytes(), sum);
            }
            place = &metric.next;
        }
    }
}

// === impl Metric ===

impl Metric {
    fn called(name: &Name) -> Self {
        let words = name.words().len().next_multiple_of(NAME_WORDS_MIN).max(NAME_WORDS_MIN);
        Self {
            turn: AtomicU64::new(0),
            count: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            total: AtomicU64::new(0),
            told: AtomicU64::new(0),
            told_total: AtomicU64::new(0),
            name_bytes: AtomicU64::new(name.bytes as u64),
            name: (0..words).map(|word| AtomicU64::new(name.words[word])).collect(),
            next: OnceBox::new(),
        }
    }

    fn is_called(&self, name: &Name) -> bool {
        self.name_bytes.load(Relaxed) == name.bytes as u64
            && name.words().iter().zip(&self.name).all(|(word, own)| own.load(Relaxed) == *word)
    }

    /// Whether all that was added is told of.
    fn is_told(&self) -> bool {
        self.told.load(Acquire) == self.count.load(Relaxed)
    }

    fn add(&self, value: f64) {
        let count = self.count.load(Relaxed);
        let before = if self.is_told() { None } else { Some(f64::from_bits(self.total.load(Relaxed))) };
        self.change(|| {
            if before.is_none() {
                self.begun.store(count, Relaxed);
            }
            self.total.store((before.unwrap_or_default() + value).to_bits(), Relaxed);
            self.count.store(count.wrapping_add(1), Relaxed);
        });
    }

    /// Another name takes the place of one of which all is told.
    fn rename(&self, name: &Name) {
        self.change(|| {
            self.name_bytes.store(name.bytes as u64, Relaxed);
            name.words().iter().zip(&self.name).for_each(|(word, own)| own.store(*word, Relaxed));
        });
    }

    fn change(&self, edit: impl FnOnce()) {
        let turn = self.turn.load(Relaxed);
        self.turn.store(turn.wrapping_add(1), Relaxed);
        fence(Release);
        edit();
        self.turn.store(turn.wrapping_add(2), Release);
    }

    fn take(&self) -> Option<(Name, LoadSum)> {
        let told = self.told.load(Relaxed);
        let seen = self.look().filter(|seen| seen.count != told)?;
        // A sum that began before what was told last has that in it.
        let before = if seen.begun == told { 0.0 } else { f64::from_bits(self.told_total.load(Relaxed)) };
        self.told_total.store(seen.total.to_bits(), Relaxed);
        self.told.store(seen.count, Release);
        Some((seen.name, LoadSum { count: seen.count.wrapping_sub(told), total: seen.total - before }))
    }

    /// The metric between two changes; `None`: there was no such moment.
    fn look(&self) -> Option<Seen> {
        for _ in 0..LOOKS_MAX {
            let turn = self.turn.load(Acquire);
            if turn.is_multiple_of(2) {
                let mut name = Name { words: [0; NAME_WORDS], bytes: 0 };
                name.words.iter_mut().zip(&self.name).for_each(|(word, own)| *word = own.load(Relaxed));
                name.bytes = usize::try_from(self.name_bytes.load(Relaxed)).unwrap_or_default();
                let [count, begun, total] =
                    [&self.count, &self.begun, &self.total].map(|word| word.load(Relaxed));
                fence(Acquire);
                if self.turn.load(Relaxed) == turn {
                    return Some(Seen { name, count, begun, total: f64::from_bits(total) });
                }
            }
            std::hint::spin_loop();
        }
        None
    }
}

// === impl Name ===

impl Name {
    /// The name of these two parts, unless it is too long.
    fn of(prefix: &[u8], name: &[u8]) -> Option<Self> {
        let mut text = [0; limits::LOAD_METRIC_NAME_BYTES_MAX];
        let bytes = prefix.len() + name.len();
        text.get_mut(..prefix.len())?.copy_from_slice(prefix);
        text.get_mut(prefix.len()..bytes)?.copy_from_slice(name);
        let mut words = [0; NAME_WORDS];
        let (chunks, _) = text.as_chunks();
        words.iter_mut().zip(chunks).for_each(|(word, chunk)| *word = u64::from_ne_bytes(*chunk));
        Some(Self { words, bytes })
    }

    /// The words that it takes.
    fn words(&self) -> &[u64] {
        self.words.get(..self.bytes.div_ceil(size_of::<u64>())).unwrap_or_default()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(self.bytes);
        bytes
    }
}

impl fmt::Debug for LoadMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoadMetrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    fn taken(metrics: &LoadMetrics) -> BTreeMap<String, (u64, f64)> {
        let mut taken = BTreeMap::new();
        metrics.take(|name, sum| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            assert_eq!(taken.insert(name, (sum.count, sum.total)), None);
        });
        taken
    }

    fn map<const N: usize>(entries: [(&str, (u64, f64)); N]) -> BTreeMap<String, (u64, f64)> {
        entries.map(|(name, sum)| (name.to_owned(), sum)).into()
    }

    #[test]
    fn values_are_added_by_name_and_taken_once() {
        let metrics = LoadMetrics::default();
        assert_eq!(taken(&metrics), map([]));
        assert!(metrics.add("named_metrics.", b"a", 1.5) && metrics.add("named_metrics.", b"b", 0.0));
        assert!(metrics.add("named_", b"metrics.a", -0.5) && metrics.add("eps", b"", 3.0));
        assert_eq!(
            taken(&metrics),
            map([("named_metrics.a", (2, 1.0)), ("named_metrics.b", (1, 0.0)), ("eps", (1, 3.0))])
        );
        assert_eq!(taken(&metrics), map([]));
        metrics.add("eps", b"", 4.0);
        assert_eq!(taken(&metrics), map([("eps", (1, 4.0))]));
    }

    #[test]
    fn sum_begins_anew_so_that_nothing_of_a_period_is_in_the_next() {
        let metrics = LoadMetrics::default();
        for value in [1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX] {
            metrics.add("a", b"", value);
            metrics.take(|_, sum| assert_eq!((sum.count, sum.total.to_bits()), (1, value.to_bits())));
            metrics.add("a", b"", 0.1);
            metrics.add("a", b"", 0.2);
            assert_eq!(taken(&metrics), map([("a", (2, 0.1 + 0.2))]));
        }
    }

    #[test]
    fn value_that_comes_while_its_metric_is_told_is_told_next() {
        let metrics = LoadMetrics::default();
        metrics.add("a", b"", 1.0);
        let metric = metrics.first.get().unwrap();
        // The reader has looked, the writer adds, and only then hears what was told.
        let seen = metric.look().unwrap();
        metrics.add("a", b"", 2.0);
        metric.told_total.store(seen.total.to_bits(), Relaxed);
        metric.told.store(seen.count, Relaxed);
        metrics.add("a", b"", 4.0);
        assert_eq!(taken(&metrics), map([("a", (2, 6.0))]));
        metrics.add("a", b"", 8.0);
        assert_eq!(taken(&metrics), map([("a", (1, 8.0))]));
    }

    #[test]
    fn metric_that_is_being_changed_is_left_for_the_next_time() {
        let metrics = LoadMetrics::default();
        metrics.add("a", b"", 1.0);
        let turn = &metrics.first.get().unwrap().turn;
        turn.store(turn.load(Relaxed) + 1, Relaxed);
        assert_eq!(taken(&metrics), map([]));
        turn.store(turn.load(Relaxed) + 1, Relaxed);
        assert_eq!(taken(&metrics), map([("a", (1, 1.0))]));
    }

    #[test]
    fn names_are_bounded_in_number_and_length_and_make_way_once_they_are_told() {
        let metrics = LoadMetrics::default();
        let max = limits::LOAD_METRICS_PER_HOST_MAX;
        for number in 0..max {
            assert!(metrics.add("n", number.to_string().as_bytes(), 1.0));
        }
        assert!(!metrics.add("more", b"", 1.0), "nobody has told any");
        assert!(metrics.add("n", b"0", 1.0));
        assert_eq!(taken(&metrics).len(), max);
        for number in 0..max {
            assert!(metrics.add("m", number.to_string().as_bytes(), 2.0), "{number}");
        }
        assert!(!metrics.add("more", b"", 1.0));
        let all = taken(&metrics);
        assert!(all.len() == max && all.iter().all(|(name, sum)| name.starts_with('m') && *sum == (1, 2.0)));
        let longest = vec![b'x'; limits::LOAD_METRIC_NAME_BYTES_MAX];
        let metrics = LoadMetrics::default();
        assert!(!metrics.add("x", &longest, 1.0) && metrics.add("", &longest, 1.0));
        assert_eq!(taken(&metrics).into_keys().next().map(String::into_bytes), Some(longest));
    }

    #[test]
    fn every_value_is_told_once_whoever_is_faster() {
        const VALUES: u64 = 20_000;
        let (metrics, done) = (LoadMetrics::default(), AtomicBool::new(false));
        let mut told = BTreeMap::<Vec<u8>, LoadSum>::new();
        let mut take = || {
            metrics.take(|name, sum| {
                let all = told.entry(name.to_vec()).or_default();
                all.count += sum.count;
                all.total += sum.total;
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 0..VALUES {
                    let name: &[u8] = if value % 3 == 0 { b"a" } else { b"b" };
                    assert!(metrics.add("", name, value as f64));
                }
                done.store(true, Release);
            });
            while !done.load(Acquire) {
                take();
            }
        });
        take();
        let (count, total) =
            told.values().fold((0, 0.0), |(count, total), sum| (count + sum.count, total + sum.total));
        // Whole numbers below 2^53: any order of adding and taking away is exact.
        assert_eq!((count, total, told.len()), (VALUES, (VALUES * (VALUES - 1) / 2) as f64, 2));
    }
}
