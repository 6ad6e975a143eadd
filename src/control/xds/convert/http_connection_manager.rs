//! The HTTP connection manager: one field of the API after the other.
use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{access_log, address, config_source, format, http, http_filter, http2, route, scoped_routes};
use crate::config::access_log::{LocalReplyConfig, ResponseMapper};
use crate::config::http::{
    ClientCertDetails, CodecType, ForwardClientCertDetails, HttpConnectionManager, InternalAddressConfig,
    PathWithEscapedSlashesAction, SchemeHeaderTransformation, ServerHeaderTransformation, StripPort,
    UpgradeConfig,
};
use crate::config::route::RouteConfiguration;
use crate::control::xds::pb::{self, Named};
use pb::http_connection_manager as wire;
use wire::{HttpConnectionManagerRouteSpecifierOneOf, HttpConnectionManagerStripPortModeOneOf};

/// `stat_prefix` and everything else of a manager; `None` without a routing table.
pub(super) fn convert(at: &At<'_>, message: wire::HttpConnectionManager) -> Option<HttpConnectionManager> {
    classify!(at, message => wire::HttpConnectionManager {
        implemented: codec_type = "AUTO, HTTP1, HTTP2; HTTP3 is refused", http2_protocol_options,
            stat_prefix, route_specifier, http_filters,
            add_user_agent, common_http_protocol_options, http1_safe_max_connection_duration, http_protocol_options,
            server_name, server_header_transformation, scheme_header_transformation, max_request_headers_kb,
            stream_idle_timeout, stream_flush_timeout, request_timeout, request_headers_timeout,
            delayed_close_timeout, drain_timeout, drain_timeout_jitter, access_log, use_remote_address, xff_num_trusted_hops, internal_address_config,
            skip_xff_append, via, generate_request_id, preserve_external_request_id,
            always_set_request_id_in_response, forward_client_cert_details, set_current_client_cert_details,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6, upgrade_configs, normalize_path, merge_slashes,
            path_with_escaped_slashes_action, request_id_extension, local_reply_config, strip_matching_host_port,
            strip_port_mode, strip_trailing_host_dot, append_x_forwarded_port,
            add_proxy_protocol_connection_state,
            stream_error_on_invalid_http_message = "HTTP/1: of paths that are refused; what is malformed ends the connection";
        no_effect: http3_protocol_options = "no HTTP/3",
            append_local_overload = "no overload action exists",
            typed_header_validation_config = "headers are always validated";
        not_yet: tracing, access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
            proxy_status_config, record_route_resolution_stats;
        refused: original_ip_detection_extensions, early_header_mutation_extensions, forward_client_cert_matcher,
            path_normalization_options, forward_proto_config;
    });
    let routes = self::routes(at, route_specifier);
    let mut manager = HttpConnectionManager::new(&stat_prefix, Arc::new(RouteConfiguration::default()));
    manager.codec_type = self::codec_type(at, codec_type);
    let filters = http_filter::http_filters(at, "http_filters", http_filters);
    let mut route_config = None;
    match routes {
        Some(Routes::Table(table)) => {
            http_filter::refuse_enabled(&at.field("route_config"), &table, &filters.lacking);
            route_config = Some(table);
        }
        Some(Routes::Rds(message)) => {
            manager.rds = config_source::rds(&at.field("rds"), message, &filters.lacking);
            route_config = manager.rds.is_some().then(RouteConfiguration::default);
        }
        Some(Routes::Scoped(message)) => {
            let at = &at.field("scoped_routes");
            let scoped = scoped_routes::scoped_routes(at, *message, &filters.lacking);
            manager.scoped_routes = scoped.map(Arc::new);
            route_config = manager.scoped_routes.is_some().then(RouteConfiguration::default);
        }
        None => {}
    }
    manager.http_filters = filters.chain;

    let (http1, stream_error) = http::http1(&at.field("http_protocol_options"), http_protocol_options);
    manager.http1 = http1;
    let heads = ("max_request_headers_kb", max_request_headers_kb.unwrap_or(manager.max_request_headers_kb));
    manager.http2 = http2::http2(&at.field("http2_protocol_options"), http2_protocol_options, heads);
    manager.stream_error_on_invalid_http_message =
        stream_error.or(stream_error_on_invalid_http_message).unwrap_or(false);
    manager.common = http::common(&at.field("common_http_protocol_options"), common_http_protocol_options);
    manager.max_request_headers_kb = max_request_headers_kb.unwrap_or(manager.max_request_headers_kb);

    manager.stream_idle_timeout =
        at.timeout("stream_idle_timeout", stream_idle_timeout, manager.stream_idle_timeout);
    manager.flush_follows_idle = stream_flush_timeout.is_none();
    manager.stream_flush_timeout =
        at.timeout("stream_flush_timeout", stream_flush_timeout, manager.stream_idle_timeout);
    manager.request_timeout = at.timeout("request_timeout", request_timeout, None);
    manager.request_headers_timeout = at.timeout("request_headers_timeout", request_headers_timeout, None);
    manager.drain_timeout = at.duration("drain_timeout", drain_timeout).unwrap_or(manager.drain_timeout);
    manager.drain_timeout_jitter =
        at.percent_of(manager.drain_timeout, "drain_timeout_jitter", drain_timeout_jitter);
    manager.delayed_close_timeout =
        at.timeout("delayed_close_timeout", delayed_close_timeout, manager.delayed_close_timeout);
    manager.http1_safe_max_connection_duration = http1_safe_max_connection_duration;

    manager.access_log = access_log::access_logs(at, "access_log", access_log);
    manager.local_reply_config = local_reply_config
        .map(|message| self::local_reply_config(&at.field("local_reply_config"), message))
        .unwrap_or_default();
    manager.upgrade_configs = self::upgrade_configs(at, upgrade_configs);

    manager.use_remote_address = use_remote_address.unwrap_or(false);
    manager.xff_num_trusted_hops = xff_num_trusted_hops;
    manager.skip_xff_append = skip_xff_append;
    manager.represent_ipv4_remote_address_as_ipv4_mapped_ipv6 =
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6;
    manager.append_x_forwarded_port = append_x_forwarded_port;
    manager.add_proxy_protocol_connection_state = add_proxy_protocol_connection_state.unwrap_or(true);
    manager.internal_addresses = internal_address_config
        .map(|message| self::internal_address_config(&at.field("internal_address_config"), message))
        .unwrap_or_default();
    manager.forward_client_cert_details = client_cert_details(at, forward_client_cert_details);
    if let Some(message) = set_current_client_cert_details {
        manager.set_current_client_cert_details =
            current_client_cert_details(&at.field("set_current_client_cert_details"), message);
    }

    manager.via = via.into();
    manager.generate_request_id = generate_request_id.unwrap_or(true);
    manager.preserve_external_request_id = preserve_external_request_id;
    manager.always_set_request_id_in_response = always_set_request_id_in_response;
    if let Some(message) = request_id_extension {
        check_request_id_extension(&at.field("request_id_extension"), message);
    }
    manager.add_user_agent = add_user_agent.unwrap_or(false);
    manager.proxy_100_continue = proxy_100_continue;
    if !server_name.is_empty() {
        manager.server_name = server_name.into();
    }
    manager.server_header_transformation = server_header(at, server_header_transformation);
    manager.scheme_header_transformation = scheme_header_transformation
        .map(|message| scheme_header(&at.field("scheme_header_transformation"), message))
        .unwrap_or_default();

    manager.normalize_path = normalize_path.unwrap_or(false);
    manager.merge_slashes = merge_slashes;
    manager.path_with_escaped_slashes_action = escaped_slashes(at, path_with_escaped_slashes_action);
    manager.strip_port = strip_port(at, strip_matching_host_port, strip_port_mode);
    manager.strip_trailing_host_dot = strip_trailing_host_dot;

    manager.route_config = Arc::new(route_config?);
    Some(manager)
}

