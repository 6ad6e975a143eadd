//! The filter chains of a listener on this core: which one takes a connection, and what the connection passes first.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::chain::HttpChain;
use super::drain::Drain;
use super::tcp::TcpChain;
use crate::base::clock::Now;
use crate::filter::ConnectionManager;
use crate::filter::http::FilterCounters;
use crate::filter::network::{ChainChoice, Chosen, ConnectionLimit, LimitedConnection, LocalRateLimit};
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::tls::{Secured, ServerTls};
use crate::telemetry::{Cells, ConnectionLimitStat, LocalRateLimitStat};

/// Those of one listener.
#[derive(Debug)]
pub struct FilterChains {
    choice: Arc<ChainChoice>,
    /// What choosing writes to.
    scratch: RefCell<MatchScratch>,
    chains: Box<[FilterChain]>,
    /// The place of the one that takes what no other does.
    default: Option<usize>,
}

/// One of them.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name, for records.
    pub(super) name: Rc<str>,
    /// TLS of its connections, for handshakes from now on; `None`: plain text.
    tls: RefCell<Option<Secured<ServerTls>>>,
    /// Its connection manager, if it has one, which stays when other filters come beside it.
    http: Option<Rc<HttpChain>>,
    /// What connections meet that begin from now on.
    filters: RefCell<Rc<NetworkFilters>>,
    /// What relayed connections are told that are in it, or in the same chain of a listener before.
    relays: Rc<Drain>,
}

/// The filters of a chain.
#[derive(Debug)]
pub struct NetworkFilters {
    gates: Box<[Gate]>,
    /// Who may go on; `None`: everybody.
    pub(super) access: Option<Rc<Access>>,
    pub(super) terminal: Terminal,
}

/// A filter that lets a connection pass or does not, with its counters on this core.
#[derive(Debug)]
pub enum Gate {
    ConnectionLimit(ConnectionLimit, Cells<ConnectionLimitStat>),
    LocalRateLimit(LocalRateLimit, Cells<LocalRateLimitStat>),
}

/// What serves connections.
#[derive(Clone, Debug)]
pub enum Terminal {
    /// Nothing: they are closed. There are no filters, or one of them is told and none is there.
    None,
    /// An HTTP connection manager.
    Http(Rc<HttpChain>),
    /// A TCP proxy.
    Tcp(Rc<TcpChain>),
    /// Their own bytes.
    Echo,
    /// These bytes.
    DirectResponse(Arc<[u8]>),
}

/// What a connection holds of the limits that it has passed, or is kept beyond, for its whole life.
#[derive(Debug)]
pub(super) struct Passed {
    _counted: Box<[CountedConnection]>,
}

/// A connection among those that a limit counts.
#[derive(Debug)]
struct CountedConnection {
    _place: LimitedConnection,
    stats: Cells<ConnectionLimitStat>,
}

/// A connection does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    /// It is closed after this time; `None`: at once.
    pub(super) delay: Option<Duration>,
    /// What its record says.
    pub(super) flag: Option<ResponseFlag>,
    /// Why this side closes it.
    pub(super) reason: &'static str,
}

/// Reasons that Envoy's filters give.
const OVER_CONNECTION_LIMIT: &str = "over_connection_limit";
const OVER_RATE_LIMIT: &str = "local_ratelimit_close_over_limit";

impl FilterChains {
    /// The chains in the order of the configuration, then the default one, whose place is `default`.
    pub fn new(choice: Arc<ChainChoice>, chains: Vec<FilterChain>, default: Option<usize>) -> Self {
        Self { choice, scratch: RefCell::default(), chains: chains.into(), default }
    }

    /// The chain that takes a connection.
    pub(super) fn find(&self, connection: &ConnectionInfo) -> Option<&FilterChain> {
        self.chains.get(match self.choice.find(connection, &mut self.scratch.borrow_mut()) {
            Chosen::Chain(place) => place,
            Chosen::Default => self.default?,
            Chosen::Nothing => return None,
        })
    }

    /// One by its place.
    pub fn get(&self, place: usize) -> Option<&FilterChain> {
        self.chains.get(place)
    }

    /// Others have taken their place: connections of HTTP go on there where they can, those that cannot are to end, and what
    /// tells them so is given back. Relayed ones stay as they are (but see [`Self::drain_relays`]). `successors`: by place, the
    /// place of the chain among the others that has taken it.
    pub fn succeed(&self, others: Option<&Self>, successors: &[Option<usize>]) -> Vec<Weak<HttpChain>> {
        let mut ending = Vec::new();
        for (place, chain) in self.chains.iter().enumerate() {
            let Some(http) = &chain.http else { continue };
            let other = successors.get(place).copied().flatten().and_then(|place| others?.get(place));
            let goes_on = other.and_then(FilterChain::http).is_some_and(|other| http.move_to(other));
            if !goes_on {
                ending.push(Rc::downgrade(http));
            }
        }
        ending
    }

