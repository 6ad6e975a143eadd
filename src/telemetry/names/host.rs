//! Rows of one host of a cluster, written by `cluster` and `proxy`, shown by `/clusters`. Source: Envoy `HostStats`.
super::metrics! {
    /// Metrics of one host. They belong to no scope of the registry: whoever knows the host has them.
    HostStat {
        CxActive Gauge "cx_active",
        CxConnectFail Counter "cx_connect_fail",
        CxTotal Counter "cx_total",
        RqActive Gauge "rq_active",
        /// Responses of class 5xx, resets and time-outs.
        RqError Counter "rq_error",
        RqSuccess Counter "rq_success",
        RqTimeout Counter "rq_timeout",
        RqTotal Counter "rq_total",
    }
    /// Hosts have no histograms.
    HostHistogram {}
    codes: 0
    tables: super::NoTables;
    more: crate::telemetry::LoadMetrics;
}
