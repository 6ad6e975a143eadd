//! Listeners: where connections are accepted and which filters serve them. Source: Envoy
//! `config.listener.v3.Listener`.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::address::Address;
use super::ads::Sds;
use super::filter_chain::{FilterChain, NetworkFilter};
use super::http::HttpConnectionManager;
use super::listener_filter::ListenerFilter;
use super::matching::Matcher;
use super::runtime::RuntimeKey;
use super::socket::{SocketOption, TcpKeepalive};
use super::told_filter::ToldFilter;
use crate::base::balance::Policy;
use crate::base::socket_address::InternalAddress;

/// One listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Unique name; an unnamed one gets a generated name, as in Envoy. Source: `name`.
    pub name: Box<str>,
    /// Name in statistics (`listener.STAT_PREFIX.`); empty: the first address with `:` as `_`.
    /// Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// Addresses listened on, at least one, the main one first. Source: `address`,
    /// `additional_addresses`.
    pub addresses: Vec<ListenAddress>,
    /// Chains in the order given; the match that picks one is in each. Source: `filter_chains`.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// What chooses the chain of a connection, by its name, in place of the chains' own matches; `None`: those do. Source:
    /// `filter_chain_matcher`.
    pub filter_chain_matcher: Option<Matcher<Box<str>>>,
    /// Chain of connections that no other chain matches; without it they are closed. Source:
    /// `default_filter_chain`.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// What looks at a connection before a chain is chosen for it, in this order. Source: `listener_filters`.
    pub listener_filters: Vec<ListenerFilter>,
    /// Longest time that they take together; `None`: any. Default 15 s, from Envoy. Source: `listener_filters_timeout`.
    pub listener_filters_timeout: Option<Duration>,
    /// Whether a connection is served then, by what is known of it, instead of closed. Default false. Source:
    /// `continue_on_listener_filters_timeout`.
    pub continue_on_listener_filters_timeout: bool,
    /// Bytes buffered per connection and direction before reading from the peer pauses. Default
    /// 1 MiB; 0 is no limit. Source: `per_connection_buffer_limit_bytes`.
    pub per_connection_buffer_limit_bytes: u32,
    /// Whether the sockets are bound; an internal listener has none. `false` leaves a listener that only other listeners hand connections to. Default
    /// true. Source: `bind_to_port`.
    pub bind_to_port: bool,
    /// Whether a connection whose restored destination is another listener's address is handed to that one. Default false.
    /// Source: `use_original_dst`.
    pub use_original_dst: bool,
    /// One socket per worker with SO_REUSEPORT, or one shared by all. Default true; sockets of Unix
    /// domain are always shared. Source: `enable_reuse_port`.
    pub enable_reuse_port: bool,
    /// Which worker serves a connection. Default: the one that accepted it, unless that is ahead of another. Source:
    /// `connection_balance_config`.
    pub connection_balance: Policy,
    /// `IP_FREEBIND`: bind to an address no interface has. Default off. Source: `freebind`.
    pub freebind: bool,
    /// `IP_TRANSPARENT`: take connections to any address that a rule of the kernel (TPROXY) leads here. Needs CAP_NET_ADMIN.
    /// Default off. Source: `transparent`.
    pub transparent: bool,
    /// Length of the kernel's accept queue (`listen`); the kernel cuts it to
    /// `net.core.somaxconn`. Default `None`: that maximum itself. Source: `tcp_backlog_size`.
    pub tcp_backlog_size: Option<u32>,
    /// Requests of TCP Fast Open that may wait at once; the kernel cuts them to `net.core.somaxconn`, and has the bit 2 of
    /// `net.ipv4.tcp_fastopen` decide whether servers take any. Default `None`: off, as with 0. Source:
    /// `tcp_fast_open_queue_length`.
    pub tcp_fast_open_queue_length: Option<u32>,
    /// Connections accepted per readiness of a socket. Default `None`: Envoy accepts all that wait.
    /// Source: `max_connections_to_accept_per_socket_event`.
    pub accepts_per_event_max: Option<u32>,
    /// Whether connections count towards, and are refused by, the process's global limit. Default
    /// false: they are. Source: `ignore_global_conn_limit`.
    pub ignore_global_conn_limit: bool,
    /// Under which the runtime layers have the most connections of this listener at a time, beyond which a new one is closed at
    /// once and counted; `None`: none can come, as for internal listeners. Default: no limit. Source: runtime
    /// `envoy.resource_limits.listener.NAME.connection_limit`.
    pub connection_limit: Option<RuntimeKey>,
    /// For what traffic the listener stands; `drain_listeners?inboundonly` goes by it. Source:
    /// `traffic_direction`.
    pub traffic_direction: TrafficDirection,
    /// What drains this listener. Source: `drain_type`.
    pub drain_type: DrainType,
    /// Logs written of every connection when it is over, those included that are not served. Source: `access_log`.
    pub access_log: Vec<AccessLog>,
    /// By which it is told from listeners that differ in anything but their chains, and in how one is chosen; a hash of its
    /// message.
    pub fingerprint: u64,
}

