//! The control plane: how it is reached, and what is asked of it. Source: Envoy `core.v3.ApiConfigSource`,
//! `core.v3.ConfigSource`.
use std::sync::Arc;
use std::time::Duration;

use super::told_filter::FilterKind;

/// A stream of discovery: one for everything, or one for each type. Source: Envoy `Bootstrap.dynamic_resources.ads_config`,
/// `ConfigSource.api_config_source`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ads {
    /// Which of the two protocols is spoken. Source: `api_type`.
    pub variant: Variant,
    /// The cluster through which the control plane is reached, of this configuration. Source:
    /// `grpc_services[0].envoy_grpc.cluster_name`.
    pub cluster: Box<str>,
    /// The request's `:authority`. Default: the cluster's name. Source: `envoy_grpc.authority`.
    pub authority: Box<str>,
    /// Bytes of the longest message that is taken. Default 200 MiB (Envoy: no limit); beyond it the stream ends, which is
    /// counted, and begins again. Source: `envoy_grpc.max_receive_message_length`.
    pub message_bytes_max: usize,
    /// Headers of the stream's request. Source: `grpc_services[0].initial_metadata`.
    pub initial_metadata: Vec<(Box<str>, Box<str>)>,
    /// Whether only the first request of a stream says who asks. Default false. Source: `set_node_on_first_message_only`.
    pub node_on_first_message_only: bool,
}

/// How a control plane tells of changes. Source: Envoy `ApiConfigSource.ApiType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// All resources of a type each time. Source: `GRPC`.
    StateOfTheWorld,
    /// What has changed. Source: `DELTA_GRPC`.
    Delta,
}

/// Where resources come from. Source: Envoy `core.v3.ConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceSource {
    /// The aggregated stream. Source: `ads`.
    Ads,
    /// Streams of their own, one for each type. Source: `api_config_source`.
    Streams(Arc<Ads>),
    /// A file. Source: `path_config_source`.
    File(FileSource),
}

/// A file with a `DiscoveryResponse` in YAML, JSON or, named `.pb`, as protobuf has it. Source: Envoy
/// `core.v3.PathConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSource {
    /// Source: `path`.
    pub path: Box<str>,
    /// A directory in which something happens when the file changes. Source: `watched_directory`.
    pub watched_directory: Option<Box<str>>,
}

/// Resources of a type that are all taken, whatever their names. Source: Envoy `Bootstrap.dynamic_resources.cds_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    /// Where they come from.
    pub source: ResourceSource,
    /// How long the start waits for the first answer. Default 15 s; `None`: for ever. Source: `initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
}

/// A routing table that the control plane names. Source: Envoy `Rds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rds {
    /// Where it comes from. Source: `config_source`.
    pub source: ResourceSource,
    /// The name under which it is asked for. Source: `route_config_name`.
    pub name: Box<str>,
    /// How long the first answer is waited for before the manager goes without routes. Default 15 s; `None`: for ever.
    /// Source: `config_source.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
    /// Filters of the manager that this version lacks and that are off: a table that turns one on is refused.
    pub lacking_filters: Box<[Box<str>]>,
}

/// Virtual hosts of a routing table that are told by themselves. Source: Envoy `route.v3.Vhds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vhds {
    /// Where they come from: a control plane that speaks delta. Source: `config_source`.
    pub source: ResourceSource,
    /// How long the first of them are waited for before the table goes without. Default 15 s; `None`: for ever. Source:
    /// `config_source.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Scopes of routes: all that their source has. Source: Envoy `ScopedRoutes` with `scoped_rds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srds {
    /// Name in statistics (`http.STAT_PREFIX.scoped_rds.NAME.`), not empty. Source: `name`.
    pub name: Box<str>,
    /// Where they come from. Source: `scoped_rds.scoped_rds_config_source`.
    pub source: ResourceSource,
    /// How long the first answer is waited for before the manager goes without scopes. Default 15 s; `None`: for ever. Source:
    /// `scoped_rds.scoped_rds_config_source.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
    /// How their tables are asked for, each under the name that its scopes give; this one has none. Source: `rds_config_source`.
    pub table: Rds,
}

impl Srds {
    /// How the table of that name is asked for.
    pub fn table(&self, name: &str) -> Rds {
        Rds { name: name.into(), ..self.table.clone() }
    }
}

/// A layer of runtime values. Source: Envoy `RuntimeLayer.RtdsLayer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtds {
    /// Where they come from. Source: `rtds_config`.
    pub source: ResourceSource,
    /// The name under which they are asked for. Source: `name`.
    pub name: Arc<str>,
    /// How long the start waits for the first answer. Default 15 s; `None`: for ever. Source:
    /// `rtds_config.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Endpoints that the control plane names. Source: Envoy `Cluster.EdsClusterConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eds {
    /// Where they come from. Source: `eds_config`.
    pub source: ResourceSource,
    /// The name under which they are asked for; `None`: the cluster's, so that thousands have the same settings. Source:
    /// `service_name`.
    pub service_name: Option<Box<str>>,
    /// How long the first answer is waited for before the cluster goes without endpoints. Default 15 s; `None`: for ever.
    /// Source: `eds_config.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
}

impl Eds {
    /// The name under which the endpoints of this cluster are asked for.
    pub fn name<'a>(&'a self, cluster: &'a str) -> &'a str {
        self.service_name.as_deref().unwrap_or(cluster)
    }
}

/// The configuration of a filter that is told by name. Source: Envoy `core.v3.ExtensionConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ecds {
    /// Where it comes from. Source: `config_source`.
    pub source: ResourceSource,
    /// The name under which it is asked for: the filter's. Source: `HttpFilter.name`, `Filter.name`, `ListenerFilter.name`.
    pub name: Arc<str>,
    /// Where it stands.
    pub kind: FilterKind,
    /// How long the first answer is waited for before the filter goes with its default. Default 15 s; `None`: for ever.
    /// Source: `config_source.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
    /// Whether its listener waits for it. Default true. Source: the opposite of `apply_default_config_without_warming`.
    pub is_awaited: bool,
    /// Full names of the messages that it may be. Source: `type_urls`.
    pub types: Box<[Box<str>]>,
}

/// A secret that is told by name. Source: Envoy `tls.v3.SdsSecretConfig`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sds {
    /// Where it comes from. Source: `sds_config`.
    pub source: ResourceSource,
    /// The name under which it is asked for. Source: `name`.
    pub name: Arc<str>,
    /// What it has to be.
    pub kind: SecretKind,
    /// How long the first answer is waited for before whoever uses it goes without, and refuses connections. Default 15 s;
    /// `None`: for ever. Source: `sds_config.initial_fetch_timeout`.
    pub initial_fetch_timeout: Option<Duration>,
}

/// What a secret is. Source: Envoy `tls.v3.Secret.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretKind {
    /// A certificate and its key. Source: `tls_certificate`.
    Certificate,
    /// How peers are verified. Source: `validation_context`.
    Validation,
    /// Keys of session tickets. Source: `session_ticket_keys`.
    TicketKeys,
}

impl SecretKind {
    /// The member of `Secret.type`.
    pub fn field(self) -> &'static str {
        match self {
            Self::Certificate => "tls_certificate",
            Self::Validation => "validation_context",
            Self::TicketKeys => "session_ticket_keys",
        }
    }
}
