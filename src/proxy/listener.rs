//! The accept loop of one listening socket on this core.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::access::Asked;
use super::connection_record::ConnectionRecord;
use super::context::WorkerContext;
use super::filter_chain::{FilterChains, Passed, Stopped, Terminal};
use super::handover::{Place, Share, dispatch};
use super::listener_filters::{self, ListenerFilters};
use super::replies::{self, Answer};
use super::{downstream, tcp};
use crate::base::clock::Now;
use crate::base::limits;
use crate::base::socket_address::SocketAddress;
use crate::config::bootstrap::Overload;
use crate::config::listener::Listener as Config;
use crate::config::runtime::RuntimeKey;
use crate::filter::network::ListenerLimit;
use crate::format::access_log::AccessLog;
use crate::protocol::connection_info::{ConnectionInfo, TransportProtocol};
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::tls::{Secured, TlsStream};
use crate::protocol::transport::Transport;
use crate::runtime::{Accepted, TcpListener, TcpStream};
use crate::telemetry::metrics::ListenerCells;
use crate::telemetry::names::{ListenerHistogram, ListenerStat, ServerStat};

/// A listener on this core.
#[derive(Debug)]
pub struct Listener {
    /// Its configuration.
    pub config: Arc<Config>,
    /// Its counters on this core.
    pub stats: ListenerCells,
    /// The chains that serve its connections.
    pub chains: FilterChains,
    /// What is recorded of every connection.
    pub(super) access_logs: Arc<[AccessLog]>,
    /// What they write to while they match.
    pub(super) matching: RefCell<MatchScratch>,
    /// What looks at its connections first, from now on; `None`: one of these is told, and none is there.
    filters: RefCell<Option<Rc<ListenerFilters>>>,
    /// Set to stop accepting; the loop ends when it sees it.
    stopped: Cell<bool>,
    /// Where another process accepts now, from the same sockets.
    handed_over: RefCell<Arc<[SocketAddress]>>,
    /// Its part in the balance with other workers; `None`: there are none.
    pub(super) share: Option<Share>,
    /// How many connections it may have on all workers; `None`: any number.
    pub(super) limit: Option<ListenerLimit>,
}

impl Listener {
    /// A listener that accepts as soon as its loops run, with its part in the balance, and with its limit.
    pub fn new(
        config: Arc<Config>,
        stats: ListenerCells,
        chains: FilterChains,
        filters: Option<ListenerFilters>,
        access_logs: Arc<[AccessLog]>,
        (share, limit): (Option<Share>, Option<ListenerLimit>),
    ) -> Rc<Self> {
        Rc::new(Self {
            config,
            stats,
            chains,
            filters: RefCell::new(filters.map(Rc::new)),
            access_logs,
            matching: RefCell::default(),
            stopped: Cell::new(false),
            handed_over: RefCell::default(),
            share,
            limit,
        })
    }

    /// No more connections than those whose handshake the kernel has completed, and those that are on their way from
    /// other workers; at addresses that were handed over, another process has the former. The accept loops must be woken.
    pub fn stop(&self, handed_over: &Arc<[SocketAddress]>) {
        // Those that have ended look no more.
        if !self.stopped.replace(true) {
            self.handed_over.replace(Arc::clone(handed_over));
        }
        self.share.iter().for_each(Share::close);
    }

    /// Another has its sockets now: nothing comes from other workers any more.
    pub fn leave(&self) {
        self.share.iter().for_each(Share::close);
    }

    /// Whether no connection is on its way from another worker. Those that have arrived are open connections.
    pub fn expects_none(&self) -> bool {
        self.share.as_ref().is_none_or(Share::is_empty)
    }

    /// What looks at a connection that has just come.
    pub(super) fn filters(&self) -> Option<Rc<ListenerFilters>> {
        self.filters.borrow().clone()
    }

    /// Takes other listener filters. Connections that are there stay with theirs.
    pub fn set_filters(&self, filters: Option<ListenerFilters>) {
        self.filters.replace(filters.map(Rc::new));
    }

    /// Whether nothing looks at its connections.
    fn is_without_filters(&self) -> bool {
        self.filters.borrow().as_ref().is_some_and(|filters| filters.is_empty())
    }

