//! Where resources come from: the aggregated stream, streams of their own, files.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::tls;
use crate::base::limits::XDS_MESSAGE_BYTES_MAX;
use crate::config::ads::{
    Ads, Eds, FileSource, Rds, ResourceSource, Sds, SecretKind, Srds, Variant, Vhds, Wildcard,
};
use crate::config::bootstrap::{Bootstrap, RuntimeLayerKind};
use crate::config::cluster::{Cluster, Discovery};
use crate::config::http2::UpstreamProtocol;
use crate::config::listener::Listener;
use crate::control::xds::pb::{self, EnumName};
use pb::core::{
    ApiConfigSourceApiType, ApiVersion, ConfigSourceConfigSourceSpecifierOneOf as Specifier,
    GrpcServiceTargetSpecifierOneOf as Target,
};

/// Source: Envoy `ConfigSource.initial_fetch_timeout`.
const INITIAL_FETCH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// `ads_config`, an `api_config_source`, or `load_stats_config`.
pub(super) fn api(at: &At<'_>, message: pb::core::ApiConfigSource) -> Option<Ads> {
    classify!(at, message => pb::core::ApiConfigSource {
        implemented: api_type = "GRPC and DELTA_GRPC; others are refused", transport_api_version = "V3, also where none is named",
            grpc_services = "one", set_node_on_first_message_only;
        no_effect: cluster_names = "only REST, which is refused, reads it",
            refresh_delay = "only REST, which is refused, reads it",
            request_timeout = "only REST, which is refused, reads it";
        not_yet: rate_limit_settings;
        refused: config_validators;
    });
    let variant = match at.enumeration::<ApiConfigSourceApiType>("api_type", api_type) {
        ApiConfigSourceApiType::Grpc => Some(Variant::StateOfTheWorld),
        ApiConfigSourceApiType::DeltaGrpc => Some(Variant::Delta),
        other => {
            let field = format!("envoy.config.core.v3.ApiConfigSource.ApiType.{}", other.proto_name());
            at.field("api_type").found(Class::Refused, field, "GRPC and DELTA_GRPC are spoken");
            None
        }
    };
    version(at, "transport_api_version", transport_api_version);
    let mut services = grpc_services.into_iter();
    let (Some(service), None) = (services.next(), services.next()) else {
        at.field("grpc_services").error("must have exactly one element");
        return None;
    };
    let at = &at.item("grpc_services", 0);
    classify!(at, service => pb::core::GrpcService {
        implemented: target_specifier = "envoy_grpc; google_grpc is refused", initial_metadata;
        no_effect: timeout = "Envoy does not apply it to streams either";
        not_yet: retry_policy;
    });
    let initial_metadata = initial_metadata.into_iter().enumerate().filter_map(|(index, message)| {
        let at = &at.item("initial_metadata", index);
        let pb::http::HeaderValue { key, value, raw_value } = message;
        let value = if raw_value.is_empty() { Some(value) } else { String::from_utf8(raw_value).ok() };
        let key = key.to_ascii_lowercase();
        let good = value.filter(|value| {
            key.parse::<http::HeaderName>().is_ok() && value.parse::<http::HeaderValue>().is_ok()
        });
        if good.is_none() || key.ends_with("-bin") {
            at.error(format!("{key:?} and its value cannot be a header in ASCII"));
        }
        Some((key.into(), good?.into()))
    });
    let initial_metadata: Vec<_> = initial_metadata.collect();
    let message = match target_specifier {
        Some(Target::EnvoyGrpc(message)) => message,
        Some(Target::GoogleGrpc(_)) => {
            let note = "name a cluster in envoy_grpc";
            at.field("google_grpc").value_refused("envoy.config.core.v3.GrpcService.google_grpc", note);
            return None;
        }
        None => {
            at.error("envoy_grpc must be set");
            return None;
        }
    };
    let at = &at.field("envoy_grpc");
    classify!(at, message => pb::core::GrpcServiceEnvoyGrpc {
        implemented: cluster_name, authority, max_receive_message_length;
        no_effect: skip_envoy_headers = "no such headers are sent";
        not_yet: retry_policy;
    });
    let authority = if authority.is_empty() { cluster_name.clone() } else { authority };
    Some(Ads {
        variant: variant?,
        cluster: cluster_name.into(),
        authority: authority.into(),
        message_bytes_max: max_receive_message_length
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map_or(XDS_MESSAGE_BYTES_MAX, |bytes| bytes.min(XDS_MESSAGE_BYTES_MAX)),
        initial_metadata,
        node_on_first_message_only: set_node_on_first_message_only,
    })
}

