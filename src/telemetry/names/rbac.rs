//! Rows of access by role, written by the filters `rbac` of requests and of connections. Source: Envoy "RBAC statistics".
super::metrics! {
    /// Metrics of the rules of one filter, below `http.<stat_prefix>.rbac.<rules_stat_prefix>.` or `<stat_prefix>.rbac.`; of
    /// one policy, with `policy.<name>.` behind it.
    RbacStat {
        Allowed Counter "allowed",
        Denied Counter "denied",
        ShadowAllowed Counter "shadow_allowed",
        ShadowDenied Counter "shadow_denied",
    }
    /// They have no histograms.
    RbacHistogram {}
    codes: 0
}
