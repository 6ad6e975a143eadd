//! The TCP proxy: a client's connection, an endpoint's connection, and bytes between them. Source: Envoy "TCP proxy".
//!
//! `connect` finds an endpoint, `tunnel` has it make a tunnel where it is an HTTP proxy, `relay` moves bytes until both
//! directions have ended (`posted` where they are bodies) or `activity` finds that nothing moves, `record` writes what came of it.

mod activity;
mod connect;
mod posted;
mod record;
mod relay;
mod tunnel;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::access::{self, Denied};
use super::context::WorkerContext;
use super::drain::{Drain, Drains};
use super::filter_chain::Stopped;
use super::handover::Place;
use super::handshake::{self, Failed, Handshake};
use super::listener::Admitted;
use crate::base::clock::Now;
use crate::base::limits::ATTEMPTS_NOTED_MAX;
use crate::cluster::pool::UpstreamConnection;
use crate::cluster::{Host, KeptCluster, ProxiedClient};
use crate::config::proxy_protocol::OwnedTlv;
use crate::config::tcp_proxy::TcpProxy;
use crate::filter::network::{HeaderTlvs, Tunneling};
use crate::format::access_log::AccessLog;
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::stream_info::{EarlierAttempt, StreamAddress};
use crate::protocol::tls::{ServerTls, TlsFacts, Wanted};
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::{Recycled, Timer};
use crate::telemetry::{Cells, ListenerStat, TcpStat};
use connect::Failure;
use relay::{Ended, Refused, Why};

/// A TCP proxy on this core.
#[derive(Debug)]
pub struct TcpChain {
    config: Arc<TcpProxy>,
    /// Name of the filter chain.
    name: Box<str>,
    /// The server name of TLS is the cluster's.
    sni_cluster: bool,
    /// What endpoints are asked for; `None`: they are no HTTP proxies.
    tunneling: Option<Arc<Tunneling>>,
    /// TLVs of its own; `None`: none.
    tlvs: Option<Arc<HeaderTlvs>>,
    access_logs: Arc<[AccessLog]>,
    stats: Cells<TcpStat>,
    /// Whether its own connections are to go.
    drain: Rc<Drain>,
    /// The one cluster, from its first connection on.
    cluster: KeptCluster,
    matching: RefCell<MatchScratch>,
}

/// A client's connection that is relayed.
#[derive(Debug)]
pub(super) struct TcpConnection {
    context: Rc<WorkerContext>,
    listener: Place,
    chain: Rc<TcpChain>,
    channel: Channel,
    /// One timer for all its deadlines.
    timer: Timer,
    remote: StreamAddress,
    local: StreamAddress,
    /// What listener filters have found; `None`: nothing, or there are none.
    inspected: Option<Box<ConnectionInfo>>,
    /// The endpoint's connection, once there is one. Here and not in the task: what is moved about in a future lies there
    /// twice.
    upstream: OnceCell<UpstreamConnection>,
    /// What its handshake agreed on; `None`: plain text.
    tls: Option<Rc<TlsFacts>>,
    id: u64,
    opened: Now,
    /// Wall clock at that moment, ns since the Unix epoch.
    opened_unix_ns: u64,
    /// When it has lasted long enough; `None`: it has no such limit.
    due: Option<Now>,
    admitted: Admitted,
    /// Attempts to reach an endpoint so far.
    attempts: Cell<u32>,
    /// One of them has failed.
    has_failed: Cell<bool>,
    /// What hardly any has. Boxed for that.
    rare: OnceCell<Box<Rare>>,
}

/// What hardly any relayed connection has.
#[derive(Debug, Default)]
struct Rare {
    /// How what comes from the endpoint is framed, where the tunnel is a POST of HTTP/1.1.
    posted: OnceCell<BodyLength>,
    /// Attempts that another followed; at most `limits::ATTEMPTS_NOTED_MAX`.
    earlier_attempts: RefCell<Vec<EarlierAttempt>>,
    /// How long it took to reach the endpoint, in ns, where that was more than one connect.
    reached_in_ns: Cell<Option<u64>>,
}