/// All resources of a type.
pub(super) fn wildcard(at: &At<'_>, field: &str, message: pb::core::ConfigSource) -> Option<Wildcard> {
    let (source, initial_fetch_timeout) = source(at, field, Some(message))?;
    Some(Wildcard { source, initial_fetch_timeout })
}

/// `eds_cluster_config` of a cluster of type EDS.
pub(super) fn eds(
    at: &At<'_>,
    message: Option<pb::cluster::ClusterEdsClusterConfig>,
    name: &str,
) -> Option<Eds> {
    let Some(message) = message else {
        at.error("eds_cluster_config must be set: the cluster is of type EDS");
        return None;
    };
    let at = &at.field("eds_cluster_config");
    classify!(at, message => pb::cluster::ClusterEdsClusterConfig { implemented: eds_config, service_name; });
    let (source, initial_fetch_timeout) = source(at, "eds_config", eds_config)?;
    let service_name = (!service_name.is_empty() && service_name != name).then(|| service_name.into());
    Some(Eds { source, service_name, initial_fetch_timeout })
}

/// `rds` of a connection manager, some of whose filters this version lacks.
pub(super) fn rds(at: &At<'_>, message: pb::http_connection_manager::Rds, lacking: &[String]) -> Option<Rds> {
    classify!(at, message => pb::http_connection_manager::Rds { implemented: config_source, route_config_name; });
    if route_config_name.is_empty() {
        at.field("route_config_name").error("must be set: the name under which the routes are asked for");
    }
    let (source, initial_fetch_timeout) = source(at, "config_source", config_source)?;
    let lacking_filters = lacking.iter().map(|name| name.as_str().into()).collect();
    Some(Rds { source, name: route_config_name.into(), initial_fetch_timeout, lacking_filters })
}

/// `vhds` of a routing table that is told.
pub(super) fn vhds(at: &At<'_>, message: pb::route::Vhds) -> Option<Vhds> {
    classify!(at, message => pb::route::Vhds {
        implemented: config_source = "ads and api_config_source of delta; others are refused";
    });
    let (source, initial_fetch_timeout) = source(at, "config_source", config_source)?;
    let is_delta = match &source {
        // Of what variant the aggregated stream is, the bootstrap says.
        ResourceSource::Ads => true,
        ResourceSource::Streams(streams) => streams.variant == Variant::Delta,
        ResourceSource::File(_) => false,
    };
    if !is_delta {
        at.field("config_source").error("must be ads, or an api_config_source with api_type DELTA_GRPC");
        return None;
    }
    Some(Vhds { source, initial_fetch_timeout })
}

/// `scoped_rds` of scoped routes of this name, and where the tables of its scopes come from. `lacking`: filters of the manager that
/// this version lacks.
pub(super) fn srds(
    at: &At<'_>,
    name: &str,
    message: pb::http_connection_manager::ScopedRds,
    tables: Option<pb::core::ConfigSource>,
    lacking: &[String],
) -> Option<Srds> {
    let scoped = &at.field("scoped_rds");
    classify!(scoped, message => pb::http_connection_manager::ScopedRds {
        implemented: scoped_rds_config_source;
        refused: srds_resources_locator = "names with authorities (xdstp) are not resolved";
    });
    let scopes = source(scoped, "scoped_rds_config_source", scoped_rds_config_source);
    let (of_table, table_timeout) = source(at, "rds_config_source", tables)?;
    let (source, initial_fetch_timeout) = scopes?;
    let table = Rds {
        source: of_table,
        name: "".into(),
        initial_fetch_timeout: table_timeout,
        lacking_filters: lacking.iter().map(|name| name.as_str().into()).collect(),
    };
    Some(Srds { name: name.into(), source, initial_fetch_timeout, table })
}

/// `sds_config` of a secret of this name.
pub(super) fn sds(
    at: &At<'_>,
    message: pb::core::ConfigSource,
    name: String,
    kind: SecretKind,
) -> Option<Sds> {
    if name.is_empty() {
        at.field("name").error("must be set: the name under which the secret is asked for");
    }
    let (source, initial_fetch_timeout) = source(at, "sds_config", Some(message))?;
    Some(Sds { source, name: name.into(), kind, initial_fetch_timeout })
}

