//! HTTP filters: this version has the router.
use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{access_log, listener};
use crate::config::http::{HttpFilter, RouterConfig};
use crate::control::xds::pb::{self, Named};
use pb::http_connection_manager::HttpFilterConfigTypeOneOf as ConfigType;

/// A chain of filters, which must end with the router and have no other before. An empty one is accepted, as by Envoy: it
/// takes requests in and answers none.
pub(super) fn http_filters(
    at: &At<'_>,
    field: &str,
    filters: Vec<pb::http_connection_manager::HttpFilter>,
) -> Vec<HttpFilter> {
    let Some(last) = filters.len().checked_sub(1) else {
        return Vec::new();
    };
    let mut converted = Vec::with_capacity(1);
    for (index, filter) in filters.into_iter().enumerate() {
        let at = &at.item(field, index);
        match http_filter(at, filter, index == last) {
            Some(HttpFilter::Router(_)) if index != last => {
                at.error("terminal filter must be the last filter of its chain");
            }
            filter => converted.extend(filter),
        }
    }
    converted
}

fn http_filter(
    at: &At<'_>,
    message: pb::http_connection_manager::HttpFilter,
    is_last: bool,
) -> Option<HttpFilter> {
    classify!(at, message => pb::http_connection_manager::HttpFilter {
        implemented: name, config_type = "the router; others are refused unless disabled or is_optional", is_optional,
            disabled;
    });
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            at.field("config_discovery").value_refused(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.config_discovery",
                "no xDS yet",
            );
            return None;
        }
        None => {
            listener::missing_typed_config(at, &name);
            return None;
        }
    };
    let at = &at.field("typed_config");
    if type_name(&any) == pb::extensions::Router::NAME {
        if disabled {
            at.error("the last filter of a chain cannot be disabled by default");
        }
        return Some(HttpFilter::Router(router(at, at.unpack(&any)?)));
    }
    if is_last {
        at.error(format!("non-terminal filter {name:?} is the last filter: that must be the router"));
    }
    // A disabled filter runs where a route enables it, and routes cannot: their filter configs are refused.
    let (class, note) = match (disabled, is_optional) {
        (true, _) => (Class::NoEffect, "disabled, and no route can enable it"),
        (false, true) => (Class::NotYet, "is_optional"),
        (false, false) => (Class::Refused, ""),
    };
    at.extension(class, &any, note);
    None
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
    RouterConfig {
        dynamic_stats: dynamic_stats.unwrap_or(true),
        suppress_envoy_headers,
        strict_check_headers: strict_check_headers.into_iter().map(Into::into).collect(),
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_log: access_log::access_logs(at, "upstream_log", upstream_log),
    }
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
