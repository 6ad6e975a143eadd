//! Routing tables of one source that are in use, as they were told: by which one that is told again is known, and what a
//! listener that asks for one later is given.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::ads::Vhds;

/// See the file's head. Copies share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownTables(Arc<Mutex<BTreeMap<String, KnownTable>>>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct KnownTable {
    /// As it was told.
    pub(super) told: Arc<[u8]>,
    /// The same with the virtual hosts that are told by themselves: what is in use.
    pub(super) whole: Arc<[u8]>,
    /// Where those come from; `None`: there are none.
    pub(super) vhds: Option<Vhds>,
}

impl KnownTables {
    /// The one of that name, as it is in use.
    pub(super) fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lock().get(name).map(|table| Arc::clone(&table.whole))
    }

    /// All that is known of the one of that name.
    pub(super) fn table(&self, name: &str) -> Option<KnownTable> {
        self.lock().get(name).cloned()
    }

    /// Whether it was told just so.
    pub(super) fn is_told(&self, name: &str, wire: &[u8]) -> bool {
        self.lock().get(name).is_some_and(|table| *table.told == *wire)
    }

    /// Whether it is there in another state than this one.
    pub(super) fn is_other(&self, name: &str, whole: &Arc<[u8]>) -> bool {
        self.lock().get(name).is_some_and(|table| !Arc::ptr_eq(&table.whole, whole))
    }

    /// Takes one that is good; where the virtual hosts of the one before came from.
    pub(super) fn put(&self, name: String, table: KnownTable) -> Option<Vhds> {
        self.lock().insert(name, table)?.vhds
    }

    /// It has other virtual hosts from now on.
    pub(super) fn complete(&self, name: &str, whole: &Arc<[u8]>) {
        if let Some(table) = self.lock().get_mut(name) {
            table.whole = Arc::clone(whole);
        }
    }

    /// Nobody asks for it any more: whoever asks again is told again. Where its virtual hosts came from.
    pub(super) fn forget(&self, name: &str) -> Option<Vhds> {
        self.lock().remove(name)?.vhds
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, KnownTable>> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
