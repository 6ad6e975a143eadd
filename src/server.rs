//! The composition root: bootstrap → listening sockets → one worker per core and the control thread → signals → drain.
mod breakers;
mod clusters;
mod config;
mod control;
mod demo;
mod doctor;
mod drains;
mod dump;
mod event_loop;
mod listeners;
mod loads;
mod maker;
mod memory;
mod metrics;
mod output;
mod patience;
mod process;
pub(crate) mod restart;
mod rotation;
mod runtime_layers;
mod runtime_limits;
mod shared_limits;
#[cfg(test)]
mod simulation;
mod sockets;
mod tables;
mod workers;

use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::base::clock;
use crate::base::limits::ON_DEMAND_QUEUED_MAX;
use crate::base::regex::KnownRegexes;
use crate::base::socket_address::SocketAddress;
use crate::cli::{Action, EXIT_FAILURE, EXIT_OK, EXIT_PANIC, IpVersion, Options};
use crate::config::access_log::{AccessLog, AccessLogSink};
use crate::config::address::Address;
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::SharedSettings;
use crate::config::listener::{ListenAddress, Listener};
use crate::config::socket::{SocketOption, SocketState, TcpKeepalive};
use crate::control::admin::{
    Admin, AdminAccessLogs, AdminListener, AdminState, AllowPaths, StatsPolicy, address_file_text,
};
use crate::control::log_writer::{LogOpener, LogWriter};
use crate::control::xds::LoadedBootstrap;
use crate::control::xds::client::{Cache, ClusterNames, KnownSecrets, Resources, SharedCompiler};
use crate::control::xds::convert::{Class, Report};
use crate::filter::CompileServices;
use crate::format::access_log_queue::SinkId;
use crate::protocol::http::forwarding::LocalInfo;
use crate::route::CompileContext;
use crate::runtime::affinity::Cpus;
use crate::runtime::listen::{self, ListenOptions};
use crate::runtime::{RawOption, allocator, local_address, raise_descriptor_limit};
use crate::snapshot::{Compiler, Generation, ListenerCompiler, RouteCompiler, RouteSurroundings, Snapshot};
use crate::telemetry::Registry;
use crate::telemetry::log::{Logger, Pattern};
use clusters::KnownClusters;
use control::{AdminEndpoint, Control, Succession};
use listeners::Stopped;
use metrics::ServerMetrics;
pub use output::{complain, say};
use process::{Chain, Parts, Process};
use restart::{Place, Predecessor};
use rotation::Rotation;
use runtime_layers::RuntimeLayers;
use shared_limits::SharedLimits;
use sockets::ListenSocketSet;
use tables::Tables;
use workers::Workers;

/// Does what the command line asks for; the exit code.
pub fn run(options: &Options, logger: &'static Logger) -> u8 {
    code_of(|| obey(options, logger))
}

/// The exit code of some work of this thread: that of a defect where it panics, which has been told by then.
fn code_of(work: impl FnOnce() -> u8) -> u8 {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(EXIT_PANIC)
}

fn obey(options: &Options, logger: &'static Logger) -> u8 {
    if let Action::Doctor(format) = options.action {
        return doctor::run(format);
    }
    // Before anything else: a process that has no place must not touch the log of the one that has.
    let place = match restart::claim(options) {
        Ok(place) => place,
        Err(reason) => return refuse(&reason),
    };
    let demo = match config::is_demo(options).then(demo::start).transpose() {
        Ok(demo) => demo,
        Err(error) => return refuse(&format!("the demonstration's upstreams cannot start: {error}")),
    };
    let loaded = match allocator::passing(|| config::load(options, demo.as_deref())) {
        Ok(loaded) => loaded,
        Err(report) => return refuse_config(&report),
    };
    // One that cannot be parsed has not been loaded.
    if let Some(Ok(pattern)) = loaded.bootstrap.log_format.as_deref().map(Pattern::parse) {
        logger.set_pattern(pattern);
    }
    for warning in &loaded.report.warnings.0 {
        log::warn!("{warning}");
    }
    for finding in &loaded.report.findings {
        if options.action == Action::Validate {
            say(&format!("{finding}\n"));
        } else if finding.class == Class::NoEffect {
            // Nearly every file has some; `--mode validate` lists them.
            log::debug!("{finding}");
        } else {
            log::warn!("{finding}");
        }
    }
    for left_out in loaded.report.left_out() {
        log::warn!("{left_out}");
    }
    if options.action == Action::Validate {
        if let Err(reason) = check(loaded) {
            return refuse(&reason);
        }
        let name = options
            .config_path
            .as_deref()
            .map_or_else(|| "--config-yaml".into(), |path| path.display().to_string());
        say(&format!("configuration '{name}' OK\n"));
        return EXIT_OK;
    }
    match serve(options, loaded, logger, place) {
        Ok(()) => EXIT_OK,
        Err(reason) => refuse(&reason),
    }
}

