//! The flags: how clap is told about them, and how its findings become [`Options`].
use super::{
    Action, CliError, CpuAffinity, DrainStrategy, EXIT_OK, HOT_RESTART_VERSION, HotRestart, IoBackend,
    IpVersion, Options, ReportFormat, VERSION, build_version,
};
use crate::telemetry::log::{COMPONENTS, DEFAULT_PATTERN, Level, Pattern};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::ffi::OsString;
use std::time::Duration;

/// The command line's description.
pub(super) fn command() -> Command {
    Command::new("ringway")
        .about("An io_uring, thread-per-core HTTP proxy that takes Envoy's configuration")
        .version(VERSION)
        .disable_version_flag(true)
        .max_term_width(100)
        .args_conflicts_with_subcommands(true)
        .args(configuration())
        .args(logging())
        .args(lifecycle())
        .args(hot_restart_flags())
        .args(own())
        .args(without_effect())
        .after_help(EXIT_CODES)
        .subcommand(
            Command::new("demo")
                .about("Serve an embedded demonstration on 127.0.0.1:10000, admin on 127.0.0.1:9901")
                .arg(concurrency())
                .args(logging())
                .args(own()),
        )
        .subcommand(
            Command::new("doctor")
                .about("Look at this host and say what to change, with the command and what it gains")
                .after_help(DOCTOR_EXIT_CODES)
                .arg(flag("json", "Print the findings as JSON")),
        )
}

/// Splits an argument that holds a flag, a space and its value in two, as Envoy does; values are left as they are. What comes behind `--`
/// is for others to read, as in Envoy: func-e, and Envoy Gateway with it, writes there which run a process belongs to.
pub(super) fn split_words(command: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let takes_value = |word: &str| {
        let is_it = |arg: &&Arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => word
                .strip_prefix('-')
                .is_some_and(|short| arg.get_short().map(String::from).as_deref() == Some(short)),
        };
        command.get_arguments().find(is_it).is_some_and(|arg| arg.get_action().takes_values())
    };
    let mut words = Vec::with_capacity(args.len());
    let mut is_value = false;
    for arg in args {
        if std::mem::take(&mut is_value) {
            words.push(arg);
            continue;
        }
        if arg == "--" {
            break;
        }
        match arg.to_str().and_then(|text| text.split_once(' ')) {
            Some((flag, value)) if takes_value(flag) => words.extend([flag.into(), value.into()]),
            _ => {
                is_value = arg.to_str().is_some_and(takes_value);
                words.push(arg);
            }
        }
    }
    words
}

