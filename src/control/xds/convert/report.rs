//! What conversion has to say about a configuration besides the result: mistakes, and fields set without effect.
//!
//! Mistakes are collected, not returned at the first: an operator wants them all at once.
use std::fmt;

use crate::config::error::{ConfigError, ConfigErrors, Position};
use crate::control::xds::loader::SourceMap;

/// What this version does with a field of the Envoy API. Every field of every message that conversion reads has
/// exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Does what Envoy does.
    Implemented,
    /// Accepted, changes nothing here; the note says why.
    NoEffect,
    /// Load or resilience policy or telemetry that this version lacks: accepted from a control plane with a warning,
    /// refused in a file unless `--allow-unimplemented`.
    NotYet,
    /// Refused always: without it traffic would go elsewhere, or be less protected, than the configuration says.
    Refused,
}

/// What happens to fields of class [`Class::NotYet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unimplemented {
    /// An error: the default for files.
    Refuse,
    /// A warning: for control planes, and files with `--allow-unimplemented`.
    Accept,
}

/// A field that is set and does not do what Envoy makes it do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What this version does with it.
    pub class: Class,
    /// Where it is set: `static_resources.clusters[0].health_checks`.
    pub path: String,
    /// Which field of the API it is: `envoy.config.cluster.v3.Cluster.health_checks`, or the type of an extension.
    pub field: String,
    /// Why it has no effect, or what is missing; may be empty.
    pub note: &'static str,
    /// Where in a file, if it came from one.
    pub position: Option<Position>,
}

/// Everything one conversion found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Fields set without their effect, in the order in which they were met.
    pub findings: Vec<Finding>,
    /// Deprecated fields, and unknown ones that were let pass.
    pub warnings: ConfigErrors,
    /// Mistakes, and refused fields.
    pub errors: ConfigErrors,
}

impl Report {
    /// Fields that this version lacks, refused or not: the lines `unimplemented: FIELD`.
    pub fn unimplemented(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| matches!(finding.class, Class::NotYet | Class::Refused))
    }

    /// Fills in the places of findings and errors, and brings errors into the order of the text.
    pub fn place(&mut self, map: &SourceMap<'_>) {
        for finding in &mut self.findings {
            finding.position = map.locate(&finding.path);
        }
        map.place(&mut self.errors);
        map.place(&mut self.warnings);
    }

    pub(super) fn error(&mut self, error: ConfigError) {
        self.errors.0.push(error);
    }
}

impl From<ConfigError> for Report {
    fn from(error: ConfigError) -> Self {
        Self { errors: error.into(), ..Self::default() }
    }
}

/// `front.yaml:31:7 static_resources.clusters[0].health_checks: not implemented yet (...)`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position} ")?;
        }
        write!(f, "{}: {}", self.path, self.class)?;
        if self.note.is_empty() { Ok(()) } else { write!(f, " ({})", self.note) }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Implemented => "implemented",
            Self::NoEffect => "no effect",
            Self::NotYet => "not implemented yet",
            Self::Refused => "refused",
        })
    }
}
