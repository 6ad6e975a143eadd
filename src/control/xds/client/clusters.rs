//! Clusters of a control plane: converted and compiled before they are acknowledged, each configuration once.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TakenCluster;
use super::judge::{Good, briefly, content, taken};
use crate::base::packed;
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::snapshot::ClusterCompiler;

/// Names of the clusters that control planes have told, those included that still wait for their endpoints: what refers to
/// one may be told at once. With a hash of each, by which one that is told again is known. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct ClusterNames(Arc<Mutex<BTreeMap<Box<str>, u64>>>);

impl ClusterNames {
    /// Whether there is one.
    pub fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, u64>> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says of clusters whether they can be used.
#[derive(Debug)]
pub(super) struct ClusterJudge {
    surroundings: Surroundings,
    /// Names of the bootstrap's own, which nobody replaces.
    fixed: BTreeSet<Box<str>>,
    /// Those that are in use: a state of the world tells all of them again when one changes.
    known: ClusterNames,
    compiler: ClusterCompiler,
}

impl ClusterJudge {
    /// `fixed`: names of the clusters of the bootstrap.
    pub(super) fn new(surroundings: Surroundings, fixed: BTreeSet<Box<str>>, known: ClusterNames) -> Self {
        Self { surroundings, fixed, known, compiler: ClusterCompiler::default() }
    }

    pub(super) fn judge(
        &mut self,
        message: pb::cluster::Cluster,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        // As Envoy: what the bootstrap has is passed over.
        if self.fixed.contains(&*name) || self.known.lock().get(&*name) == Some(&hash) {
            return Ok(Good::Same);
        }
        let converted = taken(&name, briefly(|| self.surroundings.convert_cluster(message)))?;
        let resource = self.compiler.compile(&converted).map_err(|error| error.to_string())?;
        self.known.lock().insert(name.into(), hash);
        Ok(Good::Cluster(TakenCluster { resource, wire: any.value.as_slice().into() }))
    }

    /// So many have been taken of a response.
    pub(super) fn took(&mut self, count: usize) {
        packed::pack(&mut self.known.lock(), count);
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.lock().remove(name);
    }
}
