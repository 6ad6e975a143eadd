//! What routes do: forward, redirect, answer.
use super::super::at::At;
use super::super::fields::classify;
use super::super::report::Class;
use super::super::{circuit_breakers, http_filter, matcher, proxy_protocol};
use super::hash_policy;
use super::header::Mutations;
use crate::config::route::{
    ClusterNotFoundResponseCode, ClusterSpecifier, ClusterWeight, ConnectConfig, DirectResponse, HostRewrite,
    MaxStreamDuration, PathRewrite, RedirectAction, RedirectPathRewrite, RedirectResponseCode, RouteAction,
    SchemeRedirect, UpgradeConfig, WeightedClusterName, WeightedClusters,
};
use crate::control::xds::pb;
use pb::route::{
    RedirectActionPathRewriteSpecifierOneOf, RedirectActionRedirectResponseCode,
    RedirectActionSchemeRewriteSpecifierOneOf, RouteActionClusterNotFoundResponseCode,
    RouteActionClusterSpecifierOneOf, RouteActionHostRewriteSpecifierOneOf,
    WeightedClusterClusterWeightHostRewriteSpecifierOneOf, WeightedClusterRandomValueSpecifierOneOf,
};

/// Prefix of the names of fields of a route action in findings.
const ACTION: &str = "envoy.config.route.v3.RouteAction.";

/// Forwarding to a cluster.
pub(super) fn route_action(at: &At<'_>, message: pb::route::RouteAction) -> Option<RouteAction> {
    classify!(at, message => pb::route::RouteAction {
        implemented: cluster_specifier = "cluster, cluster_header, weighted_clusters; plugins are refused",
            cluster_not_found_response_code, prefix_rewrite, regex_rewrite,
            host_rewrite_specifier = "host_rewrite is refused", append_x_forwarded_host, timeout, idle_timeout,
            flush_timeout = "of HTTP/2, as in Envoy", max_grpc_timeout, grpc_timeout_offset, upgrade_configs,
            max_stream_duration,
            priority, hash_policy = "of the request as the route has changed it; filter_state hashes nothing";
        no_effect: metadata_match = "only subsets, which are refused, read it",
            early_data_policy = "TLS without early data (0-RTT): every request counts as late",
            rate_limits = "only the rate limit filter, which is refused, reads it",
            include_vh_rate_limits = "only the rate limit filter, which is refused, reads it",
            cors = "only the CORS filter, which is refused, reads it",
            max_internal_redirects = "no internal redirects";
        not_yet: retry_policy, retry_policy_typed_config, request_mirror_policies, hedge_policy;
        refused: path_rewrite_policy, path_rewrite, internal_redirect_policy, internal_redirect_action;
    });
    let mut action = RouteAction::to(ClusterSpecifier::Cluster(Box::default()));
    action.cluster_not_found_response_code =
        match at.enumeration("cluster_not_found_response_code", cluster_not_found_response_code) {
            RouteActionClusterNotFoundResponseCode::ServiceUnavailable => {
                ClusterNotFoundResponseCode::ServiceUnavailable
            }
            RouteActionClusterNotFoundResponseCode::NotFound => ClusterNotFoundResponseCode::NotFound,
            RouteActionClusterNotFoundResponseCode::InternalServerError => {
                ClusterNotFoundResponseCode::InternalServerError
            }
        };
    if !prefix_rewrite.is_empty() && regex_rewrite.is_some() {
        at.error("specify only one of prefix_rewrite, regex_rewrite");
    }
    action.path_rewrite = if !prefix_rewrite.is_empty() {
        PathRewrite::Prefix(prefix_rewrite.into())
    } else {
        regex_rewrite
            .and_then(|message| matcher::regex_rewrite(&at.field("regex_rewrite"), message))
            .map_or(PathRewrite::None, PathRewrite::Regex)
    };
    action.host_rewrite = host_rewrite(at, host_rewrite_specifier);
    action.append_x_forwarded_host = append_x_forwarded_host;
    action.timeout = at.duration("timeout", timeout).unwrap_or(action.timeout);
    action.idle_timeout = at.duration("idle_timeout", idle_timeout);
    action.flush_timeout = at.duration("flush_timeout", flush_timeout);
    action.max_grpc_timeout = at.duration("max_grpc_timeout", max_grpc_timeout);
    action.grpc_timeout_offset = at.duration("grpc_timeout_offset", grpc_timeout_offset);
    action.max_stream_duration = max_stream_duration.map(|message| {
        let at = &at.field("max_stream_duration");
        classify!(at, message => pb::route::RouteActionMaxStreamDuration {
            implemented: max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset;
        });
        MaxStreamDuration {
            max_stream_duration: at.duration("max_stream_duration", max_stream_duration),
            grpc_timeout_header_max: at.duration("grpc_timeout_header_max", grpc_timeout_header_max),
            grpc_timeout_header_offset: at.duration("grpc_timeout_header_offset", grpc_timeout_header_offset),
        }
    });
    action.priority = circuit_breakers::priority(at, priority);
    action.upgrade_configs = self::upgrade_configs(at, upgrade_configs);
    action.hash_policy = hash_policy::convert(at, hash_policy);
    action.cluster = cluster_specifier_of(at, cluster_specifier)?;
    Some(action)
}

