//! Which paths the endpoint serves at all.
use crate::base::regex::{RegexCaches, RegexSlots};
use crate::config::error::ConfigError;
use crate::config::matcher as config;
use crate::protocol::http::matcher::StringMatcher;

/// The configured list, ready to be asked. Source: Envoy `Admin.allow_paths`.
#[derive(Debug, Default)]
pub struct AllowPaths(Vec<StringMatcher>);

impl AllowPaths {
    /// Compiles the list; empty: everything is allowed.
    ///
    /// # Errors
    /// An expression that does not compile.
    pub fn compile(list: &[config::StringMatcher]) -> Result<Self, ConfigError> {
        let mut slots = RegexSlots::default();
        let compile = |(index, matcher): (usize, &config::StringMatcher)| {
            StringMatcher::compile(matcher, &format!("admin.allow_paths[{index}]"), &mut slots)
        };
        list.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a path, without its query, may be served.
    pub(super) fn allows(&self, path: &str) -> bool {
        // Few ask, and seldom: caches of expressions are not worth keeping.
        let mut caches = RegexCaches::default();
        self.0.is_empty() || self.0.iter().any(|matcher| matcher.matches(path.as_bytes(), &mut caches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::matcher::StringPattern;

    fn list(patterns: &[(StringPattern, bool)]) -> AllowPaths {
        let matcher = |(pattern, ignore_case): &(StringPattern, bool)| config::StringMatcher {
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