/// Compiles what was loaded, for the mistakes that show only then. No log is opened.
fn check(loaded: LoadedBootstrap) -> Result<(), String> {
    let mut bootstrap = loaded.bootstrap;
    let mut sinks = 0;
    let surroundings = Surroundings {
        local_address: None,
        hash_seed: 0,
        regexes: &Arc::default(),
        limits: &SharedLimits::default(),
        open_sink: &mut |_| {
            sinks += 1;
            Ok(SinkId(sinks))
        },
    };
    compile(&mut bootstrap, &Registry::new(1), surroundings).map(drop)
}

fn serve(
    options: &Options,
    loaded: LoadedBootstrap,
    logger: &'static Logger,
    mut place: Option<Place>,
) -> Result<(), String> {
    match raise_descriptor_limit() {
        Ok(None) => {}
        Ok(Some((before, now))) => log::info!("open files: the limit was {before} and is {now} now"),
        Err(error) => log::warn!("open files: the limit cannot be raised to the hard one: {error}"),
    }
    let before = allocator::live_bytes();
    let worker_count = options.concurrency.unwrap_or_else(|| Cpus::of_this_process().workers());
    let registry = Arc::new(Registry::new(worker_count));
    let metrics = ServerMetrics::loaded(&registry, &loaded);
    let LoadedBootstrap {
        bootstrap: mut as_loaded,
        surroundings: of_clusters,
        report,
        wire,
        unknown_fields: _,
        deprecated_fields: _,
    } = loaded;
    let runtime = of_clusters.runtime().clone();
    let of_resources = (as_loaded.cds.is_some() || as_loaded.lds.is_some()).then_some(of_clusters);
    let wire = wire.into();
    // What loading needed goes first: pages that are taken into use again stay resident whole.
    drop(report);
    allocator::collect();
    settle_clusters(&mut as_loaded);
    let log_writer =
        LogWriter::start().map_err(|error| format!("the access-log thread cannot start: {error}"))?;
    let local_address = local_address(options.local_address_ip_version == IpVersion::V6);
    let hash_seed = seed(usize::MAX);
    let open_sink = &mut |sink: &AccessLogSink| log_writer.open(sink);
    let limits = SharedLimits::default();
    let regexes = Arc::default();
    let surroundings =
        Surroundings { local_address, hash_seed, regexes: &regexes, limits: &limits, open_sink };
    let snapshot = Arc::new(compile(&mut as_loaded, &registry, surroundings)?);
    // What is kept of it leaves the memory in which it was loaded, and that goes before the workers take their pages.
    let bootstrap = as_loaded.clone();
    let clusters = KnownClusters::new(Arc::clone(&snapshot.clusters));
    let told_clusters = ClusterNames::default();
    let compiling = Arc::new(compiling(
        &bootstrap,
        &registry,
        (&clusters, &told_clusters),
        local_address,
        (hash_seed, regexes),
        limits,
        log_writer.opener(),
    ));
    let routes =
        SharedCompiler::new(RouteCompiler::of(&snapshot.listeners, Arc::clone(&compiling)), runtime.clone());
    drop(as_loaded);
    allocator::collect();
    let started =
        memory::Started { configuration: before, snapshot: allocator::live_bytes().saturating_sub(before) };
    let cache = cache(options, &bootstrap)?;
    // Only now, with a configuration that is good: until here the process before this one knows nothing.
    let predecessor = place.as_mut().map_or(Ok(None), |place| place.meet(&options.hot_restart))?;
    let before = predecessor.as_ref();
    let admin = bootstrap.admin.as_ref().map(|admin| take_or_bind_admin(admin, before)).transpose()?;
    let (sockets, listeners) = ListenSocketSet::bind(&snapshot, worker_count, before)?;
    let (asks, asked_hosts) = tokio::sync::mpsc::channel(ON_DEMAND_QUEUED_MAX);
    let workers = Arc::new(Workers::start(options, &bootstrap, &registry, &log_writer, &asks, worker_count)?);
    log::info!("{}", workers.description());
    let (sender, commands) = tokio::sync::mpsc::unbounded_channel();
    let backend = workers.backend();
    let secrets = KnownSecrets::default();
    let rotation = Rotation::of(&snapshot, &secrets);
    let (runtime, runtime_watch) = RuntimeLayers::new(&bootstrap, runtime, clusters.clone(), &registry);
    let process = Process::new(Parts {
        options: options.clone(),
        bootstrap: bootstrap.clone(),
        wire,
        registry: Arc::clone(&registry),
        started,
        clusters,
        tls: rotation.contexts(),
        secrets: secrets.clone(),
        runtime,
        backend: (backend.name().to_owned(), backend.reason.clone()),
        workers: workers.description(),
        listeners,
        commands: sender,
        chain: Chain::of(place.as_ref()),
    });
    let admin = match admin {
        Some((listener, inherited)) => {
            write_admin_address(options, &listener);
            let endpoint = admin_endpoint(options, &bootstrap, &registry, &process, &log_writer, logger)?;
            Some(AdminEndpoint { listener, admin: endpoint, inherited })
        }
        None => None,
    };
    if config::is_demo(options) {
        introduce(&workers);
    }
    let control = Control {
        options,
        bootstrap: &bootstrap,
        registry: &registry,
        metrics,
        process,
        workers: Arc::clone(&workers),
        log_writer: &log_writer,
        logger,
        admin,
        commands,
        asked_hosts,
        rotation,
        tls_has_changed: true,
        runtime_watch,
        health_failed: is_told_to_drain(&bootstrap),
        start: Some(snapshot),
        resources: of_resources.map(|surroundings| Resources {
            surroundings,
            listeners: ListenerCompiler::new(compiling),
            clusters: told_clusters,
        }),
        cache,
        secrets,
        routes,
        tables: Tables::default(),
        generation: Generation::default(),
        serving: Vec::new(),
        sockets,
        succession: Succession::new(place, predecessor),
        orphaned: None,
        spread: None,
        stops: None,
        settling: None,
        stopped: Stopped::default(),
        told_listeners: [0; 2],
    };
    let runtime = event_loop::new().map_err(|error| format!("the control thread cannot start: {error}"))?;
    let outcome = runtime.block_on(control.run());
    workers.join();
    log_writer.finish();
    outcome.map_err(|error| format!("signals cannot be received: {error}"))
}

