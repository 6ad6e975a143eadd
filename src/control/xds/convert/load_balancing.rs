//! How a cluster picks endpoints: `lb_policy` with its settings, and the extensions of `load_balancing_policy`.

use super::at::At;
use super::fields::classify;
use super::http;
use super::report::Class;
use super::value::type_name;
use crate::config::cluster::{
    HashFunction, Hashing, LeastRequest, LoadBalancingPolicy, LocalityMode, Maglev, RingHash,
};
use crate::config::runtime::RuntimeNumber;
use crate::control::xds::pb::{self, Named};
use pb::cluster::{ClusterLbConfigOneOf, ClusterLbPolicy, ClusterRingHashLbConfigHashFunction};
use pb::extensions::{
    LeastRequestSelectionMethod, LocalityLbConfigLocalityConfigSpecifierOneOf, RingHashHashFunction,
};

/// Largest ring and table, from Envoy.
const RING_SIZE_MAX: u64 = 8 << 20;
const TABLE_SIZE_MAX: u64 = 5_000_011;

/// What policies that hash have in common.
fn hashing(use_hostname: bool, factor: Option<u32>) -> Hashing {
    Hashing { use_hostname, balance_factor_percent: factor.unwrap_or_default() }
}

/// What policies that hash have in common, by the cluster's old field. `is_strict_dns`: its `type` says so.
pub(super) fn common_hashing(
    at: &At<'_>,
    message: pb::cluster::ClusterCommonLbConfigConsistentHashingLbConfig,
    is_strict_dns: bool,
) -> Hashing {
    classify!(at, message => pb::cluster::ClusterCommonLbConfigConsistentHashingLbConfig {
        implemented: use_hostname_for_hashing = "of STRICT_DNS alone",
            hash_balance_factor = "of what is under way on the same worker";
    });
    if use_hostname_for_hashing && !is_strict_dns {
        at.field("use_hostname_for_hashing").error("needs a cluster of type STRICT_DNS");
    }
    hashing(use_hostname_for_hashing, hash_balance_factor)
}

/// What a cluster's own balancer is, where it `provides` one; `None`: nobody knows.
fn cluster_provided(at: &At<'_>, provides: Option<bool>) -> LoadBalancingPolicy {
    if provides == Some(false) {
        at.error("a cluster of this type does not provide a load balancer of its own");
    }
    LoadBalancingPolicy::ClusterProvided
}

/// The policy by its old name, with its settings, which the others leave alone.
pub(super) fn lb_policy(
    at: &At<'_>,
    value: i32,
    config: Option<ClusterLbConfigOneOf>,
    hashing: Hashing,
    provides: Option<bool>,
) -> LoadBalancingPolicy {
    use ClusterLbConfigOneOf as Config;
    let policy: ClusterLbPolicy = at.enumeration("lb_policy", value);
    let (mut ring, mut maglev) = (RingHash::default(), Maglev::default());
    let mut least = LeastRequest::default();
    match config {
        Some(Config::RoundRobinLbConfig(message)) => {
            classify!(&at.field("round_robin_lb_config"), message => pb::cluster::ClusterRoundRobinLbConfig {
                not_yet: slow_start_config;
            });
        }
        Some(Config::RingHashLbConfig(message)) => {
            let at = &at.field("ring_hash_lb_config");
            classify!(at, message => pb::cluster::ClusterRingHashLbConfig {
                implemented: minimum_ring_size, hash_function, maximum_ring_size;
            });
            let function = match at.enumeration("hash_function", hash_function) {
                ClusterRingHashLbConfigHashFunction::XxHash => HashFunction::XxHash,
                ClusterRingHashLbConfigHashFunction::MurmurHash2 => HashFunction::MurmurHash2,
            };
            ring = self::ring(at, minimum_ring_size, maximum_ring_size, function);
        }
        Some(Config::MaglevLbConfig(message)) => {
            let at = &at.field("maglev_lb_config");
            classify!(at, message => pb::cluster::ClusterMaglevLbConfig { implemented: table_size; });
            maglev = self::maglev(at, table_size);
        }
        Some(Config::LeastRequestLbConfig(message)) => {
            let at = &at.field("least_request_lb_config");
            classify!(at, message => pb::cluster::ClusterLeastRequestLbConfig {
                implemented: choice_count = "requests under way on the same worker count", active_request_bias;
                not_yet: slow_start_config;
            });
            least = least_request(at, choice_count, active_request_bias);
        }
        // Only clusters of its own type read it.
        Some(Config::OriginalDstLbConfig(_)) | None => {}
    }
    match policy {
        ClusterLbPolicy::RoundRobin => LoadBalancingPolicy::RoundRobin,
        ClusterLbPolicy::LoadBalancingPolicyConfig => {
            at.field("load_balancing_policy")
                .error("must be set with lb_policy: LOAD_BALANCING_POLICY_CONFIG");
            LoadBalancingPolicy::RoundRobin
        }
        ClusterLbPolicy::ClusterProvided => cluster_provided(&at.field("lb_policy"), provides),
        ClusterLbPolicy::LeastRequest => LoadBalancingPolicy::LeastRequest(least),
        ClusterLbPolicy::RingHash => LoadBalancingPolicy::RingHash(RingHash { hashing, ..ring }),
        ClusterLbPolicy::Random => LoadBalancingPolicy::Random,
        ClusterLbPolicy::Maglev => LoadBalancingPolicy::Maglev(Maglev { hashing, ..maglev }),
    }
}

