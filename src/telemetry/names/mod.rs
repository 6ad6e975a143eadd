//! The table of all metrics: one row per metric, in one file per kind of scope.
//!
//! A row gives the enum variant with which the data path names the metric, its kind and Envoy's name below the
//! scope's prefix. The variant's discriminant is its index into the cells of the scope, so adding a metric is
//! one row here and `cells.inc(..)` at its site. Rows are sorted by name, which makes `/stats` sorted as well.
//! Names under `ringway.` and those whose comment says "ours" do not exist in Envoy.
mod cluster;
mod ecds;
mod host;
mod http;
mod listener;
mod network;
mod proxy_protocol;
mod rbac;
mod rds;
mod scoped_rds;
mod sds;
mod server;
mod vhds;

use super::codes::CodeTable;
use super::histogram::Histogram;

pub use cluster::{ClusterHistogram, ClusterStat};
pub use ecds::EcdsStat;
pub use host::{HostHistogram, HostStat};
pub use http::{HttpHistogram, HttpStat};
pub use listener::{ListenerHistogram, ListenerStat};
pub use network::{ConnectionLimitStat, LocalRateLimitStat, TcpStat};
pub use proxy_protocol::{ProxyProtocolHistogram, ProxyProtocolStat};
pub use rbac::{RbacHistogram, RbacStat};
pub use rds::RdsStat;
pub use scoped_rds::ScopedRdsStat;
pub use sds::SdsStat;
pub use server::{ServerHistogram, ServerStat};
pub use vhds::VhdsStat;

/// How a metric is merged over the writers, and what Prometheus is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; summed.
    Counter,
    /// Goes up and down; summed.
    Gauge,
}

/// What handshakes agree on: the beginning of the names of its rows, and the label that Prometheus has instead of the rest.
/// Such a row is shown once it was counted, as in Envoy. Source: Envoy "TLS statistics"; of resumed sessions no signature is known
/// here.
pub const AGREED: [(&str, &str); 4] = [
    ("ssl.ciphers.", "envoy_ssl_cipher"),
    ("ssl.curves.", "envoy_ssl_curve"),
    ("ssl.sigalgs.", "envoy_ssl_sigalg"),
    ("ssl.versions.", "envoy_ssl_version"),
];

/// One counter or gauge of a scope.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Envoy's name below the prefix of the scope, such as `downstream_rq_total`.
    pub name: &'static str,
    pub kind: Kind,
}

/// The metrics of one kind of scope; implemented by the enums of this module only.
pub trait Stats: Copy + Send + Sync + 'static {
    /// `[AtomicU64; N]`, one cell per row.
    type Values: AsRef<[std::sync::atomic::AtomicU64]> + std::fmt::Debug + Send + Sync;
    /// The enum that names the scope's histograms.
    type Histogram: HistogramIndex;
    /// Rows in the order of the discriminants.
    const ROWS: &'static [Row];
    /// Histograms' names in the order of the discriminants.
    const HISTOGRAMS: &'static [&'static str];
    /// How many tables of response codes the scope keeps.
    const CODE_TABLES: usize;
    /// What the control thread notes of scopes without cells of its own, in groups, each of which a scope has room for once
    /// something of it is noted: of [`NOTES_OF_GROUP_MAX`] rows at most.
    const NOTED: [&'static [Self]; NOTES_MAX] = [&[], &[]];
    /// What a writer keeps beside them; most nothing.
    type More: Default + std::fmt::Debug + Send + Sync;
    /// Where a writer has its histograms and tables of response codes, and whether its block fills whole cache lines.
    type Tables: Tables;
    fn zeroed() -> Self::Values;
    fn index(self) -> usize;
}

/// Histograms and tables of response codes of one writer.
pub trait Tables: std::fmt::Debug + Send + Sync {
    /// Nothing, in a place where a block may begin.
    type Begin: Default + std::fmt::Debug + Send + Sync;
    /// So many of each.
    fn new(histograms: usize, codes: usize) -> Self;
    fn histograms(&self) -> &[Histogram];
    fn codes(&self) -> &[CodeTable];
}

/// Those of a block that begins on a cache line and fills whole ones, so that no other allocation, of another writer perhaps, lies on
/// them.
#[derive(Debug)]
pub struct OnLines {
    histograms: Box<[Histogram]>,
    codes: Box<[CodeTable]>,
}

/// Where a cache line does.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct CacheLine;

impl Tables for OnLines {
    type Begin = CacheLine;

    fn new(histograms: usize, codes: usize) -> Self {
        Self {
            histograms: (0..histograms).map(|_| Histogram::default()).collect(),
            codes: (0..codes).map(|_| CodeTable::default()).collect(),
        }
    }

    fn histograms(&self) -> &[Histogram] {
        &self.histograms
    }

    fn codes(&self) -> &[CodeTable] {
        &self.codes
    }
}

