//! Conditions on strings, headers and query parameters, and regular expressions.
use super::at::At;
use super::fields::classify;
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

/// A regular expression that is the whole value here.
pub(super) fn checked_regex(at: &At<'_>, regex: String) -> Option<Box<str>> {
    match regex_automata::meta::Regex::new(&regex) {
        Ok(_) => Some(regex.into_boxed_str()),
        Err(error) => {
            at.error(format!("not a regular expression: {}", one_line(&error)));
            None
        }
    }
}

fn one_line(error: &regex_automata::meta::BuildError) -> String {
    let text = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
    text.lines().last().unwrap_or_default().trim().to_owned()
}

/// A regular expression and its substitution, whose groups must exist.
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
    let groups = regex_automata::meta::Regex::new(&regex).map_or(0, |compiled| compiled.captures_len());
    if let Err(reason) = check_substitution(&substitution, groups) {
        at.field("substitution").error(reason);
        return None;
    }
    Some(RegexRewrite { regex, substitution: substitution.into() })
}

/// `\0` to `\9` name a group that exists, `\\` is a backslash, any other use of one is wrong.
fn check_substitution(substitution: &str, groups: usize) -> Result<(), String> {
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            continue;
        }
        match bytes.next() {
            Some(b'\\') => {}
            Some(digit @ b'0'..=b'9') if usize::from(digit - b'0') < groups => {}
            Some(digit @ b'0'..=b'9') => {
                return Err(format!("group \\{} does not exist in the pattern", char::from(digit)));
            }
            _ => return Err("a backslash must be followed by a digit or a backslash".into()),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitution_with_missing_group_is_refused() {
        assert!(check_substitution(r"\1/\0/\\", 2).is_ok());
        assert!(check_substitution(r"\2", 2).is_err());
        assert!(check_substitution(r"a\", 2).is_err());
        assert!(check_substitution(r"\x", 2).is_err());
    }
}
