//! What is wrong with a TLS configuration: the field, below the message that holds it, and the reason.
use std::fmt;

/// A mistake that shows when certificates, keys and lists are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfigError {
    /// Path of the field below the TLS context: `common_tls_context.tls_certificates[0].private_key`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// The file, if one is at fault.
    pub file: Option<Box<str>>,
}

impl TlsConfigError {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), file: None }
    }

    /// The same, of what this source holds.
    pub(super) fn of(mut self, source: &crate::config::tls::Source) -> Self {
        self.file.clone_from(&source.file);
        self
    }

    /// The same, one level up.
    pub(super) fn within(mut self, field: &str) -> Self {
        self.field = if self.field.is_empty() { field.to_owned() } else { format!("{field}.{}", self.field) };
        self
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TlsConfigError {}
