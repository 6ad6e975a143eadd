//! Virtual hosts that are asked for by their names, beside all that a source tells: requests ask for them. A name that nothing
//! answers, and one whose virtual host is gone, is asked for no longer; one whose virtual host is there is, whatever else is said of
//! it: who asks for it no longer might not hear of its changes. One of which nobody has said anything in time is taken back when a
//! request asks for it again, and then asked for again: a stream says only what is new.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::super::wanted::Wanted;
use crate::base::limits::{ON_DEMAND_ASKED_MAX, ON_DEMAND_UNDER_WAY_MAX};

/// Those of one source, by their tables.
#[derive(Debug, Default)]
pub(super) struct AskedHosts {
    tables: BTreeMap<Box<str>, OfTable>,
}

#[derive(Debug, Default)]
struct OfTable {
    /// Those without an answer, and until when one is waited for.
    under_way: BTreeMap<Box<str>, Instant>,
    /// The same of those that were asked for before, until the stream has taken them back.
    again: BTreeMap<Box<str>, Instant>,
    /// Those that were answered by a virtual host, with what it is called behind the table's name, where that is something else.
    there: BTreeMap<Box<str>, Option<Box<str>>>,
    /// Those that are asked for no longer, until the stream has said so: whoever asks again before it does is not told again.
    given_up: BTreeSet<Box<str>>,
}

/// What comes of a request that asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// It is asked for from now on.
    New,
    /// It was asked for by others a moment ago.
    UnderWay,
    /// Nothing will be told: it was, or too many have been asked for.
    No,
}

impl AskedHosts {
    /// A request asks for a host of a table; an answer is waited for `until` then.
    pub(super) fn ask(&mut self, table: &str, host: &str, now: Instant, until: Instant) -> Ask {
        let of_table = self.tables.entry(table.into()).or_default();
        let OfTable { under_way, again, there, given_up } = of_table;
        match under_way.get(host).or_else(|| again.get(host)) {
            _ if there.contains_key(host) || given_up.contains(host) => return Ask::No,
            Some(until) if *until > now => return Ask::UnderWay,
            _ => {}
        }
        let was_asked_for = under_way.remove(host).or_else(|| again.remove(host)).is_some();
        if under_way.len() >= ON_DEMAND_UNDER_WAY_MAX {
            under_way.retain(|_, until| *until > now);
        }
        let waited_for = under_way.len() + again.len();
        if waited_for + there.len() >= ON_DEMAND_ASKED_MAX || waited_for >= ON_DEMAND_UNDER_WAY_MAX {
            return Ask::No;
        }
        let asked = if was_asked_for { again } else { under_way };
        asked.insert(host.into(), until);
        Ask::New
    }

    /// A name that was asked for is answered, by a resource of this name; `None`: by nothing that can be used. Whether it is asked
    /// for no longer.
    pub(super) fn answer(&mut self, name: &str, by: Option<&str>) -> bool {
        let Some((table, host)) = name.rsplit_once('/') else { return false };
        let Some(of_table) = self.tables.get_mut(table) else { return false };
        let OfTable { under_way, again, there, given_up } = of_table;
        let was_awaited = under_way.remove(host).or_else(|| again.remove(host)).is_some();
        // A virtual host of another table is none of this one.
        let by = by.and_then(|by| by.rsplit_once('/')).filter(|(of, _)| *of == table);
        if let Some((_, called)) = by {
            if was_awaited || there.contains_key(host) {
                there.insert(host.into(), (called != host).then(|| called.into()));
            }
            return false;
        }
        if was_awaited {
            given_up.insert(host.into());
        }
        was_awaited
    }

    /// Resources of these names are gone; whether something that was there by one of them is asked for no longer.
    pub(super) fn lose(&mut self, gone: &BTreeSet<String>) -> bool {
        let mut of_tables = BTreeMap::<&str, BTreeSet<&str>>::new();
        for (table, called) in gone.iter().filter_map(|name| name.rsplit_once('/')) {
            of_tables.entry(table).or_default().insert(called);
        }
        let mut has_lost = false;
        for (table, gone) in of_tables {
            let Some(OfTable { there, given_up, .. }) = self.tables.get_mut(table) else { continue };
            there.retain(|host, called| {
                let is_gone =
                    gone.contains(&**host) || called.as_deref().is_some_and(|called| gone.contains(called));
                if is_gone {
                    given_up.insert(host.clone());
                }
                has_lost |= is_gone;
                !is_gone
            });
        }
        has_lost
    }

    /// The stream says what is asked for.
    pub(super) fn said(&mut self) {
        self.tables.values_mut().for_each(|of_table| of_table.given_up.clear());
    }

    /// The stream has said so: what it has taken back is asked for again from now on. Whether that is anything.
    pub(super) fn ask_again(&mut self) -> bool {
        let mut is_anything = false;
        for OfTable { under_way, again, .. } in self.tables.values_mut() {
            is_anything |= !again.is_empty();
            under_way.append(again);
        }
        is_anything
    }

    /// Nobody has that table any more.
    pub(super) fn forget(&mut self, table: &str) {
        self.tables.remove(table);
    }

    /// What is asked for: all that there are, and these.
    pub(super) fn wanted(&self) -> Wanted {
        let names: BTreeSet<_> = self.tables.iter().flat_map(|(table, asked)| asked.names(table)).collect();
        if names.is_empty() { Wanted::All } else { Wanted::AllAnd(names) }
    }
}

