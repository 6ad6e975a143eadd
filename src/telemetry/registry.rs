//! All scopes of the process, on the control side.
//!
//! Whoever compiles configuration asks for a scope by its tags and puts the handle next to the compiled resource;
//! asking again for the same tags gives the same scope, so counters survive an update. Nobody removes a scope:
//! the registry forgets it at the next `sweep` after its last handle and its last cells are gone.
use super::metrics::{Cells, Scope, Slot};
use super::names::{ClusterStat, HostStat, HttpStat, ListenerStat, ServerStat};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The scopes. Shared by the control thread, the thread that compiles configuration, and tests; never touched by
/// a worker on the path, which holds its own cells.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    server: Arc<Scope<ServerStat>>,
    scopes: Mutex<Scopes>,
}

impl Registry {
    /// A registry for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, server: Arc::new(Scope::new(&[], workers)), scopes: Mutex::default() }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The process's own metrics, for one writer.
    pub fn server(&self, slot: Slot) -> Cells<ServerStat> {
        self.server.cells(slot)
    }

    /// The listener bound to `address`, or named so by its `stat_prefix`. Characters that Envoy replaces in
    /// names are replaced here as well.
    pub fn listener(&self, address: &str) -> Arc<Scope<ListenerStat>> {
        let tag = sanitized(address);
        let mut scopes = self.lock();
        Arc::clone(scopes.listeners.entry(tag.clone()).or_insert_with(|| self.scope(&[&tag])))
    }

    /// A connection manager, by its `stat_prefix` and the address of its listener. `http.<stat_prefix>` is the
    /// sum over listeners, so several managers may share a prefix.
    pub fn http(&self, stat_prefix: &str, listener_address: &str) -> Arc<Scope<HttpStat>> {
        let tags = (sanitized(stat_prefix), sanitized(listener_address));
        let mut scopes = self.lock();
        Arc::clone(scopes.https.entry(tags.clone()).or_insert_with(|| self.scope(&[&tags.0, &tags.1])))
    }

    /// A cluster by its name, or `alt_stat_name`.
    pub fn cluster(&self, name: &str) -> Arc<Scope<ClusterStat>> {
        let tag = sanitized(name);
        let mut scopes = self.lock();
        Arc::clone(scopes.clusters.entry(tag.clone()).or_insert_with(|| self.scope(&[&tag])))
    }

    /// Cells for one host. The registry does not keep them: they live as long as the host.
    pub fn host(&self) -> Arc<Scope<HostStat>> {
        self.scope(&[])
    }

    fn scope<S: super::names::Stats>(&self, tags: &[&str]) -> Arc<Scope<S>> {
        Arc::new(Scope::new(tags, self.workers))
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        // Nothing under the lock can leave the maps half changed.
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Scopes {
    listeners: BTreeMap<Box<str>, Arc<Scope<ListenerStat>>>,
    /// By stat prefix and listener.
    https: BTreeMap<HttpTags, Arc<Scope<HttpStat>>>,
    clusters: BTreeMap<Box<str>, Arc<Scope<ClusterStat>>>,
}

type HttpTags = (Box<str>, Box<str>);

/// A tag as Envoy writes it into a name: `://`, `:/`, `:` and NUL become `_`.
fn sanitized(tag: &str) -> Box<str> {
    tag.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_asked_for_twice_is_the_same() {
        let registry = Registry::new(2);
        let first = registry.cluster("a");
        assert!(Arc::ptr_eq(&first, &registry.cluster("a")));
        assert!(!Arc::ptr_eq(&first, &registry.cluster("b")));
        assert!(!Arc::ptr_eq(&registry.http("p", "x"), &registry.http("p", "y")));
    }

    #[test]
    fn tag_with_colons_is_written_as_envoy_does() {
        assert_eq!(&*sanitized("[::1]:80"), "[__1]_80");
        assert_eq!(&*sanitized("http://a:1/b"), "http_a_1/b");
    }
}
