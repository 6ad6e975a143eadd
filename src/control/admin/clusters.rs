//! `/clusters`: each cluster with its limits and its hosts.
use super::Admin;
use super::body::{ReplyBody, Steps};
use super::json;
use super::request::{JSON, Reply, Request, TEXT, regex};
use super::state::{ClusterStatus, HostStatus};
use crate::config::cluster::Thresholds;
use crate::config::endpoint::HealthStatus;
use crate::telemetry::HostStat;
use crate::telemetry::names::{Kind, Stats};
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// `/clusters`.
pub(super) fn clusters(admin: &Admin, request: &Request) -> Reply {
    let mut clusters = admin.state.clusters();
    if let Some(pattern) = request.parameter("filter").filter(|pattern| !pattern.is_empty()) {
        let Ok(filter) = regex(pattern) else {
            return Reply::bad_request("Invalid re2 regex");
        };
        clusters.retain(|cluster| filter.is_match(cluster.name.as_bytes()));
    }
    let json = request.parameter("format") == Some("json");
    let render = Render { clusters: clusters.into_iter(), open: None, json, listed: false, started: false };
    Reply {
        status: StatusCode::OK,
        content_type: if json { JSON } else { TEXT },
        body: ReplyBody::stepped(render),
    }
}

/// One cluster's head, or one of its hosts, is one step.
struct Render {
    clusters: std::vec::IntoIter<ClusterStatus>,
    /// The cluster whose hosts are being written, and how many were.
    open: Option<(ClusterStatus, usize)>,
    json: bool,
    listed: bool,
    started: bool,
}

impl Steps for Render {
    fn step(&mut self, out: &mut String) -> bool {
        if self.json && !std::mem::replace(&mut self.started, true) {
            out.push_str("{\n \"cluster_statuses\": [");
        }
        if let Some((cluster, next)) = &mut self.open {
            if let Some(host) = cluster.hosts.get(*next) {
                if self.json {
                    out.push_str(if *next == 0 { "\n    " } else { ",\n    " });
                    json::write(&host_json(host), 4, out);
                } else {
                    host_text(&cluster.name, host, out);
                }
                *next += 1;
                return true;
            }
            if self.json {
                out.push_str(if cluster.hosts.is_empty() { "],\n" } else { "\n   ],\n" });
                cluster_end_json(cluster, out);
            }
            self.open = None;
        }
        if let Some(cluster) = self.clusters.next() {
            if self.json {
                out.push_str(if std::mem::replace(&mut self.listed, true) { ",\n" } else { "\n" });
                let _ = write!(
                    out,
                    "  {{\n   \"name\": {},\n   \"host_statuses\": [",
                    Value::from(&*cluster.name)
                );
            } else {
                cluster_text(&cluster, out);
            }
            self.open = Some((cluster, 0));
            return true;
        }
        if self.json {
            out.push_str(if self.listed { "\n ]\n}\n" } else { "]\n}\n" });
        }
        false
    }
}

// === text === Writing to a String cannot fail, here and below.

fn cluster_text(cluster: &ClusterStatus, out: &mut String) {
    let name = &cluster.name;
    let _ = writeln!(out, "{name}::observability_name::{}", cluster.observability_name);
    for (priority, limits) in
        [("default", &cluster.circuit_breakers.default), ("high", &cluster.circuit_breakers.high)]
    {
        for (limit, value) in limit_names(limits) {
            let _ = writeln!(out, "{name}::{priority}_priority::{limit}::{value}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::{}", cluster.added_via_api);
    if !cluster.eds_service_name.is_empty() {
        let _ = writeln!(out, "{name}::eds_service_name::{}", cluster.eds_service_name);
    }
}

fn host_text(cluster: &str, host: &HostStatus, out: &mut String) {
    let address = json::address_text(&host.address);
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{cluster}::{address}::{key}::{value}");
    };
    for (index, row) in HostStat::ROWS.iter().enumerate() {
        line(row.name, &host.value(index));
    }
    line("hostname", &host.hostname);
    line("health_flags", &health_flags(host.health));
    line("weight", &host.weight);
    line("region", &host.locality.region);
    line("zone", &host.locality.zone);
    line("sub_zone", &host.locality.sub_zone);
    line("canary", &host.canary);
    line("priority", &host.priority);
    // There is no outlier detection: nobody knows, which Envoy writes so.
    line("success_rate", &-1);
    line("local_origin_success_rate", &-1);
}

fn health_flags(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Unknown | HealthStatus::Healthy => "healthy",
        HealthStatus::Degraded => "/degraded_eds_health",
        HealthStatus::Unhealthy | HealthStatus::Timeout => "/failed_eds_health",
        HealthStatus::Draining => "/eds_status_draining",
    }
}