/// Where routes are.
enum Routes {
    Table(RouteConfiguration),
    Rds(wire::Rds),
    Scoped(Box<wire::ScopedRoutes>),
}

fn routes(at: &At<'_>, specifier: Option<HttpConnectionManagerRouteSpecifierOneOf>) -> Option<Routes> {
    match specifier {
        Some(HttpConnectionManagerRouteSpecifierOneOf::RouteConfig(message)) => {
            Some(Routes::Table(route::route_configuration(&at.field("route_config"), message, true)))
        }
        Some(HttpConnectionManagerRouteSpecifierOneOf::Rds(message)) => Some(Routes::Rds(message)),
        Some(HttpConnectionManagerRouteSpecifierOneOf::ScopedRoutes(message)) => {
            Some(Routes::Scoped(Box::new(message)))
        }
        None => {
            at.error("one of rds, route_config, scoped_routes must be set");
            None
        }
    }
}

fn codec_type(at: &At<'_>, value: i32) -> CodecType {
    use wire::HttpConnectionManagerCodecType as Wire;
    const FIELD: &str =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.codec_type.";
    match at.enumeration("codec_type", value) {
        Wire::Auto => CodecType::Auto,
        Wire::Http1 => CodecType::Http1,
        Wire::Http2 => CodecType::Http2,
        Wire::Http3 => {
            at.field("codec_type").found(Class::Refused, format!("{FIELD}HTTP3"), "no QUIC");
            CodecType::Http1
        }
    }
}

