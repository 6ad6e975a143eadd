//! The admin endpoint: Envoy's paths, on hyper, on the control thread.
//!
//! `server` has the sockets and the bounds on clients, `endpoints` the table of paths, and a file each the families
//! of paths. What they show comes from `telemetry::Registry` and from [`AdminState`], which the composition root
//! implements. Nothing here waits, and no reply is rendered as a whole when it can be long.
//!
//! Differences from Envoy: metrics of the endpoint itself (`http.admin.*`, `listener.admin.*`) do not exist;
//! profiling, heap dumps, lookup tracking and runtime changes are refused, and `/stats` has no HTML format.
mod access_log;
mod actions;
mod allow;
mod body;
mod certs;
mod clusters;
mod config_dump;
mod endpoints;
mod info;
mod json;
mod logging;
mod memory;
mod prometheus;
mod request;
mod server;
pub mod state;
mod stats;
mod stats_policy;
#[cfg(test)]
mod tests;

pub use access_log::AdminAccessLogs;
pub use allow::AllowPaths;
pub use json::{address as address_json, locality as locality_json};
pub use server::AdminListener;
pub use state::{
    AdminCommand, AdminState, ClusterStatus, DrainListeners, DumpEntry, DumpField, DumpSection, HostStatus,
    ListenerStatus, Quarantined, ServerInfo, ServerState, ShownLayer, TlsContext,
};
pub use stats_policy::StatsPolicy;

use crate::config::address::Address;
use crate::format::access_log_queue::LogCounts;
use crate::telemetry::log::Logger;
use crate::telemetry::{Registry, ServerStat, Slot};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Everything the endpoint works with.
pub struct Admin {
    pub registry: Arc<Registry>,
    pub logger: &'static Logger,
    /// What became of access-log records.
    pub log_counts: Arc<LogCounts>,
    pub state: Arc<dyn AdminState>,
    /// Logs of its own requests.
    pub access_logs: Arc<AdminAccessLogs>,
    /// Source: `admin.allow_paths`.
    pub allow_paths: AllowPaths,
    /// Which metrics are shown, and how. Source: `stats_config`, `--stats-tag`.
    pub stats_policy: Arc<StatsPolicy>,
    /// Length of an interval of histograms. Source: `stats_flush_interval`, default 5 s.
    pub flush_interval: Duration,
    /// Value of the gauge `server.version` instead of the program's own. Source: `stats_server_version_override`.
    pub server_version: Option<u64>,
}

/// The text for `--admin-address-path`.
pub fn address_file_text(address: &Address) -> String {
    json::address_text(address)
}

impl Admin {
    /// Brings the metrics of the process up to date that nobody writes when they change.
    fn refresh_server_metrics(&self) {
        self.state.refresh_metrics();
        let info = self.state.server_info();
        let usage = memory::usage(self);
        let cells = self.registry.server(Slot::Control);
        let revision = || info.version.get(..6).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        for (gauge, value) in [
            (ServerStat::Concurrency, self.registry.workers() as u64),
            (ServerStat::DaysUntilFirstCertExpiring, certs::days_until_first_expires(&*self.state)),
            (ServerStat::Live, u64::from(info.state == ServerState::Live)),
            (ServerStat::MemoryAllocated, usage.allocated),
            (ServerStat::MemoryHeapSize, usage.heap_size),
            (ServerStat::MemoryPhysicalSize, usage.physical),
            (
                ServerStat::SecondsUntilFirstOcspResponseExpires,
                certs::seconds_until_first_staple_expires(&*self.state),
            ),
            (ServerStat::State, info.state as u64),
            (ServerStat::HotRestartEpoch, info.restart_epoch.into()),
            (ServerStat::HotRestartGeneration, info.restart_generation),
            // Those of the process that this one has replaced as well.
            (
                ServerStat::TotalConnections,
                self.registry.connections() + cells.value(ServerStat::ParentConnections),
            ),
            (ServerStat::Uptime, info.uptime_all_epochs.as_secs()),
            (ServerStat::Version, self.server_version.or_else(revision).unwrap_or_default()),
        ] {
            cells.gauge_set(gauge, value);
        }
        let log = &self.log_counts;
        for (counter, total) in [
            (ServerStat::FilesystemFlushedByTimer, log.flushed_by_timer.load(Relaxed)),
            (ServerStat::FilesystemReopenFailed, log.reopen_failed.load(Relaxed)),
            (ServerStat::FilesystemWriteBuffered, log.queued.load(Relaxed)),
            (ServerStat::FilesystemWriteCompleted, log.written.load(Relaxed)),
            (ServerStat::FilesystemWriteFailed, log.write_failed.load(Relaxed)),
            (ServerStat::LogAccessDroppedBytes, log.dropped_bytes.load(Relaxed)),
            (ServerStat::LogDropped, self.logger.dropped()),
        ] {
            cells.raise(counter, total);
        }
        cells.gauge_set(ServerStat::FilesystemWriteTotalBuffered, log.queued_bytes.load(Relaxed));
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("allow_paths", &self.allow_paths).finish_non_exhaustive()
    }
}
