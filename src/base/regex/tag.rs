//! Expressions that take tags out of the names of statistics: the syntax of C++'s `std::regex`, which Envoy uses for them
//! and for nothing else. It knows look-ahead and back references, and Istio's bootstraps use them.
//!
//! Such an expression may backtrack. It is run when somebody scrapes, never on the path, and gives up after
//! [`STEPS_MAX`] steps: then the name has no such tag.

use std::ops::Range;

use super::{RegexError, re2};

/// Steps of one search before it gives up. Names have some hundred bytes and expressions some dozen parts.
const STEPS_MAX: usize = 100_000;

/// A compiled expression.
#[derive(Debug)]
pub struct TagRegex(fancy_regex::Regex);

/// What the first two groups matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagGroups {
    /// The first group.
    pub first: Range<usize>,
    /// The second; `None`: there is none, or it took no part.
    pub second: Option<Range<usize>>,
}

impl TagRegex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is no expression, or uses what `std::regex` does not have.
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        // Flags, names and look-behind came after ECMAScript 3, which is what std::regex knows.
        let mut escaped = false;
        for (at, char) in pattern.char_indices() {
            let rest = &pattern[at..];
            if !escaped
                && rest.starts_with("(?")
                && !["(?:", "(?=", "(?!"].iter().any(|known| rest.starts_with(known))
            {
                return Err(RegexError("only (?:, (?= and (?! are known behind a parenthesis".to_owned()));
            }
            escaped = char == '\\' && !escaped;
        }
        fancy_regex::RegexBuilder::new(&re2::translate(pattern))
            .backtrack_limit(STEPS_MAX)
            .delegate_size_limit(crate::base::limits::REGEX_PROGRAM_BYTES_MAX)
            .build()
            .map(Self)
            .map_err(|error| RegexError::syntax(&error.to_string()))
    }

    /// The groups of the first match in `text`; `None` without a match, or when the expression has no group.
    pub fn find(&self, text: &str) -> Option<TagGroups> {
        let found = self.0.captures(text).ok()??;
        let range = |group: usize| found.get(group).map(|group| group.start()..group.end());
        Some(TagGroups { first: range(1)?, second: range(2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(pattern: &str, text: &str) -> Option<(String, Option<String>)> {
        let found = TagRegex::compile(pattern).unwrap().find(text)?;
        Some((text[found.first].to_owned(), found.second.map(|range| text[range].to_owned())))
    }

    #[test]
    fn groups_of_the_first_match_are_found() {
        let pattern = r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)";
        let found = groups(pattern, "cluster.outbound|80||a.b.svc.cluster.local.upstream_rq_total");
        let name = "outbound|80||a.b.svc.cluster.local";
        assert_eq!(found, Some((format!("{name}."), Some(name.to_owned()))));
        assert_eq!(groups("_rq(_(\\d{3}))$", "upstream_rq_2xx"), None);
        assert_eq!(groups("rq", "rq"), None, "without a group there is no tag");
    }

    #[test]
    fn look_ahead_and_back_references_are_those_of_std_regex() {
        let pattern = r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)";
        let found = groups(pattern, "listener.0.0.0.0_80.http.1.2_3.downstream_rq_2xx");
        assert_eq!(found, Some(("1.2_3.".to_owned(), Some("1.2_3".to_owned()))));
        assert_eq!(groups(r"((a)\2)", "xaa"), Some(("aa".to_owned(), Some("a".to_owned()))));
    }

    #[test]
    fn search_that_explodes_gives_up() {
        let pattern = r"((a|aa|a(?=a))+)\1\1b";
        assert_eq!(groups(pattern, &"a".repeat(200)), None);
    }

    #[test]
    fn what_std_regex_does_not_know_is_refused() {
        for pattern in ["(?i)a", "(?P<n>a)", "(?<=a)b", "(?#x)", "(a", "["] {
            assert!(TagRegex::compile(pattern).is_err(), "{pattern}");
        }
        assert!(TagRegex::compile(r"\(?i").is_ok());
    }
}
