//! Routing tables of one source that are in use, as they were told: by which one that is told again is known, and what a
//! listener that asks for one later is given.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the file's head. Copies share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownTables(Arc<Mutex<BTreeMap<String, Arc<[u8]>>>>);

impl KnownTables {
    /// The one of that name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lock().get(name).cloned()
    }

    /// Takes one that is good.
    pub(super) fn put(&self, name: String, wire: Arc<[u8]>) {
        self.lock().insert(name, wire);
    }

    /// Nobody asks for it any more: whoever asks again is told again.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<[u8]>>> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
