//! Clusters: groups of endpoints and how to reach them. Source: Envoy `config.cluster.v3.Cluster`.
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::ads::{Eds, Sds};
use super::endpoint::{ClusterLoadAssignment, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use super::http::{CommonHttpProtocolOptions, Http1ProtocolOptions};
use super::http2::{Http2ProtocolOptions, UpstreamProtocol};
use super::listener::BUFFER_LIMIT_BYTES_DEFAULT;
use super::load_metrics::LoadMetric;
use super::metadata::Metadata;
use super::runtime::{RuntimeKey, RuntimeNumber};
use super::socket::{BindConfig, TcpKeepalive};
use super::tls::{Source, UpstreamTls};
use super::transport_socket::SocketSettings;

/// One cluster: what is its own, and settings that it shares with all clusters that have the same. Of thousands of
/// clusters nearly all differ in names and endpoints only.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Unique name that routes use, not empty. Source: `name`.
    pub name: Box<str>,
    /// The endpoints, or the names to resolve; clusters without any may share it. Source: `load_assignment`.
    pub load_assignment: Arc<ClusterLoadAssignment>,
    /// See [`Self::set_extras`] and [`Self::sockets`]; `None`: nothing of it.
    extras: Option<Arc<Extras>>,
    /// Everything else; a cluster derefs to it.
    pub settings: Arc<ClusterSettings>,
}

/// There are thousands of them: with its counts of references one takes 56 bytes.
const _: () = assert!(size_of::<Cluster>() <= 40);

/// What is a cluster's own and many have not: all of it may differ from one to the next where nothing else does.
#[derive(Debug, Clone, Default, PartialEq)]
struct Extras {
    /// See [`Cluster::alt_stat_name`].
    alt_stat_name: Box<str>,
    /// Metadata, where connections to its endpoints have to tell of it.
    metadata: Metadata,
    /// How its endpoints are reached.
    sockets: SocketSettings,
}

/// Of clusters in plain text.
const PLAIN: &SocketSettings =
    &SocketSettings { tls: None, proxy_protocol: None, original_dst: Vec::new(), matches: Vec::new() };

/// What clusters have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// Where the endpoints come from. Source: `type`, `cluster_type`.
    pub discovery: Discovery,
    /// How an endpoint is picked. Source: `lb_policy`, `load_balancing_policy`.
    pub load_balancing: LoadBalancingPolicy,
    /// What all policies share. Source: `common_lb_config`.
    pub common_lb: CommonLbConfig,
    /// Longest time to connect to an endpoint. Default 5 s. Beyond it the next attempt or 503, flag UF. Source:
    /// `connect_timeout`.
    pub connect_timeout: Duration,
    /// Bytes buffered per connection and direction before reading from the peer pauses. Default 1 MiB; 0 is no limit.
    /// Source: `per_connection_buffer_limit_bytes`.
    pub per_connection_buffer_limit_bytes: u32,
    /// Timeouts and limits of connections and streams. Source: `common_http_protocol_options` of the cluster's
    /// `HttpProtocolOptions`, or its own deprecated one.
    pub common_http: CommonHttpProtocolOptions,
    /// HTTP/1 options towards endpoints. Source: `explicit_http_config.http_protocol_options`, or the cluster's
    /// deprecated `http_protocol_options`.
    pub http1: Http1ProtocolOptions,
    /// HTTP/2 options towards endpoints. Source: `explicit_http_config.http2_protocol_options`, or the cluster's deprecated
    /// `http2_protocol_options`.
    pub http2: Http2ProtocolOptions,
    /// Which of the two it is. Source: `upstream_protocol_options`.
    pub upstream_protocol: UpstreamProtocol,
    /// Names that requests give to TLS; `None`: none. Source: `upstream_http_protocol_options`.
    pub request_names: Option<RequestNames>,
    /// Most connections, requests and retries in flight. Source: `circuit_breakers`.
    pub circuit_breakers: CircuitBreakers,
    /// Under which runtime may have the highest share of requests that `policy.drop_overloads` of its endpoints drops, 0 to 100
    /// percent, more counting as 100; `None`: no value can come. Source: Envoy runtime key
    /// `load_balancing_policy.drop_overload_limit`.
    pub drop_overload_limit: Option<RuntimeKey>,
    /// Which metrics of its endpoints' load are told with load reports, in the order in which they are added. Default none: what
    /// endpoints report is not read. Source: `lrs_report_endpoint_metrics`.
    pub load_metrics: Box<[LoadMetric]>,
    /// TCP keepalive of connections to endpoints; `None`: off. Source:
    /// `upstream_connection_options.tcp_keepalive`.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How connections to endpoints are bound; `None`: the kernel's choice. Source: `upstream_bind_config`.
    pub bind_config: Option<BindConfig>,
    /// Whether the server waits for this cluster's first resolution before it listens. Default true. Source:
    /// `wait_for_warm_on_init`.
    pub wait_for_warm_on_init: bool,
}

