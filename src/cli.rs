//! The command line: a pure function from arguments to [`Options`].
//!
//! Names, meanings and defaults are Envoy's, so that pilot-agent, kuma-dp, Envoy Gateway and people's scripts can
//! start Ringway in Envoy's place. Flags that cannot mean anything here are accepted and say so in `--help`.
//!
//! As with Envoy, a flag and its value may be one argument with a space between, which Contour's manifests rely on.
//!
//! Differences from Envoy: `--flag=value` and `-lvalue` work as well.
mod flags;
mod json;

use crate::telemetry::log::{Level, LogOptions, Pattern};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub action: Action,
    /// Bootstrap file, YAML or JSON. Source: `--config-path`.
    pub config_path: Option<PathBuf>,
    /// Bootstrap text merged over the file. Source: `--config-yaml`.
    pub config_yaml: Option<String>,
    /// Number of workers, at least 1. Default: one per CPU that the process may use.
    pub concurrency: Option<usize>,
    /// Level of the application log. Default `info`.
    pub log_level: Level,
    /// Components with a level of their own, as indices of `telemetry::log::COMPONENTS`.
    pub component_log_level: Vec<(usize, Level)>,
    /// As given, for `/server_info`.
    pub component_log_level_text: String,
    pub log_format: String,
    /// It is the command line's, and not the default: the configuration may have none then.
    pub log_format_is_set: bool,
    pub log_pattern: Pattern,
    pub log_format_escaped: bool,
    /// Default: standard error.
    pub log_path: Option<PathBuf>,
    /// Node's id; overrides `node.id` of the bootstrap, as do the next two.
    pub service_node: Option<String>,
    pub service_cluster: Option<String>,
    pub service_zone: Option<String>,
    /// Longest time an access log keeps what it has before it writes. Default 10 s.
    pub file_flush_interval: Duration,
    /// An access log writes when it holds this much, in bytes. Default 64 KiB.
    pub file_flush_min_bytes: usize,
    /// How long a drain lasts before remaining connections are closed. Default 600 s.
    pub drain_time: Duration,
    pub drain_strategy: DrainStrategy,
    /// How long after a hot restart the process before this one is told to end. Default 900 s.
    pub parent_shutdown_time: Duration,
    pub hot_restart: HotRestart,
    /// Unknown fields in the bootstrap warn instead of being refused.
    pub allow_unknown_static_fields: bool,
    /// Unknown fields from control planes are refused. Default: counted and ignored with a warning.
    pub reject_unknown_dynamic_fields: bool,
    /// No warning for unknown fields from control planes.
    pub ignore_unknown_dynamic_fields: bool,
    pub local_address_ip_version: IpVersion,
    /// File to which the bound address of the admin endpoint is written.
    pub admin_address_path: Option<PathBuf>,
    /// Tags added to every metric in `/stats/prometheus`.
    pub stats_tags: Vec<(String, String)>,
    pub cpuset_threads: bool,
    /// Ours. Default: io_uring where it works, else epoll.
    pub io_backend: IoBackend,
    /// Ours: exactly this rung of the io_uring ladder, 1 to 3. Default: the highest that works.
    pub io_level: Option<u8>,
    pub cpu_affinity: CpuAffinity,
    /// Ours: bootstrap fields that this version lacks warn instead of being refused.
    pub allow_unimplemented: bool,
    /// Ours: directory in which accepted resources of the control plane are kept for the next start. Default: they are not.
    pub xds_cache: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Serve,
    /// Check the configuration, list what has no effect or is missing, and exit.
    Validate,
    /// Serve the embedded demonstration.
    Demo,
    /// Look at the host and say what to change.
    Doctor(ReportFormat),
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs. Source: `--json`.
    Json,
}

