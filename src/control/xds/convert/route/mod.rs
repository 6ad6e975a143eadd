//! Route configurations: virtual hosts, routes, and what must be unique among them.
mod action;
mod hash_policy;
pub(super) mod header;

use std::collections::HashSet;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::{config_source, http_filter, matcher};
use crate::config::route::{
    Action, PathMatch, Route, RouteConfiguration, RouteMatch, TlsRequirement, VirtualHost,
};
use crate::control::xds::pb;
use pb::route::{RouteActionOneOf, RouteMatchPathSpecifierOneOf, VirtualHostTlsRequirementType};

/// A whole routing table.
///
/// `validates`: whether its clusters must be there unless it says otherwise, as where it is not told by itself.
pub(super) fn route_configuration(
    at: &At<'_>,
    message: pb::route::RouteConfiguration,
    validates: bool,
) -> RouteConfiguration {
    classify!(at, message => pb::route::RouteConfiguration {
        implemented: name, virtual_hosts,
            vhds = "of a table that is told (RDS): virtual hosts that are told; requests ask for others with the filter on_demand",
            internal_only_headers, response_headers_to_add, response_headers_to_remove,
            request_headers_to_add, request_headers_to_remove,
            most_specific_header_mutations_wins, validate_clusters, max_direct_response_body_size_bytes,
            ignore_port_in_host_matching, vhost_header, ignore_path_parameters_in_path_matching,
            typed_per_filter_config = "disables and enables filters by their names";
        no_effect: metadata = "nothing of this version reads it";
        not_yet: request_mirror_policies;
        refused: cluster_specifier_plugins, route_specifiers;
    });
    let vhds = vhds.and_then(|message| {
        let at = &at.field("vhds");
        if validates {
            let note = "only a table that is told, by rds, has virtual hosts that are told";
            at.value_refused("envoy.config.route.v3.RouteConfiguration.vhds", note);
            return None;
        }
        config_source::vhds(at, message)
    });
    let max_direct_response_body_bytes = max_direct_response_body_size_bytes.unwrap_or(4096);
    let mut wildcards = 0;
    let mut domains = HashSet::new();
    let virtual_hosts: Vec<_> = virtual_hosts
        .into_iter()
        .enumerate()
        .filter_map(|(index, bytes)| {
            let at = &at.item("virtual_hosts", index);
            let host = virtual_host(at, at.decode(&bytes)?, max_direct_response_body_bytes);
            for (index, domain) in host.domains.iter().enumerate() {
                let at = &at.item("domains", index);
                wildcards += usize::from(&**domain == "*");
                if &**domain == "*" && wildcards > 1 {
                    at.error("only a single wildcard domain is permitted in a route configuration");
                } else if !domains.insert(domain.to_ascii_lowercase()) {
                    at.error(format!(
                        "only unique values for domains are permitted: duplicate of {domain:?}"
                    ));
                }
            }
            Some(host)
        })
        .collect();
    RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        vhds,
        internal_only_headers: internal_only_headers.into_iter().map(Into::into).collect(),
        header_mutations: header::Mutations {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        }
        .convert(at),
        most_specific_header_mutations_wins,
        filters: http_filter::overrides(at, typed_per_filter_config),
        validate_clusters: validate_clusters.unwrap_or(validates) && !at.context.is_accepted,
        max_direct_response_body_bytes,
        ignore_port_in_host_matching,
        ignore_path_parameters_in_path_matching,
        vhost_header: Some(vhost_header.into_boxed_str()).filter(|name| !name.is_empty()),
    }
}

fn virtual_host(at: &At<'_>, message: pb::route::VirtualHost, body_bytes_max: u32) -> VirtualHost {
    classify!(at, message => pb::route::VirtualHost {
        implemented: name, domains, routes, require_tls, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, include_request_attempt_count,
            include_attempt_count_in_response,
            typed_per_filter_config = "disables and enables filters by their names";
        no_effect: rate_limits = "only the rate limit filter, which is refused, reads it",
            cors = "only the CORS filter, which is refused, reads it",
            per_request_buffer_limit_bytes = "requests are not buffered for retries",
            request_body_buffer_limit = "requests are not buffered for retries",
            include_is_timeout_retry_header = "no retries", metadata = "nothing of this version reads it";
        not_yet: virtual_clusters, retry_policy, retry_policy_typed_config, hedge_policy, request_mirror_policies;
        refused: matcher, route_specifiers;
    });
    let require_tls = match at.enumeration("require_tls", require_tls) {
        VirtualHostTlsRequirementType::None => TlsRequirement::None,
        VirtualHostTlsRequirementType::ExternalOnly => TlsRequirement::ExternalOnly,
        VirtualHostTlsRequirementType::All => TlsRequirement::All,
    };
    VirtualHost {
        name: name.into(),
        domains: domains.into_iter().map(Into::into).collect(),
        routes: routes
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| route(&at.item("routes", index), message, body_bytes_max))
            .collect(),
        require_tls,
        header_mutations: header::Mutations {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        }
        .convert(at),
        include_request_attempt_count,
        include_attempt_count_in_response,
        filters: http_filter::overrides(at, typed_per_filter_config),
    }
}

