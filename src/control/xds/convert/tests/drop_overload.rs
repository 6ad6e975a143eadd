//! The share of requests that endpoints are spared.

use super::{errors, load};
use crate::config::endpoint::DropOverload;
use crate::config::matcher::FractionalPercent;
use crate::config::runtime::RuntimeKey;

/// An assignment with these `drop_overloads`.
fn assignment(drop_overloads: &str) -> String {
    format!("{{cluster_name: web, policy: {{drop_overloads: [{drop_overloads}]}}}}")
}

#[test]
fn one_category_is_taken_with_its_share() {
    let taken = |text: &str| {
        let bootstrap = load(&[("ENDPOINTS", &assignment(text))]);
        bootstrap.clusters[0].load_assignment.drop_overload.as_deref().cloned()
    };
    let dropped = |numerator, denominator| {
        let share = FractionalPercent { numerator, denominator };
        Some(DropOverload { category: "lb".into(), share })
    };
    assert_eq!(taken(""), None);
    assert_eq!(taken("{category: lb}"), dropped(0, 100));
    assert_eq!(taken("{category: lb, drop_percentage: {numerator: 100}}"), dropped(100, 100));
    let small = "{category: lb, drop_percentage: {numerator: 7, denominator: MILLION}}";
    assert_eq!(taken(small), dropped(7, 1_000_000));
}

#[test]
fn what_envoy_does_not_take_is_a_mistake() {
    let policy = "static_resources.clusters[0].load_assignment.policy.drop_overloads";
    for (text, expected) in [
        ("{category: a}, {category: b}", format!("{policy}: has 2 categories")),
        (
            "{category: a, drop_percentage: {numerator: 101}}",
            format!("{policy}[0].drop_percentage: must be at most 100 %"),
        ),
        ("{drop_percentage: {numerator: 1}}", format!("{policy}[0].category")),
    ] {
        let errors = errors(&[("ENDPOINTS", &assignment(text))]);
        assert!(errors.contains(&expected), "{errors}");
    }
}

#[test]
fn limit_of_the_share_is_a_runtime_value() {
    let limit = |top: &str| {
        let bootstrap = load(&[("TOP", top)]);
        bootstrap.clusters[0].drop_overload_limit.as_ref().and_then(RuntimeKey::integer)
    };
    let layer = "layered_runtime: {layers: [{name: s, static_layer: {load_balancing_policy: {drop_overload_limit: 15}}}]}";
    assert_eq!((limit(""), limit(layer)), (None, Some(15)));
}
