//! A bootstrap from text to `config` types: loader, constraints and conversion joined, every mistake with its place.
use super::convert::{Report, Surroundings, Unimplemented, convert_bootstrap};
use super::loader::{self, Source};
use super::schema::Message;
use crate::config::bootstrap::Bootstrap;
use crate::config::error::ConfigError;

/// Name of the message that a bootstrap file holds.
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// How strictly a bootstrap is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether fields that the API does not have are warnings. Default false. Source:
    /// `--allow-unknown-static-fields`.
    pub allow_unknown_fields: bool,
    /// What happens to fields that this version lacks. Default: refused. Source: `--allow-unimplemented`.
    pub unimplemented: Unimplemented,
}

/// A bootstrap that may be run.
#[derive(Debug)]
pub struct LoadedBootstrap {
    /// The configuration.
    pub bootstrap: Bootstrap,
    /// What clusters of a control plane have of it.
    pub surroundings: Surroundings,
    /// What it sets without effect, deprecated fields; no errors.
    pub report: Report,
    /// The encoded `Bootstrap`, for `/config_dump`.
    pub wire: Vec<u8>,
    /// How many fields were let pass that the API does not have.
    pub unknown_fields: usize,
    /// How many deprecated fields are set.
    pub deprecated_fields: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { allow_unknown_fields: false, unimplemented: Unimplemented::Refuse }
    }
}

/// Reads a bootstrap from its texts, each merged over those before it (`--config-path`, then `--config-yaml`).
///
/// # Errors
/// A report with at least one error. Mistakes of notation, names and constraints come alone: what they leave out would
/// only cause more of them in the conversion.
pub fn load_bootstrap(sources: &[Source<'_>], options: LoadOptions) -> Result<LoadedBootstrap, Report> {
    let Some(message) = Message::find(BOOTSTRAP) else {
        return Err(Report::from(ConfigError::new("", format!("the schema table has no {BOOTSTRAP}"))));
    };
    let loaded = loader::load(message, sources, options.allow_unknown_fields).map_err(Report::from)?;
    let place = |mut report: Report| {
        report.place(&loaded.source_map);
        // What the text says first, then what it means.
        let meant = std::mem::replace(&mut report.warnings, loaded.warnings.clone());
        report.warnings.0.extend(meant.0);
        report
    };
    match convert_bootstrap(&loaded.bytes, options.unimplemented) {
        Ok((bootstrap, surroundings, report)) => {
            let report = place(report);
            let deprecated_fields = loaded.deprecated;
            let unknown_fields = loaded.warnings.0.len() - deprecated_fields;
            Ok(LoadedBootstrap {
                bootstrap,
                surroundings,
                report,
                wire: loaded.bytes,
                unknown_fields,
                deprecated_fields,
            })
        }
        Err(report) => Err(place(report)),
    }
}
