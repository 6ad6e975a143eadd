//! Listener filters: what looks at a client's connection before a filter chain is chosen for it, in the order configured.
//!
//! What they look at is read and held here, and given back to the socket in front of what follows: bytes are neither lost
//! nor doubled, and no more are held than the filter at work asks for and one read brings. A filter that needs none does not
//! wait for any. A client that says too little has `listener_filters_timeout`; one that goes away is closed quietly.

mod held;
mod inspect;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::connection_record::ConnectionRecord;
use super::context::WorkerContext;
use super::handover::Place;
use super::listener::{self, ConnectionPermit, Listener};
use crate::base::clock::Now;
use crate::config::address::Address;
use crate::config::listener::Listener as Config;
use crate::config::listener_filter::{ListenerFilter, ListenerFilterKind};
use crate::protocol::connection_info::{ConnectionInfo, OriginalSource};
use crate::runtime::{TcpStream, Timer};
use crate::telemetry::{ListenerStat, ProxyProtocolCells};
use held::Held;
use inspect::{Inspection, Step};

/// The filters of a listener, as a connection meets them.
#[derive(Debug)]
pub struct ListenerFilters {
    filters: Arc<[ListenerFilter]>,
    /// The counters of those for the PROXY protocol, one each, in their order.
    proxy_protocol: Box<[ProxyProtocolCells]>,
}

impl ListenerFilters {
    /// These filters, none of which is still to be told, with the counters of those for the PROXY protocol.
    pub fn new(filters: Arc<[ListenerFilter]>, proxy_protocol: Box<[ProxyProtocolCells]>) -> Self {
        Self { filters, proxy_protocol }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is served, by what is known of it.
    Continue,
    /// It is closed: nobody has anything to say.
    Close,
}

/// Why filters do not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// A filter refuses the connection, and has counted it.
    Refused,
    /// The client ended it.
    Ended,
    /// It broke.
    Broken,
    TimedOut,
    Draining,
}

/// Runs the listener's filters on a new connection in a task of its own, then has it served.
pub(super) fn spawn(
    context: &Rc<WorkerContext>,
    mut place: Place,
    stream: TcpStream,
    mut info: ConnectionInfo,
    permit: ConnectionPermit,
) {
    let context = Rc::clone(context);
    let runtime = context.runtime.clone();
    runtime.spawn_isolated(async move {
        let mut is_handed_over = false;
        loop {
            let verdict = {
                let _waiting = Waiting::new(&context, place.listener());
                let timer = context.runtime.timer();
                run(&context, &place, &stream, &mut info, &timer).await
            };
            if verdict == Verdict::Close {
                return drop(ConnectionRecord::new(&context, &place.listener(), &info));
            }
            // Once: who gets a connection from another listener serves it. Its filters run, too, as in Envoy.
            let other = if is_handed_over { None } else { context.listeners.for_destination(&place, &info) };
            let Some(other) = other else { break };
            place = Place::of_another(other);
            is_handed_over = true;
        }
        listener::begin(&context, place, stream, info, permit);
    });
}

/// Runs the listener's filters on a connection. What they have found is in `info`; what they have read and not taken is
/// unread again.
pub(super) async fn run(
    context: &WorkerContext,
    listener: &Listener,
    stream: &TcpStream,
    info: &mut ConnectionInfo,
    timer: &Timer,
) -> Verdict {
    let config = &listener.config;
    let Some(filters) = listener.filters() else {
        listener.stats.inc(ListenerStat::ExtensionConfigMissing);
        return Verdict::Close;
    };
    let due = config.listener_filters_timeout.map(|limit| context.runtime.now().after(limit));
    let mut held = Held::default();
    let mut outcome = Ok(());
    let mut proxy_protocols = filters.proxy_protocol.iter();
    for filter in filters.filters.iter() {
        let disabled = filter.is_disabled(info.local.port());
        let mut inspection = match &filter.kind {
            ListenerFilterKind::OriginalDst => {
                if !disabled {
                    restore_destination(config, stream, info);
                }
                continue;
            }
            ListenerFilterKind::OriginalSrc { mark } => {
                // Who has no address of IP cannot be stood for.
                if let Some(address) = info.remote.ip().filter(|_| !disabled) {
                    info.original_source = Some(OriginalSource { address, mark: *mark });
                }
                continue;
            }
            ListenerFilterKind::TlsInspector(settings) => Inspection::tls(settings),
            ListenerFilterKind::HttpInspector => Inspection::http(),
            ListenerFilterKind::ProxyProtocol(settings) => {
                // One scope per filter, in their order.
                let Some(stats) = proxy_protocols.next() else { return Verdict::Close };
                Inspection::proxy_protocol(settings, stats)
            }
            // What was told is in its place.
            ListenerFilterKind::Told(_) => continue,
        };
        if disabled {
            continue;
        }
        if inspection.concerns(info) {
            let mut at = Looking { context, stream, timer, due, held: &mut held };
            outcome = at.look(&mut inspection, info).await;
        }
        if outcome.is_err() {
            break;
        }
    }
    let stats = &listener.stats;
    match outcome {
        Ok(()) => {}
        Err(Stop::TimedOut) => {
            stats.inc(ListenerStat::DownstreamPreCxTimeout);
            if !config.continue_on_listener_filters_timeout {
                return Verdict::Close;
            }
        }
        Err(Stop::Ended) => {
            stats.inc(ListenerStat::DownstreamListenerFilterRemoteClose);
            return Verdict::Close;
        }
        Err(Stop::Broken) => {
            stats.inc(ListenerStat::DownstreamListenerFilterError);
            return Verdict::Close;
        }
        Err(Stop::Refused | Stop::Draining) => return Verdict::Close,
    }
    // Without memory for what was read the connection cannot go on: the pool has counted it.
    if held.give_back(&context.runtime, stream) { Verdict::Continue } else { Verdict::Close }
}