/// Most bytes that a relayed connection's task may take: the memory of tasks comes in steps of 128.
const TASK_BYTES_MAX: usize = 768;

impl TcpChain {
    /// The chain of a TCP proxy.
    pub fn new(
        config: Arc<TcpProxy>,
        name: &str,
        sni_cluster: bool,
        tunneling: Option<Arc<Tunneling>>,
        tlvs: Option<Arc<HeaderTlvs>>,
        access_logs: Arc<[AccessLog]>,
        stats: Cells<TcpStat>,
    ) -> Self {
        Self {
            config,
            name: name.into(),
            sni_cluster,
            tunneling,
            tlvs,
            access_logs,
            stats,
            drain: Rc::default(),
            cluster: KeptCluster::default(),
            matching: RefCell::default(),
        }
    }

    /// The same, whose connections heed this drain beside the process's.
    pub fn heeding(self, drain: &Rc<Drain>) -> Self {
        Self { drain: Rc::clone(drain), ..self }
    }
}

/// Relays a connection in a task of its own; `tls`: after a handshake; `stopped`: not at all.
#[expect(clippy::too_many_arguments, reason = "one caller")]
pub(super) fn spawn(
    context: &Rc<WorkerContext>,
    listener: Place,
    chain: Rc<TcpChain>,
    stream: Transport,
    tls: Option<Arc<ServerTls>>,
    info: ConnectionInfo,
    admitted: Admitted,
    stopped: Option<Stopped>,
) {
    let opened = context.runtime.now();
    let mut connection = TcpConnection {
        due: life(&chain.config, context).map(|life| opened.after(life)),
        timer: context.runtime.timer(),
        id: context.next_id(),
        opened,
        opened_unix_ns: context.runtime.wall_ns(),
        context: Rc::clone(context),
        listener,
        chain,
        channel: stream.into(),
        remote: info.remote.clone(),
        local: info.local.clone(),
        inspected: info.is_inspected().then(|| Box::new(info)),
        upstream: OnceCell::new(),
        tls: None,
        admitted,
        attempts: Cell::new(0),
        has_failed: Cell::new(false),
        rare: OnceCell::new(),
    };
    connection.count_open();
    if let Some(stopped) = stopped {
        // In a task of its own: what one that goes on has no need of is no part of it.
        context.runtime.spawn_isolated(async move { stop(&connection, stopped).await });
        return;
    }
    let task = async move {
        // Before a handshake: whoever has an end has a start.
        record::begun(&connection);
        if let Some(tls) = tls {
            match shake_hands(&connection, tls).await {
                Ok(facts) => connection.tls = Some(Rc::new(facts)),
                Err(failed) => return record::unprotected(&connection, failed),
            }
        }
        reach(&connection).await;
        let Some(upstream) = connection.upstream.get() else { return };
        record::connected(&connection, upstream);
        if connection.is_asked_late() && !admit(&connection).await {
            return;
        }
        let ended = match connection.posted() {
            None => relay::relay(&connection, upstream).await,
            Some(body) => {
                connection.context.runtime.recycled(posted::relay(&connection, upstream, *body)).await
            }
        };
        if finish(&connection, ended).await
            && let Some(upstream) = connection.upstream.get_mut()
        {
            upstream.set_closed_by_peer();
        }
    };
    debug_assert!(
        size_of_val(&task) <= TASK_BYTES_MAX,
        "{} bytes for a relayed connection",
        size_of_val(&task)
    );
    context.runtime.spawn_isolated(task);
}

/// A limit does not let the connection pass.
async fn stop(connection: &TcpConnection, stopped: Stopped) {
    let is_ours = deny(connection, stopped.delay).await;
    let close_reason = if is_ours { stopped.reason } else { "" };
    record::failed(connection, &Failure::stopped(stopped.flag, close_reason));
}

/// Ends a connection whose access is denied.
async fn refuse(connection: &TcpConnection, denied: Denied) {
    let is_ours = deny(connection, denied.delay).await;
    record::denied(connection, denied.details, is_ours);
}

