//! Clusters: discovery, HTTP options, load balancing, limits.
use std::sync::Arc;
use std::time::Duration;

use super::at::At;
use super::fields::classify;
use super::proxy_protocol::Way;
use super::report::Class;
use super::value::{json_object, type_name};
use super::{
    circuit_breakers, config_source, dns, endpoint, http, http_filter, http2, load_balancing, original_dst,
    proxy_protocol, socket,
};
use crate::config::ads::Eds;
use crate::config::cluster::{
    Cluster, CommonLbConfig, Discovery, Hashing, LocalityMode, OriginalDst, RequestNames,
};
use crate::config::http::{CommonHttpProtocolOptions, Http1ProtocolOptions};
use crate::config::http2::{Http2ProtocolOptions, UpstreamProtocol};
use crate::config::listener::BUFFER_LIMIT_BYTES_DEFAULT;
use crate::config::load_metrics::LoadMetric;
use crate::config::metadata::ORIGINAL_DST;
use crate::config::tls::UpstreamTls;
use crate::config::transport_socket::{SocketSettings, TransportSocketMatch};
use crate::control::xds::pb::{self, Named};
use crate::protocol::http::headers::HeaderName;
use pb::cluster::{
    ClusterClusterDiscoveryTypeOneOf, ClusterClusterProtocolSelection,
    ClusterCommonLbConfigLocalityConfigSpecifierOneOf, ClusterDiscoveryType,
};
use pb::extensions::{
    HttpProtocolOptionsExplicitHttpConfigProtocolConfigOneOf as ExplicitProtocol,
    HttpProtocolOptionsUpstreamProtocolOptionsOneOf as UpstreamOptions,
};

/// Prefix of the names of fields and enum values of a cluster in findings.
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster.";

/// Under which runtime has the highest share of requests that endpoints are spared. Source: Envoy
/// `ClusterImplBase::DropOverloadRuntimeKey`.
const DROP_OVERLOAD_LIMIT: &str = "load_balancing_policy.drop_overload_limit";

/// Keys under which Envoy looks for the HTTP options of a cluster.
const OPTIONS_KEYS: [&str; 2] =
    ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "envoy.upstreams.http.http_protocol_options"];

