//! Well-known extensions: the name of today, the name of v2, the type of the configuration.
//!
//! Only for the corrections that `legacy` suggests: an extension is always found by its type.

/// An extension that files name without saying its type.
#[derive(Debug)]
pub(super) struct Extension {
    pub(super) name: &'static str,
    /// Empty if it had no other.
    pub(super) old_name: &'static str,
    pub(super) type_name: &'static str,
}

const fn e(name: &'static str, old_name: &'static str, type_name: &'static str) -> Extension {
    Extension { name, old_name, type_name }
}

#[rustfmt::skip]
pub(super) const EXTENSIONS: &[Extension] = &[
    // Network filters.
    e("envoy.filters.network.http_connection_manager", "envoy.http_connection_manager", "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
    e("envoy.filters.network.tcp_proxy", "envoy.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
    e("envoy.filters.network.redis_proxy", "envoy.redis_proxy", "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"),
    e("envoy.filters.network.mongo_proxy", "envoy.mongo_proxy", "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy"),
    e("envoy.filters.network.ratelimit", "envoy.ratelimit", "envoy.extensions.filters.network.ratelimit.v3.RateLimit"),
    e("envoy.filters.network.local_ratelimit", "", "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"),
    e("envoy.filters.network.rbac", "", "envoy.extensions.filters.network.rbac.v3.RBAC"),
    e("envoy.filters.network.ext_authz", "envoy.ext_authz", "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"),
    e("envoy.filters.network.echo", "envoy.echo", "envoy.extensions.filters.network.echo.v3.Echo"),
    e("envoy.filters.network.direct_response", "", "envoy.extensions.filters.network.direct_response.v3.Config"),
    e("envoy.filters.network.sni_cluster", "", "envoy.extensions.filters.network.sni_cluster.v3.SniCluster"),
    e("envoy.filters.network.connection_limit", "", "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"),
    e("envoy.filters.network.zookeeper_proxy", "", "envoy.extensions.filters.network.zookeeper_proxy.v3.ZooKeeperProxy"),
    e("envoy.filters.network.thrift_proxy", "", "envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy"),
    e("envoy.filters.network.wasm", "", "envoy.extensions.filters.network.wasm.v3.Wasm"),
    // HTTP filters.
    e("envoy.filters.http.router", "envoy.router", "envoy.extensions.filters.http.router.v3.Router"),
    e("envoy.filters.http.cors", "envoy.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
    e("envoy.filters.http.grpc_web", "envoy.grpc_web", "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
    e("envoy.filters.http.grpc_stats", "", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"),
    e("envoy.filters.http.grpc_http1_bridge", "envoy.grpc_http1_bridge", "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config"),
    e("envoy.filters.http.grpc_json_transcoder", "envoy.grpc_json_transcoder", "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
    e("envoy.filters.http.fault", "envoy.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
    e("envoy.filters.http.health_check", "envoy.health_check", "envoy.extensions.filters.http.health_check.v3.HealthCheck"),
    e("envoy.filters.http.buffer", "envoy.buffer", "envoy.extensions.filters.http.buffer.v3.Buffer"),
    e("envoy.filters.http.lua", "envoy.lua", "envoy.extensions.filters.http.lua.v3.Lua"),
    e("envoy.filters.http.ratelimit", "envoy.rate_limit", "envoy.extensions.filters.http.ratelimit.v3.RateLimit"),
    e("envoy.filters.http.local_ratelimit", "", "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
    e("envoy.filters.http.ext_authz", "envoy.ext_authz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"),
    e("envoy.filters.http.ext_proc", "", "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"),
    e("envoy.filters.http.jwt_authn", "", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
    e("envoy.filters.http.rbac", "", "envoy.extensions.filters.http.rbac.v3.RBAC"),
    e("envoy.filters.http.csrf", "", "envoy.extensions.filters.http.csrf.v3.CsrfPolicy"),
    e("envoy.filters.http.compressor", "envoy.gzip", "envoy.extensions.filters.http.compressor.v3.Compressor"),
    e("envoy.filters.http.decompressor", "", "envoy.extensions.filters.http.decompressor.v3.Decompressor"),
    e("envoy.filters.http.header_to_metadata", "", "envoy.extensions.filters.http.header_to_metadata.v3.Config"),
    e("envoy.filters.http.header_mutation", "", "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"),
    e("envoy.filters.http.ip_tagging", "envoy.ip_tagging", "envoy.extensions.filters.http.ip_tagging.v3.IPTagging"),
    e("envoy.filters.http.dynamic_forward_proxy", "", "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"),
    e("envoy.filters.http.tap", "", "envoy.extensions.filters.http.tap.v3.Tap"),
    e("envoy.filters.http.wasm", "", "envoy.extensions.filters.http.wasm.v3.Wasm"),
    e("envoy.filters.http.oauth2", "", "envoy.extensions.filters.http.oauth2.v3.OAuth2"),
    e("envoy.filters.http.basic_auth", "", "envoy.extensions.filters.http.basic_auth.v3.BasicAuth"),
    e("envoy.filters.http.on_demand", "", "envoy.extensions.filters.http.on_demand.v3.OnDemand"),
    e("envoy.filters.http.original_src", "", "envoy.extensions.filters.http.original_src.v3.OriginalSrc"),
    e("envoy.filters.http.adaptive_concurrency", "", "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"),
    e("envoy.filters.http.admission_control", "", "envoy.extensions.filters.http.admission_control.v3.AdmissionControl"),
    e("envoy.filters.http.bandwidth_limit", "", "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit"),
    // Listener filters.
    e("envoy.filters.listener.tls_inspector", "envoy.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
    e("envoy.filters.listener.http_inspector", "envoy.listener.http_inspector", "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"),
    e("envoy.filters.listener.original_dst", "envoy.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"),
    e("envoy.filters.listener.original_src", "envoy.listener.original_src", "envoy.extensions.filters.listener.original_src.v3.OriginalSrc"),
    e("envoy.filters.listener.proxy_protocol", "envoy.listener.proxy_protocol", "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"),
    // Access loggers.
    e("envoy.access_loggers.file", "envoy.file_access_log", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    e("envoy.access_loggers.stdout", "", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
    e("envoy.access_loggers.stderr", "", "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"),
    e("envoy.access_loggers.http_grpc", "envoy.http_grpc_access_log", "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"),
    e("envoy.access_loggers.tcp_grpc", "envoy.tcp_grpc_access_log", "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"),
    // Transport sockets. The type of TLS is that of clusters; `legacy` knows the listeners'.
    e("envoy.transport_sockets.tls", "tls", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
    e("envoy.transport_sockets.raw_buffer", "raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"),
    e("envoy.transport_sockets.upstream_proxy_protocol", "", "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
    // Tracers, sinks, monitors, retry plugins.
    e("envoy.tracers.zipkin", "envoy.zipkin", "envoy.config.trace.v3.ZipkinConfig"),
    e("envoy.tracers.datadog", "envoy.tracers.datadog", "envoy.config.trace.v3.DatadogConfig"),
    e("envoy.tracers.opentelemetry", "", "envoy.config.trace.v3.OpenTelemetryConfig"),
    e("envoy.tracers.skywalking", "", "envoy.config.trace.v3.SkyWalkingConfig"),
    e("envoy.stat_sinks.statsd", "envoy.statsd", "envoy.config.metrics.v3.StatsdSink"),
    e("envoy.stat_sinks.dog_statsd", "envoy.dog_statsd", "envoy.config.metrics.v3.DogStatsdSink"),
    e("envoy.stat_sinks.metrics_service", "envoy.metrics_service", "envoy.config.metrics.v3.MetricsServiceConfig"),
    e("envoy.resource_monitors.fixed_heap", "", "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"),
    e("envoy.resource_monitors.global_downstream_max_connections", "", "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
    e("envoy.retry_host_predicates.previous_hosts", "", "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
    e("envoy.retry_host_predicates.omit_canary_hosts", "", "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate"),
    e("envoy.retry_priorities.previous_priorities", "", "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"),
    e("envoy.health_checkers.redis", "", "envoy.extensions.health_checkers.redis.v3.Redis"),
];
