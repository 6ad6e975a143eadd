//! Who takes a connection: how many connections of one listener each worker has, and which of them gets the next.
//!
//! One word per worker, on a cache line of its own, written when a connection begins and when it ends, never per
//! request. Whoever accepts counts the connection at the worker that is to serve it in the same step in which it looked
//! there (compare-and-swap), so that a burst on old numbers cannot all go to one worker, and a worker that takes no
//! more gets no more. It is the only word that workers write to each other.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::limits::{HANDOVERS_MAX, WORKERS_LOOKED_AT_MAX};

/// How evenly connections spread. Source: Envoy `Listener.connection_balance_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The worker the kernel chose keeps a connection unless it is clearly ahead of another. The default.
    #[default]
    Near,
    /// Each connection goes to a worker with the fewest. Source: `exact_balance`.
    Exact,
}

/// The connections of one listener, by worker.
#[derive(Debug)]
pub struct Balance {
    policy: Policy,
    words: Box<[Word]>,
}

/// Two lines: the processor fetches them in pairs. Bits 0 to 31 count connections, those on their way included; bits 32
/// to 62 those on their way; bit 63 is set while the worker takes none from others.
#[derive(Debug)]
#[repr(align(128))]
struct Word {
    word: AtomicU64,
    /// The first of the workers it looks at next, where there are too many to look at all.
    next: AtomicUsize,
}

const _: () = assert!(size_of::<Word>() == 128 && align_of::<Word>() == 128, "a pair of lines of its own");

const ONE: u64 = 1;
const ON_THE_WAY: u64 = 1 << 32;
const CLOSED: u64 = 1 << 63;

fn connections(word: u64) -> u64 {
    word & (ON_THE_WAY - 1)
}

fn on_the_way(word: u64) -> u64 {
    (word & !CLOSED) / ON_THE_WAY
}

impl Balance {
    /// Among so many workers, none of which takes a connection from another yet.
    pub fn new(policy: Policy, workers: usize) -> Self {
        let word = |worker| Word { word: AtomicU64::new(CLOSED), next: AtomicUsize::new(worker) };
        Self { policy, words: (0..workers).map(word).collect() }
    }

    /// Whether no worker may have more connections than another can help.
    pub fn is_exact(&self) -> bool {
        self.policy == Policy::Exact
    }

    /// From now on a worker takes connections that others have accepted.
    pub fn open(&self, worker: usize) {
        self.words[worker].word.fetch_and(!CLOSED, Relaxed);
    }

    /// A worker takes no more from others. Those on their way still arrive.
    pub fn close(&self, worker: usize) {
        self.words[worker].word.fetch_or(CLOSED, Relaxed);
    }

    /// Whether a worker has no connection, and none is on its way to it.
    pub fn is_empty(&self, worker: usize) -> bool {
        connections(self.words[worker].load()) == 0
    }

    /// Which worker serves the connection that worker `own` has accepted. It is counted there; with another one it is on
    /// its way until [`Balance::arrive`].
    pub fn place(&self, own: usize) -> usize {
        loop {
            let mine = self.words[own].load();
            let (worker, found, step) = match self.lighter(own, connections(mine)) {
                Some((worker, found)) => (worker, found, ONE + ON_THE_WAY),
                None => (own, mine, ONE),
            };
            // A failure means that somebody else has got on.
            if self.words[worker].word.compare_exchange_weak(found, found + step, Relaxed, Relaxed).is_ok() {
                return worker;
            }
        }
    }

    /// Counts a connection at the worker that accepted it.
    pub fn keep(&self, own: usize) {
        self.words[own].word.fetch_add(ONE, Relaxed);
    }

    /// A connection that was on its way has arrived.
    pub fn arrive(&self, worker: usize) {
        self.words[worker].word.fetch_sub(ON_THE_WAY, Relaxed);
    }

    /// A connection has ended.
    pub fn leave(&self, worker: usize) {
        self.words[worker].word.fetch_sub(ONE, Relaxed);
    }

    /// The worker that should get a connection in place of `own`, which has `mine`; and its word.
    fn lighter(&self, own: usize, mine: u64) -> Option<(usize, u64)> {
        let count = self.words.len();
        let (ahead_min, ahead_of, looked_at) = match self.policy {
            // Not even looking at the others: with so few there is nothing to be ahead of.
            Policy::Near if mine < AHEAD_MIN => return None,
            Policy::Near => (AHEAD_MIN, AHEAD_OF, count.min(WORKERS_LOOKED_AT_MAX + 1)),
            Policy::Exact => (1, u64::MAX, count),
        };
        let first = if looked_at < count { self.words[own].next_others(looked_at) } else { own };
        let others =
            (0..looked_at).map(|step| (first % count + step) % count).filter(|&worker| worker != own);
        others
            .map(|worker| (worker, self.words[worker].load()))
            .filter(|&(_, word)| word & CLOSED == 0 && on_the_way(word) < HANDOVERS_MAX)
            .min_by_key(|&(_, word)| connections(word))
            .filter(|&(_, word)| {
                let theirs = connections(word);
                mine >= theirs + ahead_min + theirs / ahead_of
            })
    }
}

