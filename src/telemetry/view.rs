//! What a scrape sees of one scope: its prefix, its labels, and its numbers, merged at the moment they are asked.
//!
//! A view holds the scopes alive, not copies of their numbers, so a scrape of many clusters costs no memory per
//! metric and can be rendered piece by piece.
use super::codes::{CodeCounts, Origin};
use super::family::{At, CODE_LABEL, Family, FamilyKind, ViewKind};
use super::histogram::Distribution;
use super::metrics::Scope;
use super::names::{
    ClusterStat, EcdsStat, HttpStat, Kind, ListenerStat, ProxyProtocolStat, RbacStat, RdsStat, ScopedRdsStat,
    SdsStat, ServerStat, Stats, VhdsStat,
};
use super::plain::Plain;
use std::ops::Range;
use std::sync::Arc;

/// One scope, ready to be rendered.
#[derive(Clone, Debug)]
pub struct View {
    pub kind: ViewKind,
    /// Envoy's prefix of the names, with its final dot: `cluster.a.`; empty for the process.
    pub prefix: String,
    /// Prometheus labels, and where in the prefix their values begin; a dot follows them.
    pub labels: Vec<(&'static str, Box<str>, usize)>,
    pub(super) source: Source,
    /// What counters had counted when they were last reset.
    pub(super) base: Option<Arc<Totals>>,
    /// What the process before this one had counted.
    pub(super) inherited: Option<Arc<Totals>>,
    /// Histograms at the last flush, and what they gathered in the interval before it.
    pub(super) history: Option<Arc<Vec<Interval>>>,
}

/// One number of a family.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub value: u64,
    /// Whether anybody ever wrote it.
    pub used: bool,
    /// Its code, in families that have one value per response code.
    pub code: Option<u16>,
}

/// A histogram of a family.
#[derive(Clone, Debug, Default)]
pub struct Histograms {
    /// Since the start.
    pub cumulative: Distribution,
    /// In the last whole flush interval.
    pub interval: Distribution,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Server(Arc<Scope<ServerStat>>),
    Listener(Arc<Scope<ListenerStat>>),
    Cluster(Arc<Scope<ClusterStat>>),
    ProxyProtocol(Arc<Scope<ProxyProtocolStat>>),
    Rds(Arc<Scope<RdsStat>>),
    Vhds(Arc<Scope<VhdsStat>>),
    ScopedRds(Arc<Scope<ScopedRdsStat>>),
    Sds(Arc<Scope<SdsStat>>),
    Ecds(Arc<Scope<EcdsStat>>),
    /// All managers of one prefix, and what managers that are gone had counted.
    Http(Vec<Arc<Scope<HttpStat>>>, Option<Arc<Totals>>),
    Plain(Plain),
    /// Which rows are shown before somebody has counted in them.
    Rbac(Arc<Scope<RbacStat>>, RbacRows),
}

/// Rows of access by role that are always shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RbacRows {
    pub(super) enforced: bool,
    pub(super) shadow: bool,
}

/// Frozen numbers of a scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) values: Vec<u64>,
    pub(super) codes: [CodeCounts; 2],
    pub(super) histograms: Vec<Distribution>,
}

/// A histogram between two flushes.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub(super) flushed: Distribution,
    pub(super) gathered: Distribution,
}

impl View {
    /// Calls `f` with each number of a family; not for histograms.
    pub fn points(&self, family: &Family, mut f: impl FnMut(Point)) {
        let mut point = |value, used, code| f(Point { value, used, code });
        match family.at {
            At::Row(row) => {
                let kind = if family.kind == FamilyKind::Counter { Kind::Counter } else { Kind::Gauge };
                let used = self.row(row).1;
                if used || self.is_always_shown(row) {
                    point(self.shown(row, kind), used, None);
                }
            }
            At::Agreed(row) => {
                let (value, used) = (self.shown(row, Kind::Counter), self.row(row).1);
                if used {
                    point(value, used, None);
                }
            }
            At::Worker { row, worker } => {
                let value = self.worker_row(row, worker);
                point(value, value != 0, None);
            }
            At::Codes(origin) => {
                for (code, count) in self.codes(origin).iter() {
                    point(count, true, Some(code));
                }
            }
            // Like Envoy's, these appear when they are first counted, but for the total.
            At::Class(origin, class) => {
                let codes = self.codes(origin);
                if codes.iter().any(|(code, _)| code / 100 == class) {
                    point(codes.class(class), true, None);
                }
            }
            At::Completed(origin) => {
                let codes = self.codes(origin);
                if origin.is_none() || codes.iter().next().is_some() {
                    point(codes.total(), codes.iter().next().is_some(), None);
                }
            }
            At::Histogram(..) => {}
        }
    }

