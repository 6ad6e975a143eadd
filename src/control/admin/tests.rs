//! The endpoint over real sockets on loopback, by a client that speaks raw TCP.

mod prometheus;
mod stats;

use super::*;
use crate::config::bootstrap::{StatsConfig, StatsMatcher, TagSpecifier, TagValue};
use crate::config::cluster::CircuitBreakers;
use crate::config::endpoint::{HealthStatus, Locality};
use crate::config::matcher::{StringMatcher, StringPattern};
use crate::format::access_log_queue::LogQueue;
use crate::telemetry::log::{LogOptions, Pattern};
use crate::telemetry::{
    ClusterStat, HostStat, HttpCells, HttpHistogram, ListenerStat, Origin, Scope, log::DEFAULT_PATTERN,
    log::Level,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

/// What the composition root would be.
struct Root {
    state: Mutex<ServerState>,
    commands: Mutex<Vec<AdminCommand>>,
    host: Arc<Scope<HostStat>>,
}

impl AdminState for Root {
    fn refresh_metrics(&self) {}

    fn live_heap_bytes(&self) -> u64 {
        1000
    }

    fn memory_ledger(&self) -> Value {
        json!({ "resident": 7 })
    }

    fn server_info(&self) -> ServerInfo {
        ServerInfo {
            state: *self.state.lock().unwrap(),
            uptime: Duration::from_secs(61),
            uptime_all_epochs: Duration::from_secs(3661),
            restart_epoch: 2,
            restart_generation: 3,
            hot_restart_version: "ringway.1".into(),
            version: "abcdef0123/0.1.0/Clean/DEBUG/AWS-LC".into(),
            command_line_options: json!({ "concurrency": 2 }),
            node: json!({ "id": "n1" }),
            io_backend: "epoll".into(),
            io_backend_reason: "asked for".into(),
            workers: "2, not pinned".into(),
        }
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let host = HostStatus {
            address: Address::Ip("127.0.0.1:80".parse().unwrap()),
            hostname: "a.test".into(),
            health: HealthStatus::Degraded,
            weight: 1,
            priority: 1,
            locality: Locality { zone: "z".into(), ..Locality::default() },
            canary: false,
            stats: Some(Arc::clone(&self.host)),
        };
        let cluster = |name: &str, eds_service_name: &str, hosts| ClusterStatus {
            name: name.into(),
            observability_name: name.into(),
            added_via_api: false,
            eds_service_name: eds_service_name.into(),
            circuit_breakers: CircuitBreakers::default(),
            hosts,
        };
        vec![cluster("a", "", vec![host.clone(), host]), cluster("empty", "service", Vec::new())]
    }

    fn tls_contexts(&self) -> Vec<TlsContext> {
        Vec::new()
    }

    fn quarantine(&self) -> (Vec<Quarantined>, u64) {
        let refused = Quarantined {
            type_url: "type.googleapis.com/x.Y",
            name: "bad".into(),
            reason: "a.b: is wrong".into(),
            version: "7".into(),
            first: "t1".into(),
            last: "t2".into(),
            times: 3,
        };
        (vec![refused], 4)
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let addresses = ["127.0.0.1:80", "[::1]:80"].map(|address| Address::Ip(address.parse().unwrap()));
        vec![ListenerStatus { name: "main".into(), addresses: addresses.to_vec() }]
    }

    fn config_dump(&self, include_eds: bool) -> Vec<DumpSection> {
        let entries = (0..if include_eds { 2 } else { 1 }).map(|number| DumpEntry {
            type_name: "envoy.admin.v3.ClustersConfigDump.StaticCluster",
            name: format!("c{number}").into(),
            render: Box::new(move || json!({ "cluster": { "name": format!("c{number}") } })),
        });
        let fields = vec![("static_clusters", DumpField::Repeated(entries.collect()))];
        vec![DumpSection { type_url: "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", fields }]
    }

    fn modify_runtime(&self, changes: &[(String, String)]) -> Result<(), &'static str> {
        let is_refused = changes.iter().any(|(key, _)| key == "refused");
        if is_refused { Err("No admin layer specified") } else { Ok(()) }
    }

    fn runtime_layers(&self) -> Vec<ShownLayer> {
        let layer = |name: &str, values| ShownLayer { name: name.into(), values };
        vec![
            layer("low", vec![("a".into(), json!(5)), ("b".into(), json!("x"))]),
            layer("high", vec![("a".into(), json!(6))]),
        ]
    }

    fn command(&self, command: AdminCommand) {
        self.commands.lock().unwrap().push(command);
    }
}

