//! Which paths the endpoint serves at all.
use super::request::regex;
use crate::config::matcher::{StringMatcher, StringPattern};
use regex_automata::meta::Regex;

/// The configured list, ready to be asked. Source: Envoy `Admin.allow_paths`.
#[derive(Debug, Default)]
pub struct AllowPaths(Vec<Rule>);

#[derive(Debug)]
enum Rule {
    Text(StringMatcher),
    Regex(Regex),
}

impl AllowPaths {
    /// Compiles the list; empty: everything is allowed.
    ///
    /// # Errors
    /// An expression that does not compile, with the reason.
    pub fn compile(list: &[StringMatcher]) -> Result<Self, String> {
        let rule = |matcher: &StringMatcher| match &matcher.pattern {
            // The whole text has to match.
            StringPattern::SafeRegex(pattern) => regex(&format!("^(?:{pattern})$")).map(Rule::Regex),
            _ => Ok(Rule::Text(matcher.clone())),
        };
        list.iter().map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a path, without its query, may be served.
    pub(super) fn allows(&self, path: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|rule| rule.matches(path))
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let matcher = match self {
            Self::Regex(regex) => return regex.is_match(path),
            Self::Text(matcher) => matcher,
        };
        let fold =
            |text: &str| if matcher.ignore_case { text.to_ascii_lowercase() } else { text.to_string() };
        let path = fold(path);
        match &matcher.pattern {
            StringPattern::Exact(text) => path == fold(text),
            StringPattern::Prefix(text) => path.starts_with(&fold(text)),
            StringPattern::Suffix(text) => path.ends_with(&fold(text)),
            StringPattern::Contains(text) => path.contains(&fold(text)),
            // Compiled to the other variant.
            StringPattern::SafeRegex(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[(StringPattern, bool)]) -> AllowPaths {
        let matcher = |(pattern, ignore_case): &(StringPattern, bool)| StringMatcher {
            pattern: pattern.clone(),
            ignore_case: *ignore_case,
        };
        AllowPaths::compile(&patterns.iter().map(matcher).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn empty_list_allows_everything() {
        assert!(AllowPaths::default().allows("/quitquitquit"));
    }

    #[test]
    fn path_is_allowed_by_any_rule() {
        let allowed = list(&[
            (StringPattern::Exact("/ready".into()), true),
            (StringPattern::Prefix("/stats".into()), false),
            (StringPattern::SafeRegex("/c[a-z]+s".into()), false),
        ]);
        for (path, expected) in [
            ("/ready", true),
            ("/READY", true),
            ("/stats/prometheus", true),
            ("/Stats", false),
            ("/clusters", true),
            ("/clusters2", false),
            ("/", false),
        ] {
            assert_eq!(allowed.allows(path), expected, "{path}");
        }
    }
}