/// How processes that replace each other find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotRestart {
    /// Source: `--disable-hot-restart`.
    pub disabled: bool,
    /// How often the first process has been replaced. Source: `--restart-epoch`, default 0.
    pub epoch: u32,
    /// Tells chains of processes of one host apart. Source: `--base-id`, default 0.
    pub base_id: u32,
    /// Take any base id that is free.
    pub use_dynamic_base_id: bool,
    /// File to which the base id is written.
    pub base_id_path: Option<PathBuf>,
    /// What the names of their sockets begin with; `@`: in the abstract namespace. Default `@ringway_domain_socket`: Envoy's
    /// is another, since a process of either would not understand the other's.
    pub socket_path: String,
    /// Permissions of the socket, if it is a file. Default 600.
    pub socket_mode: u32,
    /// A flag says which place it is to have: without it there is no start. Otherwise a place that is taken is done without.
    pub demanded: bool,
    /// Start afresh where there is no process to replace.
    pub skip_on_no_parent: bool,
    /// Statistics begin at zero.
    pub skip_parent_stats: bool,
}

/// Which connections `/drain_listeners` asks to close. The end of the process asks all of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStrategy {
    /// With a probability that rises over the drain time.
    Gradual,
    /// All of them from the start.
    Immediate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    Auto,
    IoUring,
    Epoll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuAffinity {
    /// Pin when the workers are as many as the allowed CPUs and no quota limits the process.
    Auto,
    Off,
    /// Worker n runs on CPU n of the list, modulo its length.
    List(Vec<usize>),
}

/// Why there are no options: a mistake, or a question like `--help` that is answered instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// What to print, with its final newline.
    pub text: String,
    /// [`EXIT_OK`] for an answer, which goes to standard output; [`EXIT_FAILURE`] goes to standard error.
    pub exit_code: u8,
}

/// Served and drained, validated, or asked a question.
pub const EXIT_OK: u8 = 0;
/// Refused: wrong flags, invalid or unreadable configuration, an address that cannot be bound, no permission.
/// As Envoy's.
pub const EXIT_FAILURE: u8 = 1;
/// `ringway doctor` found a problem: something that will fail or hurt under load.
pub const EXIT_PROBLEM: u8 = 2;
/// A defect: a panic outside a connection's task, or while shared state was being edited. Source: EX_SOFTWARE.
pub const EXIT_PANIC: u8 = 70;

/// Parses the arguments, the first of which is the program's name.
///
/// # Errors
/// Anything Envoy refuses; `--help`, `--version` and `--hot-restart-version` with [`EXIT_OK`].
pub fn parse<I, T>(args: I) -> Result<Options, CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let command = flags::command();
    let words = flags::split_words(&command, args.into_iter().map(Into::into).collect());
    flags::options(&command.try_get_matches_from(words)?)
}

/// Revision of the source, as the build was told.
pub const REVISION: &str = match option_env!("RINGWAY_REVISION") {
    Some(revision) => revision,
    None => "0000000000000000000000000000000000000000",
};
/// What two processes have in common that can replace each other: the version of what they say to each other.
pub const HOT_RESTART_VERSION: &str = "ringway.1";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `revision/version/status/build type/TLS library`. kuma-dp looks for `version:` and wants exactly five parts,
/// and istio and Envoy Gateway read the second; both trim letters of the word "version:" off the ends, hence a
/// last part that ends in none of them.
pub fn build_version() -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("{REVISION}/{VERSION}/Clean/{build}/AWS-LC")
}

impl Options {
    /// What the logger needs to know.
    pub fn log_options(&self) -> LogOptions {
        LogOptions {
            level: self.log_level,
            components: self.component_log_level.clone(),
            pattern: self.log_pattern.clone(),
            escaped: self.log_format_escaped,
            path: self.log_path.clone(),
        }
    }
}

