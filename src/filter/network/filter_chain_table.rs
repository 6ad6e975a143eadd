//! Which filter chain takes a connection: Envoy's criteria in Envoy's order.
//!
//! The criteria are destination port, destination address, server name, transport protocol, application protocol, address of
//! the socket's peer, kind of source, source address, source port. At each the most specific value that fits decides, among
//! the chains that were left by the one before; chains that it leaves out do not come back, so that a connection may end
//! without any although a less specific one would have taken it. Source: Envoy "FilterChainMatch".

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::config::address::CidrRange;
use crate::config::filter_chain::{FilterChain, FilterChainMatch, SourceType};
use crate::protocol::connection_info::ConnectionInfo;

/// The chains of one listener, by their places in its configuration.
#[derive(Debug, Default)]
pub struct FilterChainTable {
    ports: Ports,
    /// The only chain, if it asks nothing: most listeners have one such.
    only: Option<u32>,
}

/// What stands for the address of a Unix socket, as in Envoy: a port that no chain can ask for, and an address of ranges that
/// hardly any chain asks for but that of all addresses. Source: Envoy `fakeAddress`.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::BROADCAST, 0));

/// Two chains ask the same of some connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The place of the second.
    pub chain: usize,
    /// Whether all that they ask is the same.
    pub is_same: bool,
}

type Ports = Level<u16, Prefixes<ServerNames>>;
/// Whole names, and what wildcards end with, from their dot on.
type ServerNames = Level<Box<str>, TransportProtocols>;
type TransportProtocols = Level<Box<str>, ApplicationProtocols>;
type ApplicationProtocols = Level<Box<[u8]>, Prefixes<SourceTypes>>;
type SourcePorts = Level<u16, Option<u32>>;

/// What chains ask by one criterion: values, and those that ask nothing.
#[derive(Debug)]
struct Level<K, T> {
    values: HashMap<K, T>,
    any: Option<Box<T>>,
}

/// The same for addresses.
#[derive(Debug)]
struct Prefixes<T> {
    ranges: HashMap<CidrRange, T>,
    /// The lengths that occur, the longest first.
    lengths: Vec<u8>,
    any: Option<Box<T>>,
}

#[derive(Debug, Default)]
struct SourceTypes {
    any: Option<Prefixes<SourcePorts>>,
    local: Option<Prefixes<SourcePorts>>,
    external: Option<Prefixes<SourcePorts>>,
}

impl FilterChainTable {
    /// The table of these chains.
    ///
    /// # Errors
    /// A connection could take either of two chains.
    pub fn compile<'a>(chains: impl IntoIterator<Item = &'a FilterChain>) -> Result<Self, Overlap> {
        let matches: Vec<_> = chains.into_iter().map(|chain| &chain.filter_chain_match).collect();
        if let [only] = matches[..]
            && *only == FilterChainMatch::default()
        {
            return Ok(Self { ports: Ports::default(), only: Some(0) });
        }
        let mut ports = Ports::default();
        for (place, asked) in matches.iter().enumerate() {
            let overlap = || Overlap { chain: place, is_same: matches[..place].contains(asked) };
            let chain = u32::try_from(place).map_err(|_| overlap())?;
            if !insert(&mut ports, asked, chain) {
                return Err(overlap());
            }
        }
        Ok(Self { ports, only: None })
    }

    /// The chain that takes this connection; `None`: the default chain, if there is one.
    pub fn find(&self, connection: &ConnectionInfo) -> Option<usize> {
        let [remote, direct_remote, local] =
            [&connection.remote, &connection.direct_remote, &connection.local]
                .map(|address| address.socket().unwrap_or(NOWHERE));
        let found = self.only.or_else(|| {
            // A port that chains ask for is decided by them.
            let addresses = self.ports.get(&local.port())?;
            let names = addresses.find(local.ip())?;
            let transports = names.find_name(connection.server_name.as_deref().unwrap_or_default())?;
            let applications = transports.get(connection.transport.name())?;
            let offered = &connection.application_protocols;
            let peers = offered
                .iter()
                .find_map(|protocol| applications.values.get(protocol))
                .or(applications.any.as_deref())?;
            let kinds = peers.find(direct_remote.ip())?;
            let sources = kinds.find(connection)?;
            let ports = sources.find(remote.ip())?;
            *ports.get(&remote.port())?
        });
        found.map(|chain| chain as usize)
    }
}

