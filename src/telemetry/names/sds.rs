//! Rows of secrets that come from a control plane or a file, written by `control::xds::client`. Source: Envoy "Secret discovery
//! service (SDS)".
super::metrics! {
    /// What came of a secret: `sds.<name>.`.
    SdsStat {
        InitFetchTimeout Counter "init_fetch_timeout",
        UpdateAttempt Counter "update_attempt",
        UpdateFailure Counter "update_failure",
        UpdateRejected Counter "update_rejected",
        UpdateSuccess Counter "update_success",
        Version Gauge "version",
    }
    /// It has none.
    SdsHistogram {}
    codes: 0
}