    /// Whether another process accepts what this socket has queued.
    fn is_handed_over(&self, socket: &TcpListener) -> bool {
        socket.address().is_ok_and(|address| self.handed_over.borrow().contains(&address))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// A connection ended after its only request.
    pub(super) fn ended_after_one_request(&self) {
        self.share.iter().for_each(Share::ended_after_one_request);
    }

    /// Counts a connection that a chain serves.
    pub(super) fn count_open(&self) {
        self.stats.inc(ListenerStat::DownstreamCxTotal);
        self.stats.gauge_inc(ListenerStat::DownstreamCxActive);
    }

    /// Counts its end.
    pub(super) fn count_closed(&self, lived: Duration) {
        let lived = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
        self.stats.gauge_dec(ListenerStat::DownstreamCxActive);
        self.stats.inc(ListenerStat::DownstreamCxDestroy);
        self.stats.record(ListenerHistogram::DownstreamCxLengthMs, lived);
    }

    pub(super) fn count_handed_over(&self) {
        self.stats.inc(ListenerStat::DownstreamCxHandedOver);
    }
}

/// Whose connections some sockets accept: listeners take each other's place there.
#[derive(Debug)]
pub struct Seat(RefCell<Rc<Listener>>);

impl Seat {
    pub fn new(listener: Rc<Listener>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(listener)))
    }

    /// The listener that has it.
    pub fn taken(&self) -> Rc<Listener> {
        Rc::clone(&self.0.borrow())
    }

    /// Gives it to another: connections that are accepted from now on are that one's. Accept loops need not be woken.
    pub fn take(&self, listener: Rc<Listener>) {
        let before = self.0.replace(listener);
        before.leave();
    }
}

/// Accepts until the listener is stopped, then what the kernel still has queued: those clients have completed a
/// handshake.
pub async fn accept(context: Rc<WorkerContext>, seat: Rc<Seat>, socket: TcpListener) {
    // A drain ends without an internal one: nobody has completed a handshake there whom it does not wait for.
    let is_internal = socket.is_internal();
    let counted = usize::from(!is_internal);
    context.accepting.set(context.accepting.get() + counted);
    let timer = context.runtime.timer();
    timer.claim();
    let mut rest_until: Option<Now> = None;
    poll_fn(|_| {
        let listener = seat.taken();
        let batch_max =
            listener.config.accepts_per_event_max.map_or(limits::ACCEPTS_PER_TURN, |max| max as usize);
        if let Some(due) = rest_until {
            if timer.poll_at(due).is_pending() && !listener.stopped.get() {
                return Poll::Pending;
            }
            rest_until = None;
        }
        for accepted in 0..batch_max.max(1) {
            let next = if listener.stopped.get() {
                socket.poll_take_rest(!listener.is_handed_over(&socket))
            } else {
                socket.poll_take().map_ok(Some)
            };
            match next {
                Poll::Ready(Ok(Some(taken))) => dispatch(&context, &listener, taken),
                // Stopped, and nobody is left who has completed a handshake.
                Poll::Ready(Ok(None)) => return Poll::Ready(()),
                Poll::Ready(Err(error)) if is_shortage(&error) => {
                    context.server.inc(ServerStat::IoAcceptEmfile);
                    let due = Now(context.runtime.now().0 + limits::ACCEPT_BACKOFF_MS * 1_000_000);
                    // Pending: the timer wakes this task.
                    let _ = timer.poll_at(due);
                    rest_until = Some(due);
                    return if listener.stopped.get() { Poll::Ready(()) } else { Poll::Pending };
                }
                // The connection was gone before it was taken.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => {
                    if accepted > 0 && !is_internal {
                        let count = accepted as u64;
                        listener.stats.record(ListenerHistogram::ConnectionsAcceptedPerSocketEvent, count);
                    }
                    return Poll::Pending;
                }
            }
        }
        if !is_internal {
            listener.stats.record(ListenerHistogram::ConnectionsAcceptedPerSocketEvent, batch_max as u64);
        }
        // More may wait: other tasks first.
        context.runtime.wake(context.runtime.current_task());
        Poll::Pending
    })
    .await;
    context.accepting.set(context.accepting.get() - counted);
}

/// Starts to look at a connection, or to serve it, or refuses it, as its listener's limit does where it does not fit.
pub(super) fn admit(context: &Rc<WorkerContext>, (listener, fits): (Place, bool), accepted: Accepted) {
    let stream = match TcpStream::adopt(&context.runtime, accepted) {
        Ok(stream) => stream,
        Err(error) => {
            context.server.add(ServerStat::IoAcceptEmfile, u64::from(is_shortage(&error)));
            return;
        }
    };
    let Some(permit) = context.connections.admit(listener.config.ignore_global_conn_limit) else {
        listener.stats.inc(ListenerStat::DownstreamGlobalCxOverflow);
        return;
    };
    if !fits {
        listener.stats.inc(ListenerStat::DownstreamCxOverflow);
        return;
    }
    // The peer may be gone already.
    let Ok(ends) = stream.ends() else { return };
    let info = ConnectionInfo::of_socket(ends);
    if listener.is_without_filters() {
        begin(context, listener, stream, info, permit);
    } else {
        listener_filters::spawn(context, listener, stream, info, permit);
    }
}

