//! `EndpointsConfigDump`: the endpoints that clusters have by now, in Envoy's words.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::process::KnownCluster;
use super::standing::with_standing;
use super::untold;
use crate::config::address::{Address, EndpointAddress};
use crate::config::ads::ResourceSource;
use crate::config::cluster::{Cluster, Discovery, LocalityMode};
use crate::config::endpoint::{
    ClusterLoadAssignment, DropOverload, Endpoint, HealthStatus, Locality,
    OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
};
use crate::control::admin::{DumpEntry, DumpField, DumpSection, address_json, locality_json};
use crate::control::discovery::KeptAssignment;
use crate::control::xds::client::Standings;

pub(in crate::server) const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const DYNAMIC: &str = "envoy.admin.v3.EndpointsConfigDump.DynamicEndpointConfig";

/// Endpoints of these clusters. As in Envoy those of clusters that a control plane has told (`is_told`) are dynamic, by whatever way
/// they have their endpoints. Beyond Envoy endpoints that were refused, or of which there is no answer, are dynamic, too, whoever asks
/// for them: how they stand (`standings`, of [`ASSIGNMENT`]) has no place elsewhere.
pub(in crate::server) fn section(
    clusters: Vec<KnownCluster>,
    is_told: impl Fn(&str) -> bool,
    standings: Standings,
) -> DumpSection {
    let (mut fixed, mut dynamic, mut shown) = (Vec::new(), Vec::new(), BTreeSet::new());
    for KnownCluster { spec, hosts: _, found } in clusters {
        let config = &spec.config;
        let key: Option<(ResourceSource, Arc<str>)> = match &config.discovery {
            Discovery::Eds(eds) => Some((eds.source.clone(), eds.name(&config.name).into())),
            _ => None,
        };
        let name = key.as_ref().map_or_else(|| (*config.name).into(), |(_, name)| Arc::clone(name));
        let entry = |type_name| entry(type_name, &name, config, found.as_ref());
        let standing = key.as_ref().and_then(|key| standings.get(key)).cloned();
        let is_dynamic = is_told(&config.name);
        if !is_dynamic {
            fixed.push(entry("envoy.admin.v3.EndpointsConfigDump.StaticEndpointConfig"));
        }
        match key {
            Some(key) if is_dynamic || standing.is_some() => {
                dynamic.push(with_standing(entry(DYNAMIC), ASSIGNMENT, standing));
                shown.insert(key);
            }
            // They were told with their cluster.
            None if is_dynamic => dynamic.push(entry(DYNAMIC)),
            _ => {}
        }
    }
    for (key, standing) in standings {
        if !shown.contains(&key) {
            let entry = untold(DYNAMIC, (ASSIGNMENT, "endpoint_config"), &key.1);
            dynamic.push(with_standing(entry, ASSIGNMENT, Some(standing)));
        }
    }
    DumpSection {
        type_url: "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
        fields: vec![
            ("static_endpoint_configs", DumpField::Repeated(fixed)),
            ("dynamic_endpoint_configs", DumpField::Repeated(dynamic)),
        ],
    }
}

/// `found`: what discovery has found, if anything.
fn entry(
    type_name: &'static str,
    name: &Arc<str>,
    config: &Arc<Cluster>,
    found: Option<&Arc<KeptAssignment>>,
) -> DumpEntry {
    let (shown, config, found) = (Arc::clone(name), Arc::clone(config), found.cloned());
    DumpEntry {
        type_name,
        name: Arc::clone(name),
        render: Box::new(move || {
            let found = found.map(|kept| kept.endpoints());
            let assignment = found.as_deref().unwrap_or(&config.load_assignment);
            json!({ "endpoint_config": load_assignment(&shown, &config, assignment) })
        }),
    }
}