/// Whether health checks fail from the start: there is a file `drain`. Source: `flags_path`.
fn is_told_to_drain(bootstrap: &Bootstrap) -> bool {
    !bootstrap.flags_path.is_empty() && Path::new(&*bootstrap.flags_path).join("drain").exists()
}

/// The admin endpoint's socket; whether the process before this one still accepts from it.
fn take_or_bind_admin(
    admin: &crate::config::bootstrap::Admin,
    predecessor: Option<&Predecessor>,
) -> Result<(AdminListener, bool), String> {
    let given = predecessor.map(|process| process.admin(&admin.address.to_string())).transpose();
    match given {
        Ok(Some(Some(socket))) => {
            let listener = AdminListener::inherit(socket, &admin.address)
                .map_err(|error| format!("admin: the socket of {}: {error}", admin.address))?;
            return Ok((listener, true));
        }
        Ok(_) => {}
        Err(error) => {
            log::error!("admin: the process before this one does not give its socket: {error}");
        }
    }
    Ok((bind_admin(admin)?, false))
}

/// Makes the clusters anew outside of the memory in which they were loaded: there they would keep the pages on which routes
/// and texts had been.
fn settle_clusters(bootstrap: &mut Bootstrap) {
    let mut shared = SharedSettings::default();
    bootstrap.clusters = bootstrap.clusters.iter().map(|cluster| Arc::new(shared.settled(cluster))).collect();
}

fn bind_admin(admin: &crate::config::bootstrap::Admin) -> Result<AdminListener, String> {
    let what = format!("admin on {}", admin.address);
    let listener = patience::while_in_use(&what, || match admin.address {
        Address::Ip(address) => {
            let options = ListenOptions {
                ipv4_compat: admin.ipv4_compat,
                options: raw_options(&admin.socket_options, SocketState::Prebind),
                bound_options: raw_options(&admin.socket_options, SocketState::Bound),
                listening_options: raw_options(&admin.socket_options, SocketState::Listening),
                ..ListenOptions::plain(address, libc::SOMAXCONN)
            };
            listen::bind_exclusive(&options).and_then(|socket| AdminListener::adopt(socket.into()))
        }
        Address::Pipe(_) | Address::Internal(_) => AdminListener::bind(&admin.address),
    });
    listener.map_err(|error| format!("admin: cannot listen on {}: {error}", admin.address))
}