/// A source, and how long its first answer is waited for.
pub(super) fn source(
    at: &At<'_>,
    field: &str,
    message: Option<pb::core::ConfigSource>,
) -> Option<(ResourceSource, Option<Duration>)> {
    let at = &at.field(field);
    let Some(message) = message else {
        at.error("must be set: {ads: {}, resource_api_version: V3}");
        return None;
    };
    classify!(at, message => pb::core::ConfigSource {
        implemented: config_source_specifier = "ads, api_config_source, path_config_source; others are refused", initial_fetch_timeout,
            resource_api_version = "V3, also where none is named";
        refused: authorities = "names with authorities (xdstp) are not resolved";
    });
    let source = match config_source_specifier {
        Some(Specifier::Ads(message)) => {
            classify!(&at.field("ads"), message => pb::core::AggregatedConfigSource {});
            Ok(ResourceSource::Ads)
        }
        Some(Specifier::PathConfigSource(message)) => {
            Ok(ResourceSource::File(file(&at.field("path_config_source"), message)?))
        }
        Some(Specifier::Path(_)) => Err(("path", "write path_config_source: {path: ...}")),
        Some(Specifier::ApiConfigSource(message)) => {
            Ok(ResourceSource::Streams(Arc::new(api(&at.field("api_config_source"), message)?)))
        }
        Some(Specifier::SelfSource(_)) => Err(("self", "write ads, api_config_source or path_config_source")),
        None => {
            at.error("ads must be set: {ads: {}, resource_api_version: V3}");
            return None;
        }
    };
    if let Err((name, note)) = source {
        let field = format!("envoy.config.core.v3.ConfigSource.{name}");
        at.field(name).found(Class::Refused, field, note);
    }
    version(at, "resource_api_version", resource_api_version);
    let timeout =
        at.timeout("initial_fetch_timeout", initial_fetch_timeout, Some(INITIAL_FETCH_TIMEOUT_DEFAULT));
    Some((source.ok()?, timeout))
}

fn file(at: &At<'_>, message: pb::core::PathConfigSource) -> Option<FileSource> {
    classify!(at, message => pb::core::PathConfigSource {
        implemented: path, watched_directory;
        no_effect: poll_interval = "the kernel tells of changes, and once a minute they are looked for";
    });
    if !Path::new(&path).exists() {
        at.field("path")
            .error(format!("must refer to an existing path in the system: {path:?} does not exist"));
        return None;
    }
    let directory = watched_directory.map(|message| tls::directory(&at.field("watched_directory"), message));
    Some(FileSource { path: path.into(), watched_directory: directory })
}

/// Where none is named it is V3, as in Envoy.
fn version(at: &At<'_>, field: &str, value: i32) {
    if at.enumeration::<ApiVersion>(field, value) == ApiVersion::V2 {
        at.field(field).error("must be V3");
    }
}

/// Control planes that can be asked.
#[derive(Clone, Debug, Default)]
pub struct Planes {
    /// How the aggregated stream tells of changes; `None`: there is none.
    stream: Option<Variant>,
    /// Clusters of the bootstrap, and why a control plane cannot be reached through them.
    clusters: BTreeMap<Box<str>, Option<&'static str>>,
}