fn upgrade_configs(
    at: &At<'_>,
    configs: Vec<wire::HttpConnectionManagerUpgradeConfig>,
) -> Vec<UpgradeConfig> {
    let mut converted: Vec<UpgradeConfig> = Vec::with_capacity(configs.len());
    for (index, message) in configs.into_iter().enumerate() {
        let at = &at.item("upgrade_configs", index);
        classify!(at, message => wire::HttpConnectionManagerUpgradeConfig {
            implemented: upgrade_type, enabled, filters = "a chain of its own, which can be the router only";
        });
        let router_alone = !filters.is_empty();
        if router_alone {
            http_filter::router_alone(at, "filters", filters);
        }
        if converted.iter().any(|other| other.upgrade_type.eq_ignore_ascii_case(&upgrade_type)) {
            at.error(format!("duplicate upgrade {upgrade_type}"));
        }
        converted.push(UpgradeConfig {
            upgrade_type: upgrade_type.into(),
            enabled: enabled.unwrap_or(true),
            router_alone,
        });
    }
    converted
}

fn internal_address_config(
    at: &At<'_>,
    message: wire::HttpConnectionManagerInternalAddressConfig,
) -> InternalAddressConfig {
    classify!(at, message => wire::HttpConnectionManagerInternalAddressConfig {
        implemented: unix_sockets, cidr_ranges;
    });
    InternalAddressConfig { unix_sockets, cidr_ranges: address::cidr_ranges(at, "cidr_ranges", cidr_ranges) }
}

