//! What the admin endpoint knows and can do: the seam to the composition root, which implements [`AdminState`].
//!
//! All methods are called on the control thread and must return at once: they hand out what is known and post
//! commands, they never wait.
use crate::config::address::Address;
use crate::config::cluster::CircuitBreakers;
use crate::config::endpoint::{HealthStatus, Locality};
use crate::protocol::tls::{ClientContext, ServerTls};
use crate::telemetry::{HostStat, Scope};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The process, as the admin endpoint sees it.
pub trait AdminState: Send + Sync + 'static {
    /// Brings metrics up to date that nobody writes when they change; asked before every scrape.
    fn refresh_metrics(&self);
    /// State and identity; asked at every request.
    fn server_info(&self) -> ServerInfo;
    /// Clusters in the order of their configuration.
    fn clusters(&self) -> Vec<ClusterStatus>;
    /// Listeners that are bound, in the order of their configuration.
    fn listeners(&self) -> Vec<ListenerStatus>;
    /// TLS contexts in use, listeners' first.
    fn tls_contexts(&self) -> Vec<TlsContext>;
    /// Everything that is configured, in Envoy's sections, endpoints only if asked for. Entries are rendered one by one, later.
    fn config_dump(&self, include_eds: bool) -> Vec<DumpSection>;
    /// Resources of control planes that cannot be used, and how many more there were than are listed.
    fn quarantine(&self) -> (Vec<Quarantined>, u64);
    /// Layers of runtime values, lowest first.
    fn runtime_layers(&self) -> Vec<ShownLayer>;
    /// Sets values of the layer that the endpoint may change; an empty one takes it away.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn modify_runtime(&self, changes: &[(String, String)]) -> Result<(), &'static str>;
    /// Bytes of the heap in use, of all threads; 0: not counted.
    fn live_heap_bytes(&self) -> u64;
    /// Resident memory by owner, as JSON.
    fn memory_ledger(&self) -> Value;
    /// Asks the process to do something. Must not wait for it.
    fn command(&self, command: AdminCommand);
}

/// A resource of a control plane that cannot be used.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub type_url: &'static str,
    pub name: String,
    /// Where in it, and what is wrong.
    pub reason: String,
    pub version: String,
    /// When it was refused first and last, RFC 3339.
    pub first: String,
    pub last: String,
    /// How often it was refused.
    pub times: u64,
}

/// A layer of runtime values.
#[derive(Clone, Debug)]
pub struct ShownLayer {
    pub name: Box<str>,
    /// By their keys.
    pub values: Vec<(Box<str>, Value)>,
}

/// A TLS context in use.
#[derive(Clone, Debug)]
pub enum TlsContext {
    /// Of a listener.
    Server(Arc<ServerTls>),
    /// Of a cluster.
    Client(Arc<ClientContext>),
}

/// What a request can ask of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// `/quitquitquit`: end the process, as SIGTERM does.
    Quit,
    /// `/healthcheck/fail`: the state becomes `DRAINING`, connections are asked to close.
    FailHealthcheck,
    /// `/healthcheck/ok`: back to `LIVE`.
    PassHealthcheck,
    /// `/drain_listeners`.
    DrainListeners(DrainListeners),
    /// `/reopen_logs`: open the application log and access logs anew, as SIGUSR1 does.
    ReopenLogs,
}

/// How listeners are drained: their connections are asked to close, by the drain strategy, and they stop. Source: Envoy's
/// `/drain_listeners`, since 1.40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// Listeners stop only after the drain time.
    pub graceful: bool,
    /// Listeners never stop.
    pub skip_exit: bool,
    /// Only listeners whose `traffic_direction` is inbound.
    pub inbound_only: bool,
}

