//! Rows of virtual hosts that are told by themselves, written by `control::xds::client`. Source: Envoy "HTTP connection manager",
//! VHDS.
super::metrics! {
    /// What came of a table's virtual hosts: `http.<stat_prefix>.vhds.<route_config_name>.`.
    VhdsStat {
        ConfigReload Counter "config_reload",
        InitFetchTimeout Counter "init_fetch_timeout",
        UpdateAttempt Counter "update_attempt",
        UpdateEmpty Counter "update_empty",
        UpdateFailure Counter "update_failure",
        UpdateRejected Counter "update_rejected",
        UpdateSuccess Counter "update_success",
        Version Gauge "version",
    }
    /// It has none.
    VhdsHistogram {}
    codes: 0
}