/// Writes where the admin endpoint listens, for those who gave it port 0. Source: `--admin-address-path`.
fn write_admin_address(options: &Options, listener: &AdminListener) {
    let Some(path) = &options.admin_address_path else { return };
    if let Err(error) = std::fs::write(path, address_file_text(listener.local_address())) {
        log::error!("--admin-address-path: cannot write {}: {error}", path.display());
    }
}

fn admin_endpoint(
    options: &Options,
    bootstrap: &Bootstrap,
    registry: &Arc<Registry>,
    process: &Arc<Process>,
    log_writer: &LogWriter,
    logger: &'static Logger,
) -> Result<Arc<Admin>, String> {
    let allow = bootstrap.admin.as_ref().map_or(&[][..], |admin| &admin.allow_paths);
    let logs = bootstrap.admin.as_ref().map_or(&[][..], |admin| &admin.access_log);
    let open = |log: &AccessLog| {
        log_writer
            .open(&log.sink)
            .map_err(|error| format!("admin.access_log: cannot open {:?}: {error}", log.sink))
    };
    let sinks = logs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let access_logs = AdminAccessLogs::compile(logs, &sinks, log_writer.queue(), seed(usize::MAX - 1))
        .map_err(|error| error.to_string())?;
    let state: Arc<dyn AdminState> = Arc::<Process>::clone(process);
    Ok(Arc::new(Admin {
        registry: Arc::clone(registry),
        logger,
        log_counts: Arc::clone(log_writer.queue().counts()),
        state,
        access_logs: Arc::new(access_logs),
        allow_paths: AllowPaths::compile(allow).map_err(|error| error.to_string())?,
        stats_policy: Arc::new(
            StatsPolicy::compile(&bootstrap.stats, &options.stats_tags)
                .map_err(|reason| format!("stats_config: {reason}"))?,
        ),
        flush_interval: bootstrap.stats.flush_interval,
        server_version: bootstrap.stats.server_version,
    }))
}

/// What compiling takes from outside, so that a simulated run can be given the same each time.
struct Surroundings<'a> {
    local_address: Option<IpAddr>,
    hash_seed: u64,
    regexes: &'a Arc<KnownRegexes>,
    limits: &'a SharedLimits,
    open_sink: &'a mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
}

/// Everything static, compiled. What was compiled of it and is of no further use is taken out of the bootstrap.
fn compile(
    bootstrap: &mut Bootstrap,
    registry: &Registry,
    surroundings: Surroundings<'_>,
) -> Result<Snapshot, String> {
    let names: HashSet<&str> = bootstrap.clusters.iter().map(|cluster| &*cluster.name).collect();
    let exists = |name: &str| names.contains(name);
    let local_info = local_info(bootstrap, surroundings.local_address);
    let mut compiler = Compiler {
        registry,
        services: CompileServices {
            routes: CompileContext {
                cluster_exists: &exists,
                hash_seed: surroundings.hash_seed,
                regexes: Some(surroundings.regexes),
            },
            local_info: &local_info,
            open_sink: surroundings.open_sink,
        },
        shared_limit: &|config| surroundings.limits.bucket(config),
    };
    let snapshot = compiler
        .bootstrap(&bootstrap.clusters, &mut bootstrap.listeners)
        .map_err(|(what, error)| format!("{what}: {error}"))?;
    Ok(Snapshot { internal_buffer_bytes: bootstrap.internal_buffer_bytes, ..snapshot })
}

/// Where resources of the control plane are kept; `None`: nowhere.
fn cache(options: &Options, bootstrap: &Bootstrap) -> Result<Option<Cache>, String> {
    let (Some(directory), Some(ads)) = (&options.xds_cache, &bootstrap.ads) else {
        if options.xds_cache.is_some() {
            log::warn!("--xds-cache: nothing to keep: there is no aggregated stream");
        }
        return Ok(None);
    };
    let owner = [&bootstrap.node.id, &bootstrap.node.cluster, &ads.cluster].map(|name| &**name).join("\n");
    Cache::open(directory, owner.into_bytes()).map(Some).map_err(|error| format!("--xds-cache: {error}"))
}

