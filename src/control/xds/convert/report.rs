//! What conversion has to say about a configuration besides the result: mistakes, and fields set without effect.
//!
//! Mistakes are collected, not returned at the first: an operator wants them all at once.
use std::collections::BTreeMap;
use std::fmt;

use crate::base::limits::{CONFIG_ERRORS_MAX, CONFIG_FINDINGS_MAX};
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

/// What one conversion found: of each so many, and how many more there were. A configuration may make one of every few bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Fields set without their effect, in the order in which they were met; of each class `limits::CONFIG_FINDINGS_MAX`.
    pub findings: Vec<Finding>,
    /// Deprecated fields, and unknown ones that were let pass.
    pub warnings: ConfigErrors,
    /// Mistakes, and refused fields.
    pub errors: ConfigErrors,
    /// How many findings there were of each class.
    found: BTreeMap<Class, usize>,
    /// Warnings and mistakes beyond `limits::CONFIG_ERRORS_MAX`.
    warnings_left_out: usize,
    errors_left_out: usize,
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

    /// Says how much there was beyond what is listed, a line for each kind: `17 more mistakes`.
    pub fn left_out(&self) -> Vec<String> {
        let beyond = |class: &Class, name: &'static str| {
            let found = self.found.get(class).copied().unwrap_or_default();
            (found.saturating_sub(CONFIG_FINDINGS_MAX), name)
        };
        let counts = [
            (self.warnings_left_out, "warnings"),
            beyond(&Class::NoEffect, "fields without effect"),
            beyond(&Class::NotYet, "fields that are not implemented yet"),
            beyond(&Class::Refused, "fields that are refused"),
            (self.errors_left_out, "mistakes"),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, name)| format!("{count} more {name}")).collect()
    }

    /// All mistakes as one clause; first how many they are, where not all are kept.
    pub fn reasons(&self) -> String {
        let reasons: Vec<_> = self.errors.0.iter().map(ToString::to_string).collect();
        let joined = reasons.join("; ");
        match self.errors_left_out {
            0 => joined,
            more => format!("{} mistakes, of them {}: {joined}", reasons.len() + more, reasons.len()),
        }
    }

    /// Takes a mistake, which is made only if it is kept.
    pub(super) fn error(&mut self, make: impl FnOnce() -> ConfigError) {
        keep(&mut self.errors, &mut self.errors_left_out, make);
    }

    /// Takes a warning in the same way.
    pub(super) fn warning(&mut self, make: impl FnOnce() -> ConfigError) {
        keep(&mut self.warnings, &mut self.warnings_left_out, make);
    }

    /// Takes a finding of that class in the same way.
    pub(super) fn finding(&mut self, class: Class, make: impl FnOnce() -> Finding) {
        let found = self.found.entry(class).or_default();
        *found += 1;
        if *found <= CONFIG_FINDINGS_MAX {
            self.findings.push(make());
        }
    }
}

fn keep(kept: &mut ConfigErrors, left_out: &mut usize, make: impl FnOnce() -> ConfigError) {
    if kept.0.len() < CONFIG_ERRORS_MAX {
        kept.0.push(make());
    } else {
        *left_out += 1;
    }
}

impl From<ConfigError> for Report {
    fn from(error: ConfigError) -> Self {
        ConfigErrors::from(error).into()
    }
}

impl From<ConfigErrors> for Report {
    fn from(errors: ConfigErrors) -> Self {
        Self { errors, ..Self::default() }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(class: Class, number: usize) -> Finding {
        Finding { class, path: number.to_string(), field: "field".into(), note: "", position: None }
    }

    #[test]
    fn findings_beyond_the_limit_are_counted_by_class() {
        let mut report = Report::default();
        for number in 0..CONFIG_FINDINGS_MAX + 7 {
            report.finding(Class::NoEffect, || finding(Class::NoEffect, number));
        }
        report.finding(Class::NotYet, || finding(Class::NotYet, 0));
        assert_eq!(report.findings.len(), CONFIG_FINDINGS_MAX + 1);
        assert_eq!(report.findings[1].path, "1", "the first are kept");
        assert_eq!(report.unimplemented().count(), 1, "and of each class some");
        assert_eq!(report.left_out(), ["7 more fields without effect"]);
    }

    #[test]
    fn mistakes_beyond_the_limit_are_counted_and_not_made() {
        let (mut report, mut made) = (Report::default(), 0);
        for _ in 0..CONFIG_ERRORS_MAX + 2 {
            report.error(|| {
                made += 1;
                ConfigError::new("a", "wrong")
            });
        }
        report.warning(|| ConfigError::new("b", "old"));
        assert_eq!((made, report.errors.0.len(), report.warnings.0.len()), (100, 100, 1));
        assert_eq!(report.left_out(), ["2 more mistakes"]);
        assert!(report.reasons().starts_with("102 mistakes, of them 100: a: wrong; a: wrong; "));
    }

    #[test]
    fn report_that_has_all_says_no_more() {
        let mut report = Report::from(ConfigError::new("a", "wrong"));
        report.error(|| ConfigError::new("b", "wrong, too"));
        assert!(report.left_out().is_empty());
        assert_eq!(report.reasons(), "a: wrong; b: wrong, too");
    }
}
