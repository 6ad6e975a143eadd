//! Rows of network filters.
super::metrics! {
    /// Metrics of TCP proxies of one prefix: `tcp.<stat_prefix>.`, written by `proxy::tcp`. Source: Envoy "TCP proxy",
    /// without bytes in buffers.
    TcpStat {
        DownstreamCxDrainClose Counter "downstream_cx_drain_close",
        DownstreamCxNoRoute Counter "downstream_cx_no_route",
        DownstreamCxRxBytesTotal Counter "downstream_cx_rx_bytes_total",
        DownstreamCxTotal Counter "downstream_cx_total",
        DownstreamCxTxBytesTotal Counter "downstream_cx_tx_bytes_total",
        DownstreamFlowControlPausedReadingTotal Counter "downstream_flow_control_paused_reading_total",
        DownstreamFlowControlResumedReadingTotal Counter "downstream_flow_control_resumed_reading_total",
        IdleTimeout Counter "idle_timeout",
        MaxDownstreamConnectionDuration Counter "max_downstream_connection_duration",
        UpstreamFlushActive Gauge "upstream_flush_active",
        UpstreamFlushTotal Counter "upstream_flush_total",
    }
    /// None.
    TcpHistogram {}
    codes: 0
}
super::metrics! {
    /// Metrics of connection limits of one prefix: `connection_limit.<stat_prefix>.`. Source: Envoy "Connection limit filter".
    ConnectionLimitStat {
        ActiveConnections Gauge "active_connections",
        LimitedConnections Counter "limited_connections",
    }
    /// None.
    ConnectionLimitHistogram {}
    codes: 0
}
super::metrics! {
    /// Metrics of local rate limits of one prefix: `local_rate_limit.<stat_prefix>.`. Source: Envoy "Local rate limit" of
    /// network filters.
    LocalRateLimitStat {
        RateLimited Counter "rate_limited",
    }
    /// None.
    LocalRateLimitHistogram {}
    codes: 0
}