/// State and identity of the process.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    pub state: ServerState,
    /// Since the process started.
    pub uptime: Duration,
    /// Since the first of the processes that have replaced each other started.
    pub uptime_all_epochs: Duration,
    /// How often the first process has been replaced.
    pub restart_epoch: u32,
    /// How many processes have replaced each other so far, this one included.
    pub restart_generation: u64,
    /// Which processes can replace this one; `disabled`: none.
    pub hot_restart_version: String,
    /// `revision/version/status/build type/TLS library`.
    pub version: String,
    /// Envoy's `CommandLineOptions` as JSON.
    pub command_line_options: Value,
    /// Envoy's `core.v3.Node` as JSON; the endpoint adds the user agent.
    pub node: Value,
    /// I/O backend in use: `io_uring`, `epoll`.
    pub io_backend: String,
    /// Why this backend, and which of its levels; one line.
    pub io_backend_reason: String,
    /// Workers, and to which CPUs they are pinned; one line.
    pub workers: String,
}

/// Source: Envoy `admin.v3.ServerInfo.State`; the numbers are those of `server.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Live = 0,
    /// Health checks fail: on request, or because the process is about to end.
    Draining = 1,
    /// Waiting for clusters.
    PreInitializing = 2,
    /// Waiting for listeners, and what they need.
    Initializing = 3,
}

/// One cluster in `/clusters`.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    pub name: Arc<str>,
    /// Name in metrics: `alt_stat_name`, or the name.
    pub observability_name: Arc<str>,
    /// Whether it came from a control plane.
    pub added_via_api: bool,
    /// Under which name its endpoints are asked for; empty where it is the cluster's own.
    pub eds_service_name: Box<str>,
    pub circuit_breakers: CircuitBreakers,
    pub hosts: Vec<HostStatus>,
}

/// One host in `/clusters`.
#[derive(Clone, Debug)]
pub struct HostStatus {
    pub address: Address,
    /// Name that was resolved to the address, or the endpoint's `hostname`; may be empty.
    pub hostname: Arc<str>,
    pub health: HealthStatus,
    pub weight: u32,
    pub priority: u32,
    pub locality: Locality,
    /// Whether the endpoint's metadata mark it as canary.
    pub canary: bool,
    /// `None`: nothing was counted.
    pub stats: Option<Arc<Scope<HostStat>>>,
}

impl HostStatus {
    /// What was counted, by the place of its row.
    pub(super) fn value(&self, row: usize) -> u64 {
        self.stats.as_ref().map_or(0, |stats| stats.value(row).0)
    }
}

/// One listener in `/listeners`.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    /// Bound addresses: the listener's own, then additional ones. Port 0 is already resolved.
    pub addresses: Vec<Address>,
}

/// One section of `/config_dump`, such as `type.googleapis.com/envoy.admin.v3.ClustersConfigDump`.
#[derive(Debug)]
pub struct DumpSection {
    /// With the `type.googleapis.com/` prefix.
    pub type_url: &'static str,
    pub fields: Vec<(&'static str, DumpField)>,
}

/// One field of a section.
#[derive(Debug)]
pub enum DumpField {
    /// `bootstrap`, `last_updated`.
    Single(DumpEntry),
    /// `static_clusters`, `dynamic_listeners`, in order.
    Repeated(Vec<DumpEntry>),
    /// `version_info`; left out where it is empty.
    Text(Box<str>),
}

/// A resource that can be rendered.
pub struct DumpEntry {
    /// Type of the entry, without prefix, such as `envoy.admin.v3.ClustersConfigDump.StaticCluster`: `?resource=`
    /// lists entries outside of their section and has to say what they are. Empty for single fields.
    pub type_name: &'static str,
    /// Name of the resource, for `?name_regex=`.
    pub name: Arc<str>,
    /// Called once, when the client is ready for it.
    pub render: Box<dyn FnOnce() -> Value + Send>,
}

impl ServerState {
    /// Envoy's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

impl std::fmt::Debug for DumpEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DumpEntry").field("name", &self.name).finish_non_exhaustive()
    }
}