impl Planes {
    /// Those of a bootstrap.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        let clusters = bootstrap.clusters.iter().map(|cluster| (cluster.name.clone(), unreachable(cluster)));
        Self { stream: bootstrap.ads.as_ref().map(|ads| ads.variant), clusters: clusters.collect() }
    }

    /// Why a table cannot have its virtual hosts from there.
    pub fn hosts_problem(&self, source: &ResourceSource) -> Option<String> {
        if *source == ResourceSource::Ads && self.stream == Some(Variant::StateOfTheWorld) {
            let problem = "virtual hosts are told by delta: ads_config must have api_type DELTA_GRPC";
            return Some(problem.to_owned());
        }
        self.problem("virtual hosts", source)
    }

    /// Why nothing can come from there.
    fn problem(&self, what: &str, source: &ResourceSource) -> Option<String> {
        match source {
            ResourceSource::Ads => self.stream.is_none().then(|| {
                format!("{what} come over the aggregated stream: dynamic_resources.ads_config must be set")
            }),
            ResourceSource::Streams(streams) => self.unreachable(&streams.cluster),
            ResourceSource::File(_) => None,
        }
    }

    fn unreachable(&self, name: &str) -> Option<String> {
        match self.clusters.get(name) {
            None => Some(format!("unknown cluster {name:?}")),
            Some(reason) => reason.map(|reason| format!("cluster {name:?} {reason}")),
        }
    }

    /// Checks the cluster through which a stream goes.
    fn check_stream(&self, at: &At<'_>, stream: &Ads) {
        let at = &at.item("grpc_services", 0);
        let at = &at.field("envoy_grpc");
        if let Some(problem) = self.unreachable(&stream.cluster) {
            at.field("cluster_name").error(problem);
        }
    }

    /// Checks where secrets come from.
    fn check_secrets<'a>(&self, at: &At<'_>, secrets: impl Iterator<Item = &'a Sds>) {
        for secret in secrets {
            if let Some(problem) = self.problem("secrets", &secret.source) {
                at.error(format!("secret {:?}: {problem}", &*secret.name));
            }
        }
    }

    /// Checks where a cluster's endpoints and secrets come from.
    pub(super) fn check_cluster(&self, at: &At<'_>, cluster: &Cluster) {
        if let Discovery::Eds(eds) = &cluster.discovery
            && let Some(problem) = self.problem("endpoints", &eds.source)
        {
            at.error(problem);
        }
        self.check_secrets(at, cluster.told_secrets());
    }

    /// Checks where a listener's routes, filters and secrets come from.
    pub(super) fn check_listener(&self, at: &At<'_>, listener: &Listener) {
        let tables = listener.managers().filter_map(|(_, manager)| manager.rds.as_ref());
        for problem in tables.filter_map(|rds| self.problem("routes", &rds.source)) {
            at.error(problem);
        }
        for srds in listener.managers().filter_map(|(_, manager)| manager.srds()) {
            let scopes = self.problem("scopes", &srds.source);
            let problems = scopes.into_iter().chain(self.problem("routes", &srds.table.source));
            problems.for_each(|problem| at.error(problem));
        }
        let filters = listener.told_filters().map(|filter| &filter.ecds.source);
        for problem in filters.filter_map(|source| self.problem("filters", source)) {
            at.error(problem);
        }
        self.check_secrets(at, listener.told_secrets());
    }
}

/// Checks that the control planes which are to be asked can be.
pub(super) fn check(at: &At<'_>, bootstrap: &Bootstrap) {
    let planes = Planes::of(bootstrap);
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        planes.check_cluster(&at.field("static_resources").item("clusters", index), cluster);
    }
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        planes.check_listener(&at.field("static_resources").item("listeners", index), listener);
    }
    if let Some(reports) = &bootstrap.load_reports {
        let at = &at.field("cluster_manager");
        planes.check_stream(&at.field("load_stats_config"), reports);
    }
    let at = &at.field("dynamic_resources");
    for (field, what, asked) in
        [("cds_config", "clusters", &bootstrap.cds), ("lds_config", "listeners", &bootstrap.lds)]
    {
        let problem = asked.as_ref().and_then(|asked| planes.problem(what, &asked.source));
        problem.into_iter().for_each(|problem| at.field(field).error(problem));
    }
    for (index, layer) in bootstrap.runtime_layers.iter().enumerate() {
        if let RuntimeLayerKind::Rtds(rtds) = &layer.kind
            && let Some(problem) = planes.problem("runtime layers", &rtds.source)
        {
            let at = At::root(at.context);
            at.field("layered_runtime").item("layers", index).field("rtds_layer").error(problem);
        }
    }
    if let Some(ads) = &bootstrap.ads {
        planes.check_stream(&at.field("ads_config"), ads);
    }
}

/// Why a control plane cannot be reached through a cluster.
fn unreachable(cluster: &Cluster) -> Option<&'static str> {
    if matches!(cluster.discovery, Discovery::Eds(_) | Discovery::OriginalDst(_)) {
        return Some("must be of type STATIC, STRICT_DNS or LOGICAL_DNS to lead to a control plane");
    }
    if cluster.upstream_protocol != UpstreamProtocol::Http2 {
        return Some(
            "must speak HTTP/2 to lead to a control plane: explicit_http_config.http2_protocol_options",
        );
    }
    if !cluster.sockets().matches.is_empty() {
        return Some("has transport_socket_matches: control planes are reached with transport_socket alone");
    }
    if cluster.told_secrets().any(|secret| !matches!(secret.source, ResourceSource::File(_))) {
        return Some(
            "has secrets of a control plane: those that protect the way to one come from files, path_config_source",
        );
    }
    if cluster.sockets().proxy_protocol.is_some() {
        return Some("begins connections with a PROXY header: control planes get none in this version");
    }
    None
}
