//! A control plane that tells clusters, endpoints, listeners, secrets and routes over aggregated discovery, state of the world, and
//! virtual hosts by delta, and keeps what it is answered. Its messages are written here apart from the proxy's own, with the fields
//! that a test needs.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use prost::Message;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

use super::told_hosts::{self, HOSTS};
use super::told_ttl;
use super::{PATIENCE, TO_HTTP2, cluster_to, free_port};

pub(crate) const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// `DiscoveryRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Asked {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) error: Option<Status>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

/// `DiscoveryResponse`
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Any>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Cluster {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    discovery_type: i32,
    #[prost(message, optional, tag = "3")]
    eds: Option<Eds>,
    /// Encoded.
    #[prost(bytes = "vec", tag = "24")]
    transport_socket: Vec<u8>,
    #[prost(message, optional, tag = "33")]
    load_assignment: Option<ClusterLoadAssignment>,
}

/// `Cluster.DiscoveryType.EDS`
const EDS: i32 = 3;

#[derive(Clone, PartialEq, Message)]
struct Eds {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    service_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigSource {
    #[prost(message, optional, tag = "3")]
    ads: Option<Ads>,
    #[prost(int32, tag = "6")]
    version: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Ads {}

/// `ApiVersion.V3`
const V3: i32 = 2;

/// A cluster, by what leads to its endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ToldCluster<'a> {
    /// It has these.
    At(&'a [u16]),
    /// They are reached by this transport socket.
    Secured(&'a [u16], &'a [u8]),
    /// The control plane tells them under this name.
    Named(&'a str),
    /// Something that no version takes.
    Bad,
}

#[derive(Clone, PartialEq, Message)]
struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Locality>,
    #[prost(message, optional, tag = "4")]
    policy: Option<Policy>,
}

#[derive(Clone, PartialEq, Message)]
struct Policy {
    #[prost(message, repeated, tag = "2")]
    drop_overloads: Vec<DropOverload>,
}

#[derive(Clone, PartialEq, Message)]
struct DropOverload {
    #[prost(string, tag = "1")]
    category: String,
    #[prost(message, optional, tag = "2")]
    share: Option<Percent>,
}

/// `FractionalPercent` of a hundred.
#[derive(Clone, PartialEq, Message)]
struct Percent {
    #[prost(uint32, tag = "1")]
    numerator: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<LbEndpoint>,
}

#[derive(Clone, PartialEq, Message)]
struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<Endpoint>,
}

#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Listener {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    address: Option<Address>,
    #[prost(message, repeated, tag = "3")]
    chains: Vec<FilterChain>,
}

#[derive(Clone, PartialEq, Message)]
struct FilterChain {
    #[prost(message, repeated, tag = "3")]
    filters: Vec<Filter>,
    /// Encoded.
    #[prost(bytes = "vec", tag = "6")]
    transport_socket: Vec<u8>,
}

/// Of either kind: those of HTTP have the same fields.
#[derive(Clone, PartialEq, Message)]
struct Filter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    config: Option<Any>,
}

/// `HttpConnectionManager`
#[derive(Clone, PartialEq, Message)]
struct Manager {
    #[prost(string, tag = "2")]
    stat_prefix: String,
    #[prost(message, optional, tag = "3")]
    rds: Option<Rds>,
    #[prost(message, repeated, tag = "5")]
    filters: Vec<Filter>,
}

#[derive(Clone, PartialEq, Message)]
struct Rds {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct RouteConfiguration {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    virtual_hosts: Vec<VirtualHost>,
    /// Encoded.
    #[prost(bytes = "vec", tag = "9")]
    vhds: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct VirtualHost {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    domains: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    routes: Vec<Route>,
}

#[derive(Clone, PartialEq, Message)]
struct Route {
    #[prost(message, optional, tag = "1")]
    matched: Option<RouteMatch>,
    #[prost(message, optional, tag = "2")]
    action: Option<RouteAction>,
}

#[derive(Clone, PartialEq, Message)]
struct RouteMatch {
    #[prost(string, tag = "1")]
    prefix: String,
}

#[derive(Clone, PartialEq, Message)]
struct RouteAction {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(message, repeated, tag = "25")]
    upgrades: Vec<Upgrade>,
}

#[derive(Clone, PartialEq, Message)]
struct Upgrade {
    #[prost(string, tag = "1")]
    upgrade_type: String,
}

/// The running control plane; it ends with it.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) port: u16,
    state: Arc<State>,
    /// Its TLS, and fields of a cluster that leads to it; `None`: it has none.
    protection: Option<(Arc<ServerConfig>, String)>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug, Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    changed: Condvar,
    /// Responses in their order. A new stream begins with the last one of each type.
    told: Mutex<Vec<Told>>,
    /// Names of virtual hosts that are gone with a response, by its nonce.
    removed: Mutex<HashMap<String, Vec<String>>>,
    more: Notify,
}

