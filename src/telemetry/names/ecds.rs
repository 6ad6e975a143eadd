//! Rows of filters that come from a control plane or a file, written by `control::xds::client` and by whoever compiles them. Source:
//! Envoy "Extension configuration", statistics.
super::metrics! {
    /// What came of a filter: `extension_config_discovery.http_filter.<name>.`, `.network_filter.` or `.tcp_listener_filter.`.
    EcdsStat {
        ConfigConflict Counter "config_conflict",
        ConfigFail Counter "config_fail",
        ConfigReload Counter "config_reload",
        InitFetchTimeout Counter "init_fetch_timeout",
        UpdateAttempt Counter "update_attempt",
        UpdateFailure Counter "update_failure",
        UpdateRejected Counter "update_rejected",
        UpdateSuccess Counter "update_success",
        Version Gauge "version",
    }
    /// It has none.
    EcdsHistogram {}
    codes: 0
}
