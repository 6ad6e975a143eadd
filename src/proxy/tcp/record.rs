//! What is recorded of a relayed connection: its facts, put together when a record is written.

use super::super::access::DENY_CLOSE;
use super::super::handshake::Failed;
use super::TcpConnection;
use super::connect::Failure;
use super::relay::{Ended, Why};
use crate::base::xx_hash::xx_hash;
use crate::cluster::pool::UpstreamConnection;
use crate::cluster::{Cluster, Host};
use crate::config::access_log::AccessLogType;
use crate::format::context::FormatContext;
use crate::protocol::http::forwarding::uuid_v4;
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::stream_info::{DetectedClose, StreamInfo, set_text};

/// Why this side closes connections. Source: Envoy `StreamInfo::LocalCloseReasons`.
pub(super) const IDLE_TIMEOUT: &str = "tcp_session_idle_timeout";
pub(super) const MAX_DURATION: &str = "max_connection_duration_reached";
const DRAIN_CLOSE: &str = "tcp_proxy_drain_close";
/// Why it closes those that have reached no endpoint. Source: as above, `TcpProxyInitializationFailure`, whose spelling this is, with
/// the number of Envoy's `UpstreamFailureReason`.
pub(super) const CONNECT_FAILED: &str = "tcp_initializion_failure:0";
pub(super) const NO_HEALTHY_UPSTREAM: &str = "tcp_initializion_failure:1";
pub(super) const LIMIT_EXCEEDED: &str = "tcp_initializion_failure:2";
pub(super) const NO_ROUTE: &str = "tcp_initializion_failure:3";

/// The connection has begun.
pub(super) fn begun(connection: &TcpConnection) {
    if connection.chain.config.flush_access_log_on_start {
        write(connection, AccessLogType::TcpConnectionStart, |_| {});
    }
}

/// The connection has reached an endpoint.
pub(super) fn connected(connection: &TcpConnection, upstream: &UpstreamConnection) {
    if connection.chain.config.flush_access_log_on_connected {
        write(connection, AccessLogType::TcpUpstreamConnected, |info| set_upstream(info, upstream));
    }
}

/// The connection lasts.
pub(super) fn periodic(connection: &TcpConnection, upstream: &UpstreamConnection, received: u64, sent: u64) {
    write(connection, AccessLogType::TcpPeriodic, |info| {
        set_upstream(info, upstream);
        set_bytes(info, received, sent);
    });
}

/// The connection is over.
pub(super) fn ended(connection: &TcpConnection, upstream: &UpstreamConnection, ended: &Ended) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        set_upstream(info, upstream);
        info.complete_ns = Some(connection.context.runtime.now().0);
        set_bytes(info, ended.received, ended.sent);
        match ended.why {
            Why::Finished { .. } => {}
            Why::DownstreamReset => info.downstream_detected_close = DetectedClose::RemoteReset,
            Why::UpstreamReset => {
                info.response_flags.set(ResponseFlag::UpstreamRemoteReset);
                info.upstream_detected_close = DetectedClose::RemoteReset;
                info.downstream_detected_close = DetectedClose::LocalReset;
            }
            Why::Idle => info.downstream_local_close_reason = IDLE_TIMEOUT,
            Why::Drained => info.downstream_local_close_reason = DRAIN_CLOSE,
            Why::TooOld => {
                info.response_flags.set(ResponseFlag::DurationTimeout);
                info.downstream_local_close_reason = MAX_DURATION;
            }
        }
    });
}

/// The connection's handshake came to nothing.
pub(super) fn unprotected(connection: &TcpConnection, failed: Failed) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        info.complete_ns = Some(connection.context.runtime.now().0);
        failed.tell(info);
    });
}

/// The connection may not go on, and is over; `is_ours`: this side has ended it.
pub(super) fn denied(connection: &TcpConnection, details: String, is_ours: bool) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        if let Some(upstream) = connection.upstream.get() {
            set_upstream(info, upstream);
        }
        info.complete_ns = Some(connection.context.runtime.now().0);
        info.connection_termination_details = details;
        if is_ours {
            info.downstream_local_close_reason = DENY_CLOSE;
        }
    });
}

