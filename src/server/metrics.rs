//! Metrics that change when the process does: its resources, its start, its end. Those that are merely looked at when
//! somebody scrapes (memory, uptime, log counts) are in `control::admin`.

use std::time::Duration;

use crate::config::bootstrap::Bootstrap;
use crate::control::xds::LoadedBootstrap;
use crate::telemetry::{Registry, ServerCells, ServerHistogram, ServerStat, Slot};

/// The control thread's own cells, and what they count of.
#[derive(Debug)]
pub(super) struct ServerMetrics {
    cells: ServerCells,
    /// Of the bootstrap.
    listeners: u64,
}

impl ServerMetrics {
    /// Counts what was loaded. Everything of a file is taken whole or not at all.
    pub(super) fn loaded(registry: &Registry, loaded: &LoadedBootstrap) -> Self {
        let cells = registry.server(Slot::Control);
        let Bootstrap { clusters, listeners, .. } = &loaded.bootstrap;
        let (clusters, listeners) = (clusters.len() as u64, listeners.len() as u64);
        cells.add(ServerStat::ClusterManagerClusterAdded, clusters);
        cells.add(ServerStat::ListenerManagerListenerAdded, listeners);
        cells.add(ServerStat::StaticUnknownFields, loaded.unknown_fields as u64);
        cells.add(ServerStat::RuntimeDeprecatedFeatureUse, loaded.deprecated_fields as u64);
        for (gauge, value) in [
            (ServerStat::ClusterManagerActiveClusters, clusters),
            (ServerStat::RuntimeDeprecatedFeatureSeenSinceProcessStart, loaded.deprecated_fields as u64),
        ] {
            cells.gauge_set(gauge, value);
        }
        Self { cells, listeners }
    }

    /// The workers serve, this long after the start of the process.
    pub(super) fn serving(&self, took: Duration, workers: usize) {
        let workers = workers as u64;
        self.cells.add(ServerStat::ListenerManagerListenerCreateSuccess, self.listeners * workers);
        self.cells.gauge_set(ServerStat::ListenerManagerTotalListenersActive, self.listeners);
        self.cells.gauge_set(ServerStat::ListenerManagerWorkersStarted, 1);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.cells.record(ServerHistogram::InitializationTimeMs, took);
    }

    /// So many clusters wait for their endpoints.
    pub(super) fn clusters_warm_up(&self, warming: u64) {
        self.cells.gauge_set(ServerStat::ClusterManagerWarmingClusters, warming);
    }

    /// So many clusters are in use; so many were added, changed and removed.
    pub(super) fn clusters_changed(&self, [active, added, modified, removed]: [u64; 4]) {
        self.cells.gauge_set(ServerStat::ClusterManagerActiveClusters, active);
        self.cells.add(ServerStat::ClusterManagerClusterAdded, added);
        self.cells.add(ServerStat::ClusterManagerClusterModified, modified);
        self.cells.add(ServerStat::ClusterManagerClusterRemoved, removed);
    }

    /// So often a cluster in use was told other endpoints.
    pub(super) fn endpoints_changed(&self, times: u64) {
        self.cells.add(ServerStat::ClusterManagerClusterUpdated, times);
    }

    /// So many listeners of a control plane are in use and wait for their routes.
    pub(super) fn listeners_are(&self, active: u64, warming: u64) {
        self.cells.gauge_set(ServerStat::ListenerManagerTotalListenersActive, self.listeners + active);
        self.cells.gauge_set(ServerStat::ListenerManagerTotalListenersWarming, warming);
    }

    /// So many of them were added, changed and removed, and so many made by workers.
    pub(super) fn listeners_changed(&self, [added, modified, removed, created]: [u64; 4]) {
        self.cells.add(ServerStat::ListenerManagerListenerAdded, added);
        self.cells.add(ServerStat::ListenerManagerListenerModified, modified);
        self.cells.add(ServerStat::ListenerManagerListenerRemoved, removed);
        self.cells.add(ServerStat::ListenerManagerListenerCreateSuccess, created);
    }

    /// A listener of a control plane cannot listen.
    pub(super) fn listener_failed(&self) {
        self.cells.inc(ServerStat::ListenerManagerListenerCreateFailure);
    }

    /// So many TLS contexts were replaced, and so many stay since their files are no good.
    pub(super) fn tls_updated(&self, updated: usize, rejected: usize) {
        self.cells.add(ServerStat::TlsUpdateSuccess, updated as u64);
        self.cells.add(ServerStat::TlsUpdateRejected, rejected as u64);
    }

    /// So many listeners no longer accept, those that had stopped before included.
    pub(super) fn stopped(&self, listeners: usize) {
        let before = self.cells.value(ServerStat::ListenerManagerListenerStopped);
        self.cells.raise(ServerStat::ListenerManagerListenerStopped, before.max(listeners as u64));
    }
}
