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
        DownstreamListenerFilterError Counter "downstream_listener_filter_error",
        DownstreamListenerFilterRemoteClose Counter "downstream_listener_filter_remote_close",
        DownstreamPreCxActive Gauge "downstream_pre_cx_active",
        DownstreamPreCxTimeout Counter "downstream_pre_cx_timeout",
        NoFilterChainMatch Counter "no_filter_chain_match",
        SslCipherEcdsaAes128 Counter "ssl.ciphers.ECDHE-ECDSA-AES128-GCM-SHA256",
        SslCipherEcdsaAes256 Counter "ssl.ciphers.ECDHE-ECDSA-AES256-GCM-SHA384",
        SslCipherEcdsaChacha20 Counter "ssl.ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
        SslCipherRsaAes128 Counter "ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256",
        SslCipherRsaAes256 Counter "ssl.ciphers.ECDHE-RSA-AES256-GCM-SHA384",
        SslCipherRsaChacha20 Counter "ssl.ciphers.ECDHE-RSA-CHACHA20-POLY1305",
        SslCipherAes128 Counter "ssl.ciphers.TLS_AES_128_GCM_SHA256",
        SslCipherAes256 Counter "ssl.ciphers.TLS_AES_256_GCM_SHA384",
        SslCipherChacha20 Counter "ssl.ciphers.TLS_CHACHA20_POLY1305_SHA256",
        SslConnectionError Counter "ssl.connection_error",
        SslCurveP256 Counter "ssl.curves.P-256",
        SslCurveP384 Counter "ssl.curves.P-384",
        SslCurveP521 Counter "ssl.curves.P-521",
        SslCurveX25519 Counter "ssl.curves.X25519",
        SslCurveX25519Mlkem768 Counter "ssl.curves.X25519MLKEM768",
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
        SslVersion12 Counter "ssl.versions.TLSv1.2",
        SslVersion13 Counter "ssl.versions.TLSv1.3",
    }
    /// Histograms below `listener.<address>.`.
    ListenerHistogram {
        ConnectionsAcceptedPerSocketEvent "connections_accepted_per_socket_event",
        DownstreamCxLengthMs "downstream_cx_length_ms",
    }
    codes: 0
}