impl State {
    /// A response of virtual hosts.
    fn as_delta(&self, told: &Told) -> Vec<u8> {
        let removed = self.removed.lock().unwrap().get(&told.nonce).cloned().unwrap_or_default();
        let values = told.resources.iter().map(|any| &*any.value);
        told_hosts::told(&told.version, &told.nonce, values, removed)
    }
}

impl ControlPlane {
    /// One that has nothing to tell yet.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// The same under TLS; `fields` of a cluster that leads to it.
    pub(crate) fn start_protected(config: Arc<ServerConfig>, fields: String) -> Self {
        Self::start_with(Some((config, fields)))
    }

    fn start_with(protection: Option<(Arc<ServerConfig>, String)>) -> Self {
        let mut plane = Self { port: free_port(), state: Arc::default(), protection, running: None };
        plane.restart();
        plane
    }

    /// Bootstrap, on the command line, for a proxy that asks it.
    pub(crate) fn bootstrap(&self) -> String {
        "{node: {id: me, cluster: us}, dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, \
         grpc_services: [{envoy_grpc: {cluster_name: plane}}]}}}"
            .to_owned()
    }

    /// The same for one whose clusters come from there, too; it waits so long for the first of them.
    pub(crate) fn bootstrap_with_clusters(&self, wait: &str) -> String {
        let own = "{node: {id: me, cluster: us}, dynamic_resources: {cds_config: {ads: {}, resource_api_version: V3, \
                   initial_fetch_timeout: @wait@}, ads_config: {api_type: GRPC, transport_api_version: V3, \
                   grpc_services: [{envoy_grpc: {cluster_name: plane}}]}}}";
        own.replace("@wait@", wait)
    }