/// One cluster.
pub(super) fn cluster(at: &At<'_>, message: pb::cluster::Cluster) -> Option<Cluster> {
    classify!(at, message => pb::cluster::Cluster {
        implemented: name, alt_stat_name,
            cluster_discovery_type = "STATIC, STRICT_DNS, LOGICAL_DNS, ORIGINAL_DST, EDS and envoy.clusters.dns; others are refused",
            connect_timeout, per_connection_buffer_limit_bytes,
            lb_policy = "CLUSTER_PROVIDED of ORIGINAL_DST alone", load_assignment, max_requests_per_connection,
            circuit_breakers, common_http_protocol_options, http_protocol_options,
            http2_protocol_options,
            typed_extension_protocol_options = "HttpProtocolOptions with HTTP/1 and HTTP/2; HTTP/3 is refused",
            dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family, dns_resolvers,
            use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, wait_for_warm_on_init,
            upstream_bind_config, common_lb_config, lb_config, transport_socket = "raw_buffer and TLS, and what goes around them; others are refused",
            transport_socket_matches,
            metadata, protocol_selection, upstream_connection_options,
            upstream_http_protocol_options = "without effect where there is no TLS", load_balancing_policy = "RoundRobin, LeastRequest, Random, RingHash, Maglev, and ClusterProvided of ORIGINAL_DST; others are passed over",
            cleanup_interval = "of ORIGINAL_DST", eds_cluster_config = "of EDS", lrs_report_endpoint_metrics;
        no_effect: close_connections_on_host_health_failure = "no active health checks",
            ignore_health_on_host_removal = "no active health checks",
            lrs_server = "as in Envoy: load reports go to load_stats_config's server, which says of which clusters";
        not_yet: stats_matcher, health_checks, outlier_detection, per_connection_buffer_high_watermark_timeout,
            track_cluster_stats, track_timeout_budgets, preconnect_policy, queuing_policies,
            connection_pool_per_downstream_connection;
        refused: transport_socket_matcher,
            lb_subset_config, filters = "no network filters towards endpoints", upstream_config;
    });
    let mut cluster = Cluster::new(&name);
    let mut metadata = at.metadata("metadata", metadata);
    cluster.wait_for_warm_on_init = wait_for_warm_on_init.unwrap_or(true);
    cluster.drop_overload_limit = at.context.runtime.key(DROP_OVERLOAD_LIMIT);
    cluster.load_metrics = load_metrics(at, &lrs_report_endpoint_metrics);
    cluster.per_connection_buffer_limit_bytes =
        per_connection_buffer_limit_bytes.unwrap_or(BUFFER_LIMIT_BYTES_DEFAULT);
    cluster.connect_timeout =
        at.duration("connect_timeout", connect_timeout).unwrap_or(cluster.connect_timeout);
    if cluster.connect_timeout < Duration::from_millis(1) {
        at.field("connect_timeout").error("must be at least 1 ms");
    }

    let deprecated = dns::Fields {
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
    };
    let is_strict_dns = matches!(
        cluster_discovery_type,
        Some(ClusterClusterDiscoveryTypeOneOf::Type(kind)) if kind == ClusterDiscoveryType::StrictDns as i32
    );
    let set_eds = eds_cluster_config.is_some();
    let is_eds = cluster_discovery_type
        == Some(ClusterClusterDiscoveryTypeOneOf::Type(ClusterDiscoveryType::Eds as i32));
    let mut load_assignment = load_assignment;
    let eds = || config_source::eds(at, eds_cluster_config, &name);
    let mut discovery = discovery(at, cluster_discovery_type, deprecated, eds);
    if set_eds && !is_eds {
        at.field("eds_cluster_config").error("only a cluster of type EDS has it");
    }
    if is_eds && load_assignment.take().is_some() {
        at.field("load_assignment").warn("an EDS cluster has its endpoints from the control plane alone");
    }
    let original = original_dst::settings(at, cleanup_interval, lb_config.as_ref());
    if let Some(Discovery::OriginalDst(settings)) = &mut discovery {
        original_dst::check(at, lb_policy, load_assignment.is_some());
        *settings = original;
    }
    let names = matches!(discovery, Some(Discovery::StrictDns(_) | Discovery::LogicalDns(_)));
    if let Some(message) = load_assignment {
        // Of an unknown kind of discovery both addresses and names may be right.
        let names = names || discovery.is_none();
        let assignment = endpoint::assignment(&at.field("load_assignment"), message, names);
        cluster.load_assignment = Arc::new(assignment);
    }

    let options = extension_options(at, typed_extension_protocol_options);
    let HttpOptions { common, http1, http2, protocol, request_names } = options.unwrap_or_else(|| {
        let selection: ClusterClusterProtocolSelection =
            at.enumeration("protocol_selection", protocol_selection);
        let protocol = match selection {
            ClusterClusterProtocolSelection::UseDownstreamProtocol => UpstreamProtocol::Downstream,
            // As Envoy: these options, even empty, make it HTTP/2.
            ClusterClusterProtocolSelection::UseConfiguredProtocol if http2_protocol_options.is_some() => {
                UpstreamProtocol::Http2
            }
            ClusterClusterProtocolSelection::UseConfiguredProtocol => UpstreamProtocol::Http1,
        };
        let common = http::common(&at.field("common_http_protocol_options"), common_http_protocol_options);
        HttpOptions {
            http1: http::http1(&at.field("http_protocol_options"), http_protocol_options).0,
            http2: http2::http2(&at.field("http2_protocol_options"), http2_protocol_options, heads(&common)),
            common,
            protocol,
            request_names: request_names(
                &at.field("upstream_http_protocol_options"),
                upstream_http_protocol_options,
            ),
        }
    });
    cluster.common_http = common;
    cluster.http1 = http1;
    cluster.http2 = http2;
    cluster.upstream_protocol = protocol;
    if cluster.common_http.max_requests_per_connection.is_none() {
        cluster.common_http.max_requests_per_connection =
            max_requests_per_connection.filter(|count| *count > 0);
    }

    if let Some(message) = circuit_breakers {
        cluster.circuit_breakers = circuit_breakers::convert(&at.field("circuit_breakers"), message);
    }
    let mut reached = SocketSettings::default();
    if let Some(message) = transport_socket {
        let way = proxy_protocol::transport_socket(&at.field("transport_socket"), message);
        let Way { proxy_protocol, tls, original_dst } = way;
        reached = SocketSettings { proxy_protocol, tls, original_dst, matches: Vec::new() };
    }
    reached.matches = self::transport_socket_matches(at, transport_socket_matches);
    let sockets = || {
        let others = reached.matches.iter().map(|socket| socket.tls.as_deref());
        std::iter::once(reached.tls.as_deref()).chain(others)
    };
    if cluster.upstream_protocol == UpstreamProtocol::Negotiated && sockets().any(|tls| tls.is_none()) {
        at.error("with auto_config every transport socket must be TLS: the protocol is chosen by ALPN");
    }
    let request_names = request_names.filter(|_| sockets().flatten().next().is_some());
    // Whom rules trust that are told shows once they are: without anybody the handshake fails.
    let proves_nothing = |tls: &UpstreamTls| {
        !tls.common.names_validation()
            && !tls.common.validation.as_ref().is_some_and(|it| it.trusts_somebody())
    };
    if request_names.as_ref().is_some_and(|names| names.subject_alt_name)
        && sockets().flatten().any(proves_nothing)
    {
        at.field("upstream_http_protocol_options").field("auto_san_validation").error(
            "names that nobody trusted vouches for prove nothing: set validation_context.trusted_ca of the TLS context",
        );
    }
    cluster.request_names = request_names;
    // Of what nobody tells nothing is kept.
    let told = reached.tell_of_cluster();
    metadata.retain(|(namespace, _)| told && **namespace == *ORIGINAL_DST);
    cluster.set_extras(alt_stat_name.into(), metadata);
    if reached != SocketSettings::default() {
        *cluster.sockets_mut() = reached;
    }
    if let Some(message) = upstream_connection_options {
        let at = &at.field("upstream_connection_options");
        classify!(at, message => pb::cluster::UpstreamConnectionOptions {
            implemented: tcp_keepalive;
            no_effect: set_local_interface_name_on_upstream_connections = "only logs would show it";
            not_yet: happy_eyeballs_config;
        });
        cluster.tcp_keepalive =
            tcp_keepalive.and_then(|message| socket::tcp_keepalive(&at.field("tcp_keepalive"), message));
    }
    cluster.bind_config = upstream_bind_config
        .map(|message| socket::bind_config(&at.field("upstream_bind_config"), message))
        .or_else(|| at.context.default_bind.clone());

    let mut hashing = Hashing::default();
    if let Some(message) = common_lb_config {
        (cluster.common_lb, hashing) =
            self::common_lb_config(&at.field("common_lb_config"), message, is_strict_dns);
    }
    let provides = discovery.as_ref().map(|discovery| matches!(discovery, Discovery::OriginalDst(_)));
    cluster.load_balancing = match load_balancing_policy {
        Some(message) => {
            let (policy, locality) =
                load_balancing::extensions(&at.field("load_balancing_policy"), message, provides);
            cluster.common_lb.locality = locality;
            policy
        }
        None => load_balancing::lb_policy(at, lb_policy, lb_config, hashing, provides),
    };

    cluster.discovery = discovery?;
    if matches!(cluster.discovery, Discovery::LogicalDns(_)) {
        let mut localities = cluster.load_assignment.localities.iter();
        let single =
            matches!((localities.next(), localities.next()), (Some(only), None) if only.endpoints.len() == 1);
        if !single {
            at.field("load_assignment")
                .error("LOGICAL_DNS clusters must have a single locality with a single endpoint");
        }
    }
    Some(cluster)
}