impl OfTable {
    fn names<'a>(&'a self, table: &'a str) -> impl Iterator<Item = Arc<str>> + 'a {
        self.under_way.keys().chain(self.there.keys()).map(move |host| format!("{table}/{host}").into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn names(names: &[&str]) -> Wanted {
        Wanted::AllAnd(names.iter().map(|name| (*name).into()).collect())
    }

    fn gone(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn name_is_asked_for_until_nothing_answers_it_or_its_virtual_host_is_gone() {
        let [now, until] = [0, 1].map(|seconds| sleep(Duration::from_secs(seconds)).deadline());
        let mut asked = AskedHosts::default();
        assert_eq!(asked.wanted(), Wanted::All);
        assert_eq!(asked.ask("in/all", "a", now, until), Ask::New);
        assert_eq!(asked.ask("in/all", "a", now, until), Ask::UnderWay);
        assert_eq!(asked.ask("b", "a", now, until), Ask::New);
        assert_eq!(asked.wanted(), names(&["in/all/a", "b/a"]));
        assert!(!asked.answer("in/all/a", Some("in/all/a")), "it stays");
        assert_eq!(asked.ask("in/all", "a", now, until), Ask::No, "it was told");
        assert!(asked.answer("b/a", None) && !asked.answer("b/a", None));
        assert!(!asked.answer("in/all/a", None), "nothing new is no end");
        assert!(!asked.lose(&gone(&["b/a", "all/a", "in/all/b", "a"])));
        assert_eq!(asked.wanted(), names(&["in/all/a"]));
        assert!(asked.lose(&gone(&["in/all/a"])), "it is gone");
        assert!(!asked.answer("in/all/a", Some("in/all/a")), "nobody asks for it");
        assert_eq!(asked.wanted(), Wanted::All);
        assert_eq!(asked.ask("b", "a", now, until), Ask::No, "the control plane has not heard of it yet");
        asked.said();
        assert_eq!(asked.ask("b", "a", now, until), Ask::New);
        asked.forget("b");
        assert_eq!(asked.wanted(), Wanted::All);
    }

    /// The control plane may have had nothing then, and have said nothing.
    #[tokio::test(start_paused = true)]
    async fn name_without_an_answer_is_taken_back_before_it_is_asked_for_again() {
        let [now, until, later] = [0, 1, 2].map(|seconds| sleep(Duration::from_secs(seconds)).deadline());
        let mut asked = AskedHosts::default();
        assert_eq!(asked.ask("t", "a", now, until), Ask::New);
        assert!(!asked.ask_again(), "it is asked for");
        assert_eq!(asked.ask("t", "a", until, later), Ask::New);
        assert_eq!(asked.ask("t", "a", until, later), Ask::UnderWay);
        assert_eq!(asked.wanted(), Wanted::All);
        assert!(asked.ask_again() && !asked.ask_again());
        assert_eq!(asked.wanted(), names(&["t/a"]));
        assert_eq!(asked.ask("t", "a", later, later), Ask::New);
        assert!(!asked.answer("t/a", Some("t/a")), "before the stream has looked");
        assert!(!asked.ask_again());
        assert_eq!(asked.wanted(), names(&["t/a"]));
        assert_eq!(asked.ask("t", "a", later, later), Ask::No, "it was told");
    }

    /// Control planes may answer several names by one virtual host.
    #[tokio::test(start_paused = true)]
    async fn names_go_with_the_virtual_host_that_has_answered_them_last() {
        let [now, until] = [0, 1].map(|seconds| sleep(Duration::from_secs(seconds)).deadline());
        let mut asked = AskedHosts::default();
        for host in ["a", "b", "c"] {
            assert_eq!(asked.ask("t", host, now, until), Ask::New);
        }
        assert!(!asked.answer("t/a", Some("t/one")) && !asked.answer("t/b", Some("t/one")));
        assert!(asked.answer("t/c", Some("other/one")), "of another table");
        assert!(!asked.answer("t/b", Some("t/two")));
        assert!(!asked.lose(&gone(&["other/one", "t/three"])) && asked.lose(&gone(&["t/one"])));
        assert_eq!(asked.wanted(), names(&["t/b"]));
        assert_eq!(asked.ask("t", "a", now, until), Ask::No, "the control plane has not heard of it yet");
        asked.said();
        assert_eq!(asked.ask("t", "a", now, until), Ask::New);
        assert!(asked.lose(&gone(&["t/b"])), "by its own name, too");
    }

    #[tokio::test(start_paused = true)]
    async fn names_without_an_answer_are_few_and_make_room_once_nobody_waits_for_them() {
        let [now, until] = [0, 1].map(|seconds| sleep(Duration::from_secs(seconds)).deadline());
        let mut asked = AskedHosts::default();
        for number in 0..ON_DEMAND_UNDER_WAY_MAX {
            assert_eq!(asked.ask("a", &number.to_string(), now, until), Ask::New);
        }
        assert_eq!(asked.ask("a", "more", now, until), Ask::No);
        assert_eq!(asked.ask("b", "more", now, until), Ask::New, "of another table");
        assert_eq!(asked.ask("a", "more", until, until), Ask::New);
        asked.forget("b");
        assert_eq!(asked.wanted(), names(&["a/more"]), "the others are asked for no longer");
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_were_answered_are_bounded_too() {
        let [now, until] = [0, 1].map(|seconds| sleep(Duration::from_secs(seconds)).deadline());
        let mut asked = AskedHosts::default();
        for number in 0..ON_DEMAND_ASKED_MAX {
            let host = number.to_string();
            assert_eq!(asked.ask("a", &host, now, until), Ask::New);
            asked.answer(&format!("a/{host}"), Some("a/all"));
        }
        assert_eq!(asked.ask("a", "more", now, until), Ask::No);
        asked.lose(&gone(&["a/7"]));
        assert_eq!(asked.ask("a", "more", now, until), Ask::New);
    }
}