fn cluster_specifier_of(
    at: &At<'_>,
    specifier: Option<RouteActionClusterSpecifierOneOf>,
) -> Option<ClusterSpecifier> {
    use RouteActionClusterSpecifierOneOf as Specifier;
    match specifier {
        Some(Specifier::Cluster(name)) => Some(ClusterSpecifier::Cluster(name.into())),
        Some(Specifier::ClusterHeader(name)) => Some(ClusterSpecifier::ClusterHeader(name.into())),
        Some(Specifier::WeightedClusters(message)) => {
            let clusters = weighted_clusters(&at.field("weighted_clusters"), message);
            Some(ClusterSpecifier::WeightedClusters(clusters))
        }
        Some(Specifier::ClusterSpecifierPlugin(_)) => {
            at.field("cluster_specifier_plugin").found(
                Class::Refused,
                format!("{ACTION}cluster_specifier_plugin"),
                "",
            );
            None
        }
        Some(Specifier::InlineClusterSpecifierPlugin(_)) => {
            at.field("inline_cluster_specifier_plugin").found(
                Class::Refused,
                format!("{ACTION}inline_cluster_specifier_plugin"),
                "",
            );
            None
        }
        None => {
            at.error("one of cluster, cluster_header, weighted_clusters must be set");
            None
        }
    }
}

fn weighted_clusters(at: &At<'_>, message: pb::route::WeightedCluster) -> WeightedClusters {
    classify!(at, message => pb::route::WeightedCluster {
        implemented: clusters,
            runtime_key_prefix,
            random_value_specifier = "header_name; use_hash_policy is refused";
        no_effect: total_weight = "deprecated: the sum of the weights counts";
    });
    let header_name = match random_value_specifier {
        Some(WeightedClusterRandomValueSpecifierOneOf::HeaderName(name)) => {
            Some(name.into_boxed_str()).filter(|name| !name.is_empty())
        }
        Some(WeightedClusterRandomValueSpecifierOneOf::UseHashPolicy(used)) => {
            if used {
                at.field("use_hash_policy").value_refused(
                    "envoy.config.route.v3.WeightedCluster.use_hash_policy",
                    "the hash chooses among a cluster's endpoints alone",
                );
            }
            None
        }
        None => None,
    };
    let converted: Vec<_> = clusters
        .into_iter()
        .enumerate()
        .filter_map(|(index, message)| {
            cluster_weight(&at.item("clusters", index), message, &runtime_key_prefix)
        })
        .collect();
    if !at.context.is_accepted {
        check_sum(at, &converted);
    }
    WeightedClusters { clusters: converted, header_name }
}

/// By the runtime values of the moment, as in Envoy.
fn check_sum(at: &At<'_>, clusters: &[ClusterWeight]) {
    let sum = clusters.iter().map(ClusterWeight::current_weight).fold(0, u64::saturating_add);
    if sum == 0 {
        at.error("sum of weights must be greater than 0");
    } else if sum > u64::from(u32::MAX) {
        at.error(format!("sum of weights must be at most {}", u32::MAX));
    }
}