fn client_cert_details(at: &At<'_>, value: i32) -> ForwardClientCertDetails {
    use wire::HttpConnectionManagerForwardClientCertDetails as Wire;
    match at.enumeration("forward_client_cert_details", value) {
        Wire::Sanitize => ForwardClientCertDetails::Sanitize,
        Wire::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        Wire::AppendForward => ForwardClientCertDetails::AppendForward,
        Wire::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        Wire::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}

fn current_client_cert_details(
    at: &At<'_>,
    message: wire::HttpConnectionManagerSetCurrentClientCertDetails,
) -> ClientCertDetails {
    classify!(at, message => wire::HttpConnectionManagerSetCurrentClientCertDetails {
        implemented: subject, cert, chain, dns, uri, format = "TEXT; JSON is refused";
        refused: issuer;
    });
    use wire::HttpConnectionManagerForwardClientCertFormat as Format;
    if at.enumeration::<Format>("format", format) == Format::Json {
        at.field("format").value_refused(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertFormat.JSON",
            "",
        );
    }
    ClientCertDetails { subject: subject.unwrap_or(false), cert, chain, dns, uri }
}

fn server_header(at: &At<'_>, value: i32) -> ServerHeaderTransformation {
    use wire::HttpConnectionManagerServerHeaderTransformation as Wire;
    match at.enumeration("server_header_transformation", value) {
        Wire::Overwrite => ServerHeaderTransformation::Overwrite,
        Wire::AppendIfAbsent => ServerHeaderTransformation::AppendIfAbsent,
        Wire::PassThrough => ServerHeaderTransformation::PassThrough,
    }
}

fn escaped_slashes(at: &At<'_>, value: i32) -> PathWithEscapedSlashesAction {
    use wire::HttpConnectionManagerPathWithEscapedSlashesAction as Wire;
    match at.enumeration("path_with_escaped_slashes_action", value) {
        Wire::ImplementationSpecificDefault | Wire::KeepUnchanged => {
            PathWithEscapedSlashesAction::KeepUnchanged
        }
        Wire::RejectRequest => PathWithEscapedSlashesAction::RejectRequest,
        Wire::UnescapeAndRedirect => PathWithEscapedSlashesAction::UnescapeAndRedirect,
        Wire::UnescapeAndForward => PathWithEscapedSlashesAction::UnescapeAndForward,
    }
}

fn scheme_header(at: &At<'_>, message: pb::http::SchemeHeaderTransformation) -> SchemeHeaderTransformation {
    use pb::http::SchemeHeaderTransformationTransformationOneOf as Transformation;
    classify!(at, message => pb::http::SchemeHeaderTransformation {
        implemented: transformation, match_upstream;
    });
    match transformation {
        Some(Transformation::SchemeToOverwrite(scheme)) if scheme == "http" => {
            SchemeHeaderTransformation::Http
        }
        Some(Transformation::SchemeToOverwrite(scheme)) if scheme == "https" => {
            SchemeHeaderTransformation::Https
        }
        Some(Transformation::SchemeToOverwrite(scheme)) => {
            at.field("scheme_to_overwrite").error(format!("{scheme:?} is neither http nor https"));
            SchemeHeaderTransformation::None
        }
        None if match_upstream => SchemeHeaderTransformation::MatchUpstream,
        None => SchemeHeaderTransformation::None,
    }
}

fn strip_port(
    at: &At<'_>,
    matching: bool,
    mode: Option<HttpConnectionManagerStripPortModeOneOf>,
) -> StripPort {
    let any = matches!(mode, Some(HttpConnectionManagerStripPortModeOneOf::StripAnyHostPort(true)));
    if matching && any {
        at.error("only one of strip_matching_host_port and strip_any_host_port can be set");
    }
    match (matching, any) {
        (_, true) => StripPort::Any,
        (true, false) => StripPort::Matching,
        (false, false) => StripPort::None,
    }
}

/// Envoy's own way to make request ids is the only one, and the default.
fn check_request_id_extension(at: &At<'_>, message: wire::RequestIDExtension) {
    classify!(at, message => wire::RequestIDExtension {
        implemented: typed_config = "UuidRequestIdConfig; others are refused";
    });
    let Some(any) = typed_config else { return };
    let at = &at.field("typed_config");
    if type_name(&any) != pb::extensions::UuidRequestIdConfig::NAME {
        at.extension(Class::Refused, &any, "");
        return;
    }
    if let Some(config) = at.unpack::<pb::extensions::UuidRequestIdConfig>(&any) {
        classify!(at, config => pb::extensions::UuidRequestIdConfig {
            no_effect: pack_trace_reason = "ids carry no trace reason while there is no tracing",
                use_request_id_for_trace_sampling = "no tracing";
        });
    }
}

fn local_reply_config(at: &At<'_>, message: wire::LocalReplyConfig) -> LocalReplyConfig {
    classify!(at, message => wire::LocalReplyConfig { implemented: mappers, body_format; });
    LocalReplyConfig {
        mappers: mappers
            .into_iter()
            .enumerate()
            .filter_map(|(index, mapper)| response_mapper(&at.item("mappers", index), mapper))
            .collect(),
        body_format: body_format.and_then(|message| format::substitution(&at.field("body_format"), message)),
    }
}

fn response_mapper(at: &At<'_>, message: wire::ResponseMapper) -> Option<ResponseMapper> {
    classify!(at, message => wire::ResponseMapper {
        implemented: filter, status_code, body, body_format_override, headers_to_add;
    });
    let body = body.and_then(|source| at.field("body").data_source(source)).map(Into::into);
    let body_format_override = body_format_override
        .and_then(|message| format::substitution(&at.field("body_format_override"), message));
    let headers_to_add = route::header::values(at, "headers_to_add", headers_to_add);
    let status_code = match status_code.map(u16::try_from) {
        Some(Ok(code @ 200..=599)) => Some(code),
        Some(_) => {
            at.field("status_code").error("must be 200 to 599");
            None
        }
        None => None,
    };
    let Some(filter) = filter else {
        at.field("filter").error("must be set");
        return None;
    };
    let filter = access_log::filter(&at.field("filter"), filter, Class::Refused)?;
    Some(ResponseMapper { filter, status_code, body, body_format_override, headers_to_add })
}
