//! `/config_dump` of what control planes tell: what is in use of it, how it stands with what was told last, and endpoints.

use serde_json::{Value, json};

use crate::harness::ToldCluster::{At, Bad, Named};
use crate::harness::{ControlPlane, Proxy, free_port, on_each_backend, until};
use crate::xds::{HERE, manager, named};
use crate::xds_clusters::config;

/// A list of the dump, where it has endpoints as well.
fn list(proxy: &Proxy, resource: &str) -> Vec<Value> {
    let text = proxy.admin("GET", &format!("/config_dump?include_eds&resource={resource}")).text();
    let dump: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    dump["configs"].as_array().cloned().unwrap_or_default()
}

/// Names of a list's resources, which stand in that field, each with its status.
fn standing(proxy: &Proxy, resource: &str, field: &str) -> Vec<String> {
    let shown = |entry: &Value| {
        let (name, of_endpoints) = (&entry[field]["name"], &entry[field]["cluster_name"]);
        let name = name.as_str().or_else(|| of_endpoints.as_str()).unwrap();
        format!("{name} {}", entry["client_status"].as_str().unwrap_or("-"))
    };
    list(proxy, resource).iter().map(shown).collect()
}

on_each_backend! {
    fn resources_of_control_planes_stand_as_they_are_asked_for_and_told(io) {
        let a = named("a");
        let plane = ControlPlane::start();
        plane.tell_clusters(&[("a", Named("there"))]);
        let proxy = Proxy::launch(io, &config(&plane, "15s"), free_port(), free_port());
        plane.wait_for("endpoints", |asked| asked.names == ["there"]);
        plane.wait_for("routes", |asked| asked.names == ["routes"]);
        let stands = |resource: &str, field: &str| standing(&proxy, resource, field);
        until("the cluster waits", || stands("dynamic_warming_clusters", "cluster") == ["a ACKED"]);
        assert_eq!(stands("dynamic_endpoint_configs", "endpoint_config"), ["there REQUESTED"]);
        assert_eq!(stands("dynamic_route_configs", "route_config"), ["routes REQUESTED"]);
        plane.tell("there", HERE, &[a.port]);
        plane.tell_routes(&[("/", "a")]);
        proxy.wait_for_log("serving");
        assert_eq!(stands("dynamic_active_clusters", "cluster"), ["a ACKED"]);
        assert_eq!(stands("dynamic_endpoint_configs", "endpoint_config"), ["there ACKED"]);
        assert_eq!(stands("dynamic_route_configs", "route_config"), ["routes ACKED"]);
        // As Envoy says it.
        assert_eq!(stands("static_endpoint_configs", "endpoint_config"), ["plane -"]);
        let endpoint = json!({
            "endpoint": {
                "address": { "socket_address": { "address": HERE, "port_value": a.port } },
                "health_check_config": {},
            },
            "health_status": "HEALTHY",
            "load_balancing_weight": 1,
        });
        assert_eq!(
            list(&proxy, "dynamic_endpoint_configs")[0]["endpoint_config"],
            json!({
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "there",
                "endpoints": [{ "locality": {}, "lb_endpoints": [endpoint] }],
                "policy": { "overprovisioning_factor": 140 },
            })
        );
        assert_eq!(proxy.admin("GET", "/config_dump?resource=dynamic_endpoint_configs").status(), 404);
        proxy.end();
    }

    /// What is refused of each type is shown with the reason, beside what serves.
    fn refused_resources_stand_beside_their_last_good_version(io) {
        let a = named("a");
        let plane = ControlPlane::start();
        plane.tell_routes(&[("/", "a")]);
        plane.tell_clusters(&[("a", Named(""))]);
        plane.tell("a", HERE, &[a.port]);
        let proxy = Proxy::start(io, &config(&plane, "15s"));
        let stands = |resource: &str, field: &str| standing(&proxy, resource, field);
        let clusters = plane.tell_clusters(&[("a", Bad), ("new", Bad)]);
        let endpoints = plane.tell("a", "nowhere", &[a.port]);
        let routes = plane.tell_routes(&[("no-slash-and-no-cluster", "")]);
        let port = format!("\"port_value\":{}", a.port);
        let lists = [
            ("dynamic_active_clusters", "cluster", "a", clusters, "eds_cluster_config"),
            ("dynamic_endpoint_configs", "endpoint_config", "a", endpoints, port.as_str()),
            ("dynamic_route_configs", "route_config", "routes", routes, "\"prefix\":\"/\""),
        ];
        for (resource, field, name, nonce, part) in &lists {
            let reason = plane.answer(nonce).error.unwrap().message;
            until(&format!("{resource} has a refused one"), || stands(resource, field) == [format!("{name} NACKED")]);
            let entry = list(&proxy, resource).remove(0);
            assert!(entry[field].to_string().contains(part), "{entry}");
            let error = &entry["error_state"];
            assert!(reason.contains(error["details"].as_str().unwrap()), "{reason}: {error}");
            assert_eq!(error["version_info"], nonce.replace('n', "v"));
            assert!(error["last_update_attempt"].is_string());
            assert_eq!(error["failed_configuration"]["@type"], entry[field]["@type"]);
            assert_ne!(error["failed_configuration"], entry[field]);
        }
        assert_eq!(stands("dynamic_warming_clusters", "cluster"), ["new NACKED"], "it was never any good");
        assert_eq!(proxy.connect().get("/").text(), "a");
        plane.tell_clusters(&[("a", Named(""))]);
        plane.tell("a", HERE, &[a.port]);
        plane.tell_routes(&[("/", "a")]);
        for (resource, field, name, ..) in &lists {
            until(&format!("{resource} is good"), || stands(resource, field) == [format!("{name} ACKED")]);
        }
        assert!(!proxy.admin("GET", "/config_dump?include_eds").text().contains("error_state"));
        assert!(stands("dynamic_warming_clusters", "cluster").is_empty());
        proxy.end();
    }

    fn routes_that_do_not_come_in_time_are_said_to_be_late(io) {
        let a = named("a");
        let plane = ControlPlane::start();
        plane.tell_clusters(&[("a", At(&[a.port]))]);
        let source = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.2s}";
        let proxy = Proxy::start(io, &config(&plane, "15s").chains(&[manager(source)]));
        let stands = |resource: &str, field: &str| standing(&proxy, resource, field);
        until("it is late", || stands("dynamic_route_configs", "route_config") == ["routes TIMEOUT"]);
        assert_eq!(stands("dynamic_endpoint_configs", "endpoint_config"), ["a -"], "told with their cluster");
        plane.tell_routes(&[("/", "a")]);
        until("it is there", || stands("dynamic_route_configs", "route_config") == ["routes ACKED"]);
        proxy.end();
    }
}