    /// The same for one whose listeners come from there as well.
    pub(crate) fn bootstrap_with_listeners(&self, wait: &str) -> String {
        let all = self.bootstrap_with_clusters(wait);
        let source = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: @wait@}";
        let own = format!("dynamic_resources: {{lds_config: {source}, ").replace("@wait@", wait);
        all.replace("dynamic_resources: {", &own)
    }

    /// Clusters: that of the control plane, and those of these names, which have their endpoints from it.
    pub(crate) fn clusters(&self, names: &[&str]) -> String {
        let source = "{ads: {}, resource_api_version: V3}";
        let cluster = |name: &&str| {
            format!(
                "{{name: {name}, type: EDS, connect_timeout: 5s, eds_cluster_config: {{eds_config: {source}}}}}"
            )
        };
        let protected = self.protection.iter().map(|(_, fields)| format!("{fields}, ")).collect::<String>();
        let own = format!("{{{protected}{TO_HTTP2}, {}}}", cluster_to("plane", self.port));
        std::iter::once(own).chain(names.iter().map(cluster)).collect::<Vec<_>>().join(", ")
    }

    /// Tells a cluster's endpoints: ports at that address; the response's nonce.
    pub(crate) fn tell(&self, cluster: &str, address: &str, ports: &[u16]) -> String {
        self.push(ENDPOINTS, vec![assignment(cluster, address, ports).encode_to_vec()])
    }

    /// Tells a cluster's endpoint, at that port of this host, which is to be spared so many requests of a hundred in each of these
    /// categories; the response's nonce.
    pub(crate) fn tell_spared(&self, cluster: &str, port: u16, shares: &[(&str, u32)]) -> String {
        let one = |(category, percent): &(&str, u32)| DropOverload {
            category: (*category).to_owned(),
            share: Some(Percent { numerator: *percent }),
        };
        let policy = Some(Policy { drop_overloads: shares.iter().map(one).collect() });
        let assignment = ClusterLoadAssignment { policy, ..assignment(cluster, "127.0.0.1", &[port]) };
        self.push(ENDPOINTS, vec![assignment.encode_to_vec()])
    }

    /// Tells the endpoints of these clusters in one response, each at that port of this host; the response's nonce.
    pub(crate) fn tell_endpoints(&self, clusters: &[(&str, u16)]) -> String {
        let one = |(cluster, port): &(&str, u16)| assignment(cluster, "127.0.0.1", &[*port]).encode_to_vec();
        self.push(ENDPOINTS, clusters.iter().map(one).collect())
    }

    /// Tells all clusters that there are; the response's nonce.
    pub(crate) fn tell_clusters(&self, clusters: &[(&str, ToldCluster<'_>)]) -> String {
        let cluster = |(name, told): &(&str, ToldCluster<'_>)| {
            let source = ConfigSource { ads: Some(Ads {}), version: V3 };
            let named =
                |service_name: &str| Eds { source: Some(source), service_name: service_name.to_owned() };
            let (discovery_type, eds, load_assignment) = match told {
                ToldCluster::At(ports) | ToldCluster::Secured(ports, _) => {
                    (0, None, Some(assignment(name, "127.0.0.1", ports)))
                }
                ToldCluster::Named(service) => (EDS, Some(named(service)), None),
                ToldCluster::Bad => (EDS, None, None),
            };
            let transport_socket = match told {
                ToldCluster::Secured(_, socket) => socket.to_vec(),
                _ => Vec::new(),
            };
            let name = (*name).to_owned();
            Cluster { name, discovery_type, eds, transport_socket, load_assignment }.encode_to_vec()
        };
        self.push(CLUSTERS, clusters.iter().map(cluster).collect())
    }

    /// Tells all listeners that there are, each on a port of this host, with the table of that name; the response's nonce.
    pub(crate) fn tell_listeners(&self, listeners: &[(&str, u32, &str)]) -> String {
        self.tell_secured_listeners(listeners, &[])
    }

    /// The same, each with this transport socket.
    pub(crate) fn tell_secured_listeners(&self, listeners: &[(&str, u32, &str)], socket: &[u8]) -> String {
        let transport_socket = socket.to_vec();
        let filter = |name: &str, type_name: &str, value: Vec<u8>| Filter {
            name: name.to_owned(),
            config: Some(Any {
                type_url: format!("type.googleapis.com/envoy.extensions.filters.{type_name}"),
                value,
            }),
        };
        let listener = |(name, port, table): &(&str, u32, &str)| {
            let source = ConfigSource { ads: Some(Ads {}), version: V3 };
            let manager = Manager {
                stat_prefix: "test".to_owned(),
                rds: Some(Rds { source: Some(source), name: (*table).to_owned() }),
                filters: vec![filter("router", "http.router.v3.Router", Vec::new())],
            };
            let manager = manager.encode_to_vec();
            let of_http = "network.http_connection_manager.v3.HttpConnectionManager";
            let socket = SocketAddress { address: "127.0.0.1".to_owned(), port: *port };
            let filters = vec![filter("manager", of_http, manager)];
            Listener {
                name: (*name).to_owned(),
                address: Some(Address { socket: Some(socket) }),
                chains: vec![FilterChain { filters, transport_socket: transport_socket.clone() }],
            }
            .encode_to_vec()
        };
        self.push(LISTENERS, listeners.iter().map(listener).collect())
    }

    /// Tells these secrets; the response's nonce.
    pub(crate) fn tell_secrets(&self, secrets: &[Vec<u8>]) -> String {
        self.push(SECRETS, secrets.to_vec())
    }

    /// Waits until just these secrets are asked for.
    pub(crate) fn wait_for_secrets(&self, names: &[&str]) -> Asked {
        self.wait_for("secrets", |asked| asked.type_url == SECRETS && asked.names == names)
    }

    /// Tells the table `routes`: prefixes of paths and the clusters that they lead to, where requests may upgrade to
    /// WebSocket.
    pub(crate) fn tell_routes(&self, routes: &[(&str, &str)]) -> String {
        self.tell_table("routes", routes)
    }

    /// The same of the table of that name.
    pub(crate) fn tell_table(&self, name: &str, routes: &[(&str, &str)]) -> String {
        self.push(ROUTES, vec![table(name, routes)])
    }

    /// Tells these tables in one response, each with the cluster that it leads everything to; the response's nonce.
    pub(crate) fn tell_tables(&self, tables: &[(&str, &str)]) -> String {
        self.push(ROUTES, tables.iter().map(|(name, cluster)| table(name, &[("/", *cluster)])).collect())
    }

    /// Tells the table `routes`, all of whose virtual hosts are told by themselves.
    pub(crate) fn tell_hosted_table(&self) -> String {
        let (name, vhds) = ("routes".to_owned(), told_hosts::source());
        let table = RouteConfiguration { name, virtual_hosts: Vec::new(), vhds };
        self.push(ROUTES, vec![table.encode_to_vec()])
    }

    /// Tells virtual hosts by their names: domains, and the clusters that they lead to. Those of the other names are gone.
    pub(crate) fn tell_hosts(&self, hosts: &[(&str, &str, &str)], removed: &[&str]) -> String {
        let removed = removed.iter().map(ToString::to_string).collect();
        let nonce = format!("n{}", self.state.told.lock().unwrap().len() + 1);
        self.state.removed.lock().unwrap().insert(nonce, removed);
        let host = |(name, domain, cluster): &(&str, &str, &str)| {
            virtual_host(name, domain, &[("/", *cluster)]).encode_to_vec()
        };
        self.push(HOSTS, hosts.iter().map(host).collect())
    }

    /// Everything that was asked, in its order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// Tells resources of a type; the response's nonce.
    pub(crate) fn push(&self, type_url: &str, values: Vec<Vec<u8>>) -> String {
        let any = |value| Any { type_url: type_url.to_owned(), value };
        self.say(type_url, values.into_iter().map(any).collect(), |_| None)
    }

    /// Tells of those of a type by their names, of the version that was told last, that they live for so many seconds from now on;
    /// the response's nonce.
    pub(crate) fn beat(&self, type_url: &str, names: &[&str], ttl_s: i64) -> String {
        let envelopes = names.iter().map(|name| told_ttl::heartbeat(name, ttl_s)).collect();
        self.say(type_url, envelopes, |told| {
            told.iter().rfind(|told| told.type_url == type_url).map(|told| told.version.clone())
        })
    }

    /// Tells this; `version` chooses that of an earlier response, else it has its own.
    fn say(
        &self,
        type_url: &str,
        resources: Vec<Any>,
        version: impl Fn(&[Told]) -> Option<String>,
    ) -> String {
        let mut told = self.state.told.lock().unwrap();
        let number = told.len() + 1;
        let version = version(&told).unwrap_or_else(|| format!("v{number}"));
        let (type_url, nonce) = (type_url.to_owned(), format!("n{number}"));
        told.push(Told { version, resources, type_url, nonce: nonce.clone() });
        drop(told);
        self.state.more.notify_waiters();
        nonce
    }

    /// Waits for a request of which this holds.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Asked) -> bool) -> Asked {
        let asked = self.state.asked.lock().unwrap();
        let (asked, waited) = self
            .state
            .changed
            .wait_timeout_while(asked, PATIENCE, |asked| !asked.iter().any(&holds))
            .unwrap();
        assert!(!waited.timed_out(), "{what} was not asked: {asked:?}");
        asked.iter().find(|one| holds(one)).unwrap().clone()
    }

    /// What a response was answered with.
    pub(crate) fn answer(&self, nonce: &str) -> Asked {
        self.wait_for(nonce, |asked| asked.nonce == nonce)
    }

    /// Ends it as if it were killed: its socket and connections are closed when this returns.
    pub(crate) fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// Starts it again at the same port, with what it has told last.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (stop, stopped) = oneshot::channel::<()>();
        let (port, state) = (self.port, Arc::clone(&self.state));
        let acceptor = self.protection.as_ref().map(|(config, _)| TlsAcceptor::from(Arc::clone(config)));
        let (bound, is_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                bound.send(()).unwrap();
                tokio::select! {
                    () = accept(listener, acceptor, state) => {}
                    _ = stopped => {}
                }
            });
        });
        is_bound.recv().unwrap();
        self.running = Some((stop, thread));
    }
}

