//! Conditions on texts and headers, compiled: what routes, access-log filters and others ask of a head.
//!
//! Compiled from `config::matcher` off the data path; evaluated without allocation once [`MatchScratch`] has grown. The
//! regular expressions of one set of conditions share one [`RegexSlots`], and each core one scratch for that set.

use memchr::memmem::Finder;

use super::head::Head;
use super::headers::HeaderName;
use crate::base::regex::{Regex, RegexCaches, RegexSlots};
use crate::config::error::ConfigError;
use crate::config::matcher as config;

/// What evaluating conditions writes to: one per core and set of conditions.
#[derive(Debug, Default)]
pub struct MatchScratch {
    /// Caches of the set's regular expressions.
    pub regexes: RegexCaches,
    /// Texts of inputs that lie nowhere as such.
    pub text: Vec<u8>,
}

/// A condition on a text.
#[derive(Debug, Clone)]
pub struct StringMatcher(Test);

/// Texts of the `..IgnoreCase` tests are lower case.
#[derive(Debug, Clone)]
enum Test {
    Exact(Box<[u8]>),
    ExactIgnoreCase(Box<[u8]>),
    Prefix(Box<[u8]>),
    PrefixIgnoreCase(Box<[u8]>),
    Suffix(Box<[u8]>),
    SuffixIgnoreCase(Box<[u8]>),
    Contains(Box<Finder<'static>>),
    ContainsIgnoreCase(Box<[u8]>),
    Regex(Regex),
}

/// A condition on one header of a head.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    name: HeaderName,
    condition: Condition,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Debug, Clone)]
enum Condition {
    Present(bool),
    Range { start: i64, end: i64 },
    String(StringMatcher),
}

impl StringMatcher {
    /// Compiles a condition. `path` is the field path of `config` for errors.
    ///
    /// # Errors
    /// When its regular expression is refused.
    pub fn compile(
        config: &config::StringMatcher,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let bytes = |text: &str| Box::from(text.as_bytes());
        let lower = |text: &str| Box::from(text.to_ascii_lowercase().as_bytes());
        Ok(Self(match (&config.pattern, config.ignore_case) {
            (config::StringPattern::Exact(text), false) => Test::Exact(bytes(text)),
            (config::StringPattern::Exact(text), true) => Test::ExactIgnoreCase(lower(text)),
            (config::StringPattern::Prefix(text), false) => Test::Prefix(bytes(text)),
            (config::StringPattern::Prefix(text), true) => Test::PrefixIgnoreCase(lower(text)),
            (config::StringPattern::Suffix(text), false) => Test::Suffix(bytes(text)),
            (config::StringPattern::Suffix(text), true) => Test::SuffixIgnoreCase(lower(text)),
            (config::StringPattern::Contains(text), false) => {
                Test::Contains(Box::new(Finder::new(text.as_bytes()).into_owned()))
            }
            (config::StringPattern::Contains(text), true) => Test::ContainsIgnoreCase(lower(text)),
            (config::StringPattern::SafeRegex(pattern), _) => {
                Test::Regex(Regex::full_match(pattern, slots).map_err(|error| {
                    ConfigError::new(format!("{path}.safe_regex.regex"), error.to_string())
                })?)
            }
        }))
    }

    /// Whether `text` meets the condition.
    pub fn matches(&self, text: &[u8], regexes: &mut RegexCaches) -> bool {
        match &self.0 {
            Test::Exact(wanted) => text == &**wanted,
            Test::ExactIgnoreCase(wanted) => text.eq_ignore_ascii_case(wanted),
            Test::Prefix(wanted) => text.starts_with(wanted),
            Test::PrefixIgnoreCase(wanted) => starts_with_ignore_case(text, wanted),
            Test::Suffix(wanted) => text.ends_with(wanted),
            Test::SuffixIgnoreCase(wanted) => text
                .len()
                .checked_sub(wanted.len())
                .is_some_and(|start| text[start..].eq_ignore_ascii_case(wanted)),
            Test::Contains(finder) => finder.find(text).is_some(),
            Test::ContainsIgnoreCase(wanted) => {
                wanted.is_empty() || text.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
            }
            Test::Regex(regex) => regex.is_full_match(text, regexes),
        }
    }
}

impl HeaderMatcher {
    /// Compiles a condition. `path` is the field path of `config` for errors.
    ///
    /// # Errors
    /// When its name is no header name or its regular expression is refused.
    pub fn compile(
        config: &config::HeaderMatcher,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let name = HeaderName::parse(config.name.as_bytes())
            .ok_or_else(|| ConfigError::new(format!("{path}.name"), "not a header name"))?;
        let condition = match &config.condition {
            config::HeaderCondition::Present(present) => Condition::Present(*present),
            config::HeaderCondition::Range { start, end } => Condition::Range { start: *start, end: *end },
            config::HeaderCondition::String(string) => {
                Condition::String(StringMatcher::compile(string, &format!("{path}.string_match"), slots)?)
            }
        };
        let config::HeaderMatcher { invert_match, treat_missing_header_as_empty, .. } = *config;
        Ok(Self { name, condition, invert: invert_match, missing_is_empty: treat_missing_header_as_empty })
    }

