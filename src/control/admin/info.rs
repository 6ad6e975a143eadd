//! `/ready`, `/server_info`, `/memory`, `/quarantine`, `/runtime`, `/listeners` and `/hot_restart_version`.
use super::json;
use super::request::{Reply, Request};
use super::state::{Quarantined, ServerState};
use super::{Admin, memory};
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// `/ready`: 200 while the process is `LIVE`, else 503.
pub(super) fn ready(admin: &Admin, _: &Request) -> Reply {
    let state = admin.state.server_info().state;
    let status = if state == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::refused(status, format!("{}\n", state.name()))
}

/// `/server_info`. What Envoy has no field for (I/O backend, pinning) is in the metadata of the build version, so
/// that strict readers of Envoy's message stay content.
pub(super) fn server_info(admin: &Admin, _: &Request) -> Reply {
    let info = admin.state.server_info();
    let seconds = |uptime: Duration| format!("{}s", uptime.as_secs());
    let mut node = match info.node {
        Value::Object(node) => node,
        _ => Map::new(),
    };
    let mut parts = info.version.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (revision, version, status, build, tls) = (part(), part(), part(), part(), part());
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let mut number = || numbers.next().unwrap_or_default();
    node.insert("user_agent_name".into(), "ringway".into());
    node.insert(
        "user_agent_build_version".into(),
        json!({
            "version": { "major_number": number(), "minor_number": number(), "patch": number() },
            "metadata": {
                "revision.sha": revision,
                "revision.status": status,
                "build.type": build,
                "ssl.version": tls,
                "io.backend": info.io_backend,
                "io.backend.reason": info.io_backend_reason,
                "workers": info.workers,
            },
        }),
    );
    Reply::json(json::document(&json!({
        "version": info.version,
        "state": info.state.name(),
        "uptime_current_epoch": seconds(info.uptime),
        "uptime_all_epochs": seconds(info.uptime_all_epochs),
        "hot_restart_version": info.hot_restart_version,
        "command_line_options": info.command_line_options,
        "node": node,
    })))
}

/// `/memory`: Envoy's fields; with `?ledger` where all of it is.
pub(super) fn memory(admin: &Admin, request: &Request) -> Reply {
    let usage = memory::usage(admin);
    let mut document = json!({
        "allocated": usage.allocated.to_string(),
        "heap_size": usage.heap_size.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": usage.free().to_string(),
        "total_thread_cache": "0",
        "total_physical_bytes": usage.physical.to_string(),
    });
    if request.has("ledger") {
        document["ledger"] = admin.state.memory_ledger();
    }
    Reply::json(json::document(&document))
}

/// `/quarantine`: what control planes have told and this process does not use. Ours; Envoy keeps no such list.
pub(super) fn quarantine(admin: &Admin, _: &Request) -> Reply {
    let (refused, unlisted) = admin.state.quarantine();
    let refused: Vec<_> = refused
        .into_iter()
        .map(|Quarantined { type_url, name, reason, version, first, last, times }| {
            json!({
                "type_url": type_url,
                "name": name,
                "version_info": version,
                "details": reason,
                "first_refused": first,
                "last_refused": last,
                "times_refused": times,
            })
        })
        .collect();
    Reply::json(json::document(&json!({ "resources": refused, "not_listed": unlisted })))
}

/// `/runtime`.
pub(super) fn runtime(admin: &Admin, _: &Request) -> Reply {
    let layers = admin.state.runtime_layers();
    let mut entries: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (at, layer) in layers.iter().enumerate() {
        for (key, value) in &layer.values {
            let per_layer = entries.entry(key).or_insert_with(|| vec![String::new(); layers.len()]);
            per_layer[at] = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
        }
    }
    let entries: Map<String, Value> = entries
        .into_iter()
        .map(|(key, values)| {
            let last = values.iter().rev().find(|value| !value.is_empty()).cloned().unwrap_or_default();
            (key.to_string(), json!({ "layer_values": values, "final_value": last }))
        })
        .collect();
    let names: Vec<_> = layers.iter().map(|layer| &*layer.name).collect();
    Reply::json(json::document(&json!({ "layers": names, "entries": entries })))
}

/// `/listeners`.
pub(super) fn listeners(admin: &Admin, request: &Request) -> Reply {
    let listeners = admin.state.listeners();
    if request.parameter("format") != Some("json") {
        let mut text = String::new();
        for listener in &listeners {
            for address in &listener.addresses {
                text.push_str(&format!("{}::{}\n", listener.name, json::address_text(address)));
            }
        }
        return Reply::text(text);
    }
    let statuses = listeners.iter().map(|listener| {
        let mut addresses = listener.addresses.iter().map(json::address);
        let mut status = json!({ "name": &*listener.name });
        if let Some(first) = addresses.next() {
            status["local_address"] = first;
        }
        let additional: Vec<_> = addresses.collect();
        if !additional.is_empty() {
            status["additional_local_addresses"] = additional.into();
        }
        status
    });
    let statuses: Vec<_> = statuses.collect();
    Reply::json(json::document(&json!({ "listener_statuses": statuses })))
}

/// `/hot_restart_version`.
pub(super) fn hot_restart_version(admin: &Admin, _: &Request) -> Reply {
    Reply::text(admin.state.server_info().hot_restart_version)
}

/// `/init_dump`: nothing here waits behind Envoy's init manager.
pub(super) fn init_dump(_: &Admin, _: &Request) -> Reply {
    Reply::json("{}\n".into())
}
