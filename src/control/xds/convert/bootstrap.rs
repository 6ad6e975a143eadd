//! The bootstrap: process-wide settings, then the static resources, then what ties resources together.
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;

use super::at::{At, Context};
use super::fields::classify;
use super::report::{Class, Report, Unimplemented};
use super::runtime::{self, Runtime};
use super::tls::Secrets;
use super::value::{json_object, type_name};
use super::{
    access_log, address, application_log, cluster, config_source, dns, endpoint, listener, matcher,
    references, socket, stats, tls,
};
use crate::config::ads::{Ads, Wildcard};
use crate::config::bootstrap::{Admin, Bootstrap, Node, Overload};
use crate::config::cluster::{Dns, SharedSettings};
use crate::config::socket::BindConfig;
use crate::control::xds::pb::{self, Named};

/// Runtime key that limits downstream connections where the overload manager does not.
const DOWNSTREAM_CONNECTIONS_KEY: &str = "overload.global_downstream_max_connections";

/// Name of the monitor that limits downstream connections.
const DOWNSTREAM_CONNECTIONS_MONITOR: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// Default of Envoy's `buffer_size_kb`.
const INTERNAL_BUFFER_KB_DEFAULT: u32 = 1024;

/// The whole bootstrap, and what it was converted in, with the report. With errors in that it is incomplete and must not be
/// used.
pub(super) fn bootstrap(
    mut message: pb::bootstrap::Bootstrap,
    unimplemented: Unimplemented,
) -> (Bootstrap, Context) {
    // Runtime values and defaults come first: the resources refer to them.
    let mut context = Context {
        report: RefCell::new(Report::default()),
        unimplemented,
        runtime: Runtime::default(),
        default_dns: Dns::default(),
        default_bind: None,
        internal_buffer_bytes: None,
        secrets: Secrets::default(),
        is_accepted: false,
        known_bytes: RefCell::default(),
    };
    let secrets = message.static_resources.as_mut().map(|resources| std::mem::take(&mut resources.secrets));
    let at = At::root(&context);
    let at = &at;
    classify!(at, message => pb::bootstrap::Bootstrap {
        implemented: node, static_resources, dynamic_resources = "the aggregated stream and files", cluster_manager,
            stats_config, stats_flush_interval, stats_server_version_override, layered_runtime, admin, overload_manager,
            header_prefix = "x-envoy; others are refused", use_tcp_for_dns_lookups, dns_resolution_config,
            typed_dns_resolver_config, bootstrap_extensions = "internal_listener; others are refused",
            default_regex_engine = "GoogleRE2, whose syntax every engine here has; others are refused",
            flags_path = "a file drain in it: health checks fail from the start",
            application_log_config = "not together with --log-format, as in Envoy";
        no_effect: node_context_params = "only names with authorities (xdstp), which are refused, carry them",
            deferred_stat_options = "statistics cost nothing before they are used",
            stats_flush = "statistics are always current", stats_eviction = "unused statistics cost nothing",
            watchdog = "no thread is watched", watchdogs = "no thread is watched",
            enable_dispatcher_stats = "there are no dispatchers",
            config_sources = "only names with authorities (xdstp), which are refused, are looked up there", default_config_source = "only names with authorities (xdstp), which are refused, are looked up there",
            certificate_provider_instances = "Envoy does not read it either",
            inline_headers = "every header is found the same way",
            perf_tracing_file_path = "there is no perf tracing", xds_delegate_extension = "nothing is handed to extensions",
            xds_config_tracker_extension = "nothing is handed to extensions",
            grpc_async_client_manager_config = "no gRPC clients",
            memory_allocator_manager = "the allocator tunes itself",
            enable_worker_cpu_affinity = "--cpu-affinity says it";
        not_yet: stats_sinks, tracing, hds_config, fatal_actions;
        refused: default_socket_interface, listener_manager;
    });
    let runtime_layers = layered_runtime
        .map(|message| runtime::layers(&at.field("layered_runtime"), message))
        .unwrap_or_default();
    let default_dns =
        dns::defaults(at, typed_dns_resolver_config, dns_resolution_config, use_tcp_for_dns_lookups);
    let local_cluster = cluster_manager.as_ref().map(|message| message.local_cluster_name.clone());
    let (default_bind, load_reports) = cluster_manager
        .map(|message| self::cluster_manager(&at.field("cluster_manager"), message))
        .unwrap_or_default();
    context.runtime = Runtime::of(&runtime_layers);
    context.default_dns = default_dns;
    context.default_bind = default_bind;
    context.internal_buffer_bytes = extensions(&At::root(&context), bootstrap_extensions);
    let secrets = tls::secrets(&At::root(&context).field("static_resources"), secrets.unwrap_or_default());
    context.secrets = secrets;

    let at = &At::root(&context);
    let (ads, cds, lds) = self::dynamic_resources(at, dynamic_resources);
    if !header_prefix.is_empty() && header_prefix != "x-envoy" {
        let field = "envoy.config.bootstrap.v3.Bootstrap.header_prefix";
        at.field("header_prefix").found(Class::Refused, field, "");
    }
    if let Some(extension) = default_regex_engine {
        check_type(
            &at.field("default_regex_engine"),
            extension,
            "envoy.extensions.regex_engines.v3.GoogleRE2",
        );
    }
    let mut overload = overload_manager
        .map(|message| self::overload_manager(&at.field("overload_manager"), message))
        .unwrap_or_default();
    if overload.max_active_downstream_connections.is_none() {
        overload.runtime_key = at.context.runtime.key(DOWNSTREAM_CONNECTIONS_KEY);
    }
    let mut stats = stats_config
        .map(|message| stats::stats_config(&at.field("stats_config"), message))
        .unwrap_or_default();
    stats.flush_interval =
        at.duration("stats_flush_interval", stats_flush_interval).unwrap_or(stats.flush_interval);
    stats.server_version = stats_server_version_override;
    let mut converted = Bootstrap {
        node_message: node.as_ref().map(Message::encode_to_vec).unwrap_or_default().into(),
        node: node.map(|message| self::node(&at.field("node"), message)).unwrap_or_default(),
        admin: admin.and_then(|message| self::admin(&at.field("admin"), message)),
        stats,
        runtime_layers,
        overload,
        ads,
        cds,
        lds,
        load_reports,
        internal_buffer_bytes: at.context.internal_buffer_bytes,
        flags_path: flags_path.into(),
        log_format: application_log_config
            .and_then(|message| application_log::pattern(&at.field("application_log_config"), message)),
        ..Bootstrap::default()
    };
    if let Some(message) = static_resources {
        self::static_resources(&at.field("static_resources"), message, &mut converted);
    }
    references::check(at, &converted, local_cluster.as_deref().unwrap_or_default());
    (converted, context)
}