/// Turns what clap found into options; the answers to `--version` and its like come back as errors.
pub(super) fn options(found: &ArgMatches) -> Result<Options, CliError> {
    let answer = |text: String| Err(CliError { text, exit_code: EXIT_OK });
    if found.get_flag("version") {
        return answer(format!("\nringway  version: {}\n\n", build_version()));
    }
    if found.get_flag("hot-restart-version") {
        let disabled = found.get_flag("disable-hot-restart");
        return answer(format!("{}\n", if disabled { "disabled" } else { HOT_RESTART_VERSION }));
    }
    if let Some(found) = found.subcommand_matches("demo") {
        return common(found, Action::Demo);
    }
    if let Some(found) = found.subcommand_matches("doctor") {
        let format = if found.get_flag("json") { ReportFormat::Json } else { ReportFormat::Text };
        return defaults(Action::Doctor(format));
    }
    let action = match text(found, "mode").as_deref() {
        None | Some("serve") => Action::Serve,
        Some("validate") => Action::Validate,
        Some(other) => return Err(CliError::refused(format_args!("unknown mode '{other}'"))),
    };
    let mut options = common(found, action)?;
    options.config_path = text(found, "config-path").map(Into::into);
    options.config_yaml = text(found, "config-yaml");
    if options.config_path.is_none() && options.config_yaml.is_none() {
        return Err(CliError::refused(
            "at least one of --config-path or --config-yaml is needed; `ringway demo` runs without, --help lists all flags",
        ));
    }
    options.hot_restart = hot_restart(found)?;
    options.service_node = text(found, "service-node");
    options.service_cluster = text(found, "service-cluster");
    options.service_zone = text(found, "service-zone");
    options.admin_address_path = text(found, "admin-address-path").map(Into::into);
    options.file_flush_interval = Duration::from_millis(number(found, "file-flush-interval-msec"));
    options.file_flush_min_bytes =
        usize::try_from(number(found, "file-flush-min-size-kb") * 1024).unwrap_or(usize::MAX);
    options.drain_time = Duration::from_secs(number(found, "drain-time-s"));
    options.parent_shutdown_time = Duration::from_secs(number(found, "parent-shutdown-time-s"));
    options.drain_strategy = match text(found, "drain-strategy").as_deref() {
        None | Some("gradual") => DrainStrategy::Gradual,
        Some("immediate") => DrainStrategy::Immediate,
        Some(other) => return Err(CliError::refused(format_args!("unknown drain-strategy '{other}'"))),
    };
    options.local_address_ip_version = match text(found, "local-address-ip-version").as_deref() {
        None | Some("v4") => IpVersion::V4,
        Some("v6") => IpVersion::V6,
        Some(other) => return Err(CliError::refused(format_args!("unknown IP address version '{other}'"))),
    };
    options.allow_unknown_static_fields =
        found.get_flag("allow-unknown-static-fields") || found.get_flag("allow-unknown-fields");
    options.reject_unknown_dynamic_fields = found.get_flag("reject-unknown-dynamic-fields");
    options.ignore_unknown_dynamic_fields = found.get_flag("ignore-unknown-dynamic-fields");
    options.cpuset_threads = found.get_flag("cpuset-threads");
    options.stats_tags = stats_tags(found)?;
    Ok(options)
}

/// The options that `demo` has as well; the others at their defaults.
fn common(found: &ArgMatches, action: Action) -> Result<Options, CliError> {
    let log_format = text(found, "log-format");
    let log_format_is_set = log_format.is_some();
    let log_format = log_format.unwrap_or_else(|| DEFAULT_PATTERN.to_string());
    let component_log_level_text = text(found, "component-log-level").unwrap_or_default();
    let io_backend = match text(found, "io-backend").as_deref() {
        Some("io_uring") => IoBackend::IoUring,
        Some("epoll") => IoBackend::Epoll,
        _ => IoBackend::Auto,
    };
    let io_level = found.get_one::<u8>("io-level").copied();
    if io_backend == IoBackend::Epoll && io_level.is_some() {
        return Err(CliError::refused("--io-level names a level of io_uring: not with --io-backend epoll"));
    }
    Ok(Options {
        // As in Envoy, 0 means 1.
        concurrency: found.get_one::<u32>("concurrency").map(|count| (*count).max(1) as usize),
        log_level: text(found, "log-level").map_or(Ok(Level::Info), |name| level(&name))?,
        component_log_level: component_levels(&component_log_level_text)?,
        component_log_level_text,
        log_pattern: Pattern::parse(&log_format).map_err(CliError::refused)?,
        log_format,
        log_format_is_set,
        log_format_escaped: found.get_flag("log-format-escaped"),
        log_path: text(found, "log-path").map(Into::into),
        io_backend,
        io_level,
        cpu_affinity: match text(found, "cpu-affinity").as_deref() {
            None | Some("auto") => CpuAffinity::Auto,
            Some("off") => CpuAffinity::Off,
            Some(list) => CpuAffinity::List(cpu_list(list)?),
        },
        allow_unimplemented: found.get_flag("allow-unimplemented"),
        xds_cache: text(found, "xds-cache").map(Into::into),
        ..defaults(action)?
    })
}

