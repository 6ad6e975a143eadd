//! Listeners of a control plane: converted and compiled before they are acknowledged, each configuration once.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TakenListener;
use super::judge::{Good, content, taken};
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::snapshot::ListenerCompiler;

/// A hash of each that is in use: a state of the world tells all of them again when one changes. Copies share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownListeners(Arc<Mutex<BTreeMap<String, u64>>>);

impl KnownListeners {
    /// It is gone, or cannot be used after all: when it is told again it is another.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says of listeners whether they can be used.
#[derive(Debug)]
pub(super) struct ListenerJudge {
    surroundings: Surroundings,
    compiler: ListenerCompiler,
    /// Names of the bootstrap's own, which nobody replaces.
    fixed: BTreeSet<Box<str>>,
    pub(super) known: KnownListeners,
}

impl ListenerJudge {
    /// `fixed`: names of the listeners of the bootstrap.
    pub(super) fn new(
        surroundings: Surroundings,
        compiler: ListenerCompiler,
        fixed: BTreeSet<Box<str>>,
    ) -> Self {
        Self { surroundings, compiler, fixed, known: KnownListeners::default() }
    }

    pub(super) fn judge(
        &mut self,
        message: pb::listener::Listener,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        // As Envoy: what the bootstrap has is passed over.
        if self.fixed.contains(&*name) || self.known.lock().get(&name) == Some(&hash) {
            return Ok(Good::Same);
        }
        let converted = taken(&name, self.surroundings.convert_listener(message))?;
        let resource = self.compiler.compile(Arc::new(converted)).map_err(|error| error.to_string())?;
        Ok(Good::Listener(TakenListener { resource, wire: any.value.as_slice().into(), hash }))
    }

    /// That one is in use.
    pub(super) fn know(&self, name: &str, taken: &TakenListener) {
        self.known.lock().insert(name.to_owned(), taken.hash);
    }

    pub(super) fn forget(&self, name: &str) {
        self.known.forget(name);
    }
}