impl Word {
    fn load(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// Where to begin to look at so many others: different ones each time. Only its owner calls it.
    fn next_others(&self, looked_at: usize) -> usize {
        let first = self.next.load(Relaxed);
        self.next.store(first.wrapping_add(looked_at), Relaxed);
        first
    }
}

/// Connections by which a worker is ahead before it hands one over, unless the balance is exact.
const AHEAD_MIN: u64 = 2;
/// And one more for so many of the other's: one in eight is far less than what requests differ by.
const AHEAD_OF: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn opened(policy: Policy, workers: usize) -> Balance {
        let balance = Balance::new(policy, workers);
        (0..workers).for_each(|worker| balance.open(worker));
        balance
    }

    fn counts(balance: &Balance) -> Vec<u64> {
        balance.words.iter().map(|word| connections(word.load())).collect()
    }

    fn place(balance: &Balance, own: usize) -> usize {
        let worker = balance.place(own);
        if worker != own {
            balance.arrive(worker);
        }
        worker
    }

    #[test]
    fn words_of_two_workers_share_no_cache_line() {
        let balance = Balance::new(Policy::Near, 3);
        for pair in balance.words.windows(2) {
            assert!(std::ptr::from_ref(&pair[1]).addr() - std::ptr::from_ref(&pair[0]).addr() >= 128);
            assert_eq!(std::ptr::from_ref(&pair[0]).addr() % 128, 0);
        }
    }

    #[test]
    fn exact_balance_differs_by_one_at_most_wherever_connections_arrive() {
        let mut rng = Rng::from_seed(1);
        for workers in 1..9 {
            let balance = opened(Policy::Exact, workers);
            for _ in 0..100 {
                place(&balance, rng.below(workers as u64) as usize / 2);
                let counts = counts(&balance);
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn exact_balance_holds_while_all_workers_accept_at_once() {
        let balance = opened(Policy::Exact, 4);
        std::thread::scope(|scope| {
            for own in 0..4 {
                let balance = &balance;
                scope.spawn(move || (0..10_000 + own * 100).for_each(|_| _ = place(balance, own)));
            }
        });
        let counts = counts(&balance);
        assert_eq!(counts.iter().sum::<u64>(), 40_600);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }

    #[test]
    fn near_balance_stays_within_its_bound_when_one_worker_accepts_all() {
        for workers in [2, 4, 8] {
            let balance = opened(Policy::Near, workers);
            for placed in 1..64 * workers as u64 {
                place(&balance, 0);
                let counts = counts(&balance);
                assert_eq!(counts.iter().sum::<u64>(), placed);
                let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
                assert!(*most <= AHEAD_MIN + least + least / AHEAD_OF + 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn near_balance_leaves_a_connection_where_it_was_accepted_while_it_may() {
        let balance = opened(Policy::Near, 2);
        assert_eq!([0, 0, 0].map(|own| balance.place(own)), [0, 0, 1], "two may stay, the third is too many");
        assert_eq!([0, 0].map(|own| balance.place(own)), [0, 1]);
        balance.leave(0);
        assert_eq!(balance.place(0), 0);
    }

    #[test]
    fn worker_among_many_is_found_though_not_all_are_looked_at() {
        let workers = 64;
        let balance = opened(Policy::Near, workers);
        (0..workers as u64 * 16).for_each(|_| _ = place(&balance, 5));
        let counts = counts(&balance);
        assert!(counts.iter().all(|&count| (10..=24).contains(&count)), "{counts:?}");
    }

    #[test]
    fn worker_that_takes_none_gets_none_and_is_empty_once_all_have_ended() {
        let balance = opened(Policy::Exact, 2);
        balance.keep(0);
        assert_eq!(balance.place(0), 1);
        balance.close(1);
        assert_eq!([0, 0, 0].map(|own| balance.place(own)), [0; 3]);
        assert!(!balance.is_empty(1), "one is on its way");
        balance.arrive(1);
        balance.leave(1);
        assert!(balance.is_empty(1));
        balance.keep(1);
        assert!(!balance.is_empty(1), "its own it may still count");
    }

    #[test]
    fn worker_with_too_many_on_their_way_gets_no_more() {
        let balance = opened(Policy::Exact, 2);
        (0..HANDOVERS_MAX * 2).for_each(|_| balance.keep(0));
        assert!((0..HANDOVERS_MAX).all(|_| balance.place(0) == 1));
        assert_eq!(balance.place(0), 0);
        balance.arrive(1);
        assert_eq!(balance.place(0), 1);
    }
}
