//! A server of load reports: it asks for some clusters, and keeps what it is told. Its messages are written here apart from the
//! proxy's own, with the fields that a test needs.

use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::{PATIENCE, TO_HTTP2, cluster_to, free_port};

/// `LoadStatsRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Report {
    #[prost(message, repeated, tag = "2")]
    pub(crate) clusters: Vec<ClusterStats>,
}

/// `ClusterStats`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClusterStats {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) localities: Vec<LocalityStats>,
    #[prost(uint64, tag = "3")]
    pub(crate) dropped: u64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) by_category: Vec<DroppedRequests>,
}

/// `ClusterStats.DroppedRequests`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DroppedRequests {
    #[prost(string, tag = "1")]
    pub(crate) category: String,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
}

/// `UpstreamLocalityStats`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LocalityStats {
    #[prost(uint64, tag = "2")]
    pub(crate) successful: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) failed: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) issued: u64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) metrics: Vec<MetricStats>,
}

/// `EndpointLoadMetricStats`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricStats {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) count: u64,
    #[prost(double, tag = "3")]
    pub(crate) total: f64,
}

/// `LoadStatsResponse`
#[derive(Clone, PartialEq, Message)]
struct Order {
    #[prost(string, repeated, tag = "1")]
    clusters: Vec<String>,
    #[prost(message, optional, tag = "2")]
    every: Option<Every>,
}

#[derive(Clone, PartialEq, Message)]
struct Every {
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The running server; it ends with it.
#[derive(Debug)]
pub(crate) struct LoadServer {
    port: u16,
    state: Arc<State>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct State {
    /// What is asked for on every stream.
    clusters: Vec<String>,
    told: Mutex<Vec<Report>>,
    changed: Condvar,
}

impl LoadServer {
    /// One that asks for these clusters, ten times a second.
    pub(crate) fn asking_for(clusters: &[&str]) -> Self {
        let clusters = clusters.iter().map(ToString::to_string).collect();
        let state = State { clusters, told: Mutex::default(), changed: Condvar::default() };
        let mut server = Self { port: free_port(), state: Arc::new(state), running: None };
        server.restart();
        server
    }

    /// Bootstrap, on the command line, for a proxy that tells it.
    pub(crate) fn bootstrap(&self) -> String {
        "{node: {id: me, cluster: us}, cluster_manager: {load_stats_config: {api_type: GRPC, transport_api_version: V3, \
         grpc_services: [{envoy_grpc: {cluster_name: reports}}]}}}"
            .to_owned()
    }

    /// The cluster that leads to it.
    pub(crate) fn cluster(&self) -> String {
        format!("{{{TO_HTTP2}, {}}}", cluster_to("reports", self.port))
    }

    /// Waits until all that was told is so.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&[Report]) -> bool) {
        let told = self.state.told.lock().unwrap();
        let (told, waited) =
            self.state.changed.wait_timeout_while(told, PATIENCE, |told| !holds(told)).unwrap();
        assert!(!waited.timed_out(), "{what} was not told: {told:?}");
    }

    /// Ends it as if it were killed.
    pub(crate) fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// Starts it again at the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (stop, stopped) = oneshot::channel::<()>();
        let (port, state) = (self.port, Arc::clone(&self.state));
        let (bound, is_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                bound.send(()).unwrap();
                tokio::select! {
                    () = accept(listener, state) => {}
                    _ = stopped => {}
                }
            });
        });
        is_bound.recv().unwrap();
        self.running = Some((stop, thread));
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kill();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(talk(request, respond, Arc::clone(&state)));
            }
        });
    }
}

/// One stream: it is asked with its first report, and all are kept.
async fn talk(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    assert_eq!(request.uri().path(), "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats");
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = request.into_body();
    let Ok(mut out) = respond.send_response(head, false) else { return };
    let order = Order { clusters: state.clusters.clone(), every: Some(Every { nanos: 100_000_000 }) };
    let message = order.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&message);
    out.reserve_capacity(bytes.len());
    while out.capacity() < bytes.len() {
        let Some(Ok(_)) = poll_fn(|context| out.poll_capacity(context)).await else { return };
    }
    if out.send_data(bytes.into(), false).is_err() {
        return;
    }
    let mut bytes = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
        while let Some(report) = report(&mut bytes) {
            state.told.lock().unwrap().push(report);
            state.changed.notify_all();
        }
    }
}

/// The next whole message of a stream.
fn report(bytes: &mut BytesMut) -> Option<Report> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().unwrap()) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    assert_eq!(bytes[0], 0, "compressed");
    bytes.advance(5);
    Some(Report::decode(bytes.split_to(length)).unwrap())
}