/// An address of a listener and the options of its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Where to bind; port 0 is resolved by the first bind and shared by all workers.
    pub address: Address,
    /// For an IPv6 address: accept IPv4 too, as v4-mapped. Default false. Source:
    /// `SocketAddress.ipv4_compat`.
    pub ipv4_compat: bool,
    /// Options of its sockets. Source: `socket_options` of the listener, or of the additional
    /// address, which then replaces them.
    pub socket_options: Vec<SocketOption>,
    /// Keepalive of the connections accepted there, which they inherit from the socket; `None`, the default: none. Source:
    /// `tcp_keepalive` of the listener, or of the additional address, which then replaces it.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

impl ListenAddress {
    /// Whether the kernel gives one of the two alone to sockets that do not share it: they are at the same place, or one of them
    /// takes in the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (&self.address, &other.address) {
            (Address::Ip(one), Address::Ip(two)) => {
                one.port() != 0
                    && one.port() == two.port()
                    && (takes_in(one.ip(), self.ipv4_compat, two.ip())
                        || takes_in(two.ip(), other.ipv4_compat, one.ip()))
            }
            (one, two) => one.is_at(two),
        }
    }

    /// Whether its socket may be opened in the same way as the other's.
    pub fn is_opened_as(&self, other: &Self) -> bool {
        let how = |one: &Self| (one.ipv4_compat, one.tcp_keepalive);
        how(self) == how(other) && self.socket_options == other.socket_options
    }
}

/// Whether a socket at an address is reached at `other`, too; `ipv4_compat`: if it is one of IPv6, by IPv4 as well.
fn takes_in(address: IpAddr, ipv4_compat: bool, other: IpAddr) -> bool {
    let (address, other) = (address.to_canonical(), other.to_canonical());
    let is_of_family = address.is_ipv4() == other.is_ipv4() || address.is_ipv6() && ipv4_compat;
    address == other || address.is_unspecified() && is_of_family
}

impl Listener {
    /// Its name, and where endpoints find it, if its connections come from within the process alone. Source:
    /// `internal_listener`.
    pub fn internal(&self) -> Option<&InternalAddress> {
        match &self.addresses.first()?.address {
            Address::Internal(address) => Some(address),
            Address::Ip(_) | Address::Pipe(_) => None,
        }
    }

    /// A copy that has nothing in common with it but the managers of its chains: what is loaded lies among what loading
    /// needed, and would keep the pages of it.
    pub fn settled(&self) -> Self {
        let chain = |chain: &Arc<FilterChain>| Arc::new(FilterChain::clone(chain));
        Self {
            filter_chains: self.filter_chains.iter().map(chain).collect(),
            default_filter_chain: self.default_filter_chain.as_ref().map(chain),
            ..self.clone()
        }
    }

    /// Its chains; the default chain is the last.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }

    /// By the place of each chain, the place of the chain of `next` that has taken it, where connections would be treated the
    /// same until their first request: nothing but a connection manager is in it, it is chosen by the same name or match, and
    /// TLS is the same.
    pub fn successors(&self, next: &Self) -> Vec<Option<usize>> {
        self.counterparts(next, FilterChain::goes_on_as)
    }

    /// By the place of each chain, the place of the very same one of `next`, where that differs in chains alone: its connections
    /// are not drained. Source: Envoy `filterChainOnlyChange`.
    pub fn kept_chains(&self, next: &Self) -> Vec<Option<usize>> {
        let is_alike = self.fingerprint == next.fingerprint;
        self.counterparts(next, |own, other| is_alike && own.fingerprint == other.fingerprint)
    }

    /// By the place of each chain, the place of the first of `next` that fits it; the default chain's is a default chain.
    fn counterparts(
        &self,
        next: &Self,
        fits: impl Fn(&FilterChain, &FilterChain) -> bool,
    ) -> Vec<Option<usize>> {
        let is_default = |listener: &Self, place: usize| place == listener.filter_chains.len();
        let counterpart = |(place, chain): (usize, &Arc<FilterChain>)| {
            let is_it = |(other, next_chain): &(usize, &Arc<FilterChain>)| {
                is_default(self, place) == is_default(next, *other) && fits(chain, next_chain)
            };
            next.chains().enumerate().find(is_it).map(|(place, _)| place)
        };
        self.chains().enumerate().map(counterpart).collect()
    }

