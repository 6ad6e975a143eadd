//! Rows of listener filters for the PROXY protocol, written by `proxy::listener_filters`. Source: Envoy "Proxy Protocol".
super::metrics! {
    /// What came of connections: `proxy_proto.`, or `proxy_proto.<stat_prefix>.`.
    ProxyProtocolStat {
        NotFoundAllowed Counter "not_found_allowed",
        NotFoundDisallowed Counter "not_found_disallowed",
        V1Disallowed Counter "versions.v1.disallowed",
        V1Error Counter "versions.v1.error",
        V1Found Counter "versions.v1.found",
        V2Disallowed Counter "versions.v2.disallowed",
        V2Error Counter "versions.v2.error",
        V2Found Counter "versions.v2.found",
    }
    /// It has none.
    ProxyProtocolHistogram {}
    codes: 0
}
