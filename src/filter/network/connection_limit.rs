//! A limit of connections at a time, one number for all workers (Envoy's connection limit filter).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::network_filter::ConnectionLimit as Config;
use crate::config::runtime::RuntimeFlag;

/// The limit; clones are the same one.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    /// Taken one by one, per connection: the documented exception to "no shared atomic".
    left: Arc<AtomicU64>,
    /// How long who finds no place is kept before it is closed.
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
            left: Arc::new(AtomicU64::new(config.connections_max)),
            delay: config.delay,
            enabled: config.enabled.clone(),
        }
    }

    /// A place for a connection, if there is one.
    pub fn admit(&self) -> Option<LimitedConnection> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok().map(|_| LimitedConnection(Arc::clone(&self.left)))
    }
}

impl Drop for LimitedConnection {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_beyond_the_limit_is_refused_until_another_ends() {
        let config = Config {
            stat_prefix: Box::default(),
            connections_max: 2,
            delay: None,
            enabled: RuntimeFlag::on(),
        };
        let limit = ConnectionLimit::new(&config);
        let (first, _second) = (limit.admit().unwrap(), limit.admit().unwrap());
        assert!(limit.admit().is_none() && limit.admit().is_none());
        drop(first);
        assert!(limit.admit().is_some());
    }
}
