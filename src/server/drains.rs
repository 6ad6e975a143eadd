//! Listeners and filter chains that drain since a control plane has told others, for whoever asks how many. Nobody tells when they
//! are over: workers end what is left of them once the drain time has passed.

use std::time::Duration;

/// What is over within so much time is forgotten together: many changes take no more room than there are seconds in a drain.
const TOGETHER: Duration = Duration::from_secs(1);

/// What drains, in the order of its end.
#[derive(Debug, Default)]
pub(super) struct Drains(Vec<Drain>);

#[derive(Debug)]
struct Drain {
    /// The process's age at its end.
    until: Duration,
    listeners: u64,
    chains: u64,
}

impl Drains {
    /// At that age of the process so many listeners, and chains of others, begin to drain, which takes so long.
    pub(super) fn begin(&mut self, [listeners, chains]: [u64; 2], age: Duration, takes: Duration) {
        if (listeners, chains) == (0, 0) {
            return;
        }
        self.0.retain(|drain| drain.until > age);
        let until = age.saturating_add(takes);
        match self.0.last_mut() {
            Some(last) if until.saturating_sub(TOGETHER) < last.until => {
                last.listeners += listeners;
                last.chains += chains;
            }
            _ => self.0.push(Drain { until, listeners, chains }),
        }
    }

    /// How many listeners, and chains of others, drain at that age.
    pub(super) fn at(&self, age: Duration) -> [u64; 2] {
        let mut all = [0; 2];
        for drain in self.0.iter().filter(|drain| drain.until > age) {
            all[0] += drain.listeners;
            all[1] += drain.chains;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: Duration = Duration::from_secs(10);

    #[test]
    fn what_drains_is_counted_until_its_time_has_passed() {
        let at = Duration::from_secs;
        let mut drains = Drains::default();
        drains.begin([1, 0], at(100), TAKES);
        drains.begin([0, 2], at(105), TAKES);
        drains.begin([0, 0], at(107), TAKES);
        for (age, draining) in [(105, [1, 2]), (109, [1, 2]), (110, [0, 2]), (114, [0, 2]), (115, [0, 0])] {
            assert_eq!(drains.at(at(age)), draining, "{age}");
        }
    }

    #[test]
    fn many_changes_take_room_for_as_long_as_they_drain() {
        let mut drains = Drains::default();
        for ms in 0..100_000 {
            drains.begin([1, 1], Duration::from_millis(ms), TAKES);
            assert!(drains.0.len() <= 11, "{ms}");
        }
        let [listeners, chains] = drains.at(Duration::from_secs(100));
        assert!((9_000..=10_000).contains(&listeners) && chains == listeners, "{listeners}");
    }
}
