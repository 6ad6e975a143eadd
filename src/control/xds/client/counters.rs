//! What is counted of subscriptions, under the names that Envoy has for all of them.

use std::ops::Deref;
use std::sync::Arc;

use crate::base::clock;
use crate::snapshot::ScopeCounts;
use crate::telemetry::{
    ClusterStat, EcdsCells, EcdsStat, RdsCells, RdsStat, Scope, ScopedRdsCells, ScopedRdsStat, SdsCells,
    SdsStat, ServerCells, ServerStat, VhdsCells, VhdsStat,
};

/// What happens to a subscription.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Attempt,
    Success,
    Empty,
    Rejected,
    Failure,
    FetchTimeout,
}

/// Where it is counted.
#[derive(Debug)]
pub(super) enum Counters {
    /// Of one of thousands: noted, as cells would be most of what a cluster takes.
    Cluster(Arc<Scope<ClusterStat>>),
    Clusters(ServerCells),
    Listeners(ServerCells),
    /// Of all layers.
    Runtime(ServerCells),
    Secret(SdsCells),
    Filter(EcdsCells),
    /// One for each name of scoped routes, below the prefix of their manager.
    Scopes(Box<Several<ScopedRdsCells>>),
    /// One for each prefix of a manager that asks.
    Routes(Box<Several<RdsCells>>),
    /// One for each prefix of a manager that has the table.
    VirtualHosts(Box<Several<VhdsCells>>),
}

/// There are some for each of thousands of clusters.
const _: () = assert!(size_of::<Counters>() <= 16);

/// Cells that count the same, of which clusters have none.
#[derive(Debug)]
pub(super) struct Several<C>(Vec<C>);

impl<C> FromIterator<C> for Box<Several<C>> {
    fn from_iter<I: IntoIterator<Item = C>>(cells: I) -> Self {
        Self::new(Several(cells.into_iter().collect()))
    }
}

impl<C> Deref for Several<C> {
    type Target = [C];

    fn deref(&self) -> &[C] {
        &self.0
    }
}

impl Counters {
    pub(super) fn count(&self, event: Event) {
        match self {
            Self::Cluster(scope) => {
                let stat = match event {
                    Event::Attempt => ClusterStat::UpdateAttempt,
                    Event::Success => ClusterStat::UpdateSuccess,
                    Event::Empty => ClusterStat::UpdateEmpty,
                    Event::Rejected => ClusterStat::UpdateRejected,
                    Event::Failure => ClusterStat::UpdateFailure,
                    Event::FetchTimeout => ClusterStat::InitFetchTimeout,
                };
                scope.note(&[(stat, 1)]);
            }
            Self::Clusters(cells) => cells.inc(match event {
                Event::Attempt => ServerStat::CdsUpdateAttempt,
                Event::Success => ServerStat::CdsUpdateSuccess,
                // Envoy has no such row: there is always something, or nothing is wanted.
                Event::Empty => return,
                Event::Rejected => ServerStat::CdsUpdateRejected,
                Event::Failure => ServerStat::CdsUpdateFailure,
                Event::FetchTimeout => ServerStat::CdsInitFetchTimeout,
            }),
            Self::Listeners(cells) => cells.inc(match event {
                Event::Attempt => ServerStat::LdsUpdateAttempt,
                Event::Success => ServerStat::LdsUpdateSuccess,
                Event::Empty => return,
                Event::Rejected => ServerStat::LdsUpdateRejected,
                Event::Failure => ServerStat::LdsUpdateFailure,
                Event::FetchTimeout => ServerStat::LdsInitFetchTimeout,
            }),
            Self::Runtime(cells) => cells.inc(match event {
                Event::Attempt => ServerStat::RuntimeUpdateAttempt,
                Event::Success => ServerStat::RuntimeUpdateSuccess,
                Event::Empty => return,
                Event::Rejected => ServerStat::RuntimeUpdateRejected,
                Event::Failure => ServerStat::RuntimeUpdateFailure,
                Event::FetchTimeout => ServerStat::RuntimeInitFetchTimeout,
            }),
            Self::Secret(cells) => cells.inc(match event {
                Event::Attempt => SdsStat::UpdateAttempt,
                Event::Success => SdsStat::UpdateSuccess,
                Event::Empty => return,
                Event::Rejected => SdsStat::UpdateRejected,
                Event::Failure => SdsStat::UpdateFailure,
                Event::FetchTimeout => SdsStat::InitFetchTimeout,
            }),
            Self::Filter(cells) => {
                cells.inc(match event {
                    Event::Attempt => EcdsStat::UpdateAttempt,
                    Event::Success => EcdsStat::UpdateSuccess,
                    Event::Empty => return,
                    Event::Rejected => EcdsStat::UpdateRejected,
                    Event::Failure => EcdsStat::UpdateFailure,
                    Event::FetchTimeout => EcdsStat::InitFetchTimeout,
                });
                if let Event::Rejected | Event::FetchTimeout = event {
                    cells.inc(EcdsStat::ConfigFail);
                }
            }
            Self::Scopes(all) => {
                let stat = match event {
                    Event::Attempt => ScopedRdsStat::UpdateAttempt,
                    Event::Success => ScopedRdsStat::UpdateSuccess,
                    // Envoy has the row and counts nothing there.
                    Event::Empty => return,
                    Event::Rejected => ScopedRdsStat::UpdateRejected,
                    Event::Failure => ScopedRdsStat::UpdateFailure,
                    Event::FetchTimeout => ScopedRdsStat::InitFetchTimeout,
                };
                all.iter().for_each(|cells| cells.inc(stat));
            }
            Self::Routes(all) => all.iter().for_each(|cells| {
                cells.inc(match event {
                    Event::Attempt => RdsStat::UpdateAttempt,
                    Event::Success => RdsStat::UpdateSuccess,
                    Event::Empty => RdsStat::UpdateEmpty,
                    Event::Rejected => RdsStat::UpdateRejected,
                    Event::Failure => RdsStat::UpdateFailure,
                    Event::FetchTimeout => RdsStat::InitFetchTimeout,
                });
            }),
            Self::VirtualHosts(all) => all.iter().for_each(|cells| {
                cells.inc(match event {
                    Event::Attempt => VhdsStat::UpdateAttempt,
                    Event::Success => VhdsStat::UpdateSuccess,
                    Event::Empty => VhdsStat::UpdateEmpty,
                    Event::Rejected => VhdsStat::UpdateRejected,
                    Event::Failure => VhdsStat::UpdateFailure,
                    Event::FetchTimeout => VhdsStat::InitFetchTimeout,
                });
            }),
        }
    }

