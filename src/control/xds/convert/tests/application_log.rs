//! The format of the application log.

use super::{errors, load};

fn asked(format: &str) -> String {
    format!("application_log_config: {{log_format: {{{format}}}}}")
}

#[test]
fn text_and_json_are_patterns_of_the_log() {
    for (format, expected) in [
        (r#"text_format: "%l\t%v""#, "%l\t%v"),
        (
            "json_format: {Level: '%l', Message: '%j', at: {line: '%#'}}",
            r##"{"Level":"%l","Message":"%j","at":{"line":"%#"}}"##,
        ),
    ] {
        assert_eq!(load(&[("TOP", &asked(format))]).log_format.as_deref(), Some(expected));
    }
    assert_eq!(load(&[("TOP", "application_log_config: {}")]).log_format, None);
    assert_eq!(load(&[]).log_format, None);
}

#[test]
fn format_that_the_log_cannot_have_is_refused() {
    for (format, field, reason) in [
        ("text_format: '%q'", "log_format.text_format", "uses %q, which is not supported"),
        ("json_format: {m: '%v'}", "log_format.json_format", "do not escape"),
        ("json_format: {m: '%_'}", "log_format.json_format", "do not escape"),
        ("json_format: {m: '%j', t: '%q'}", "log_format.json_format", "uses %q"),
        ("", "application_log_config.log_format", "is required"),
    ] {
        let errors = errors(&[("TOP", &asked(format))]);
        assert!(errors.contains(field) && errors.contains(reason), "{format}: {errors}");
    }
}
