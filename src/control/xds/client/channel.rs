//! Connections to the control plane, by the settings of the cluster that leads to it: its endpoints in turn, TCP or Unix
//! sockets, names by its resolvers, HTTP/2 in plain text or under its TLS, its source address, its connect timeout, its pings and its
//! keepalive. Certificates and keys are read again for every connection: those that were renewed are used.
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::known_secrets::KnownSecrets;
use crate::config::address::{Address, EndpointAddress};
use crate::config::ads::Ads;
use crate::config::cluster::{Cluster, Discovery, Dns};
use crate::config::shared_bytes::KnownBytes;
use crate::config::socket::{BindConfig, TcpKeepalive};
use crate::control::discovery::dns::resolve;
use crate::control::tls_files::read_again;
use crate::protocol::http::host;
use crate::protocol::tls::{self, ClientTls, Offer};

/// Bytes that the control plane may send ahead: a state of the world is large.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How the control plane is reached.
#[derive(Debug)]
pub(super) struct Upstream {
    name: Box<str>,
    uri: Uri,
    targets: Vec<EndpointAddress>,
    /// With its TLS, if it has some.
    cluster: Cluster,
    /// Where the secrets of its TLS are.
    secrets: KnownSecrets,
    /// Which is next.
    next: usize,
    connect_timeout: Duration,
    /// Time between pings, and to their answers.
    pings: Option<(Duration, Duration)>,
    metadata: MetadataMap,
    message_bytes_max: usize,
}

impl Upstream {
    pub(super) fn new(ads: &Ads, cluster: &Cluster, secrets: &KnownSecrets) -> Self {
        let targets = cluster.load_assignment.localities.iter().flat_map(|locality| &locality.endpoints);
        let uri =
            |authority: &str| Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
        let mut metadata = MetadataMap::new();
        for (name, value) in &ads.initial_metadata {
            if let (Ok(name), Ok(value)) =
                (name.parse::<AsciiMetadataKey>(), value.parse::<AsciiMetadataValue>())
            {
                metadata.append(name, value);
            }
        }
        let pings = cluster.http2.connection_keepalive;
        Self {
            name: cluster.name.clone(),
            // Names of clusters may have characters that an authority may not.
            uri: uri(&ads.authority).unwrap_or_else(|_| Uri::from_static("http://control-plane/")),
            targets: targets.map(|endpoint| endpoint.address.clone()).collect(),
            cluster: cluster.clone(),
            secrets: secrets.clone(),
            next: 0,
            connect_timeout: cluster.connect_timeout,
            pings: pings.and_then(|pings| Some((pings.interval?, pings.timeout))),
            metadata,
            message_bytes_max: ads.message_bytes_max,
        }
    }

    /// Headers of a stream's request.
    pub(super) fn metadata(&self) -> MetadataMap {
        self.metadata.clone()
    }

    /// Most bytes of one of its messages.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// A new connection, to the next endpoint.
    pub(super) async fn connect(&mut self) -> Result<Channel, String> {
        let Some(target) = self.targets.get(self.next).or_else(|| self.targets.first()).cloned() else {
            return Err(format!("cluster {} has no endpoint", self.name));
        };
        self.next = (self.next + 1) % self.targets.len().max(1);
        let shown = Shown(&target).to_string();
        let mut endpoint = Endpoint::from(self.uri.clone())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        if let Some((interval, patience)) = self.pings {
            endpoint = endpoint
                .http2_keep_alive_interval(interval)
                .keep_alive_timeout(patience)
                .keep_alive_while_idle(true);
        }
        if timeout(self.connect_timeout, self.filled()).await.is_err() {
            return Err(format!("cluster {}: secrets of its TLS are still to come", self.name));
        }
        let tls = self.tls(&target)?;
        let dns = match &self.cluster.discovery {
            Discovery::StrictDns(dns) | Discovery::LogicalDns(dns) => dns.clone(),
            // They have no names.
            Discovery::Static | Discovery::OriginalDst(_) | Discovery::Eds(_) => Dns::default(),
        };
        let (bind, keepalive) = (self.cluster.bind_config.clone(), self.cluster.tcp_keepalive);
        let connecting = endpoint.connect_with_connector(Connector { target, dns, tls, bind, keepalive });
        timeout(self.connect_timeout, connecting)
            .await
            .map_err(|_| format!("no connection to {shown} within {:?}", self.connect_timeout))?
            .map_err(|error| format!("no connection to {shown}: {}", innermost(&error)))
    }
}

