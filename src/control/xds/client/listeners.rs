//! Listeners of a control plane: converted and compiled before they are acknowledged, each configuration once.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::TakenListener;
use super::judge::{Good, content, taken};
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::snapshot::ListenerCompiler;

/// Says of listeners whether they can be used.
#[derive(Debug)]
pub(super) struct ListenerJudge {
    surroundings: Surroundings,
    compiler: ListenerCompiler,
    /// Names of the bootstrap's own, which nobody replaces.
    fixed: BTreeSet<Box<str>>,
    /// A hash of each that is in use: a state of the world tells all of them again when one changes.
    known: BTreeMap<String, u64>,
}

impl ListenerJudge {
    /// `fixed`: names of the listeners of the bootstrap.
    pub(super) fn new(
        surroundings: Surroundings,
        compiler: ListenerCompiler,
        fixed: BTreeSet<Box<str>>,
    ) -> Self {
        Self { surroundings, compiler, fixed, known: BTreeMap::new() }
    }

    pub(super) fn judge(
        &mut self,
        message: pb::listener::Listener,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        // As Envoy: what the bootstrap has is passed over.
        if self.fixed.contains(&*name) || self.known.get(&name) == Some(&hash) {
            return Ok(Good::Same);
        }
        let converted = taken(&name, self.surroundings.convert_listener(message))?;
        let resource = self.compiler.compile(Arc::new(converted)).map_err(|error| error.to_string())?;
        self.known.insert(name, hash);
        Ok(Good::Listener(TakenListener { resource, wire: any.value.as_slice().into() }))
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}
