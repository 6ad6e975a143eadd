//! Access logs and their filters.
use super::at::At;
use super::fields::classify;
use super::format;
use super::matcher;
use super::report::Class;
use super::value::type_name;
use crate::config::access_log::{
    AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, AccessLogType, Comparison, ComparisonOp,
    RuntimeSample,
};
use crate::config::matcher::FractionalPercent;
use crate::control::xds::pb::{self, Named};
use pb::access_log::AccessLogFilterFilterSpecifierOneOf as Specifier;
use pb::access_log::{
    AccessLogConfigTypeOneOf, ComparisonFilterOp, FileAccessLogAccessLogFormatOneOf, GrpcStatusFilterStatus,
    StderrAccessLogAccessLogFormatOneOf, StdoutAccessLogAccessLogFormatOneOf,
};

/// A list of access logs. Those of a kind that this version lacks are left out: losing a log changes no traffic.
pub(super) fn access_logs(at: &At<'_>, field: &str, logs: Vec<pb::access_log::AccessLog>) -> Vec<AccessLog> {
    logs.into_iter().enumerate().filter_map(|(index, log)| access_log(&at.item(field, index), log)).collect()
}

fn access_log(at: &At<'_>, message: pb::access_log::AccessLog) -> Option<AccessLog> {
    classify!(at, message => pb::access_log::AccessLog {
        implemented: filter, config_type = "the file, stdout and stderr loggers; others are not implemented yet";
        no_effect: name = "a logger is found by the type of its typed_config";
    });
    // The filter is converted even when the logger is unknown: all mistakes are reported.
    let filter = filter.map(|filter| self::filter(&at.field("filter"), filter, Class::NotYet));
    let Some(AccessLogConfigTypeOneOf::TypedConfig(any)) = config_type else {
        at.error_with_fix(
            "typed_config must be set",
            "typed_config:\n  \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n  \
             path: /dev/stdout",
        );
        return None;
    };
    let at = &at.field("typed_config");
    let (sink, format) = match type_name(&any) {
        pb::access_log::FileAccessLog::NAME => file(at, at.unpack(&any)?)?,
        pb::access_log::StdoutAccessLog::NAME => (AccessLogSink::Stdout, stdout(at, at.unpack(&any)?)?),
        pb::access_log::StderrAccessLog::NAME => (AccessLogSink::Stderr, stderr(at, at.unpack(&any)?)?),
        _ => {
            at.extension(Class::NotYet, &any, "");
            return None;
        }
    };
    let filter = match filter {
        Some(filter) => Some(filter?),
        None => None,
    };
    Some(AccessLog { sink, format, filter })
}

/// The admin server's older `access_log_path`.
pub(super) fn file_by_path(path: &str) -> AccessLog {
    AccessLog { sink: AccessLogSink::of_path(path), format: AccessLogFormat::Default, filter: None }
}

fn file(at: &At<'_>, message: pb::access_log::FileAccessLog) -> Option<(AccessLogSink, AccessLogFormat)> {
    use FileAccessLogAccessLogFormatOneOf as Format;
    classify!(at, message => pb::access_log::FileAccessLog { implemented: path, access_log_format; });
    let format = match access_log_format {
        None => AccessLogFormat::Default,
        // Envoy takes an empty format for an unset one.
        Some(Format::Format(text)) if text.is_empty() => AccessLogFormat::Default,
        Some(Format::Format(text)) => AccessLogFormat::Format(format::plain_text(&at.field("format"), text)?),
        Some(Format::JsonFormat(object)) => {
            AccessLogFormat::Format(format::plain_json(&at.field("json_format"), object)?)
        }
        Some(Format::TypedJsonFormat(object)) => {
            AccessLogFormat::Format(format::plain_json(&at.field("typed_json_format"), object)?)
        }
        Some(Format::LogFormat(format)) => {
            AccessLogFormat::Format(format::substitution(&at.field("log_format"), format)?)
        }
    };
    Some((AccessLogSink::of_path(&path), format))
}

fn stdout(at: &At<'_>, message: pb::access_log::StdoutAccessLog) -> Option<AccessLogFormat> {
    use StdoutAccessLogAccessLogFormatOneOf as Format;
    classify!(at, message => pb::access_log::StdoutAccessLog { implemented: access_log_format; });
    stream_format(at, access_log_format.map(|Format::LogFormat(format)| format))
}