impl Upstream {
    /// Puts secrets into the cluster's TLS, once they are there: they come from files.
    async fn filled(&mut self) {
        let mut changes = self.secrets.changes();
        loop {
            if let Err(reason) = self.secrets.fill_cluster(&mut self.cluster) {
                log::warn!("xDS: cluster {}: {reason}", self.name);
            }
            if self.cluster.sockets().contexts().all(|tls| tls.common.is_whole()) {
                return;
            }
            // The sender lives as long as this.
            let _ = changes.changed().await;
        }
    }

    /// What a connection to this endpoint is protected with; `None`: nothing.
    fn tls(&mut self, target: &EndpointAddress) -> Result<Option<Protection>, String> {
        let mut outcome = Ok(());
        self.cluster.tls_sources(&mut |source| {
            // What cannot be read is as it was before.
            outcome = std::mem::replace(&mut outcome, Ok(()))
                .and_then(|()| read_again(source, &mut KnownBytes::default()));
        });
        if let Err(reason) = outcome {
            log::warn!("xDS: cluster {}: {reason}", self.name);
        }
        let Some(context) = &self.cluster.sockets().tls else { return Ok(None) };
        let compiled =
            ClientTls::compile(context).map_err(|error| format!("cluster {}: {error}", self.name))?;
        let (address, host_name) = match target {
            EndpointAddress::Fixed(Address::Ip(address)) => (address.ip(), ""),
            EndpointAddress::Fixed(Address::Pipe(_) | Address::Internal(_)) => {
                (IpAddr::V4(Ipv4Addr::LOCALHOST), "")
            }
            EndpointAddress::Name(name) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), &*name.host),
        };
        let (auto_sni, auto_san) = self.names();
        let asked = tls::Endpoint { address, host_name, offer: Offer::Http2, auto_sni, auto_san };
        let tls::Connecting { config, name, .. } = compiled.connect(&asked);
        Ok(Some(Protection { connector: TlsConnector::from(config), name }))
    }

    /// Server name, and name that the certificate must have, as requests to the cluster want them: the streams' authority, or a
    /// header in its place. An address is no server name.
    fn names(&self) -> (Option<&str>, Option<&str>) {
        let Some(names) = &self.cluster.request_names else { return (None, None) };
        let by_header = self.metadata.get(&*names.header).and_then(|value| value.to_str().ok());
        let authority = || self.uri.authority().map(|authority| authority.as_str());
        let given = by_header.filter(|given| !given.is_empty()).or_else(authority).unwrap_or_default();
        let name = std::str::from_utf8(host::name(given.as_bytes())).unwrap_or_default();
        let is_name = names.server_name && name.parse::<IpAddr>().is_err();
        (is_name.then_some(name), names.subject_alt_name.then_some(name))
    }
}

/// TLS of a connection that is to be made.
#[derive(Clone)]
struct Protection {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// The cause of an error: what wraps it says only "transport error".
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

struct Shown<'a>(&'a EndpointAddress);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            EndpointAddress::Fixed(address) => address.fmt(f),
            EndpointAddress::Name(name) => write!(f, "{}:{}", name.host, name.port),
        }
    }
}

/// Connects to one endpoint, whatever the URI says.
struct Connector {
    target: EndpointAddress,
    dns: Dns,
    tls: Option<Protection>,
    bind: Option<BindConfig>,
    keepalive: Option<TcpKeepalive>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Box<dyn Io>>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting {
        let (target, dns, tls) = (self.target.clone(), self.dns.clone(), self.tls.clone());
        let (bind, keepalive) = (self.bind.clone(), self.keepalive);
        Box::pin(async move {
            let bind = bind.as_ref();
            let tcp = |socket: TcpStream| -> io::Result<Box<dyn Io>> {
                set_up(&socket, keepalive)?;
                Ok(Box::new(socket))
            };
            let io: Box<dyn Io> = match target {
                EndpointAddress::Fixed(Address::Ip(address)) => tcp(dial(&[address], bind).await?)?,
                EndpointAddress::Fixed(Address::Pipe(pipe)) => {
                    Box::new(UnixStream::connect(&*pipe.path).await?)
                }
                // It is of the workers' connections alone.
                EndpointAddress::Fixed(Address::Internal(_)) => return Err(io::ErrorKind::Unsupported.into()),
                EndpointAddress::Name(name) => {
                    let found = resolve(&dns, &name.host).await.map_err(io::Error::other)?;
                    let found = found.into_iter().map(|ip| SocketAddr::new(ip, name.port));
                    let found: Vec<_> = found.collect();
                    tcp(dial(&found, bind).await?)?
                }
            };
            let Some(Protection { connector, name }) = tls else { return Ok(TokioIo::new(io)) };
            let protected: Box<dyn Io> = Box::new(connector.connect(name, io).await?);
            Ok(TokioIo::new(protected))
        })
    }
}

