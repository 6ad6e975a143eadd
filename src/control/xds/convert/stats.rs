//! What statistics are kept and how they are tagged.
use super::at::At;
use super::fields::classify;
use super::matcher;
use crate::base::regex::TagRegex;
use crate::config::bootstrap::{HistogramBuckets, StatsConfig, StatsMatcher, TagSpecifier, TagValue};
use crate::control::xds::pb;
use pb::bootstrap::{StatsMatcherStatsMatcherOneOf, TagSpecifierTagValueOneOf};

/// Names of the tags that Envoy 1.40 takes out by itself, those of what is not here yet included: they are in no name.
const OWN_TAGS: [&str; 47] = [
    "cipher_suite",
    "envoy.clientssl_prefix",
    "envoy.cluster_name",
    "envoy.connection_limit_prefix",
    "envoy.dns_filter_prefix",
    "envoy.dynamo_operation",
    "envoy.dynamo_partition_id",
    "envoy.dynamo_table",
    "envoy.ext_authz_prefix",
    "envoy.fault_downstream_cluster",
    "envoy.google_grpc_client_prefix",
    "envoy.grpc_bridge_method",
    "envoy.grpc_bridge_service",
    "envoy.http_conn_manager_prefix",
    "envoy.http_user_agent",
    "envoy.listener_address",
    "envoy.local_http_ratelimit_prefix",
    "envoy.local_listener_ratelimit_prefix",
    "envoy.local_network_ratelimit_prefix",
    "envoy.mongo_callsite",
    "envoy.mongo_cmd",
    "envoy.mongo_collection",
    "envoy.mongo_prefix",
    "envoy.proxy_protocol_prefix",
    "envoy.proxy_protocol_version",
    "envoy.ratelimit_prefix",
    "envoy.rbac_http_prefix",
    "envoy.rbac_policy_name",
    "envoy.rbac_prefix",
    "envoy.rds_route_config",
    "envoy.redis_prefix",
    "envoy.response_code",
    "envoy.response_code_class",
    "envoy.route",
    "envoy.scoped_rds_config",
    "envoy.ssl_cipher",
    "envoy.ssl_curve",
    "envoy.ssl_sigalg",
    "envoy.ssl_version",
    "envoy.tcp_prefix",
    "envoy.thrift_prefix",
    "envoy.tls_certificate",
    "envoy.udp_prefix",
    "envoy.virtual_cluster",
    "envoy.virtual_host",
    "envoy.worker_id",
    "envoy.xds_resource_name",
];

/// `stats_config`.
pub(super) fn stats_config(at: &At<'_>, message: pb::bootstrap::StatsConfig) -> StatsConfig {
    classify!(at, message => pb::bootstrap::StatsConfig {
        implemented: stats_tags, use_all_default_tags, stats_matcher, histogram_bucket_settings,
            allow_default_tag_overrides;
    });
    StatsConfig {
        tags: stats_tags
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| tag(&at.item("stats_tags", index), message))
            .collect(),
        use_all_default_tags: use_all_default_tags.unwrap_or(true),
        tags_replace_default: allow_default_tag_overrides.unwrap_or(false),
        matcher: stats_matcher
            .map(|message| self::stats_matcher(&at.field("stats_matcher"), message))
            .unwrap_or_default(),
        histogram_buckets: histogram_bucket_settings
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| buckets(&at.item("histogram_bucket_settings", index), message))
            .collect(),
        ..StatsConfig::default()
    }
}

/// A tag.
fn tag(at: &At<'_>, message: pb::bootstrap::TagSpecifier) -> Option<TagSpecifier> {
    classify!(at, message => pb::bootstrap::TagSpecifier { implemented: tag_name, tag_value; });
    let value = match tag_value {
        Some(TagSpecifierTagValueOneOf::FixedValue(text)) => TagValue::Fixed(text.into()),
        Some(TagSpecifierTagValueOneOf::Regex(regex)) if !regex.is_empty() => {
            if let Err(error) = TagRegex::compile(&regex) {
                at.field("regex").error(error.to_string());
            }
            TagValue::Regex(regex.into())
        }
        _ if OWN_TAGS.contains(&&*tag_name) => TagValue::Default,
        _ => {
            at.error(format!("no regex specified, and {tag_name:?} is none of Envoy's own tags"));
            return None;
        }
    };
    Some(TagSpecifier { name: tag_name.into(), value })
}

fn stats_matcher(at: &At<'_>, message: pb::bootstrap::StatsMatcher) -> StatsMatcher {
    use StatsMatcherStatsMatcherOneOf as Wire;
    classify!(at, message => pb::bootstrap::StatsMatcher { implemented: stats_matcher; });
    match stats_matcher {
        Some(Wire::RejectAll(true)) => StatsMatcher::RejectAll,
        Some(Wire::RejectAll(false)) => StatsMatcher::All,
        Some(Wire::ExclusionList(list)) => {
            StatsMatcher::Exclude(matcher::string_list(&at.field("exclusion_list"), list))
        }
        Some(Wire::InclusionList(list)) => {
            StatsMatcher::Include(matcher::string_list(&at.field("inclusion_list"), list))
        }
        None => {
            at.error("one of reject_all, exclusion_list, inclusion_list must be set");
            StatsMatcher::All
        }
    }
}

fn buckets(at: &At<'_>, message: pb::bootstrap::HistogramBucketSettings) -> Option<HistogramBuckets> {
    classify!(at, message => pb::bootstrap::HistogramBucketSettings {
        implemented: r#match, buckets;
        no_effect: bins = "a histogram takes memory as its values come";
    });
    let mut bounds = buckets;
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let Some(matcher) = r#match else {
        at.field("match").error("must be set");
        return None;
    };
    let matcher = matcher::string(&at.field("match"), matcher)?;
    Some(HistogramBuckets { matcher, bounds })
}