fn ring(at: &At<'_>, min: Option<u64>, max: Option<u64>, hash_function: HashFunction) -> RingHash {
    let default = RingHash::default();
    for (field, size) in [("minimum_ring_size", min), ("maximum_ring_size", max)] {
        if size.is_some_and(|size| size > RING_SIZE_MAX) {
            at.field(field).error(format!("must be at most {RING_SIZE_MAX}"));
        }
    }
    let (min, max) = (min.unwrap_or(default.minimum_ring_size), max.unwrap_or(default.maximum_ring_size));
    if min > max {
        at.error(format!("minimum_ring_size ({min}) > maximum_ring_size ({max})"));
    }
    RingHash { minimum_ring_size: min, maximum_ring_size: max, hash_function, ..default }
}

fn maglev(at: &At<'_>, table_size: Option<u64>) -> Maglev {
    let default = Maglev::default();
    let Some(table_size) = table_size else { return default };
    let is_prime = table_size > 1 && (2..).take_while(|n| n * n <= table_size).all(|n| table_size % n != 0);
    if table_size > TABLE_SIZE_MAX {
        at.field("table_size").error(format!("must be at most {TABLE_SIZE_MAX}"));
    } else if !is_prime {
        at.field("table_size").error("must be a prime number");
    } else {
        return Maglev { table_size, ..default };
    }
    default
}

fn least_request(at: &At<'_>, choices: Option<u32>, bias: Option<pb::core::RuntimeDouble>) -> LeastRequest {
    let default = LeastRequest::default();
    let bias = bias.map(|message| {
        let at = &at.field("active_request_bias");
        classify!(at, message => pb::core::RuntimeDouble {
            implemented: default_value, runtime_key;
        });
        let runtime_key = at.context.runtime.key(&runtime_key);
        if default_value < 0.0 || !default_value.is_finite() {
            at.field("default_value").warn("is no number from 0 on: as in Envoy 1 counts instead");
            return RuntimeNumber { runtime_key, ..default.active_request_bias.clone() };
        }
        RuntimeNumber { default_value, runtime_key }
    });
    LeastRequest {
        choice_count: choices.unwrap_or(default.choice_count),
        active_request_bias: bias.unwrap_or_else(|| default.active_request_bias.clone()),
        ..default
    }
}

/// The first extension that is known, as in Envoy.
pub(super) fn extensions(
    at: &At<'_>,
    message: pb::cluster::LoadBalancingPolicy,
    provides: Option<bool>,
) -> (LoadBalancingPolicy, LocalityMode) {
    classify!(at, message => pb::cluster::LoadBalancingPolicy { implemented: policies = "the first that is known counts"; });
    if policies.is_empty() {
        at.field("policies").error("must not be empty");
    }
    let known = |policy: &pb::cluster::LoadBalancingPolicyPolicy| {
        let any =
            policy.typed_extension_config.as_ref().and_then(|extension| extension.typed_config.as_ref());
        any.is_some_and(|any| KNOWN.contains(&type_name(any)))
    };
    let chosen = policies.iter().position(known).unwrap_or(0);
    let none = (LoadBalancingPolicy::RoundRobin, LocalityMode::Ignored);
    let Some(policy) = policies.into_iter().nth(chosen) else { return none };
    let at = &at.item("policies", chosen);
    classify!(at, policy => pb::cluster::LoadBalancingPolicyPolicy { implemented: typed_extension_config; });
    let at = &at.field("typed_extension_config");
    let Some(any) = typed_extension_config.and_then(|extension| http::typed_config(at, extension)) else {
        return none;
    };
    extension(&at.field("typed_config"), &any, provides).unwrap_or(none)
}

/// The extensions that are known.
const KNOWN: [&str; 6] = [
    pb::extensions::ClusterProvided::NAME,
    pb::extensions::LeastRequest::NAME,
    pb::extensions::Maglev::NAME,
    pb::extensions::Random::NAME,
    pb::extensions::RingHash::NAME,
    pb::extensions::RoundRobin::NAME,
];