fn cluster_weight(
    at: &At<'_>,
    message: pb::route::WeightedClusterClusterWeight,
    runtime_key_prefix: &str,
) -> Option<ClusterWeight> {
    classify!(at, message => pb::route::WeightedClusterClusterWeight {
        implemented: name, cluster_header, weight, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, host_rewrite_specifier,
            typed_per_filter_config = "disables and enables filters by their names";
        no_effect: metadata_match = "only subsets, which are refused, read it";
    });
    let header_mutations = Mutations {
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
    }
    .convert(at);
    let host_rewrite_literal = host_rewrite_specifier.map(
        |WeightedClusterClusterWeightHostRewriteSpecifierOneOf::HostRewriteLiteral(text)| {
            text.into_boxed_str()
        },
    );
    let filters = http_filter::overrides(at, typed_per_filter_config);
    let runtime_key = match runtime_key_prefix {
        "" => None,
        prefix => at.context.runtime.key(&format!("{prefix}.{name}")),
    };
    if weight.is_none() {
        at.field("weight").error("must be set");
    }
    let weight = weight.unwrap_or(0);
    let cluster = match (name.is_empty(), cluster_header.is_empty()) {
        (false, true) => WeightedClusterName::Cluster(name.into()),
        (true, false) => WeightedClusterName::ClusterHeader(cluster_header.into()),
        (false, false) => {
            at.error("only one of name and cluster_header can be specified");
            return None;
        }
        (true, true) => {
            at.error("one of name and cluster_header must be specified");
            return None;
        }
    };
    Some(ClusterWeight { cluster, weight, runtime_key, header_mutations, filters, host_rewrite_literal })
}

fn host_rewrite(at: &At<'_>, specifier: Option<RouteActionHostRewriteSpecifierOneOf>) -> HostRewrite {
    use RouteActionHostRewriteSpecifierOneOf as Specifier;
    match specifier {
        None | Some(Specifier::AutoHostRewrite(false)) => HostRewrite::None,
        Some(Specifier::AutoHostRewrite(true)) => HostRewrite::Auto,
        Some(Specifier::HostRewriteLiteral(text)) => HostRewrite::Literal(text.into()),
        Some(Specifier::HostRewriteHeader(name)) => HostRewrite::Header(name.into()),
        Some(Specifier::HostRewritePathRegex(message)) => {
            matcher::regex_rewrite(&at.field("host_rewrite_path_regex"), message)
                .map_or(HostRewrite::None, HostRewrite::PathRegex)
        }
        Some(Specifier::HostRewrite(_)) => {
            at.field("host_rewrite").found(Class::Refused, format!("{ACTION}host_rewrite"), "");
            HostRewrite::None
        }
    }
}

fn upgrade_configs(at: &At<'_>, configs: Vec<pb::route::RouteActionUpgradeConfig>) -> Vec<UpgradeConfig> {
    let mut converted: Vec<UpgradeConfig> = Vec::with_capacity(configs.len());
    for (index, message) in configs.into_iter().enumerate() {
        let at = &at.item("upgrade_configs", index);
        classify!(at, message => pb::route::RouteActionUpgradeConfig {
            implemented: upgrade_type, enabled, connect_config;
        });
        if converted.iter().any(|other| other.upgrade_type.eq_ignore_ascii_case(&upgrade_type)) {
            at.error(format!("duplicate upgrade {upgrade_type}"));
        }
        let connect_config = connect_config.map(|message| {
            let at = &at.field("connect_config");
            if !upgrade_type.eq_ignore_ascii_case("CONNECT") {
                at.error(format!("non-CONNECT upgrade type {upgrade_type} has connect_config"));
            }
            classify!(at, message => pb::route::RouteActionUpgradeConfigConnectConfig {
                implemented: allow_post, proxy_protocol_config = "TLVs are not sent here, as in Envoy";
            });
            ConnectConfig {
                allow_post,
                proxy_protocol: proxy_protocol_config.map(|message| {
                    proxy_protocol::upstream(&at.field("proxy_protocol_config"), message).version
                }),
            }
        });
        converted.push(UpgradeConfig {
            upgrade_type: upgrade_type.into(),
            enabled: enabled.unwrap_or(true),
            connect_config,
        });
    }
    converted
}

