//! Addresses of a name: `/etc/hosts`, `localhost`, then name servers, by address family as Envoy's c-ares resolver does.
//!
//! Nothing is cached here: the schedule decides when a name is asked for again.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use crate::config::cluster::{Dns, DnsLookupFamily};

const HOSTS_FILE: &str = "/etc/hosts";
const NAME_SERVER_PORT: u16 = 53;

/// What the name servers said of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// In the order of the answer, each once; none when the name exists without addresses, or not at all.
    pub(super) addresses: Vec<IpAddr>,
    /// Smallest time to live of the records; `None` when it is zero or there are none, as for `/etc/hosts`.
    pub(super) ttl: Option<Duration>,
}

/// No answer: servers unreachable or refusing, or a text that is no name.
#[derive(Debug)]
pub(super) struct NoAnswer(NetError);

/// Resolves names by the settings of one cluster.
pub(super) struct NameResolver {
    servers: TokioResolver,
    family: DnsLookupFamily,
    hosts: HostsFile,
}

// === impl NameResolver ===

impl NameResolver {
    /// Reads `/etc/resolv.conf`; without one, or without servers in it, the local host is asked, as c-ares does.
    ///
    /// # Errors
    /// When the resolver cannot be built from these settings.
    pub(super) fn new(dns: &Dns) -> Result<Self, NoAnswer> {
        let (config, mut options) = configuration(dns, system_conf::read_system_conf().ok());
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        if let Some(timeout) = dns.query_timeout {
            options.timeout = timeout;
        }
        if let Some(tries) = dns.query_tries {
            options.attempts = (tries as usize).saturating_sub(1);
        }
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let servers = builder.with_options(options).build().map_err(NoAnswer)?;
        Ok(Self { servers, family: dns.lookup_family, hosts: HostsFile::new(HOSTS_FILE) })
    }

    /// The addresses of `host` in the families that are configured.
    ///
    /// # Errors
    /// When a family that was needed got no answer and none gave an address. "No such name" is an answer.
    pub(super) async fn resolve(&self, host: &str) -> Result<Answer, NoAnswer> {
        let name = parse(host).map_err(NoAnswer)?;
        match self.family {
            DnsLookupFamily::V4Only => self.lookup(&name, RecordType::A).await,
            DnsLookupFamily::V6Only => self.lookup(&name, RecordType::AAAA).await,
            DnsLookupFamily::Auto => self.first_of(&name, RecordType::AAAA, RecordType::A).await,
            DnsLookupFamily::V4Preferred => self.first_of(&name, RecordType::A, RecordType::AAAA).await,
            DnsLookupFamily::All => {
                let (v4, v6) =
                    tokio::join!(self.lookup(&name, RecordType::A), self.lookup(&name, RecordType::AAAA));
                both(v4, v6)
            }
        }
    }

    /// The second family only when the first has no address.
    async fn first_of(&self, name: &Name, first: RecordType, second: RecordType) -> Result<Answer, NoAnswer> {
        let first = self.lookup(name, first).await;
        if matches!(&first, Ok(answer) if !answer.addresses.is_empty()) {
            return first;
        }
        both(first, self.lookup(name, second).await)
    }

    async fn lookup(&self, name: &Name, record_type: RecordType) -> Result<Answer, NoAnswer> {
        if let Some(addresses) = self.hosts.lookup(name, record_type) {
            return Ok(Answer { addresses, ttl: None });
        }
        let found = match self.servers.lookup(name.clone(), record_type).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Answer::default()),
            Err(error) => return Err(NoAnswer(error)),
        };
        let mut addresses = Vec::new();
        for address in found.answers().iter().filter_map(|record| record.data.ip_addr()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let ttl = found.answers().iter().map(|record| record.ttl).min().filter(|ttl| *ttl > 0);
        // The built-in answer for `localhost` claims a day; like an entry of the hosts file, it has no time to live.
        let ttl = ttl.filter(|_| !name.is_localhost()).map(|seconds| Duration::from_secs(u64::from(seconds)));
        Ok(Answer { addresses, ttl })
    }
}

impl fmt::Debug for NameResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameResolver").field("family", &self.family).finish_non_exhaustive()
    }
}

// === impl NoAnswer ===

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Two families as one answer. With no address, one that failed outweighs one that was empty: the last good
/// addresses stay rather than vanish because half of the question was answered.
fn both(first: Result<Answer, NoAnswer>, second: Result<Answer, NoAnswer>) -> Result<Answer, NoAnswer> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.addresses.extend(second.addresses);
            first.ttl = [first.ttl, second.ttl].into_iter().flatten().min();
            Ok(first)
        }
        (Ok(answer), Err(_)) | (Err(_), Ok(answer)) if !answer.addresses.is_empty() => Ok(answer),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// A name as configured. Underscores and other bytes that host names may not have are left to the servers.
fn parse(host: &str) -> Result<Name, NetError> {
    Name::from_ascii(host).or_else(|_| Name::from_utf8(host)).map_err(NetError::from)
}

