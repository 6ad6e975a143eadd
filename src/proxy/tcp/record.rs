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
use crate::protocol::stream_info::{DetectedClose, EarlierAttempt, StreamInfo, set_text};

/// Why this side closes connections. Source: Envoy `StreamInfo::LocalCloseReasons`.
pub(super) const IDLE_TIMEOUT: &str = "tcp_session_idle_timeout";
pub(super) const MAX_DURATION: &str = "max_connection_duration_reached";
const DRAIN_CLOSE: &str = "tcp_proxy_drain_close";
/// Why it closes the endpoint's connection, unless that is for its silence: what has become of the client's.
const DOWNSTREAM_LOCAL_CLOSE: &str = "closing_upstream_tcp_connection_due_to_downstream_local_close";
const DOWNSTREAM_RESET: &str = "closing_upstream_tcp_connection_due_to_downstream_reset_close";
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
        write(connection, AccessLogType::TcpUpstreamConnected, |info| {
            set_upstream(info, connection, upstream);
        });
    }
}

/// The connection lasts.
pub(super) fn periodic(connection: &TcpConnection, upstream: &UpstreamConnection, received: u64, sent: u64) {
    write(connection, AccessLogType::TcpPeriodic, |info| {
        set_upstream(info, connection, upstream);
        set_bytes(info, received, sent);
    });
}

/// The connection is over.
pub(super) fn ended(connection: &TcpConnection, upstream: &UpstreamConnection, ended: &Ended) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        set_upstream(info, connection, upstream);
        set_bytes(info, ended.received, ended.sent);
        if connection.chain.tunneling.is_none() {
            info.upstream_local_close_reason = upstream_close_reason(ended.why);
        }
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
    write(connection, AccessLogType::TcpConnectionEnd, |info| failed.tell(info));
}

/// The connection may not go on, and is over; `is_ours`: this side has ended it.
pub(super) fn denied(connection: &TcpConnection, details: String, is_ours: bool) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        if let Some(upstream) = connection.upstream.get() {
            set_upstream(info, connection, upstream);
            if is_ours && connection.chain.tunneling.is_none() {
                info.upstream_local_close_reason = DOWNSTREAM_LOCAL_CLOSE;
            }
        }
        info.connection_termination_details = details;
        if is_ours {
            info.downstream_local_close_reason = DENY_CLOSE;
        }
    });
}

/// The connection has reached no endpoint.
pub(super) fn failed(connection: &TcpConnection, failure: &Failure) {
    write(connection, AccessLogType::TcpConnectionEnd, |info| {
        failure.flags.iter().for_each(|flag| info.response_flags.set(*flag));
        info.downstream_local_close_reason = failure.close_reason;
        if let Some(cluster) = &failure.cluster {
            set_cluster(info, cluster);
        }
        if let Some(host) = &failure.host {
            set_host(info, host);
        }
        if let Some(host) = &failure.attempted {
            info.earlier_attempts.push(attempt(host));
        }
        if [CONNECT_FAILED, NO_HEALTHY_UPSTREAM, LIMIT_EXCEEDED].contains(&failure.close_reason) {
            info.upstream_timing.begin_ns = failure.begun.map(|begun| begun.0);
            info.upstream_timing.pool_answered(connection.context.runtime.now().0);
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

/// Why this side closes a relay's connection to its endpoint; empty: it does not, or with the last byte of both. Source: Envoy
/// `TcpUpstream::onDownstreamEvent`.
fn upstream_close_reason(why: Why) -> &'static str {
    match why {
        Why::Finished { .. } | Why::UpstreamReset => "",
        Why::DownstreamReset => DOWNSTREAM_RESET,
        Why::Idle => IDLE_TIMEOUT,
        Why::TooOld | Why::Drained => DOWNSTREAM_LOCAL_CLOSE,
    }
}

/// What is told of an attempt that another followed, or that has failed: of no connection, as in Envoy.
pub(super) fn attempt(host: &Host) -> EarlierAttempt {
    let host_name = host.with_hostname(str::to_owned);
    EarlierAttempt { host: host.stream_address(), host_name, connection_id: 0 }
}

fn set_upstream(info: &mut StreamInfo, connection: &TcpConnection, upstream: &UpstreamConnection) {
    info.counts_last_attempt = true;
    let (start, end) = (upstream.connect_start().map(|start| start.0), upstream.opened().0);
    let timing = &mut info.upstream_timing;
    (timing.connect_start_ns, timing.connect_end_ns) = (start, start.map(|_| end));
    let more = connection.rare.get().and_then(|rare| rare.reached_in_ns.get());
    timing.pool_ready_ns = more.or_else(|| start.map(|start| end.saturating_sub(start)));
    set_cluster(info, upstream.cluster());
    set_host(info, upstream.host());
    info.upstream_local_address = upstream.local_address();
    info.upstream_remote_address = upstream.host().stream_address();
    info.upstream_connection_id = upstream.id();
    info.upstream_tls = upstream.tls().cloned();
}

fn set_cluster(info: &mut StreamInfo, cluster: &Cluster) {
    set_text(&mut info.upstream_cluster, &cluster.config().name);
    set_text(&mut info.upstream_cluster_alt_stat_name, cluster.config().alt_stat_name());
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
    let now = context.runtime.now().0;
    if is_end {
        stream.info.complete_ns = Some(now);
        stream.info.downstream_timing.connection_end_ns = Some(now);
    }
    fill(&mut stream.info);
    let info = &stream.info;
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
    if let Some(rare) = connection.rare.get() {
        info.earlier_attempts.clone_from(&rare.earlier_attempts.borrow());
    }
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