/// Other ways of reaching endpoints.
fn transport_socket_matches(
    at: &At<'_>,
    messages: Vec<pb::cluster::ClusterTransportSocketMatch>,
) -> Vec<TransportSocketMatch> {
    let mut matches: Vec<TransportSocketMatch> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        let at = &at.item("transport_socket_matches", index);
        classify!(at, message => pb::cluster::ClusterTransportSocketMatch {
            implemented: name = "total_match_count is not counted", r#match, transport_socket;
        });
        if matches.iter().any(|other| *other.name == *name) {
            at.field("name").error(format!("duplicate name {name:?}"));
        }
        let Way { proxy_protocol, tls, original_dst } = transport_socket
            .map(|message| proxy_protocol::transport_socket(&at.field("transport_socket"), message))
            .unwrap_or_default();
        let criteria = r#match.map(json_object).unwrap_or_default();
        matches.push(TransportSocketMatch {
            name: name.into(),
            criteria: criteria.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            tls,
            proxy_protocol,
            original_dst,
        });
    }
    matches
}

/// Which metrics of endpoints' load are told. As in Envoy what names none is taken, and tells nothing.
fn load_metrics(at: &At<'_>, names: &[String]) -> Box<[LoadMetric]> {
    let metric = |(index, name): (usize, &String)| {
        let metric = LoadMetric::parse(name);
        if metric.is_none() {
            at.item("lrs_report_endpoint_metrics", index).warn(format!("{name:?} names no metric of load"));
        }
        metric
    };
    names.iter().enumerate().filter_map(metric).collect()
}

