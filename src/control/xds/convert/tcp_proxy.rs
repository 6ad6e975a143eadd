//! The TCP proxy.
use std::time::Duration;

use super::access_log;
use super::at::At;
use super::fields::classify;
use super::{format, proxy_protocol, route};
use crate::config::tcp_proxy::{
    Backoff, IDLE_TIMEOUT_DEFAULT, TcpCluster, TcpProxy, Tunneling, WeightedTcpCluster,
};
use crate::control::xds::pb;
use pb::tcp_proxy::{TcpProxyClusterSpecifierOneOf, UpstreamConnectMode};
use pb::types::HashPolicyPolicySpecifierOneOf;

/// One TCP proxy.
pub(super) fn convert(at: &At<'_>, message: pb::tcp_proxy::TcpProxy) -> Option<TcpProxy> {
    classify!(at, message => pb::tcp_proxy::TcpProxy {
        implemented: stat_prefix, cluster_specifier, idle_timeout, access_log, max_connect_attempts, backoff_options,
            max_downstream_connection_duration, max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval, flush_access_log_on_connected, access_log_options,
            hash_policy = "read by RING_HASH and MAGLEV",
            tunneling_config = "over HTTP/1.1 where the cluster speaks its client's protocol",
            upstream_connect_mode = "where a chain has TLS, the handshake comes first in any case",
            proxy_protocol_tlvs = "where the cluster's pass_through_tlvs has their types",
            proxy_protocol_tlv_merge_policy = "they are merged once, in Envoy with each attempt",
            check_drain_close;
        no_effect: downstream_idle_timeout = "Envoy does not implement it",
            upstream_idle_timeout = "Envoy does not implement it",
            metadata_match = "only subsets, which are refused, read it",
            max_early_data_bytes = "data that comes before the endpoint is reached waits in the socket";
        refused: on_demand;
    });
    let cluster = match cluster_specifier {
        Some(TcpProxyClusterSpecifierOneOf::Cluster(name)) => Some(TcpCluster::One(name.into())),
        Some(TcpProxyClusterSpecifierOneOf::WeightedClusters(message)) => {
            Some(TcpCluster::Weighted(weighted(&at.field("weighted_clusters"), message)))
        }
        None => {
            at.error("one of cluster, weighted_clusters must be set");
            None
        }
    };
    let waits_for_data = match at.enumeration("upstream_connect_mode", upstream_connect_mode) {
        UpstreamConnectMode::Immediate | UpstreamConnectMode::OnDownstreamTlsHandshake => false,
        UpstreamConnectMode::OnDownstreamData => true,
    };
    if waits_for_data && max_early_data_bytes.is_none() {
        at.field("max_early_data_bytes").error("must be set with upstream_connect_mode: ON_DOWNSTREAM_DATA");
    }
    let mut log = TcpAccessLog {
        flush_interval: access_log_flush_interval,
        on_connected: flush_access_log_on_connected,
        on_start: false,
    };
    if let Some(options) = access_log_options {
        if log.flush_interval.is_some() || log.on_connected {
            at.field("access_log_options").error(
                "access_log_flush_interval and flush_access_log_on_connected beside it are deprecated: set them in here only",
            );
        }
        let at = &at.field("access_log_options");
        classify!(at, options => pb::tcp_proxy::TcpProxyTcpAccessLogOptions {
            implemented: access_log_flush_interval, flush_access_log_on_connected, flush_access_log_on_start;
        });
        log = TcpAccessLog {
            flush_interval: access_log_flush_interval,
            on_connected: flush_access_log_on_connected,
            on_start: flush_access_log_on_start,
        };
    }
    let jitter = max_downstream_connection_duration_jitter_percentage
        .map(|percent| at.percent("max_downstream_connection_duration_jitter_percentage", percent) / 100.0);
    let hashes_source_ip = hashes_source_ip(at, hash_policy);
    let backoff = backoff_options.and_then(|message| backoff(&at.field("backoff_options"), message));
    let idle_timeout = at.timeout("idle_timeout", idle_timeout, Some(IDLE_TIMEOUT_DEFAULT));
    let max_duration = at.duration("max_downstream_connection_duration", max_downstream_connection_duration);
    let access_log = access_log::access_logs(at, "access_log", access_log);
    let tunneling = tunneling_config.map(|message| tunneling(&at.field("tunneling_config"), message));
    let tlvs = proxy_protocol::header_tlvs(at, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy);
    Some(TcpProxy {
        stat_prefix: stat_prefix.into(),
        cluster: cluster?,
        idle_timeout,
        max_downstream_connection_duration: max_duration,
        max_downstream_connection_duration_jitter: jitter.unwrap_or_default(),
        check_drain_close: check_drain_close.unwrap_or(false),
        connect_attempts_max: max_connect_attempts.unwrap_or(1),
        waits_for_data,
        hashes_source_ip,
        tunneling,
        tlvs,
        backoff,
        access_log,
        access_log_flush_interval: at.duration("access_log_flush_interval", log.flush_interval),
        flush_access_log_on_connected: log.on_connected,
        flush_access_log_on_start: log.on_start,
    })
}