/// What a request's host is for the TLS of its connection. Source: Envoy `UpstreamHttpProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestNames {
    /// Whether it is the server name, unless it is an address. Default false. Source: `auto_sni`.
    pub server_name: bool,
    /// Whether the certificate must have it among its names. Default false. Source: `auto_san_validation`.
    pub subject_alt_name: bool,
    /// A header whose value counts in place of the host where a request has one; empty: none. Source:
    /// `override_auto_sni_header`.
    pub header: Box<str>,
}

/// Where endpoints come from. Source: Envoy `Cluster.DiscoveryType`.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// Addresses in the configuration. The default.
    Static,
    /// Every address a name resolves to is an endpoint.
    StrictDns(Dns),
    /// One endpoint: new connections go to the first address of the latest resolution, old ones stay. Exactly one name.
    LogicalDns(Dns),
    /// Each connection's own: where its client meant to connect to.
    OriginalDst(OriginalDst),
    /// Those that the control plane names.
    Eds(Eds),
}

/// How endpoints follow from connections. Source: Envoy `Cluster.OriginalDstLbConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalDst {
    /// A header of requests whose value, an address with a port, goes before the connection's destination. Default `None`:
    /// no header. Source: `use_http_header`, `http_header_name`.
    pub header: Option<Box<str>>,
    /// The port of every endpoint. Default `None`: the destination's. Source: `upstream_port_override`.
    pub port_override: Option<u16>,
    /// Endpoints that have no connections go when nobody has asked for them as long as this, or twice as long at most.
    /// Default 5 s. Source: `cleanup_interval`.
    pub cleanup_interval: Duration,
}

/// How names are resolved. Source: Envoy `Cluster.dns_*` or `extensions.clusters.dns.v3.DnsCluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Time between resolutions. Default 5 s, at least 1 ms. Source: `dns_refresh_rate`.
    pub refresh_rate: Duration,
    /// At most this much random time is added to each. Default 0. Source: `dns_jitter`.
    pub jitter: Duration,
    /// Time after a failed one: doubling from base to max, with jitter. Default `None`: `refresh_rate`. Source:
    /// `dns_failure_refresh_rate`.
    pub failure_refresh_rate: Option<RefreshRate>,
    /// Whether the answer's TTL replaces `refresh_rate`. Default false. Source: `respect_dns_ttl`.
    pub respect_dns_ttl: bool,
    /// Which addresses are asked for. Source: `dns_lookup_family`.
    pub lookup_family: DnsLookupFamily,
    /// Servers asked; empty: those of `/etc/resolv.conf`. Source: `typed_dns_resolver_config` and its older forms.
    pub resolvers: Vec<SocketAddr>,
    /// Whether `resolvers` are asked only when those of `/etc/resolv.conf` fail. Default false. Source:
    /// `use_resolvers_as_fallback`.
    pub resolvers_are_fallback: bool,
    /// Whether TCP is used instead of UDP. Default false. Source: `use_tcp_for_dns_lookups`.
    pub use_tcp: bool,
    /// Whether search domains of `/etc/resolv.conf` are left out. Default false. Source:
    /// `no_default_search_domain`.
    pub no_default_search_domain: bool,
    /// Time for one query. Default `None`: the resolver's own (5 s). Source: c-ares `query_timeout_seconds`.
    pub query_timeout: Option<Duration>,
    /// Tries per server. Default `None`: the resolver's own. Source: c-ares `query_tries`.
    pub query_tries: Option<u32>,
}

/// Intervals after failed resolutions. Source: Envoy `Cluster.RefreshRate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshRate {
    /// First interval, at least 1 ms. Source: `base_interval`.
    pub base_interval: Duration,
    /// Largest interval, at least the first. Default ten times the first. Source: `max_interval`.
    pub max_interval: Duration,
}

