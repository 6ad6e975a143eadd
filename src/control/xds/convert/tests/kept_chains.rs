//! Which chains of a listener stay as they are where another takes its place.

use super::load;

/// A default chain that answers with this text.
fn answering(text: &str) -> String {
    format!(
        "default_filter_chain: {{filters: [{{name: answer, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, \
         response: {{inline_string: {text}}}}}}}]}}"
    )
}

#[test]
fn chains_are_kept_that_are_the_very_same_in_a_listener_that_differs_in_chains_alone() {
    let (one, other) = (answering("one"), answering("other"));
    let with_more = format!("{one}\n    tcp_backlog_size: 5");
    let before = load(&[("LISTENER", &*one)]);
    let kept = |fields: &[(&str, &str)]| before.listeners[0].kept_chains(&load(fields).listeners[0]);
    assert_eq!(kept(&[("LISTENER", &*one)]), [Some(0), Some(1)]);
    assert_eq!(kept(&[("LISTENER", &*other)]), [Some(0), None]);
    assert_eq!(kept(&[]), [Some(0), None]);
    assert_eq!(kept(&[("LISTENER", &*one), ("MATCH", "{prefix: /x}")]), [None, Some(1)]);
    assert_eq!(kept(&[("LISTENER", &*with_more)]), [None, None]);
}