/// A `ClusterLoadAssignment` of that name: by priority, then by locality. What names are still to be resolved to is not in it, and of
/// an address that stands twice the first one is, as workers have it.
fn load_assignment(name: &str, config: &Cluster, assignment: &ClusterLoadAssignment) -> Value {
    let mut groups: BTreeMap<(u32, &Locality), (u32, Vec<Value>)> = BTreeMap::new();
    let mut seen = HashSet::new();
    for locality in &assignment.localities {
        let (weight, endpoints) = groups.entry((locality.priority, &locality.locality)).or_default();
        *weight = locality.weight.unwrap_or(*weight);
        for endpoint in &locality.endpoints {
            let EndpointAddress::Fixed(address) = &endpoint.address else { continue };
            if address.socket_address().is_some_and(|address| seen.insert(address)) {
                endpoints.push(lb_endpoint(endpoint, address));
            }
        }
    }
    let groups = groups.into_iter().filter(|(_, (_, endpoints))| !endpoints.is_empty());
    let localities: Vec<_> = groups
        .map(|((priority, locality), (weight, endpoints))| {
            let mut shown = Map::new();
            shown.insert("locality".to_owned(), locality_json(locality));
            shown.insert("lb_endpoints".to_owned(), endpoints.into());
            if config.common_lb.locality == LocalityMode::Weighted {
                shown.insert("load_balancing_weight".to_owned(), weight.into());
            }
            if priority != 0 {
                shown.insert("priority".to_owned(), priority.into());
            }
            Value::Object(shown)
        })
        .collect();
    let factor = match assignment.overprovisioning_factor_percent {
        0 => OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
        factor => factor,
    };
    let mut shown = Map::new();
    shown.insert("@type".to_owned(), format!("type.googleapis.com/{ASSIGNMENT}").into());
    shown.insert("cluster_name".to_owned(), name.into());
    if !localities.is_empty() {
        shown.insert("endpoints".to_owned(), localities.into());
    }
    let mut policy = json!({ "overprovisioning_factor": factor });
    if let Some(dropped) = &assignment.drop_overload {
        let per_million = dropped.per_million(config.drop_overload_limit.as_ref());
        if per_million > 0 {
            policy["drop_overloads"] = json!([drop_overload(dropped, per_million)]);
        }
    }
    shown.insert("policy".to_owned(), policy);
    Value::Object(shown)
}

/// A `DropOverload`. As Envoy: the share that counts, in parts of a million.
fn drop_overload(dropped: &DropOverload, per_million: u32) -> Value {
    let share = json!({ "numerator": per_million, "denominator": "MILLION" });
    json!({ "category": &*dropped.category, "drop_percentage": share })
}

