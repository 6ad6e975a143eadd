//! [`Filter`]: which requests an access log records, or a local-reply mapper applies to.

use crate::base::regex::RegexSlots;
use crate::config::access_log::{AccessLogFilter, AccessLogType, Comparison, ComparisonOp, RuntimeSample};
use crate::config::error::ConfigError;
use crate::config::runtime::RuntimeKey;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;
use crate::protocol::http::matcher::{HeaderMatcher, MatchScratch};
use crate::protocol::response_flags::{ResponseFlag, ResponseFlags};

use super::context::FormatContext;
use super::grpc_status;

const NS_PER_MS: u64 = 1_000_000;

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter(Node);

#[derive(Debug, Clone)]
enum Node {
    StatusCode(Comparison),
    DurationMs(Comparison),
    NotHealthCheck,
    /// No request is traced: there is no tracing.
    Traceable,
    Sample(RuntimeSample),
    All(Box<[Self]>),
    Any(Box<[Self]>),
    Header(Box<HeaderMatcher>),
    AnyFlag,
    Flags(Box<ResponseFlags>),
    /// A bit for each status.
    GrpcStatus {
        statuses: u32,
        exclude: bool,
    },
    /// A bit for each kind.
    LogType {
        types: u32,
        exclude: bool,
    },
}

impl Filter {
    /// Compiles a filter; `path` is its field path. Its regular expressions take their places in `slots`.
    ///
    /// # Errors
    /// When a header matcher is wrong or a response flag is unknown.
    pub fn compile(
        config: &AccessLogFilter,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        compile(config, path, slots).map(Self)
    }

    /// Whether the request passes. `scratch` is this core's, of the set that `slots` belonged to.
    pub fn matches(&self, context: &FormatContext<'_>, scratch: &mut MatchScratch) -> bool {
        self.0.matches(context, scratch)
    }
}

fn compile(config: &AccessLogFilter, path: &str, slots: &mut RegexSlots) -> Result<Node, ConfigError> {
    let mut list = |filters: &[AccessLogFilter], field: &str| -> Result<Box<[Node]>, ConfigError> {
        let filters = filters.iter().enumerate();
        filters
            .map(|(index, filter)| compile(filter, &format!("{path}.{field}.filters[{index}]"), slots))
            .collect()
    };
    Ok(match config {
        AccessLogFilter::StatusCode(comparison) => Node::StatusCode(comparison.clone()),
        AccessLogFilter::Duration(comparison) => Node::DurationMs(comparison.clone()),
        AccessLogFilter::NotHealthCheck => Node::NotHealthCheck,
        AccessLogFilter::Traceable => Node::Traceable,
        AccessLogFilter::Runtime(sample) => Node::Sample(sample.clone()),
        AccessLogFilter::And(filters) => Node::All(list(filters, "and_filter")?),
        AccessLogFilter::Or(filters) => Node::Any(list(filters, "or_filter")?),
        AccessLogFilter::Header(matcher) => {
            let path = format!("{path}.header_filter.header");
            Node::Header(Box::new(HeaderMatcher::compile(matcher, &path, slots)?))
        }
        AccessLogFilter::ResponseFlag(names) if names.is_empty() => Node::AnyFlag,
        AccessLogFilter::ResponseFlag(names) => {
            let mut flags = ResponseFlags::default();
            for (index, name) in names.iter().enumerate() {
                let flag = ResponseFlag::from_short_name(name).ok_or_else(|| {
                    let path = format!("{path}.response_flag_filter.flags[{index}]");
                    ConfigError::new(path, format!("no such response flag: {name:?}"))
                })?;
                flags.set(flag);
            }
            Node::Flags(Box::new(flags))
        }
        AccessLogFilter::GrpcStatus { statuses, exclude } => Node::GrpcStatus {
            statuses: statuses.iter().fold(0, |bits, status| bits | bit(u32::from(*status))),
            exclude: *exclude,
        },
        AccessLogFilter::LogType { types, exclude } => Node::LogType {
            types: types.iter().fold(0, |bits, log_type| bits | log_type_bit(*log_type)),
            exclude: *exclude,
        },
    })
}

/// The bit of a small number; none for a number that has no bit.
fn bit(number: u32) -> u32 {
    1_u32.checked_shl(number).unwrap_or(0)
}

fn log_type_bit(log_type: AccessLogType) -> u32 {
    bit(log_type as u32)
}