impl CliError {
    fn refused(reason: impl fmt::Display) -> Self {
        Self { text: format!("error: {reason}\n"), exit_code: EXIT_FAILURE }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

impl std::error::Error for CliError {}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        // Envoy exits with 1 where clap would with 2.
        let exit_code = if error.use_stderr() { EXIT_FAILURE } else { EXIT_OK };
        Self { text: error.render().to_string(), exit_code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::DEFAULT_PATTERN;

    fn parsed(line: &str) -> Result<Options, CliError> {
        parse(std::iter::once("ringway").chain(line.split_whitespace()))
    }

    fn refused(line: &str) -> String {
        let error = parsed(line).unwrap_err();
        assert_eq!(error.exit_code, EXIT_FAILURE, "{line}");
        error.text
    }

    #[test]
    fn defaults_are_those_of_envoy() {
        let options = parsed("-c a.yaml").unwrap();
        assert_eq!(options.action, Action::Serve);
        assert_eq!(options.config_path, Some("a.yaml".into()));
        assert_eq!(options.concurrency, None);
        assert_eq!(options.log_level, Level::Info);
        assert_eq!(options.drain_time, Duration::from_secs(600));
        assert_eq!(options.parent_shutdown_time, Duration::from_secs(900));
        assert_eq!(options.drain_strategy, DrainStrategy::Gradual);
        assert_eq!(options.file_flush_interval, Duration::from_secs(10));
        assert_eq!(options.file_flush_min_bytes, 64 * 1024);
        assert_eq!(options.io_backend, IoBackend::Auto);
        assert_eq!(options.cpu_affinity, CpuAffinity::Auto);
        assert!(!options.allow_unknown_static_fields && !options.allow_unimplemented);
    }

    #[test]
    fn command_line_of_pilot_agent_is_accepted() {
        let options = parse([
            "ringway",
            "-c",
            "etc/istio/proxy/envoy-rev.json",
            "--drain-time-s",
            "45",
            "--drain-strategy",
            "immediate",
            "--local-address-ip-version",
            "v4",
            "--file-flush-interval-msec",
            "1000",
            "--file-flush-min-size-kb",
            "16",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "-l",
            "warning",
            "--component-log-level",
            "misc:error",
            "--skip-deprecated-logs",
            "--enable-core-dump",
            "--log-format",
            "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
            "--config-yaml",
            "{node: {}}",
            "--concurrency",
            "2",
        ])
        .unwrap();
        assert_eq!(options.drain_time, Duration::from_secs(45));
        assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
        assert_eq!(options.file_flush_interval, Duration::from_secs(1));
        assert_eq!(options.file_flush_min_bytes, 16 * 1024);
        assert_eq!(options.log_level, Level::Warning);
        assert_eq!(options.component_log_level, [(crate::telemetry::log::component("misc"), Level::Error)]);
        assert_eq!(options.concurrency, Some(2));
        assert_eq!(options.config_yaml.as_deref(), Some("{node: {}}"));
    }

    #[test]
    fn command_lines_of_other_control_planes_are_accepted() {
        for line in [
            // kuma-dp, with and without a number of workers of its own.
            "--config-path b.yaml --drain-time-s 30 --drain-strategy immediate --disable-hot-restart \
             --log-level off --component-log-level upstream:debug --concurrency 2",
            "--config-path b.yaml --drain-time-s 30 --drain-strategy immediate --disable-hot-restart \
             --log-level info --cpuset-threads",
            // AWS App Mesh and ECS Service Connect.
            "-c b.yaml -l warn --concurrency 1 --drain-time-s 20 --disable-hot-restart --skip-deprecated-logs",
            // Emissary, and istio when it still restarted Envoy.
            "-c b.json --base-id 0 --restart-epoch 0 --drain-time-s 5 --parent-shutdown-time-s 10",
        ] {
            parsed(line).unwrap();
        }
        let consul = [
            r#"{"@timestamp":"%Y-%m-%dT%T.%fZ%z","@module":"envoy.%n","@level":"%l","@message":"%j","thread":%t}"#,
            "%Y-%m-%dT%T.%eZ%z [%l] envoy.%n(%t) %v",
        ];
        for format in consul {
            let line = ["ringway", "--config-path", "/tmp/envoy-1-bootstrap.json", "--log-format", format];
            let options =
                parse(line.into_iter().chain(["--log-level", "info", "--disable-hot-restart"])).unwrap();
            assert_eq!(options.log_format, format);
        }
        let options = parsed(
            "--service-cluster a --service-node b --config-yaml x --log-level warn --cpuset-threads \
             --drain-strategy immediate --drain-time-s 60 --stats-tag zone:a",
        )
        .unwrap();
        assert!(options.cpuset_threads);
        assert_eq!(options.service_node.as_deref(), Some("b"));
        assert_eq!(options.stats_tags, [("zone".to_string(), "a".to_string())]);
        // Envoy Gateway on a host, through func-e.
        let options = parsed(
            "--service-cluster a --service-node b --config-yaml x --log-level warn --cpuset-threads --drain-strategy immediate \
             --drain-time-s 60 --concurrency 2 --admin-address-path a.txt -- --run-id 20261129_131500_001",
        )
        .unwrap();
        assert_eq!(options.admin_address_path, Some("a.txt".into()));
    }

    #[test]
    fn what_follows_two_dashes_is_not_read() {
        for line in ["-c a -- foo", "-c a --", "-c a -- -l debug --nope", "-c a -- demo"] {
            let options = parsed(line).unwrap();
            assert_eq!((options.config_path, options.log_level), (Some("a".into()), Level::Info), "{line}");
        }
        // As a value it is one.
        assert_eq!(parsed("--config-yaml -- -l debug").unwrap().config_yaml.as_deref(), Some("--"));
        assert!(refused("-- -c a").contains("--config-path"));
    }

    #[test]
    fn flag_and_value_in_one_argument_are_two() {
        // Contour's manifest.
        let line =
            ["ringway", "-c", "/config/envoy.json", "--service-cluster ns", "--service-node pod", "-l debug"];
        let options = parse(line).unwrap();
        assert_eq!(options.config_path, Some("/config/envoy.json".into()));
        assert_eq!(options.service_cluster.as_deref(), Some("ns"));
        assert_eq!((options.service_node.as_deref(), options.log_level), (Some("pod"), Level::Debug));
        // A value is taken as it is, even one that looks like that.
        let options = parse(["ringway", "--config-yaml", "--log-level debug"]).unwrap();
        assert_eq!(options.config_yaml.as_deref(), Some("--log-level debug"));
        let options = parse(["ringway", "--config-yaml={a: -l b}", "--service-zone a  b"]).unwrap();
        assert_eq!(options.config_yaml.as_deref(), Some("{a: -l b}"));
        assert_eq!(options.service_zone.as_deref(), Some("a  b"));
        for line in [["ringway", "-c a", "--cpuset-threads x"], ["ringway", "-c a", "--nope x"]] {
            assert_eq!(parse(line).unwrap_err().exit_code, EXIT_FAILURE);
        }
    }

    #[test]
    fn flag_spelt_in_any_way_means_the_same() {
        for line in ["-c a -l debug", "-c a -ldebug", "--config-path=a --log-level=debug", "-c=a -l=debug"] {
            let options = parsed(line).unwrap();
            assert_eq!((options.log_level, options.config_path), (Level::Debug, Some("a".into())), "{line}");
        }
        assert!(parsed("-c a --allow-unknown-fields").unwrap().allow_unknown_static_fields);
    }

    #[test]
    fn what_envoy_refuses_is_refused_with_its_exit_code() {
        for (line, part) in [
            ("", "--config-path"),
            ("-c", "--config-path"),
            ("foo", "foo"),
            ("--nope -c a", "--nope"),
            ("-c a --concurrency x", "--concurrency"),
            ("-c a --mode foo", "unknown mode 'foo'"),
            ("-c a --mode Validate", "unknown mode 'Validate'"),
            ("-c a --drain-strategy foo", "unknown drain-strategy 'foo'"),
            ("-c a -l foo", "invalid log level specified 'foo'"),
            ("-c a -l debug -l info", "multiple times"),
            ("-c a --component-log-level x:debug", "invalid component specified 'x'"),
            ("-c a --component-log-level upstream:foo", "invalid log level specified 'foo'"),
            ("-c a --component-log-level upstream", "component log level not correctly specified 'upstream'"),
            ("-c a --local-address-ip-version v5", "unknown IP address version 'v5'"),
            ("-c a --drain-time-s 99999999999", "--drain-time-s"),
            ("-c a --stats-tag a", "misformatted stats-tag 'a'"),
            ("-c a --stats-tag a:b.c", "misformatted stats-tag 'a:b.c'"),
            ("-c a --stats-tag a:b --stats-tag a:c", "stats-tag 'a' is set twice"),
            ("-c a --log-format %q", "%q"),
            ("-c a --restart-epoch 1 --use-dynamic-base-id", "cannot use --restart-epoch=1 with"),
            ("-c a --socket-mode 999", "invalid socket-mode"),
        ] {
            let text = refused(line);
            assert!(text.contains(part), "{line}: {text}");
        }
    }

    #[test]
    fn own_flags_are_parsed() {
        let options =
            parsed("-c a --io-backend io_uring --io-level 2 --cpu-affinity 0,2-4 --allow-unimplemented")
                .unwrap();
        assert_eq!((options.io_backend, options.io_level), (IoBackend::IoUring, Some(2)));
        assert_eq!(options.cpu_affinity, CpuAffinity::List(vec![0, 2, 3, 4]));
        assert!(options.allow_unimplemented);
        assert_eq!(parsed("-c a --cpu-affinity off").unwrap().cpu_affinity, CpuAffinity::Off);
        for line in [
            "--io-level 4",
            "--io-level 0",
            "--io-backend kqueue",
            "--io-backend epoll --io-level 1",
            "--cpu-affinity 4-2",
            "--cpu-affinity 1,,2",
        ] {
            refused(&format!("-c a {line}"));
        }
        refused("-c a --cpu-affinity 0-99999999999");
    }

    #[test]
    fn concurrency_of_zero_is_one_worker() {
        assert_eq!(parsed("-c a --concurrency 0").unwrap().concurrency, Some(1));
        assert!(refused("-c a --concurrency 100000").contains("--concurrency"));
    }

    #[test]
    fn demo_needs_no_configuration() {
        let options = parsed("demo --concurrency 3 --io-backend io_uring").unwrap();
        assert_eq!((options.action, options.concurrency), (Action::Demo, Some(3)));
        assert_eq!(options.io_backend, IoBackend::IoUring);
        assert_eq!(parsed("-c a --mode validate").unwrap().action, Action::Validate);
    }

    #[test]
    fn doctor_takes_only_its_own_flags() {
        assert_eq!(parsed("doctor").unwrap().action, Action::Doctor(ReportFormat::Text));
        assert_eq!(parsed("doctor --json").unwrap().action, Action::Doctor(ReportFormat::Json));
        for line in ["doctor --concurrency 2", "doctor -c a", "-c a doctor", "doctor x"] {
            refused(line);
        }
    }

    #[test]
    fn version_is_what_kuma_dp_can_read() {
        let answer = parsed("--version").unwrap_err();
        assert_eq!(answer.exit_code, EXIT_OK);
        let line = answer.text.lines().find(|line| line.contains("version:")).unwrap();
        // What kuma-dp does: from `version:` to the end of the line, trimmed of these letters, split by slashes.
        let build = &line[line.find("version:").unwrap()..];
        let build = build.trim_matches(|c| "version:".contains(c)).trim_matches(' ');
        let parts: Vec<_> = build.split('/').collect();
        assert_eq!((parts.len(), parts[1], parts[4]), (5, VERSION, "AWS-LC"));
    }

    #[test]
    fn help_marks_flags_without_effect() {
        let answer = parsed("--help").unwrap_err();
        assert_eq!(answer.exit_code, EXIT_OK);
        let at = answer.text.find("Accepted without effect").unwrap();
        assert!(
            answer.text.find("--cpuset-threads").unwrap() > at
                && answer.text.find("--concurrency").unwrap() < at
        );
        assert!(answer.text.contains("Exit codes"));
        assert_eq!(
            parsed("--hot-restart-version --disable-hot-restart").unwrap_err(),
            CliError { text: "disabled\n".into(), exit_code: 0 }
        );
        assert_eq!(parsed("--hot-restart-version").unwrap_err().text, "ringway.1\n");
    }

    #[test]
    fn default_log_format_is_ours() {
        assert_eq!(parsed("-c a").unwrap().log_format, DEFAULT_PATTERN);
    }
}