fn extension(
    at: &At<'_>,
    any: &pb::google::Any,
    provides: Option<bool>,
) -> Option<(LoadBalancingPolicy, LocalityMode)> {
    let name = type_name(any);
    if name == pb::extensions::ClusterProvided::NAME {
        let message = at.unpack::<pb::extensions::ClusterProvided>(any)?;
        classify!(at, message => pb::extensions::ClusterProvided {});
        return Some((cluster_provided(at, provides), LocalityMode::Ignored));
    }
    if provides == Some(true) {
        at.error(
            "a cluster of type ORIGINAL_DST provides its load balancer: only ClusterProvided is allowed",
        );
        return None;
    }
    if name == pb::extensions::RoundRobin::NAME {
        let message = at.unpack::<pb::extensions::RoundRobin>(any)?;
        classify!(at, message => pb::extensions::RoundRobin {
            implemented: locality_lb_config;
            not_yet: slow_start_config;
        });
        Some((LoadBalancingPolicy::RoundRobin, locality(at, locality_lb_config)))
    } else if name == pb::extensions::Random::NAME {
        let message = at.unpack::<pb::extensions::Random>(any)?;
        classify!(at, message => pb::extensions::Random { implemented: locality_lb_config; });
        Some((LoadBalancingPolicy::Random, locality(at, locality_lb_config)))
    } else if name == pb::extensions::LeastRequest::NAME {
        let message = at.unpack::<pb::extensions::LeastRequest>(any)?;
        classify!(at, message => pb::extensions::LeastRequest {
            implemented: choice_count = "requests under way on the same worker count", active_request_bias,
                locality_lb_config, enable_full_scan, selection_method;
            not_yet: slow_start_config;
        });
        let method: LeastRequestSelectionMethod = at.enumeration("selection_method", selection_method);
        let full_scan = enable_full_scan.unwrap_or(method == LeastRequestSelectionMethod::FullScan);
        let least = LeastRequest { full_scan, ..least_request(at, choice_count, active_request_bias) };
        Some((LoadBalancingPolicy::LeastRequest(least), locality(at, locality_lb_config)))
    } else if name == pb::extensions::Maglev::NAME {
        let message = at.unpack::<pb::extensions::Maglev>(any)?;
        classify!(at, message => pb::extensions::Maglev {
            implemented: table_size, consistent_hashing_lb_config, locality_weighted_lb_config;
        });
        let hashing = consistent(at, consistent_hashing_lb_config).unwrap_or_default();
        let maglev = Maglev { hashing, ..maglev(at, table_size) };
        Some((LoadBalancingPolicy::Maglev(maglev), weighted(locality_weighted_lb_config.is_some())))
    } else if name == pb::extensions::RingHash::NAME {
        let message = at.unpack::<pb::extensions::RingHash>(any)?;
        classify!(at, message => pb::extensions::RingHash {
            implemented: hash_function, minimum_ring_size, maximum_ring_size,
                use_hostname_for_hashing = "without consistent_hashing_lb_config",
                hash_balance_factor = "without consistent_hashing_lb_config; of what is under way on the same worker",
                consistent_hashing_lb_config, locality_weighted_lb_config;
        });
        let function = match at.enumeration("hash_function", hash_function) {
            RingHashHashFunction::DefaultHash | RingHashHashFunction::XxHash => HashFunction::XxHash,
            RingHashHashFunction::MurmurHash2 => HashFunction::MurmurHash2,
        };
        let own = self::hashing(use_hostname_for_hashing, hash_balance_factor);
        let hashing = consistent(at, consistent_hashing_lb_config).unwrap_or(own);
        let ring = RingHash { hashing, ..ring(at, minimum_ring_size, maximum_ring_size, function) };
        Some((LoadBalancingPolicy::RingHash(ring), weighted(locality_weighted_lb_config.is_some())))
    } else {
        at.extension(Class::NotYet, any, "round robin instead");
        None
    }
}

fn weighted(is_set: bool) -> LocalityMode {
    if is_set { LocalityMode::Weighted } else { LocalityMode::Ignored }
}

fn consistent(at: &At<'_>, message: Option<pb::extensions::ConsistentHashingLbConfig>) -> Option<Hashing> {
    let message = message?;
    let at = &at.field("consistent_hashing_lb_config");
    classify!(at, message => pb::extensions::ConsistentHashingLbConfig {
        implemented: use_hostname_for_hashing,
            hash_balance_factor = "of what is under way on the same worker";
        not_yet: hash_policy;
    });
    Some(hashing(use_hostname_for_hashing, hash_balance_factor))
}

fn locality(at: &At<'_>, message: Option<pb::extensions::LocalityLbConfig>) -> LocalityMode {
    let Some(message) = message else { return LocalityMode::Ignored };
    let at = &at.field("locality_lb_config");
    classify!(at, message => pb::extensions::LocalityLbConfig {
        implemented: locality_config_specifier = "zone_aware_lb_config does nothing without a local cluster";
    });
    match locality_config_specifier {
        Some(LocalityLbConfigLocalityConfigSpecifierOneOf::LocalityWeightedLbConfig(_)) => {
            LocalityMode::Weighted
        }
        Some(LocalityLbConfigLocalityConfigSpecifierOneOf::ZoneAwareLbConfig(_)) | None => {
            LocalityMode::Ignored
        }
    }
}
