//! Listeners that come while traffic flows: each is compiled, off the data path, before it is acknowledged.

use std::fmt;
use std::sync::Arc;

use super::filter_chain::SharedLimits;
use super::{Compiler, ListenerResource, RouteSurroundings};
use crate::config::access_log::AccessLogSink;
use crate::config::listener::Listener;
use crate::filter::CompileError;

/// Compiles listeners of a control plane.
pub struct ListenerCompiler {
    surroundings: Arc<RouteSurroundings>,
    /// Buckets that filters of several of them share.
    limits: SharedLimits,
}

impl ListenerCompiler {
    /// One that knows no listener yet.
    pub fn new(surroundings: Arc<RouteSurroundings>) -> Self {
        Self { surroundings, limits: SharedLimits::default() }
    }

    /// One listener. Its inline routes are taken out of it: nobody reads them beside the tables.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&mut self, mut config: Arc<Listener>) -> Result<Arc<ListenerResource>, CompileError> {
        let Self { surroundings, limits } = self;
        let mut open_sink = |sink: &AccessLogSink| (surroundings.open_sink)(sink);
        let services = surroundings.services(&mut open_sink);
        let mut compiler = Compiler { registry: &surroundings.registry, services };
        compiler.listener(&mut config, limits)
    }
}

impl fmt::Debug for ListenerCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerCompiler").field("limits", &self.limits.len()).finish_non_exhaustive()
    }
}