/// Servers, search domains and options of one cluster, from its settings and the system's.
fn configuration(
    dns: &Dns,
    system: Option<(ResolverConfig, ResolverOpts)>,
) -> (ResolverConfig, ResolverOpts) {
    let (system_config, options) = system.unwrap_or_default();
    let (mut domain, mut search, mut servers) = system_config.into_parts();
    if !dns.resolvers.is_empty() && (servers.is_empty() || !dns.resolvers_are_fallback) {
        servers = dns.resolvers.iter().map(|address| name_server(*address)).collect();
    } else if servers.is_empty() {
        servers.push(name_server(SocketAddr::from(([127, 0, 0, 1], NAME_SERVER_PORT))));
    }
    if dns.use_tcp {
        for server in &mut servers {
            server.connections.retain(|connection| connection.protocol == ConnectionConfig::tcp().protocol);
        }
    }
    if dns.no_default_search_domain {
        domain = None;
        search.clear();
    }
    (ResolverConfig::from_parts(domain, search, servers), options)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = if address.port() == 0 { NAME_SERVER_PORT } else { address.port() };
    }
    server
}

/// The hosts file, parsed again when it changes.
struct HostsFile {
    path: &'static str,
    parsed: Mutex<(Option<SystemTime>, Arc<Hosts>)>,
}

impl HostsFile {
    fn new(path: &'static str) -> Self {
        Self { path, parsed: Mutex::new((None, Arc::default())) }
    }

    /// The addresses that the file gives a name, if it names it in that family.
    fn lookup(&self, name: &Name, record_type: RecordType) -> Option<Vec<IpAddr>> {
        let found = self.current().lookup_static_host(&Query::query(name.clone(), record_type))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.answers().iter().filter_map(|record| record.data.ip_addr()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        (!addresses.is_empty()).then_some(addresses)
    }

    fn current(&self) -> Arc<Hosts> {
        let modified = fs::metadata(self.path).and_then(|metadata| metadata.modified()).ok();
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if parsed.0 != modified {
            let mut hosts = Hosts::default();
            // An unreadable file is an empty one.
            if let Ok(file) = fs::File::open(self.path) {
                let _ = hosts.read_hosts_conf(file);
            }
            *parsed = (modified, Arc::new(hosts));
        }
        Arc::clone(&parsed.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(addresses: &[&str], ttl: u64) -> Answer {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Answer { addresses, ttl: Some(Duration::from_secs(ttl)) }
    }

    fn failed() -> Result<Answer, NoAnswer> {
        Err(NoAnswer(NetError::Timeout))
    }

    #[test]
    fn two_families_join_in_order_with_the_smaller_ttl() {
        let joined = both(Ok(answer(&["10.0.0.1"], 30)), Ok(answer(&["::1"], 5))).unwrap();
        assert_eq!(joined, answer(&["10.0.0.1", "::1"], 5));
    }

    #[test]
    fn two_families_of_which_one_failed_are_what_the_other_has() {
        assert_eq!(both(failed(), Ok(answer(&["::1"], 5))).unwrap(), answer(&["::1"], 5));
    }

    #[test]
    fn two_families_of_which_one_failed_and_one_is_empty_failed() {
        assert!(both(Ok(Answer::default()), failed()).is_err());
        assert!(both(failed(), Ok(Answer::default())).is_err());
    }

    #[test]
    fn names_with_underscores_are_names() {
        assert!(parse("my_service.internal").is_ok());
        assert!(parse("").is_ok_and(|name| name.is_root() || name.num_labels() == 0));
        assert!(parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn configured_resolvers_replace_those_of_the_system() {
        let system = ResolverConfig::from_parts(
            None,
            vec![Name::from_ascii("search.test").unwrap()],
            vec![name_server("10.0.0.53:0".parse().unwrap())],
        );
        let servers = |dns: &Dns, system: Option<ResolverConfig>| {
            let (config, _) = configuration(dns, system.map(|config| (config, ResolverOpts::default())));
            let servers = config.name_servers().iter();
            servers
                .map(|server| SocketAddr::new(server.ip, server.connections[0].port).to_string())
                .collect::<Vec<_>>()
        };
        let own = Dns { resolvers: vec!["10.1.1.1:5353".parse().unwrap()], ..Dns::default() };
        assert_eq!(servers(&own, Some(system.clone())), ["10.1.1.1:5353"]);
        let fallback = Dns { resolvers_are_fallback: true, ..own };
        assert_eq!(servers(&fallback, Some(system.clone())), ["10.0.0.53:53"]);
        assert_eq!(servers(&fallback, None), ["10.1.1.1:5353"]);
        assert_eq!(servers(&Dns::default(), None), ["127.0.0.1:53"]);
        let bare = Dns { no_default_search_domain: true, use_tcp: true, ..Dns::default() };
        let (config, _) = configuration(&bare, Some((system, ResolverOpts::default())));
        assert!(config.search().is_empty());
        assert_eq!(config.name_servers()[0].connections.len(), 1);
    }
}
