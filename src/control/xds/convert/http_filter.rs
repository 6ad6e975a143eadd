//! HTTP filters: those of a chain, and what routes say about them.
use std::collections::BTreeMap;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{listener, rbac, told_filter};
use crate::config::http::RouterConfig;
use crate::config::http_filter::{
    FilterOptions, FilterOverride, GrpcHttp1BridgeConfig, HttpFilter, HttpFilterConfig,
};
use crate::config::route::{Action, ClusterSpecifier, RouteConfiguration};
use crate::config::told_filter::FilterKind;
use crate::control::xds::pb::{self, Named};
use pb::http_connection_manager::HttpFilterConfigTypeOneOf as ConfigType;

/// Filters that this version has, by the names of their messages.
pub(super) const IMPLEMENTED: [&str; 5] = [
    pb::extensions::Router::NAME,
    pb::http_filters::GrpcWeb::NAME,
    pb::http_filters::OnDemand::NAME,
    pb::grpc_http1_bridge::Config::NAME,
    pb::http_rbac::RBAC::NAME,
];

/// Options of filters for routes that this version has.
const OF_ROUTES: [&str; 2] = [pb::http_rbac::RBACPerRoute::NAME, pb::http_filters::PerRouteConfig::NAME];

const LAST_IS_DISABLED: &str = "the last filter of a chain cannot be disabled by default";

/// A converted chain.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) chain: Vec<HttpFilter>,
    /// Names of filters that this version lacks and that do nothing unless a route enables them.
    pub(super) lacking: Vec<String>,
}

/// A chain of filters, which must end with the router and have no other before. An empty one is accepted, as by Envoy: it
/// takes requests in and answers none.
pub(super) fn http_filters(
    at: &At<'_>,
    field: &str,
    filters: Vec<pb::http_connection_manager::HttpFilter>,
) -> Filters {
    let Some(last) = filters.len().checked_sub(1) else {
        return Filters::default();
    };
    let mut converted = Filters { chain: Vec::with_capacity(filters.len()), lacking: Vec::new() };
    for (index, filter) in filters.into_iter().enumerate() {
        let at = &at.item(field, index);
        match http_filter(at, filter, index == last, &mut converted.lacking) {
            Some(HttpFilter { config: HttpFilterConfig::Router(_), .. }) if index != last => {
                at.error("terminal filter must be the last filter of its chain");
            }
            filter => converted.chain.extend(filter),
        }
    }
    converted
}

/// The chain of an upgrade, which can be the router only.
pub(super) fn router_alone(at: &At<'_>, field: &str, filters: Vec<pb::http_connection_manager::HttpFilter>) {
    let converted = http_filters(at, field, filters);
    for (index, filter) in converted.chain.iter().enumerate() {
        if !matches!(filter.config, HttpFilterConfig::Router(_)) {
            at.item(field, index).value_refused(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig.filters",
                "upgrades have no filters of their own",
            );
        }
    }
}

fn http_filter(
    at: &At<'_>,
    message: pb::http_connection_manager::HttpFilter,
    is_last: bool,
    lacking: &mut Vec<String>,
) -> Option<HttpFilter> {
    classify!(at, message => pb::http_connection_manager::HttpFilter {
        implemented: name,
            config_type = "router, grpc_web (without statistics of its own), grpc_http1_bridge, rbac, on_demand (virtual hosts), by typed_config or config_discovery; others are refused unless disabled or is_optional",
            is_optional, disabled;
    });
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(message)) => {
            if disabled && is_last {
                at.error(LAST_IS_DISABLED);
            }
            let at = &at.field("config_discovery");
            let told = told_filter::asked(at, &name, FilterKind::Http, message, is_last)?;
            return Some(HttpFilter {
                name: name.into(),
                disabled,
                config: HttpFilterConfig::Told(Box::new(told)),
            });
        }
        None => {
            listener::missing_typed_config(at, &name);
            return None;
        }
    };
    let at = &at.field("typed_config");
    let is_known = IMPLEMENTED.contains(&type_name(&any));
    let config = if is_known { Some(typed(at, &any)?) } else { None };
    if is_last && !matches!(config, Some(HttpFilterConfig::Router(_))) {
        at.error(format!("non-terminal filter {name:?} is the last filter: that must be the router"));
    }
    if let Some(config) = config {
        if disabled && config.ends_chain() {
            at.error(LAST_IS_DISABLED);
        }
        return Some(HttpFilter { name: name.into(), disabled, config });
    }
    let (class, note) = match (disabled, is_optional) {
        (true, _) => (Class::NoEffect, "disabled, and a route that enables it is refused"),
        (false, true) => (Class::NotYet, "is_optional"),
        (false, false) => (Class::Refused, ""),
    };
    at.extension(class, &any, note);
    if disabled {
        lacking.push(name);
    }
    None
}

/// A filter of one of the [`IMPLEMENTED`] types; `None`: of none of them, or what is wrong has been reported.
pub(super) fn typed(at: &At<'_>, any: &pb::google::Any) -> Option<HttpFilterConfig> {
    Some(match type_name(any) {
        pb::extensions::Router::NAME => HttpFilterConfig::Router(router(at, at.unpack(any)?)),
        pb::http_filters::GrpcWeb::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::http_filters::GrpcWeb {});
            HttpFilterConfig::GrpcWeb
        }
        pb::http_filters::OnDemand::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::http_filters::OnDemand { refused: odcds; });
            HttpFilterConfig::OnDemand
        }
        pb::grpc_http1_bridge::Config::NAME => {
            HttpFilterConfig::GrpcHttp1Bridge(grpc_http1_bridge(at, at.unpack(any)?))
        }
        pb::http_rbac::RBAC::NAME => HttpFilterConfig::Rbac(Box::new(rbac::http(at, at.unpack(any)?))),
        _ => return None,
    })
}