/// What holds without any flag.
fn defaults(action: Action) -> Result<Options, CliError> {
    Ok(Options {
        action,
        config_path: None,
        config_yaml: None,
        concurrency: None,
        log_level: Level::Info,
        component_log_level: Vec::new(),
        component_log_level_text: String::new(),
        log_pattern: Pattern::parse(DEFAULT_PATTERN).map_err(CliError::refused)?,
        log_format: DEFAULT_PATTERN.to_string(),
        log_format_is_set: false,
        log_format_escaped: false,
        log_path: None,
        service_node: None,
        service_cluster: None,
        service_zone: None,
        file_flush_interval: Duration::from_secs(10),
        file_flush_min_bytes: 64 * 1024,
        drain_time: Duration::from_secs(600),
        drain_strategy: DrainStrategy::Gradual,
        parent_shutdown_time: Duration::from_secs(900),
        hot_restart: HotRestart {
            // What only looks, and the demonstration, meet no other process.
            disabled: action != Action::Serve,
            epoch: 0,
            base_id: 0,
            use_dynamic_base_id: false,
            base_id_path: None,
            socket_path: SOCKET_PATH.to_owned(),
            socket_mode: 0o600,
            demanded: false,
            skip_on_no_parent: false,
            skip_parent_stats: false,
        },
        allow_unknown_static_fields: false,
        reject_unknown_dynamic_fields: false,
        ignore_unknown_dynamic_fields: false,
        local_address_ip_version: IpVersion::V4,
        admin_address_path: None,
        stats_tags: Vec::new(),
        cpuset_threads: false,
        io_backend: IoBackend::Auto,
        io_level: None,
        cpu_affinity: CpuAffinity::Auto,
        allow_unimplemented: false,
        xds_cache: None,
    })
}

fn hot_restart(found: &ArgMatches) -> Result<HotRestart, CliError> {
    let mode = text(found, "socket-mode").unwrap_or_else(|| "600".to_owned());
    let wrong = || CliError::refused(format_args!("invalid socket-mode '{mode}'"));
    let epoch = found.get_one("restart-epoch").copied().unwrap_or_default();
    let named = ["base-id", "use-dynamic-base-id", "base-id-path", "socket-path"];
    let given = |flag| found.value_source(flag) == Some(ValueSource::CommandLine);
    let hot_restart = HotRestart {
        disabled: found.get_flag("disable-hot-restart"),
        epoch,
        demanded: epoch > 0 || named.into_iter().any(given),
        base_id: found.get_one("base-id").copied().unwrap_or_default(),
        use_dynamic_base_id: found.get_flag("use-dynamic-base-id"),
        base_id_path: text(found, "base-id-path").map(Into::into),
        socket_path: text(found, "socket-path").unwrap_or_else(|| SOCKET_PATH.to_owned()),
        socket_mode: u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(wrong)?,
        skip_on_no_parent: found.get_flag("skip-hot-restart-on-no-parent"),
        skip_parent_stats: found.get_flag("skip-hot-restart-parent-stats"),
    };
    if hot_restart.use_dynamic_base_id && hot_restart.epoch > 0 {
        let epoch = hot_restart.epoch;
        return Err(CliError::refused(format_args!(
            "cannot use --restart-epoch={epoch} with --use-dynamic-base-id: give the --base-id that epoch 0 took"
        )));
    }
    Ok(hot_restart)
}

/// A text flag; the empty text counts as not given, as in Envoy.
fn text(found: &ArgMatches, name: &str) -> Option<String> {
    found.get_one::<String>(name).filter(|text| !text.is_empty()).cloned()
}

fn number(found: &ArgMatches, name: &str) -> u64 {
    found.get_one::<u32>(name).copied().unwrap_or_default().into()
}

fn level(name: &str) -> Result<Level, CliError> {
    Level::parse(name).ok_or_else(|| CliError::refused(format_args!("invalid log level specified '{name}'")))
}

fn component_levels(list: &str) -> Result<Vec<(usize, Level)>, CliError> {
    let entries = list.split(',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, level_name) = entry.split_once(':').ok_or_else(|| {
                CliError::refused(format_args!("component log level not correctly specified '{entry}'"))
            })?;
            let component = COMPONENTS
                .binary_search(&name)
                .map_err(|_| CliError::refused(format_args!("invalid component specified '{name}'")))?;
            Ok((component, level(level_name)?))
        })
        .collect()
}

