//! A worker in this process, with an allocator that counts on its thread alone, and a client that asks it one request
//! after another. Between them and behind is whatever a test puts there.
//!
//! One test per file: the allocator is the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway::config::bootstrap::Overload;
use ringway::control::log_writer::LogWriter;
use ringway::control::xds::load_bootstrap;
use ringway::control::xds::loader::{Format, Source};
use ringway::filter::CompileServices;
use ringway::format::access_log_buffer::PIECE_BYTES;
use ringway::protocol::http::forwarding::LocalInfo;
use ringway::proxy::ConnectionLimit;
use ringway::route::CompileContext;
use ringway::runtime::listen::{self, ListenOptions};
use ringway::runtime::mailbox::mailbox;
use ringway::runtime::{IoBackend, IoChoice, Runtime};
use ringway::snapshot::{Compiler, own_limit};
use ringway::telemetry::Registry;
use ringway::worker::{self, AccessLogSetup, Command, Setup};

/// Requests before counting begins: pools, tables and buffers reach their sizes.
const WARM_UP: usize = 2000;
/// Requests counted, in each of the rounds.
pub(crate) const COUNTED: usize = 5000;
pub(crate) const ROUNDS: usize = 5;
/// Bytes of a record: `/200` and the line's end.
const RECORD_BYTES: usize = 5;
/// What may be allocated without being an allocation per request, and depends on the clock or on another thread: buckets
/// of each of the two histograms that a request records (`telemetry::histogram`), once, those below ten and for four kinds
/// of stalls those of a decade and of a first digit; and a 16 KiB piece of access log for each that the log thread has not
/// given back in time. Records are short, so that these are few: one allocation in a thousand requests would exceed it.
pub(crate) const ONCE_MAX: u64 =
    (2 * (1 + 4 * 2) + (WARM_UP + ROUNDS * COUNTED) * RECORD_BYTES / PIECE_BYTES + 1) as u64;
const PATIENCE: Duration = Duration::from_secs(10);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations on threads that count.
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    if COUNTS.try_with(Cell::get) == Ok(true) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: passes every call on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// Answers every request, on threads that are not counted; `secure`: through what a test puts on the connection.
fn upstream<S: Read + Write>(secure: impl Fn(TcpStream) -> S + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, secure) = (stream.unwrap(), secure.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut stream = secure(stream);
                let mut room = [0; 4096];
                // The requests here are small and have no body: one read is one request.
                while matches!(stream.read(&mut room), Ok(1..)) {
                    let sent = stream.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nEndpoint-Load-Metrics: TEXT \
                          cpu_utilization:0.5,named_metrics.a:1,utilization.u:2\r\nContent-Length: 5\r\n\r\nhello",
                    );
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn bootstrap(upstream: u16, log: &str, Sockets { listener, cluster }: &Sockets) -> String {
    format!(
        r#"static_resources:
  listeners:
  - name: test
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - {listener}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          use_remote_address: true
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):1%%RESPONSE_CODE%\n"}}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add: [{{header: {{key: x-from, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}}}]
              response_headers_to_add: [{{header: {{key: x-cluster, value: "%UPSTREAM_CLUSTER%"}}}}]
              routes:
              - match: {{prefix: /api/}}
                route: {{cluster: upstream, prefix_rewrite: /}}
          http_filters:
          - name: web
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}}
          - name: bridge
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config}}
          - name: access
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              track_per_rule_stats: true
              rules:
                policies:
                  "a name": {{permissions: [{{header: {{name: ":path", string_match: {{safe_regex: {{regex: "/[a-z]+/.*"}}}}}}}}], principals: [{{remote_ip: {{address_prefix: 127.0.0.0, prefix_len: 8}}}}]}}
              shadow_rules: {{action: LOG, policies: {{p: {{permissions: [{{url_path: {{path: {{prefix: /}}}}}}], principals: [{{any: true}}]}}}}}}
          - name: matched
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              matcher:
                matcher_list:
                  matchers:
                  - predicate:
                      and_matcher:
                        predicate:
                        - single_predicate:
                            input: {{name: noted, typed_config: {{"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput, filter: envoy.filters.http.rbac, path: [{{key: enforced_engine_result}}]}}}}
                            custom_match: {{name: as, typed_config: {{"@type": type.googleapis.com/envoy.extensions.matching.input_matchers.metadata.v3.Metadata, value: {{string_match: {{safe_regex: {{regex: "a[a-z]+"}}}}}}}}}}
                        - single_predicate:
                            input: {{name: from, typed_config: {{"@type": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput}}}}
                            value_match: {{prefix: "127."}}
                    on_match: {{action: {{name: a, typed_config: {{"@type": type.googleapis.com/envoy.config.rbac.v3.Action, name: matched}}}}}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: upstream
    connect_timeout: 1s
    {cluster}
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"#
    )
}

/// Sends requests one after the other on one connection.
fn ask(client: &mut (impl Read + Write), requests: usize) {
    let mut room = [0; 4096];
    for _ in 0..requests {
        client.write_all(b"GET /api/thing?x=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n").unwrap();
        let mut received = 0;
        while !room[..received].ends_with(b"\r\n\r\nhello") {
            let count = client.read(&mut room[received..]).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&room[..received]));
            received += count;
        }
        assert!(room.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&room[..received]));
    }
}

