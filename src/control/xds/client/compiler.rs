//! The compiler of routes, as everybody here has it: listeners come to it and go.
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::config::listener::Listener;
use crate::snapshot::RouteCompiler;

/// See the file's head. Copies are the same one.
#[derive(Clone, Debug)]
pub struct SharedCompiler(Arc<RwLock<RouteCompiler>>);

impl SharedCompiler {
    pub fn new(compiler: RouteCompiler) -> Self {
        Self(Arc::new(RwLock::new(compiler)))
    }

    /// [`RouteCompiler::add`].
    pub fn add(&self, number: usize, listener: &Listener) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).add(number, listener);
    }

    /// [`RouteCompiler::remove`].
    pub fn remove(&self, number: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(number);
    }

    /// To compile with it, or to look at what it knows.
    pub fn read(&self) -> RwLockReadGuard<'_, RouteCompiler> {
        // Nothing under the lock can leave it half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