fn stderr(at: &At<'_>, message: pb::access_log::StderrAccessLog) -> Option<AccessLogFormat> {
    use StderrAccessLogAccessLogFormatOneOf as Format;
    classify!(at, message => pb::access_log::StderrAccessLog { implemented: access_log_format; });
    stream_format(at, access_log_format.map(|Format::LogFormat(format)| format))
}

fn stream_format(at: &At<'_>, format: Option<pb::http::SubstitutionFormatString>) -> Option<AccessLogFormat> {
    match format {
        None => Some(AccessLogFormat::Default),
        Some(format) => Some(AccessLogFormat::Format(format::substitution(&at.field("log_format"), format)?)),
    }
}

/// A filter. `lacking` is the class of those that this version lacks: an access log may go without, a rewriting of
/// replies may not.
pub(super) fn filter(
    at: &At<'_>,
    message: pb::access_log::AccessLogFilter,
    lacking: Class,
) -> Option<AccessLogFilter> {
    classify!(at, message => pb::access_log::AccessLogFilter {
        implemented: filter_specifier =
            "all but metadata_filter and extension_filter, with which an access log is left out";
    });
    const FILTER: &str = "envoy.config.accesslog.v3.AccessLogFilter.";
    Some(match filter_specifier {
        Some(Specifier::StatusCodeFilter(message)) => {
            let at = &at.field("status_code_filter");
            classify!(at, message => pb::access_log::StatusCodeFilter { implemented: comparison; });
            AccessLogFilter::StatusCode(self::comparison(at, comparison)?)
        }
        Some(Specifier::DurationFilter(message)) => {
            let at = &at.field("duration_filter");
            classify!(at, message => pb::access_log::DurationFilter { implemented: comparison; });
            AccessLogFilter::Duration(self::comparison(at, comparison)?)
        }
        Some(Specifier::NotHealthCheckFilter(_)) => AccessLogFilter::NotHealthCheck,
        Some(Specifier::TraceableFilter(_)) => AccessLogFilter::Traceable,
        Some(Specifier::RuntimeFilter(message)) => {
            AccessLogFilter::Runtime(sample(&at.field("runtime_filter"), message))
        }
        Some(Specifier::AndFilter(message)) => {
            let at = &at.field("and_filter");
            classify!(at, message => pb::access_log::AndFilter { implemented: filters; });
            AccessLogFilter::And(self::filters(at, filters, lacking)?)
        }
        Some(Specifier::OrFilter(message)) => {
            let at = &at.field("or_filter");
            classify!(at, message => pb::access_log::OrFilter { implemented: filters; });
            AccessLogFilter::Or(self::filters(at, filters, lacking)?)
        }
        Some(Specifier::HeaderFilter(message)) => {
            let at = &at.field("header_filter");
            classify!(at, message => pb::access_log::HeaderFilter { implemented: header; });
            match header {
                Some(header) => AccessLogFilter::Header(matcher::header(&at.field("header"), header)?),
                None => {
                    at.field("header").error("must be set");
                    return None;
                }
            }
        }
        Some(Specifier::ResponseFlagFilter(message)) => {
            let at = &at.field("response_flag_filter");
            classify!(at, message => pb::access_log::ResponseFlagFilter { implemented: flags; });
            AccessLogFilter::ResponseFlag(flags.into_iter().map(Into::into).collect())
        }
        Some(Specifier::GrpcStatusFilter(message)) => {
            let at = &at.field("grpc_status_filter");
            classify!(at, message => pb::access_log::GrpcStatusFilter { implemented: statuses, exclude; });
            let status = |value: i32| {
                // 0..=16 by the enum.
                u8::try_from(at.enumeration::<GrpcStatusFilterStatus>("statuses", value) as i32).unwrap_or(0)
            };
            AccessLogFilter::GrpcStatus { statuses: statuses.into_iter().map(status).collect(), exclude }
        }
        Some(Specifier::LogTypeFilter(message)) => {
            let at = &at.field("log_type_filter");
            classify!(at, message => pb::access_log::LogTypeFilter { implemented: types, exclude; });
            let types =
                types.into_iter().filter_map(|value| log_type(at.enumeration("types", value))).collect();
            AccessLogFilter::LogType { types, exclude }
        }
        Some(Specifier::MetadataFilter(_)) => {
            at.field("metadata_filter").found(lacking, format!("{FILTER}metadata_filter"), "");
            return None;
        }
        Some(Specifier::ExtensionFilter(_)) => {
            at.field("extension_filter").found(lacking, format!("{FILTER}extension_filter"), "");
            return None;
        }
        None => {
            at.error("one of the filters must be set");
            return None;
        }
    })
}

