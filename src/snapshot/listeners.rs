//! Listeners that come while traffic flows: each is compiled, off the data path, before it is acknowledged.

use std::sync::Arc;

use super::{ListenerResource, RouteSurroundings};
use crate::config::listener::Listener;
use crate::filter::CompileError;

/// Compiles listeners of a control plane.
#[derive(Debug)]
pub struct ListenerCompiler {
    surroundings: Arc<RouteSurroundings>,
}

impl ListenerCompiler {
    /// One that compiles with these.
    pub fn new(surroundings: Arc<RouteSurroundings>) -> Self {
        Self { surroundings }
    }

    /// One listener. Its inline routes are taken out of it: nobody reads them beside the tables.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&self, mut config: Arc<Listener>) -> Result<Arc<ListenerResource>, CompileError> {
        self.surroundings.with_compiler(|compiler| compiler.listener(&mut config))
    }
}