/// Keeps a connection that may not go on for a time, or until its client has gone; whether it has not.
async fn deny(connection: &TcpConnection, delay: Option<Duration>) -> bool {
    let TcpConnection { context, channel, timer, .. } = connection;
    match channel.connection() {
        Some(transport) => access::deny(context, transport, timer, delay).await,
        None => true,
    }
}

/// How long a connection may last, drawn for each. Source: Envoy
/// `max_downstream_connection_duration_jitter_percentage`.
fn life(config: &TcpProxy, context: &WorkerContext) -> Option<Duration> {
    let life = config.max_downstream_connection_duration?;
    let jitter = config.max_downstream_connection_duration_jitter;
    if jitter <= 0.0 {
        return Some(life);
    }
    // 53 bits make a fraction of 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let fraction = (context.random() >> 11) as f64 / (1u64 << 53) as f64;
    Some(life.mul_f64(1.0 + jitter * fraction))
}

/// Makes the handshake in recycled memory.
fn shake_hands(
    connection: &TcpConnection,
    tls: Arc<ServerTls>,
) -> Recycled<impl Future<Output = Result<TlsFacts, Failed>>> {
    let TcpConnection { context, listener, channel, timer, opened, .. } = connection;
    context.runtime.recycled(async move {
        let stream = channel.connection().and_then(Transport::tls).ok_or_else(|| Failed::gone(false))?;
        let (opened, keeps_chain) = (*opened, Wanted::DownstreamChain.is_noted());
        handshake::make(Handshake { context, listener, stream, timer, opened, keeps_chain }, &tls).await
    })
}

/// Finds an endpoint, in recycled memory: a relayed connection keeps nothing of it. Without one it is over. Where the client's
/// first byte is waited for, who may not go on reaches none.
fn reach(connection: &TcpConnection) -> Recycled<impl Future<Output = ()>> {
    connection.context.runtime.recycled(async move {
        let waits = connection.chain.config.waits_for_data;
        let waited = if waits { wait_for_data(connection).await } else { Ok(()) };
        let asked = connection.admitted.asked.as_ref().filter(|_| waits && waited.is_ok());
        if let Some(Err(denied)) = asked.map(|asked| asked.decide(connection.tls.as_deref())) {
            return refuse(connection, denied).await;
        }
        let reached = match waited {
            Ok(()) => connect::connect(connection).await,
            Err(failure) => Err(failure),
        };
        match reached {
            Ok(upstream) => drop(connection.upstream.set(upstream)),
            Err(failure) => {
                record::failed(connection, &failure);
                if connection.channel.has_unread() {
                    // As a close does that leaves something unread in the kernel.
                    connection.channel.set_reset_on_close();
                }
            }
        }
    })
}

/// Asks whether a connection may go on, in recycled memory; if not, it is over.
fn admit(connection: &TcpConnection) -> Recycled<impl Future<Output = bool>> {
    let TcpConnection { context, upstream, .. } = connection;
    context.runtime.recycled(async move {
        let Some(upstream) = upstream.get() else { return false };
        match relay::admit(connection, upstream).await {
            Ok(()) => true,
            Err(Refused::Denied(denied)) => {
                refuse(connection, denied).await;
                false
            }
            Err(Refused::Over(why)) => {
                record::ended(connection, upstream, &Ended { why, received: 0, sent: 0 });
                false
            }
        }
    })
}

/// Records a relay and ends both connections, in recycled memory; whether the endpoint has ended its own.
fn finish(connection: &TcpConnection, ended: Ended) -> Recycled<impl Future<Output = bool>> {
    connection.context.runtime.recycled(async move {
        let Some(upstream) = connection.upstream.get() else { return false };
        record::ended(connection, upstream, &ended);
        let TcpConnection { chain, .. } = connection;
        if chain.tunneling.is_some() {
            tunnel::count_end(upstream, &ended);
        }
        let by_peer = relay::close(connection, upstream, &ended).await;
        // The end of what is said in a tunnel is not that of its connection.
        by_peer && !(chain.tunneling.is_some() && matches!(ended.why, Why::Finished { .. }))
    })
}