/// None, of a block that is as small as can be, since there are thousands: each is made by its worker itself, from pages that nobody else
/// has.
#[derive(Debug)]
pub struct NoTables;

impl Tables for NoTables {
    type Begin = ();

    fn new(histograms: usize, codes: usize) -> Self {
        debug_assert!(histograms == 0 && codes == 0);
        Self
    }

    fn histograms(&self) -> &[Histogram] {
        &[]
    }

    fn codes(&self) -> &[CodeTable] {
        &[]
    }
}

/// Groups of notes of one scope.
pub const NOTES_MAX: usize = 2;

/// Rows of a group of them. A block of so many is found by one word, which is all that a scope has of a group before.
pub const NOTES_OF_GROUP_MAX: usize = 10;

/// Index of a histogram within its scope.
pub trait HistogramIndex: Copy + Send + Sync + 'static {
    fn index(self) -> usize;
}

/// Writes the enums and their [`Stats`] from the rows.
macro_rules! metrics {
    (
        $(#[$doc:meta])*
        $stat:ident { $( $(#[$row_doc:meta])* $variant:ident $kind:ident $name:literal, )* }
        $(#[$histogram_doc:meta])*
        $histogram:ident { $( $(#[$h_doc:meta])* $h_variant:ident $h_name:literal, )* }
        codes: $codes:literal
        $( tables: $tables:ty; )?
        $( more: $more:ty; )?
        $( noted: $noted:expr )?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $stat { $( $(#[$row_doc])* $variant, )* }

        $(#[$histogram_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $histogram { $( $(#[$h_doc])* $h_variant, )* }

        impl $crate::telemetry::names::Stats for $stat {
            type Values = [std::sync::atomic::AtomicU64; <$stat as $crate::telemetry::names::Stats>::ROWS.len()];
            type Histogram = $histogram;
            type More = $crate::telemetry::names::given!((), $( $more )?);
            type Tables = $crate::telemetry::names::given!($crate::telemetry::names::OnLines, $( $tables )?);
            const ROWS: &'static [$crate::telemetry::names::Row] = &[
                $( $crate::telemetry::names::Row {
                    name: $name,
                    kind: $crate::telemetry::names::Kind::$kind,
                }, )*
            ];
            const HISTOGRAMS: &'static [&'static str] = &[ $( $h_name, )* ];
            const CODE_TABLES: usize = $codes;
            $( const NOTED: [&'static [Self]; $crate::telemetry::names::NOTES_MAX] = $noted; )?
            fn zeroed() -> Self::Values {
                [const { std::sync::atomic::AtomicU64::new(0) }; <$stat as $crate::telemetry::names::Stats>::ROWS.len()]
            }
            fn index(self) -> usize { self as usize }
        }

        impl $crate::telemetry::names::HistogramIndex for $histogram {
            fn index(self) -> usize { self as usize }
        }
    };
}
use metrics;

/// The type that is given; without one, the first.
macro_rules! given {
    ($without:ty,) => {
        $without
    };
    ($without:ty, $given:ty) => {
        $given
    };
}
use given;

#[cfg(test)]
mod tests {
    use super::*;

    fn check<S: Stats>() {
        let names: Vec<_> = S::ROWS.iter().map(|row| row.name).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "rows are sorted and unique: {names:?}");
        assert!(S::HISTOGRAMS.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(S::zeroed().as_ref().len(), names.len());
        assert!(S::NOTED.iter().all(|group| group.len() <= NOTES_OF_GROUP_MAX));
        let agreed = |name: &&&str| AGREED.iter().any(|(group, _)| name.starts_with(group));
        for name in names.iter().chain(S::HISTOGRAMS).filter(|name| !agreed(name)) {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b)));
        }
    }

    #[test]
    fn rows_of_every_scope_are_sorted_unique_and_plain() {
        check::<ServerStat>();
        check::<ListenerStat>();
        check::<HttpStat>();
        check::<ClusterStat>();
        check::<HostStat>();
        check::<TcpStat>();
        check::<ConnectionLimitStat>();
        check::<LocalRateLimitStat>();
        check::<EcdsStat>();
        check::<RdsStat>();
        check::<VhdsStat>();
        check::<ScopedRdsStat>();
        check::<SdsStat>();
        check::<RbacStat>();
        check::<ProxyProtocolStat>();
    }

    #[test]
    fn discriminant_of_a_stat_is_its_row() {
        assert_eq!(HttpStat::ROWS[HttpStat::DownstreamRqTotal.index()].name, "downstream_rq_total");
        assert_eq!(ClusterStat::ROWS[ClusterStat::UpstreamCxActive.index()].kind, Kind::Gauge);
        let index = ClusterHistogram::ExternalUpstreamRqTime.index();
        assert_eq!(ClusterStat::HISTOGRAMS[index], "external.upstream_rq_time");
    }
}
