//! How clusters resolve names: the fields of the cluster itself, `envoy.clusters.dns`, resolvers.
use std::net::SocketAddr;
use std::time::Duration;

use super::address;
use super::at::At;
use super::fields::classify;
use super::http::typed_config;
use super::report::Class;
use super::value::type_name;
use crate::config::address::Address;
use crate::config::cluster::{Discovery, Dns, DnsLookupFamily, RefreshRate};
use crate::control::xds::pb::{self, Named};

/// Resolver of macOS, which Envoy knows everywhere and builds nowhere else.
const GETADDRINFO: &str = pb::extensions::GetAddrInfoDnsResolverConfig::NAME;

/// The fields of a cluster that say how it resolves names.
pub(super) struct Fields {
    pub(super) dns_refresh_rate: Option<pb::google::Duration>,
    pub(super) dns_jitter: Option<pb::google::Duration>,
    pub(super) dns_failure_refresh_rate: Option<pb::cluster::ClusterRefreshRate>,
    pub(super) respect_dns_ttl: bool,
    pub(super) dns_lookup_family: i32,
    pub(super) dns_resolvers: Vec<pb::core::Address>,
    pub(super) use_tcp_for_dns_lookups: bool,
    pub(super) dns_resolution_config: Option<pb::core::DnsResolutionConfig>,
    pub(super) typed_dns_resolver_config: Option<pb::core::TypedExtensionConfig>,
}

/// Resolution as the fields of a cluster of type STRICT_DNS or LOGICAL_DNS say it.
pub(super) fn from_cluster(at: &At<'_>, fields: Fields) -> Dns {
    let Fields {
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
    } = fields;
    let mut dns = at.context.default_dns.clone();
    // The first form that is set counts, the newest first, as in Envoy.
    if let Some(extension) = typed_dns_resolver_config {
        resolver(&at.field("typed_dns_resolver_config"), extension, &mut dns);
    } else if let Some(message) = dns_resolution_config {
        resolution_config(&at.field("dns_resolution_config"), message, &mut dns);
    } else if !dns_resolvers.is_empty() || use_tcp_for_dns_lookups {
        dns.resolvers = resolvers(at, "dns_resolvers", dns_resolvers);
        dns.use_tcp = use_tcp_for_dns_lookups;
    }
    dns.respect_dns_ttl = respect_dns_ttl;
    dns.jitter = at.duration("dns_jitter", dns_jitter).unwrap_or_default();
    dns.refresh_rate = refresh_rate(at, "dns_refresh_rate", dns_refresh_rate).unwrap_or(dns.refresh_rate);
    dns.failure_refresh_rate = dns_failure_refresh_rate.and_then(|message| {
        let at = &at.field("dns_failure_refresh_rate");
        classify!(at, message => pb::cluster::ClusterRefreshRate { implemented: base_interval, max_interval; });
        failure_refresh_rate(at, base_interval, max_interval)
    });
    dns.lookup_family = match at.enumeration("dns_lookup_family", dns_lookup_family) {
        pb::cluster::ClusterDnsLookupFamily::Auto => DnsLookupFamily::Auto,
        pb::cluster::ClusterDnsLookupFamily::V4Only => DnsLookupFamily::V4Only,
        pb::cluster::ClusterDnsLookupFamily::V6Only => DnsLookupFamily::V6Only,
        pb::cluster::ClusterDnsLookupFamily::V4Preferred => DnsLookupFamily::V4Preferred,
        pb::cluster::ClusterDnsLookupFamily::All => DnsLookupFamily::All,
    };
    dns
}

/// Discovery as the newer extension says it.
pub(super) fn from_dns_cluster(at: &At<'_>, message: pb::extensions::DnsCluster) -> Discovery {
    classify!(at, message => pb::extensions::DnsCluster {
        implemented: dns_refresh_rate, dns_failure_refresh_rate, respect_dns_ttl, dns_jitter,
            typed_dns_resolver_config, dns_lookup_family, all_addresses_in_single_endpoint;
        not_yet: dns_min_refresh_rate;
    });
    let mut dns = at.context.default_dns.clone();
    if let Some(extension) = typed_dns_resolver_config {
        resolver(&at.field("typed_dns_resolver_config"), extension, &mut dns);
    }
    dns.respect_dns_ttl = respect_dns_ttl;
    dns.jitter = at.duration("dns_jitter", dns_jitter).unwrap_or_default();
    dns.refresh_rate = refresh_rate(at, "dns_refresh_rate", dns_refresh_rate).unwrap_or(dns.refresh_rate);
    dns.failure_refresh_rate = dns_failure_refresh_rate.and_then(|message| {
        let at = &at.field("dns_failure_refresh_rate");
        classify!(at, message => pb::extensions::DnsClusterRefreshRate {
            implemented: base_interval, max_interval;
        });
        failure_refresh_rate(at, base_interval, max_interval)
    });
    dns.lookup_family = match at.enumeration("dns_lookup_family", dns_lookup_family) {
        pb::types::DnsLookupFamily::Unspecified | pb::types::DnsLookupFamily::Auto => DnsLookupFamily::Auto,
        pb::types::DnsLookupFamily::V4Only => DnsLookupFamily::V4Only,
        pb::types::DnsLookupFamily::V6Only => DnsLookupFamily::V6Only,
        pb::types::DnsLookupFamily::V4Preferred => DnsLookupFamily::V4Preferred,
        pb::types::DnsLookupFamily::All => DnsLookupFamily::All,
    };
    if all_addresses_in_single_endpoint { Discovery::LogicalDns(dns) } else { Discovery::StrictDns(dns) }
}