/// What is compiled with that comes while the process runs.
fn compiling(
    bootstrap: &Bootstrap,
    registry: &Arc<Registry>,
    (clusters, told): (&KnownClusters, &ClusterNames),
    local_address: Option<IpAddr>,
    (hash_seed, regexes): (u64, Arc<KnownRegexes>),
    limits: SharedLimits,
    logs: LogOpener,
) -> RouteSurroundings {
    let (clusters, told) = (clusters.clone(), told.clone());
    RouteSurroundings {
        registry: Arc::clone(registry),
        cluster_exists: Box::new(move |name| told.has(name) || clusters.get().find(name).is_some()),
        local_info: local_info(bootstrap, local_address),
        hash_seed,
        regexes,
        shared_limit: Box::new(move |config| limits.bucket(config)),
        open_sink: Box::new(move |sink| logs.open(sink)),
    }
}

/// What this process is called.
fn local_info(bootstrap: &Bootstrap, address: Option<IpAddr>) -> LocalInfo {
    LocalInfo { cluster: bootstrap.node.cluster.clone(), node: bootstrap.node.id.clone(), address }
}

fn listen_options(config: &Listener, address: &SocketAddress, listen: &ListenAddress) -> ListenOptions {
    let options = &listen.socket_options;
    // What is listed comes behind, and so counts.
    let mut prebind: Vec<_> = listen.tcp_keepalive.iter().flat_map(keepalive_options).collect();
    prebind.extend(raw_options(options, SocketState::Prebind));
    let fast_open = |length| RawOption::int(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, c_int(length));
    let mut listening: Vec<_> = config.tcp_fast_open_queue_length.into_iter().map(fast_open).collect();
    listening.extend(raw_options(options, SocketState::Listening));
    ListenOptions {
        address: address.clone(),
        mode: match &listen.address {
            Address::Pipe(pipe) => pipe.mode,
            Address::Ip(_) | Address::Internal(_) => 0,
        },
        backlog: config.tcp_backlog_size.map_or(libc::SOMAXCONN, c_int),
        freebind: config.freebind,
        transparent: config.transparent,
        ipv4_compat: listen.ipv4_compat,
        options: prebind,
        bound_options: raw_options(options, SocketState::Bound),
        listening_options: listening,
    }
}

