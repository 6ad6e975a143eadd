//! Conditions on strings, headers, query parameters and dynamic metadata, as configured: routes, access-log filters and others
//! share them.
//!
//! Plain data. `protocol::http::matcher` compiles and evaluates the conditions on strings and headers, `matching` those on
//! metadata, `route` the others.

use super::runtime::RuntimeKey;

/// How a text is compared. Source: `envoy.type.matcher.v3.StringMatcher.match_pattern`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringPattern {
    /// The whole text equals this one.
    Exact(Box<str>),
    /// The text begins with this one (never empty: refused by validation as in Envoy).
    Prefix(Box<str>),
    /// The text ends with this one.
    Suffix(Box<str>),
    /// This text occurs somewhere in it.
    Contains(Box<str>),
    /// The whole text matches this regular expression (RE2 syntax; see `base::regex` for the differences).
    SafeRegex(Box<str>),
}

/// A condition on a text. Source: `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher {
    /// What is compared.
    pub pattern: StringPattern,
    /// Whether ASCII case is ignored. Default false. No effect on `SafeRegex` (Envoy: "has no effect for the safe_regex match").
    pub ignore_case: bool,
}

/// A condition on one header. Source: `envoy.config.route.v3.HeaderMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatcher {
    /// Name of the header, compared without case; `:method`, `:path`, `:authority`, `:scheme` and `:status` name the start line.
    /// Of several lines with this name one must meet the condition; inverted, none may. Source: `name`.
    pub name: Box<str>,
    /// What is asked of its value. Default when nothing is configured: `Present(true)`.
    pub condition: HeaderCondition,
    /// Whether the result is inverted. Default false. A missing header still never matches a condition on its
    /// value, inverted or not, unless `treat_missing_header_as_empty` is set or a presence is asked. Source: `invert_match`.
    pub invert_match: bool,
    /// Whether a missing header is compared as if it were the empty text. Default false.
    /// Source: `treat_missing_header_as_empty`.
    pub treat_missing_header_as_empty: bool,
}

/// What is asked of a header's value. Source: `HeaderMatcher.header_match_specifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderCondition {
    /// Present (true) or absent (false). Source: `present_match`.
    Present(bool),
    /// A decimal integer with `start <= value < end`. Source: `range_match`.
    Range { start: i64, end: i64 },
    /// A condition on the text; the older `exact_match`, `prefix_match`, `suffix_match`, `contains_match` and
    /// `safe_regex_match` are converted to it. Source: `string_match`.
    String(StringMatcher),
}

/// A condition on one query parameter; its first value counts. Source: `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryParameterMatcher {
    /// Name of the parameter, compared with case. Source: `name`.
    pub name: Box<str>,
    /// What is asked of it.
    pub condition: QueryParameterCondition,
}

/// What is asked of a query parameter. Source: `QueryParameterMatcher.query_parameter_match_specifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryParameterCondition {
    /// Present (true) or absent (false). Default when nothing is configured: `Present(true)`. Source: `present_match`.
    Present(bool),
    /// A condition on the value. Source: `string_match`.
    String(StringMatcher),
}

/// A condition on dynamic metadata. Source: Envoy `type.matcher.v3.MetadataMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    /// The namespace. Source: `filter`.
    pub filter: Box<str>,
    /// Keys that lead to the value; never empty. Source: `path`.
    pub path: Vec<Box<str>>,
    /// What is asked of the value. Source: `value`.
    pub value: ValueMatcher,
    /// Whether the result is inverted. Default false. Source: `invert`.
    pub invert: bool,
}

/// What is asked of a value. Source: Envoy `type.matcher.v3.ValueMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    /// It is JSON's `null`. Source: `null_match`.
    Null,
    /// It is a number that is this one. Source: `double_match.exact`.
    Number(f64),
    /// It is a number with `start <= number < end`. Source: `double_match.range`.
    NumberRange { start: f64, end: f64 },
    /// It is a text that meets the condition. Source: `string_match`.
    String(StringMatcher),
    /// It is this truth value. Source: `bool_match`.
    Bool(bool),
    /// It is there; `false` is never met. Source: `present_match`.
    Present(bool),
    /// It is a list, one of whose values is as asked. Source: `list_match.one_of`.
    OneOf(Box<Self>),
    /// One of these. Source: `or_match`.
    AnyOf(Vec<Self>),
}

/// A share of requests. Source: `envoy.type.v3.FractionalPercent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FractionalPercent {
    /// How many of `denominator`. Beyond the denominator: all.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000. Default 100. Source: `FractionalPercent.DenominatorType`.
    pub denominator: u32,
}

/// A share of requests which the runtime layers may override. Source: `envoy.config.core.v3.RuntimeFractionalPercent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFraction {
    /// The share when the runtime has no value under `runtime_key`.
    pub default_value: FractionalPercent,
    /// Under which the runtime layers may have another; `None`: no value can come.
    pub runtime_key: Option<RuntimeKey>,
}

impl RuntimeFraction {
    pub fn value(&self) -> FractionalPercent {
        self.runtime_key.as_ref().and_then(RuntimeKey::fraction).unwrap_or(self.default_value)
    }
}

/// A regular expression and what its matches are replaced by. Source: `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegexRewrite {
    /// The expression; every match that does not overlap an earlier one is replaced. Source: `pattern.regex`.
    pub regex: Box<str>,
    /// The replacement: `\1` to `\9` stand for groups, `\0` for the whole match, `\\` for a backslash. Source: `substitution`.
    pub substitution: Box<str>,
}