/// The connection has reached no endpoint.
pub(super) fn failed(connection: &TcpConnection, failure: &Failure) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        info.complete_ns = Some(connection.context.runtime.now().0);
        failure.flags.iter().for_each(|flag| info.response_flags.set(*flag));
        info.downstream_local_close_reason = failure.close_reason;
        if let Some(cluster) = &failure.cluster {
            set_cluster(info, cluster);
        }
        if let Some(host) = &failure.host {
            set_host(info, host);
        }
        if let Some(error) = failure.error {
            error.write_reason(failure.host.as_deref(), &mut info.upstream_transport_failure_reason);
        }
    });
}

/// What has passed: on both sides the same, as in Envoy.
fn set_bytes(info: &mut StreamInfo, received: u64, sent: u64) {
    (info.bytes_received, info.bytes_sent) = (received, sent);
    let (downstream, upstream) = (&mut info.downstream_bytes, &mut info.upstream_bytes);
    (downstream.wire_received, downstream.wire_sent) = (received, sent);
    (upstream.wire_received, upstream.wire_sent) = (sent, received);
}

fn set_upstream(info: &mut StreamInfo, upstream: &UpstreamConnection) {
    set_cluster(info, upstream.cluster());
    set_host(info, upstream.host());
    info.upstream_local_address = upstream.local_address();
    info.upstream_remote_address = upstream.host().stream_address();
    info.upstream_connection_id = upstream.id();
    info.upstream_tls = upstream.tls().cloned();
}

fn set_cluster(info: &mut StreamInfo, cluster: &Cluster) {
    set_text(&mut info.upstream_cluster, &cluster.config().name);
}

fn set_host(info: &mut StreamInfo, host: &Host) {
    info.upstream_host = host.stream_address();
    host.with_hostname(|name| set_text(&mut info.upstream_host_name, name));
}

/// Writes a record to the logs of the chain; at the end also to those of the listener.
fn write(connection: &TcpConnection, log_type: AccessLogType, fill: impl FnOnce(&mut StreamInfo)) {
    let TcpConnection { context, listener, chain, .. } = connection;
    let is_end = log_type == AccessLogType::TcpConnectionEnd;
    if chain.access_logs.is_empty() && (!is_end || listener.access_logs.is_empty()) {
        return;
    }
    let mut stream = context.streams.take();
    describe(connection, &mut stream.info);
    if connection.has_failed.get() {
        stream.info.response_flags.set(ResponseFlag::UpstreamConnectionFailure);
    }
    fill(&mut stream.info);
    let info = &stream.info;
    let now = context.runtime.now().0;
    let format = FormatContext { log_type, ..FormatContext::new(info, now, context.random()) };
    let matching = &mut chain.matching.borrow_mut();
    context.write_logs(&chain.access_logs, &format, matching);
    if is_end {
        let format = FormatContext { log_type: AccessLogType::NotSet, ..format };
        context.write_logs(&listener.access_logs, &format, &mut listener.matching.borrow_mut());
    }
}

/// What is known of the client's side.
pub(super) fn describe(connection: &TcpConnection, info: &mut StreamInfo) {
    let TcpConnection { chain, listener, remote, local, inspected, tls, id, opened, opened_unix_ns, .. } =
        connection;
    let direct =
        inspected.as_ref().map_or((remote, local), |known| (&known.direct_remote, &known.direct_local));
    (info.start_time_unix_ns, info.start_ns) = (*opened_unix_ns, opened.0);
    info.connection_id = *id;
    info.attempt_count = connection.attempts.get();
    // Of whatever is unlike: in all records of a connection it is the same, and nothing has to be kept for it.
    let own = (u128::from(*id) << 64 | u128::from(*opened_unix_ns)).to_ne_bytes();
    info.request_id.clear();
    info.request_id.extend_from_slice(&uuid_v4(xx_hash(&own, 0), xx_hash(&own, 1)));
    info.downstream_remote_address = remote.clone();
    info.downstream_direct_remote_address = direct.0.clone();
    info.downstream_local_address = local.clone();
    info.downstream_direct_local_address = direct.1.clone();
    set_text(&mut info.listener_name, &listener.config.name);
    set_text(&mut info.filter_chain_name, &chain.name);
    set_text(&mut info.requested_server_name, connection.server_name().unwrap_or_default());
    info.proxy_tlvs = inspected.as_ref().and_then(|known| known.tlv_state());
    match &connection.admitted.asked {
        Some(asked) => asked.write_metadata(&mut info.dynamic_metadata),
        None => inspected.iter().for_each(|known| known.note_metadata(&mut info.dynamic_metadata)),
    }
    info.downstream_tls.clone_from(tls);
}