fn static_resources(at: &At<'_>, message: pb::bootstrap::BootstrapStaticResources, into: &mut Bootstrap) {
    classify!(at, message => pb::bootstrap::BootstrapStaticResources {
        implemented: listeners, clusters, secrets;
    });
    // They were taken out before, since the others refer to them.
    let _ = secrets;
    let mut names = HashSet::new();
    let mut settings = SharedSettings::default();
    into.clusters.reserve_exact(clusters.len());
    for (index, bytes) in clusters.into_iter().enumerate() {
        let at = &at.item("clusters", index);
        let Some(message) = at.decode::<pb::cluster::Cluster>(&bytes) else { continue };
        if !names.insert(message.name.clone()) {
            at.field("name").error(format!("duplicate cluster name {:?}", message.name));
        }
        into.clusters.extend(cluster::cluster(at, message).map(|mut cluster| {
            settings.share(&mut cluster);
            Arc::new(cluster)
        }));
    }
    let mut names = HashSet::new();
    for (index, bytes) in listeners.into_iter().enumerate() {
        let at = &at.item("listeners", index);
        let Some(message) = at.decode::<pb::listener::Listener>(&bytes) else { continue };
        if !message.name.is_empty() && !names.insert(message.name.clone()) {
            at.field("name").error(format!("duplicate listener name {:?}", message.name));
        }
        into.listeners.extend(listener::listener(at, message).map(Arc::new));
    }
}

fn node(at: &At<'_>, message: pb::core::Node) -> Node {
    classify!(at, message => pb::core::Node {
        implemented: id, cluster, metadata, locality, dynamic_parameters = "told to control planes",
            user_agent_name = "told to control planes; by default envoy",
            user_agent_version_type = "told to control planes; by default nothing", extensions = "told to control planes",
            client_features = "told to control planes", listening_addresses = "told to control planes";
    });
    // The whole message is kept for them.
    let _ = (
        dynamic_parameters,
        user_agent_name,
        user_agent_version_type,
        extensions,
        client_features,
        listening_addresses,
    );
    Node {
        id: id.into(),
        cluster: cluster.into(),
        locality: locality
            .map(|message| endpoint::locality(&at.field("locality"), message))
            .unwrap_or_default(),
        metadata: metadata.map(json_object).unwrap_or_default(),
    }
}

fn admin(at: &At<'_>, message: pb::bootstrap::Admin) -> Option<Admin> {
    classify!(at, message => pb::bootstrap::Admin {
        implemented: access_log, access_log_path, address, socket_options, allow_paths;
        no_effect: profile_path = "there is no profiler",
            ignore_global_conn_limit = "connections to this endpoint are never limited";
    });
    let mut access_log = access_log::access_logs(at, "access_log", access_log);
    if !access_log_path.is_empty() {
        access_log.push(access_log::file_by_path(&access_log_path));
    }
    let socket_options = socket::options(at, socket_options);
    let allow_paths = matcher::strings(at, "allow_paths", allow_paths);
    // Envoy takes an admin without an address for none.
    let (address, ipv4_compat) = address::fixed(&at.field("address"), Some(address?))?;
    Some(Admin { address, ipv4_compat, socket_options, access_log, allow_paths })
}

