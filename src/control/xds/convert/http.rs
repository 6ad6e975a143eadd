//! HTTP protocol options, of listeners and clusters alike.
use super::at::At;
use super::fields::classify;
use super::matcher;
use super::report::Class;
use super::value::type_name;
use crate::config::http::{
    CommonHttpProtocolOptions, HeaderKeyFormat, HeadersWithUnderscoresAction, Http1ProtocolOptions,
};
use crate::control::xds::pb::{self, Named};
use pb::extensions::PreserveCaseFormatterConfigFormatterTypeOnEnvoyHeaders as OnEnvoyHeaders;
use pb::http::Http1ProtocolOptionsHeaderKeyFormatHeaderFormatOneOf as HeaderFormat;
use pb::http::HttpProtocolOptionsHeadersWithUnderscoresAction as Underscores;

/// HTTP/1 options and what they say of `stream_error_on_invalid_http_message`.
pub(super) fn http1(
    at: &At<'_>,
    message: Option<pb::http::Http1ProtocolOptions>,
) -> (Http1ProtocolOptions, Option<bool>) {
    let Some(message) = message else { return (Http1ProtocolOptions::default(), None) };
    classify!(at, message => pb::http::Http1ProtocolOptions {
        implemented: allow_absolute_url, accept_http_10, default_host_for_http_10, header_key_format, enable_trailers,
            allow_chunked_length, send_fully_qualified_url,
            allow_custom_methods, ignore_http_11_upgrade,
            override_stream_error_on_invalid_http_message = "of paths that are refused; what is malformed ends the connection";
        no_effect: use_balsa_parser = "there is one parser";
    });
    let options = Http1ProtocolOptions {
        allow_absolute_url: allow_absolute_url.unwrap_or(true),
        accept_http_10,
        default_host_for_http_10: default_host_for_http_10.into(),
        header_key_format: header_key_format
            .map(|format| self::header_key_format(&at.field("header_key_format"), format))
            .unwrap_or_default(),
        enable_trailers,
        allow_chunked_length,
        send_fully_qualified_url,
        allow_custom_methods,
        ignore_http_11_upgrade: matcher::strings(at, "ignore_http_11_upgrade", ignore_http_11_upgrade),
    };
    (options, override_stream_error_on_invalid_http_message)
}

fn header_key_format(at: &At<'_>, message: pb::http::Http1ProtocolOptionsHeaderKeyFormat) -> HeaderKeyFormat {
    classify!(at, message => pb::http::Http1ProtocolOptionsHeaderKeyFormat {
        implemented: header_format = "proper_case_words, and stateful_formatter with preserve_case";
    });
    let extension = match header_format {
        Some(HeaderFormat::ProperCaseWords(_)) => return HeaderKeyFormat::ProperCaseWords,
        Some(HeaderFormat::StatefulFormatter(extension)) => extension,
        None => {
            at.error("one of proper_case_words, stateful_formatter must be set");
            return HeaderKeyFormat::default();
        }
    };
    let at = &at.field("stateful_formatter");
    let Some(any) = typed_config(at, extension) else { return HeaderKeyFormat::default() };
    let at = &at.field("typed_config");
    if type_name(&any) != pb::extensions::PreserveCaseFormatterConfig::NAME {
        at.extension(Class::Refused, &any, "");
        return HeaderKeyFormat::default();
    }
    let Some(config) = at.unpack::<pb::extensions::PreserveCaseFormatterConfig>(&any) else {
        return HeaderKeyFormat::default();
    };
    classify!(at, config => pb::extensions::PreserveCaseFormatterConfig {
        implemented: forward_reason_phrase, formatter_type_on_envoy_headers;
    });
    let on_envoy_headers: OnEnvoyHeaders =
        at.enumeration("formatter_type_on_envoy_headers", formatter_type_on_envoy_headers);
    HeaderKeyFormat::PreserveCase {
        proper_case_added: on_envoy_headers == OnEnvoyHeaders::ProperCase,
        forward_reason_phrase,
    }
}

/// Limits that do not depend on the HTTP version. Some exist towards clients only, some towards endpoints only.
pub(super) fn common(
    at: &At<'_>,
    message: Option<pb::http::HttpProtocolOptions>,
) -> CommonHttpProtocolOptions {
    let mut options = CommonHttpProtocolOptions::default();
    let Some(message) = message else { return options };
    classify!(at, message => pb::http::HttpProtocolOptions {
        implemented: idle_timeout, max_connection_duration, max_headers_count, max_response_headers_kb,
            max_stream_duration, headers_with_underscores_action, max_requests_per_connection,
            max_connection_duration_jitter = "towards clients, as in Envoy";
    });
    options.idle_timeout = at.timeout("idle_timeout", idle_timeout, options.idle_timeout);
    options.max_connection_duration = at.timeout("max_connection_duration", max_connection_duration, None);
    options.max_connection_duration_jitter = at.percent_of(
        options.max_connection_duration.unwrap_or_default(),
        "max_connection_duration_jitter",
        max_connection_duration_jitter,
    );
    options.max_stream_duration = at.timeout("max_stream_duration", max_stream_duration, None);
    options.max_headers_count = max_headers_count.unwrap_or(options.max_headers_count);
    options.max_response_headers_kb = max_response_headers_kb.unwrap_or(options.max_response_headers_kb);
    options.max_requests_per_connection = max_requests_per_connection.filter(|count| *count > 0);
    options.headers_with_underscores_action =
        match at.enumeration("headers_with_underscores_action", headers_with_underscores_action) {
            Underscores::Allow => HeadersWithUnderscoresAction::Allow,
            Underscores::RejectRequest => HeadersWithUnderscoresAction::RejectRequest,
            Underscores::DropHeader => HeadersWithUnderscoresAction::DropHeader,
        };
    options
}

/// The configuration of an extension, which must be there.
pub(super) fn typed_config(
    at: &At<'_>,
    extension: pb::core::TypedExtensionConfig,
) -> Option<pb::google::Any> {
    classify!(at, extension => pb::core::TypedExtensionConfig {
        implemented: typed_config;
        no_effect: name = "an extension is found by the type of its typed_config";
    });
    if typed_config.is_none() {
        at.field("typed_config").error("must be set");
    }
    typed_config
}