/// The endpoint on a thread of its own; ends with the test.
struct Served {
    address: SocketAddr,
    root: Arc<Root>,
    registry: Arc<Registry>,
    cells: HttpCells,
    held: Box<dyn std::any::Any>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Admin)) -> Self {
        let registry = Arc::new(Registry::new(2));
        let root = Arc::new(Root {
            state: Mutex::new(ServerState::Live),
            commands: Mutex::default(),
            host: Arc::new(Scope::new(1)),
        });
        let options = LogOptions {
            level: Level::Off,
            components: Vec::new(),
            pattern: Pattern::parse(DEFAULT_PATTERN).unwrap(),
            escaped: false,
            path: None,
        };
        let mut admin = Admin {
            registry: Arc::clone(&registry),
            logger: Box::leak(Box::new(Logger::new(options).unwrap())),
            log_counts: Arc::default(),
            state: Arc::clone(&root) as Arc<dyn AdminState>,
            access_logs: Arc::new(AdminAccessLogs::compile(&[], &[], LogQueue::new().0, 1).unwrap()),
            allow_paths: AllowPaths::default(),
            stats_policy: Arc::new(StatsPolicy::compile(&StatsConfig::default(), &[]).unwrap()),
            flush_interval: Duration::from_secs(3600),
            server_version: None,
        };
        change(&mut admin);
        let listener = AdminListener::bind(&Address::Ip("127.0.0.1:0".parse().unwrap())).unwrap();
        let Address::Ip(address) = *listener.local_address() else { unreachable!() };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    result = listener.serve(Arc::new(admin)) => panic!("{result:?}"),
                    _ = stopped => {}
                }
            });
        });
        // Some traffic, so that every kind of metric has a value.
        let cluster = registry.cluster("a.b");
        let cells = cluster.cells(Slot::Worker(0));
        cells.inc(ClusterStat::UpstreamCxTotal);
        cells.upstream_response(Origin::External, 200);
        cells.upstream_response(Origin::External, 503);
        cells.upstream_rq_time(Origin::External, 7);
        let listening = registry.listener("127.0.0.1:80");
        listening.cells(Slot::Worker(1)).inc(ListenerStat::DownstreamCxTotal);
        let http = registry.http("in\"gress", "127.0.0.1:80").cells(Slot::Worker(1));
        http.downstream_response(404);
        http.record(HttpHistogram::DownstreamRqTime, 12);
        let held = Box::new((cluster, cells, listening));
        Self { address, root, registry, cells: http, held, stop: Some(stop), thread: Some(thread) }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    fn post(&self, path: &str) -> Answer {
        self.ask("POST", path, "")
    }

    fn ask(&self, method: &str, path: &str, rest: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}",
            if rest.is_empty() { "\r\n" } else { rest }
        );
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = &self.held;
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .map(|line| {
                line.split_once(": ")
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
                    .unwrap()
            })
            .collect();
        let body = match headers.get("transfer-encoding") {
            Some(_) => unchunked(body),
            None => body.to_string(),
        };
        Self { status, headers, body }
    }

    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

#[test]
fn ready_follows_the_state_of_the_process() {
    let served = Served::start();
    let answer = served.get("/ready");
    assert_eq!((answer.status, &*answer.body), (200, "LIVE\n"));
    for (name, value) in [
        ("content-type", "text/plain; charset=UTF-8"),
        ("cache-control", "no-cache, max-age=0"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.headers[name], value);
    }
    *served.root.state.lock().unwrap() = ServerState::Draining;
    let answer = served.get("/ready");
    assert_eq!((answer.status, &*answer.body), (503, "DRAINING\n"));
}

