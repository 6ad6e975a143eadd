//! What statistics are kept and how they are tagged.
use super::at::At;
use super::fields::classify;
use super::matcher;
use super::report::Class;
use crate::base::regex::{Regex, RegexSlots};
use crate::config::bootstrap::{HistogramBuckets, StatsConfig, StatsMatcher, TagSpecifier, TagValue};
use crate::control::xds::pb;
use pb::bootstrap::{StatsMatcherStatsMatcherOneOf, TagSpecifierTagValueOneOf};

/// `stats_config`.
pub(super) fn stats_config(at: &At<'_>, message: pb::bootstrap::StatsConfig) -> StatsConfig {
    classify!(at, message => pb::bootstrap::StatsConfig {
        implemented: stats_tags, use_all_default_tags = "true; false is not implemented yet", stats_matcher, histogram_bucket_settings;
        no_effect: allow_default_tag_overrides = "a tag of the configuration always wins over a default one";
    });
    if use_all_default_tags == Some(false) {
        let field = "envoy.config.metrics.v3.StatsConfig.use_all_default_tags";
        at.field("use_all_default_tags").found(Class::NotYet, field, "Envoy's own tags are always taken out");
    }
    StatsConfig {
        tags: stats_tags
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| tag(&at.item("stats_tags", index), message))
            .collect(),
        use_all_default_tags: use_all_default_tags.unwrap_or(true),
        matcher: stats_matcher
            .map(|message| self::stats_matcher(&at.field("stats_matcher"), message))
            .unwrap_or_default(),
        histogram_buckets: histogram_bucket_settings
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| buckets(&at.item("histogram_bucket_settings", index), message))
            .collect(),
        ..StatsConfig::default()
    }
}

/// A tag.
fn tag(at: &At<'_>, message: pb::bootstrap::TagSpecifier) -> Option<TagSpecifier> {
    classify!(at, message => pb::bootstrap::TagSpecifier { implemented: tag_name, tag_value; });
    let value = match tag_value {
        Some(TagSpecifierTagValueOneOf::FixedValue(text)) => TagValue::Fixed(text.into()),
        Some(TagSpecifierTagValueOneOf::Regex(regex)) => {
            check_regex(&at.field("regex"), &regex);
            TagValue::Regex(regex.into())
        }
        // The name of one of Envoy's own tags, which are taken out anyhow.
        None if tag_name.starts_with("envoy.") => return None,
        None => {
            at.error(format!("no regex specified, and {tag_name:?} is none of Envoy's own tags"));
            return None;
        }
    };
    Some(TagSpecifier { name: tag_name.into(), value })
}

/// Envoy takes these expressions with an engine that knows look-around and back references, which Istio's bootstraps
/// use. One that ours cannot compile for that reason is let pass: it takes no tag out, and costs nothing but that.
fn check_regex(at: &At<'_>, regex: &str) {
    const BEYOND_RE2: [&str; 3] = ["(?=", "(?!", r"\1"];
    if let Err(error) = Regex::search(regex, &mut RegexSlots::default())
        && !BEYOND_RE2.iter().any(|syntax| regex.contains(syntax))
    {
        at.error(format!("not a regular expression: {error}"));
    }
}

fn stats_matcher(at: &At<'_>, message: pb::bootstrap::StatsMatcher) -> StatsMatcher {
    use StatsMatcherStatsMatcherOneOf as Wire;
    classify!(at, message => pb::bootstrap::StatsMatcher { implemented: stats_matcher; });
    match stats_matcher {
        Some(Wire::RejectAll(true)) => StatsMatcher::RejectAll,
        Some(Wire::RejectAll(false)) => StatsMatcher::All,
        Some(Wire::ExclusionList(list)) => {
            StatsMatcher::Exclude(matcher::string_list(&at.field("exclusion_list"), list))
        }
        Some(Wire::InclusionList(list)) => {
            StatsMatcher::Include(matcher::string_list(&at.field("inclusion_list"), list))
        }
        None => {
            at.error("one of reject_all, exclusion_list, inclusion_list must be set");
            StatsMatcher::All
        }
    }
}

fn buckets(at: &At<'_>, message: pb::bootstrap::HistogramBucketSettings) -> Option<HistogramBuckets> {
    classify!(at, message => pb::bootstrap::HistogramBucketSettings {
        implemented: r#match, buckets;
        not_yet: bins;
    });
    let mut bounds = buckets;
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let Some(matcher) = r#match else {
        at.field("match").error("must be set");
        return None;
    };
    let matcher = matcher::string(&at.field("match"), matcher)?;
    Some(HistogramBuckets { matcher, bounds })
}