/// An `LbEndpoint`; `address`: its own.
fn lb_endpoint(endpoint: &Endpoint, address: &Address) -> Value {
    // Of typed metadata only what it does is kept.
    let Endpoint { address: _, hostname, weight, health_status, metadata, added_tlvs: _ } = endpoint;
    // Envoy always has a place for how health is checked, which nothing is said of here.
    let mut shown = json!({ "address": address_json(address), "health_check_config": {} });
    if !hostname.is_empty() {
        shown["hostname"] = Value::from(&**hostname);
    }
    // As Envoy: what requests are balanced by, not what was told.
    let health = match health_status {
        HealthStatus::Unknown | HealthStatus::Healthy => "HEALTHY",
        HealthStatus::Degraded => "DEGRADED",
        HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => "UNHEALTHY",
    };
    let mut shown = json!({ "endpoint": shown, "health_status": health });
    if !metadata.is_empty() {
        let filters: Map<_, _> =
            metadata.iter().map(|(namespace, value)| (String::from(&**namespace), value.clone())).collect();
        shown["metadata"] = json!({ "filter_metadata": filters });
    }
    shown["load_balancing_weight"] = (*weight).max(1).into();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterSpec;
    use crate::config::address::HostPort;
    use crate::config::ads::Eds;
    use crate::config::endpoint::LocalityEndpoints;
    use crate::config::matcher::FractionalPercent;
    use crate::control::xds::client::{ClientStatus, Standing};
    use crate::telemetry::Registry;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            address: EndpointAddress::Fixed(Address::Ip(([127, 0, 0, 1], port).into())),
            hostname: Box::default(),
            weight: 1,
            health_status: HealthStatus::Unknown,
            metadata: Vec::new(),
            added_tlvs: None,
        }
    }

    fn at(zone: &str, priority: u32, weight: Option<u32>, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
        let locality = Locality { zone: zone.into(), ..Locality::default() };
        LocalityEndpoints { locality, priority, weight, endpoints, ..LocalityEndpoints::default() }
    }

    fn assignment(localities: Vec<LocalityEndpoints>) -> ClusterLoadAssignment {
        ClusterLoadAssignment { localities, ..ClusterLoadAssignment::default() }
    }

    fn known(config: Cluster, found: Option<ClusterLoadAssignment>) -> KnownCluster {
        let spec = ClusterSpec::new(Arc::new(config), Arc::default(), &Registry::new(1));
        let found = found.map(|found| Arc::new(KeptAssignment::Found(Arc::new(found))));
        KnownCluster { spec: Arc::new(spec), hosts: Arc::default(), found }
    }

    fn rendered(field: DumpField) -> Vec<Value> {
        let DumpField::Repeated(entries) = field else { panic!("no list") };
        entries.into_iter().map(|entry| (entry.render)()).collect()
    }

    #[test]
    fn endpoint_is_shown_as_envoy_shows_it() {
        let told = Endpoint {
            hostname: "a.test".into(),
            weight: 3,
            health_status: HealthStatus::Draining,
            metadata: vec![("envoy.lb".into(), json!({ "canary": true }))],
            ..endpoint(80)
        };
        let address = Address::Ip(([127, 0, 0, 1], 80).into());
        let socket = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 80 } });
        assert_eq!(
            lb_endpoint(&told, &address),
            json!({
                "endpoint": { "address": socket, "health_check_config": {}, "hostname": "a.test" },
                "health_status": "UNHEALTHY",
                "metadata": { "filter_metadata": { "envoy.lb": { "canary": true } } },
                "load_balancing_weight": 3,
            })
        );
        assert_eq!(
            lb_endpoint(&endpoint(80), &address),
            json!({
                "endpoint": { "address": socket, "health_check_config": {} },
                "health_status": "HEALTHY",
                "load_balancing_weight": 1,
            })
        );
    }

    #[test]
    fn endpoints_are_shown_by_priority_and_locality_each_address_once() {
        let name = HostPort { host: "a.test".into(), port: 80 };
        let unresolved = Endpoint { address: EndpointAddress::Name(name), ..endpoint(0) };
        let told = assignment(vec![
            at("b", 1, None, vec![endpoint(1)]),
            at("b", 0, Some(5), vec![endpoint(2), endpoint(3), unresolved]),
            at("a", 0, None, vec![endpoint(3), endpoint(4)]),
            at("c", 0, None, vec![endpoint(2)]),
        ]);
        let mut config = Cluster::new("c");
        let facts = |config: &Cluster| -> Vec<_> {
            let shown = load_assignment("c", config, &told);
            let facts = |locality: &Value| {
                let ports = locality["lb_endpoints"].as_array().unwrap().iter();
                let ports = ports.map(|one| &one["endpoint"]["address"]["socket_address"]["port_value"]);
                let zone = locality["locality"]["zone"].as_str().unwrap();
                let ports: Vec<_> = ports.map(ToString::to_string).collect();
                let [weight, priority] =
                    ["load_balancing_weight", "priority"].map(|key| locality[key].as_u64());
                (zone.to_owned(), ports.join(" "), weight, priority)
            };
            shown["endpoints"].as_array().unwrap().iter().map(facts).collect()
        };
        let expected = |[a, b, later]: [Option<u64>; 3]| {
            let all = [("a", "4", a, None), ("b", "2 3", b, None), ("b", "1", later, Some(1_u64))];
            all.map(|(zone, ports, weight, priority)| (zone.to_owned(), ports.to_owned(), weight, priority))
        };
        assert_eq!(facts(&config), expected([None; 3]));
        config.common_lb.locality = LocalityMode::Weighted;
        assert_eq!(facts(&config), expected([Some(0), Some(5), Some(0)]));
    }

    #[test]
    fn cluster_without_endpoints_has_its_policy() {
        let shown = load_assignment("c", &Cluster::new("c"), &ClusterLoadAssignment::default());
        assert_eq!(
            shown,
            json!({
                "@type": format!("type.googleapis.com/{ASSIGNMENT}"),
                "cluster_name": "c",
                "policy": { "overprovisioning_factor": 140 },
            })
        );
    }

    #[test]
    fn share_that_is_dropped_is_shown_in_parts_of_a_million_and_none_not_at_all() {
        let policy = |numerator| {
            let share = FractionalPercent { numerator, denominator: 100 };
            let dropped = DropOverload { category: "lb".into(), share };
            let mut told = assignment(Vec::new());
            told.drop_overload = Some(Arc::new(dropped));
            load_assignment("c", &Cluster::new("c"), &told)["policy"].clone()
        };
        let share = json!({ "numerator": 70_000, "denominator": "MILLION" });
        assert_eq!(
            policy(7),
            json!({
                "overprovisioning_factor": 140,
                "drop_overloads": [{ "category": "lb", "drop_percentage": share }],
            })
        );
        assert_eq!(policy(0), json!({ "overprovisioning_factor": 140 }));
    }

    fn eds(name: &str) -> Cluster {
        let mut config = Cluster::new(name);
        let service_name = Some(format!("of-{name}").into());
        let (source, initial_fetch_timeout) = (ResourceSource::Ads, None);
        config.discovery = Discovery::Eds(Eds { source, service_name, initial_fetch_timeout });
        config
    }

    fn standings<const N: usize>(all: [(&str, ClientStatus); N]) -> Standings {
        let standing = |status| Standing { status, failure: None };
        all.map(|(name, status)| ((ResourceSource::Ads, Arc::<str>::from(name)), standing(status))).into()
    }

    /// Names of what is static and what is dynamic, each with its status.
    fn listed(clusters: Vec<KnownCluster>, standings: Standings) -> [Vec<String>; 2] {
        let section = section(clusters, |name| name != "fixed", standings);
        let [(_, fixed), (_, dynamic)] = <[_; 2]>::try_from(section.fields).unwrap();
        [fixed, dynamic].map(|field| {
            let shown = rendered(field).into_iter().map(|one| {
                let name = one["endpoint_config"]["cluster_name"].as_str().unwrap();
                format!("{name} {}", one["client_status"].as_str().unwrap_or("-"))
            });
            shown.collect()
        })
    }

    #[test]
    fn endpoints_of_told_clusters_are_dynamic_and_named_as_they_are_asked_for() {
        let found = || Some(assignment(vec![at("a", 0, None, vec![endpoint(1)])]));
        let both = known(Cluster::new("both"), None);
        let clusters = vec![known(eds("fixed"), found()), known(eds("told"), found()), both];
        let [fixed, dynamic] = listed(clusters, Standings::new());
        assert_eq!(fixed, ["of-fixed -"]);
        assert_eq!(dynamic, ["of-told ACKED", "both -"], "those of the other one were told with it");
    }

    #[test]
    fn endpoints_that_are_not_used_as_they_were_told_are_dynamic_whoever_asks_for_them() {
        let standings = standings([
            ("of-fixed", ClientStatus::Nacked),
            ("of-told", ClientStatus::DoesNotExist),
            ("warming", ClientStatus::Requested),
        ]);
        let [fixed, dynamic] = listed(vec![known(eds("fixed"), None), known(eds("told"), None)], standings);
        assert_eq!(fixed, ["of-fixed -"], "as Envoy has it");
        assert_eq!(dynamic, ["of-fixed NACKED", "of-told DOES_NOT_EXIST", "warming REQUESTED"]);
    }
}