fn grpc_http1_bridge(at: &At<'_>, message: pb::grpc_http1_bridge::Config) -> GrpcHttp1BridgeConfig {
    classify!(at, message => pb::grpc_http1_bridge::Config {
        implemented: upgrade_protobuf_to_grpc, ignore_query_parameters;
    });
    GrpcHttp1BridgeConfig { upgrade_protobuf_to_grpc, ignore_query_parameters }
}

/// What one level of a routing table says about filters.
pub(super) fn overrides(at: &At<'_>, entries: BTreeMap<String, pb::google::Any>) -> Vec<FilterOverride> {
    entries
        .into_iter()
        .filter_map(|(name, any)| filter_override(&at.key("typed_per_filter_config", &name), &name, any))
        .collect()
}

fn filter_override(at: &At<'_>, name: &str, mut any: pb::google::Any) -> Option<FilterOverride> {
    let word = |disabled, options| Some(FilterOverride { name: name.into(), disabled, options });
    if type_name(&any) == pb::route::FilterConfig::NAME {
        let message = at.unpack(&any)?;
        classify!(at, message => pb::route::FilterConfig {
            implemented: config = "of rbac and on_demand; other filters that are here have no options for routes", is_optional,
                disabled;
        });
        if disabled {
            return word(true, None);
        }
        let Some(inner) = config else {
            at.error(format!("empty route/virtual host per filter configuration for {name} filter"));
            return None;
        };
        // Without a type it says no more than that the filter is on; what is optional and unknown does so, too.
        if inner.type_url.is_empty() || is_optional && !OF_ROUTES.contains(&type_name(&inner)) {
            return word(false, None);
        }
        any = inner;
    }
    match type_name(&any) {
        pb::http_rbac::RBACPerRoute::NAME => {
            let options = rbac::per_route(at, at.unpack(&any)?);
            return word(false, Some(FilterOptions::Rbac(Box::new(options))));
        }
        // It says no more than that the filter is on.
        pb::http_filters::PerRouteConfig::NAME => {
            let message = at.unpack(&any)?;
            classify!(at, message => pb::http_filters::PerRouteConfig { refused: odcds; });
            return word(false, None);
        }
        pb::http_filters::GrpcWeb::NAME
        | pb::grpc_http1_bridge::Config::NAME
        | pb::extensions::Router::NAME => at.error(format!(
            "the filter {name} doesn't support virtual host or route specific configurations"
        )),
        pb::http_rbac::RBAC::NAME => at.error(format!("{} expected", pb::http_rbac::RBACPerRoute::NAME)),
        pb::http_filters::OnDemand::NAME => {
            at.error(format!("{} expected", pb::http_filters::PerRouteConfig::NAME));
        }
        _ => at.extension(Class::Refused, &any, ""),
    }
    None
}

/// Reports the levels of a table that enable a filter which this version lacks.
pub(super) fn refuse_enabled(at: &At<'_>, table: &RouteConfiguration, lacking: &[String]) {
    if lacking.is_empty() {
        return;
    }
    let check = |at: &At<'_>, words: &[FilterOverride]| {
        for word in words.iter().filter(|word| !word.disabled) {
            if lacking.iter().any(|name| **name == *word.name) {
                at.key("typed_per_filter_config", &word.name)
                    .error("enables a filter that this version does not implement");
            }
        }
    };
    check(at, &table.filters);
    for (index, host) in table.virtual_hosts.iter().enumerate() {
        let at = &at.item("virtual_hosts", index);
        check(at, &host.filters);
        for (index, route) in host.routes.iter().enumerate() {
            let at = &at.item("routes", index);
            check(at, &route.filters);
            let Action::Forward(action) = &route.action else { continue };
            let ClusterSpecifier::WeightedClusters(weighted) = &action.cluster else { continue };
            let at = &at.field("route");
            let at = &at.field("weighted_clusters");
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                check(&at.item("clusters", index), &cluster.filters);
            }
        }
    }
}

fn router(at: &At<'_>, message: pb::extensions::Router) -> RouterConfig {
    classify!(at, message => pb::extensions::Router {
        implemented: suppress_envoy_headers, respect_expected_rq_timeout,
            upstream_http_filters = "empty; the upstream codec alone changes nothing and others are refused";
        no_effect: start_child_span = "no tracing", dynamic_stats = "statistics cost nothing before they are used";
        not_yet: upstream_log_options, upstream_log, strict_check_headers,
            suppress_grpc_request_failure_code_stats;
        refused: reject_connect_request_early_data;
    });
    for (index, filter) in upstream_http_filters.into_iter().enumerate() {
        upstream_filter(&at.item("upstream_http_filters", index), filter);
    }
    RouterConfig { suppress_envoy_headers, respect_expected_rq_timeout }
}

/// Upstream filters: the codec, which every chain ends with, is all there is.
pub(super) fn upstream_filter(at: &At<'_>, filter: pb::http_connection_manager::HttpFilter) {
    const UPSTREAM_CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
    match filter.config_type {
        Some(ConfigType::TypedConfig(any)) if type_name(&any) == UPSTREAM_CODEC => {}
        Some(ConfigType::TypedConfig(any)) => {
            at.field("typed_config").extension(Class::Refused, &any, "no upstream filters");
        }
        Some(ConfigType::ConfigDiscovery(_)) | None => {
            at.error("typed_config must be set");
        }
    }
}