#[test]
fn what_changes_something_wants_post() {
    let served = Served::start();
    for (path, command) in [
        ("/quitquitquit", AdminCommand::Quit),
        ("/healthcheck/fail", AdminCommand::FailHealthcheck),
        ("/healthcheck/ok", AdminCommand::PassHealthcheck),
        ("/reopen_logs", AdminCommand::ReopenLogs),
        (
            "/drain_listeners?graceful&skip_exit&inboundonly",
            AdminCommand::DrainListeners(DrainListeners {
                graceful: true,
                skip_exit: true,
                inbound_only: true,
            }),
        ),
        ("/drain_listeners", AdminCommand::DrainListeners(DrainListeners::default())),
        (
            "/drain_listeners?skip_exit",
            AdminCommand::DrainListeners(DrainListeners { skip_exit: true, ..DrainListeners::default() }),
        ),
    ] {
        let answer = served.get(path);
        assert_eq!((answer.status, &*answer.body), (405, "Method GET not allowed, POST required."), "{path}");
        assert_eq!(served.root.commands.lock().unwrap().len(), 0);
        let answer = served.post(path);
        assert_eq!((answer.status, &*answer.body), (200, "OK\n"), "{path}");
        assert_eq!(std::mem::take(&mut *served.root.commands.lock().unwrap()), [command]);
    }
    assert_eq!(served.get("/logging").status, 405);
    assert_eq!(served.post("/runtime_modify?refused=1").status, 503);
    assert_eq!(served.post("/runtime_modify?a=1").status, 200);
    assert_eq!(served.post("/runtime_modify").status, 400);
}

#[test]
fn form_is_taken_whole_or_not_at_all() {
    let served = Served::start();
    let modify = |form: &str| {
        let head =
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}", form.len());
        served.ask("POST", "/runtime_modify?a=1", &format!("{head}\r\n\r\n{form}")).status
    };
    let keys: Vec<_> = (0..1000).map(|number| format!("key{number}=1")).collect();
    assert_eq!(modify(&keys.join("&")), 200);
    assert_eq!(modify(&format!("{}&refused=1", keys.join("&"))), 503, "the last one is heard of");
    assert_eq!(modify(&format!("key={}", "1".repeat(16 * 1024))), 413);
}

#[test]
fn what_this_build_lacks_is_refused_by_name() {
    let served = Served::start();
    for (path, lacks) in [
        ("/allocprofiler?enable=y", "allocation profiler"),
        ("/cpuprofiler?enable=y", "cpu profiler"),
        ("/heapprofiler?enable=n", "heap profiler"),
        ("/stats/recentlookups/enable", "lookup tracking"),
        ("/stats/recentlookups/clear", "lookup tracking"),
    ] {
        assert_eq!(served.get(path).status, 405, "{path}");
        let answer = served.post(path);
        assert_eq!(
            (answer.status, answer.body),
            (501, format!("The current build does not support {lacks}"))
        );
    }
    assert_eq!(served.get("/heap_dump").status, 501);
    assert_eq!(served.get("/contention").status, 200);
    let answer = served.get("/stats?format=html");
    assert_eq!((answer.status, &*answer.body), (400, "usage: /stats?format=(json|prometheus|text)\n\n"));
}

#[test]
fn unknown_path_lists_the_known_ones() {
    let served = Served::start();
    let answer = served.get("/nope");
    assert_eq!(answer.status, 404);
    assert!(answer.body.starts_with("invalid path. admin commands are:\n  /: "));
    assert!(answer.body.contains("\n  /quitquitquit (POST): "));
    assert_eq!(served.get("/help").body, answer.body["invalid path. ".len()..]);
    let page = served.get("/");
    assert_eq!(page.headers["content-type"], "text/html; charset=UTF-8");
    assert!(page.body.contains("<a href=\"stats/prometheus\">"));
}

#[test]
fn path_that_is_not_allowed_is_forbidden() {
    let only = StringMatcher { pattern: StringPattern::Prefix("/ready".into()), ignore_case: false };
    let served = Served::with(|admin| admin.allow_paths = AllowPaths::compile(&[only]).unwrap());
    assert_eq!(served.get("/ready?x").status, 200);
    let answer = served.post("/quitquitquit");
    assert_eq!((answer.status, &*answer.body), (403, "request to path /quitquitquit not allowed"));
    assert!(served.root.commands.lock().unwrap().is_empty());
}

/// A sample of the exposition format.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
}