impl Node {
    fn matches(&self, context: &FormatContext<'_>, scratch: &mut MatchScratch) -> bool {
        let info = context.info;
        match self {
            Self::StatusCode(comparison) => holds(comparison, info.response_code.unwrap_or(0).into()),
            Self::DurationMs(comparison) => {
                let end_ns = info.complete_ns.unwrap_or(context.now_ns);
                holds(comparison, end_ns.saturating_sub(info.start_ns) / NS_PER_MS)
            }
            Self::NotHealthCheck => !info.health_check,
            Self::Traceable => false,
            Self::Sample(sample) => takes(sample, context),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(context, scratch)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(context, scratch)),
            Self::Header(matcher) => match context.request {
                Some(request) => matcher.matches(request, scratch),
                None => matcher.matches(&Head::new(), scratch),
            },
            Self::AnyFlag => !info.response_flags.is_empty(),
            Self::Flags(flags) => info.response_flags.intersects(flags),
            Self::GrpcStatus { statuses, exclude } => {
                let status = u32::try_from(grpc_status::of_filtered_request(context)).unwrap_or(u32::MAX);
                (statuses & bit(status) != 0) != *exclude
            }
            Self::LogType { types, exclude } => (types & log_type_bit(context.log_type) != 0) != *exclude,
        }
    }
}

fn holds(comparison: &Comparison, left: u64) -> bool {
    let other = comparison.runtime_key.as_ref().and_then(RuntimeKey::integer);
    let right = other.unwrap_or_else(|| comparison.value.into());
    match comparison.op {
        ComparisonOp::Equal => left == right,
        ComparisonOp::GreaterOrEqual => left >= right,
        ComparisonOp::LessOrEqual => left <= right,
        ComparisonOp::NotEqual => left != right,
    }
}

