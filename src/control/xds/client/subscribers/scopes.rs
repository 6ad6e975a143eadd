//! Scopes of routes, of which all that there are are taken: managers share them, each under the name of its own scoped routes. A source
//! that was asked for them once is asked as long as it is there: a control plane that has told them need not tell them again.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::ScopesUpdate;
use super::super::counters::Counters;
use super::super::judge::{Good, Kind};
use super::{Subscriber, Subscribers};
use crate::snapshot::{AskedScopes, ScopeCounts};
use crate::telemetry::{Registry, Slot};

/// Who uses the scopes of a source.
#[derive(Debug)]
pub(super) struct UsedScopes {
    /// Listeners by their numbers, the prefixes of their managers and the names of their scoped routes.
    pub(super) users: Vec<(usize, Box<str>, Box<str>)>,
    /// All of them as one.
    pub(super) one: Arc<Subscriber>,
}

impl Subscribers {
    /// Managers of a listener want the scopes, as far as these come from here; whether the first answer is still to come. `counts`:
    /// how many are there already.
    pub(in super::super) fn add_scopes(
        &self,
        listener: usize,
        asked: &[AskedScopes],
        counts: ScopeCounts,
        registry: &Registry,
    ) -> bool {
        let mut is_awaited = false;
        let mut lists = self.lock();
        let from_here = asked.iter().filter(|asked| asked.srds.source == self.source);
        for AskedScopes { stat_prefix, srds } in from_here {
            let (mut users, before) = match lists.scopes.take() {
                Some(used) => (used.users, Some(used.one)),
                None => (Vec::new(), None),
            };
            let user = (listener, stat_prefix.clone(), srds.name.clone());
            if !users.iter().any(|(_, prefix, name)| (prefix, name) == (&user.1, &user.2)) {
                self.attempt(&scope_counters(std::slice::from_ref(&user), registry));
            }
            users.push(user);
            let one = Arc::new(Subscriber {
                kind: Kind::Scopes,
                name: "".into(),
                instance: 0,
                counters: scope_counters(&users, registry),
                waits_until: Self::waits_until(before.as_ref(), srds.initial_fetch_timeout),
                is_early: !self.may_ask(Kind::Scopes),
                answered: AtomicBool::new(before.is_some_and(|before| !before.is_waiting())),
            });
            one.counters.show_scopes(counts);
            is_awaited = one.is_waiting();
            lists.scopes = Some(UsedScopes { users, one });
        }
        drop(lists);
        self.changed.send_replace(());
        is_awaited
    }

    /// That listener wants them no more; whether it did.
    pub(in super::super) fn remove_scopes(&self, listener: usize, registry: &Registry) -> bool {
        let mut lists = self.lock();
        let Some(used) = &mut lists.scopes else { return false };
        let before = used.users.len();
        used.users.retain(|(number, ..)| *number != listener);
        let has_left = used.users.len() < before;
        if has_left {
            let one = &used.one;
            used.one = Arc::new(Subscriber {
                kind: Kind::Scopes,
                name: Arc::clone(&one.name),
                instance: 0,
                counters: scope_counters(&used.users, registry),
                waits_until: one.waits_until,
                is_early: one.is_early,
                answered: AtomicBool::new(!one.is_waiting()),
            });
        }
        has_left
    }

    /// Shows how many there are.
    pub(in super::super) fn show_scopes(&self, counts: ScopeCounts) {
        self.lock().scopes.iter().for_each(|used| used.one.counters.show_scopes(counts));
    }

    /// What of a response is heard: it was taken, or waited for no more.
    pub(super) fn scopes_told(
        &self,
        good: BTreeMap<String, Good>,
        absent: BTreeSet<String>,
        version: &str,
    ) -> ScopesUpdate {
        let told = good.into_iter().filter_map(|(name, good)| match good {
            Good::Scope(taken) => Some((Arc::<str>::from(name), Some(taken.wire))),
            _ => None,
        });
        let gone = absent.into_iter().map(|name| (Arc::<str>::from(name), None));
        let changed = gone.chain(told).collect();
        ScopesUpdate { source: self.source.clone(), changed, version: version.into() }
    }
}

/// Counters of scopes: one for each name below each prefix of those who use them.
fn scope_counters(users: &[(usize, Box<str>, Box<str>)], registry: &Registry) -> Counters {
    let names: BTreeSet<(&str, &str)> = users.iter().map(|(_, prefix, name)| (&**prefix, &**name)).collect();
    let scopes = names.into_iter().map(|(prefix, name)| registry.scoped_rds(prefix, name));
    Counters::Scopes(scopes.map(|scope| scope.cells(Slot::Control)).collect())
}
