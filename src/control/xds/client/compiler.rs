//! The compiler of routes and filters, as everybody here has it: listeners come to it and go.
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::config::ads::ResourceSource;
use crate::config::scoped_routes::ToldScope;
use crate::config::told_filter::TypedFilter;
use crate::control::xds::convert::Runtime;
use crate::snapshot::{ListenerResource, RouteCompiler};

/// See the file's head. Copies are the same one.
#[derive(Clone, Debug)]
pub struct SharedCompiler {
    compiler: Arc<RwLock<RouteCompiler>>,
    runtime: Runtime,
}

impl SharedCompiler {
    /// `runtime`: what routes may refer to.
    pub fn new(compiler: RouteCompiler, runtime: Runtime) -> Self {
        Self { compiler: Arc::new(RwLock::new(compiler)), runtime }
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// [`RouteCompiler::add`].
    pub fn add(&self, number: usize, listener: &ListenerResource) {
        self.write().add(number, listener);
    }

    /// [`RouteCompiler::remove`].
    pub fn remove(&self, number: usize) {
        self.write().remove(number);
    }

    /// [`RouteCompiler::set_filter`].
    pub(super) fn set_filter(&self, source: &ResourceSource, name: &str, filter: Option<Arc<TypedFilter>>) {
        self.write().set_filter(source, name, filter);
    }

    /// [`RouteCompiler::set_scope`].
    pub(super) fn set_scope(&self, source: &ResourceSource, name: &str, scope: Option<Arc<ToldScope>>) {
        self.write().set_scope(source, name, scope);
    }

    /// [`RouteCompiler::forget_told`].
    pub(super) fn forget_told(&self, source: &ResourceSource) {
        self.write().forget_told(source);
    }

    /// To compile with it, or to look at what it knows.
    pub fn read(&self) -> RwLockReadGuard<'_, RouteCompiler> {
        // Nothing under the lock can leave it half changed.
        self.compiler.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, RouteCompiler> {
        self.compiler.write().unwrap_or_else(PoisonError::into_inner)
    }
}
