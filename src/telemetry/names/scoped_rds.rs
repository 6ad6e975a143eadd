//! Rows of scopes of routes that come from a control plane or a file, written by `control::xds::client`. Source: Envoy "HTTP connection
//! manager", scoped RDS.
super::metrics! {
    /// What came of scopes: `http.<stat_prefix>.scoped_rds.<name>.`.
    ScopedRdsStat {
        ActiveScopes Gauge "active_scopes",
        AllScopes Gauge "all_scopes",
        ConfigReload Counter "config_reload",
        ConfigReloadTimeMs Gauge "config_reload_time_ms",
        InitFetchTimeout Counter "init_fetch_timeout",
        OnDemandScopes Gauge "on_demand_scopes",
        UpdateAttempt Counter "update_attempt",
        /// Stays 0, as in Envoy.
        UpdateEmpty Counter "update_empty",
        UpdateFailure Counter "update_failure",
        UpdateRejected Counter "update_rejected",
        UpdateSuccess Counter "update_success",
        Version Gauge "version",
    }
    /// It has none.
    ScopedRdsHistogram {}
    codes: 0
}
