//! The control thread: signals, admin commands, discovery, and the end of the process.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::time::{Sleep, sleep};

use super::metrics::ServerMetrics;
use super::process::Process;
use super::workers::Workers;
use super::{Start, seed};
use crate::base::limits::ENDPOINT_UPDATES_QUEUED_MAX;
use crate::cli::{DrainStrategy, Options};
use crate::config::bootstrap::Bootstrap;
use crate::config::listener::{Listener, TrafficDirection};
use crate::control::admin::{Admin, AdminCommand, AdminListener, DrainListeners, ServerState};
use crate::control::discovery::EndpointUpdate;
use crate::control::discovery::dns::DnsDiscovery;
use crate::control::log_writer::LogWriter;
use crate::runtime::give_back_startup_pages;
use crate::telemetry::{Registry, Slot};
use crate::worker::Command;

/// What the control thread works with.
pub(super) struct Control<'a> {
    pub(super) options: &'a Options,
    pub(super) bootstrap: &'a Bootstrap,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) metrics: ServerMetrics,
    pub(super) process: Arc<Process>,
    pub(super) workers: Arc<Workers>,
    pub(super) log_writer: &'a LogWriter,
    pub(super) admin: Option<(AdminListener, Arc<Admin>)>,
    pub(super) commands: UnboundedReceiver<AdminCommand>,
    /// Sent to the workers once all clusters that are waited for have endpoints.
    pub(super) start: Option<Start>,
    /// The graceful drain of listeners that was asked for.
    pub(super) spread: Option<DrainListeners>,
    /// When it stops them.
    pub(super) stops: Option<Pin<Box<Sleep>>>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hangup: Signal,
}

impl Control<'_> {
    /// Runs until the workers have drained.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        };
        let (mut updates, _discoveries, mut awaited) = self.discover();
        let admin = self.admin.take();
        let serve_admin = async {
            match admin {
                Some((listener, admin)) => {
                    let Err(error) = listener.serve(admin).await;
                    log::error!("the admin endpoint ended: {error}");
                    pending::<()>().await;
                }
                None => pending().await,
            }
        };
        tokio::pin!(serve_admin);
        let workers = Arc::clone(&self.workers);
        let mut draining = false;
        loop {
            if awaited.is_empty() {
                self.start_workers();
            }
            tokio::select! {
                () = workers.ended() => return Ok(()),
                () = &mut serve_admin => {}
                _ = signals.reopen.recv() => self.log_writer.reopen(),
                // As Envoy: a terminal that closes does not end the proxy.
                _ = signals.hangup.recv() => {}
                _ = signals.terminate.recv() => self.end(&mut draining),
                _ = signals.interrupt.recv() => self.end(&mut draining),
                () = due(&mut self.stops) => {
                    self.stops = None;
                    self.stop_listeners(self.spread.is_some_and(|how| how.inbound_only));
                }
                Some(command) = self.commands.recv() => self.obey(command, &mut draining),
                Some(update) = updates.recv() => {
                    awaited.remove(&*update.cluster);
                    self.publish(&update);
                }
            }
        }
    }

    /// Starts discovery; which clusters the start waits for.
    fn discover(&self) -> (Receiver<EndpointUpdate>, Vec<DnsDiscovery>, HashSet<Box<str>>) {
        let (sender, updates) = mpsc::channel(ENDPOINT_UPDATES_QUEUED_MAX);
        let mut discoveries = Vec::new();
        let mut awaited = HashSet::new();
        for (index, cluster) in self.bootstrap.clusters.iter().enumerate() {
            let cells = || self.registry.cluster(cluster.stat_name()).cells(Slot::Control);
            if let Some(discovery) = DnsDiscovery::start(cluster, cells, seed(index), sender.clone()) {
                discoveries.push(discovery);
                if cluster.wait_for_warm_on_init {
                    awaited.insert(cluster.name.clone());
                }
            }
        }
        (updates, discoveries, awaited)
    }

    fn start_workers(&mut self) {
        let Some(start) = self.start.take() else { return };
        self.workers.start_serving(start);
        for (cluster, hosts) in self.process.discovered() {
            self.workers
                .send_all(|| Command::Hosts { cluster: Arc::clone(&cluster), hosts: Arc::clone(&hosts) });
        }
        self.process.set_state(ServerState::Live);
        self.metrics.serving(self.process.age(), self.registry.workers());
        give_back_startup_pages();
        log::info!("all clusters have endpoints or an answer: serving");
    }

    fn publish(&self, update: &EndpointUpdate) {
        let hosts = self.process.publish(&update.cluster, &update.assignment);
        if self.start.is_none() {
            self.workers.send_all(|| Command::Hosts {
                cluster: Arc::clone(&update.cluster),
                hosts: Arc::clone(&hosts),
            });
        }
    }

    /// The first call drains, the second ends at once.
    fn end(&mut self, draining: &mut bool) {
        self.process.set_state(ServerState::Draining);
        if *draining {
            log::warn!("told to end again: closing what is left");
            self.workers.drain(Duration::ZERO);
            return;
        }
        *draining = true;
        self.metrics.stopped(self.bootstrap.listeners.len());
        log::info!("draining for {} s at most", self.options.drain_time.as_secs());
        self.workers.drain(self.options.drain_time);
    }

    fn obey(&mut self, command: AdminCommand, draining: &mut bool) {
        match command {
            AdminCommand::Quit => self.end(draining),
            AdminCommand::FailHealthcheck => {
                self.process.set_state(ServerState::Draining);
                self.workers.send_all(|| Command::HealthFailed(true));
            }
            AdminCommand::PassHealthcheck => {
                if !*draining {
                    self.process.set_state(ServerState::Live);
                }
                self.workers.send_all(|| Command::HealthFailed(false));
            }
            AdminCommand::DrainListeners(how) => self.drain_listeners(how),
            AdminCommand::ReopenLogs => self.log_writer.reopen(),
        }
    }

    fn drain_listeners(&mut self, how: DrainListeners) {
        let inbound_only = how.inbound_only;
        if !how.graceful {
            return self.stop_listeners(inbound_only);
        }
        // As in Envoy, what drains already drains no more for being told so.
        if self.spread.as_ref().is_some_and(|old| !old.inbound_only || inbound_only) {
            return;
        }
        let over = match self.options.drain_strategy {
            DrainStrategy::Gradual => self.options.drain_time,
            DrainStrategy::Immediate => Duration::ZERO,
        };
        self.workers.send_all(|| Command::Spread { over, inbound_only });
        self.spread = Some(how);
        self.stops = (!how.skip_exit).then(|| Box::pin(sleep(self.options.drain_time)));
    }

    fn stop_listeners(&self, inbound_only: bool) {
        let stops = |listener: &&Arc<Listener>| {
            !inbound_only || listener.traffic_direction == TrafficDirection::Inbound
        };
        self.metrics.stopped(self.bootstrap.listeners.iter().filter(stops).count());
        self.workers.send_all(|| Command::StopListeners { inbound_only });
    }
}

/// Waits for a moment that may never come.
async fn due(moment: &mut Option<Pin<Box<Sleep>>>) {
    match moment {
        Some(sleep) => sleep.await,
        None => pending().await,
    }
}
