//! Rows of routing tables that come from a control plane, written by `control::xds::client`. Source: Envoy "HTTP connection
//! manager", RDS.
super::metrics! {
    /// What came of a table: `http.<stat_prefix>.rds.<route_config_name>.`.
    RdsStat {
        InitFetchTimeout Counter "init_fetch_timeout",
        UpdateAttempt Counter "update_attempt",
        UpdateEmpty Counter "update_empty",
        UpdateFailure Counter "update_failure",
        UpdateRejected Counter "update_rejected",
        UpdateSuccess Counter "update_success",
        Version Gauge "version",
    }
    /// It has none.
    RdsHistogram {}
    codes: 0
}
