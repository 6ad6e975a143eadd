//! Virtual hosts that are asked for by their names, beside all that a source tells: requests ask for them. A name that nothing
//! answers, and one whose virtual host is gone, is asked for no longer.
use std::collections::{BTreeMap, BTreeSet};

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
    /// Those that were answered by a virtual host.
    there: BTreeSet<Box<str>>,
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
        let OfTable { under_way, there, given_up } = of_table;
        match under_way.get(host) {
            _ if there.contains(host) || given_up.contains(host) => return Ask::No,
            Some(until) if *until > now => return Ask::UnderWay,
            _ => {}
        }
        if under_way.len() >= ON_DEMAND_UNDER_WAY_MAX {
            under_way.retain(|_, until| *until > now);
        }
        let is_full = under_way.len() + there.len() >= ON_DEMAND_ASKED_MAX;
        if is_full || under_way.len() >= ON_DEMAND_UNDER_WAY_MAX {
            return Ask::No;
        }
        under_way.insert(host.into(), until);
        Ask::New
    }

    /// A name that was asked for is answered; whether it is asked for no longer.
    pub(super) fn answer(&mut self, name: &str, is_there: bool) -> bool {
        let Some((table, host)) = name.rsplit_once('/') else { return false };
        let Some(of_table) = self.tables.get_mut(table) else { return false };
        let OfTable { under_way, there, given_up } = of_table;
        let was_awaited = under_way.remove(host).is_some();
        if is_there {
            if was_awaited {
                there.insert(host.into());
            }
            return false;
        }
        let was_asked = there.remove(host) || was_awaited;
        if was_asked {
            given_up.insert(host.into());
        }
        was_asked
    }

    /// The stream says what is asked for.
    pub(super) fn said(&mut self) {
        self.tables.values_mut().for_each(|of_table| of_table.given_up.clear());
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
    fn names<'a>(&'a self, table: &'a str) -> impl Iterator<Item = String> + 'a {
        self.under_way.keys().chain(&self.there).map(move |host| format!("{table}/{host}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn names(names: &[&str]) -> Wanted {
        Wanted::AllAnd(names.iter().map(ToString::to_string).collect())
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
        assert!(!asked.answer("in/all/a", true), "it stays");
        assert_eq!(asked.ask("in/all", "a", now, until), Ask::No, "it was told");
        assert!(asked.answer("b/a", false) && !asked.answer("b/a", false));
        assert_eq!(asked.wanted(), names(&["in/all/a"]));
        assert!(asked.answer("in/all/a", false), "it is gone");
        assert!(!asked.answer("in/all/a", true), "nobody asks for it");
        assert_eq!(asked.wanted(), Wanted::All);
        assert_eq!(asked.ask("b", "a", now, until), Ask::No, "the control plane has not heard of it yet");
        asked.said();
        assert_eq!(asked.ask("b", "a", now, until), Ask::New);
        asked.forget("b");
        assert_eq!(asked.wanted(), Wanted::All);
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
            asked.answer(&format!("a/{host}"), true);
        }
        assert_eq!(asked.ask("a", "more", now, until), Ask::No);
        asked.answer("a/7", false);
        assert_eq!(asked.ask("a", "more", now, until), Ask::New);
    }
}