fn stats_tags(found: &ArgMatches) -> Result<Vec<(String, String)>, CliError> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for text in found.get_many::<String>("stats-tag").into_iter().flatten() {
        let tag = text.split_once(':').filter(|(tag, value)| {
            !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric()) && !value.contains('.')
        });
        let (tag, value) =
            tag.ok_or_else(|| CliError::refused(format_args!("misformatted stats-tag '{text}'")))?;
        if tags.iter().any(|(other, _)| other == tag) {
            return Err(CliError::refused(format_args!("stats-tag '{tag}' is set twice")));
        }
        tags.push((tag.to_string(), value.to_string()));
    }
    Ok(tags)
}

/// `0,2-5`.
fn cpu_list(list: &str) -> Result<Vec<usize>, CliError> {
    let wrong = || {
        CliError::refused(format_args!("--cpu-affinity is auto, off or a list such as 0,2-5, not '{list}'"))
    };
    let cpu = |text: &str| text.parse::<usize>().ok().filter(|cpu| *cpu < CPUS_MAX).ok_or_else(wrong);
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (cpu(first)?, cpu(last)?);
        if first > last {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

// === the flags ===

fn value(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(placeholder)
        .help(help)
        .value_parser(value_parser!(String))
        .allow_hyphen_values(true)
}

fn count(name: &'static str, default: Option<&'static str>, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name("NUMBER").help(help).value_parser(value_parser!(u32));
    match default {
        Some(default) => arg.default_value(default),
        None => arg,
    }
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn concurrency() -> Arg {
    count("concurrency", None, "Number of workers [default: one per CPU this process may use]")
        .value_parser(value_parser!(u32).range(..=i64::from(WORKERS_MAX)))
}

fn configuration() -> Vec<Arg> {
    vec![
        value("config-path", "FILE", "Bootstrap, YAML or JSON in Envoy's v3 format").short('c'),
        value("config-yaml", "YAML", "Bootstrap text, merged over the file"),
        value("mode", "serve|validate", "Serve, or check the configuration and exit"),
        flag(
            "allow-unknown-static-fields",
            "Warn about unknown fields in the bootstrap instead of refusing it",
        ),
        flag("allow-unknown-fields", "Older name of --allow-unknown-static-fields"),
        flag("reject-unknown-dynamic-fields", "Refuse resources of control planes that have unknown fields"),
        flag("ignore-unknown-dynamic-fields", "Do not warn about unknown fields from control planes"),
        value("service-node", "ID", "Node id; overrides the bootstrap"),
        value("service-cluster", "NAME", "Node cluster; overrides the bootstrap"),
        value("service-zone", "ZONE", "Node zone; overrides the bootstrap"),
        value("admin-address-path", "FILE", "Write the admin endpoint's address to this file"),
        value(
            "local-address-ip-version",
            "v4|v6",
            "Family of the address that says which machine this is [default: v4]",
        ),
        value("stats-tag", "TAG:VALUE", "Tag added to all Prometheus metrics; may be repeated")
            .action(ArgAction::Append),
        concurrency(),
    ]
}

fn logging() -> Vec<Arg> {
    vec![
        value("log-level", "LEVEL", "trace, debug, info, warning, error, critical or off [default: info]")
            .short('l'),
        value("component-log-level", "LIST", "Levels of components, such as upstream:debug,config:trace"),
        value(
            "log-format",
            "FORMAT",
            "spdlog pattern of %Y %m %d %H %M %S %T %D %e %f %F %E %z %P %t %l %L %n %v %_ %j %g %s %# %% \
             [default: [%Y-%m-%d %T.%e][%t][%l][%n] %v]",
        ),
        flag("log-format-escaped", "Write control characters in log messages as C escapes"),
        value("log-path", "FILE", "Log file [default: standard error]"),
    ]
}

fn lifecycle() -> Vec<Arg> {
    vec![
        count("drain-time-s", Some("600"), "Seconds a drain may take, that of the process's end included"),
        value(
            "drain-strategy",
            "gradual|immediate",
            "Let /drain_listeners ask connections to close one by one over the drain time, or all at once \
             [default: gradual]; the process's end always asks all of them",
        ),
        count("file-flush-interval-msec", Some("10000"), "Access logs are written at least this often"),
        count("file-flush-min-size-kb", Some("64"), "Access logs are written when this much has gathered"),
        flag("version", "Print the version and exit"),
    ]
}

fn hot_restart_flags() -> Vec<Arg> {
    let args = vec![
        flag("disable-hot-restart", "Neither replace a process nor let one replace this"),
        count(
            "restart-epoch",
            None,
            "How often the first process has been replaced: one more than that of the process to replace [default: 0]",
        ),
        count(
            "base-id",
            None,
            "Number that tells processes of one host apart: each that runs on its own needs another [default: 0]",
        ),
        flag("use-dynamic-base-id", "Take any base id that is free"),
        value("base-id-path", "FILE", "Write the base id to this file"),
        count(
            "parent-shutdown-time-s",
            Some("900"),
            "Seconds after which the replaced process is told to end; sooner when its connections are gone",
        ),
        value(
            "socket-path",
            "PATH",
            "Where processes find each other; _BASEID_EPOCH is added, and @ means the abstract namespace \
             [default: @ringway_domain_socket]",
        ),
        value("socket-mode", "MODE", "Permissions of that socket, if it is a file [default: 600]"),
        flag("skip-hot-restart-on-no-parent", "Start afresh where there is no process to replace"),
        flag("skip-hot-restart-parent-stats", "Statistics begin at zero after a hot restart"),
        flag("hot-restart-version", "Print which processes can replace each other, and exit"),
    ];
    args.into_iter().map(|arg| arg.help_heading("Hot restart")).collect()
}

fn own() -> Vec<Arg> {
    let args = vec![
        value("io-backend", "BACKEND", "auto, io_uring or epoll").value_parser(["auto", "io_uring", "epoll"]),
        Arg::new("io-level")
            .long("io-level")
            .value_name("1-3")
            .help("Exactly this io_uring feature level [default: the highest that works]")
            .value_parser(value_parser!(u8).range(1..=3)),
        value("cpu-affinity", "auto|off|LIST", "Pin workers to CPUs: a list such as 0,2-5 [default: auto]"),
        flag(
            "allow-unimplemented",
            "Warn about bootstrap fields that this version lacks instead of refusing it",
        ),
        value(
            "xds-cache",
            "DIR",
            "Keep what control planes have told there, and start with it until they answer",
        ),
    ];
    args.into_iter().map(|arg| arg.help_heading("Ringway's own")).collect()
}

/// Flags of Envoy whose subject does not exist here. The help text of each says why.
fn without_effect() -> Vec<Arg> {
    let args = vec![
        flag("cpuset-threads", "Workers are always counted from the cpuset"),
        flag("enable-core-dump", "The process's core limit is left as it is"),
        flag("enable-mutex-tracing", "Workers share no mutex"),
        flag("enable-fine-grain-logging", "Levels are per component"),
        flag("log-stacktrace-single-entry", "Stack traces are always one entry"),
        flag("skip-deprecated-logs", "Deprecated fields are not logged"),
        value("disable-extensions", "LIST", "Extensions cannot be switched off one by one"),
    ];
    args.into_iter().map(|arg| arg.help_heading("Accepted without effect")).collect()
}

const EXIT_CODES: &str = "Exit codes: 0 served and drained, validated, or answered; 1 refused (flags, configuration, \
an address in use, permissions); 70 an internal defect.";
const DOCTOR_EXIT_CODES: &str = "Exit codes: 0 no problem found (advice and what cannot be seen from here do not count); \
1 wrong flags, or the report cannot be written; 2 at least one problem.";
/// Default of `--socket-path`.
const SOCKET_PATH: &str = "@ringway_domain_socket";
/// Bound of the number of workers: each costs a ring and buffers. No machine has more CPUs that Linux supports.
const WORKERS_MAX: u32 = 8192;
/// Linux's limit of CPUs.
const CPUS_MAX: usize = 8192;