#[test]
fn clusters_as_text_and_json_are_those_of_envoy() {
    let served = Served::start();
    served.root.host.cells(Slot::Worker(0)).inc(HostStat::RqTotal);
    let text = served.get("/clusters").body;
    for line in [
        "a::observability_name::a",
        "a::default_priority::max_connections::1024",
        "a::high_priority::max_retries::3",
        "a::added_via_api::false",
        "a::127.0.0.1:80::rq_total::1",
        "a::127.0.0.1:80::hostname::a.test",
        "a::127.0.0.1:80::health_flags::/degraded_eds_health",
        "a::127.0.0.1:80::zone::z",
        "a::127.0.0.1:80::success_rate::-1",
        "empty::added_via_api::false",
        "empty::eds_service_name::service",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("a::eds_service_name"), "it is the cluster's own:\n{text}");
    let answer = served.get("/clusters?format=json&filter=^a$");
    let json = answer.json();
    let cluster = &json["cluster_statuses"][0];
    assert_eq!(cluster["host_statuses"].as_array().unwrap().len(), 2);
    let host = &cluster["host_statuses"][1];
    assert_eq!(host["address"], json!({ "socket_address": { "address": "127.0.0.1", "port_value": 80 } }));
    assert!(host["stats"].as_array().unwrap().contains(&json!({ "value": "1", "name": "rq_total" })));
    assert!(host["stats"].as_array().unwrap().contains(&json!({ "type": "GAUGE", "name": "rq_active" })));
    assert_eq!(host["health_status"], json!({ "eds_health_status": "DEGRADED" }));
    assert_eq!(cluster["circuit_breakers"]["thresholds"][1]["priority"], "HIGH");
    assert_eq!(json["cluster_statuses"].as_array().unwrap().len(), 1);
    // The pieces are laid out as a printer of the whole would have done.
    assert_eq!(answer.body, json::document(&json));
    let all = served.get("/clusters?format=json");
    assert_eq!(all.body, json::document(&all.json()));
    assert_eq!(all.json()["cluster_statuses"][1]["eds_service_name"], "service");
    assert_eq!(served.get("/clusters?format=json&filter=zzz").json(), json!({ "cluster_statuses": [] }));
    assert_eq!(served.get("/clusters?filter=[").status, 400);
}

#[test]
fn listeners_as_text_and_json_are_those_of_envoy() {
    let served = Served::start();
    assert_eq!(served.get("/listeners").body, "main::127.0.0.1:80\nmain::[::1]:80\n");
    let status = &served.get("/listeners?format=json").json()["listener_statuses"][0];
    assert_eq!(status["local_address"]["socket_address"]["port_value"], 80);
    assert_eq!(status["additional_local_addresses"][0]["socket_address"]["address"], "::1");
}

#[test]
fn config_dump_is_rendered_as_asked() {
    let served = Served::start();
    let answer = served.get("/config_dump?include_eds");
    let document = answer.json();
    assert_eq!(answer.body, json::document(&document));
    assert_eq!(document["configs"][0]["static_clusters"][1]["cluster"]["name"], "c1");
    assert_eq!(
        served.get("/config_dump").json()["configs"][0]["static_clusters"].as_array().unwrap().len(),
        1
    );
    let listed = served.get("/config_dump?resource=static_clusters&include_eds&name_regex=c1").json();
    assert_eq!(
        listed["configs"],
        json!([{ "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster", "cluster": { "name": "c1" } }])
    );
    assert_eq!(served.get("/config_dump?resource=dynamic_listeners").body, "{}\n");
    assert_eq!(served.get("/config_dump?resource=foo").status, 404);
    assert_eq!(served.get("/config_dump?resource=static_endpoint_configs").status, 404);
    assert_eq!(served.get("/config_dump?mask=foo").status, 400);
    assert_eq!(served.get("/config_dump?name_regex=[").status, 400);
}

#[test]
fn server_info_names_the_backend_and_why() {
    let served = Served::start();
    let info = served.get("/server_info").json();
    assert_eq!(info["state"], "LIVE");
    assert_eq!((&info["uptime_current_epoch"], &info["uptime_all_epochs"]), (&json!("61s"), &json!("3661s")));
    assert_eq!(info["hot_restart_version"], "ringway.1");
    assert!(
        served.get("/stats").body.contains("server.hot_restart_epoch: 2\nserver.hot_restart_generation: 3\n")
    );
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert_eq!(info["node"]["id"], "n1");
    let build = &info["node"]["user_agent_build_version"];
    assert_eq!(build["version"], json!({ "major_number": 0, "minor_number": 1, "patch": 0 }));
    assert_eq!(build["metadata"]["io.backend"], "epoll");
    assert_eq!(build["metadata"]["io.backend.reason"], "asked for");
}