    /// Whether each worker has a socket of its own at an address, so that others can be bound beside it.
    pub fn shares(&self, listen: &ListenAddress) -> bool {
        self.enable_reuse_port && matches!(listen.address, Address::Ip(_))
    }

    /// Whether its sockets may stay as they are for `next`: the same addresses, bound and opened in the same way.
    pub fn has_sockets_of(&self, next: &Self) -> bool {
        let how = |one: &Self| {
            let Self { bind_to_port, enable_reuse_port, freebind, transparent, .. } = *one;
            let queues = (one.tcp_backlog_size, one.tcp_fast_open_queue_length);
            (bind_to_port, enable_reuse_port, freebind, transparent, queues)
        };
        self.addresses == next.addresses && how(self) == how(next)
    }

    /// The secrets that its chains have told.
    pub fn told_secrets(&self) -> impl Iterator<Item = &Sds> {
        self.chains().filter_map(|chain| chain.tls.as_deref()).flat_map(|tls| tls.told())
    }

    /// The filters that it has told: its own, those of its chains and those of its managers.
    pub fn told_filters(&self) -> impl Iterator<Item = &ToldFilter> {
        let of_managers = self.managers().flat_map(|(_, manager)| manager.told_filters());
        self.told_connection_filters().chain(of_managers)
    }

    /// Those of them that connections meet: its own and those of its chains.
    pub fn told_connection_filters(&self) -> impl Iterator<Item = &ToldFilter> {
        let own = self.listener_filters.iter().filter_map(|filter| filter.kind.as_told());
        own.chain(self.chains().flat_map(|chain| chain.told_filters()))
    }

    /// Its connection managers, each with the place of its chain; the default chain is the last.
    pub fn managers(&self) -> impl Iterator<Item = (usize, &Arc<HttpConnectionManager>)> {
        self.chains().enumerate().filter_map(|(place, chain)| match chain.filters.last()? {
            NetworkFilter::HttpConnectionManager(manager) => Some((place, manager)),
            _ => None,
        })
    }
}

/// Envoy's `core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrafficDirection {
    /// Not told. The default.
    #[default]
    Unspecified,
    /// Towards this host's application.
    Inbound,
    /// Away from it.
    Outbound,
}

/// Envoy's `Listener.DrainType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DrainType {
    /// Drains on `/healthcheck/fail`, on removal or change, and on shutdown. The default.
    #[default]
    Default,
    /// Not on `/healthcheck/fail`. Source: `MODIFY_ONLY`.
    ModifyOnly,
}

/// Default of [`Listener::listener_filters_timeout`], from Envoy.
pub const LISTENER_FILTERS_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// Default of [`Listener::per_connection_buffer_limit_bytes`] and its like in clusters: 1 MiB, from
/// Envoy.
pub const BUFFER_LIMIT_BYTES_DEFAULT: u32 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::Pipe;

    fn at(text: &str) -> ListenAddress {
        let (address, ipv4_compat) = text.strip_suffix('+').map_or((text, false), |address| (address, true));
        let address = match address.split_once('#') {
            Some((path, mode)) => Address::Pipe(Pipe { path: path.into(), mode: mode.parse().unwrap() }),
            None => Address::Ip(address.parse().unwrap()),
        };
        ListenAddress { address, ipv4_compat, socket_options: Vec::new(), tcp_keepalive: None }
    }

    #[test]
    fn addresses_overlap_as_the_kernel_has_it() {
        for (one, two, overlap) in [
            ("10.0.0.1:80", "10.0.0.1:80", true),
            ("0.0.0.0:80", "10.0.0.1:80", true),
            ("0.0.0.0:80", "10.0.0.1:81", false),
            ("10.0.0.1:80", "10.0.0.2:80", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", false),
            ("[::]:80", "10.0.0.1:80", false),
            ("[::]:80+", "0.0.0.0:80", true),
            ("[::]:80+", "10.0.0.1:80", true),
            ("[::1]:80+", "0.0.0.0:80", false),
            ("[::ffff:10.0.0.1]:80+", "10.0.0.1:80", true),
            ("[::ffff:10.0.0.1]:80+", "0.0.0.0:80", true),
            ("/a#0", "/a#384", true),
            ("/a#0", "/b#0", false),
            ("/a#0", "0.0.0.0:80", false),
        ] {
            for (one, two) in [(one, two), (two, one)] {
                assert_eq!(at(one).overlaps(&at(two)), overlap, "{one} {two}");
            }
        }
    }
}