fn discovery(
    at: &At<'_>,
    kind: Option<ClusterClusterDiscoveryTypeOneOf>,
    deprecated: dns::Fields,
    eds: impl FnOnce() -> Option<Eds>,
) -> Option<Discovery> {
    let value = match kind {
        None => 0,
        Some(ClusterClusterDiscoveryTypeOneOf::Type(value)) => value,
        Some(ClusterClusterDiscoveryTypeOneOf::ClusterType(message)) => {
            return custom_discovery(&at.field("cluster_type"), message, deprecated);
        }
    };
    match at.enumeration("type", value) {
        ClusterDiscoveryType::Static => Some(Discovery::Static),
        ClusterDiscoveryType::StrictDns => Some(Discovery::StrictDns(dns::from_cluster(at, deprecated))),
        ClusterDiscoveryType::LogicalDns => Some(Discovery::LogicalDns(dns::from_cluster(at, deprecated))),
        ClusterDiscoveryType::OriginalDst => Some(Discovery::OriginalDst(OriginalDst::default())),
        ClusterDiscoveryType::Eds => eds().map(Discovery::Eds),
    }
}

fn custom_discovery(
    at: &At<'_>,
    message: pb::cluster::ClusterCustomClusterType,
    deprecated: dns::Fields,
) -> Option<Discovery> {
    classify!(at, message => pb::cluster::ClusterCustomClusterType {
        implemented: name, typed_config = "envoy.extensions.clusters.dns.v3.DnsCluster; others are refused";
    });
    let Some(any) = typed_config else {
        // The names under which Envoy registers its own kinds.
        return match name.as_str() {
            "envoy.cluster.static" => Some(Discovery::Static),
            "envoy.cluster.strict_dns" => Some(Discovery::StrictDns(dns::from_cluster(at, deprecated))),
            "envoy.cluster.original_dst" => Some(Discovery::OriginalDst(OriginalDst::default())),
            "envoy.cluster.logical_dns" => Some(Discovery::LogicalDns(dns::from_cluster(at, deprecated))),
            _ => {
                at.field("name").found(Class::Refused, format!("{CLUSTER}cluster_type.{name}"), "");
                None
            }
        };
    };
    let at = &at.field("typed_config");
    if type_name(&any) != pb::extensions::DnsCluster::NAME {
        at.extension(Class::Refused, &any, "");
        return None;
    }
    Some(dns::from_dns_cluster(at, at.unpack(&any)?))
}

