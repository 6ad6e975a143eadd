//! What the process is started with. Source: Envoy `config.bootstrap.v3.Bootstrap`.
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::address::Address;
use super::ads::{Ads, ResourceSource, Rtds, Sds, Wildcard};
use super::cluster::{Cluster, Discovery};
use super::endpoint::Locality;
use super::listener::Listener;
use super::matcher::StringMatcher;
use super::metadata::Struct;
use super::runtime::RuntimeKey;
use super::socket::SocketOption;

/// The whole bootstrap, after command-line overrides.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this process is. Source: `node`, `--service-node`, `--service-cluster`, `--service-zone`.
    pub node: Node,
    /// The admin server; `None`: there is none. Source: `admin`.
    pub admin: Option<Admin>,
    /// Listeners of the file, names unique. Source: `static_resources.listeners`.
    pub listeners: Vec<Arc<Listener>>,
    /// Clusters of the file, names unique. Source: `static_resources.clusters`.
    pub clusters: Vec<Arc<Cluster>>,
    /// Statistics. Source: `stats_config` and its neighbours.
    pub stats: StatsConfig,
    /// Layers of runtime values, later ones over earlier ones. Source: `layered_runtime.layers`.
    pub runtime_layers: Vec<RuntimeLayer>,
    /// Limits of the whole process. Source: `overload_manager`.
    pub overload: Overload,
    /// The control plane; `None`: there is none. Source: `dynamic_resources.ads_config`.
    pub ads: Option<Ads>,
    /// Clusters beside those of the file; `None`: there are no others. Source: `dynamic_resources.cds_config`.
    pub cds: Option<Wildcard>,
    /// Where load reports go; `None`: nowhere. Which of the two protocols it names says nothing: there is one of reports. Source:
    /// `cluster_manager.load_stats_config`.
    pub load_reports: Option<Ads>,
    /// The encoded `core.v3.Node` of the configuration, all of which control planes are told. Source: `node`.
    pub node_message: Box<[u8]>,
    /// Listeners beside those of the file; `None`: there are no others. Source: `dynamic_resources.lds_config`.
    pub lds: Option<Wildcard>,
    /// Bytes that wait within a connection to an internal listener for each of its ends; `None`: there are no such listeners.
    /// Default 1 MiB, from Envoy. Source: `bootstrap_extensions`, `InternalListener.buffer_size_kb`.
    pub internal_buffer_bytes: Option<u32>,
    /// Directory in which a file `drain` has health checks fail from the start, as `/healthcheck/fail` does; empty: there is none.
    /// Looked at once. Source: `flags_path`.
    pub flags_path: Box<str>,
    /// The pattern of the lines of the application log, with the flags of `--log-format`; what JSON has them in is one, too.
    /// Default `None`: that of the command line. Source: `application_log_config.log_format`.
    pub log_format: Option<Box<str>>,
}

impl Bootstrap {
    /// Whether a control plane is asked for anything. Whoever takes load reports need not know who tells them, as in Envoy.
    pub fn asks_control_planes(&self) -> bool {
        let of_streams = |source: &ResourceSource| matches!(source, ResourceSource::Streams(_));
        let wildcards = self.cds.iter().chain(&self.lds).map(|wildcard| &wildcard.source);
        let endpoints = self.clusters.iter().filter_map(|cluster| match &cluster.discovery {
            Discovery::Eds(eds) => Some(&eds.source),
            _ => None,
        });
        let managers = || self.listeners.iter().flat_map(|listener| listener.managers());
        let tables = managers().filter_map(|(_, manager)| manager.rds.as_ref()).map(|rds| &rds.source);
        let scoped = managers().filter_map(|(_, manager)| manager.srds());
        let of_scopes = scoped.flat_map(|srds| [&srds.source, &srds.table.source]);
        let filters = self.listeners.iter().flat_map(|listener| listener.told_filters());
        let named = tables.chain(filters.map(|filter| &filter.ecds.source)).chain(of_scopes);
        let secrets = self.told_secrets().map(|secret| &secret.source);
        self.ads.is_some() || wildcards.chain(endpoints).chain(named).chain(secrets).any(of_streams)
    }

    /// The secrets that its listeners and clusters have told.
    pub fn told_secrets(&self) -> impl Iterator<Item = &Sds> {
        let of_listeners = self.listeners.iter().flat_map(|listener| listener.told_secrets());
        of_listeners.chain(self.clusters.iter().flat_map(|cluster| cluster.told_secrets()))
    }
}

/// Who this process is, towards control planes and in headers. Source: Envoy `core.v3.Node`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// Unique name of this process. Source: `id`.
    pub id: Box<str>,
    /// Name of the group of like processes. Source: `cluster`.
    pub cluster: Box<str>,
    /// Where it runs. Source: `locality`.
    pub locality: Locality,
    /// Passed through to control planes untouched. Source: `metadata`.
    pub metadata: Struct,
}