/// A number for the kernel; what is no C `int` is beyond all that it takes.
fn c_int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Keepalive of a listening socket, which the connections accepted from it inherit.
fn keepalive_options(keepalive: &TcpKeepalive) -> Vec<RawOption> {
    let values = [
        (libc::TCP_KEEPCNT, keepalive.probes),
        (libc::TCP_KEEPIDLE, keepalive.time_s),
        (libc::TCP_KEEPINTVL, keepalive.interval_s),
    ];
    let option = |(name, value): (i32, Option<u32>)| {
        let value = c_int(value?);
        Some(RawOption::int(libc::IPPROTO_TCP, name, value))
    };
    let is_on = RawOption::int(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    std::iter::once(is_on).chain(values.into_iter().filter_map(option)).collect()
}

/// The options to be set in one state of a socket.
fn raw_options(options: &[SocketOption], state: SocketState) -> Vec<RawOption> {
    let raw = |option: &SocketOption| RawOption {
        level: option.level,
        name: option.name,
        value: option.value.bytes(),
    };
    options.iter().filter(|option| option.state == state).map(raw).collect()
}

fn introduce(workers: &Workers) {
    say(&format!(
        "Ringway: an HTTP proxy that takes Envoy's configuration.\n\
         Listening on 127.0.0.1:10000 in front of two built-in upstreams; admin on 127.0.0.1:9901.\n\
         {}\n\n\
         Try:\n  curl -v http://127.0.0.1:10000/hello\n  curl -d 'some text' http://127.0.0.1:10000/echo\n  \
         curl http://127.0.0.1:9901/stats?usedonly\n\n\
         Ctrl-C drains and ends.\n",
        workers.description()
    ));
}

fn refuse(reason: &str) -> u8 {
    say_why(reason);
    EXIT_FAILURE
}

/// Says why there is no start: in the log or, where no errors are logged, on standard error, as Envoy does in any case. Those who
/// validate what they have made, such as Gloo, run it with `-l critical` and read that.
fn say_why(reason: impl Display) {
    if log::log_enabled!(log::Level::Error) {
        log::error!("{reason}");
    } else {
        complain(&format!("{reason}\n"));
    }
}

fn refuse_config(report: &Report) -> u8 {
    for finding in &report.findings {
        log::warn!("{finding}");
    }
    report.errors.0.iter().for_each(say_why);
    report.left_out().into_iter().for_each(say_why);
    EXIT_FAILURE
}

/// A seed that differs between starts and workers.
fn seed(worker: usize) -> u64 {
    clock::wall_ns() ^ (u64::from(std::process::id()) << 32) ^ worker as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::xds::loader::{Format, Source};
    use crate::control::xds::{LoadOptions, load_bootstrap};

    /// It was 101, which the documentation does not know: only workers' panics were caught.
    #[test]
    fn panic_of_the_control_thread_has_the_exit_code_of_a_defect() {
        assert_eq!(code_of(|| panic!("as asked")), EXIT_PANIC);
        assert_eq!(code_of(|| EXIT_FAILURE), EXIT_FAILURE);
    }

    /// How the sockets of a listener with these fields are opened, one for each of its addresses.
    fn opened(fields: &str) -> Vec<ListenOptions> {
        let echo = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo";
        let text = format!(
            "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, \
             filter_chains: [{{filters: [{{name: echo, typed_config: {{\"@type\": {echo}}}}}]}}], {fields}}}]}}"
        );
        let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
        let loaded = load_bootstrap(&[source], LoadOptions::default());
        let bootstrap = loaded.map_err(|report| report.errors.to_string()).unwrap().bootstrap;
        let listener = &bootstrap.listeners[0];
        let address = SocketAddress::Ip(([127, 0, 0, 1], 0).into());
        listener.addresses.iter().map(|listen| listen_options(listener, &address, listen)).collect()
    }

    /// An option of TCP, as it is set.
    fn of_tcp(name: i32, value: i32) -> RawOption {
        RawOption::int(libc::IPPROTO_TCP, name, value)
    }

    #[test]
    fn keepalive_is_set_on_the_socket_before_what_is_listed() {
        let listed = "socket_options: [{level: 6, name: 4, int_value: 77}]";
        let is_on = RawOption::int(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        let all = "{keepalive_probes: 3, keepalive_time: 60, keepalive_interval: 5}";
        let of_all = [
            is_on.clone(),
            of_tcp(libc::TCP_KEEPCNT, 3),
            of_tcp(libc::TCP_KEEPIDLE, 60),
            of_tcp(libc::TCP_KEEPINTVL, 5),
            of_tcp(libc::TCP_KEEPIDLE, 77),
        ];
        let with_all = &opened(&format!("{listed}, tcp_keepalive: {all}"))[0];
        assert_eq!(with_all.options, of_all);
        assert_eq!(listen::bind(with_all, 2).unwrap().len(), 2, "the kernel takes them");
        assert_eq!(opened("tcp_keepalive: {}")[0].options, [is_on]);
        for off in ["", "tcp_keepalive: {keepalive_probes: 0}", "tcp_keepalive: {keepalive_interval: 0}"] {
            assert!(opened(off)[0].options.is_empty(), "{off}");
        }
    }

    #[test]
    fn fast_open_is_set_once_the_socket_listens() {
        let with_queue = &opened("tcp_fast_open_queue_length: 5")[0];
        assert_eq!(with_queue.listening_options, [of_tcp(libc::TCP_FASTOPEN, 5)]);
        assert!(listen::bind(with_queue, 1).is_ok(), "the kernel takes it");
        assert!(opened("tcp_fast_open_queue_length: 0")[0].listening_options.is_empty());
    }

    #[test]
    fn further_address_has_the_keepalive_of_its_listener_or_its_own_in_place_of_it() {
        let further = |fields: &str| {
            let address = "address: {socket_address: {address: 127.0.0.2, port_value: 0}}";
            let own = "tcp_keepalive: {keepalive_time: 60}";
            let both = opened(&format!("{own}, additional_addresses: [{{{address}{fields}}}]"));
            assert!(both[0].options.contains(&of_tcp(libc::TCP_KEEPIDLE, 60)), "{fields}");
            both[1].options.clone()
        };
        assert!(further("").contains(&of_tcp(libc::TCP_KEEPIDLE, 60)));
        assert_eq!(further(", tcp_keepalive: {keepalive_time: 7}")[1..], [of_tcp(libc::TCP_KEEPIDLE, 7)]);
        assert!(further(", tcp_keepalive: {keepalive_time: 0}").is_empty());
    }
}
