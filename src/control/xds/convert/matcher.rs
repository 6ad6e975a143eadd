//! Conditions on strings, headers and query parameters, and regular expressions.
use super::at::At;
use super::fields::classify;
use crate::base::regex::{Regex, RegexSlots};
use crate::config::matcher::{
    HeaderCondition, HeaderMatcher, QueryParameterCondition, QueryParameterMatcher, RegexRewrite,
    StringMatcher, StringPattern,
};
use crate::control::xds::pb;
use pb::route::HeaderMatcherHeaderMatchSpecifierOneOf as HeaderSpecifier;
use pb::route::QueryParameterMatcherQueryParameterMatchSpecifierOneOf as QuerySpecifier;
use pb::types::StringMatcherMatchPatternOneOf as Pattern;

/// A list of string matchers.
pub(super) fn strings(
    at: &At<'_>,
    field: &str,
    matchers: Vec<pb::types::StringMatcher>,
) -> Vec<StringMatcher> {
    matchers.into_iter().enumerate().filter_map(|(index, m)| string(&at.item(field, index), m)).collect()
}

/// The patterns of a `ListStringMatcher`.
pub(super) fn string_list(at: &At<'_>, list: pb::types::ListStringMatcher) -> Vec<StringMatcher> {
    classify!(at, list => pb::types::ListStringMatcher { implemented: patterns; });
    strings(at, "patterns", patterns)
}

/// A condition on a string.
pub(super) fn string(at: &At<'_>, message: pb::types::StringMatcher) -> Option<StringMatcher> {
    classify!(at, message => pb::types::StringMatcher {
        implemented: match_pattern = "custom matchers are refused", ignore_case;
    });
    let pattern = match match_pattern {
        Some(Pattern::Exact(text)) => StringPattern::Exact(text.into()),
        Some(Pattern::Prefix(text)) => StringPattern::Prefix(text.into()),
        Some(Pattern::Suffix(text)) => StringPattern::Suffix(text.into()),
        Some(Pattern::Contains(text)) => StringPattern::Contains(text.into()),
        Some(Pattern::SafeRegex(regex)) => {
            StringPattern::SafeRegex(self::regex(&at.field("safe_regex"), regex)?)
        }
        Some(Pattern::Custom(_)) => {
            at.field("custom").value_refused("envoy.type.matcher.v3.StringMatcher.custom", "");
            return None;
        }
        None => {
            at.error("one of exact, prefix, suffix, safe_regex, contains must be set");
            return None;
        }
    };
    Some(StringMatcher { pattern, ignore_case })
}

/// A regular expression, checked.
pub(super) fn regex(at: &At<'_>, message: pb::types::RegexMatcher) -> Option<Box<str>> {
    classify!(at, message => pb::types::RegexMatcher {
        implemented: regex;
        no_effect: engine_type = "there is one engine, of RE2's syntax and linear time";
    });
    checked_regex(&at.field("regex"), regex)
}

/// A regular expression that is the whole value here. Compiled only to be checked: whoever uses it numbers its own.
pub(super) fn checked_regex(at: &At<'_>, regex: String) -> Option<Box<str>> {
    match Regex::search(&regex, &mut RegexSlots::default()) {
        Ok(_) => Some(regex.into_boxed_str()),
        Err(error) => {
            at.error(format!("not a regular expression: {error}"));
            None
        }
    }
}

/// A regular expression and its substitution. Envoy lets pass a substitution that names a group that does not exist;
/// it replaces nothing.
pub(super) fn regex_rewrite(
    at: &At<'_>,
    message: pb::types::RegexMatchAndSubstitute,
) -> Option<RegexRewrite> {
    classify!(at, message => pb::types::RegexMatchAndSubstitute { implemented: pattern, substitution; });
    let Some(pattern) = pattern else {
        at.field("pattern").error("must be set");
        return None;
    };
    let regex = regex(&at.field("pattern"), pattern)?;
    Some(RegexRewrite { regex, substitution: substitution.into() })
}

/// Conditions on headers.
pub(super) fn headers(at: &At<'_>, matchers: Vec<pb::route::HeaderMatcher>) -> Vec<HeaderMatcher> {
    matchers.into_iter().enumerate().filter_map(|(index, m)| header(&at.item("headers", index), m)).collect()
}

/// A condition on a header.
pub(super) fn header(at: &At<'_>, message: pb::route::HeaderMatcher) -> Option<HeaderMatcher> {
    classify!(at, message => pb::route::HeaderMatcher {
        implemented: name, header_match_specifier, invert_match, treat_missing_header_as_empty;
    });
    let string = |pattern| HeaderCondition::String(StringMatcher { pattern, ignore_case: false });
    let condition = match header_match_specifier {
        None => HeaderCondition::Present(true),
        Some(HeaderSpecifier::PresentMatch(present)) => HeaderCondition::Present(present),
        Some(HeaderSpecifier::RangeMatch(range)) => {
            classify!(at, range => pb::types::Int64Range { implemented: start, end; });
            HeaderCondition::Range { start, end }
        }
        Some(HeaderSpecifier::StringMatch(matcher)) => {
            HeaderCondition::String(self::string(&at.field("string_match"), matcher)?)
        }
        Some(HeaderSpecifier::ExactMatch(text)) => string(StringPattern::Exact(text.into())),
        Some(HeaderSpecifier::PrefixMatch(text)) => string(StringPattern::Prefix(text.into())),
        Some(HeaderSpecifier::SuffixMatch(text)) => string(StringPattern::Suffix(text.into())),
        Some(HeaderSpecifier::ContainsMatch(text)) => string(StringPattern::Contains(text.into())),
        Some(HeaderSpecifier::SafeRegexMatch(regex)) => {
            string(StringPattern::SafeRegex(self::regex(&at.field("safe_regex_match"), regex)?))
        }
    };
    Some(HeaderMatcher { name: name.into(), condition, invert_match, treat_missing_header_as_empty })
}

/// Conditions on query parameters.
pub(super) fn query_parameters(
    at: &At<'_>,
    matchers: Vec<pb::route::QueryParameterMatcher>,
) -> Vec<QueryParameterMatcher> {
    let convert = |(index, message): (usize, pb::route::QueryParameterMatcher)| {
        let at = &at.item("query_parameters", index);
        classify!(at, message => pb::route::QueryParameterMatcher {
            implemented: name, query_parameter_match_specifier;
        });
        let condition = match query_parameter_match_specifier {
            None => QueryParameterCondition::Present(true),
            Some(QuerySpecifier::PresentMatch(present)) => QueryParameterCondition::Present(present),
            Some(QuerySpecifier::StringMatch(matcher)) => {
                QueryParameterCondition::String(string(&at.field("string_match"), matcher)?)
            }
        };
        Some(QueryParameterMatcher { name: name.into(), condition })
    };
    matchers.into_iter().enumerate().filter_map(convert).collect()
}
