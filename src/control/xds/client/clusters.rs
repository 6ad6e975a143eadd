//! Clusters of a control plane: converted and compiled before they are acknowledged, each configuration once.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TakenCluster;
use super::judge::{Good, content, taken};
use crate::config::cluster::SharedSettings;
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::snapshot::ClusterResource;

/// Names of the clusters that control planes have told, those included that still wait for their endpoints: what refers to
/// one may be told at once. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct ClusterNames(Arc<Mutex<BTreeSet<String>>>);

impl ClusterNames {
    /// Whether there is one.
    pub fn has(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
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
    /// A hash of each that is in use: a state of the world tells all of them again when one changes.
    known: BTreeMap<String, u64>,
    names: ClusterNames,
    settings: SharedSettings,
}

impl ClusterJudge {
    /// `fixed`: names of the clusters of the bootstrap.
    pub(super) fn new(surroundings: Surroundings, fixed: BTreeSet<Box<str>>, names: ClusterNames) -> Self {
        let settings = SharedSettings::default();
        Self { surroundings, fixed, known: BTreeMap::new(), names, settings }
    }

    pub(super) fn judge(
        &mut self,
        message: pb::cluster::Cluster,
        any: &pb::google::Any,
    ) -> Result<Good, String> {
        let name = message.name.clone();
        let hash = content("", std::iter::once(any));
        // As Envoy: what the bootstrap has is passed over.
        if self.fixed.contains(&*name) || self.known.get(&name) == Some(&hash) {
            return Ok(Good::Same);
        }
        let converted = taken(&name, self.surroundings.convert_cluster(message))?;
        let config = Arc::new(self.settings.settled(&converted));
        let resource = ClusterResource::compile(config).map_err(|error| error.to_string())?;
        self.names.lock().insert(name.clone());
        self.known.insert(name, hash);
        Ok(Good::Cluster(TakenCluster { resource, wire: any.value.as_slice().into() }))
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.names.lock().remove(name);
    }
}
