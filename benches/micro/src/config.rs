//! A configuration's way to the workers: text to types, types to a snapshot, the snapshot to a worker.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ringway::config::bootstrap::{Bootstrap, Overload};
use ringway::control::xds::load_bootstrap;
use ringway::control::xds::loader::{Format, Source};
use ringway::filter::CompileServices;
use ringway::format::access_log_queue::{LogQueue, SinkId};
use ringway::protocol::http::forwarding::LocalInfo;
use ringway::proxy::ConnectionLimit;
use ringway::route::CompileContext;
use ringway::runtime::mailbox::mailbox;
use ringway::snapshot::{Compiler, Snapshot, own_limit};
use ringway::telemetry::Registry;
use ringway::worker::{AccessLogSetup, Command, Core, Setup};

use crate::local::runtime;
use crate::{Case, Step};

pub(crate) fn cases() -> Vec<Case> {
    let sizes = [1, 100, 1_000];
    let load_case = |size| Case::slow(format!("snapshot/load_and_convert_{size}"), move || load_step(size));
    let compile_case = |size| Case::slow(format!("snapshot/compile_{size}"), move || compile_step(size));
    let apply_case = |size| Case::slow(format!("snapshot/apply_{size}"), move || apply_step(size));
    sizes.map(load_case).into_iter().chain(sizes.map(compile_case)).chain(sizes.map(apply_case)).collect()
}

/// Clusters of that many hosts with this balancer, and a route to each.
pub(crate) fn clusters(count: usize, hosts: usize, policy: &str, weighted: bool) -> String {
    let mut text = String::from(
        "static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:\n",
    );
    for n in 0..count {
        let routes = format!("[{{match: {{prefix: /}}, route: {{cluster: c-{n}}}}}]");
        let _ =
            writeln!(text, "            - {{name: v-{n}, domains: [h-{n}.example.com], routes: {routes}}}");
    }
    text.push_str("  clusters:\n");
    for n in 0..count {
        let _ = writeln!(
            text,
            "  - name: c-{n}\n    connect_timeout: 1s\n    lb_policy: {policy}\n    load_assignment:\n      cluster_name: c-{n}\n      endpoints:\n      - lb_endpoints:"
        );
        for host in 0..hosts {
            let weight =
                if weighted { format!(", load_balancing_weight: {}", 1 + host % 5) } else { String::new() };
            let address = format!("address: 10.{}.{}.{}, port_value: 8080", n % 250, host / 250, host % 250);
            let _ = writeln!(
                text,
                "        - {{endpoint: {{address: {{socket_address: {{{address}}}}}}}{weight}}}"
            );
        }
    }
    text
}

pub(crate) fn load(text: &str) -> Bootstrap {
    let source = Source { name: "bench.yaml", text, format: Format::Yaml };
    load_bootstrap(&[source], Default::default()).unwrap_or_else(|report| panic!("{report:?}")).bootstrap
}

fn load_step(count: usize) -> Step {
    let text = clusters(count, 2, "ROUND_ROBIN", false);
    Box::new(move || drop(black_box(load(black_box(&text)))))
}

fn compile_step(count: usize) -> Step {
    let bootstrap = load(&clusters(count, 2, "ROUND_ROBIN", false));
    Box::new(move || {
        let snapshot = compile(&Registry::new(1), black_box(bootstrap.clone()));
        assert_eq!(snapshot.clusters.iter().len(), bootstrap.clusters.len());
    })
}

/// A worker begins with a snapshot, as it does at its start: it makes its listeners and takes the set of clusters, of which
/// it makes its own when requests ask for them. The worker itself, its mailbox and one turn of its loop are in there.
fn apply_step(count: usize) -> Step {
    let registry = Registry::new(1);
    let snapshot = Arc::new(compile(&registry, load(&clusters(count, 2, "ROUND_ROBIN", false))));
    let runtime = runtime();
    let queue = LogQueue::new().0;
    let access_log =
        AccessLogSetup { queue, flush_interval: Duration::from_secs(10), flush_min_bytes: 1 << 16 };
    let connections = ConnectionLimit::new(&Overload::default());
    let setup = Setup {
        index: 0,
        workers: 1,
        peers: Vec::new(),
        seed: 1,
        connections,
        access_log,
        asked_hosts: None,
        maker: None,
    };
    Box::new(move || {
        let (sender, receiver) = mailbox().expect("a descriptor");
        let core = Core::new(&setup, &runtime, &registry, receiver);
        sender.send(Command::Start { snapshot: Arc::clone(black_box(&snapshot)) });
        core.turn().expect("a turn");
        assert_eq!(Arc::strong_count(&snapshot.clusters), 2, "the worker has taken them");
        core.end();
    })
}

fn compile(registry: &Registry, mut bootstrap: Bootstrap) -> Snapshot {
    let local_info = LocalInfo::default();
    let services = CompileServices {
        routes: CompileContext { cluster_exists: &|_| true, hash_seed: 1, regexes: None },
        local_info: &local_info,
        open_sink: &mut |_| -> std::io::Result<SinkId> {
            Err(std::io::Error::other("there is no access log here"))
        },
    };
    Compiler { registry, services, shared_limit: &own_limit }
        .bootstrap(&bootstrap.clusters, &mut bootstrap.listeners)
        .unwrap_or_else(|error| panic!("{error:?}"))
}