/// A redirect.
pub(super) fn redirect(at: &At<'_>, message: pb::route::RedirectAction) -> Option<RedirectAction> {
    use RedirectActionPathRewriteSpecifierOneOf as Path;
    classify!(at, message => pb::route::RedirectAction {
        implemented: scheme_rewrite_specifier, host_redirect, port_redirect,
            path_rewrite_specifier = "path_rewrite is refused", response_code, strip_query;
    });
    let scheme = match scheme_rewrite_specifier {
        None | Some(RedirectActionSchemeRewriteSpecifierOneOf::HttpsRedirect(false)) => SchemeRedirect::Keep,
        Some(RedirectActionSchemeRewriteSpecifierOneOf::HttpsRedirect(true)) => SchemeRedirect::Https,
        Some(RedirectActionSchemeRewriteSpecifierOneOf::SchemeRedirect(scheme)) => {
            SchemeRedirect::Scheme(scheme.into())
        }
    };
    let response_code = match at.enumeration("response_code", response_code) {
        RedirectActionRedirectResponseCode::MovedPermanently => RedirectResponseCode::MovedPermanently,
        RedirectActionRedirectResponseCode::Found => RedirectResponseCode::Found,
        RedirectActionRedirectResponseCode::SeeOther => RedirectResponseCode::SeeOther,
        RedirectActionRedirectResponseCode::TemporaryRedirect => RedirectResponseCode::TemporaryRedirect,
        RedirectActionRedirectResponseCode::PermanentRedirect => RedirectResponseCode::PermanentRedirect,
    };
    let port_redirect = match u16::try_from(port_redirect) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            at.field("port_redirect").error(format!("{port_redirect} is no port: at most 65535"));
            None
        }
    };
    let path = match path_rewrite_specifier {
        None => RedirectPathRewrite::Keep,
        Some(Path::PathRedirect(text)) if text.is_empty() => RedirectPathRewrite::Keep,
        Some(Path::PathRedirect(text)) => RedirectPathRewrite::Path(text.into()),
        Some(Path::PrefixRewrite(text)) if text.is_empty() => RedirectPathRewrite::Keep,
        Some(Path::PrefixRewrite(text)) => RedirectPathRewrite::Prefix(text.into()),
        Some(Path::RegexRewrite(message)) => {
            RedirectPathRewrite::Regex(matcher::regex_rewrite(&at.field("regex_rewrite"), message)?)
        }
        Some(Path::PathRewrite(_)) => {
            at.field("path_rewrite").value_refused("envoy.config.route.v3.RedirectAction.path_rewrite", "");
            return None;
        }
    };
    Some(RedirectAction {
        scheme,
        host_redirect: Some(host_redirect.into_boxed_str()).filter(|host| !host.is_empty()),
        port_redirect,
        path,
        response_code,
        strip_query,
    })
}

/// A fixed answer.
pub(super) fn direct_response(
    at: &At<'_>,
    message: pb::route::DirectResponseAction,
    body_bytes_max: u32,
) -> Option<DirectResponse> {
    classify!(at, message => pb::route::DirectResponseAction {
        implemented: status, body;
        refused: body_format;
    });
    let body = match body {
        Some(source) => at.field("body").data_source(source)?,
        None => Vec::new(),
    };
    if u64::try_from(body.len()).unwrap_or(u64::MAX) > u64::from(body_bytes_max) {
        at.field("body").error(format!(
            "response body size is {} bytes; maximum is {body_bytes_max} (max_direct_response_body_size_bytes)",
            body.len()
        ));
    }
    match u16::try_from(status) {
        Ok(status @ 200..=599) => Some(DirectResponse { status, body: body.into() }),
        _ => {
            at.field("status").error("must be 200 to 599");
            None
        }
    }
}