/// Where the client meant to connect to, before the kernel redirected it here, or as one within the process says. Source: Envoy `original_dst`.
fn restore_destination(config: &Config, stream: &TcpStream, info: &mut ConnectionInfo) {
    let Some(original) = stream.original_destination() else { return };
    // Of a link-local address the kernel tells the interface, too, which what is known of the connection does not have.
    let is_at = |other: SocketAddr| (other.ip(), other.port()) == (original.ip(), original.port());
    if info.local_restored && info.direct_local.socket().is_some_and(is_at) {
        // It was not redirected, and a filter before knows more.
        return;
    }
    if !info.local.socket().is_some_and(is_at) {
        (info.local, info.local_restored) = (original.into(), true);
        return;
    }
    // A transparent socket's own address is where the client meant to connect to; where it came is the listener's.
    let bound = config.addresses.iter().filter_map(|address| match address.address {
        Address::Ip(bound) if bound.is_ipv4() == original.is_ipv4() => Some(bound),
        _ => None,
    });
    let mut bound = bound.filter(|bound| !bound.ip().is_unspecified() && bound.port() != 0);
    match (bound.next(), bound.next()) {
        (Some(only), None) if !is_at(only) => {
            (info.direct_local, info.local_restored) = (only.into(), true);
        }
        // One that listens on every address cannot tell who was led to it from who came by himself: as Envoy.
        (None, _) if config.transparent => info.local_restored = true,
        _ => {}
    }
}

/// A filter at work on a connection.
struct Looking<'a> {
    context: &'a WorkerContext,
    stream: &'a TcpStream,
    timer: &'a Timer,
    due: Option<Now>,
    held: &'a mut Held,
}

impl Looking<'_> {
    async fn look(&mut self, inspection: &mut Inspection<'_>, info: &mut ConnectionInfo) -> Result<(), Stop> {
        loop {
            if !self.held.is_empty() {
                match inspection.look(self.held.bytes(), info, &self.context.server) {
                    Step::More => {}
                    Step::Done { taken } => {
                        self.held.consume(taken);
                        return Ok(());
                    }
                    Step::Close => return Err(Stop::Refused),
                }
            }
            self.more().await?;
        }
    }

    /// Waits for more bytes.
    async fn more(&mut self) -> Result<(), Stop> {
        let Self { context, stream, timer, due, held } = self;
        poll_fn(|_| {
            match stream.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    held.add(chunk);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Err(Stop::Ended)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Broken)),
                Poll::Pending => {}
            }
            let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
            if is_due(context.drain.idle_until()) {
                return Poll::Ready(Err(Stop::Draining));
            }
            if is_due(*due) {
                return Poll::Ready(Err(Stop::TimedOut));
            }
            Poll::Pending
        })
        .await
    }
}

/// A connection that filters look at: it is open, and counted, until they are done with it.
struct Waiting<'a> {
    context: &'a WorkerContext,
    listener: Rc<Listener>,
}

impl<'a> Waiting<'a> {
    fn new(context: &'a WorkerContext, listener: Rc<Listener>) -> Self {
        context.open.set(context.open.get() + 1);
        listener.stats.gauge_inc(ListenerStat::DownstreamPreCxActive);
        Self { context, listener }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.context.open.set(self.context.open.get() - 1);
        self.listener.stats.gauge_dec(ListenerStat::DownstreamPreCxActive);
    }
}
