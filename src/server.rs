//! The composition root: bootstrap → listening sockets → one worker per core and the control thread → signals → drain.
mod config;
mod demo;
mod runtime_layers;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::base::clock;
use crate::cli::{Action, EXIT_FAILURE, EXIT_OK, Options};
use crate::config::address::Address;
use crate::config::bootstrap::Bootstrap;
use crate::config::listener::Listener;
use crate::config::socket::{SocketOption, SocketOptionValue, SocketState};
use crate::control::log_writer::LogWriter;
use crate::control::xds::LoadedBootstrap;
use crate::control::xds::convert::Report;
use crate::filter::CompileServices;
use crate::protocol::http::forwarding::LocalInfo;
use crate::route::CompileContext;
use crate::runtime::RawOption;
use crate::runtime::listen::{self, ListenOptions};
use crate::snapshot::{Compiler, Snapshot};
use crate::telemetry::Registry;
use crate::worker::Command;
use workers::Workers;

/// Does what the command line asks for; the exit code.
pub fn run(options: &Options) -> u8 {
    let demo = match config::is_demo(options).then(demo::start).transpose() {
        Ok(demo) => demo,
        Err(error) => return refuse(&format!("the demonstration's upstreams cannot start: {error}")),
    };
    let loaded = match config::load(options, demo.as_deref()) {
        Ok(loaded) => loaded,
        Err(report) => return refuse_config(&report),
    };
    for warning in &loaded.report.warnings.0 {
        log::warn!("{warning}");
    }
    for finding in &loaded.report.findings {
        if options.action == Action::Validate {
            println!("{finding}");
        } else {
            log::warn!("{finding}");
        }
    }
    if options.action == Action::Validate {
        let name =
            options.config_path.as_deref().map_or("--config-yaml".into(), |path| path.display().to_string());
        println!("configuration '{name}' OK");
        return EXIT_OK;
    }
    match serve(options, &loaded) {
        Ok(()) => EXIT_OK,
        Err(reason) => refuse(&reason),
    }
}

fn serve(options: &Options, loaded: &LoadedBootstrap) -> Result<(), String> {
    let worker_count = options.concurrency.unwrap_or_else(available_cores);
    let registry = Arc::new(Registry::new(worker_count));
    let mut log_writer =
        LogWriter::start().map_err(|error| format!("the access-log thread cannot start: {error}"))?;
    let snapshot = Arc::new(compile(&loaded.bootstrap, &registry, &mut log_writer)?);
    let mut sockets = bind(&snapshot, worker_count)?;

    let workers = Workers::start(options, &loaded.bootstrap, &registry, &log_writer, worker_count)?;
    for worker in (0..worker_count).rev() {
        let sockets = sockets.iter_mut().filter_map(|(place, fds)| Some((*place, fds.pop()?))).collect();
        workers.send(worker, Command::Start { snapshot: Arc::clone(&snapshot), sockets });
    }
    log::info!("{}", workers.description());
    if config::is_demo(options) {
        introduce(&workers);
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the control thread cannot start: {error}"))?;
    let outcome = runtime.block_on(control(options, &workers, &log_writer));
    workers.join();
    log_writer.finish();
    outcome.map_err(|error| format!("signals cannot be received: {error}"))
}

/// The control thread: waits for what ends the process.
async fn control(options: &Options, workers: &Workers, log_writer: &LogWriter) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut draining = false;
    loop {
        tokio::select! {
            () = workers.ended() => return Ok(()),
            _ = reopen.recv() => log_writer.reopen(),
            // As Envoy: a terminal that closes does not end the proxy.
            _ = hangup.recv() => {}
            _ = async { tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} } } => {
                if draining {
                    log::warn!("told to end again: closing what is left");
                    workers.drain(Duration::ZERO);
                } else {
                    log::info!("draining for {} s at most", options.drain_time.as_secs());
                    workers.drain(options.drain_time);
                    draining = true;
                }
            }
        }
    }
}