/// The admin server. Source: Envoy `config.bootstrap.v3.Admin`.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens. Source: `address`.
    pub address: Address,
    /// Whether it takes IPv4 as well on an IPv6 address. Default false. Source: `address.socket_address.ipv4_compat`.
    pub ipv4_compat: bool,
    /// Options of its socket, a TCP one. Source: `socket_options`.
    pub socket_options: Vec<SocketOption>,
    /// Logs of its requests. Source: `access_log`, or the older `access_log_path`.
    pub access_log: Vec<AccessLog>,
    /// Paths that are served; empty: all. Others get 403. Source: `allow_paths`.
    pub allow_paths: Vec<StringMatcher>,
}

/// Statistics. Source: Envoy `config.metrics.v3.StatsConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsConfig {
    /// Tags taken out of names, for Prometheus, after Envoy's own. Source: `stats_tags`.
    pub tags: Vec<TagSpecifier>,
    /// Whether Envoy's own tags are taken out. Default true. Source: `use_all_default_tags`.
    pub use_all_default_tags: bool,
    /// Whether a tag of the configuration replaces Envoy's own of the same name. Default false: Envoy's own wins. Source:
    /// `allow_default_tag_overrides`.
    pub tags_replace_default: bool,
    /// Which statistics are kept. Source: `stats_matcher`.
    pub matcher: StatsMatcher,
    /// Bounds of histogram buckets, by the first entry whose condition holds. Source: `histogram_bucket_settings`.
    pub histogram_buckets: Vec<HistogramBuckets>,
    /// Time between flushes of statistics; counters of `/stats` are always current here. Default 5 s. Source:
    /// `stats_flush_interval`.
    pub flush_interval: Duration,
    /// Value of the gauge `server.version`. Default `None`: the beginning of this program's revision. Source:
    /// `stats_server_version_override`.
    pub server_version: Option<u64>,
}

/// A tag. Source: Envoy `TagSpecifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSpecifier {
    /// Name of the tag. Source: `tag_name`.
    pub name: Box<str>,
    /// Its value.
    pub value: TagValue,
}

/// Where a tag's value comes from. Source: Envoy `TagSpecifier.tag_value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagValue {
    /// It is one of Envoy's own tags, taken out as Envoy does. Source: neither value is set.
    Default,
    /// Every statistic has it with this value. Source: `fixed_value`.
    Fixed(Box<str>),
    /// The second group of this expression (the first, if there is one only); what the first group matches is cut from
    /// the name. Source: `regex`.
    Regex(Box<str>),
}

/// Which statistics are kept. Source: Envoy `StatsMatcher`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StatsMatcher {
    /// All. The default, and `reject_all: false`.
    #[default]
    All,
    /// None. Source: `reject_all: true`.
    RejectAll,
    /// All but those that match one of these. Source: `exclusion_list`.
    Exclude(Vec<StringMatcher>),
    /// Only those that match one of these. Source: `inclusion_list`.
    Include(Vec<StringMatcher>),
}

/// Bounds of the buckets of some histograms. Source: Envoy `HistogramBucketSettings`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramBuckets {
    /// Which histograms, by their full name. Source: `match`.
    pub matcher: StringMatcher,
    /// Upper bounds, ascending, each above 0. Source: `buckets`.
    pub bounds: Vec<f64>,
}

/// One layer of runtime values. Source: Envoy `RuntimeLayer`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    /// Unique name. Source: `name`.
    pub name: Box<str>,
    /// Where its values come from. Source: `layer_specifier`.
    pub kind: RuntimeLayerKind,
}

/// Where the values of a runtime layer come from. Source: Envoy `RuntimeLayer.layer_specifier`.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeLayerKind {
    /// The configuration: dotted key to scalar, nested objects flattened to dotted keys; a `FractionalPercent` keeps its
    /// object. Sorted by key. Source: `static_layer`.
    Static(Vec<(Box<str>, serde_json::Value)>),
    /// `/runtime_modify` of the admin server. Source: `admin_layer`.
    Admin,
    /// A control plane or a file. Source: `rtds_layer`.
    Rtds(Rtds),
    /// A tree of files. Source: `disk_layer`.
    Disk(DiskLayer),
}

/// A tree of files, one for each key: a dot in the key is a directory. Source: Envoy `RuntimeLayer.DiskLayer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLayer {
    /// The link that is swapped when there is another tree. Source: `symlink_root`.
    pub symlink_root: Box<str>,
    /// The tree below the link. Default: all of it. Source: `subdirectory`.
    pub subdirectory: Box<str>,
    /// Whether it is below a directory there that is called like this process's cluster. Default false. Source:
    /// `append_service_cluster`.
    pub append_service_cluster: bool,
}

/// Limits of the whole process. Source: Envoy `config.overload.v3.OverloadManager`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overload {
    /// Most downstream connections of all listeners together; beyond it a new one is closed at once and counted.
    /// Default `None`: no limit. Source: the resource monitor `envoy.resource_monitors.global_downstream_max_connections`.
    pub max_active_downstream_connections: Option<u64>,
    /// Under which the runtime layers have the limit where no resource monitor does; `None`: none can come.
    pub runtime_key: Option<RuntimeKey>,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            use_all_default_tags: true,
            tags_replace_default: false,
            matcher: StatsMatcher::default(),
            histogram_buckets: Vec::new(),
            flush_interval: Duration::from_secs(5),
            server_version: None,
        }
    }
}