/// Transport sockets of the listener's chain and of the cluster, as lines of YAML; empty: plain text.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listener: String,
    pub(crate) cluster: String,
}

/// Allocations of the worker during [`COUNTED`] requests; `None`: the back end does not work here. `client` and `server` put
/// on a connection what the other end expects.
pub(crate) fn allocations<C: Read + Write, S: Read + Write>(
    backend: IoBackend,
    sockets: &Sockets,
    client: impl FnOnce(TcpStream) -> C,
    server: impl Fn(TcpStream) -> S + Clone + Send + 'static,
) -> Option<[u64; ROUNDS]> {
    let log = std::env::temp_dir().join(format!("ringway-allocations-{}.log", std::process::id()));
    let text = bootstrap(upstream(server), &log.display().to_string(), sockets);
    let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
    let mut loaded = load_bootstrap(&[source], Default::default()).unwrap();
    let registry = Arc::new(Registry::new(1));
    let log_writer = LogWriter::start().unwrap();
    let local_info = LocalInfo::default();
    let services = CompileServices {
        routes: CompileContext { cluster_exists: &|name| name == "upstream", hash_seed: 1, regexes: None },
        local_info: &local_info,
        open_sink: &mut |sink| log_writer.open(sink),
    };
    let snapshot = Compiler { registry: &registry, services, shared_limit: &own_limit }
        .bootstrap(&loaded.bootstrap.clusters, &mut loaded.bootstrap.listeners)
        .unwrap();
    let options = ListenOptions::plain(([127, 0, 0, 1], 0).into(), 16);
    let sockets = listen::bind(&options, 1).unwrap();
    let address: SocketAddr = listen::local_addr(&sockets[0]).unwrap();
    let (sender, receiver) = mailbox().unwrap();
    let setup = Setup {
        index: 0,
        workers: 1,
        peers: Vec::new(),
        seed: 1,
        connections: ConnectionLimit::new(&Overload::default()),
        access_log: AccessLogSetup {
            queue: log_writer.queue(),
            flush_interval: Duration::from_millis(100),
            flush_min_bytes: 16 * 1024,
        },
        asked_hosts: None,
        maker: None,
    };
    let (started, has_started) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        let runtime = match Runtime::new(IoChoice { backend, level: None }, receiver.bell()) {
            Ok((runtime, _)) => runtime,
            Err(error) => return started.send(Err(error)).unwrap(),
        };
        started.send(Ok(())).unwrap();
        COUNTS.set(true);
        worker::run(&setup, &runtime, &registry, receiver).unwrap();
        COUNTS.set(false);
    });
    if let Err(error) = has_started.recv().unwrap() {
        assert!(std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_none(), "{backend:?}: {error}");
        println!("not run: {backend:?}: {error}");
        return None;
    }
    let sockets = sockets.into_iter().map(|socket| (0, socket)).collect();
    sender.send(Command::Start { snapshot: Arc::new(snapshot) });
    sender.send(Command::Generation { generation: Arc::default(), sockets });
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut client = client(socket);
    ask(&mut client, WARM_UP);
    let counted = std::array::from_fn(|_| {
        let before = COUNT.load(Ordering::Relaxed);
        ask(&mut client, COUNTED);
        COUNT.load(Ordering::Relaxed) - before
    });
    drop(client);
    sender.send(Command::Drain { deadline: PATIENCE });
    worker.join().unwrap();
    log_writer.finish();
    let _ = std::fs::remove_file(log);
    Some(counted)
}