    /// A filter was told before that cannot stand where it is asked for now.
    pub(super) fn conflict(&self) {
        if let Self::Filter(cells) = self {
            cells.inc(EcdsStat::ConfigConflict);
        }
    }

    /// Another filter is used from now on, or one that was is gone; a response with scopes was taken; a table has been told virtual
    /// hosts, or has lost some.
    pub(super) fn reload(&self) {
        match self {
            Self::Filter(cells) => cells.inc(EcdsStat::ConfigReload),
            Self::VirtualHosts(all) => all.iter().for_each(|cells| cells.inc(VhdsStat::ConfigReload)),
            Self::Scopes(all) => all.iter().for_each(|cells| {
                cells.inc(ScopedRdsStat::ConfigReload);
                cells.gauge_set(ScopedRdsStat::ConfigReloadTimeMs, clock::wall_ns() / 1_000_000);
            }),
            _ => {}
        }
    }

    /// How many scopes there are. The table of each is asked for: all of them are active.
    pub(super) fn show_scopes(&self, counts: ScopeCounts) {
        let Self::Scopes(all) = self else { return };
        for cells in all.iter() {
            cells.gauge_set(ScopedRdsStat::AllScopes, counts.all);
            cells.gauge_set(ScopedRdsStat::ActiveScopes, counts.all);
            cells.gauge_set(ScopedRdsStat::OnDemandScopes, counts.on_demand);
        }
    }

    /// The version that is in use.
    pub(super) fn show_version(&self, version: u64) {
        match self {
            Self::Cluster(scope) => scope.note(&[(ClusterStat::Version, version)]),
            Self::Clusters(cells) => cells.gauge_set(ServerStat::CdsVersion, version),
            Self::Listeners(cells) => cells.gauge_set(ServerStat::LdsVersion, version),
            Self::Runtime(cells) => cells.gauge_set(ServerStat::RuntimeVersion, version),
            Self::Secret(cells) => cells.gauge_set(SdsStat::Version, version),
            Self::Filter(cells) => cells.gauge_set(EcdsStat::Version, version),
            Self::Scopes(all) => {
                all.iter().for_each(|cells| cells.gauge_set(ScopedRdsStat::Version, version));
            }
            Self::Routes(all) => all.iter().for_each(|cells| cells.gauge_set(RdsStat::Version, version)),
            Self::VirtualHosts(all) => {
                all.iter().for_each(|cells| cells.gauge_set(VhdsStat::Version, version));
            }
        }
    }
}