#[test]
fn memory_runtime_and_certs_are_documents() {
    let served = Served::start();
    let memory = served.get("/memory").json();
    assert!(memory["total_physical_bytes"] != "0" && memory["ledger"].is_null());
    assert_eq!(memory["allocated"], "1000");
    assert_eq!(served.get("/memory?ledger").json()["ledger"]["resident"], 7);
    let runtime = served.get("/runtime").json();
    assert_eq!(runtime["layers"], json!(["low", "high"]));
    assert_eq!(runtime["entries"]["a"], json!({ "layer_values": ["5", "6"], "final_value": "6" }));
    assert_eq!(runtime["entries"]["b"], json!({ "layer_values": ["x", ""], "final_value": "x" }));
    assert_eq!(served.get("/certs").json(), json!({ "certificates": [] }));
    let quarantine = served.get("/quarantine").json();
    let bad = &quarantine["resources"][0];
    assert_eq!((&bad["name"], &bad["details"]), (&json!("bad"), &json!("a.b: is wrong")));
    assert_eq!((&bad["times_refused"], &quarantine["not_listed"]), (&json!(3), &json!(4)));
    assert_eq!(served.get("/hot_restart_version").body, "ringway.1");
}

#[test]
fn logging_shows_and_changes_levels() {
    let served = Served::start();
    assert!(served.post("/logging").body.starts_with("active loggers:\n  a2a: off\n  admin: off\n"));
    let answer = served.post("/logging?paths=admin:debug,main:info");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("\n  admin: debug\n") && answer.body.contains("\n  main: info\n"));
    assert!(served.post("/logging?upstream=trace").body.contains("\n  upstream: trace\n"));
    let form = "level=error";
    let rest = format!(
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    assert!(served.ask("POST", "/logging", &rest).body.contains("\n  upstream: error\n"));
    for (query, reason) in [
        ("level=foo", "unknown logger level"),
        ("nope=trace", "unknown logger name"),
        ("paths=x", "empty logger name or empty logger level"),
        ("paths=admin:info,x:info", "unknown logger name"),
        ("a=b&level=info", "invalid number of parameters"),
        ("group=admin:info", "group parameter requires fine-grain logging to be enabled"),
    ] {
        let answer = served.post(&format!("/logging?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.starts_with(&format!("error: {reason}\n\nusage: ")), "{}", answer.body);
        assert!(answer.body.contains("\n  admin: error\n"), "nothing changed");
    }
    assert_eq!(served.post("/logging?level=off").status, 200);
}

#[test]
fn head_of_a_request_beyond_the_bound_is_refused() {
    let served = Served::start();
    let answer = served.get(&format!("/ready?{}", "x".repeat(64 * 1024)));
    assert!([414, 431].contains(&answer.status), "{}", answer.status);
    assert_eq!(served.ask("HEAD", "/ready", "").body, "");
    assert_eq!(served.ask("PUT", "/ready", "").status, 200);
}

#[test]
fn connection_serves_several_requests() {
    let served = Served::start();
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\nGET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("LIVE\n").count(), 2);
}

#[test]
fn address_that_is_taken_is_an_error() {
    let served = Served::start();
    let error = AdminListener::bind(&Address::Ip(served.address)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn pipe_is_served_and_a_stale_one_replaced() {
    let path = std::env::temp_dir().join(format!("ringway-admin-{}.sock", std::process::id()));
    let pipe = Address::Pipe(crate::config::address::Pipe { path: path.clone(), mode: 0o600 });
    drop(AdminListener::bind(&pipe).unwrap());
    let listener = AdminListener::bind(&pipe).unwrap();
    assert_eq!(AdminListener::bind(&pipe).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    assert!(UnixStream::connect(&path).is_ok());
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    // It refuses connections as one that was left behind does.
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(AdminListener::bind(&pipe).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    let hidden = Address::Pipe(crate::config::address::Pipe {
        path: format!("@ringway-admin-{}", std::process::id()).into(),
        mode: 0,
    });
    assert_eq!(AdminListener::bind(&hidden).unwrap().local_address(), &hidden);
}