fn limit_names(limits: &Thresholds) -> [(&'static str, u32); 4] {
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending_requests),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

// === JSON === Fields with their default value are left out where Envoy's protobuf printer does.

fn cluster_end_json(cluster: &ClusterStatus, out: &mut String) {
    let thresholds = |priority: Option<&str>, limits: &Thresholds| {
        let mut object = Map::new();
        object.extend(priority.map(|priority| ("priority".to_string(), priority.into())));
        object.extend(limit_names(limits).map(|(name, value)| (name.to_string(), value.into())));
        Value::Object(object)
    };
    if cluster.added_via_api {
        out.push_str("   \"added_via_api\": true,\n");
    }
    out.push_str("   \"circuit_breakers\": ");
    let breakers = &cluster.circuit_breakers;
    json::write(
        &json!({ "thresholds": [thresholds(None, &breakers.default), thresholds(Some("HIGH"), &breakers.high)] }),
        3,
        out,
    );
    let _ = write!(out, ",\n   \"observability_name\": {}", Value::from(&*cluster.observability_name));
    if !cluster.eds_service_name.is_empty() {
        let _ = write!(out, ",\n   \"eds_service_name\": {}", Value::from(&*cluster.eds_service_name));
    }
    out.push_str("\n  }");
}

fn host_json(host: &HostStatus) -> Value {
    let stat = |(index, kind): (usize, Kind)| {
        let mut object = Map::new();
        if kind == Kind::Gauge {
            object.insert("type".into(), "GAUGE".into());
        }
        let value = host.value(index);
        if value != 0 {
            // 64-bit numbers are strings in protobuf's JSON.
            object.insert("value".into(), value.to_string().into());
        }
        object.insert("name".into(), HostStat::ROWS[index].name.into());
        Value::Object(object)
    };
    let of_kind = |kind: Kind| {
        let rows = HostStat::ROWS.iter().enumerate();
        rows.filter(move |(_, row)| row.kind == kind).map(move |(index, _)| (index, kind))
    };
    let stats: Vec<_> = of_kind(Kind::Counter).chain(of_kind(Kind::Gauge)).map(stat).collect();
    let mut object = Map::new();
    object.insert("address".into(), json::address(&host.address));
    object.insert("stats".into(), stats.into());
    object.insert("health_status".into(), json!({ "eds_health_status": health_status(host.health) }));
    object.insert("weight".into(), host.weight.into());
    if !host.hostname.is_empty() {
        object.insert("hostname".into(), Value::from(&*host.hostname));
    }
    if host.priority != 0 {
        object.insert("priority".into(), host.priority.into());
    }
    object.insert("locality".into(), json::locality(&host.locality));
    Value::Object(object)
}

/// Envoy tells it by the flags: a time-out is no other failure there.
fn health_status(health: HealthStatus) -> &'static str {
    match health {
        HealthStatus::Unknown | HealthStatus::Healthy => "HEALTHY",
        HealthStatus::Degraded => "DEGRADED",
        HealthStatus::Unhealthy | HealthStatus::Timeout => "UNHEALTHY",
        HealthStatus::Draining => "DRAINING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_that_was_told_is_shown_as_envoy_shows_it() {
        for (health, flags, status) in [
            (HealthStatus::Unknown, "healthy", "HEALTHY"),
            (HealthStatus::Healthy, "healthy", "HEALTHY"),
            (HealthStatus::Degraded, "/degraded_eds_health", "DEGRADED"),
            (HealthStatus::Unhealthy, "/failed_eds_health", "UNHEALTHY"),
            (HealthStatus::Timeout, "/failed_eds_health", "UNHEALTHY"),
            (HealthStatus::Draining, "/eds_status_draining", "DRAINING"),
        ] {
            assert_eq!((health_flags(health), health_status(health)), (flags, status), "{health:?}");
        }
    }
}
