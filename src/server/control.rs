//! The control thread: signals, admin commands, discovery, and the end of the process.

mod awaited;
mod generation;
mod managers;
mod secrets;
mod succession;

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, interval, sleep};

use self::awaited::Awaited;
use super::clusters::Clusters;
use super::listeners::{Around, Listeners, Stopped};
use super::metrics::ServerMetrics;
use super::process::Process;
use super::restart::{Event, Following, Place, Predecessor, Successor};
use super::rotation::{Rotation, TICKET_KEY_LIFE};
use super::seed;
use super::sockets::ListenSocketSet;
use super::tables::{TableKey, Tables};
use super::workers::Workers;
use crate::base::limits::{ENDPOINT_UPDATES_QUEUED_MAX, XDS_UPDATES_QUEUED_MAX};
use crate::cli::{DrainStrategy, Options};
use crate::config::bootstrap::{Bootstrap, RuntimeLayerKind};
use crate::config::cluster::Discovery;
use crate::config::listener::{Listener, TrafficDirection};
use crate::control::admin::{Admin, AdminCommand, AdminListener, DrainListeners, ServerState};
use crate::control::discovery::EndpointUpdate;
use crate::control::file_watch::FileWatch;
use crate::control::log_writer::LogWriter;
use crate::control::xds::client::{self as xds, Cache, KnownSecrets, Resources, SharedCompiler, XdsClient};
use crate::filter::on_demand::AskedHost;
use crate::runtime::give_back_startup_pages;
use crate::snapshot::{Generation, ListenerResource, Snapshot};
use crate::telemetry::Registry;
use crate::telemetry::log::Logger;
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
    pub(super) logger: &'static Logger,
    pub(super) admin: Option<AdminEndpoint>,
    pub(super) commands: UnboundedReceiver<AdminCommand>,
    /// Virtual hosts that requests wait for.
    pub(super) asked_hosts: Receiver<AskedHost>,
    /// Sent to the workers once all clusters that are waited for have endpoints.
    pub(super) start: Option<Arc<Snapshot>>,
    /// What clusters and listeners of a control plane become resources with; `None`: there are none, or their source has it.
    pub(super) resources: Option<Resources>,
    /// Where resources of a control plane are kept; `None`: nowhere.
    pub(super) cache: Option<Cache>,
    /// Those that were told.
    pub(super) secrets: KnownSecrets,
    /// Compiles the routes that come from a control plane.
    pub(super) routes: SharedCompiler,
    /// The last ones of each table.
    pub(super) tables: Tables,
    /// What has changed and they have not been told yet.
    pub(super) generation: Generation,
    /// What they serve since then: its counters are kept until the last has been told.
    pub(super) serving: Vec<Arc<ListenerResource>>,
    pub(super) sockets: ListenSocketSet,
    pub(super) succession: Succession,
    /// The next process, which was to end this one, is gone: when this one ends by itself.
    pub(super) orphaned: Option<Pin<Box<Sleep>>>,
    /// TLS contexts, whose files may change.
    pub(super) rotation: Rotation,
    /// Whether other files are to be watched than before.
    pub(super) tls_has_changed: bool,
    /// Over the trees of files that hold runtime values; `None`: there are none.
    pub(super) runtime_watch: Option<FileWatch>,
    /// Whether health checks are to fail.
    pub(super) health_failed: bool,
    /// The drain of listeners that was asked for.
    pub(super) spread: Option<DrainListeners>,
    /// When it stops them.
    pub(super) stops: Option<Pin<Box<Sleep>>>,
    /// When what taking updates has brought into memory goes back.
    pub(super) settling: Option<Pin<Box<Sleep>>>,
    /// Which listeners have stopped; others like them are taken no more.
    pub(super) stopped: Stopped,
    /// How many a control plane has told; of them inbound ones.
    pub(super) told_listeners: [usize; 2],
}

/// The admin endpoint.
#[derive(Debug)]
pub(super) struct AdminEndpoint {
    pub(super) listener: AdminListener,
    pub(super) admin: Arc<Admin>,
    /// The process before this one accepts from its socket until it has handed over.
    pub(super) inherited: bool,
}

/// What a hot restart needs: the process before this one, and the one after.
#[derive(Debug)]
pub(super) struct Succession {
    place: Option<Place>,
    predecessor: Option<Predecessor>,
    /// Ends the process before this one early.
    finish: Arc<Notify>,
    /// Follows it to its end.
    following: Option<JoinHandle<()>>,
    /// Where the next process connects; there once the event loop runs.
    successor: Option<Successor>,
    /// A copy of the admin endpoint's socket for it, and the address that it is configured at.
    admin: Option<(String, OwnedFd)>,
}

