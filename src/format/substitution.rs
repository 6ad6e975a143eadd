//! [`SubstitutionFormatter`]: a configured format, text or JSON, compiled.

use crate::config::access_log::{FormatTemplate, SubstitutionFormat};
use crate::config::error::ConfigError;

use super::context::FormatContext;
use super::formatter::Formatter;
use super::json::JsonFormatter;

/// A compiled [`SubstitutionFormat`].
#[derive(Debug, Clone)]
pub enum SubstitutionFormatter {
    /// A line or a body of text, with a newline only where the format has one.
    Text(Formatter),
    /// A JSON object and a newline.
    Json(JsonFormatter),
}

impl SubstitutionFormatter {
    /// Compiles a format; `path` is its field path.
    ///
    /// # Errors
    /// When a format string in it is wrong.
    pub fn compile(config: &SubstitutionFormat, path: &str) -> Result<Self, ConfigError> {
        let omit_empty = config.omit_empty_values;
        match &config.template {
            FormatTemplate::Text(text) => match Formatter::parse(text) {
                Ok(formatter) if omit_empty => Ok(Self::Text(formatter.omitting_empty())),
                Ok(formatter) => Ok(Self::Text(formatter)),
                Err(error) => Err(ConfigError::new(format!("{path}.text_format"), error.to_string())),
            },
            FormatTemplate::Json(fields) => match JsonFormatter::compile(fields, omit_empty) {
                Ok(formatter) => Ok(Self::Json(formatter)),
                Err(error) => Err(ConfigError::new(format!("{path}.json_format"), error.to_string())),
            },
        }
    }

    /// Appends the record or body for this request.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(formatter) => formatter.write(context, out),
            Self::Json(formatter) => formatter.write(context, out),
        }
    }

    /// Operators that never have a value here; see [`Formatter::without_value`].
    pub fn without_value(&self) -> Vec<&str> {
        match self {
            Self::Text(formatter) => formatter.without_value().collect(),
            Self::Json(formatter) => formatter.without_value(),
        }
    }
}