/// Waits until the client has sent something, or has gone.
async fn wait_for_data(connection: &TcpConnection) -> Result<(), Failure> {
    let TcpConnection { context, channel, timer, chain, opened, due, .. } = connection;
    let idle_due = chain.config.idle_timeout.map(|idle| opened.after(idle));
    poll_fn(|_| {
        match channel.poll_recv() {
            Poll::Ready(Ok(Some(chunk))) => {
                channel.unread(chunk);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Err(Failure::client_gone())),
            Poll::Pending => {}
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(context.drain.idle_until()) {
            return Poll::Ready(Err(Failure::client_gone()));
        }
        if is_due(*due) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(Err(Failure::too_old()));
        }
        if is_due(idle_due) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(Err(Failure::idle()));
        }
        Poll::Pending
    })
    .await
}

impl TcpConnection {
    fn count_open(&self) {
        self.context.open.set(self.context.open.get() + 1);
        self.listener.count_open();
        self.chain.stats.inc(TcpStat::DownstreamCxTotal);
    }

    /// Whether a drain ends it now that bytes have passed, which is counted then. Source: Envoy `check_drain_close`.
    fn is_drained(&self) -> bool {
        let Self { context, chain, listener, .. } = self;
        if !chain.config.check_drain_close {
            return false;
        }
        let below = |bound| context.rng.borrow_mut().below(bound);
        let (now, drains) = (context.runtime.now(), Drains::of(&listener.config));
        let is_it = context.drain.closes(now, drains, below) || chain.drain.closes(now, drains, below);
        if is_it {
            chain.stats.inc(TcpStat::DownstreamCxDrainClose);
        }
        is_it
    }

    /// What it has that hardly any has, from now on.
    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// How what comes from the endpoint is framed; `None`: not at all.
    fn posted(&self) -> Option<&BodyLength> {
        self.rare.get()?.posted.get()
    }

    /// Another attempt follows the one to this host.
    fn note_earlier_attempt(&self, host: &Host) {
        let mut earlier = self.rare().earlier_attempts.borrow_mut();
        if earlier.len() < ATTEMPTS_NOTED_MAX {
            earlier.push(record::attempt(host));
        }
    }

    /// It has reached this endpoint; `begun`: when that began.
    fn note_reached(&self, upstream: &UpstreamConnection, begun: Now) {
        if upstream.connect_start() != Some(begun) {
            let took = self.context.runtime.now().0.saturating_sub(begun.0);
            self.rare().reached_in_ns.set(Some(took));
        }
    }

    /// Whether it is asked if it may go on when it has reached an endpoint, and not before.
    fn is_asked_late(&self) -> bool {
        self.admitted.asked.is_some() && !self.chain.config.waits_for_data
    }

    /// The TLVs of its header of the PROXY protocol; `None`: it has begun with none.
    fn header_tlvs(&self) -> Option<&[OwnedTlv]> {
        Some(&self.inspected.as_ref()?.proxy_protocol.as_ref()?.tlvs)
    }

    /// What its connection to an endpoint may say of it; `merged`: the TLVs in place of those of its header.
    fn proxied<'a>(&'a self, merged: Option<&'a [OwnedTlv]>) -> ProxiedClient<'a> {
        let tlvs = merged.or_else(|| self.header_tlvs()).unwrap_or_default();
        let source = self.inspected.as_ref().and_then(|known| known.original_source);
        let ends = ConnectionInfo::ip_ends(&self.remote, &self.local);
        ProxiedClient { ends, is_told: true, tlvs, source }
    }

    /// The server that the client's TLS asks for, as a listener filter has found.
    fn server_name(&self) -> Option<&str> {
        self.inspected.as_ref()?.server_name.as_deref()
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.context.open.set(self.context.open.get() - 1);
        self.listener.count_closed(self.context.runtime.now().since(self.opened));
        if self.channel.connection().is_some_and(Transport::has_broken_tls) {
            self.listener.stats.inc(ListenerStat::SslConnectionError);
        }
    }
}
