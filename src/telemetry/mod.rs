//! Metric names, per-core counters, histograms and the application log.
//!
//! Writers are the workers (through `metrics::Cells`, one writer per cell, no atomic read-modify-write) and,
//! through cells of their own, the control and log threads. The only reader is the control thread, through
//! `registry`; it merges when somebody scrapes, and only then is a name turned into text.
pub mod codes;
pub mod family;
pub mod histogram;
pub mod inherited;
pub mod load_metrics;
pub mod log;
pub mod metrics;
pub mod names;
mod plain;
pub mod registry;
pub mod view;

pub use codes::Origin;
pub use inherited::Bequest;
pub use load_metrics::{LoadMetrics, LoadSum};
pub use metrics::{
    Cells, ClusterCells, EcdsCells, HostCells, HttpCells, ListenerCells, ProxyProtocolCells, RbacCells,
    RdsCells, Scope, ScopedRdsCells, SdsCells, ServerCells, Slot, VhdsCells,
};
pub use names::{
    ClusterHistogram, ClusterStat, ConnectionLimitStat, EcdsStat, HostStat, HttpHistogram, HttpStat,
    ListenerHistogram, ListenerStat, LocalRateLimitStat, ProxyProtocolStat, RbacStat, RdsStat, ScopedRdsStat,
    SdsStat, ServerHistogram, ServerStat, TcpStat, VhdsStat,
};
pub use registry::{RbacOwner, RbacPart, Registry};