/// Which address families DNS is asked for. Source: Envoy `Cluster.DnsLookupFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DnsLookupFamily {
    /// IPv6; IPv4 when there is none. The default.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4; IPv6 when there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How an endpoint is picked. Source: Envoy `Cluster.LbPolicy` or `load_balancing_policy`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LoadBalancingPolicy {
    /// In turn, by weight. The default.
    #[default]
    RoundRobin,
    /// Of a few at random the one with the fewest requests under way.
    LeastRequest(LeastRequest),
    /// Any, whatever its weight.
    Random,
    /// By a hash of the request or connection, on a ring.
    RingHash(RingHash),
    /// By a hash of the request or connection, in a table.
    Maglev(Maglev),
    /// The kind of discovery says it: [`Discovery::OriginalDst`].
    ClusterProvided,
}

impl LoadBalancingPolicy {
    /// What the policies that hash have in common; `None`: this one does not.
    pub fn hashing(&self) -> Option<Hashing> {
        match self {
            Self::RingHash(RingHash { hashing, .. }) | Self::Maglev(Maglev { hashing, .. }) => Some(*hashing),
            Self::RoundRobin | Self::LeastRequest(_) | Self::Random | Self::ClusterProvided => None,
        }
    }
}

/// Source: Envoy `Cluster.LeastRequestLbConfig` or `load_balancing_policies.least_request.v3.LeastRequest`.
#[derive(Debug, Clone, PartialEq)]
pub struct LeastRequest {
    /// How many are drawn, at least 2, the default; of endpoints of equal weight. Source: `choice_count`.
    pub choice_count: u32,
    /// How much requests under way count against weights that differ: the power to which they are taken. Default 1; 0:
    /// not at all. Source: `active_request_bias`.
    pub active_request_bias: RuntimeNumber,
    /// Whether all are looked at, and none drawn; of endpoints of equal weight. Default false. Source:
    /// `selection_method`, `enable_full_scan`.
    pub full_scan: bool,
}

/// Source: Envoy `Cluster.RingHashLbConfig` or `load_balancing_policies.ring_hash.v3.RingHash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHash {
    /// Places on the ring, at least, as far as `maximum_ring_size` allows. Default 1024. Source: `minimum_ring_size`.
    pub minimum_ring_size: u64,
    /// Places on the ring, at most. Default and maximum 8,388,608. Source: `maximum_ring_size`.
    pub maximum_ring_size: u64,
    /// What puts endpoints on the ring. Source: `hash_function`.
    pub hash_function: HashFunction,
    /// What it has in common with other policies that hash.
    pub hashing: Hashing,
}

/// Source: Envoy `Cluster.RingHashLbConfig.HashFunction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashFunction {
    /// XXH64. The default.
    #[default]
    XxHash,
    /// MurmurHash2 of 64 bits, as libstdc++ has it.
    MurmurHash2,
}

/// Source: Envoy `Cluster.MaglevLbConfig` or `load_balancing_policies.maglev.v3.Maglev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maglev {
    /// Places in the table, a prime number up to 5,000,011. Default 65,537. Source: `table_size`.
    pub table_size: u64,
    /// What it has in common with other policies that hash.
    pub hashing: Hashing,
}

/// Source: Envoy `ConsistentHashingLbConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hashing {
    /// Whether endpoints are known by their names instead of their addresses. Default false. Source:
    /// `use_hostname_for_hashing`.
    pub use_hostname: bool,
    /// How much of the average load an endpoint may have, in percent, at least 100; beyond it another takes its place.
    /// Default 0: any. Source: `hash_balance_factor`.
    pub balance_factor_percent: u32,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choice_count: 2, active_request_bias: 1.0.into(), full_scan: false }
    }
}

impl Default for RingHash {
    fn default() -> Self {
        Self {
            minimum_ring_size: 1024,
            maximum_ring_size: 8 << 20,
            hash_function: HashFunction::default(),
            hashing: Hashing::default(),
        }
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self { table_size: 65_537, hashing: Hashing::default() }
    }
}

/// What all load-balancing policies share. Source: Envoy `Cluster.CommonLbConfig`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CommonLbConfig {
    /// Healthy endpoints, in percent, below which all are used whatever their health. Default 50; 0: never. Source:
    /// `healthy_panic_threshold`.
    pub healthy_panic_threshold_percent: f64,
    /// How localities of one priority share the traffic. Source: `locality_config_specifier`.
    pub locality: LocalityMode,
    /// Whether connections to endpoints are closed when the set of endpoints changes. Default false. Source:
    /// `close_connections_on_host_set_change`.
    pub close_connections_on_host_set_change: bool,
}

