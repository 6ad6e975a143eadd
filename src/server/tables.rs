//! Routing tables and filters of a control plane, as the managers that have them: the last ones, and those before them while
//! requests use them. A large table takes its time to be freed: workers only let go of it, and this thread frees it.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::config::ads::ResourceSource;
use crate::snapshot::RoutesResource;

/// Where a table comes from, and its name.
pub(super) type TableKey = (ResourceSource, Arc<str>);

/// What has come from a control plane.
#[derive(Debug, Default)]
pub(super) struct Tables {
    current: HashMap<TableKey, Arc<[RoutesResource]>>,
    /// Managers whose filters or scopes are told, while no table of a control plane is in them but in scopes: by the listener's number
    /// and the place of the chain.
    filtered: BTreeMap<(usize, usize), RoutesResource>,
    /// Those before them, while requests may use them.
    retired: Vec<Arc<[RoutesResource]>>,
    /// When they are looked at.
    look: Option<Pin<Box<Sleep>>>,
}

impl Tables {
    /// Between two looks at what is retired.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    /// More than these are looked at with every change.
    const RETIRED_AT_ONCE: usize = 8;

    /// The last ones.
    pub(super) fn current(&self) -> impl Iterator<Item = Arc<[RoutesResource]>> {
        let filtered = (!self.filtered.is_empty()).then(|| self.filtered.values().cloned().collect());
        self.current.values().cloned().chain(filtered)
    }

    /// When [`Self::free`] is to be called; never if nothing is retired.
    pub(super) async fn look(&mut self) {
        match &mut self.look {
            Some(sleep) => sleep.await,
            None => pending().await,
        }
    }

    /// Takes a table that the workers are told of.
    pub(super) fn put(&mut self, key: TableKey, resources: Arc<[RoutesResource]>) {
        self.leave_out(&resources);
        if let Some(before) = self.current.insert(key, resources) {
            self.retire(before);
        }
    }

    /// Takes managers with other filters, of which the workers are told.
    pub(super) fn put_filtered(&mut self, resources: &[RoutesResource]) {
        let mut gone = Vec::new();
        for new in resources {
            let is_it = |old: &&RoutesResource| (old.listener, old.chain) == (new.listener, new.chain);
            let list = self.current.values_mut().find(|all| all.iter().any(|old| is_it(&old)));
            match list {
                Some(list) => {
                    gone.extend(list.iter().find(is_it).cloned());
                    *list =
                        list.iter().map(|old| if is_it(&old) { new.clone() } else { old.clone() }).collect();
                }
                None => gone.extend(self.filtered.insert((new.listener, new.chain), new.clone())),
            }
        }
        self.retire(gone.into());
    }

    /// These managers have a table now.
    fn leave_out(&mut self, resources: &[RoutesResource]) {
        let keys = resources.iter().map(|resource| (resource.listener, resource.chain));
        let gone: Arc<[_]> = keys.filter_map(|key| self.filtered.remove(&key)).collect();
        self.retire(gone);
    }

    fn retire(&mut self, resources: Arc<[RoutesResource]>) {
        if resources.is_empty() {
            return;
        }
        self.retired.push(resources);
        self.look.get_or_insert_with(|| Box::pin(sleep(Self::LOOK_EVERY)));
        // Of a control plane that changes its mind all the time.
        if self.retired.len() > Self::RETIRED_AT_ONCE {
            self.free();
        }
    }

    /// What the tables have for the listener of that number.
    pub(super) fn of_listener(&self, number: usize) -> Vec<RoutesResource> {
        let all = self.current.values().flat_map(|resources| resources.iter());
        all.chain(self.filtered.values()).filter(|resource| resource.listener == number).cloned().collect()
    }

    /// Whether a table is there for the listener of that number.
    pub(super) fn has(&self, key: &TableKey, number: usize) -> bool {
        self.current.get(key).is_some_and(|all| all.iter().any(|resource| resource.listener == number))
    }

    /// Adds what a table that is in use has for another listener.
    pub(super) fn extend(&mut self, key: &TableKey, resources: Vec<RoutesResource>) {
        self.leave_out(&resources);
        let current = self.current.entry(key.clone()).or_default();
        *current = current.iter().cloned().chain(resources).collect();
    }

    /// That listener is no more.
    pub(super) fn forget_listener(&mut self, number: usize) {
        let (of_it, others) =
            std::mem::take(&mut self.filtered).into_iter().partition(|(key, _)| key.0 == number);
        self.filtered = others;
        let mut gone: Vec<_> = BTreeMap::into_values(of_it).collect();
        for current in self.current.values_mut() {
            let is_its = |resource: &&RoutesResource| resource.listener == number;
            if current.iter().any(|resource| is_its(&resource)) {
                gone.extend(current.iter().filter(is_its).cloned());
                *current = current.iter().filter(|resource| !is_its(resource)).cloned().collect();
            }
        }
        self.retire(gone.into());
    }

    /// Nobody asks for that table any more.
    pub(super) fn forget(&mut self, key: &TableKey) {
        if let Some(before) = self.current.remove(key) {
            self.retire(before);
        }
    }

    /// Frees what only this thread still holds.
    pub(super) fn free(&mut self) {
        let in_use = |resource: &RoutesResource| resource.manager.is_shared();
        self.retired.retain(|resources| resources.iter().any(in_use));
        self.look = (!self.retired.is_empty()).then(|| Box::pin(sleep(Self::LOOK_EVERY)));
    }
}
