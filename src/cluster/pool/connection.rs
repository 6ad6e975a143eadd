//! One connection to a host, counted for its whole life.

use std::net::SocketAddr;
use std::rc::Rc;

use super::http2::Lease;
use super::turns::{count_active, count_begun, count_gone, count_over};
use crate::base::clock::Now;
use crate::base::socket_address::SocketAddress;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::http2::Stream;
use crate::protocol::stream_info::{StreamAddress, set_text};
use crate::protocol::tls::{HandshakeFailure, Offer, TlsFacts};
use crate::protocol::transport::{Channel, Transport};
use crate::telemetry::names::{ClusterHistogram, ClusterStat, HostStat};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// `connect_timeout` passed.
    Timeout,
    /// The kernel's verdict, an errno: refused, unreachable, out of descriptors or ports.
    Failed(i32),
    /// The handshake of TLS came to nothing.
    Tls(HandshakeFailure),
    /// A circuit breaker is open.
    Overflow,
}

impl ConnectError {
    /// Why there is none to `host`, in Envoy's words, in place of what `reason` held; of a timeout and of circuit breakers it says nothing.
    pub fn write_reason(self, host: Option<&Host>, reason: &mut String) {
        match self {
            Self::Timeout | Self::Overflow => {}
            Self::Tls(failure) => set_text(reason, failure.words()),
            Self::Failed(errno) => {
                // The kernel's words: a failure path, so formatting is fine.
                let words = std::io::Error::from_raw_os_error(errno).to_string();
                let words = words.split(" (os error").next().unwrap_or_default();
                // Of these it is known at once, and Envoy says so. A reset is what came afterwards.
                match host.map(Host::stream_address) {
                    Some(address @ (StreamAddress::Pipe(_) | StreamAddress::Internal(_)))
                        if errno != libc::ECONNRESET =>
                    {
                        set_text(reason, "immediate connect error: ");
                        reason.push_str(words);
                        reason.push_str("|remote address:");
                        reason.push_str(address.name());
                    }
                    _ => {
                        set_text(reason, "delayed connect error: ");
                        reason.push_str(words);
                    }
                }
            }
        }
    }
}

/// A connection to a host, or one stream of a connection that others share: what carries one request at a time.
#[derive(Debug)]
pub struct UpstreamConnection {
    channel: Channel,
    /// Its place on the connection that it shares; `None`: the connection is its own.
    lease: Option<Lease>,
    /// Our end, asked for once: every request's record names it.
    local: Option<SocketAddr>,
    /// What is known of its TLS, if anybody writes it.
    tls: Option<Rc<TlsFacts>>,
    cluster: Rc<Cluster>,
    host: Rc<Host>,
    id: u64,
    opened: Now,
    /// Since when it has been idle; of one that nobody knows what it carries, and that never is, since when it was being made: a
    /// relayed connection's task has no room for more.
    pub(super) idle_since: Now,
    requests: u32,
    active: bool,
    closed_by_peer: bool,
    /// What it counts as.
    kind: Offer,
}

impl UpstreamConnection {
    pub(super) fn new(
        transport: Transport,
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        id: u64,
        now: Now,
    ) -> Self {
        let connection = Self::own(transport, cluster, host, id, now, Offer::Http1);
        cluster.stats().inc(ClusterStat::UpstreamCxHttp1Total);
        connection
    }

    /// One of which nobody knows what it carries; `begun`: when it began to be made.
    pub(super) fn opaque(
        transport: Transport,
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        id: u64,
        begun: Now,
        now: Now,
    ) -> Self {
        let mut connection = Self::own(transport, cluster, host, id, now, Offer::Opaque);
        connection.idle_since = begun;
        connection
    }

    fn own(
        transport: Transport,
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        id: u64,
        now: Now,
        kind: Offer,
    ) -> Self {
        // Before anything is counted, so that the count and its drop cannot be parted.
        let local = transport.local_addr().ok();
        count_opened(cluster, host, kind);
        Self {
            local,
            tls: facts(&transport),
            channel: transport.into(),
            lease: None,
            cluster: Rc::clone(cluster),
            host: Rc::clone(host),
            id,
            opened: now,
            idle_since: now,
            requests: 0,
            active: false,
            closed_by_peer: false,
            kind,
        }
    }

    /// A stream of a connection that is counted by itself.
    pub(super) fn stream(
        stream: Box<Stream>,
        lease: Lease,
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        now: Now,
    ) -> Self {
        Self {
            local: lease.local_address(),
            tls: lease.tls().cloned(),
            channel: stream.into(),
            id: lease.id(),
            opened: lease.opened(),
            lease: Some(lease),
            cluster: Rc::clone(cluster),
            host: Rc::clone(host),
            idle_since: now,
            requests: 0,
            active: false,
            closed_by_peer: false,
            kind: Offer::Http2,
        }
    }