/// A table: prefixes of paths and the clusters that they lead to.
fn table(name: &str, routes: &[(&str, &str)]) -> Vec<u8> {
    let virtual_hosts = vec![virtual_host("all", "*", routes)];
    RouteConfiguration { name: name.to_owned(), virtual_hosts, vhds: Vec::new() }.encode_to_vec()
}

/// One with routes by their prefixes, where requests may upgrade to WebSocket.
fn virtual_host(name: &str, domain: &str, routes: &[(&str, &str)]) -> VirtualHost {
    let route = |(prefix, cluster): &(&str, &str)| Route {
        matched: Some(RouteMatch { prefix: (*prefix).to_owned() }),
        action: Some(RouteAction {
            cluster: (*cluster).to_owned(),
            upgrades: vec![Upgrade { upgrade_type: "websocket".to_owned() }],
        }),
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        routes: routes.iter().map(route).collect(),
    }
}

/// Endpoints at that address.
fn assignment(cluster: &str, address: &str, ports: &[u16]) -> ClusterLoadAssignment {
    let endpoint = |port: &u16| {
        let socket = SocketAddress { address: address.to_owned(), port: u32::from(*port) };
        LbEndpoint { endpoint: Some(Endpoint { address: Some(Address { socket: Some(socket) }) }) }
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![Locality { endpoints: ports.iter().map(endpoint).collect() }],
        policy: None,
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kill();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, state).await,
                Some(acceptor) => {
                    if let Ok(protected) = acceptor.accept(stream).await {
                        serve(protected, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(talk(request, respond, Arc::clone(&state)));
    }
}

/// One stream: of each type what was told last as soon as it is asked for, then all that follows.
async fn talk(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    let methods = [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        told_hosts::METHOD,
    ];
    assert!(methods.contains(&request.uri().path()), "{request:?}");
    let is_delta = request.uri().path() == told_hosts::METHOD;
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = request.into_body();
    // As many control planes: nothing is said, not even that the stream is open, before there is something to tell.
    let (mut head, mut out) = (Some(head), None);
    let mut bytes = BytesMut::new();
    let mut next = state.told.lock().unwrap().len();
    let mut types = HashSet::new();
    loop {
        let mut waiting = Vec::new();
        while let Some(message) = message(&mut bytes) {
            let asked = if is_delta { told_hosts::asked(&message) } else { Asked::decode(message).unwrap() };
            if types.insert(asked.type_url.clone()) {
                let told = state.told.lock().unwrap();
                waiting.extend(told[..next].iter().rfind(|told| told.type_url == asked.type_url).cloned());
            }
            state.asked.lock().unwrap().push(asked);
            state.changed.notify_all();
        }
        let more = state.more.notified();
        tokio::pin!(more);
        more.as_mut().enable();
        {
            let told = state.told.lock().unwrap();
            waiting.extend(told[next..].iter().filter(|told| types.contains(&told.type_url)).cloned());
            next = told.len();
        }
        for told in waiting {
            if let Some(head) = head.take() {
                out = respond.send_response(head, false).ok();
            }
            let Some(out) = &mut out else { return };
            let message = if is_delta { state.as_delta(&told) } else { told.encode_to_vec() };
            if send(out, &message).await.is_none() {
                return;
            }
        }
        tokio::select! {
            () = more => {}
            chunk = body.data() => {
                let Some(Ok(chunk)) = chunk else { return };
                let _ = body.flow_control().release_capacity(chunk.len());
                bytes.extend_from_slice(&chunk);
            }
        }
    }
}

/// The next whole message of a stream.
fn message(bytes: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().unwrap()) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    assert_eq!(bytes[0], 0, "compressed");
    bytes.advance(5);
    Some(bytes.split_to(length))
}

async fn send(out: &mut SendStream<Bytes>, message: &[u8]) -> Option<()> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        out.reserve_capacity(bytes.len());
        let room = poll_fn(|context| out.poll_capacity(context)).await?.ok()?;
        out.send_data(bytes.split_to(room.min(bytes.len())), false).ok()?;
    }
    Some(())
}
