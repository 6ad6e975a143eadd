//! Rows of a listener, written by `proxy::listener`. Source: Envoy "Listener statistics".
//! `listener.<address>.worker_<n>.downstream_cx_*` are not rows: the registry has the numbers of each worker.
super::metrics! {
    /// Metrics of one listener: `listener.<address>.`.
    ListenerStat {
        DownstreamCxActive Gauge "downstream_cx_active",
        DownstreamCxDestroy Counter "downstream_cx_destroy",
        DownstreamCxHandedOver Counter "downstream_cx_handed_over",
        DownstreamCxOverflow Counter "downstream_cx_overflow",
        DownstreamCxTotal Counter "downstream_cx_total",
        DownstreamCxTransportSocketConnectTimeout Counter "downstream_cx_transport_socket_connect_timeout",
        DownstreamGlobalCxOverflow Counter "downstream_global_cx_overflow",
        DownstreamPreCxActive Gauge "downstream_pre_cx_active",
        NoFilterChainMatch Counter "no_filter_chain_match",
        SslConnectionError Counter "ssl.connection_error",
        SslFailVerifyCertHash Counter "ssl.fail_verify_cert_hash",
        SslFailVerifyError Counter "ssl.fail_verify_error",
        SslFailVerifyNoCert Counter "ssl.fail_verify_no_cert",
        SslFailVerifySan Counter "ssl.fail_verify_san",
        SslHandshake Counter "ssl.handshake",
        SslNoCertificate Counter "ssl.no_certificate",
        SslOcspStapleFailed Counter "ssl.ocsp_staple_failed",
        SslOcspStapleOmitted Counter "ssl.ocsp_staple_omitted",
        SslOcspStapleRequests Counter "ssl.ocsp_staple_requests",
        SslOcspStapleResponses Counter "ssl.ocsp_staple_responses",
        SslSessionReused Counter "ssl.session_reused",
    }
    /// Histograms below `listener.<address>.`.
    ListenerHistogram {
        ConnectionsAcceptedPerSocketEvent "connections_accepted_per_socket_event",
        DownstreamCxLengthMs "downstream_cx_length_ms",
    }
    codes: 0
}
