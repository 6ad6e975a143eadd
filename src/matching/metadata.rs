//! [`MetadataMatcher`]: a condition on what filters have noted, compiled.

use crate::base::regex::{RegexCaches, RegexSlots};
use crate::config::error::ConfigError;
use crate::config::matcher as config;
use crate::protocol::dynamic_metadata::{DynamicMetadata, MetadataValue};
use crate::protocol::http::matcher::StringMatcher;

/// See the file's head.
#[derive(Debug)]
pub struct MetadataMatcher {
    namespace: Box<str>,
    path: Box<[Box<str>]>,
    value: ValueMatcher,
    invert: bool,
}

/// What can be asked of a value; numbers, lists and null are never noted, so that conditions on them are never met.
#[derive(Debug)]
enum ValueMatcher {
    Never,
    String(StringMatcher),
    Bool(bool),
    Present,
    AnyOf(Box<[Self]>),
}

impl MetadataMatcher {
    /// Compiles a condition. `path` is the field path of its value for errors.
    ///
    /// # Errors
    /// A regular expression that is none.
    pub fn compile(
        config: &config::MetadataMatcher,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            namespace: config.filter.clone(),
            path: config.path.clone().into(),
            value: ValueMatcher::compile(&config.value, path, slots)?,
            invert: config.invert,
        })
    }

    /// Whether it is met. What is not there meets nothing, so that an inverted condition is met, as in Envoy.
    pub fn is_met(&self, metadata: Option<&DynamicMetadata>, regexes: &mut RegexCaches) -> bool {
        // Values lie one key deep.
        let value = match (&*self.path, metadata) {
            ([key], Some(metadata)) => metadata.value(&self.namespace, key),
            _ => None,
        };
        value.is_some_and(|value| self.value.is_met(value, regexes)) != self.invert
    }
}

impl ValueMatcher {
    fn compile(
        value: &config::ValueMatcher,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        Ok(match value {
            config::ValueMatcher::Null
            | config::ValueMatcher::Number(_)
            | config::ValueMatcher::NumberRange { .. }
            | config::ValueMatcher::OneOf(_)
            | config::ValueMatcher::Present(false) => Self::Never,
            config::ValueMatcher::String(matcher) => {
                Self::String(StringMatcher::compile(matcher, &format!("{path}.string_match"), slots)?)
            }
            config::ValueMatcher::Bool(wanted) => Self::Bool(*wanted),
            config::ValueMatcher::Present(true) => Self::Present,
            config::ValueMatcher::AnyOf(values) => {
                let compile = |value| Self::compile(value, path, slots);
                Self::AnyOf(values.iter().map(compile).collect::<Result<_, _>>()?)
            }
        })
    }

    fn is_met(&self, value: MetadataValue<'_>, regexes: &mut RegexCaches) -> bool {
        match (self, value) {
            (Self::String(matcher), MetadataValue::Text(text)) => matcher.matches(text.as_bytes(), regexes),
            (Self::Bool(wanted), MetadataValue::Bool(value)) => *wanted == value,
            (Self::Present, _) => true,
            (Self::AnyOf(values), value) => values.iter().any(|it| it.is_met(value, regexes)),
            (Self::Never | Self::String(_) | Self::Bool(_), _) => false,
        }
    }
}
