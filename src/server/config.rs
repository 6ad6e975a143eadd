//! The bootstrap a process starts with: the files of the command line, or the embedded demonstration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::base::limits::CONFIG_TEXT_BYTES_MAX;
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

/// The text of a file, one byte more than is accepted at most: the file may be a device without an end.
fn read(path: &Path) -> Result<String, ConfigError> {
    let name = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CONFIG_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::new("", format!("cannot read {name}: {error}")))?;
    if bytes.len() > CONFIG_TEXT_BYTES_MAX {
        return Err(ConfigError::new("", format!("{name} is longer than {CONFIG_TEXT_BYTES_MAX} bytes")));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_cannot_be_a_configuration_is_refused_by_name() {
        for (path, reason) in [
            ("/dev/zero", "/dev/zero is longer than 67108864 bytes"),
            ("/", "cannot read /: Is a directory"),
            ("/nowhere.yaml", "cannot read /nowhere.yaml: No such file"),
        ] {
            let error = read(Path::new(path)).unwrap_err();
            assert!(error.reason.starts_with(reason), "{error}");
        }
    }
}
