//! One cluster on this core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::breakers::Breakers;
use super::drop_overload::{self, Dropped};
use super::host::{Host, Own};
use super::load_balancer::{LoadBalancer, Pick};
use super::manager::Keeper;
use super::original_dst::{self, OriginalDstHosts};
use super::set::{ClusterSpec, HostSpecs, TransportSockets};
use crate::base::clock::Now;
use crate::base::heaps;
use crate::base::rng::Rng;
use crate::config::cluster::{Cluster as Config, Discovery, RoutingPriority};
use crate::config::endpoint::DropOverload;
use crate::config::http2::UpstreamProtocol;
use crate::config::proxy_protocol::{OwnedTlv, ProxyProtocolVersion};
use crate::protocol::connection_info::OriginalSource;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::proxy_protocol::{self, Tlv};
use crate::protocol::tls::{ClientContext, Meter, Offer, Secured};
use crate::runtime::{Keepalive, RawOption, Runtime, TaskId};
use crate::telemetry::Slot;
use crate::telemetry::metrics::ClusterCells;
use crate::telemetry::names::ClusterStat;

/// A cluster: its configuration, hosts and counters on this core.
#[derive(Debug)]
pub struct Cluster {
    config: Arc<Config>,
    stats: ClusterCells,
    breakers: Breakers,
    /// How its endpoints are reached, by connections from now on.
    sockets: RefCell<Arc<TransportSockets>>,
    runtime: Runtime,
    keeper: Rc<Keeper>,
    hosts: RefCell<Vec<Rc<Host>>>,
    balancer: RefCell<LoadBalancer>,
    /// The share of requests that its hosts are spared.
    drop_overload: RefCell<Option<Arc<DropOverload>>>,
    options: Vec<RawOption>,
    worker: usize,
    /// How many of them there are.
    workers: usize,
    tls_meter: Meter,
    /// The header that has the name of TLS in place of the request's host.
    name_header: Option<HeaderName>,
    /// The hosts that connections have brought with them; `None`: it has hosts of its own.
    original_dst: Option<OriginalDstHosts>,
    /// Whether another one has its name now, or none.
    is_retired: Cell<bool>,
}

