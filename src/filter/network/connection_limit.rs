//! Limits of connections at a time, each one number for all workers: of a chain (Envoy's connection limit filter), and of a listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::network_filter::ConnectionLimit as Config;
use crate::config::runtime::{RuntimeFlag, RuntimeKey};

/// The limit of a chain; clones are the same one.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    /// Those that count. One by one, per connection: the documented exception to "no shared atomic".
    connections: Arc<AtomicU64>,
    max: u64,
    /// How long who finds no place is kept before it is closed. As in Envoy it counts meanwhile.
    pub delay: Option<Duration>,
    /// Whether connections are counted at all.
    pub enabled: RuntimeFlag,
}

/// A connection's place under the limit; given back when dropped.
#[derive(Debug)]
pub struct LimitedConnection(Arc<AtomicU64>);

impl ConnectionLimit {
    /// As configured, with no connection yet.
    pub fn new(config: &Config) -> Self {
        Self {
            connections: Arc::default(),
            max: config.connections_max,
            delay: config.delay,
            enabled: config.enabled.clone(),
        }
    }

    /// A place for a connection, if there is one.
    pub fn admit(&self) -> Option<LimitedConnection> {
        let one_more = |count: u64| (count < self.max).then_some(count + 1);
        let taken = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| LimitedConnection(Arc::clone(&self.connections)))
    }

    /// The place of one that has found none and is kept for a time.
    pub fn keep(&self) -> LimitedConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        LimitedConnection(Arc::clone(&self.connections))
    }
}

impl Drop for LimitedConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The limit of a listener, which runtime alone has; clones are the same one.
#[derive(Clone, Debug)]
pub struct ListenerLimit {
    /// Those there are, also while runtime has no limit for them. One by one, per connection: as above.
    connections: Arc<AtomicU64>,
    key: RuntimeKey,
}

impl ListenerLimit {
    /// With no connection yet; `key`: under which runtime has the limit.
    pub fn new(key: &RuntimeKey) -> Self {
        Self { connections: Arc::default(), key: key.clone() }
    }

    /// Counts one more connection, until [`Self::leave`]; whether there may be so many.
    pub fn enter(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        self.key.integer().is_none_or(|max| before < max)
    }

    /// One of them is over.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::runtime::{RuntimeState, RuntimeValue};

    /// Of two connections.
    fn limit() -> ConnectionLimit {
        ConnectionLimit::new(&Config {
            stat_prefix: Box::default(),
            connections_max: 2,
            delay: None,
            enabled: RuntimeFlag::on(),
        })
    }

    #[test]
    fn connection_beyond_the_limit_is_refused_until_another_ends() {
        let limit = limit();
        let (first, _second) = (limit.admit().unwrap(), limit.admit().unwrap());
        assert!(limit.admit().is_none() && limit.admit().is_none());
        drop(first);
        assert!(limit.admit().is_some());
    }

    #[test]
    fn connection_that_is_kept_beyond_the_limit_counts() {
        let limit = limit();
        let (first, second) = (limit.admit().unwrap(), limit.admit().unwrap());
        let kept = limit.keep();
        drop(first);
        assert!(limit.admit().is_none(), "there are two");
        drop((second, kept));
        assert!(limit.admit().is_some());
    }

    #[test]
    fn listener_counts_its_connections_while_runtime_has_no_limit_for_them() {
        let state = RuntimeState::default();
        let key = RuntimeKey::new("limit", RuntimeValue::default(), &state);
        let limit = ListenerLimit::new(&key);
        let kept = limit.clone();
        assert!(limit.enter() && kept.enter() && limit.enter());
        key.prepare(RuntimeValue { integer: Some(2), ..RuntimeValue::default() });
        state.proceed();
        limit.leave();
        assert!(!limit.enter(), "two are there");
        // Who is refused has been counted, and leaves as others do.
        limit.leave();
        limit.leave();
        assert!(limit.enter() && !limit.enter());
    }
}