/// What the bootstrap says for clusters that say nothing themselves.
pub(super) fn defaults(
    at: &At<'_>,
    typed_dns_resolver_config: Option<pb::core::TypedExtensionConfig>,
    dns_resolution_config: Option<pb::core::DnsResolutionConfig>,
    use_tcp_for_dns_lookups: bool,
) -> Dns {
    let mut dns = Dns { use_tcp: use_tcp_for_dns_lookups, ..Dns::default() };
    if let Some(extension) = typed_dns_resolver_config {
        resolver(&at.field("typed_dns_resolver_config"), extension, &mut dns);
    } else if let Some(message) = dns_resolution_config {
        resolution_config(&at.field("dns_resolution_config"), message, &mut dns);
    }
    dns
}

fn refresh_rate(at: &At<'_>, field: &str, value: Option<pb::google::Duration>) -> Option<Duration> {
    let rate = at.duration(field, value)?;
    if rate < Duration::from_millis(1) {
        at.field(field).error("must be more than 1 ms");
    }
    Some(rate)
}

fn failure_refresh_rate(
    at: &At<'_>,
    base_interval: Option<pb::google::Duration>,
    max_interval: Option<pb::google::Duration>,
) -> Option<RefreshRate> {
    if base_interval.is_none() {
        at.field("base_interval").error("must be set");
    }
    let base_interval = refresh_rate(at, "base_interval", base_interval)?;
    let max_interval =
        refresh_rate(at, "max_interval", max_interval).unwrap_or_else(|| base_interval.saturating_mul(10));
    if max_interval < base_interval {
        at.error("max_interval must be at least base_interval");
    }
    Some(RefreshRate { base_interval, max_interval })
}

fn resolution_config(at: &At<'_>, message: pb::core::DnsResolutionConfig, dns: &mut Dns) {
    let addresses;
    {
        classify!(at, message => pb::core::DnsResolutionConfig { implemented: resolvers, dns_resolver_options; });
        addresses = resolvers;
        resolver_options(at, dns_resolver_options, dns);
    }
    dns.resolvers = resolvers(at, "resolvers", addresses);
}

fn resolver_options(at: &At<'_>, message: Option<pb::core::DnsResolverOptions>, dns: &mut Dns) {
    let Some(message) = message else { return };
    classify!(&at.field("dns_resolver_options"), message => pb::core::DnsResolverOptions {
        implemented: use_tcp_for_dns_lookups, no_default_search_domain;
    });
    dns.use_tcp = use_tcp_for_dns_lookups;
    dns.no_default_search_domain = no_default_search_domain;
}

/// The resolver extension: c-ares' options are understood by our resolver; the system's resolver has none of note.
fn resolver(at: &At<'_>, extension: pb::core::TypedExtensionConfig, dns: &mut Dns) {
    let Some(any) = typed_config(at, extension) else { return };
    let at = &at.field("typed_config");
    match type_name(&any) {
        pb::extensions::CaresDnsResolverConfig::NAME => {
            if let Some(message) = at.unpack(&any) {
                cares(at, message, dns);
            }
        }
        GETADDRINFO => {
            if let Some(message) = at.unpack::<pb::extensions::GetAddrInfoDnsResolverConfig>(&any) {
                classify!(at, message => pb::extensions::GetAddrInfoDnsResolverConfig {
                    implemented: num_retries;
                    no_effect: num_resolver_threads = "no thread blocks on a look-up";
                });
                dns.query_tries = num_retries.map(|retries| retries.saturating_add(1));
            }
        }
        _ => at.extension(Class::Refused, &any, ""),
    }
}

fn cares(at: &At<'_>, message: pb::extensions::CaresDnsResolverConfig, dns: &mut Dns) {
    let addresses;
    {
        classify!(at, message => pb::extensions::CaresDnsResolverConfig {
            implemented: resolvers, use_resolvers_as_fallback, dns_resolver_options, query_timeout_seconds,
                query_tries;
            no_effect: udp_max_queries = "every query has a socket of its own",
                max_udp_channel_duration = "every query has a socket of its own",
                reinit_channel_on_timeout = "every query has a socket of its own",
                qcache_max_ttl = "answers are kept as long as refresh rates say";
            not_yet: filter_unroutable_families, rotate_nameservers, edns0_max_payload_size;
        });
        addresses = resolvers;
        dns.resolvers_are_fallback = use_resolvers_as_fallback;
        dns.query_timeout = query_timeout_seconds.map(Duration::from_secs);
        dns.query_tries = query_tries;
        resolver_options(at, dns_resolver_options, dns);
    }
    dns.resolvers = resolvers(at, "resolvers", addresses);
}

fn resolvers(at: &At<'_>, field: &str, addresses: Vec<pb::core::Address>) -> Vec<SocketAddr> {
    let convert = |(index, message)| {
        let at = &at.item(field, index);
        match address::fixed(at, Some(message))?.0 {
            // c-ares takes port 0 for DNS's own.
            Address::Ip(address) if address.port() == 0 => Some(SocketAddr::new(address.ip(), 53)),
            Address::Ip(address) => Some(address),
            Address::Pipe(_) | Address::Internal(_) => {
                at.error("a resolver has an IP address");
                None
            }
        }
    };
    addresses.into_iter().enumerate().filter_map(convert).collect()
}