/// Whether the client's address is what balancers hash.
fn hashes_source_ip(at: &At<'_>, policies: Vec<pb::types::HashPolicy>) -> bool {
    if policies.len() > 1 {
        at.field("hash_policy").error("must have at most one policy");
    }
    let mut hashes = false;
    for (index, policy) in policies.into_iter().enumerate() {
        let at = &at.item("hash_policy", index);
        classify!(at, policy => pb::types::HashPolicy {
            implemented: policy_specifier = "source_ip; filter_state hashes nothing";
        });
        match policy_specifier {
            Some(HashPolicyPolicySpecifierOneOf::SourceIp(message)) => {
                classify!(&at.field("source_ip"), message => pb::types::HashPolicySourceIp {});
                hashes = true;
            }
            Some(HashPolicyPolicySpecifierOneOf::FilterState(message)) => {
                classify!(&at.field("filter_state"), message => pb::types::HashPolicyFilterState {
                    no_effect: key = "nothing that is filter state here has a hash: as in Envoy without it, any endpoint is picked";
                });
            }
            None => at.error("one of source_ip, filter_state must be set"),
        }
    }
    hashes
}

/// When connections are recorded besides their ends.
struct TcpAccessLog {
    flush_interval: Option<pb::google::Duration>,
    on_connected: bool,
    on_start: bool,
}

/// Most headers that are added to a tunnel's request. Source: Envoy's constraint on `headers_to_add`.
const TUNNEL_HEADERS_MAX: usize = 1000;

fn tunneling(at: &At<'_>, message: pb::tcp_proxy::TcpProxyTunnelingConfig) -> Tunneling {
    classify!(at, message => pb::tcp_proxy::TcpProxyTunnelingConfig {
        implemented: hostname, use_post, headers_to_add, post_path;
        no_effect: propagate_response_headers = "they are no filter state here: no filter reads it, and FILTER_STATE writes -",
            propagate_response_trailers = "they are no filter state here: no filter reads it, and FILTER_STATE writes -",
            request_id_header = "of a request_id_extension, which is not there yet",
            request_id_metadata_key = "of a request_id_extension, which is not there yet";
        not_yet: request_id_extension;
        refused: formatters = "no formatter extensions";
    });
    if hostname.is_empty() {
        at.field("hostname").error("must not be empty");
    }
    format::check(&at.field("hostname"), &hostname);
    if !use_post && !post_path.is_empty() {
        at.field("post_path").error("must not be set without use_post");
    }
    if headers_to_add.len() > TUNNEL_HEADERS_MAX {
        at.field("headers_to_add").error(format!("more than {TUNNEL_HEADERS_MAX}"));
    }
    let post_path = if post_path.is_empty() { "/".into() } else { post_path };
    Tunneling {
        hostname: hostname.into(),
        post_path: use_post.then(|| post_path.into()),
        headers_to_add: route::header::values(at, "headers_to_add", headers_to_add),
    }
}

fn weighted(at: &At<'_>, message: pb::tcp_proxy::TcpProxyWeightedCluster) -> Vec<WeightedTcpCluster> {
    classify!(at, message => pb::tcp_proxy::TcpProxyWeightedCluster { implemented: clusters; });
    let convert = |(index, message): (usize, pb::tcp_proxy::TcpProxyWeightedClusterClusterWeight)| {
        let at = &at.item("clusters", index);
        classify!(at, message => pb::tcp_proxy::TcpProxyWeightedClusterClusterWeight {
            implemented: name, weight;
            no_effect: metadata_match = "only subsets, which are refused, read it";
        });
        WeightedTcpCluster { name: name.into(), weight }
    };
    clusters.into_iter().enumerate().map(convert).collect()
}

/// Waits that grow: of the TCP proxy, and whoever else has them.
pub(super) fn backoff(at: &At<'_>, message: pb::core::BackoffStrategy) -> Option<Backoff> {
    classify!(at, message => pb::core::BackoffStrategy { implemented: base_interval, max_interval; });
    let base = at.duration("base_interval", base_interval)?.max(Duration::from_millis(1));
    let max = at.duration("max_interval", max_interval).unwrap_or_else(|| base.saturating_mul(10));
    if max < base {
        at.field("max_interval").error("must be greater than or equal to the base_interval");
    }
    Some(Backoff { base, max })
}