/// Starts to serve a connection of which all is known that is to be known.
pub(super) fn begin(
    context: &Rc<WorkerContext>,
    listener: Place,
    stream: TcpStream,
    mut info: ConnectionInfo,
    permit: ConnectionPermit,
) {
    if info.transport == TransportProtocol::Unknown {
        // Whoever did not look says no, as in Envoy.
        info.transport = TransportProtocol::RawBuffer;
    }
    let Some(chain) = listener.chains.find(&info) else {
        listener.stats.inc(ListenerStat::NoFilterChainMatch);
        ConnectionRecord::new(context, &listener.listener(), &info).without_chain();
        // As a close does that leaves something unread in the kernel.
        if stream.has_unread() {
            stream.set_reset_on_close();
        }
        return;
    };
    let filters = chain.filters();
    let (passed, stopped) = filters.pass(context.runtime.now());
    let tls = match chain.tls().filter(|_| stopped.is_none()) {
        None => None,
        Some(Secured::By(tls)) => Some(tls),
        Some(Secured::NotReady) => {
            let record = ConnectionRecord::new(context, &listener.listener(), &info);
            let record = record.of_chain(&chain.name, None);
            let admitted = Admitted { _permit: permit, _passed: passed, asked: None, record };
            return replies::refuse(context, listener, stream, admitted);
        }
    };
    let transport = match &tls {
        None => Transport::from(stream),
        Some(tls) => {
            let (config, meter) = (Arc::clone(tls.config()), context.clusters.tls_meter().clone());
            TlsStream::server(stream, config, meter).into()
        }
    };
    let asked = Asked::of(filters.access.as_ref(), &info);
    let record = match &filters.terminal {
        // It writes more.
        Terminal::Tcp(_) => ConnectionRecord::default(),
        _ => {
            let flag = stopped.and_then(|stopped: Stopped| stopped.flag);
            ConnectionRecord::new(context, &listener.listener(), &info).of_chain(&chain.name, flag)
        }
    };
    let admitted = Admitted { _permit: permit, _passed: passed, asked, record };
    match (filters.terminal.clone(), stopped) {
        (Terminal::Tcp(proxy), stopped) => {
            tcp::spawn(context, listener, proxy, transport, tls, info, admitted, stopped);
        }
        (_, Some(stopped)) => {
            replies::spawn(context, listener, Answer::Nothing(Some(stopped)), transport, tls, admitted);
        }
        (Terminal::None, None) => {
            listener.stats.inc(ListenerStat::NetworkExtensionConfigMissing);
            replies::spawn(context, listener, Answer::Nothing(None), transport, tls, admitted);
        }
        (Terminal::Http(http), None) => {
            downstream::spawn(context, listener, http, transport, tls, info, admitted);
        }
        (Terminal::Echo, None) => {
            replies::spawn(context, listener, Answer::Echo, transport, tls, admitted);
        }
        (Terminal::DirectResponse(bytes), None) => {
            replies::spawn(context, listener, Answer::Bytes(bytes), transport, tls, admitted);
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// The process's limit of downstream connections: one number for all workers (Envoy's
/// `global_downstream_max_connections`). Taken one by one, per connection and never per request: the documented
/// exception to "no shared atomic".
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Option<Arc<Counted>>);

#[derive(Debug)]
struct Counted {
    connections: AtomicU64,
    limit: Overload,
}

/// One connection's place under the limit; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit(Option<Arc<Counted>>);

/// What a connection that is served holds for its whole life.
#[derive(Debug)]
pub(super) struct Admitted {
    _permit: ConnectionPermit,
    _passed: Passed,
    /// Whether it may go on is asked when its first byte is there; `None`: nobody asks.
    pub(super) asked: Option<Box<Asked>>,
    /// What the listener's logs say of it at its end.
    pub(super) record: ConnectionRecord,
}

impl ConnectionLimit {
    /// As configured. Connections are not counted where there is no limit and none can come.
    pub fn new(limit: &Overload) -> Self {
        let is_counted = limit.max_active_downstream_connections.is_some() || limit.runtime_key.is_some();
        let limit = limit.clone();
        Self(is_counted.then(|| Arc::new(Counted { connections: AtomicU64::new(0), limit })))
    }

    fn admit(&self, unlimited: bool) -> Option<ConnectionPermit> {
        let Some(counted) = self.0.as_ref().filter(|_| !unlimited) else {
            return Some(ConnectionPermit(None));
        };
        if counted.connections.fetch_add(1, Ordering::Relaxed) >= counted.max() {
            counted.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionPermit(Some(Arc::clone(counted))))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(counted) = &self.0 {
            counted.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Counted {
    fn max(&self) -> u64 {
        let Overload { max_active_downstream_connections, runtime_key } = &self.limit;
        let from_runtime = || runtime_key.as_ref().and_then(RuntimeKey::integer);
        max_active_downstream_connections.or_else(from_runtime).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_beyond_the_limit_are_refused_until_one_ends() {
        let limit = ConnectionLimit::new(&Overload {
            max_active_downstream_connections: Some(1),
            ..Overload::default()
        });
        let first = limit.admit(false);
        assert!(first.is_some() && limit.admit(false).is_none() && limit.admit(true).is_some());
        drop(first);
        assert!(limit.admit(false).is_some());
    }
}