/// A connection to the first of these that takes one.
async fn dial(addresses: &[SocketAddr], bind: Option<&BindConfig>) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = dial_one(*address, bind).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn dial_one(address: SocketAddr, bind: Option<&BindConfig>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(BindConfig { source_address, freebind, .. }) = bind {
        if *freebind {
            SockRef::from(&socket).set_freebind_v4(true)?;
        }
        if let Some(source) = source_address.filter(|source| source.is_ipv4() == address.is_ipv4()) {
            socket.bind(source)?;
        }
    }
    socket.connect(address).await
}

/// Whoever only waits for a control plane hears of one that is gone without a word by probes alone.
fn set_up(socket: &TcpStream, keepalive: Option<TcpKeepalive>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let Some(TcpKeepalive { probes, time_s, interval_s }) = keepalive else { return Ok(()) };
    let seconds = |count: u32| Duration::from_secs(u64::from(count));
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(probes) = probes {
        wanted = wanted.with_retries(probes);
    }
    if let Some(time) = time_s {
        wanted = wanted.with_time(seconds(time));
    }
    if let Some(interval) = interval_s {
        wanted = wanted.with_interval(seconds(interval));
    }
    SockRef::from(socket).set_tcp_keepalive(&wanted)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::ads::Variant;
    use crate::config::cluster::RequestNames;

    /// What `auto_sni` and `auto_san_validation` ask of the cluster's connections holds for those to a control plane.
    #[test]
    fn names_for_tls_are_the_authority_or_a_header_in_its_place() {
        let upstream = |authority: &str, request_names| {
            let ads = Ads {
                variant: Variant::Delta,
                cluster: "plane".into(),
                authority: authority.into(),
                message_bytes_max: 1,
                initial_metadata: vec![("x-name".into(), "given.example".into())],
                node_on_first_message_only: true,
            };
            let mut cluster = Cluster::new("plane");
            cluster.request_names = request_names;
            Upstream::new(&ads, &cluster, &KnownSecrets::default())
        };
        for (authority, header, server, certificate) in [
            ("plane.example:18000", "", Some("plane.example"), "plane.example"),
            ("plane.example", "x-name", Some("given.example"), "given.example"),
            ("plane.example", "x-other", Some("plane.example"), "plane.example"),
            ("[::1]:18000", "", None, "::1"),
        ] {
            let names = RequestNames { server_name: true, subject_alt_name: true, header: header.into() };
            assert_eq!(upstream(authority, Some(names)).names(), (server, Some(certificate)));
        }
        assert_eq!(upstream("plane.example", None).names(), (None, None));
    }

    #[tokio::test]
    async fn connections_come_from_the_source_address_of_their_cluster() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        for (source, from) in [("127.0.0.9:0", "127.0.0.9"), ("[::1]:0", "127.0.0.1")] {
            let source_address = Some(source.parse().unwrap());
            let bind = BindConfig { source_address, freebind: true, ..BindConfig::default() };
            let socket = dial(&[address], Some(&bind)).await.unwrap();
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), from);
        }
        let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let socket = dial(&[refused, address], None).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address, "the next one");
        assert!(dial(&[], None).await.is_err());
    }

    /// xds.md R8: istio's bootstrap has `keepalive_time: 300` for its control plane, and no pings.
    #[tokio::test]
    async fn connections_have_the_keepalive_of_their_cluster() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let kernel = SockRef::from(&socket);
        set_up(&socket, None).unwrap();
        assert!(!kernel.keepalive().unwrap());
        let unset = kernel.tcp_keepalive_interval().unwrap();
        let keepalive = TcpKeepalive { probes: Some(3), time_s: Some(300), interval_s: None };
        set_up(&socket, Some(keepalive)).unwrap();
        assert!(kernel.keepalive().unwrap() && kernel.tcp_nodelay().unwrap());
        let set = (kernel.tcp_keepalive_time().unwrap(), kernel.tcp_keepalive_retries().unwrap());
        assert_eq!(set, (Duration::from_secs(300), 3));
        assert_eq!(kernel.tcp_keepalive_interval().unwrap(), unset, "the kernel's setting");
    }
}
