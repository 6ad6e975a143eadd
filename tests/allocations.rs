//! Requests in steady state allocate nothing on the worker's thread, filters that let them pass in their chain: a worker runs in this process, with an allocator
//! that counts.
//!
//! One test per file: the allocator is the process's.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
use ringway::snapshot::Compiler;
use ringway::telemetry::Registry;
use ringway::worker::{self, AccessLogSetup, Command, Setup};

/// Requests before counting begins: pools, tables and buffers reach their sizes.
const WARM_UP: usize = 2000;
/// Requests counted, in each of the rounds.
const COUNTED: usize = 5000;
const ROUNDS: usize = 5;
/// Bytes of a record: `/200` and the line's end.
const RECORD_BYTES: usize = 5;
/// What may be allocated without being an allocation per request, and depends on the clock or on another thread: nine
/// decades of each of the two histograms that a request records (`telemetry::histogram`), once, when a first value of a
/// decade comes; and a 16 KiB piece of access log for each that the log thread has not given back in time. Records are
/// short, so that these are few: one allocation in a thousand requests would exceed it.
const ONCE_MAX: u64 = (2 * 9 + (WARM_UP + ROUNDS * COUNTED) * RECORD_BYTES / PIECE_BYTES + 1) as u64;
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

/// Answers every request without allocating per request; on threads that are not counted anyway.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut room = [0; 4096];
                // The requests here are small and have no body: one read is one request.
                while matches!(stream.read(&mut room), Ok(1..)) {
                    let sent = stream.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
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

fn bootstrap(upstream: u16, log: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
  - name: test
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
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
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: upstream
    connect_timeout: 1s
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"#
    )
}

/// Sends requests one after the other on one connection.
fn ask(client: &mut TcpStream, requests: usize) {
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

/// Allocations of the worker during [`COUNTED`] requests.
fn allocations(backend: IoBackend) -> Option<[u64; ROUNDS]> {
    let log = std::env::temp_dir().join(format!("ringway-allocations-{}.log", std::process::id()));
    let text = bootstrap(upstream(), &log.display().to_string());
    let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
    let mut loaded = load_bootstrap(&[source], Default::default()).unwrap();
    let registry = Arc::new(Registry::new(1));
    let mut log_writer = LogWriter::start().unwrap();
    let local_info = LocalInfo::default();
    let services = CompileServices {
        routes: CompileContext {
            cluster_exists: &|name| name == "upstream",
            runtime_fraction: &|_| None,
            runtime_integer: &|_| None,
            hash_seed: 1,
        },
        local_info: &local_info,
        open_sink: &mut |sink| log_writer.open(sink),
    };
    let snapshot = Compiler { registry: &registry, services }
        .bootstrap(&loaded.bootstrap.clusters, &mut loaded.bootstrap.listeners)
        .unwrap();
    let options = ListenOptions::plain(([127, 0, 0, 1], 0).into(), 16);
    let sockets = listen::bind(&options, 1).unwrap();
    let address = listen::local_addr(&sockets[0]).unwrap();
    let (sender, receiver) = mailbox().unwrap();
    let setup = Setup {
        index: 0,
        workers: 1,
        peers: Vec::new(),
        seed: 1,
        connections: ConnectionLimit::new(None),
        access_log: AccessLogSetup {
            queue: log_writer.queue(),
            flush_interval: Duration::from_millis(100),
            flush_min_bytes: 16 * 1024,
        },
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
    sender.send(Command::Start { snapshot: Arc::new(snapshot), sockets });
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
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

#[test]
fn keep_alive_requests_in_steady_state_allocate_nothing_on_the_worker() {
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let Some(counts) = allocations(backend) else { continue };
        let what = format!("allocations in rounds of {COUNTED} requests on {backend:?}: {counts:?}");
        assert!(counts.iter().sum::<u64>() <= ONCE_MAX, "{what}");
    }
}