impl Succession {
    pub(super) fn new(place: Option<Place>, predecessor: Option<Predecessor>) -> Self {
        Self { place, predecessor, finish: Arc::default(), following: None, successor: None, admin: None }
    }

    /// What the next process does; never anything when there is none.
    async fn event(&mut self) -> Event {
        match &mut self.successor {
            Some(successor) => successor.next().await,
            None => pending().await,
        }
    }
}

/// Where clusters, endpoints, listeners, secrets and routes come from; they end with it.
struct Sources {
    clusters: Clusters,
    listeners: Listeners,
    client: XdsClient,
    /// What names have been resolved to.
    endpoints: Receiver<EndpointUpdate>,
    /// What control planes have told.
    updates: Receiver<xds::Updates>,
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
        let (mut sources, mut awaited) = self.discover();
        self.await_successor()?;
        if self.health_failed {
            log::info!("flags_path has a file \"drain\": health checks fail from the start");
            self.workers.send_all(|| Command::HealthFailed(true));
        }
        let (taken_over, may_serve) = oneshot::channel();
        let mut taken_over = Some(taken_over);
        let mut serve_admin = self.admin.take().map(|endpoint| Box::pin(serve_admin(endpoint, may_serve)));
        let workers = Arc::clone(&self.workers);
        let mut draining = false;
        let mut watch = None;
        let mut ticket_keys = interval(TICKET_KEY_LIFE);
        // The first tick is at once, and the keys are new.
        ticket_keys.tick().await;
        loop {
            // Who has been told to end begins nothing any more, nor has the process before it end.
            if self.start.is_some() && !draining {
                let awaits_cluster = sources.clusters.is_awaited();
                let awaits_listener = sources.listeners.is_awaited(self.stopped);
                if awaited.is_over() && !awaits_cluster && !awaits_listener {
                    self.start_workers(&mut taken_over, &mut sources);
                } else if !awaited.has_clusters() && !awaits_cluster {
                    self.process.set_state(ServerState::Initializing);
                }
            }
            self.send_generation();
            if std::mem::take(&mut self.tls_has_changed) {
                self.watch(&mut watch);
            }
            tokio::select! {
                () = workers.ended() => {
                    self.say_farewell().await;
                    return Ok(());
                }
                () = running(&mut serve_admin) => serve_admin = None,
                event = self.succession.event() => {
                    if self.heed(event, &mut draining) {
                        serve_admin = None;
                        self.hand_over();
                    }
                }
                () = due(&mut self.orphaned) => {
                    self.orphaned = None;
                    self.end(&mut draining);
                }
                _ = signals.reopen.recv() => self.reopen_logs(),
                // As Envoy: a terminal that closes does not end the proxy.
                _ = signals.hangup.recv() => {}
                _ = signals.terminate.recv() => self.end(&mut draining),
                _ = signals.interrupt.recv() => self.end(&mut draining),
                () = due(&mut self.stops) => {
                    self.stops = None;
                    self.stop_listeners(self.spread.is_some_and(|how| how.inbound_only));
                }
                () = due(&mut self.settling) => {
                    self.settling = None;
                    give_back_startup_pages();
                }
                () = self.tables.look() => self.tables.free(),
                () = due(&mut sources.listeners.retry) => {
                    let (listeners, mut around) = self.around(&mut sources);
                    listeners.try_again(&mut around);
                    self.publish(&mut sources);
                }
                _ = changed(&mut watch) => {
                    self.refresh_tls();
                    self.tls_has_changed = true;
                }
                has_come = changed(&mut self.runtime_watch) => {
                    self.runtime_watch = self.process.runtime.look_at_files(has_come);
                }
                _ = ticket_keys.tick() => {
                    let updates = self.rotation.rotate_ticket_keys();
                    self.publish_tls(updates);
                }
                Some(command) = self.commands.recv() => self.obey(command, &mut draining),
                Some(asked) = self.asked_hosts.recv() => self.ask_hosts(asked, &sources),
                Some(update) = sources.endpoints.recv() => {
                    self.take_all(vec![xds::Update::Endpoints(update)], &mut sources, &mut awaited);
                    self.publish(&mut sources);
                }
                Some(updates) = sources.updates.recv() => {
                    self.take_all(updates, &mut sources, &mut awaited);
                    // What has been told meanwhile is published with it.
                    while let Ok(updates) = sources.updates.try_recv() {
                        self.take_all(updates, &mut sources, &mut awaited);
                    }
                    self.publish(&mut sources);
                }
            }
        }
    }

    /// Starts discovery; which clusters and tables the start waits for.
    fn discover(&mut self) -> (Sources, Awaited) {
        let (sender, endpoints) = mpsc::channel(ENDPOINT_UPDATES_QUEUED_MAX);
        let (updates_sender, updates) = mpsc::channel(XDS_UPDATES_QUEUED_MAX);
        let mut awaited = Awaited {
            more_clusters: self.bootstrap.cds.is_some(),
            more_listeners: self.bootstrap.lds.is_some(),
            ..Awaited::default()
        };
        for cluster in &self.bootstrap.clusters {
            let is_there = matches!(cluster.discovery, Discovery::Static | Discovery::OriginalDst(_));
            if !is_there && cluster.wait_for_warm_on_init {
                awaited.clusters.insert(cluster.name.clone());
            }
        }
        for layer in &self.bootstrap.runtime_layers {
            if let RuntimeLayerKind::Rtds(rtds) = &layer.kind {
                awaited.runtime.insert((rtds.source.clone(), Arc::clone(&rtds.name)));
            }
        }
        let tables = self.routes.read().asked().into_iter();
        awaited.routes.extend(tables.map(|asked| (asked.rds.source, (*asked.rds.name).into())));
        let scopes = self.routes.read().asked_scopes().into_iter();
        awaited.scopes.extend(scopes.map(|(_, asked)| asked.srds.source));
        let surroundings = xds::Surrounded {
            bootstrap: self.bootstrap,
            routes: &self.routes,
            registry: self.registry,
            quarantine: self.process.quarantine_list(),
            secrets: &self.secrets,
            resources: self.resources.take(),
            cache: self.cache.clone(),
            loads: Arc::clone(&self.process) as _,
            seed: seed(self.bootstrap.clusters.len()),
        };
        let mut client = XdsClient::start(surroundings, updates_sender);
        awaited.secrets = self.refer_secrets(&mut client);
        let numbers = 0..self.bootstrap.listeners.len();
        awaited.filters = numbers.flat_map(|number| client.subscribe_filters(number)).collect();
        let fixed = self.start.as_ref().map(|snapshot| Arc::clone(&snapshot.clusters)).unwrap_or_default();
        let clusters = Clusters::start(&self.process, self.registry, fixed, &mut client, sender);
        let listeners = Listeners::new(&self.process, &self.routes, &self.bootstrap.listeners);
        self.process.show_scoped(self.routes.read().asked_scopes());
        (Sources { clusters, listeners, client, endpoints, updates }, awaited)
    }

    /// Takes what one response changes. Its runtime values are one state, and managers with scopes are put together once, with all of
    /// its tables.
    fn take_all(&mut self, updates: xds::Updates, sources: &mut Sources, awaited: &mut Awaited) {
        self.take_layers(&updates, sources, awaited);
        let mut tables = BTreeSet::new();
        for update in updates {
            tables.extend(self.take(update, sources, awaited));
        }
        self.take_tables(tables, sources, awaited);
    }

    /// Takes the runtime values of a response, of all its layers as one.
    fn take_layers(&self, updates: &[xds::Update], sources: &Sources, awaited: &mut Awaited) {
        let layers = updates.iter().filter_map(|update| match update {
            xds::Update::Runtime(layer) => Some(layer),
            _ => None,
        });
        self.process.runtime.put(layers.clone());
        for xds::RuntimeUpdate { source, name, .. } in layers {
            let key = (source.clone(), Arc::clone(name));
            if awaited.runtime.remove(&key) && awaited.runtime.is_empty() {
                sources.client.runtime_is_there();
            }
        }
    }

    /// Takes what was found or told, in its order; a table that was, for [`Self::take_tables`]. The workers hear of it with all else
    /// that has come by then ([`Self::send_generation`]).
    fn take(
        &mut self,
        update: xds::Update,
        sources: &mut Sources,
        awaited: &mut Awaited,
    ) -> Option<TableKey> {
        match update {
            // The whole response's have been taken.
            xds::Update::Runtime(_) => {}
            xds::Update::Clusters(update) => {
                awaited.more_clusters = false;
                sources.clusters.take(update, &mut sources.client);
            }
            xds::Update::Endpoints(update) => {
                if update.instance == 0 {
                    awaited.clusters.remove(&*update.cluster);
                }
                let hosts = sources.clusters.take_endpoints(update, &mut sources.client);
                if let Some((cluster, hosts)) = hosts
                    && let Some(next) = self.next_generation()
                {
                    next.put_hosts(cluster, hosts);
                }
            }
            xds::Update::Listeners(update, verdict) => {
                awaited.more_listeners = false;
                if self.stopped == Stopped::All {
                    log::info!("listeners have stopped: those that are told now are not taken");
                } else {
                    let (listeners, mut around) = self.around(sources);
                    let failures = listeners.take(update, &mut around);
                    // Whoever has told them may be gone.
                    let _ = verdict.map(|verdict| verdict.send(failures));
                }
            }
            xds::Update::Secret(key) => {
                awaited.secrets.remove(&key);
                self.take_secret(&key, sources);
            }
            xds::Update::Routes(xds::RoutesUpdate { source, name, resources, version, wire }) => {
                let key = (source, name);
                if !sources.client.is_stale(&key, &wire) {
                    self.publish_routes(key.clone(), resources, version, wire);
                }
                return Some(key);
            }
            xds::Update::Hosts(xds::HostsUpdate { source, names }) => {
                if let Some(next) = self.next_generation() {
                    next.put_answered_hosts(&source, &names);
                }
            }
            xds::Update::Scopes(update) => self.take_scopes(update, sources, awaited),
            xds::Update::Filters(update) => {
                let settled = self.publish_filters(update, &sources.client);
                awaited.filters.retain(|key| !settled.contains(key));
                let (listeners, mut around) = self.around(sources);
                listeners.take_filters(&settled, &mut around);
            }
        }
        None
    }

    /// The listeners, and what taking and giving them up has to do with.
    fn around<'b>(&'b mut self, sources: &'b mut Sources) -> (&'b mut Listeners, Around<'b>) {
        let around = Around {
            client: &mut sources.client,
            sockets: &mut self.sockets,
            rotation: &mut self.rotation,
            tables: &mut self.tables,
            metrics: &self.metrics,
            predecessor: self.succession.predecessor.as_ref(),
            workers: self.registry.workers(),
            stopped: self.stopped,
        };
        (&mut sources.listeners, around)
    }

    fn start_workers(&mut self, taken_over: &mut Option<oneshot::Sender<()>>, sources: &mut Sources) {
        let Some(mut snapshot) = self.start.take() else { return };
        let clusters = sources.clusters.set(&self.rotation);
        if !Arc::ptr_eq(&snapshot.clusters, clusters) {
            Arc::make_mut(&mut snapshot).clusters = Arc::clone(clusters);
        }
        let tls = self.rotation.newer(None);
        if !tls.is_empty() {
            Arc::make_mut(&mut snapshot).tls = tls;
        }
        self.workers.start_serving(&snapshot);
        // Without clusters, which come and go.
        self.serving = snapshot.listeners.clone();
        for routes in self.tables.current() {
            self.generation.put_routes(&routes);
        }
        let filters = self.routes.read().filters_of(0..snapshot.listeners.len());
        self.generation.put_filters(filters);
        for (cluster, hosts) in self.process.discovered() {
            self.generation.put_hosts(cluster, hosts);
        }
        self.metrics.serving(self.process.age(), self.registry.workers());
        self.publish_listeners(sources);
        self.process.set_tls(self.rotation.contexts());
        self.tls_has_changed = true;
        // With the sockets of all of them.
        self.send_generation();
        self.show_health();
        give_back_startup_pages();
        if self.succession.predecessor.is_none() {
            self.cache.iter().for_each(Cache::begin);
        }
        log::info!("all clusters have endpoints or an answer: serving");
        let Some(taken_over) = taken_over.take() else { return };
        match self.succession.predecessor.take() {
            Some(predecessor) => {
                self.succession.following = Some(tokio::spawn(predecessor.follow(Following {
                    registry: Arc::clone(self.registry),
                    with_stats: !self.options.hot_restart.skip_parent_stats,
                    every: self.bootstrap.stats.flush_interval,
                    until: self.options.parent_shutdown_time,
                    finish: Arc::clone(&self.succession.finish),
                    cache: self.cache.clone(),
                    taken_over,
                })));
            }
            None => drop(taken_over),
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
        self.stopped = Stopped::All;
        // Another process may start from now on.
        self.cache.iter().for_each(Cache::end);
        self.metrics.stopped(self.listening(false));
        log::info!("draining for {} s at most", self.options.drain_time.as_secs());
        self.close_sockets(false);
        self.workers.drain(self.options.drain_time);
    }

    fn obey(&mut self, command: AdminCommand, draining: &mut bool) {
        match command {
            AdminCommand::Quit => self.end(draining),
            AdminCommand::FailHealthcheck => self.set_health_failed(true, *draining),
            AdminCommand::PassHealthcheck => self.set_health_failed(false, *draining),
            AdminCommand::DrainListeners(how) => self.drain_listeners(how),
            AdminCommand::ReopenLogs => self.reopen_logs(),
        }
    }

    /// Opens the application log and access logs anew, which were rotated.
    fn reopen_logs(&self) {
        self.logger.reopen();
        self.log_writer.reopen();
    }

    fn set_health_failed(&mut self, failed: bool, draining: bool) {
        self.health_failed = failed;
        self.workers.send_all(|| Command::HealthFailed(failed));
        if !draining {
            self.show_health();
        }
    }

    /// Says how the process is, once it serves.
    fn show_health(&self) {
        if self.start.is_none() {
            let state = if self.health_failed { ServerState::Draining } else { ServerState::Live };
            self.process.set_state(state);
        }
    }

    fn drain_listeners(&mut self, how: DrainListeners) {
        let DrainListeners { graceful, skip_exit, inbound_only } = how;
        // As in Envoy, what drains already drains no more for being told so.
        let drains = self.spread.as_ref().is_some_and(|old| !old.inbound_only || inbound_only);
        if !drains {
            // Before the listeners stop, so that whoever is accepted until then is asked, too.
            self.workers.send_all(|| Command::Spread { over: self.drain_spread(), inbound_only });
            self.spread = Some(how);
            self.stops = (graceful && !skip_exit).then(|| Box::pin(sleep(self.options.drain_time)));
        }
        if !graceful && !skip_exit {
            self.stop_listeners(inbound_only);
        }
    }

    /// Over which time connections are asked to go.
    fn drain_spread(&self) -> Duration {
        match self.options.drain_strategy {
            DrainStrategy::Gradual => self.options.drain_time,
            DrainStrategy::Immediate => Duration::ZERO,
        }
    }

    fn stop_listeners(&mut self, inbound_only: bool) {
        self.stopped = self.stopped.max(if inbound_only { Stopped::Inbound } else { Stopped::All });
        self.metrics.stopped(self.listening(inbound_only));
        self.close_sockets(inbound_only);
        self.workers.send_all(|| Command::StopListeners { inbound_only, handed_over: Arc::default() });
    }

    /// How many listeners there are.
    fn listening(&self, inbound_only: bool) -> usize {
        let is_meant = |listener: &&Arc<Listener>| {
            !inbound_only || listener.traffic_direction == TrafficDirection::Inbound
        };
        let told = if inbound_only { self.told_listeners[1] } else { self.told_listeners[0] };
        self.bootstrap.listeners.iter().filter(is_meant).count() + told
    }

    /// Nobody is given them any more: what is queued is served here.
    fn close_sockets(&mut self, inbound_only: bool) {
        self.sockets.take_back();
        self.sockets.close(inbound_only);
    }
}

/// Serves the admin endpoint, once the process before this one has left it.
async fn serve_admin(endpoint: AdminEndpoint, may_serve: oneshot::Receiver<()>) {
    let AdminEndpoint { listener, admin, inherited } = endpoint;
    if inherited {
        // Told so, or that process is gone.
        let _ = may_serve.await;
    }
    let Err(error) = listener.serve(admin).await;
    log::error!("the admin endpoint ended: {error}");
}

/// Runs what there is to run.
async fn running(future: &mut Option<Pin<Box<impl Future<Output = ()>>>>) {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// [`FileWatch::changed`]
async fn changed(watch: &mut Option<FileWatch>) -> bool {
    match watch {
        Some(watch) => watch.changed().await,
        None => pending().await,
    }
}

/// Waits for a moment that may never come.
async fn due(moment: &mut Option<Pin<Box<Sleep>>>) {
    match moment {
        Some(sleep) => sleep.await,
        None => pending().await,
    }
}
