//! Rows of the HTTP connection manager, written by `proxy`. Source: Envoy "HTTP connection manager statistics"
//! and "Router statistics"; those of protocols and filters that are not here yet are left out, and so are
//! bytes in buffers, as those of clusters.
super::metrics! {
    /// Metrics of one HTTP connection manager: `http.<stat_prefix>.` (and the classes of responses again
    /// under `listener.<address>.http.<stat_prefix>.`).
    HttpStat {
        DownstreamCxActive Gauge "downstream_cx_active",
        DownstreamCxDelayedCloseTimeout Counter "downstream_cx_delayed_close_timeout",
        DownstreamCxDestroy Counter "downstream_cx_destroy",
        DownstreamCxDestroyActiveRq Counter "downstream_cx_destroy_active_rq",
        DownstreamCxDestroyLocal Counter "downstream_cx_destroy_local",
        DownstreamCxDestroyLocalActiveRq Counter "downstream_cx_destroy_local_active_rq",
        DownstreamCxDestroyRemote Counter "downstream_cx_destroy_remote",
        DownstreamCxDestroyRemoteActiveRq Counter "downstream_cx_destroy_remote_active_rq",
        DownstreamCxDrainClose Counter "downstream_cx_drain_close",
        DownstreamCxHttp1Active Gauge "downstream_cx_http1_active",
        /// Those that are too old and wait for the response that ends them (`http1_safe_max_connection_duration`).
        DownstreamCxHttp1SoftDrain Gauge "downstream_cx_http1_soft_drain",
        DownstreamCxHttp1Total Counter "downstream_cx_http1_total",
        DownstreamCxHttp2Active Gauge "downstream_cx_http2_active",
        DownstreamCxHttp2Total Counter "downstream_cx_http2_total",
        DownstreamCxIdleTimeout Counter "downstream_cx_idle_timeout",
        DownstreamCxMaxDurationReached Counter "downstream_cx_max_duration_reached",
        DownstreamCxMaxRequestsReached Counter "downstream_cx_max_requests_reached",
        DownstreamCxProtocolError Counter "downstream_cx_protocol_error",
        DownstreamCxRxBytesTotal Counter "downstream_cx_rx_bytes_total",
        DownstreamCxSslActive Gauge "downstream_cx_ssl_active",
        DownstreamCxSslTotal Counter "downstream_cx_ssl_total",
        DownstreamCxTotal Counter "downstream_cx_total",
        DownstreamCxTxBytesTotal Counter "downstream_cx_tx_bytes_total",
        DownstreamCxUpgradesActive Gauge "downstream_cx_upgrades_active",
        DownstreamCxUpgradesTotal Counter "downstream_cx_upgrades_total",
        DownstreamFlowControlPausedReadingTotal Counter "downstream_flow_control_paused_reading_total",
        DownstreamFlowControlResumedReadingTotal Counter "downstream_flow_control_resumed_reading_total",
        DownstreamRq1xx Counter "downstream_rq_1xx",
        DownstreamRq2xx Counter "downstream_rq_2xx",
        DownstreamRq3xx Counter "downstream_rq_3xx",
        DownstreamRq4xx Counter "downstream_rq_4xx",
        DownstreamRq5xx Counter "downstream_rq_5xx",
        DownstreamRqActive Gauge "downstream_rq_active",
        DownstreamRqCompleted Counter "downstream_rq_completed",
        DownstreamRqFailedPathNormalization Counter "downstream_rq_failed_path_normalization",
        DownstreamRqHeaderTimeout Counter "downstream_rq_header_timeout",
        DownstreamRqHttp1Total Counter "downstream_rq_http1_total",
        DownstreamRqHttp2Total Counter "downstream_rq_http2_total",
        DownstreamRqIdleTimeout Counter "downstream_rq_idle_timeout",
        DownstreamRqMaxDurationReached Counter "downstream_rq_max_duration_reached",
        DownstreamRqNonRelativePath Counter "downstream_rq_non_relative_path",
        DownstreamRqRedirectedWithNormalizedPath Counter "downstream_rq_redirected_with_normalized_path",
        DownstreamRqResponseBeforeRqComplete Counter "downstream_rq_response_before_rq_complete",
        DownstreamRqRxReset Counter "downstream_rq_rx_reset",
        DownstreamRqTimeout Counter "downstream_rq_timeout",
        DownstreamRqTooLarge Counter "downstream_rq_too_large",
        DownstreamRqTooManyPrematureResets Counter "downstream_rq_too_many_premature_resets",
        DownstreamRqTotal Counter "downstream_rq_total",
        DownstreamRqTxReset Counter "downstream_rq_tx_reset",
        DownstreamRqWsOnNonWsRoute Counter "downstream_rq_ws_on_non_ws_route",
        NoCluster Counter "no_cluster",
        NoRoute Counter "no_route",
        RqDirectResponse Counter "rq_direct_response",
        RqRedirect Counter "rq_redirect",
        RqResetAfterDownstreamResponseStarted Counter "rq_reset_after_downstream_response_started",
        RqTotal Counter "rq_total",
        RsTooLarge Counter "rs_too_large",
    }
    /// Histograms below `http.<stat_prefix>.`, in milliseconds.
    HttpHistogram {
        DownstreamCxLengthMs "downstream_cx_length_ms",
        DownstreamRqTime "downstream_rq_time",
    }
    codes: 0
}