/// What a cluster says of HTTP.
struct HttpOptions {
    common: CommonHttpProtocolOptions,
    http1: Http1ProtocolOptions,
    http2: Http2ProtocolOptions,
    protocol: UpstreamProtocol,
    /// Names that requests give to TLS.
    request_names: Option<RequestNames>,
}

/// What the cluster's `HttpProtocolOptions` say; `None` without them.
fn extension_options(
    at: &At<'_>,
    options: std::collections::BTreeMap<String, pb::google::Any>,
) -> Option<HttpOptions> {
    let mut found = None;
    for (key, any) in &options {
        let at = &at.key("typed_extension_protocol_options", key);
        if type_name(any) == pb::extensions::HttpProtocolOptions::NAME {
            if !OPTIONS_KEYS.contains(&key.as_str()) {
                at.error(format!("these options go under the key {:?}", OPTIONS_KEYS[0]));
            }
            found = at.unpack(any).map(|message| http_protocol_options(at, message));
        } else {
            at.extension(Class::Refused, any, "");
        }
    }
    found
}

fn http_protocol_options(at: &At<'_>, message: pb::extensions::HttpProtocolOptions) -> HttpOptions {
    classify!(at, message => pb::extensions::HttpProtocolOptions {
        implemented: common_http_protocol_options, upstream_protocol_options = "HTTP/1 and HTTP/2; HTTP/3 is refused",
            upstream_http_protocol_options = "without effect where there is no TLS",
            http_filters = "empty, or the upstream codec alone; others are refused";
        no_effect: header_validation_config = "headers are always validated";
        not_yet: hash_policy, outlier_detection, request_mirror_policies, retry_policy;
    });
    for (index, filter) in http_filters.into_iter().enumerate() {
        http_filter::upstream_filter(&at.item("http_filters", index), filter);
    }
    let common = http::common(&at.field("common_http_protocol_options"), common_http_protocol_options);
    let (http1, http2, protocol) = match upstream_protocol_options {
        Some(UpstreamOptions::ExplicitHttpConfig(message)) => {
            let at = &at.field("explicit_http_config");
            classify!(at, message => pb::extensions::HttpProtocolOptionsExplicitHttpConfig {
                implemented: protocol_config = "HTTP/1 and HTTP/2; HTTP/3 is refused";
            });
            explicit(at, protocol_config, heads(&common))
        }
        Some(UpstreamOptions::UseDownstreamProtocolConfig(message)) => {
            let at = &at.field("use_downstream_protocol_config");
            classify!(at, message => pb::extensions::HttpProtocolOptionsUseDownstreamHttpConfig {
                implemented: http_protocol_options, http2_protocol_options;
                no_effect: http3_protocol_options = "no HTTP/3 client";
            });
            let http1 = http::http1(&at.field("http_protocol_options"), http_protocol_options).0;
            let http2 =
                http2::http2(&at.field("http2_protocol_options"), http2_protocol_options, heads(&common));
            (http1, http2, UpstreamProtocol::Downstream)
        }
        Some(UpstreamOptions::AutoConfig(message)) => {
            let at = &at.field("auto_config");
            classify!(at, message => pb::extensions::HttpProtocolOptionsAutoHttpConfig {
                implemented: http_protocol_options, http2_protocol_options;
                no_effect: alternate_protocols_cache_options = "only HTTP/3, which is refused, asks the cache";
                refused: http3_protocol_options = "no QUIC";
            });
            let http1 = http::http1(&at.field("http_protocol_options"), http_protocol_options).0;
            let http2 =
                http2::http2(&at.field("http2_protocol_options"), http2_protocol_options, heads(&common));
            (http1, http2, UpstreamProtocol::Negotiated)
        }
        None => {
            at.error("one of explicit_http_config, use_downstream_protocol_config, auto_config must be set");
            Default::default()
        }
    };
    let request_names =
        request_names(&at.field("upstream_http_protocol_options"), upstream_http_protocol_options);
    HttpOptions { common, http1, http2, protocol, request_names }
}