/// Whether no other chain was there.
fn insert(ports: &mut Ports, asked: &FilterChainMatch, chain: u32) -> bool {
    let mut is_free = true;
    ports.each(&asked.destination_port.map_or_else(Vec::new, |port| vec![port]), |addresses| {
        addresses.each(&asked.prefix_ranges, |names| {
            names.each(&names_of(asked), |transports| {
                transports.each(&named(&asked.transport_protocol), |applications| {
                    let protocols: Vec<_> =
                        asked.application_protocols.iter().map(|name| Box::from(name.as_bytes())).collect();
                    applications.each(&protocols, |peers| {
                        peers.each(&asked.direct_source_prefix_ranges, |kinds| {
                            kinds.slot(asked.source_type).each(&asked.source_prefix_ranges, |sources| {
                                sources.each(&asked.source_ports, |slot| {
                                    is_free &= slot.replace(chain).is_none();
                                });
                            });
                        });
                    });
                });
            });
        });
    });
    is_free
}

/// Without the star of a wildcard: `.example.com`.
fn names_of(asked: &FilterChainMatch) -> Vec<Box<str>> {
    asked.server_names.iter().map(|name| name.strip_prefix('*').unwrap_or(name).into()).collect()
}

fn named(name: &str) -> Vec<Box<str>> {
    if name.is_empty() { Vec::new() } else { vec![name.into()] }
}

// === impl Level ===

impl<K, T> Default for Level<K, T> {
    fn default() -> Self {
        Self { values: HashMap::new(), any: None }
    }
}

impl<K: Eq + Hash, T> Level<K, T> {
    /// What is below a value, or below none where nobody asks for that one.
    fn get<Q: Eq + Hash + ?Sized>(&self, value: &Q) -> Option<&T>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.values.get(value).or(self.any.as_deref())
    }

    /// Goes below each of the values; below none, if there are none.
    fn each(&mut self, values: &[K], mut go: impl FnMut(&mut T))
    where
        K: Clone,
        T: Default,
    {
        if values.is_empty() {
            go(self.any.get_or_insert_default());
        }
        for value in values {
            go(self.values.entry(value.clone()).or_default());
        }
    }
}

impl ServerNames {
    /// The name itself, then what it ends with from each further dot on, the longest first.
    fn find_name(&self, name: &str) -> Option<&TransportProtocols> {
        if let Some(found) = self.values.get(name) {
            return Some(found);
        }
        // A wildcard stands for a label at least.
        let dots = name.char_indices().skip(1).filter(|(_, character)| *character == '.');
        dots.filter(|(at, _)| at + 1 < name.len())
            .find_map(|(at, _)| self.values.get(&name[at..]))
            .or(self.any.as_deref())
    }
}

// === impl Prefixes ===

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { ranges: HashMap::new(), lengths: Vec::new(), any: None }
    }
}

impl<T> Prefixes<T> {
    /// What is below the longest prefix of an address.
    fn find(&self, address: IpAddr) -> Option<&T> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let lengths = self.lengths.iter().filter(|length| **length <= longest);
        lengths
            .map(|length| CidrRange::new(address, u32::from(*length)))
            .find_map(|range| self.ranges.get(&range))
            .or(self.any.as_deref())
    }

    fn each(&mut self, ranges: &[CidrRange], mut go: impl FnMut(&mut T))
    where
        T: Default,
    {
        if ranges.is_empty() {
            go(self.any.get_or_insert_default());
        }
        for range in ranges {
            if let Err(place) = self.lengths.binary_search_by(|length| range.prefix_len().cmp(length)) {
                self.lengths.insert(place, range.prefix_len());
            }
            go(self.ranges.entry(*range).or_default());
        }
    }
}

// === impl SourceTypes ===

impl SourceTypes {
    fn slot(&mut self, kind: SourceType) -> &mut Prefixes<SourcePorts> {
        match kind {
            SourceType::Any => &mut self.any,
            SourceType::SameIpOrLoopback => &mut self.local,
            SourceType::External => &mut self.external,
        }
        .get_or_insert_default()
    }

