//! Rows of the process: those of Envoy by the control thread (`server::metrics`, `control::admin`) and, of listener filters,
//! by the workers; `ringway.*` by the runtime of each worker.
//! Source: Envoy "Server statistics", "Cluster manager", "Listener manager", "File system" and "Runtime".
super::metrics! {
    /// Metrics of the process; their names are complete.
    ServerStat {
        ClusterManagerActiveClusters Gauge "cluster_manager.active_clusters",
        CdsInitFetchTimeout Counter "cluster_manager.cds.init_fetch_timeout",
        CdsUpdateAttempt Counter "cluster_manager.cds.update_attempt",
        CdsUpdateFailure Counter "cluster_manager.cds.update_failure",
        CdsUpdateRejected Counter "cluster_manager.cds.update_rejected",
        CdsUpdateSuccess Counter "cluster_manager.cds.update_success",
        CdsVersion Gauge "cluster_manager.cds.version",
        ClusterManagerClusterAdded Counter "cluster_manager.cluster_added",
        ClusterManagerClusterModified Counter "cluster_manager.cluster_modified",
        ClusterManagerClusterRemoved Counter "cluster_manager.cluster_removed",
        /// How often a cluster in use was told other endpoints. Envoy counts each of their priorities; endpoints that connections bring
        /// (`ORIGINAL_DST`) are counted nowhere but in `membership_change`.
        ClusterManagerClusterUpdated Counter "cluster_manager.cluster_updated",
        ClusterManagerWarmingClusters Gauge "cluster_manager.warming_clusters",
        ControlPlaneConnectedState Gauge "control_plane.connected_state",
        /// By listener filters for the PROXY protocol: connections closed for a header that is missing or malformed.
        DownstreamCxProxyProtoError Counter "downstream_cx_proxy_proto_error",
        FilesystemFlushedByTimer Counter "filesystem.flushed_by_timer",
        FilesystemReopenFailed Counter "filesystem.reopen_failed",
        FilesystemWriteBuffered Counter "filesystem.write_buffered",
        FilesystemWriteCompleted Counter "filesystem.write_completed",
        FilesystemWriteFailed Counter "filesystem.write_failed",
        FilesystemWriteTotalBuffered Gauge "filesystem.write_total_buffered",
        Http1DroppedHeadersWithUnderscores Counter "http1.dropped_headers_with_underscores",
        Http1RequestsRejectedWithUnderscoresInHeaders Counter "http1.requests_rejected_with_underscores_in_headers",
        Http2DroppedHeadersWithUnderscores Counter "http2.dropped_headers_with_underscores",
        Http2GoawaySent Counter "http2.goaway_sent",
        Http2HeaderOverflow Counter "http2.header_overflow",
        Http2InboundEmptyFramesFlood Counter "http2.inbound_empty_frames_flood",
        Http2InboundPriorityFramesFlood Counter "http2.inbound_priority_frames_flood",
        Http2InboundWindowUpdateFramesFlood Counter "http2.inbound_window_update_frames_flood",
        Http2KeepaliveTimeout Counter "http2.keepalive_timeout",
        Http2OutboundControlFlood Counter "http2.outbound_control_flood",
        Http2RequestsRejectedWithUnderscoresInHeaders Counter "http2.requests_rejected_with_underscores_in_headers",
        Http2RxMessagingError Counter "http2.rx_messaging_error",
        Http2RxReset Counter "http2.rx_reset",
        /// By streams of clients that do not take in time what is queued for them once it is complete.
        Http2TxFlushTimeout Counter "http2.tx_flush_timeout",
        Http2TxReset Counter "http2.tx_reset",
        HttpInspectorHttp10Found Counter "http_inspector.http10_found",
        HttpInspectorHttp11Found Counter "http_inspector.http11_found",
        HttpInspectorHttp2Found Counter "http_inspector.http2_found",
        HttpInspectorHttpNotFound Counter "http_inspector.http_not_found",
        HttpInspectorReadError Counter "http_inspector.read_error",
        LdsInitFetchTimeout Counter "listener_manager.lds.init_fetch_timeout",
        LdsUpdateAttempt Counter "listener_manager.lds.update_attempt",
        LdsUpdateFailure Counter "listener_manager.lds.update_failure",
        LdsUpdateRejected Counter "listener_manager.lds.update_rejected",
        LdsUpdateSuccess Counter "listener_manager.lds.update_success",
        LdsVersion Gauge "listener_manager.lds.version",
        ListenerManagerListenerAdded Counter "listener_manager.listener_added",
        ListenerManagerListenerCreateFailure Counter "listener_manager.listener_create_failure",
        ListenerManagerListenerCreateSuccess Counter "listener_manager.listener_create_success",
        ListenerManagerListenerModified Counter "listener_manager.listener_modified",
        ListenerManagerListenerRemoved Counter "listener_manager.listener_removed",
        ListenerManagerListenerStopped Counter "listener_manager.listener_stopped",
        /// Chains of listeners that were changed in place, until the drain time has passed. Connections that another chain takes over
        /// stay all the same.
        ListenerManagerTotalFilterChainsDraining Gauge "listener_manager.total_filter_chains_draining",
        ListenerManagerTotalListenersActive Gauge "listener_manager.total_listeners_active",
        /// Likewise listeners that are gone or that others have replaced.
        ListenerManagerTotalListenersDraining Gauge "listener_manager.total_listeners_draining",
        ListenerManagerTotalListenersWarming Gauge "listener_manager.total_listeners_warming",
        ListenerManagerWorkersStarted Gauge "listener_manager.workers_started",
        LoadReporterErrors Counter "load_reporter.errors",
        LoadReporterRequests Counter "load_reporter.requests",
        LoadReporterResponses Counter "load_reporter.responses",
        LoadReporterRetries Counter "load_reporter.retries",
        /// Ours: chunks handed out by the pools, small and large.
        BufferChunksInUse Gauge "ringway.buffer.chunks_in_use",
        /// Ours: requests for a chunk refused because the pool had reached its maximum.
        BufferExhausted Counter "ringway.buffer.exhausted",
        /// Ours: bytes of chunk memory held by the pools, used or free.
        BufferResidentBytes Gauge "ringway.buffer.resident_bytes",
        /// Ours: what a worker made itself of that which is made with its first use: the thread for it had too much to do.
        DeferredMadeByWorkers Counter "ringway.deferred.made_by_workers",
        /// Ours: connections and requests that waited until something was made with its first use: TLS of a cluster, regular
        /// expressions of a virtual host.
        DeferredWaits Counter "ringway.deferred.waits",
        /// Ours: connections that the kernel accepted for a listener that was already gone.
        IoAcceptDropped Counter "ringway.io.accept_dropped",
        /// Ours: accepts refused by the kernel for want of a file descriptor (EMFILE, ENFILE).
        IoAcceptEmfile Counter "ringway.io.accept_emfile",
        /// Ours: events or completions taken from the kernel.
        IoCompletions Counter "ringway.io.completions",
        /// Ours: times the kernel reported an overflowing completion queue.
        IoCqOverflow Counter "ringway.io.cq_overflow",
        /// Ours: receives that ended because the provided-buffer ring was empty.
        IoEnobufs Counter "ringway.io.enobufs",
        /// Ours: system calls into the kernel to submit or wait.
        IoEnters Counter "ringway.io.enters",
        /// Ours: connections to internal listeners refused, as there were too many or they lay too deep in each other.
        IoInternalRefused Counter "ringway.io.internal_refused",
        /// Ours: pipes with bytes of spliced bodies and relays in them.
        IoPipes Gauge "ringway.io.pipes",
        /// Ours: sends of which the kernel took only a part.
        IoShortSends Counter "ringway.io.short_sends",
        /// Ours: pipes and splices that the kernel or our limit refused, so that bytes were copied.
        IoSpliceRefused Counter "ringway.io.splice_refused",
        /// Ours: bytes that passed from socket to socket without a copy.
        IoSplicedBytes Counter "ringway.io.spliced_bytes",
        /// Ours: pieces in which they passed.
        IoSplices Counter "ringway.io.splices",
        /// Ours: reports of endpoints' load with too many metrics, and values of metrics for whose name there is no room.
        LoadMetricsRefused Counter "ringway.load_metrics.refused",
        /// Ours: bytes of access-log records dropped because the queue to the log thread was full.
        LogAccessDroppedBytes Counter "ringway.log.access_dropped_bytes",
        /// Ours: lines of the application log that could not be written.
        LogDropped Counter "ringway.log.dropped",
        /// Ours: of the heap the memory of connections' and requests' tasks.
        MemoryFutures Gauge "ringway.memory.futures",
        /// Ours: heap of the workers in bytes, allocated and not freed. This and its parts follow a worker's last activity
        /// by a second.
        MemoryHeap Gauge "ringway.memory.heap",
        /// Ours: of it the tables of upstream connections that are idle.
        MemoryPools Gauge "ringway.memory.pools",
        /// Ours: of it the table of sockets, without what their queues hold.
        MemorySocketQueues Gauge "ringway.memory.socket_queues",
        MemorySockets Gauge "ringway.memory.sockets",
        /// Ours: of it requests' state that no request uses at the moment.
        MemoryStreams Gauge "ringway.memory.streams",
        /// Ours: of it the table of tasks and the run queue.
        MemoryTasks Gauge "ringway.memory.tasks",
        /// Ours: of it the timer wheel.
        MemoryTimers Gauge "ringway.memory.timers",
        /// Ours: requests that have waited for a virtual host that they ask for (`on_demand`).
        OnDemandVhdsHeld Counter "ringway.on_demand_vhds.held",
        /// Ours: requests that were not let ask for one: their host is no name, or too many have asked or wait.
        OnDemandVhdsRefused Counter "ringway.on_demand_vhds.refused",
        /// Ours: requests that have waited for one as long as they may.
        OnDemandVhdsTimeout Counter "ringway.on_demand_vhds.timeout",
        /// Ours: panics caught; each cost one connection.
        Panics Counter "ringway.panics",
        /// Ours: TLS connections that failed since unfinished messages took too much memory and theirs was begun first.
        TlsUnfinishedMessagesRefused Counter "ringway.tls.unfinished_messages_refused",
        /// Ours: TLS contexts that stay as they were, since a file of theirs cannot be read or is no good.
        TlsUpdateRejected Counter "ringway.tls.update_rejected",
        /// Ours: TLS contexts replaced since a file of theirs has changed.
        TlsUpdateSuccess Counter "ringway.tls.update_success",
        /// Ours: workers running.
        Workers Gauge "ringway.workers",
        RuntimeAdminOverridesActive Gauge "runtime.admin_overrides_active",
        RuntimeDeprecatedFeatureSeenSinceProcessStart Gauge "runtime.deprecated_feature_seen_since_process_start",
        RuntimeDeprecatedFeatureUse Counter "runtime.deprecated_feature_use",
        RuntimeInitFetchTimeout Counter "runtime.init_fetch_timeout",
        RuntimeLoadError Counter "runtime.load_error",
        RuntimeLoadSuccess Counter "runtime.load_success",
        RuntimeNumKeys Gauge "runtime.num_keys",
        RuntimeNumLayers Gauge "runtime.num_layers",
        RuntimeOverrideDirExists Counter "runtime.override_dir_exists",
        RuntimeOverrideDirNotExists Counter "runtime.override_dir_not_exists",
        RuntimeUpdateAttempt Counter "runtime.update_attempt",
        RuntimeUpdateFailure Counter "runtime.update_failure",
        RuntimeUpdateRejected Counter "runtime.update_rejected",
        RuntimeUpdateSuccess Counter "runtime.update_success",
        RuntimeVersion Gauge "runtime.version",
        Concurrency Gauge "server.concurrency",
        DaysUntilFirstCertExpiring Gauge "server.days_until_first_cert_expiring",
        DynamicUnknownFields Counter "server.dynamic_unknown_fields",
        HotRestartEpoch Gauge "server.hot_restart_epoch",
        HotRestartGeneration Gauge "server.hot_restart_generation",
        Live Gauge "server.live",
        MemoryAllocated Gauge "server.memory_allocated",
        MemoryHeapSize Gauge "server.memory_heap_size",
        MemoryPhysicalSize Gauge "server.memory_physical_size",
        ParentConnections Gauge "server.parent_connections",
        SecondsUntilFirstOcspResponseExpires Gauge "server.seconds_until_first_ocsp_response_expiring",
        State Gauge "server.state",
        StaticUnknownFields Counter "server.static_unknown_fields",
        TotalConnections Gauge "server.total_connections",
        Uptime Gauge "server.uptime",
        Version Gauge "server.version",
        TlsInspectorAlpnFound Counter "tls_inspector.alpn_found",
        TlsInspectorAlpnNotFound Counter "tls_inspector.alpn_not_found",
        TlsInspectorClientHelloTooLarge Counter "tls_inspector.client_hello_too_large",
        TlsInspectorSniFound Counter "tls_inspector.sni_found",
        TlsInspectorSniNotFound Counter "tls_inspector.sni_not_found",
        TlsInspectorTlsFound Counter "tls_inspector.tls_found",
        TlsInspectorTlsNotFound Counter "tls_inspector.tls_not_found",
    }
    /// Histograms of the process.
    ServerHistogram {
        InitializationTimeMs "server.initialization_time_ms",
        TlsInspectorBytesProcessed "tls_inspector.bytes_processed",
    }
    codes: 0
}
