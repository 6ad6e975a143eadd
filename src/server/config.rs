//! The bootstrap a process starts with: the files of the command line, or the embedded demonstration.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::base::limits::CONFIG_TEXT_BYTES_MAX;
use crate::cli::{Action, Options};
use crate::config::bootstrap::Bootstrap;
use crate::config::error::ConfigError;
use crate::control::xds::convert::{Report, Unimplemented};
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::{LoadOptions, LoadedBootstrap, load_bootstrap};

/// How long a pipe may take to deliver the bootstrap. Envoy waits for ever.
const PIPE_PATIENCE: Duration = Duration::from_secs(60);

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
    let node = &loaded.bootstrap.node;
    if loaded.bootstrap.asks_control_planes() && (node.id.is_empty() || node.cluster.is_empty()) {
        let reason = "control planes must be told who asks: node 'id' and 'cluster' are required";
        return Err(ConfigError::new("node", reason)
            .with_fix("set them, or give --service-node and --service-cluster")
            .into());
    }
    if options.log_format_is_set && loaded.bootstrap.log_format.is_some() {
        let reason = "only one of it and --log-format may be given";
        return Err(ConfigError::new("application_log_config.log_format", reason).into());
    }
    Ok(loaded)
}

/// The text of a file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let name = path.display();
    let bytes = bytes(path, PIPE_PATIENCE)
        .map_err(|error| ConfigError::new("", format!("cannot read {name}: {error}")))?;
    if bytes.len() > CONFIG_TEXT_BYTES_MAX {
        return Err(ConfigError::new("", format!("{name} is longer than {CONFIG_TEXT_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::new("", format!("{name} is not UTF-8 text")))
}

/// The contents of a file, one byte more than is accepted at most: it may be a device without an end. A pipe, which
/// consul-dataplane and a shell's `<(command)` give, is waited for within bounds: its opening blocks until somebody writes.
fn bytes(path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path)?.take(CONFIG_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if !std::fs::metadata(path)?.file_type().is_fifo() {
        return read(path);
    }
    let (sender, receiver) = channel();
    let pipe = path.to_owned();
    // Without a writer it stays blocked until the process ends, which is at once: the start fails.
    std::thread::spawn(move || sender.send(read(&pipe)));
    receiver.recv_timeout(patience).unwrap_or_else(|_| {
        let reason = format!("nobody wrote all of this pipe within {patience:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    })
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

    #[test]
    fn log_has_the_format_of_the_configuration_or_of_the_command_line() {
        let yaml = "application_log_config: {log_format: {text_format: '%v'}}";
        let options = |more: &[&str]| {
            let line = ["ringway", "--config-yaml", yaml].into_iter().chain(more.iter().copied());
            crate::cli::parse(line).unwrap()
        };
        let loaded = load(&options(&[]), None).unwrap();
        assert_eq!(loaded.bootstrap.log_format.as_deref(), Some("%v"));
        let report = load(&options(&["--log-format", "%v"]), None).map(drop).unwrap_err();
        assert!(report.errors.to_string().contains("only one of it and --log-format"), "{}", report.errors);
    }

    /// A named pipe, removed in the end.
    struct Pipe(std::path::PathBuf);

    impl Pipe {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-{}-{name}", std::process::id()));
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.is_ok_and(|status| status.success()));
            Self(path)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn pipe_is_read_to_its_end() {
        let pipe = Pipe::new("written");
        let path = pipe.0.clone();
        let writer = std::thread::spawn(move || std::fs::write(path, "a".repeat(1 << 20)));
        assert_eq!(read(&pipe.0).unwrap(), "a".repeat(1 << 20));
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn pipe_that_nobody_writes_is_given_up() {
        let pipe = Pipe::new("silent");
        let error = bytes(&pipe.0, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
