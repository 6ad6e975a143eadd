//! The bootstrap a process starts with: the files of the command line, or the embedded demonstration.

use std::path::Path;

use crate::cli::{Action, Options};
use crate::config::bootstrap::Bootstrap;
use crate::config::error::ConfigError;
use crate::control::xds::convert::{Report, Unimplemented};
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::{LoadOptions, LoadedBootstrap, load_bootstrap};

/// Reads, checks and converts what the command line names; `demo` is used in its place for the demonstration.
///
/// # Errors
/// Every mistake found.
pub(super) fn load(options: &Options, demo: Option<&str>) -> Result<LoadedBootstrap, Report> {
    let file = options.config_path.as_deref().map(|path| read(path).map(|text| (path, text))).transpose()?;
    let mut sources = Vec::new();
    let name;
    if let Some((path, text)) = &file {
        name = path.display().to_string();
        sources.push(Source { name: &name, text, format: Format::of_file(&name)? });
    }
    if let Some(text) = &options.config_yaml {
        sources.push(Source { name: "--config-yaml", text, format: Format::Yaml });
    }
    if let Some(text) = demo {
        sources.push(Source { name: "demo.yaml", text, format: Format::Yaml });
    }
    if sources.is_empty() {
        let nothing = "no configuration: give --config-path (-c) or --config-yaml, or run `ringway demo`";
        return Err(ConfigError::new("", nothing).into());
    }
    let unimplemented =
        if options.allow_unimplemented { Unimplemented::Accept } else { Unimplemented::Refuse };
    let strictness = LoadOptions { allow_unknown_fields: options.allow_unknown_static_fields, unimplemented };
    let mut loaded = load_bootstrap(&sources, strictness)?;
    name_node(&mut loaded.bootstrap, options);
    Ok(loaded)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let name = path.display();
    let bytes =
        std::fs::read(path).map_err(|error| ConfigError::new("", format!("cannot read {name}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| ConfigError::new("", format!("{name} is not UTF-8 text")))
}

/// The command line overrides the node's names.
fn name_node(bootstrap: &mut Bootstrap, options: &Options) {
    let node = &mut bootstrap.node;
    for (from, to) in [
        (&options.service_node, &mut node.id),
        (&options.service_cluster, &mut node.cluster),
        (&options.service_zone, &mut node.locality.zone),
    ] {
        if let Some(name) = from {
            *to = name.as_str().into();
        }
    }
}

/// Whether the embedded demonstration is asked for.
pub(super) fn is_demo(options: &Options) -> bool {
    options.action == Action::Demo
}