fn filters(
    at: &At<'_>,
    filters: Vec<pb::access_log::AccessLogFilter>,
    lacking: Class,
) -> Option<Vec<AccessLogFilter>> {
    // Every filter is visited before the first failure counts.
    let converted: Vec<_> = filters
        .into_iter()
        .enumerate()
        .map(|(index, filter)| self::filter(&at.item("filters", index), filter, lacking))
        .collect();
    converted.into_iter().collect()
}

fn comparison(at: &At<'_>, message: Option<pb::access_log::ComparisonFilter>) -> Option<Comparison> {
    let at = &at.field("comparison");
    let Some(message) = message else {
        at.error("must be set");
        return None;
    };
    classify!(at, message => pb::access_log::ComparisonFilter { implemented: op, value; });
    let op = match at.enumeration("op", op) {
        ComparisonFilterOp::Eq => ComparisonOp::Equal,
        ComparisonFilterOp::Ge => ComparisonOp::GreaterOrEqual,
        ComparisonFilterOp::Le => ComparisonOp::LessOrEqual,
        ComparisonFilterOp::Ne => ComparisonOp::NotEqual,
    };
    let Some(value) = value else {
        at.field("value").error("must be set");
        return None;
    };
    classify!(at, value => pb::core::RuntimeUInt32 {
        implemented: default_value, runtime_key;
    });
    Some(Comparison { op, value: default_value, runtime_key: at.context.runtime.key(&runtime_key) })
}

fn sample(at: &At<'_>, message: pb::access_log::RuntimeFilter) -> RuntimeSample {
    classify!(at, message => pb::access_log::RuntimeFilter {
        implemented: runtime_key, percent_sampled, use_independent_randomness;
    });
    let share = match percent_sampled {
        Some(share) => at.fraction("percent_sampled", share),
        None => FractionalPercent { numerator: 0, denominator: 100 },
    };
    let runtime_key = at.context.runtime.key(&runtime_key);
    RuntimeSample { share, runtime_key, independent: use_independent_randomness }
}

/// `None`: a kind of which this version writes no record, so that no filter can tell the difference.
fn log_type(value: pb::types::AccessLogType) -> Option<AccessLogType> {
    use pb::types::AccessLogType as Wire;
    Some(match value {
        Wire::NotSet => AccessLogType::NotSet,
        Wire::TcpUpstreamConnected => AccessLogType::TcpUpstreamConnected,
        Wire::TcpPeriodic => AccessLogType::TcpPeriodic,
        Wire::TcpConnectionStart => AccessLogType::TcpConnectionStart,
        Wire::TcpConnectionEnd => AccessLogType::TcpConnectionEnd,
        Wire::DownstreamStart => AccessLogType::DownstreamStart,
        Wire::DownstreamPeriodic => AccessLogType::DownstreamPeriodic,
        Wire::DownstreamEnd => AccessLogType::DownstreamEnd,
        Wire::UpstreamPoolReady => AccessLogType::UpstreamPoolReady,
        Wire::UpstreamPeriodic => AccessLogType::UpstreamPeriodic,
        Wire::UpstreamEnd => AccessLogType::UpstreamEnd,
        Wire::DownstreamTunnelSuccessfullyEstablished => {
            AccessLogType::DownstreamTunnelSuccessfullyEstablished
        }
        Wire::UdpTunnelUpstreamConnected => AccessLogType::UdpTunnelUpstreamConnected,
        Wire::UdpPeriodic => AccessLogType::UdpPeriodic,
        Wire::UdpSessionEnd => AccessLogType::UdpSessionEnd,
    })
}