/// How localities share traffic. Source: Envoy `CommonLbConfig.locality_config_specifier`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LocalityMode {
    /// They do not matter: one pool per priority. The default, also for zone-aware routing, which needs a local cluster
    /// that this version does not have.
    #[default]
    Ignored,
    /// By their weights and their healthy endpoints. Source: `locality_weighted_lb_config`.
    Weighted,
}

/// Which limits and connections of its cluster a request has. Source: Envoy `RoutingPriority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RoutingPriority {
    /// The default, and that of relayed connections.
    #[default]
    Default,
    /// Those of requests whose route says so.
    High,
}

/// Limits per priority of requests. Source: Envoy `config.cluster.v3.CircuitBreakers`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CircuitBreakers {
    /// For requests of default priority. Source: the thresholds with `priority: DEFAULT`.
    pub default: Thresholds,
    /// For requests of high priority. Source: the thresholds with `priority: HIGH`.
    pub high: Thresholds,
}

/// Limits of one priority, per cluster and process. Runtime values go before all of them but that of a host. Source: Envoy
/// `CircuitBreakers.Thresholds`, and its runtime keys `circuit_breakers.<cluster>.<default or high>.<field>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Most connections. Default 1024. Beyond it requests wait for one of those that their host has, or have a first one
    /// made to it; a connection that is to be relayed is closed, flag UO. Source: `max_connections`.
    pub max_connections: u32,
    /// Most connections of one host. Default `u32::MAX`: no limit. Beyond it requests and relayed connections wait. Source:
    /// `max_connections` of `per_host_thresholds`.
    pub max_connections_per_host: u32,
    /// Most requests waiting for a connection. Default 1024. Beyond it 503, flag UO; relayed connections try again. Source:
    /// `max_pending_requests`.
    pub max_pending_requests: u32,
    /// Most requests in flight. Default 1024. Beyond it the same. Source: `max_requests`.
    pub max_requests: u32,
    /// Most retries in flight. Default 3. Shown, and there are no retries by policy. Source: `max_retries`.
    pub max_retries: u32,
    /// Most connection pools: of each host one per worker, protocol, and name or client that sets its connections apart. Default
    /// `u32::MAX`: no limit. Beyond it one of the same host that nobody uses is closed, or 503, flag UH. Source:
    /// `max_connection_pools`.
    pub max_connection_pools: u32,
    /// Whether `remaining_*` gauges are kept. Default false. Source: `track_remaining`.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_host: u32::MAX,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: u32::MAX,
            track_remaining: false,
        }
    }
}

impl Default for OriginalDst {
    fn default() -> Self {
        Self { header: None, port_override: None, cleanup_interval: Duration::from_secs(5) }
    }
}

impl Default for CommonLbConfig {
    fn default() -> Self {
        Self {
            healthy_panic_threshold_percent: 50.0,
            locality: LocalityMode::default(),
            close_connections_on_host_set_change: false,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            refresh_rate: Duration::from_secs(5),
            jitter: Duration::ZERO,
            failure_refresh_rate: None,
            respect_dns_ttl: false,
            lookup_family: DnsLookupFamily::default(),
            resolvers: Vec::new(),
            resolvers_are_fallback: false,
            use_tcp: false,
            no_default_search_domain: false,
            query_timeout: None,
            query_tries: None,
        }
    }
}