/// What bounds the heads of responses.
fn heads(common: &CommonHttpProtocolOptions) -> (&'static str, u32) {
    ("max_response_headers_kb", common.max_response_headers_kb)
}

/// The names that requests give to TLS; `None`: none.
fn request_names(
    at: &At<'_>,
    message: Option<pb::http::UpstreamHttpProtocolOptions>,
) -> Option<RequestNames> {
    let message = message?;
    classify!(at, message => pb::http::UpstreamHttpProtocolOptions {
        implemented: auto_sni = "connections of at most 256 names are kept per endpoint and worker",
            auto_san_validation, override_auto_sni_header;
    });
    let header = override_auto_sni_header;
    if !header.is_empty() && HeaderName::parse(header.as_bytes()).is_none() {
        at.field("override_auto_sni_header").error(format!("{header:?} is not a header name"));
    }
    let names =
        RequestNames { server_name: auto_sni, subject_alt_name: auto_san_validation, header: header.into() };
    (auto_sni || auto_san_validation).then_some(names)
}

fn explicit(
    at: &At<'_>,
    protocol: Option<ExplicitProtocol>,
    heads: (&str, u32),
) -> (Http1ProtocolOptions, Http2ProtocolOptions, UpstreamProtocol) {
    const EXPLICIT: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig.";
    match protocol {
        Some(ExplicitProtocol::HttpProtocolOptions(message)) => {
            let http1 = http::http1(&at.field("http_protocol_options"), Some(message)).0;
            (http1, Http2ProtocolOptions::default(), UpstreamProtocol::Http1)
        }
        Some(ExplicitProtocol::Http2ProtocolOptions(message)) => {
            let http2 = http2::http2(&at.field("http2_protocol_options"), Some(message), heads);
            (Http1ProtocolOptions::default(), http2, UpstreamProtocol::Http2)
        }
        Some(ExplicitProtocol::Http3ProtocolOptions(_)) => {
            let field = format!("{EXPLICIT}http3_protocol_options");
            at.field("http3_protocol_options").found(Class::Refused, field, "no QUIC");
            Default::default()
        }
        None => {
            at.error(
                "one of http_protocol_options, http2_protocol_options, http3_protocol_options must be set",
            );
            Default::default()
        }
    }
}

fn common_lb_config(
    at: &At<'_>,
    message: pb::cluster::ClusterCommonLbConfig,
    is_strict_dns: bool,
) -> (CommonLbConfig, Hashing) {
    use ClusterCommonLbConfigLocalityConfigSpecifierOneOf as Locality;
    classify!(at, message => pb::cluster::ClusterCommonLbConfig {
        implemented: healthy_panic_threshold,
            locality_config_specifier = "zone_aware_lb_config does nothing without a local cluster",
            close_connections_on_host_set_change,
            consistent_hashing_lb_config = "read by RING_HASH and MAGLEV";
        no_effect: update_merge_window = "updates are always merged",
            ignore_new_hosts_until_first_hc = "no active health checks";
        not_yet: override_host_status;
    });
    let mut config = CommonLbConfig { close_connections_on_host_set_change, ..CommonLbConfig::default() };
    if let Some(percent) = healthy_panic_threshold {
        config.healthy_panic_threshold_percent = at.percent("healthy_panic_threshold", percent);
    }
    config.locality = match locality_config_specifier {
        Some(Locality::LocalityWeightedLbConfig(_)) => LocalityMode::Weighted,
        Some(Locality::ZoneAwareLbConfig(_)) | None => LocalityMode::Ignored,
    };
    let hashing = consistent_hashing_lb_config.map(|message| {
        load_balancing::common_hashing(&at.field("consistent_hashing_lb_config"), message, is_strict_dns)
    });
    (config, hashing.unwrap_or_default())
}