fn route(at: &At<'_>, message: pb::route::Route, body_bytes_max: u32) -> Option<Route> {
    classify!(at, message => pb::route::Route {
        implemented: name, r#match, action = "filter_action is refused", request_headers_to_add,
            request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            typed_per_filter_config = "disables and enables filters by their names";
        no_effect: decorator = "no tracing", tracing = "no tracing",
            per_request_buffer_limit_bytes = "requests are not buffered for retries",
            request_body_buffer_limit = "requests are not buffered for retries",
            metadata = "nothing of this version reads it";
        not_yet: stat_prefix = "no statistics of single routes";
        refused: route_specifiers;
    });
    let matcher = match r#match {
        Some(message) => route_match(&at.field("match"), message),
        None => {
            at.field("match").error("must be set");
            None
        }
    };
    let action =
        match action {
            Some(RouteActionOneOf::Route(message)) => action::route_action(&at.field("route"), message)
                .map(|action| Action::Forward(Box::new(action))),
            Some(RouteActionOneOf::Redirect(message)) => action::redirect(&at.field("redirect"), message)
                .map(|action| Action::Redirect(Box::new(action))),
            Some(RouteActionOneOf::DirectResponse(message)) => {
                action::direct_response(&at.field("direct_response"), message, body_bytes_max)
                    .map(Action::DirectResponse)
            }
            Some(RouteActionOneOf::NonForwardingAction(_)) => Some(Action::NonForwarding),
            Some(RouteActionOneOf::FilterAction(_)) => {
                at.field("filter_action").value_refused("envoy.config.route.v3.Route.filter_action", "");
                None
            }
            None => {
                at.error("one of route, redirect, direct_response, non_forwarding_action must be set");
                None
            }
        };
    let header_mutations = header::Mutations {
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
    }
    .convert(at);
    let filters = http_filter::overrides(at, typed_per_filter_config);
    Some(Route { name: name.into(), matcher: matcher?, action: action?, header_mutations, filters })
}

fn route_match(at: &At<'_>, message: pb::route::RouteMatch) -> Option<RouteMatch> {
    classify!(at, message => pb::route::RouteMatch {
        implemented: path_specifier = "path_match_policy is refused", case_sensitive,
            runtime_fraction, headers,
            query_parameters, grpc;
        refused: cookies, tls_context, dynamic_metadata, filter_state;
    });
    let runtime_fraction =
        runtime_fraction.map(|fraction| at.field("runtime_fraction").runtime_fraction(fraction));
    let headers = matcher::headers(at, headers);
    let query_parameters = matcher::query_parameters(at, query_parameters);
    let grpc = grpc.is_some_and(|message| {
        classify!(&at.field("grpc"), message => pb::route::RouteMatchGrpcRouteMatchOptions {});
        true
    });
    let path = match path_specifier {
        Some(RouteMatchPathSpecifierOneOf::Prefix(text)) => PathMatch::Prefix(text.into()),
        Some(RouteMatchPathSpecifierOneOf::Path(text)) => PathMatch::Path(text.into()),
        Some(RouteMatchPathSpecifierOneOf::PathSeparatedPrefix(text)) => {
            PathMatch::PathSeparatedPrefix(text.into())
        }
        Some(RouteMatchPathSpecifierOneOf::SafeRegex(regex)) => {
            PathMatch::SafeRegex(matcher::regex(&at.field("safe_regex"), regex)?)
        }
        Some(RouteMatchPathSpecifierOneOf::ConnectMatcher(message)) => {
            classify!(&at.field("connect_matcher"), message => pb::route::RouteMatchConnectMatcher {});
            PathMatch::Connect
        }
        Some(RouteMatchPathSpecifierOneOf::PathMatchPolicy(_)) => {
            let field = "envoy.config.route.v3.RouteMatch.path_match_policy";
            at.field("path_match_policy").found(Class::Refused, field, "");
            return None;
        }
        None => {
            at.error("one of prefix, path, safe_regex, connect_matcher, path_separated_prefix must be set");
            return None;
        }
    };
    Some(RouteMatch {
        path,
        case_sensitive: case_sensitive.unwrap_or(true),
        runtime_fraction,
        headers,
        query_parameters,
        grpc,
    })
}