    /// Whether the head meets the condition. Of several lines with this name one must; inverted, none may. Source: Envoy
    /// since 1.39 (`match_headers_individually`); before, the lines joined by commas were one value.
    pub fn matches(&self, head: &Head, scratch: &mut MatchScratch) -> bool {
        let Some(first) = head.get(&self.name).or_else(|| self.missing_is_empty.then_some(&[])) else {
            // Missing: only questions of presence can be answered with yes.
            return matches!(self.condition, Condition::Present(present) if present == self.invert);
        };
        let mut meets = |value: &[u8]| match &self.condition {
            Condition::Present(present) => *present,
            Condition::Range { start, end } => {
                integer(value).is_some_and(|value| (*start..*end).contains(&value))
            }
            Condition::String(string) => string.matches(value, &mut scratch.regexes),
        };
        let matched = meets(first) || head.get_all(&self.name).skip(1).any(meets);
        matched != self.invert
    }
}

/// Whether `text` begins with `prefix`, ASCII case ignored.
pub fn starts_with_ignore_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// A decimal integer as `absl::SimpleAtoi` takes it: blanks around it and a sign are allowed.
fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(pattern: config::StringPattern, ignore_case: bool) -> StringMatcher {
        let config = config::StringMatcher { pattern, ignore_case };
        StringMatcher::compile(&config, "", &mut RegexSlots::default()).unwrap()
    }

    #[test]
    fn string_matcher_follows_its_pattern() {
        use config::StringPattern::{Contains, Exact, Prefix, SafeRegex, Suffix};
        for (pattern, ignore_case, text, expected) in [
            (Exact("Ab".into()), false, "Ab", true),
            (Exact("Ab".into()), false, "ab", false),
            (Exact("Ab".into()), true, "aB", true),
            (Prefix("Ab".into()), false, "Abc", true),
            (Prefix("Ab".into()), true, "aBc", true),
            (Prefix("Ab".into()), true, "a", false),
            (Suffix("Ab".into()), false, "xAb", true),
            (Suffix("Ab".into()), true, "xab", true),
            (Suffix("Ab".into()), true, "b", false),
            (Contains("Ab".into()), false, "xAbx", true),
            (Contains("Ab".into()), false, "xabx", false),
            (Contains("Ab".into()), true, "xaBx", true),
            (Contains("Ab".into()), true, "", false),
            (SafeRegex("a+".into()), true, "aaa", true),
            (SafeRegex("a+".into()), true, "AAA", false),
            (SafeRegex("a+".into()), false, "aab", false),
        ] {
            let matcher = string(pattern.clone(), ignore_case);
            assert_eq!(
                matcher.matches(text.as_bytes(), &mut RegexCaches::new()),
                expected,
                "{pattern:?} {text}"
            );
        }
    }

    fn head(headers: &[(&str, &str)]) -> Head {
        let mut head = Head::new();
        for (name, value) in headers {
            head.append(&HeaderName::parse(name.as_bytes()).unwrap(), value.as_bytes());
        }
        head
    }

    fn matches(
        condition: config::HeaderCondition,
        invert: bool,
        missing_is_empty: bool,
        head: &Head,
    ) -> bool {
        let config = config::HeaderMatcher {
            name: "X-A".into(),
            condition,
            invert_match: invert,
            treat_missing_header_as_empty: missing_is_empty,
        };
        let matcher = HeaderMatcher::compile(&config, "", &mut RegexSlots::default()).unwrap();
        matcher.matches(head, &mut MatchScratch::default())
    }

    fn exact(text: &str) -> config::HeaderCondition {
        let pattern = config::StringPattern::Exact(text.into());
        config::HeaderCondition::String(config::StringMatcher { pattern, ignore_case: false })
    }

    #[test]
    fn header_matcher_of_missing_header_answers_presence_only() {
        use config::HeaderCondition::Present;
        let empty = head(&[]);
        assert!(!matches(Present(true), false, false, &empty));
        assert!(matches(Present(true), true, false, &empty));
        assert!(matches(Present(false), false, false, &empty));
        assert!(!matches(Present(false), true, false, &empty));
        assert!(!matches(exact("a"), true, false, &empty), "inverted, but there is no value to compare");
        assert!(matches(exact("a"), true, true, &empty));
        assert!(matches(exact(""), false, true, &empty));
    }

    #[test]
    fn header_matcher_of_several_lines_is_met_by_any_and_inverted_by_none() {
        let two = head(&[("x-a", "1"), ("x-b", "3"), ("X-A", "2")]);
        for (value, met) in [("1", true), ("2", true), ("3", false), ("1,2", false)] {
            assert_eq!(matches(exact(value), false, false, &two), met, "{value}");
            assert_eq!(matches(exact(value), true, false, &two), !met, "{value}, inverted");
        }
        assert!(matches(config::HeaderCondition::Range { start: 2, end: 3 }, false, false, &two));
    }

    #[test]
    fn header_matcher_range_is_half_open_and_decimal() {
        let range = config::HeaderCondition::Range { start: -10, end: 5 };
        for (value, expected) in [
            ("-10", true),
            ("4", true),
            ("+4", true),
            (" 4 ", true),
            ("5", false),
            ("", false),
            ("1x", false),
        ] {
            assert_eq!(matches(range.clone(), false, false, &head(&[("x-a", value)])), expected, "{value}");
        }
    }

    #[test]
    fn header_matcher_reads_pseudo_headers() {
        let mut request = Head::new();
        request.set_method(b"GET");
        let config = config::HeaderMatcher {
            name: ":method".into(),
            condition: exact("GET"),
            invert_match: false,
            treat_missing_header_as_empty: false,
        };
        let matcher = HeaderMatcher::compile(&config, "", &mut RegexSlots::default()).unwrap();
        assert!(matcher.matches(&request, &mut MatchScratch::default()));
    }
}
