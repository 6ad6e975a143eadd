//! What the start waits for.
use std::collections::HashSet;
use std::sync::Arc;

use crate::config::ads::ResourceSource;
use crate::control::xds::client::SecretKey;
use crate::server::tables::TableKey;
use crate::snapshot::FilterKey;

/// Clusters without endpoints, tables, filters, scopes, secrets, runtime values, and a first answer to which clusters and listeners there are.
#[derive(Default)]
pub(super) struct Awaited {
    pub(super) clusters: HashSet<Box<str>>,
    pub(super) routes: HashSet<TableKey>,
    pub(super) filters: HashSet<FilterKey>,
    /// Where scopes of routes come from.
    pub(super) scopes: HashSet<ResourceSource>,
    pub(super) secrets: HashSet<SecretKey>,
    /// Runtime layers, by the names of their resources.
    pub(super) runtime: HashSet<(ResourceSource, Arc<str>)>,
    pub(super) more_clusters: bool,
    pub(super) more_listeners: bool,
}

impl Awaited {
    /// Whether clusters, or what comes before them, are among it. Source: Envoy `ServerInfo.State`, `PRE_INITIALIZING`.
    pub(super) fn has_clusters(&self) -> bool {
        self.more_clusters || !self.clusters.is_empty() || !self.runtime.is_empty()
    }

    pub(super) fn is_over(&self) -> bool {
        let has_named = self.clusters.is_empty()
            && self.routes.is_empty()
            && self.filters.is_empty()
            && self.scopes.is_empty()
            && self.secrets.is_empty()
            && self.runtime.is_empty();
        has_named && !self.more_clusters && !self.more_listeners
    }
}