/// Whether the sample takes this request. Envoy reads the first eight digits of a UUID as a number.
fn takes(sample: &RuntimeSample, context: &FormatContext<'_>) -> bool {
    let id_number = || {
        let id = context.request?.get(&headers::X_REQUEST_ID)?.get(..8)?;
        u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()
    };
    let number = if sample.independent { None } else { id_number() }.unwrap_or(context.random);
    let denominator = u64::from(sample.share.denominator.max(1));
    let other = sample.runtime_key.as_ref().and_then(RuntimeKey::integer);
    number % denominator < other.unwrap_or_else(|| sample.share.numerator.into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Example, header};
    use super::*;
    use crate::config::matcher::{
        FractionalPercent, HeaderCondition, HeaderMatcher as HeaderConfig, StringMatcher, StringPattern,
    };
    use crate::config::runtime::{RuntimeState, RuntimeValue};

    fn passes(filter: &AccessLogFilter, example: &Example) -> bool {
        let mut slots = RegexSlots::default();
        let filter = Filter::compile(filter, "filter", &mut slots).unwrap();
        filter.matches(&example.context(), &mut MatchScratch::default())
    }

    fn compare(op: ComparisonOp, value: u32) -> Comparison {
        Comparison { op, value, runtime_key: None }
    }

    fn user_agent(text: &str) -> AccessLogFilter {
        AccessLogFilter::Header(HeaderConfig {
            name: "user-agent".into(),
            condition: HeaderCondition::String(StringMatcher {
                pattern: StringPattern::Prefix(text.into()),
                ignore_case: false,
            }),
            invert_match: false,
            treat_missing_header_as_empty: false,
        })
    }

    #[test]
    fn filters_pass_and_hold_back_as_configured() {
        use AccessLogFilter::*;
        use ComparisonOp::*;
        let mut example = Example::new();
        example.info.response_flags.set(super::ResponseFlag::UpstreamConnectionFailure);
        example.info.response_code = Some(503);
        let status = |op, value| StatusCode(compare(op, value));
        let flags = |names: &[&str]| ResponseFlag(names.iter().map(|name| (*name).into()).collect());
        let table = [
            (status(Equal, 503), true),
            (status(Equal, 500), false),
            (status(GreaterOrEqual, 500), true),
            (status(GreaterOrEqual, 504), false),
            (status(LessOrEqual, 503), true),
            (status(LessOrEqual, 502), false),
            (status(NotEqual, 503), false),
            (Duration(compare(Equal, 123)), true),
            (Duration(compare(GreaterOrEqual, 124)), false),
            (NotHealthCheck, true),
            (Traceable, false),
            (And(vec![status(Equal, 503), NotHealthCheck]), true),
            (And(vec![status(Equal, 503), Traceable]), false),
            (Or(vec![Traceable, NotHealthCheck]), true),
            (Or(vec![Traceable, status(Equal, 1)]), false),
            (user_agent("agent"), true),
            (user_agent("other"), false),
            (flags(&[]), true),
            (flags(&["UH", "UF"]), true),
            (flags(&["UH"]), false),
            (GrpcStatus { statuses: vec![14], exclude: false }, true),
            (GrpcStatus { statuses: vec![14], exclude: true }, false),
            (GrpcStatus { statuses: vec![0], exclude: true }, true),
            (LogType { types: vec![AccessLogType::DownstreamEnd], exclude: false }, true),
            (LogType { types: vec![AccessLogType::DownstreamEnd], exclude: true }, false),
            (LogType { types: vec![AccessLogType::DownstreamStart], exclude: false }, false),
        ];
        for (filter, expected) in table {
            assert_eq!(passes(&filter, &example), expected, "{filter:?}");
        }
        example.info.health_check = true;
        assert!(!passes(&NotHealthCheck, &example));
    }

    #[test]
    fn absent_response_counts_as_zero_and_no_grpc_status_as_unknown() {
        let mut example = Example::new();
        example.info.response_code = None;
        assert!(passes(&AccessLogFilter::StatusCode(compare(ComparisonOp::Equal, 0)), &example));
        assert!(passes(&AccessLogFilter::GrpcStatus { statuses: vec![2], exclude: false }, &example));
        assert!(!passes(&AccessLogFilter::ResponseFlag(Vec::new()), &example));
    }

    #[test]
    fn runtime_has_other_values_and_numerators_of_the_configured_denominator() {
        let state = RuntimeState::default();
        let key = RuntimeKey::new("a", RuntimeValue::default(), &state);
        let comparison = Comparison { runtime_key: Some(key.clone()), ..compare(ComparisonOp::Equal, 503) };
        let status = AccessLogFilter::StatusCode(comparison);
        let share = FractionalPercent { numerator: 0, denominator: 1_000_000 };
        let sample = AccessLogFilter::Runtime(RuntimeSample {
            share,
            independent: true,
            runtime_key: Some(key.clone()),
        });
        let mut example = Example::new();
        example.info.response_code = Some(200);
        let passes = |random: u64| {
            let mut slots = RegexSlots::default();
            let [status, sample] =
                [&status, &sample].map(|filter| Filter::compile(filter, "filter", &mut slots).unwrap());
            let mut context = example.context();
            context.random = random;
            let mut scratch = MatchScratch::default();
            (status.matches(&context, &mut scratch), sample.matches(&context, &mut scratch))
        };
        assert_eq!(passes(0), (false, false));
        key.prepare(RuntimeValue::of(&serde_json::json!(200)));
        state.proceed();
        assert_eq!((passes(199), passes(200)), ((true, true), (true, false)));
    }

    #[test]
    fn sample_follows_the_request_id_unless_independent() {
        let sample = |numerator, independent| {
            let share = FractionalPercent { numerator, denominator: 100 };
            AccessLogFilter::Runtime(RuntimeSample { share, independent, runtime_key: None })
        };
        let mut example = Example::new();
        example.request = Head::new();
        // 0x20 = 32: below 33 of 100, not below 32.
        header(&mut example.request, "x-request-id", b"00000020-0000-4000-8000-000000000000");
        assert!(passes(&sample(33, false), &example));
        assert!(!passes(&sample(32, false), &example));
        // The example's random number is 1.
        assert!(passes(&sample(2, true), &example));
        assert!(!passes(&sample(1, true), &example));
        assert!(!passes(&sample(0, true), &example));
        assert!(passes(&sample(u32::MAX, false), &example));
    }

    #[test]
    fn unknown_flag_is_an_error_with_its_path() {
        let config = AccessLogFilter::And(vec![
            AccessLogFilter::NotHealthCheck,
            AccessLogFilter::ResponseFlag(vec!["UF".into(), "XX".into()]),
        ]);
        let error = Filter::compile(&config, "filter", &mut RegexSlots::default()).unwrap_err();
        assert_eq!(error.path, "filter.and_filter.filters[1].response_flag_filter.flags[1]");
    }
}