impl Cluster {
    pub(super) fn new(
        spec: &ClusterSpec,
        sockets: Arc<TransportSockets>,
        runtime: &Runtime,
        keeper: &Rc<Keeper>,
        worker: usize,
        tls_meter: &Meter,
    ) -> Rc<Self> {
        let config = Arc::clone(&spec.config);
        Rc::new(Self {
            worker,
            workers: spec.stats.workers(),
            tls_meter: tls_meter.clone(),
            balancer: RefCell::new(LoadBalancer::new(&config)),
            options: connect_options(&config),
            name_header: config
                .request_names
                .as_ref()
                .and_then(|names| HeaderName::parse(names.header.as_bytes())),
            original_dst: match &config.discovery {
                Discovery::OriginalDst(settings) => Some(OriginalDstHosts::new(settings)),
                Discovery::Static
                | Discovery::StrictDns(_)
                | Discovery::LogicalDns(_)
                | Discovery::Eds(_) => None,
            },
            config,
            stats: spec.stats.cells(Slot::Worker(worker)),
            breakers: spec.breakers.of_worker(&spec.config.circuit_breakers, spec.stats.workers(), worker),
            sockets: RefCell::new(sockets),
            runtime: runtime.clone(),
            keeper: Rc::clone(keeper),
            hosts: RefCell::default(),
            drop_overload: RefCell::default(),
            is_retired: Cell::new(false),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// TLS of a connection to an endpoint that begins now, by the endpoint's
    /// [`HostSpec::socket`](super::HostSpec::socket); `None`: plain text.
    pub fn tls(&self, socket: u16) -> Option<Secured<ClientContext>> {
        self.sockets.borrow().tls(socket).cloned()
    }

    pub(super) fn set_sockets(&self, sockets: Arc<TransportSockets>) {
        *self.sockets.borrow_mut() = sockets;
    }

    /// What its endpoints are spoken to in for a client that speaks HTTP/2, or does not.
    pub fn offer(&self, downstream_is_http2: bool) -> Offer {
        match self.config.upstream_protocol {
            UpstreamProtocol::Http1 => Offer::Http1,
            UpstreamProtocol::Http2 => Offer::Http2,
            UpstreamProtocol::Downstream if downstream_is_http2 => Offer::Http2,
            UpstreamProtocol::Downstream => Offer::Http1,
            UpstreamProtocol::Negotiated => Offer::Either,
        }
    }

    /// The header that has the name that a request gives to TLS, in place of its host.
    pub fn name_header(&self) -> Option<&HeaderName> {
        self.name_header.as_ref()
    }

    /// The host with the connections whose TLS has this name from its requests; as it is, where it is reached in plain text.
    pub fn for_name(&self, host: Rc<Host>, name: &str) -> Rc<Host> {
        if self.sockets.borrow().tls(host.socket()).is_none() {
            return host;
        }
        let now = self.runtime.now();
        if let Some(found) = host.find_named(name.as_bytes(), now) {
            return found;
        }
        let (added, full) = self.runtime.edit(|| heaps::lasting(|| host.add_named(name, self.worker, now)));
        if full {
            self.stats.inc(ClusterStat::UpstreamCxPoolOverflow);
        }
        added
    }

    /// The host with the connections of this priority's requests.
    #[inline]
    pub fn for_priority(&self, host: Rc<Host>, priority: RoutingPriority) -> Rc<Host> {
        if priority == RoutingPriority::Default {
            return host;
        }
        let now = self.runtime.now();
        let (apart, full) =
            self.runtime.edit(|| heaps::lasting(|| host.for_priority(priority, self.worker, now)));
        if full {
            self.stats.inc(ClusterStat::UpstreamCxPoolOverflow);
        }
        apart
    }

    /// The host with the connections of this client, where they are to begin with its header or to come from its address;
    /// as it is where they are not. `key` is room.
    pub fn for_client(&self, host: Rc<Host>, client: &ProxiedClient<'_>, key: &mut Vec<u8>) -> Rc<Host> {
        key.clear();
        let header = self.write_key(&host, client, key);
        if key.is_empty() {
            return host;
        }
        let now = self.runtime.now();
        if let Some(found) = host.find_named(key, now) {
            return found;
        }
        let own = self.own(client, key.get(header..).unwrap_or_default());
        let add = || heaps::lasting(|| host.add_for_client(key, own, self.worker, now));
        let (added, full) = self.runtime.edit(add);
        if full {
            self.stats.inc(ClusterStat::UpstreamCxPoolOverflow);
        }
        added
    }

    /// The same for a connection that serves nobody else: nothing of it is remembered.
    pub fn once_for_client(&self, host: Rc<Host>, client: &ProxiedClient<'_>) -> Rc<Host> {
        let mut key = Vec::new();
        let header = self.write_key(&host, client, &mut key);
        if key.is_empty() {
            return host;
        }
        host.apart(self.own(client, key.get(header..).unwrap_or_default()), self.worker)
    }

    /// Writes what sets a client's connections apart, its header of the PROXY protocol last; where that begins. Nothing:
    /// they are like all others.
    fn write_key(&self, host: &Host, client: &ProxiedClient<'_>, key: &mut Vec<u8>) -> usize {
        if let Some(OriginalSource { address, mark }) = client.source {
            // No name begins so.
            key.push(0);
            key.extend_from_slice(&mark.to_ne_bytes());
            match address {
                IpAddr::V4(v4) => key.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => key.extend_from_slice(&v6.octets()),
            }
        }
        let header = key.len();
        let settings = self.config.sockets().proxy_protocol_of(host.socket());
        let Some(settings) = settings.filter(|_| client.is_told) else { return header };
        if settings.version == ProxyProtocolVersion::V1 {
            proxy_protocol::encode_v1(client.ends, key);
            return header;
        }
        let has_all = host.with_added_tlvs(|of_host| {
            let has = |kind: u8| of_host.iter().any(|(other, _)| *other == kind);
            let of_socket = settings.added.iter().filter(|(kind, _)| !has(*kind));
            let passed = client.tlvs.iter().filter(|(kind, _)| {
                settings.pass_through.contains(*kind)
                    && !has(*kind)
                    && settings.added.iter().all(|(other, _)| other != kind)
            });
            let tlvs = of_host.iter().chain(of_socket).chain(passed);
            let tlvs = tlvs.map(|(kind, value)| Tlv { kind: *kind, value });
            proxy_protocol::encode_v2(client.ends, tlvs, key)
        });
        if !has_all {
            self.stats.inc(ClusterStat::UpstreamProxyprotocolV2TlvsExceedMaxLength);
        }
        header
    }

    fn own(&self, client: &ProxiedClient<'_>, header: &[u8]) -> Own {
        let source = client.source.map(|OriginalSource { address, mark }| {
            let option =
                |level, name, value: [u8; 4]| RawOption { level, name, value: Box::from(&value[..]) };
            let transparent = if address.is_ipv4() {
                option(libc::SOL_IP, libc::IP_TRANSPARENT, 1u32.to_ne_bytes())
            } else {
                option(libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1u32.to_ne_bytes())
            };
            let marked = (mark != 0).then(|| option(libc::SOL_SOCKET, libc::SO_MARK, mark.to_ne_bytes()));
            let options = self.options.iter().cloned().chain([transparent]).chain(marked);
            (SocketAddr::new(address, 0), options.collect())
        });
        Own { header: (!header.is_empty()).then(|| header.into()), source, ..Own::default() }
    }

    /// Its counters on this core.
    pub fn stats(&self) -> &ClusterCells {
        &self.stats
    }

    /// Its circuit breakers, as this core uses them.
    pub fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    pub(super) fn tls_meter(&self) -> &Meter {
        &self.tls_meter
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Whether its hosts are picked by a hash of what asks for one.
    pub fn hashes(&self) -> bool {
        self.balancer.borrow().hashes()
    }

    /// Whether the next request is answered in place of its hosts, which are to be spared; it is counted.
    #[inline]
    pub fn spare(&self, rng: &mut Rng) -> Option<Dropped> {
        let limit = self.config.drop_overload_limit.as_ref();
        let share = self.drop_overload.borrow().as_ref()?.per_million(limit);
        let dropped = drop_overload::draw(share, rng)?;
        self.stats.inc(ClusterStat::UpstreamRqDropOverload);
        Some(dropped)
    }

    /// The host for the next request, by its hash where the policy hashes; `None`: no host may take it.
    pub fn pick(&self, hash: Option<u64>, rng: &mut Rng) -> Option<Rc<Host>> {
        let pick = || self.balancer.borrow_mut().pick(hash, rng, &self.stats);
        let Some(Pick { host, panic }) = self.runtime.edit(pick) else {
            self.stats.inc(ClusterStat::UpstreamCxNoneHealthy);
            return None;
        };
        if panic {
            self.stats.inc(ClusterStat::LbHealthyPanic);
        }
        Some(host)
    }

    /// The host for a client's next connection or request; `None`: no host may take it.
    #[inline]
    pub fn pick_for(self: &Rc<Self>, wanted: Wanted<'_>, rng: &mut Rng) -> Option<Rc<Host>> {
        if self.original_dst.is_none() { self.pick(wanted.hash, rng) } else { self.pick_original(wanted) }
    }

    /// The host that a connection has brought with it.
    fn pick_original(self: &Rc<Self>, wanted: Wanted<'_>) -> Option<Rc<Host>> {
        let hosts = self.original_dst.as_ref()?;
        let picked = hosts.destination(wanted, &self.stats).and_then(|address| {
            hosts.find(address).or_else(|| {
                let add = || heaps::lasting(|| hosts.add(address, &self.config, &self.stats, self.worker));
                let added = self.runtime.edit(add)?;
                original_dst::clean_up(self, hosts);
                Some(added)
            })
        });
        if picked.is_none() {
            self.stats.inc(ClusterStat::UpstreamCxNoneHealthy);
        }
        picked
    }

    pub(super) fn original_dst(&self) -> Option<&OriginalDstHosts> {
        self.original_dst.as_ref()
    }

    /// Takes a new set of endpoints. Hosts that stay keep their connections.
    pub fn update_hosts(&self, specs: &Arc<HostSpecs>, rng: &mut Rng) {
        let old = std::mem::take(&mut *self.hosts.borrow_mut());
        let places: HashMap<_, _> =
            old.iter().enumerate().map(|(place, host)| (host.address().clone(), place)).collect();
        let mut old: Vec<_> = old.into_iter().map(Some).collect();
        let hosts: Vec<_> = specs
            .iter()
            .map(|spec| match places.get(&spec.address()).and_then(|&place| old[place].take()) {
                Some(host) => {
                    host.update(Arc::clone(spec));
                    host
                }
                None => Host::new(Arc::clone(spec), self.worker, self.workers),
            })
            .collect();
        let close_all = self.config.common_lb.close_connections_on_host_set_change;
        let mut any_gone = false;
        for host in old.into_iter().flatten() {
            host.remove();
            any_gone = true;
        }
        if close_all && any_gone {
            hosts.iter().for_each(|host| host.close_idle());
        }
        self.balancer.borrow_mut().rebuild(&hosts, specs, &self.config, rng);
        *self.drop_overload.borrow_mut() = specs.drop_overload().cloned();
        *self.hosts.borrow_mut() = hosts;
    }

    /// Source address and options of a connection to `host`.
    pub(super) fn bind_for<'a>(&'a self, host: &'a Host) -> (Option<SocketAddr>, &'a [RawOption]) {
        if let Some((source, options)) = host.source() {
            return (Some(source), options);
        }
        // A socket of the Unix domain comes from nowhere.
        let is_v4 = host.address().ip().map(|to| to.is_ipv4());
        let source = self.config.bind_config.as_ref().and_then(|bind| bind.source_address);
        (source.filter(|source| Some(source.is_ipv4()) == is_v4), &self.options)
    }

    pub(super) fn keepalive(&self) -> Option<Keepalive> {
        let seconds = |value: Option<u32>| value.map(|s| std::time::Duration::from_secs(u64::from(s)));
        self.config.tcp_keepalive.map(|keepalive| Keepalive {
            probes: keepalive.probes,
            idle: seconds(keepalive.time_s),
            interval: seconds(keepalive.interval_s),
        })
    }

    /// Whether an idle connection of this host is not to be kept.
    pub(super) fn keeps_none_of(&self, host: &Host) -> bool {
        host.is_removed() || self.keeper.refuses(host)
    }

    pub(super) fn each_host(&self, each: impl Fn(&Host)) {
        self.hosts.borrow().iter().for_each(|host| each(host));
    }

    pub(super) fn keeper(&self) -> TaskId {
        self.keeper.task()
    }

    /// A connection of `host` is idle until `due`.
    pub(super) fn kept(self: &Rc<Self>, host: &Rc<Host>, due: Option<Now>) {
        self.keeper.keep(self, host, due);
    }

    /// Whether it has gone: who kept it looks for the one that has its name now.
    pub fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    /// The cluster goes: idle connections are closed, others when what they carry is over.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        self.hosts.borrow().iter().for_each(|host| host.remove());
        self.original_dst.iter().for_each(|hosts| hosts.clear(&self.stats));
    }
}

/// What a client has to say about the host of its connection or request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Where it meant to connect to, as a listener filter has found.
    pub destination: Option<SocketAddr>,
    /// Its request; `None`: there is none.
    pub request: Option<&'a Head>,
    /// The hash of what sets it apart from others; `None`: nothing does.
    pub hash: Option<u64>,
}

/// For whom a connection to an endpoint is made.
#[derive(Clone, Copy, Debug)]
pub struct ProxiedClient<'a> {
    /// The client, and where it meant to connect to; `None`: they are not both addresses of IP.
    pub ends: Option<[SocketAddr; 2]>,
    /// Whether headers of the PROXY protocol name it; else they name nobody, and connections to endpoints are everybody's.
    pub is_told: bool,
    /// TLVs of its own header that may be passed on.
    pub tlvs: &'a [OwnedTlv],
    /// Where the connection is to come from; `None`: from this host.
    pub source: Option<OriginalSource>,
}

/// A cluster's host with idle connections, as the keeper remembers it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) cluster: Weak<Cluster>,
    pub(super) host: Weak<Host>,
}

fn connect_options(config: &Config) -> Vec<RawOption> {
    let Some(bind) = &config.bind_config else { return Vec::new() };
    let freebind = bind.freebind.then(|| RawOption::int(libc::IPPROTO_IP, libc::IP_FREEBIND, 1));
    let listed = bind.socket_options.iter().map(|option| RawOption {
        level: option.level,
        name: option.name,
        value: option.value.bytes(),
    });
    freebind.into_iter().chain(listed).collect()
}