impl Cluster {
    /// A static cluster with Envoy's defaults and no endpoints.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            load_assignment: Arc::new(ClusterLoadAssignment {
                cluster_name: Box::default(),
                localities: Vec::new(),
                overprovisioning_factor_percent: OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
                drop_overload: None,
            }),
            extras: None,
            settings: Arc::default(),
        }
    }

    /// Gives it a name in statistics beside its own, unless that is empty, and metadata. Source: `alt_stat_name`, `metadata`.
    pub fn set_extras(&mut self, alt_stat_name: Box<str>, metadata: Metadata) {
        let extras = self.extras_mut();
        (extras.alt_stat_name, extras.metadata) = (alt_stat_name, metadata);
        if *extras == Extras::default() {
            self.extras = None;
        }
    }

    /// How its endpoints are reached.
    pub fn sockets(&self) -> &SocketSettings {
        self.extras.as_ref().map_or(PLAIN, |extras| &extras.sockets)
    }

    /// The same, to be changed.
    pub fn sockets_mut(&mut self) -> &mut SocketSettings {
        &mut self.extras_mut().sockets
    }

    fn extras_mut(&mut self) -> &mut Extras {
        Arc::make_mut(self.extras.get_or_insert_default())
    }

    /// [`SocketSettings::original_dst_of`], with the cluster's metadata.
    pub fn original_dst_of(&self, socket: u16, endpoint: &Metadata) -> Option<SocketAddr> {
        let extras = self.extras.as_ref()?;
        extras.sockets.original_dst_of(socket, endpoint, &extras.metadata)
    }

    /// Visits every source of its TLS contexts.
    pub fn tls_sources(&mut self, visit: &mut dyn FnMut(&mut Source)) {
        if self.sockets().contexts().next().is_some() {
            for tls in self.sockets_mut().contexts_mut() {
                Arc::make_mut(tls).common.sources_mut().for_each(&mut *visit);
            }
        }
    }

    /// Changes each of its TLS contexts.
    ///
    /// # Errors
    /// The first that `change` has.
    pub fn change_tls<E>(
        &mut self,
        mut change: impl FnMut(&mut UpstreamTls) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.sockets().contexts().next().is_none() {
            return Ok(());
        }
        self.sockets_mut().contexts_mut().try_for_each(|tls| change(Arc::make_mut(tls)))
    }

    /// The secrets that it has told.
    pub fn told_secrets(&self) -> impl Iterator<Item = &Sds> {
        self.sockets().contexts().flat_map(|tls| tls.common.told())
    }

    /// The name in statistics that it was given (`cluster.ALT_STAT_NAME.`); empty: none. Source: `alt_stat_name`.
    pub fn alt_stat_name(&self) -> &str {
        self.extras.as_ref().map_or("", |extras| &extras.alt_stat_name)
    }

    /// Name in statistics.
    pub fn stat_name(&self) -> &str {
        let given = self.alt_stat_name();
        if given.is_empty() { &self.name } else { given }
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            discovery: Discovery::Static,
            load_balancing: LoadBalancingPolicy::default(),
            common_lb: CommonLbConfig::default(),
            connect_timeout: Duration::from_secs(5),
            per_connection_buffer_limit_bytes: BUFFER_LIMIT_BYTES_DEFAULT,
            common_http: CommonHttpProtocolOptions::default(),
            http1: Http1ProtocolOptions::default(),
            http2: Http2ProtocolOptions::default(),
            upstream_protocol: UpstreamProtocol::default(),
            request_names: None,
            circuit_breakers: CircuitBreakers::default(),
            drop_overload_limit: None,
            load_metrics: Box::default(),
            tcp_keepalive: None,
            bind_config: None,
            wait_for_warm_on_init: true,
        }
    }
}

impl Deref for Cluster {
    type Target = ClusterSettings;

    fn deref(&self) -> &ClusterSettings {
        &self.settings
    }
}

/// Settings that others share are copied first.
impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut ClusterSettings {
        Arc::make_mut(&mut self.settings)
    }
}

/// What earlier clusters have, for later ones to share.
#[derive(Debug, Default)]
pub struct SharedSettings {
    all: Vec<Arc<ClusterSettings>>,
    /// The assignment of those that have no endpoints of their own.
    empty: Option<Arc<ClusterLoadAssignment>>,
}

impl SharedSettings {
    /// Most settings that a further cluster's are compared with: the latest.
    const COMPARED_MAX: usize = 8;

    /// A copy of a cluster that has nothing in common with it, and with earlier copies what is the same.
    pub fn settled(&mut self, cluster: &Cluster) -> Cluster {
        let settings = Arc::new(ClusterSettings::clone(&cluster.settings));
        let load_assignment = Arc::new(ClusterLoadAssignment::clone(&cluster.load_assignment));
        let extras = cluster.extras.as_ref().map(|extras| Arc::new(Extras::clone(extras)));
        let mut settled = Cluster { settings, load_assignment, extras, ..cluster.clone() };
        if settled.sockets().contexts().next().is_some() {
            for tls in settled.sockets_mut().contexts_mut() {
                *tls = Arc::new(UpstreamTls::clone(tls));
            }
        }
        self.share(&mut settled);
        settled
    }