    /// What relayed connections of one of them are told.
    pub fn relays(&self, place: usize) -> Option<Rc<Drain>> {
        Some(Rc::clone(self.chains.get(place)?.relays()))
    }

    /// Relayed connections of those that are not among others are told to go, more and more of them over this time; `kept`: by
    /// place, the place of the very same chain among the others.
    pub fn drain_relays(&self, kept: &[Option<usize>], now: Now, over: Duration) {
        for (place, chain) in self.chains.iter().enumerate() {
            if kept.get(place).copied().flatten().is_none() {
                chain.relays.spread(now, over, false);
            }
        }
    }

    /// Gives back what their scratch space has grown to.
    pub fn trim(&self) {
        for chain in &self.chains {
            chain.http.iter().for_each(|http| http.trim());
        }
    }
}

impl FilterChain {
    /// A chain of these filters; `http`: the connection manager, if there is one among them; `relays`: what the TCP proxy among
    /// them heeds.
    pub fn new(
        name: &str,
        tls: Option<Secured<ServerTls>>,
        http: Option<Rc<HttpChain>>,
        filters: NetworkFilters,
        relays: Rc<Drain>,
    ) -> Self {
        let (tls, filters) = (RefCell::new(tls), RefCell::new(Rc::new(filters)));
        Self { name: name.into(), tls, http, filters, relays }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its connection manager.
    pub fn http(&self) -> Option<&Rc<HttpChain>> {
        self.http.as_ref()
    }

    /// What its relayed connections are told.
    pub fn relays(&self) -> &Rc<Drain> {
        &self.relays
    }

    /// What a connection meets that begins now.
    pub(super) fn filters(&self) -> Rc<NetworkFilters> {
        Rc::clone(&self.filters.borrow())
    }

    /// Takes other filters. Connections that are there stay with theirs.
    pub fn set_filters(&self, filters: NetworkFilters) {
        self.filters.replace(Rc::new(filters));
    }

    /// TLS of a connection that begins now; `None`: plain text.
    pub(super) fn tls(&self) -> Option<Secured<ServerTls>> {
        self.tls.borrow().clone()
    }

    /// Takes other certificates. Connections that are there go on.
    pub fn set_tls(&self, tls: Arc<ServerTls>) {
        *self.tls.borrow_mut() = Some(Secured::By(tls));
    }

    /// Takes other routes, for requests that begin from now on.
    pub fn set_routes(&self, manager: Arc<ConnectionManager>, filter_stats: FilterCounters) {
        if let Some(http) = &self.http {
            http.set_routes(manager, filter_stats);
        }
    }
}

impl NetworkFilters {
    /// What a connection passes first, who may go on, and what serves it.
    pub fn new(gates: Vec<Gate>, access: Option<Rc<Access>>, terminal: Terminal) -> Self {
        Self { gates: gates.into(), access, terminal }
    }

    /// Whether a new connection passes: what it holds in any case, and why it does not.
    pub(super) fn pass(&self, now: Now) -> (Passed, Option<Stopped>) {
        // The usual case has none, and allocates nothing.
        let mut passed = Vec::new();
        let stopped = self.gates.iter().find_map(|gate| gate.pass(now, &mut passed).err());
        (Passed { _counted: passed.into() }, stopped)
    }
}

impl Gate {
    /// Whether a new connection passes it; `passed`: what it holds of such.
    fn pass(&self, now: Now, passed: &mut Vec<CountedConnection>) -> Result<(), Stopped> {
        match self {
            Self::ConnectionLimit(limit, _) if !limit.enabled.value() => Ok(()),
            Self::LocalRateLimit(limit, _) if !limit.enabled.value() => Ok(()),
            Self::ConnectionLimit(limit, stats) => {
                let hold = |place| {
                    stats.gauge_inc(ConnectionLimitStat::ActiveConnections);
                    CountedConnection { _place: place, stats: stats.clone() }
                };
                if let Some(place) = limit.admit() {
                    passed.push(hold(place));
                    return Ok(());
                }
                stats.inc(ConnectionLimitStat::LimitedConnections);
                // Who is closed at once holds nothing of it.
                passed.extend(limit.delay.map(|_| hold(limit.keep())));
                Err(Stopped { delay: limit.delay, flag: None, reason: OVER_CONNECTION_LIMIT })
            }
            Self::LocalRateLimit(limit, stats) => {
                if limit.admit(now) {
                    return Ok(());
                }
                stats.inc(LocalRateLimitStat::RateLimited);
                // The flag that Envoy has for it.
                let flag = Some(ResponseFlag::UpstreamRetryLimitExceeded);
                Err(Stopped { delay: None, flag, reason: OVER_RATE_LIMIT })
            }
        }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.stats.gauge_dec(ConnectionLimitStat::ActiveConnections);
    }
}