/// Where connections to endpoints come from by default, and where load reports go.
fn cluster_manager(at: &At<'_>, message: pb::bootstrap::ClusterManager) -> (Option<BindConfig>, Option<Ads>) {
    classify!(at, message => pb::bootstrap::ClusterManager {
        implemented: upstream_bind_config, load_stats_config;
        no_effect: enable_deferred_cluster_creation = "a cluster costs little before it is used",
            outlier_detection = "only the log of outlier detection, of which there is none";
        not_yet: local_cluster_name = "only zone-aware balancing asks for it";
    });
    let bind =
        upstream_bind_config.map(|message| socket::bind_config(&at.field("upstream_bind_config"), message));
    let reports =
        load_stats_config.and_then(|message| config_source::api(&at.field("load_stats_config"), message));
    (bind, reports)
}

fn dynamic_resources(
    at: &At<'_>,
    message: Option<pb::bootstrap::BootstrapDynamicResources>,
) -> (Option<Ads>, Option<Wildcard>, Option<Wildcard>) {
    let Some(message) = message else { return (None, None, None) };
    let at = &at.field("dynamic_resources");
    classify!(at, message => pb::bootstrap::BootstrapDynamicResources {
        implemented: ads_config = "for clusters, endpoints, listeners, secrets and routes", cds_config, lds_config;
        refused: lds_resources_locator = "names with authorities (xdstp) are not resolved",
            cds_resources_locator = "names with authorities (xdstp) are not resolved";
    });
    let ads = ads_config.and_then(|message| config_source::api(&at.field("ads_config"), message));
    let cds = cds_config.and_then(|message| config_source::wildcard(at, "cds_config", message));
    let lds = lds_config.and_then(|message| config_source::wildcard(at, "lds_config", message));
    (ads, cds, lds)
}

/// What connections to internal listeners buffer, in bytes, if an extension says that there are any.
fn extensions(at: &At<'_>, extensions: Vec<pb::core::TypedExtensionConfig>) -> Option<u32> {
    let mut buffer_bytes = None;
    for (index, extension) in extensions.into_iter().enumerate() {
        let at = &at.item("bootstrap_extensions", index);
        let Some(any) = extension.typed_config else {
            at.error("typed_config must be set");
            continue;
        };
        let at = &at.field("typed_config");
        if type_name(&any) != pb::extensions::InternalListener::NAME {
            at.extension(Class::Refused, &any, "");
            continue;
        }
        let Some(message) = at.unpack::<pb::extensions::InternalListener>(&any) else { continue };
        classify!(at, message => pb::extensions::InternalListener { implemented: buffer_size_kb; });
        // Its range is the API's to check.
        buffer_bytes = Some(buffer_size_kb.unwrap_or(INTERNAL_BUFFER_KB_DEFAULT).saturating_mul(1024));
    }
    buffer_bytes
}

/// An extension of which only one kind is known, which needs no configuration.
fn check_type(at: &At<'_>, extension: pb::core::TypedExtensionConfig, known: &str) {
    match extension.typed_config {
        Some(any) if type_name(&any) == known => {}
        Some(any) => at.field("typed_config").extension(Class::Refused, &any, ""),
        None => at.field("typed_config").error("must be set"),
    }
}

fn overload_manager(at: &At<'_>, message: pb::bootstrap::OverloadManager) -> Overload {
    classify!(at, message => pb::bootstrap::OverloadManager {
        implemented: resource_monitors = "downstream_connections; others are not implemented yet";
        no_effect: refresh_interval = "the number of connections is always current";
        not_yet: actions, loadshed_points, buffer_factory_config;
    });
    let mut overload = Overload::default();
    for (index, message) in resource_monitors.into_iter().enumerate() {
        let at = &at.item("resource_monitors", index);
        classify!(at, message => pb::bootstrap::ResourceMonitor {
            implemented: name, config_type = "DownstreamConnectionsConfig; others are not implemented yet";
        });
        let Some(pb::bootstrap::ResourceMonitorConfigTypeOneOf::TypedConfig(any)) = config_type else {
            at.error("typed_config must be set");
            continue;
        };
        let at = &at.field("typed_config");
        if type_name(&any) != pb::extensions::DownstreamConnectionsConfig::NAME {
            at.extension(Class::NotYet, &any, "");
            continue;
        }
        // Envoy finds this monitor by its name.
        if name != DOWNSTREAM_CONNECTIONS_MONITOR {
            at.error(format!("this monitor must be named {DOWNSTREAM_CONNECTIONS_MONITOR}"));
        }
        if let Some(message) = at.unpack::<pb::extensions::DownstreamConnectionsConfig>(&any) {
            classify!(at, message => pb::extensions::DownstreamConnectionsConfig {
                implemented: max_active_downstream_connections;
            });
            match u64::try_from(max_active_downstream_connections) {
                Ok(limit) if limit > 0 => overload.max_active_downstream_connections = Some(limit),
                _ => at.field("max_active_downstream_connections").error("must be greater than 0"),
            }
        }
    }
    overload
}