    /// Its bytes.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the endpoint's trailers pass, and it takes ours.
    pub fn takes_trailers(&self) -> bool {
        self.lease.is_some() || self.cluster.config().http1.enable_trailers
    }

    /// The place on a connection that others share.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The host it leads to.
    pub fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Unique in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Our address, as records name it.
    pub fn local_address(&self) -> StreamAddress {
        match self.host.address() {
            SocketAddress::Internal(_) => StreamAddress::InternalClient,
            SocketAddress::Ip(_) | SocketAddress::Pipe(_) => {
                self.local.map_or(StreamAddress::None, StreamAddress::Ip)
            }
        }
    }

    /// What is known of its TLS; `None`: plain text, or nobody writes it.
    pub fn tls(&self) -> Option<&Rc<TlsFacts>> {
        self.tls.as_ref()
    }

    /// Whether it carried a request before the present one.
    pub fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Requests carried, the present one included.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// When it was opened.
    pub fn opened(&self) -> Now {
        self.opened
    }

    /// When it began to be made, of one of which nobody knows what it carries; of others that is not kept.
    pub fn connect_start(&self) -> Option<Now> {
        (self.kind == Offer::Opaque).then_some(self.idle_since)
    }

    /// Takes note that the peer ended the connection: counted as its doing when dropped.
    pub fn set_closed_by_peer(&mut self) {
        self.closed_by_peer = true;
    }

    /// Takes note that the exchange on it is given up before its end. A connection of its own is closed with a reset (RST) then,
    /// as HAProxy does: an orderly end by us would keep its port from use for a minute (TIME_WAIT), and clients that give up
    /// enough exchanges would take all ports towards the endpoint; the kernel looks for a free one in milliseconds then. A
    /// request that is `whole` and on its way still arrives: a client may ask and not wait for the answer.
    pub fn abandon(&self, whole: bool) {
        let Some(transport) = self.channel.connection() else { return };
        if !whole || transport.is_acknowledged() {
            transport.set_reset_on_close();
        }
    }

    /// A request begins.
    pub(super) fn begin(&mut self) {
        self.requests += 1;
        self.active = true;
        count_begun(&self.cluster, &self.host);
    }

    /// The request is over, its response complete.
    pub(super) fn finish(&mut self, now: Now) {
        self.active = false;
        count_over(&self.cluster, &self.host);
        self.idle_since = now;
    }

    pub(in crate::cluster) fn close_local(self) {
        drop(self);
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Rc<Cluster> {
        &self.cluster
    }
}

/// What is known of a connection's TLS, if anybody writes it.
pub(super) fn facts(transport: &Transport) -> Option<Rc<TlsFacts>> {
    transport.tls().and_then(TlsFacts::of_upstream).map(Rc::new)
}

/// Counts a connection that is there.
pub(super) fn count_opened(cluster: &Cluster, host: &Host, kind: Offer) {
    cluster.stats().inc(ClusterStat::UpstreamCxTotal);
    host.stats().inc(HostStat::CxTotal);
    count_active(cluster, host, kind);
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        let stats = self.cluster.stats();
        if self.lease.is_some() {
            // The connection is the others' too: only the request ends.
            if self.active {
                count_over(&self.cluster, &self.host);
            }
            return;
        }
        stats.inc(ClusterStat::UpstreamCxDestroy);
        if self.channel.connection().is_some_and(Transport::has_broken_tls) {
            stats.inc(ClusterStat::SslConnectionError);
        }
        let (side, side_active) = if self.closed_by_peer {
            (ClusterStat::UpstreamCxDestroyRemote, ClusterStat::UpstreamCxDestroyRemoteWithActiveRq)
        } else {
            (ClusterStat::UpstreamCxDestroyLocal, ClusterStat::UpstreamCxDestroyLocalWithActiveRq)
        };
        stats.inc(side);
        if self.active {
            count_over(&self.cluster, &self.host);
            stats.inc(ClusterStat::UpstreamCxDestroyWithActiveRq);
            stats.inc(side_active);
        }
        let lived = self.cluster.runtime().now().since(self.opened).as_millis();
        stats.record(ClusterHistogram::UpstreamCxLengthMs, u64::try_from(lived).unwrap_or(u64::MAX));
        stats.record(ClusterHistogram::UpstreamRqPerCx, u64::from(self.requests));
        // Last: those that wait for a connection are called.
        count_gone(&self.cluster, &self.host, self.kind);
    }
}