    fn find(&self, connection: &ConnectionInfo) -> Option<&Prefixes<SourcePorts>> {
        let kind = if connection.is_from_this_host() { &self.local } else { &self.external };
        kind.as_ref().or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::socket_address::SocketAddress;
    use crate::protocol::connection_info::TransportProtocol;

    /// Chains that ask what `ask` writes into each.
    fn table(asks: &[fn(&mut FilterChainMatch)]) -> Result<FilterChainTable, Overlap> {
        let chains: Vec<_> = asks
            .iter()
            .map(|ask| {
                let mut filter_chain_match = FilterChainMatch::default();
                ask(&mut filter_chain_match);
                FilterChain {
                    name: Box::default(),
                    filter_chain_match,
                    filters: Vec::new(),
                    tls: None,
                    transport_socket_connect_timeout: None,
                    fingerprint: 0,
                }
            })
            .collect();
        FilterChainTable::compile(&chains)
    }

    fn range(text: &str) -> CidrRange {
        let (address, length) = text.split_once('/').unwrap();
        CidrRange::new(address.parse().unwrap(), length.parse().unwrap())
    }

    fn connection(remote: &str, local: &str) -> ConnectionInfo {
        ConnectionInfo::new(remote.parse().unwrap(), local.parse().unwrap())
    }

    fn named_connection(name: &str) -> ConnectionInfo {
        ConnectionInfo {
            server_name: Some(name.into()),
            transport: TransportProtocol::Tls,
            ..connection("10.0.0.1:5000", "10.0.0.2:443")
        }
    }

    #[test]
    fn chain_that_asks_nothing_takes_all() {
        assert_eq!(table(&[|_| {}]).unwrap().find(&connection("1.1.1.1:1", "2.2.2.2:2")), Some(0));
        assert_eq!(table(&[]).unwrap().find(&connection("1.1.1.1:1", "2.2.2.2:2")), None);
    }

    #[test]
    fn whole_names_go_before_wildcards_and_longer_wildcards_before_shorter() {
        let table = table(&[
            |asked| asked.server_names = vec!["a.example.com".into()],
            |asked| asked.server_names = vec!["*.example.com".into()],
            |asked| asked.server_names = vec!["*.com".into()],
            |_| {},
        ])
        .unwrap();
        for (name, chain) in [
            ("a.example.com", 0),
            ("b.example.com", 1),
            ("x.a.example.com", 1),
            ("example.com", 2),
            (".example.com", 1),
            ("com", 3),
            ("", 3),
            ("x.org", 3),
        ] {
            assert_eq!(table.find(&named_connection(name)), Some(chain), "{name}");
        }
    }

    #[test]
    fn criterion_that_was_decided_is_not_reconsidered() {
        // The port's chain asks for a name as well: who comes without it finds nothing, though the other asks nothing.
        let table = table(&[
            |asked| {
                asked.destination_port = Some(443);
                asked.server_names = vec!["a.test".into()];
            },
            |_| {},
        ])
        .unwrap();
        assert_eq!(table.find(&named_connection("a.test")), Some(0));
        assert_eq!(table.find(&named_connection("b.test")), None);
        assert_eq!(table.find(&connection("10.0.0.1:1", "10.0.0.2:80")), Some(1));
    }

    #[test]
    fn longest_prefix_of_either_family_decides() {
        let table = table(&[
            |asked| asked.prefix_ranges = vec![range("10.0.0.0/8")],
            |asked| asked.prefix_ranges = vec![range("10.1.0.0/16"), range("fd00::/8")],
            |asked| asked.prefix_ranges = vec![range("10.1.2.3/32")],
        ])
        .unwrap();
        for (local, chain) in [
            ("10.9.9.9:1", Some(0)),
            ("10.1.9.9:1", Some(1)),
            ("10.1.2.3:1", Some(2)),
            ("[fd00::1]:1", Some(1)),
            ("11.0.0.1:1", None),
            ("[::1]:1", None),
        ] {
            assert_eq!(table.find(&connection("1.1.1.1:1", local)), chain, "{local}");
        }
    }

    #[test]
    fn protocols_are_tried_in_the_clients_order() {
        let table = table(&[
            |asked| asked.application_protocols = vec!["h2".into()],
            |asked| asked.application_protocols = vec!["http/1.1".into()],
            |asked| asked.transport_protocol = "raw_buffer".into(),
        ])
        .unwrap();
        let offering = |protocols: &[&str]| ConnectionInfo {
            application_protocols: protocols.iter().map(|name| Box::from(name.as_bytes())).collect(),
            ..named_connection("a")
        };
        assert_eq!(table.find(&offering(&["foo", "http/1.1", "h2"])), Some(1));
        assert_eq!(table.find(&offering(&["h2", "http/1.1"])), Some(0));
        assert_eq!(table.find(&offering(&["foo"])), None);
        let plain = ConnectionInfo { transport: TransportProtocol::RawBuffer, ..offering(&[]) };
        assert_eq!(table.find(&plain), Some(2));
    }

    #[test]
    fn source_of_this_host_is_the_loopback_address_or_the_destination() {
        let table = table(&[
            |asked| asked.source_type = SourceType::SameIpOrLoopback,
            |asked| asked.source_type = SourceType::External,
        ])
        .unwrap();
        for (remote, chain) in
            [("127.0.0.1:9", 0), ("[::1]:9", 0), ("10.0.0.2:9", 0), ("127.0.0.2:9", 1), ("10.0.0.3:9", 1)]
        {
            assert_eq!(table.find(&connection(remote, "10.0.0.2:1")), Some(chain), "{remote}");
        }
    }

    #[test]
    fn peer_and_source_are_asked_apart() {
        let table = table(&[
            |asked| asked.direct_source_prefix_ranges = vec![range("10.0.0.0/8")],
            |asked| {
                asked.source_prefix_ranges = vec![range("192.168.0.0/16")];
                asked.source_ports = vec![7, 8];
            },
        ])
        .unwrap();
        let mut behind = connection("10.0.0.1:9", "2.2.2.2:2");
        let at = |address: &str| address.parse::<SocketAddr>().unwrap().into();
        behind.remote = at("192.168.1.1:7");
        assert_eq!(table.find(&behind), Some(0), "the peer is asked first");
        behind.direct_remote = at("11.0.0.1:9");
        assert_eq!(table.find(&behind), Some(1));
        behind.remote = at("192.168.1.1:9");
        assert_eq!(table.find(&behind), None);
    }

    #[test]
    fn connection_of_a_unix_socket_is_local_and_has_no_port_and_no_address_that_a_chain_asks_for() {
        let path = SocketAddress::Pipe("/run/x".into());
        let connection = ConnectionInfo::of_socket([path.clone(), path]);
        let found = |asks: &[fn(&mut FilterChainMatch)]| table(asks).unwrap().find(&connection);
        assert_eq!(found(&[|asked| asked.destination_port = Some(80), |_| {}]), Some(1));
        assert_eq!(found(&[|asked| asked.source_ports = vec![80], |_| {}]), Some(1));
        assert_eq!(found(&[|asked| asked.prefix_ranges = vec![range("127.0.0.0/8")], |_| {}]), Some(1));
        assert_eq!(found(&[|asked| asked.prefix_ranges = vec![range("0.0.0.0/0")]]), Some(0));
        assert_eq!(found(&[|asked| asked.source_type = SourceType::External]), None);
        assert_eq!(found(&[|asked| asked.source_type = SourceType::SameIpOrLoopback]), Some(0));
    }

    #[test]
    fn chains_that_some_connection_could_both_take_are_refused() {
        let same = table(&[|_| {}, |_| {}]).unwrap_err();
        assert_eq!(same, Overlap { chain: 1, is_same: true });
        let overlapping = table(&[
            |asked| asked.server_names = vec!["a".into(), "b".into()],
            |asked| asked.server_names = vec!["b".into(), "c".into()],
        ]);
        assert_eq!(overlapping.unwrap_err(), Overlap { chain: 1, is_same: false });
        let twice = table(&[|_| {}, |asked| asked.source_ports = vec![7, 7]]);
        assert_eq!(twice.unwrap_err(), Overlap { chain: 1, is_same: false });
    }
}