/// Everything static, compiled.
fn compile(
    bootstrap: &Bootstrap,
    registry: &Registry,
    log_writer: &mut LogWriter,
) -> Result<Snapshot, String> {
    let runtime = runtime_layers::Values::of(&bootstrap.runtime_layers);
    let exists = |name: &str| bootstrap.clusters.iter().any(|cluster| &*cluster.name == name);
    let local_info =
        LocalInfo { cluster: bootstrap.node.cluster.clone(), node: bootstrap.node.id.clone(), address: None };
    let mut compiler = Compiler {
        registry,
        services: CompileServices {
            routes: CompileContext {
                cluster_exists: &exists,
                runtime_fraction: &|key| runtime.fraction(key),
                runtime_integer: &|key| runtime.integer(key),
                hash_seed: seed(usize::MAX),
            },
            local_info: &local_info,
            open_sink: &mut |sink| log_writer.open(sink),
        },
    };
    compiler.bootstrap(bootstrap).map_err(|(listener, error)| format!("listener {listener}: {error}"))
}

/// One socket per worker for each listener that binds; addresses that cannot be bound are named.
fn bind(snapshot: &Snapshot, workers: usize) -> Result<Vec<(usize, Vec<OwnedFd>)>, String> {
    let mut bound = Vec::new();
    for (place, resource) in
        snapshot.listeners.iter().enumerate().filter(|(_, listener)| listener.config.bind_to_port)
    {
        for listen in &resource.config.addresses {
            let Address::Ip(address) = listen.address else {
                return Err(format!("listener {}: Unix sockets are not there yet", resource.config.name));
            };
            let options =
                listen_options(&resource.config, address, listen.ipv4_compat, &listen.socket_options);
            let sockets = listen::bind(&options, workers).map_err(|error| {
                format!("listener {}: cannot listen on {address}: {error}", resource.config.name)
            })?;
            bound.push((place, sockets));
        }
    }
    Ok(bound)
}

fn listen_options(
    config: &Listener,
    address: SocketAddr,
    ipv4_compat: bool,
    options: &[SocketOption],
) -> ListenOptions {
    ListenOptions {
        address,
        backlog: config
            .tcp_backlog_size
            .map_or(libc::SOMAXCONN, |size| i32::try_from(size).unwrap_or(i32::MAX)),
        freebind: config.freebind,
        transparent: false,
        ipv4_compat,
        options: options
            .iter()
            .filter(|option| option.state == SocketState::Prebind)
            .map(|option| RawOption {
                level: option.level,
                name: option.name,
                value: match &option.value {
                    SocketOptionValue::Int(value) => value.to_ne_bytes().into(),
                    SocketOptionValue::Bytes(bytes) => bytes.clone(),
                },
            })
            .collect(),
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn introduce(workers: &Workers) {
    println!(
        "Ringway: an HTTP proxy that takes Envoy's configuration.\n\
         Listening on 127.0.0.1:10000 in front of two built-in upstreams; admin on 127.0.0.1:9901.\n\
         {}\n\n\
         Try:\n  curl -v http://127.0.0.1:10000/hello\n  curl -d 'some text' http://127.0.0.1:10000/echo\n  \
         curl http://127.0.0.1:9901/stats?usedonly\n\n\
         Ctrl-C drains and ends.",
        workers.description()
    );
}

fn refuse(reason: &str) -> u8 {
    log::error!("{reason}");
    EXIT_FAILURE
}

fn refuse_config(report: &Report) -> u8 {
    for finding in &report.findings {
        log::warn!("{finding}");
    }
    for error in &report.errors.0 {
        log::error!("{error}");
    }
    EXIT_FAILURE
}

/// A seed that differs between starts and workers.
fn seed(worker: usize) -> u64 {
    clock::wall_ns() ^ (u64::from(std::process::id()) << 32) ^ worker as u64
}