    /// Lets the cluster share the settings of an earlier one that has the same, and that it has no endpoints.
    pub fn share(&mut self, cluster: &mut Cluster) {
        match self.all.iter().find(|known| **known == cluster.settings) {
            Some(known) => cluster.settings = Arc::clone(known),
            None => {
                if self.all.len() == Self::COMPARED_MAX {
                    self.all.remove(0);
                }
                self.all.push(Arc::clone(&cluster.settings));
            }
        }
        if cluster.load_assignment.localities.is_empty() {
            let empty = self.empty.get_or_insert_with(|| Arc::clone(&cluster.load_assignment));
            if *empty == cluster.load_assignment {
                cluster.load_assignment = Arc::clone(empty);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_in_statistics_is_the_one_that_was_given_or_its_own() {
        let mut cluster = Cluster::new("c");
        assert_eq!((cluster.alt_stat_name(), cluster.stat_name()), ("", "c"));
        cluster.set_extras("s".into(), Metadata::new());
        assert_eq!((cluster.alt_stat_name(), cluster.stat_name()), ("s", "s"));
        cluster.set_extras(Box::default(), Metadata::new());
        assert_eq!(cluster, Cluster::new("c"));
    }

    #[test]
    fn clusters_with_the_same_settings_share_them_and_others_do_not() {
        let mut settings = SharedSettings::default();
        let mut shared = |name: &str, seconds| {
            let mut cluster = Cluster::new(name);
            cluster.connect_timeout = Duration::from_secs(seconds);
            settings.share(&mut cluster);
            cluster
        };
        let (a, b, mut c) = (shared("a", 1), shared("b", 2), shared("c", 1));
        assert!(Arc::ptr_eq(&a.settings, &c.settings) && !Arc::ptr_eq(&a.settings, &b.settings));
        c.connect_timeout = Duration::from_secs(3);
        assert_eq!(
            (a.connect_timeout.as_secs(), b.connect_timeout.as_secs()),
            (1, 2),
            "a change is the cluster's own"
        );
        let mut others = SharedSettings::default();
        let copies = [&a, &b, &a].map(|cluster| others.settled(cluster));
        assert!(copies[0] == a && Arc::ptr_eq(&copies[0].settings, &copies[2].settings));
        assert!(!Arc::ptr_eq(&copies[0].settings, &a.settings));
        for other in 0..20 {
            assert_eq!(shared("d", other).connect_timeout.as_secs(), other);
        }
    }

    #[test]
    fn clusters_share_settings_however_differently_they_are_reached() {
        let mut settings = SharedSettings::default();
        let mut reached = |name: &str| {
            let mut cluster = Cluster::new(name);
            let tls = UpstreamTls { sni: name.into(), ..UpstreamTls::default() };
            cluster.sockets_mut().tls = Some(Arc::new(tls));
            let settled = settings.settled(&cluster);
            let contexts = [&cluster, &settled].map(|cluster| cluster.sockets().tls.clone().unwrap());
            assert!(settled == cluster && !Arc::ptr_eq(&contexts[0], &contexts[1]));
            settled
        };
        let (a, b) = (reached("a"), reached("b"));
        assert!(Arc::ptr_eq(&a.settings, &b.settings) && a.sockets() != b.sockets());
        assert_eq!(*Cluster::new("c").sockets(), SocketSettings::default());
    }

    #[test]
    fn clusters_without_endpoints_share_that_and_others_do_not() {
        use crate::config::endpoint::LocalityEndpoints;
        let mut settings = SharedSettings::default();
        let mut shared = |name: &str, change: &dyn Fn(&mut ClusterLoadAssignment)| {
            let mut cluster = Cluster::new(name);
            change(Arc::make_mut(&mut cluster.load_assignment));
            let settled = settings.settled(&cluster);
            assert!(settled == cluster && !Arc::ptr_eq(&settled.load_assignment, &cluster.load_assignment));
            settled.load_assignment
        };
        let first = shared("a", &|_| {});
        let full = shared("b", &|it| it.localities = vec![LocalityEndpoints::default()]);
        let other = shared("c", &|it| it.overprovisioning_factor_percent = 100);
        let last = shared("d", &|_| {});
        assert!(Arc::ptr_eq(&first, &last));
        assert!(!Arc::ptr_eq(&first, &full) && !Arc::ptr_eq(&first, &other));
    }
}
