//! Matchers of access: conditions on what filters have noted, and where they can not stand; how deep matchers may be.

use super::super::at::At;
use super::super::matching::{self, Subject};
use super::super::{Runtime, dynamic};
use super::{NETWORK_INPUT, errors, extension, load, manager, rbac};
use crate::base::limits::MATCHER_DEPTH_MAX;
use crate::config::http_filter::HttpFilterConfig;
use crate::config::matcher::{MetadataMatcher, ValueMatcher};
use crate::config::matching::{Matches, Predicate};
use crate::config::rbac::RuleSet;
use crate::control::xds::pb::matching::{Matcher, MatcherOnMatch, MatcherOnMatchOnMatchOneOf as OnMatchType};

const ACTION: &str =
    r#"{name: x, typed_config: {"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: a}}"#;
/// Where a value lies.
const PLACE: &str = "filter: f, path: [{key: a}, {key: b}]";

/// A list of one condition: its input, and what is asked of it.
fn list(input: &str, matcher: &str) -> String {
    format!(
        "matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {input}, {matcher}}}}}, \
         on_match: {{action: {ACTION}}}}}]}}"
    )
}

fn tree(input: &str) -> String {
    format!("matcher_tree: {{input: {input}, exact_match_map: {{map: {{a: {{action: {ACTION}}}}}}}}}")
}

/// The input that is what filters have noted.
fn noted(place: &str) -> String {
    format!(
        r#"{{name: i, typed_config: {{"@type": type.googleapis.com/{NETWORK_INPUT}.DynamicMetadataInput, {place}}}}}"#
    )
}

/// What is asked of a value.
fn asked(options: &str) -> String {
    format!(
        r#"custom_match: {{name: m, typed_config: {{"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata, {options}}}}}"#
    )
}

#[test]
fn condition_on_what_filters_have_noted_is_converted() {
    let matcher = list(&noted(PLACE), &asked("value: {bool_match: true}, invert: true"));
    let bootstrap = load(&[("FILTERS", &rbac(&format!("shadow_matcher: {{{matcher}}}")))]);
    let HttpFilterConfig::Rbac(filter) = &manager(&bootstrap).http_filters[0].config else { panic!("rbac") };
    let Some(RuleSet::Matcher(converted)) = &filter.shadow_rules else { panic!("a matcher") };
    let Matches::List(list) = &converted.matches else { panic!("a list") };
    let expected = MetadataMatcher {
        filter: "f".into(),
        path: vec!["a".into(), "b".into()],
        value: ValueMatcher::Bool(true),
        invert: true,
    };
    assert_eq!(list[0].0, Predicate::Metadata(expected));
}

#[test]
fn condition_that_nothing_meets_is_a_mistake_at_its_place() {
    let value = asked("value: {bool_match: true}");
    let address = extension(NETWORK_INPUT, "SourceIPInput");
    for (matcher, place) in [
        (list(&noted(PLACE), "value_match: {exact: a}"), "single_predicate: nothing meets it"),
        (list(&address, &value), "single_predicate: nothing meets it"),
        (tree(&noted(PLACE)), "matcher_tree.input: maps are of texts"),
        (list(&noted("path: [{key: a}]"), &value), "single_predicate.input.typed_config.filter"),
        (list(&noted("filter: f"), &value), "single_predicate.input.typed_config.path"),
        (list(&noted("filter: f, path: [{}]"), &value), "single_predicate.input.typed_config.path[0]"),
        (list(&noted(PLACE), &asked("invert: true")), "custom_match.typed_config.value"),
    ] {
        let errors = errors(&[("FILTERS", &rbac(&format!("matcher: {{{matcher}}}")))]);
        assert!(errors.contains(place), "{matcher}: {errors}");
    }
}

/// As in Envoy.
#[test]
fn connections_are_not_asked_for_what_filters_have_noted() {
    let matcher = list(&noted(PLACE), &asked("value: {bool_match: true}"));
    let network = |name: &str, message: &str, options: &str| {
        format!(
            r#"{{name: x, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.{name}.v3.{message}, {options}}}}}"#
        )
    };
    let filters = [
        network("rbac", "RBAC", &format!("stat_prefix: x, matcher: {{{matcher}}}")),
        network("echo", "Echo", ""),
    ];
    let chain = format!("default_filter_chain: {{filters: [{}]}}", filters.join(", "));
    for (listener, who) in [
        (chain, "the RBAC network filter"),
        (format!("filter_chain_matcher: {{{}}}", tree(&noted(PLACE))), "filter chains"),
    ] {
        let errors = errors(&[("LISTENER", &listener)]);
        let expected = format!("input.typed_config: {who} cannot match {NETWORK_INPUT}.DynamicMetadataInput");
        assert!(errors.contains(&expected), "{listener}: {errors}");
    }
}

#[test]
fn matchers_within_one_another_have_a_limit() {
    let within = |message: Matcher| {
        let on_match = OnMatchType::Matcher(Box::new(message));
        let on_no_match = Some(MatcherOnMatch { on_match: Some(on_match), keep_matching: false });
        Matcher { on_no_match, ..Matcher::default() }
    };
    // Each is one, and so is what leads to it.
    let fitting = (MATCHER_DEPTH_MAX - 1) / 2;
    for (levels, is_refused) in [(fitting, false), (fitting + 1, true)] {
        let message = (0..levels).fold(Matcher::default(), |message, _| within(message));
        let context = dynamic(&Runtime::default());
        let converted = matching::matcher(&At::root(&context), message, Subject::Request, |_, _| Some(()));
        let errors = context.report.borrow().errors.to_string();
        assert_eq!(converted.is_none(), is_refused, "{levels}: {errors}");
        assert_eq!(errors.contains("matchers and conditions within one another"), is_refused, "{errors}");
    }
}
