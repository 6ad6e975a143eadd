//! What is wrong with a configuration: the one error type of the config pipeline.
//!
//! The loader (`control::xds::loader`) and the conversion (`control::xds::convert`) both report it, many at
//! a time: an operator wants every mistake of a file at once. A conversion knows only the field path; the
//! loader's source map adds line and column where the configuration came from a file.
use std::fmt;

use crate::base::limits::CONFIG_KEY_BYTES_SHOWN_MAX;

/// Place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// File name as given by the operator, or `--config-yaml`.
    pub file: Box<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A key of a map as it stands in a path.
pub fn shown_key(key: &str) -> &str {
    beginning(key, CONFIG_KEY_BYTES_SHOWN_MAX)
}

/// All of a text, or as many of its first characters as fit into so many bytes.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Field path from the root message in proto names, `static_resources.clusters[1].lb_policy`. Empty:
    /// the whole document. Fields of a `google.protobuf.Any` follow the Any's own path directly, map
    /// entries are `field["key"]`.
    pub path: String,
    /// What is wrong, without the path, in one clause.
    pub reason: String,
    /// How to put it right, where that is known: printed below the error, possibly several lines (YAML).
    pub fix: Option<String>,
    /// Where in a file, if it came from one.
    pub position: Option<Position>,
}

impl ConfigError {
    /// A mistake at `path`, without fix or position.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into(), fix: None, position: None }
    }

    /// The same with a fix.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same with a position.
    #[must_use]
    pub fn at(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }
}

/// `front.yaml:31:17 static_resources.clusters[1].lb_polcy: no such field ...`, the fix indented below it.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position} ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        for line in self.fix.iter().flat_map(|fix| fix.lines()) {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// All mistakes found in one configuration, in the order of the text where positions are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// `Err(self)` if there is any mistake.
    ///
    /// # Errors
    /// `self`, when it is not empty.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// One error per line (a fix adds its own lines), no newline at the end.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_with_position_reads_as_documented() {
        let error = ConfigError::new("static_resources.clusters[1].lb_polcy", "no such field in X")
            .with_fix("a: b\nc: d")
            .at(Some(Position { file: "front.yaml".into(), line: 31, column: 17 }));
        assert_eq!(
            error.to_string(),
            "front.yaml:31:17 static_resources.clusters[1].lb_polcy: no such field in X\n    a: b\n    c: d"
        );
        assert_eq!(ConfigError::new("", "empty").to_string(), "empty");
    }
}
