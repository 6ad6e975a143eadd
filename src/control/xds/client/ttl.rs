//! Times to live (xDS TTL). What a control plane tells with one goes by itself, as if it were removed, unless it is told again in time
//! or its time begins anew by a heartbeat: a resource without a body, of the version that is there. It is for what must not outlive
//! its control plane, as faults that are injected for a test: the time goes on while there is no stream, and what has one is not
//! kept for the next process. Source: Envoy "xDS protocol", "TTL"; `Config::TtlManager`.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::gate::now;
use super::judge::{Judge, Outcome};
use crate::control::xds::convert::duration_of;
use crate::control::xds::pb;

/// A time to live as it was told; `None`: none was.
///
/// # Errors
/// What is wrong with it.
pub(super) fn told(ttl: Option<&pb::google::Duration>) -> Result<Option<Duration>, String> {
    ttl.map(duration_of).transpose().map_err(|reason| format!("ttl: {reason}"))
}

/// What it means for those who use a type's resources that the time of these is over; `None`: of none is it.
pub(super) fn gone(expired: Vec<String>, judge: &mut Judge) -> Option<Outcome> {
    if expired.is_empty() {
        return None;
    }
    let mut outcome = Outcome::default();
    for name in expired {
        outcome.remove(name, judge.kind());
    }
    for name in &outcome.absent {
        judge.lose(name);
    }
    judge.settle(&mut outcome);
    Some(outcome)
}

/// When resources of a type go by themselves: one entry for each that is there and was told when.
#[derive(Debug, Default)]
pub(super) struct Ttls {
    by_name: BTreeMap<String, Instant>,
    /// The same, soonest first.
    by_time: BTreeSet<(Instant, String)>,
    /// Whether there has ever been one.
    is_used: bool,
}

impl Ttls {
    /// A resource lives so long from now on; `None`: as long as it is not taken away.
    pub(super) fn put(&mut self, name: &str, ttl: Option<Duration>) {
        self.remove(name);
        let Some(until) = ttl.and_then(|ttl| now().checked_add(ttl)) else { return };
        self.by_name.insert(name.to_owned(), until);
        self.by_time.insert((until, name.to_owned()));
        self.is_used = true;
    }

    /// A resource is gone, or nobody asks for it any more.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some((name, until)) = self.by_name.remove_entry(name) {
            self.by_time.remove(&(until, name));
        }
    }

    /// A response was taken, whose resources were told with these. What was refused lives as long as it would have.
    pub(super) fn note(&mut self, outcome: &Outcome, told: &BTreeMap<String, Duration>) {
        // Of most control planes there are none, and tens of thousands of resources.
        if told.is_empty() && self.by_name.is_empty() {
            return;
        }
        outcome.absent.iter().for_each(|name| self.remove(name));
        for name in outcome.good.keys() {
            self.put(name, told.get(name).copied());
        }
    }

    /// Whether that resource goes by itself.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Those that do.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// Whether none was ever told: all that a version of the type stands for is there for good.
    pub(super) fn are_unused(&self) -> bool {
        !self.is_used
    }

    /// When the next one goes; `None`: none will.
    pub(super) fn due(&self) -> Option<Instant> {
        self.by_time.first().map(|(until, _)| *until)
    }

    /// Takes out those whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<String> {
        let mut expired = Vec::new();
        while self.by_time.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, name)) = self.by_time.pop_first() else { break };
            self.by_name.remove(&name);
            expired.push(name);
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::judge::Good;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(ttls: &Ttls) -> Vec<&str> {
        ttls.names().map(String::as_str).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_goes_in_its_time_and_the_next_one_is_known() {
        let mut ttls = Ttls::default();
        assert_eq!((ttls.due(), ttls.are_unused()), (None, true));
        let begun = now();
        for (name, seconds) in [("c", 3), ("a", 2), ("b", 2), ("stays", 9)] {
            ttls.put(name, Some(SECOND * seconds));
        }
        assert_eq!(ttls.due(), Some(begun + SECOND * 2));
        assert!(ttls.expired(begun + SECOND).is_empty() && ttls.has("a"));
        assert_eq!(ttls.expired(begun + SECOND * 2), ["a", "b"], "not a moment later");
        assert_eq!((ttls.due(), ttls.has("a")), (Some(begun + SECOND * 3), false));
        assert_eq!(ttls.expired(begun + SECOND * 8), ["c"]);
        ttls.remove("stays");
        assert_eq!((ttls.due(), names(&ttls).len(), ttls.are_unused()), (None, 0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn time_begins_anew_changes_and_ends() {
        let mut ttls = Ttls::default();
        let begun = now();
        ttls.put("a", Some(SECOND * 2));
        advance(SECOND).await;
        let middle = now();
        ttls.put("a", Some(SECOND * 2));
        assert!(ttls.expired(begun + SECOND * 2).is_empty(), "of the first nothing is left");
        assert_eq!(ttls.due(), Some(middle + SECOND * 2));
        ttls.put("a", Some(Duration::ZERO));
        assert_eq!(ttls.due(), Some(middle), "at once");
        ttls.put("a", None);
        assert_eq!((ttls.due(), names(&ttls).len()), (None, 0));
        // As long as protobuf can say.
        ttls.put("a", Some(Duration::from_secs(315_576_000_000)));
        assert!(ttls.expired(begun + SECOND * 9).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn response_sets_those_that_it_tells_and_leaves_those_that_it_refuses() {
        let mut ttls = Ttls::default();
        for name in ["again", "bare", "gone", "other", "refused"] {
            ttls.put(name, Some(SECOND));
        }
        let begun = now();
        let good = ["again", "bare", "new"].map(|name| (name.to_owned(), Good::Same));
        let bad = [("refused".to_owned(), "wrong".to_owned())];
        let absent = ["gone".to_owned()];
        let outcome =
            Outcome { good: good.into(), bad: bad.into(), absent: absent.into(), ..Outcome::default() };
        let told = ["again", "new", "refused"].map(|name| (name.to_owned(), SECOND * 5));
        ttls.note(&outcome, &told.into());
        assert_eq!(names(&ttls), ["again", "new", "other", "refused"]);
        assert_eq!(ttls.expired(begun + SECOND), ["other", "refused"]);
        assert_eq!(ttls.expired(begun + SECOND * 5), ["again", "new"]);
    }

    #[test]
    fn time_that_is_none_is_refused() {
        let of = |seconds, nanos| told(Some(&pb::google::Duration { seconds, nanos }));
        assert_eq!(told(None), Ok(None));
        assert_eq!(of(1, 500_000_000), Ok(Some(Duration::from_millis(1_500))));
        assert_eq!(of(0, 0), Ok(Some(Duration::ZERO)));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(of(seconds, nanos).unwrap_err().starts_with("ttl: duration out of range"));
        }
    }
}
