//! Conditions on dynamic metadata, and on one of its values.
use super::at::At;
use super::fields::classify;
use super::matcher;
use crate::config::matcher::{MetadataMatcher, ValueMatcher};
use crate::control::xds::pb;
use pb::types::{
    DoubleMatcherMatchPatternOneOf as DoublePattern, ListMatcherMatchPatternOneOf as ListPattern,
    MetadataMatcherPathSegmentSegmentOneOf as Segment, ValueMatcherMatchPatternOneOf as ValuePattern,
};

/// A condition on a value that keys lead to.
pub(super) fn matcher(at: &At<'_>, message: pb::types::MetadataMatcher) -> Option<MetadataMatcher> {
    classify!(at, message => pb::types::MetadataMatcher { implemented: filter, path, value, invert; });
    let key = |at: &At<'_>, message: pb::types::MetadataMatcherPathSegment| {
        classify!(at, message => pb::types::MetadataMatcherPathSegment { implemented: segment; });
        segment.map(|Segment::Key(key)| key)
    };
    let (filter, path) = place(at, filter, path, key)?;
    let Some(value) = value else {
        at.field("value").error("must be set");
        return None;
    };
    let value = self::value(&at.field("value"), value)?;
    Some(MetadataMatcher { filter, path, value, invert })
}

/// Where a value lies: the namespace, and the keys that lead to it; `key` takes a segment apart.
pub(super) fn place<S>(
    at: &At<'_>,
    filter: String,
    path: Vec<S>,
    key: impl Fn(&At<'_>, S) -> Option<String>,
) -> Option<(Box<str>, Vec<Box<str>>)> {
    if filter.is_empty() {
        at.field("filter").error("must not be empty");
    }
    if path.is_empty() {
        at.field("path").error("must not be empty");
        return None;
    }
    let key = |(index, segment): (usize, S)| {
        let at = &at.item("path", index);
        let key = key(at, segment).filter(|key| !key.is_empty());
        if key.is_none() {
            at.field("key").error("must be set");
        }
        key.map(String::into_boxed_str)
    };
    Some((filter.into(), path.into_iter().enumerate().filter_map(key).collect()))
}

/// What is asked of a value.
pub(super) fn value(at: &At<'_>, message: pb::types::ValueMatcher) -> Option<ValueMatcher> {
    classify!(at, message => pb::types::ValueMatcher { implemented: match_pattern; });
    Some(match match_pattern {
        Some(ValuePattern::NullMatch(message)) => {
            classify!(at, message => pb::types::ValueMatcherNullMatch {});
            ValueMatcher::Null
        }
        Some(ValuePattern::DoubleMatch(message)) => double(&at.field("double_match"), message)?,
        Some(ValuePattern::StringMatch(message)) => {
            ValueMatcher::String(matcher::string(&at.field("string_match"), message)?)
        }
        Some(ValuePattern::BoolMatch(wanted)) => ValueMatcher::Bool(wanted),
        Some(ValuePattern::PresentMatch(wanted)) => ValueMatcher::Present(wanted),
        Some(ValuePattern::ListMatch(message)) => {
            let at = &at.field("list_match");
            classify!(at, message => pb::types::ListMatcher { implemented: match_pattern; });
            let Some(ListPattern::OneOf(message)) = match_pattern else {
                at.error("one_of must be set");
                return None;
            };
            ValueMatcher::OneOf(Box::new(value(&at.field("one_of"), *message)?))
        }
        Some(ValuePattern::OrMatch(message)) => {
            let at = &at.field("or_match");
            classify!(at, message => pb::types::OrMatcher { implemented: value_matchers; });
            if value_matchers.len() < 2 {
                at.field("value_matchers").error("must be at least 2");
            }
            let convert = |(index, message)| value(&at.item("value_matchers", index), message);
            ValueMatcher::AnyOf(value_matchers.into_iter().enumerate().filter_map(convert).collect())
        }
        None => {
            at.error("a match pattern must be set");
            return None;
        }
    })
}

fn double(at: &At<'_>, message: pb::types::DoubleMatcher) -> Option<ValueMatcher> {
    classify!(at, message => pb::types::DoubleMatcher { implemented: match_pattern; });
    Some(match match_pattern {
        Some(DoublePattern::Exact(number)) => ValueMatcher::Number(number),
        Some(DoublePattern::Range(range)) => {
            classify!(at, range => pb::types::DoubleRange { implemented: start, end; });
            ValueMatcher::NumberRange { start, end }
        }
        None => {
            at.error("one of range, exact must be set");
            return None;
        }
    })
}