    /// The numbers of a family of histograms.
    pub fn histograms(&self, family: &Family) -> Histograms {
        let mut result = Histograms::default();
        if let At::Histogram(first, last) = family.at {
            for index in first..=last {
                result.cumulative.add_all(&self.histogram(index));
                if let Some(interval) = self.history.as_ref().and_then(|history| history.get(index)) {
                    result.interval.add_all(&interval.gathered);
                }
            }
        }
        result
    }

    /// Envoy's full name of a number.
    pub fn name(&self, family: &Family, code: Option<u16>) -> String {
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        [&self.prefix, &*family.text, &code].concat()
    }

    /// Calls `f` with each of Envoy's own tags of a number, the more special ones first, as Envoy does: its Prometheus
    /// label, its value, and the part of the full name that it takes out.
    pub fn tags(
        &self,
        family: &Family,
        code: Option<u16>,
        mut f: impl FnMut(&'static str, &str, Range<usize>),
    ) {
        let end = self.prefix.len() + family.text.len();
        if let Some(code) = code {
            let code = code.to_string();
            // The stem ends in an underscore, which goes as well.
            f(CODE_LABEL, &code, end - 1..end + code.len());
        }
        if let Some(label) = &family.label {
            let start = self.prefix.len() + label.cut.start;
            f(label.name, &label.value, start..self.prefix.len() + label.cut.end);
        }
        for (name, value, start) in &self.labels {
            f(name, value, *start..start + value.len() + 1);
        }
    }

    pub(super) fn histogram(&self, index: usize) -> Distribution {
        let mut merged = Distribution::default();
        match &self.source {
            Source::Server(scope) => scope.merge_histogram(index, &mut merged),
            Source::Listener(scope) => scope.merge_histogram(index, &mut merged),
            Source::Cluster(scope) => scope.merge_histogram(index, &mut merged),
            Source::Rbac(scope, _) => scope.merge_histogram(index, &mut merged),
            Source::ProxyProtocol(scope) => scope.merge_histogram(index, &mut merged),
            Source::Rds(scope) => scope.merge_histogram(index, &mut merged),
            Source::Vhds(scope) => scope.merge_histogram(index, &mut merged),
            Source::ScopedRds(scope) => scope.merge_histogram(index, &mut merged),
            Source::Sds(scope) => scope.merge_histogram(index, &mut merged),
            Source::Ecds(scope) => scope.merge_histogram(index, &mut merged),
            Source::Http(scopes, retired) => {
                scopes.iter().for_each(|scope| scope.merge_histogram(index, &mut merged));
                if let Some(gone) = retired.as_ref().and_then(|retired| retired.histograms.get(index)) {
                    merged.add_all(gone);
                }
            }
            Source::Plain(_) => {}
        }
        merged
    }

    pub(super) fn histogram_count(&self) -> usize {
        match (self.kind, &self.source) {
            (ViewKind::ListenerHttp, _) | (_, Source::Plain(_)) => 0,
            (_, Source::Server(_)) => ServerStat::HISTOGRAMS.len(),
            (_, Source::Listener(_)) => ListenerStat::HISTOGRAMS.len(),
            (_, Source::Cluster(_)) => ClusterStat::HISTOGRAMS.len(),
            (_, Source::ProxyProtocol(_)) => ProxyProtocolStat::HISTOGRAMS.len(),
            (_, Source::Rds(_)) => RdsStat::HISTOGRAMS.len(),
            (_, Source::Vhds(_)) => VhdsStat::HISTOGRAMS.len(),
            (_, Source::ScopedRds(_)) => ScopedRdsStat::HISTOGRAMS.len(),
            (_, Source::Sds(_)) => SdsStat::HISTOGRAMS.len(),
            (_, Source::Ecds(_)) => EcdsStat::HISTOGRAMS.len(),
            (_, Source::Http(..)) => HttpStat::HISTOGRAMS.len(),
            (_, Source::Rbac(..)) => RbacStat::HISTOGRAMS.len(),
        }
    }

    /// Everything that has been counted, without regard to an earlier reset.
    pub(super) fn totals(&self) -> Totals {
        Totals {
            values: (0..self.kind.rows().len()).map(|row| self.row(row).0).collect(),
            codes: [Origin::Internal, Origin::External].map(|origin| self.raw_codes(origin)),
            histograms: (0..self.histogram_count()).map(|index| self.histogram(index)).collect(),
        }
    }

    /// The number of a row as it is shown: a counter since its last reset.
    pub(super) fn shown(&self, row: usize, kind: Kind) -> u64 {
        let base = self.base.as_ref().filter(|_| kind == Kind::Counter);
        self.row(row).0.saturating_sub(base.map_or(0, |base| base.values[row]))
    }

    fn is_always_shown(&self, row: usize) -> bool {
        match &self.source {
            Source::Rbac(_, RbacRows { enforced, shadow }) => {
                if row < RbacStat::ShadowAllowed.index() {
                    *enforced
                } else {
                    *shadow
                }
            }
            // Shown where somebody wants them kept.
            Source::Cluster(_) => ![
                ClusterStat::CircuitBreakersDefaultRemainingCx,
                ClusterStat::CircuitBreakersDefaultRemainingCxPools,
                ClusterStat::CircuitBreakersDefaultRemainingPending,
                ClusterStat::CircuitBreakersDefaultRemainingRq,
                ClusterStat::CircuitBreakersHighRemainingCx,
                ClusterStat::CircuitBreakersHighRemainingCxPools,
                ClusterStat::CircuitBreakersHighRemainingPending,
                ClusterStat::CircuitBreakersHighRemainingRq,
            ]
            .iter()
            .any(|stat| stat.index() == row),
            _ => true,
        }
    }

    fn row(&self, row: usize) -> (u64, bool) {
        let inherited = self.inherited.as_ref().map_or(0, |inherited| inherited.values[row]);
        let (value, used) = self.own_row(row);
        (value.wrapping_add(inherited), used || inherited != 0)
    }

    fn own_row(&self, row: usize) -> (u64, bool) {
        match &self.source {
            Source::Server(scope) => scope.value(row),
            Source::Listener(scope) => scope.value(row),
            Source::Cluster(scope) => scope.value(row),
            Source::Plain(scope) => scope.value(row),
            Source::Rbac(scope, _) => scope.value(row),
            Source::ProxyProtocol(scope) => scope.value(row),
            Source::Rds(scope) => scope.value(row),
            Source::Vhds(scope) => scope.value(row),
            Source::ScopedRds(scope) => scope.value(row),
            Source::Sds(scope) => scope.value(row),
            Source::Ecds(scope) => scope.value(row),
            Source::Http(scopes, retired) => {
                let gone = retired.as_ref().map_or(0, |retired| retired.values[row]);
                scopes
                    .iter()
                    .map(|scope| scope.value(row))
                    .fold((gone, gone != 0), |sum, value| (sum.0 + value.0, sum.1 | value.1))
            }
        }
    }

    fn worker_row(&self, row: usize, worker: usize) -> u64 {
        match &self.source {
            Source::Listener(scope) => scope.worker_value(row, worker),
            Source::Server(_)
            | Source::Cluster(_)
            | Source::Http(..)
            | Source::Plain(_)
            | Source::Rbac(..)
            | Source::ProxyProtocol(_)
            | Source::Rds(_)
            | Source::Vhds(_)
            | Source::ScopedRds(_)
            | Source::Sds(_)
            | Source::Ecds(_) => 0,
        }
    }

    pub(super) fn codes(&self, origin: Option<Origin>) -> CodeCounts {
        let one = |origin: Origin| {
            let mut codes = self.raw_codes(origin);
            if let Some(base) = &self.base {
                codes.subtract(&base.codes[origin as usize]);
            }
            codes
        };
        match origin {
            Some(origin) => one(origin),
            None => {
                let mut codes = one(Origin::Internal);
                codes.add_all(&one(Origin::External));
                codes
            }
        }
    }

    fn raw_codes(&self, origin: Origin) -> CodeCounts {
        let mut codes = CodeCounts::default();
        if let Source::Cluster(scope) = &self.source {
            scope.merge_codes(origin, &mut codes);
        }
        if let Some(inherited) = &self.inherited {
            codes.add_all(&inherited.codes[origin as usize]);
        }
        codes
    }
}
