//! What the whole path knows of one request.
//!
//! `proxy` fills it while the request passes; `format` and the access-log filters read it. It lives in the
//! request's recycled slot: [`StreamInfo::reset`] empties it and keeps the capacity of its texts, so that
//! steady state allocates nothing. Names are copied in: their owners are snapshot objects shared between
//! cores, whose reference counts a request may not touch.
//!
//! Stamps are nanoseconds of the monotonic clock that the worker's turn read; `None`: it did not happen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::connection_info::TlvState;
use super::dynamic_metadata::DynamicMetadata;
use super::http::head::Version;
use super::response_flags::ResponseFlags;
use super::tls::TlsFacts;
use crate::base::limits::ATTEMPTS_NOTED_MAX;
use crate::base::socket_address::{INTERNAL_CLIENT, InternalAddress};

/// An address as Envoy prints it. Envoy's `Network::Address::Instance`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StreamAddress {
    /// There is none, or it is not known.
    #[default]
    None,
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A Unix socket's path; `@name` if abstract; empty for a peer without a name.
    /// The one variant that allocates: Unix listeners and endpoints share the text per core.
    Pipe(std::rc::Rc<str>),
    /// An internal listener.
    Internal(std::rc::Rc<InternalAddress>),
    /// The client of connections to internal listeners, which has no address of its own.
    InternalClient,
}

impl StreamAddress {
    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::None | Self::Pipe(_) | Self::Internal(_) | Self::InternalClient => None,
        }
    }

    /// The IP address and port, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::None | Self::Pipe(_) | Self::Internal(_) | Self::InternalClient => None,
        }
    }

    /// What it is called; empty: it is one of IP, or there is none.
    pub fn name(&self) -> &str {
        match self {
            Self::None | Self::Ip(_) => "",
            Self::Pipe(path) => path,
            Self::Internal(address) => address.text(),
            Self::InternalClient => INTERNAL_CLIENT,
        }
    }

    /// Which of those that an internal listener stands for is meant; may be empty.
    pub fn endpoint_id(&self) -> &str {
        match self {
            Self::Internal(address) => address.endpoint_id(),
            Self::None | Self::Ip(_) | Self::Pipe(_) | Self::InternalClient => "",
        }
    }

    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        self.socket().map(|address| address.port())
    }
}

/// As Envoy's `asString`.
impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(_) | Self::Internal(_) | Self::InternalClient => f.write_str(self.name()),
        }
    }
}

impl From<SocketAddr> for StreamAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// How a connection's end looked from this side. Source: Envoy's `DetectedCloseType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DetectedClose {
    /// In order, or not closed yet.
    #[default]
    Normal,
    /// This side reset it.
    LocalReset,
    /// The peer reset it.
    RemoteReset,
}

/// Bytes of one side of a request. Source: Envoy's `BytesMeter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesMeter {
    /// Everything received on this side for the request, with heads and chunk framing, in bytes.
    pub wire_received: u64,
    /// Everything sent on this side for the request, with heads and chunk framing, in bytes.
    pub wire_sent: u64,
    /// Heads and trailers received, as on the wire, in bytes.
    pub header_received: u64,
    /// Heads and trailers sent, as on the wire, in bytes.
    pub header_sent: u64,
}

/// When things happened to the downstream side, monotonic ns. Source: Envoy's `DownstreamTiming`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DownstreamTiming {
    /// The connection was accepted; `None`: at the start of what the record is of.
    pub connection_start_ns: Option<u64>,
    /// The connection ended, and with it what the record is of.
    pub connection_end_ns: Option<u64>,
    /// The last byte of the request was received.
    pub last_rx_ns: Option<u64>,
    /// The first byte of the response was handed to the kernel.
    pub first_tx_ns: Option<u64>,
    /// The last byte of the response was handed to the kernel.
    pub last_tx_ns: Option<u64>,
}

/// When things happened to the upstream side, monotonic ns; of the last attempt.
/// Source: Envoy's `UpstreamTiming`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamTiming {
    /// The attempt began: a host was chosen.
    pub begin_ns: Option<u64>,
    /// A connect was begun for this request; `None` if it got a pooled connection.
    pub connect_start_ns: Option<u64>,
    /// That connect was complete.
    pub connect_end_ns: Option<u64>,
    /// The first byte of the request was handed to the kernel.
    pub first_tx_ns: Option<u64>,
    /// The last byte of the request was handed to the kernel.
    pub last_tx_ns: Option<u64>,
    /// The first byte of the response was received.
    pub first_rx_ns: Option<u64>,
    /// The first byte of the response's body was received.
    pub first_rx_body_ns: Option<u64>,
    /// The last byte of the response was received.
    pub last_rx_ns: Option<u64>,
    /// How long the attempt, or all of a relayed connection's, waited for a connection, or for its failure, in ns (a duration,
    /// not a stamp).
    pub pool_ready_ns: Option<u64>,
}

impl UpstreamTiming {
    /// The attempt has got a connection, or there is none for it.
    pub fn pool_answered(&mut self, now_ns: u64) {
        self.pool_ready_ns = self.begin_ns.map(|begun| now_ns.saturating_sub(begun));
    }
}

/// An upstream attempt that another followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierAttempt {
    /// Address of its host.
    pub host: StreamAddress,
    /// Hostname of its host; empty: it has none.
    pub host_name: String,
    /// Number of its connection; 0: it got none.
    pub connection_id: u64,
}

/// One request's facts. Envoy's `StreamInfo`. Texts: empty means unknown.
#[derive(Debug, Default)]
pub struct StreamInfo {
    /// Wall clock when the first byte of the request arrived, ns since the Unix epoch.
    pub start_time_unix_ns: u64,
    /// Monotonic clock at the same moment; all durations count from here.
    pub start_ns: u64,
    /// When the request ended: its last byte was sent or it was given up. `None` while it runs.
    pub complete_ns: Option<u64>,
    /// Downstream stamps.
    pub downstream_timing: DownstreamTiming,
    /// Upstream stamps.
    pub upstream_timing: UpstreamTiming,

    /// Body bytes received from downstream, without framing.
    pub bytes_received: u64,
    /// Body bytes sent downstream, without framing.
    pub bytes_sent: u64,
    /// Wire bytes downstream.
    pub downstream_bytes: BytesMeter,
    /// Wire bytes upstream, of the last attempt.
    pub upstream_bytes: BytesMeter,

    /// Downstream protocol; `None` until a request line was read.
    pub protocol: Option<Version>,
    /// Upstream protocol; `None` until a connection was assigned.
    pub upstream_protocol: Option<Version>,
    /// Status sent downstream; `None`: no response was begun.
    pub response_code: Option<u16>,
    /// Why the response is what it is: `via_upstream`, `route_not_found`; a constant of
    /// [`response_code_details`](super::response_code_details), or text with details in braces.
    pub response_code_details: String,
    /// What filters have noted.
    pub dynamic_metadata: DynamicMetadata,
    /// What the TLVs of the connection's PROXY header say, where they are filter state.
    pub proxy_tlvs: Option<TlvState>,
    /// What was noteworthy.
    pub response_flags: ResponseFlags,
    /// Why the downstream connection was ended, if it was.
    pub connection_termination_details: String,

    /// The client: after X-Forwarded-For or PROXY protocol were believed.
    pub downstream_remote_address: StreamAddress,
    /// The peer of the socket.
    pub downstream_direct_remote_address: StreamAddress,
    /// How the downstream connection ended.
    pub downstream_detected_close: DetectedClose,
    /// Why this side closed the downstream connection (`on_idle_timeout`); empty: it did not.
    pub downstream_local_close_reason: &'static str,
    /// Where the client meant to connect to; differs from the socket's own after a redirection.
    pub downstream_local_address: StreamAddress,
    /// The socket's own address.
    pub downstream_direct_local_address: StreamAddress,
    /// Chosen host's address; set as soon as a host was chosen, even if connecting failed.
    pub upstream_host: StreamAddress,
    /// Chosen host's hostname; empty for endpoints given by address alone.
    pub upstream_host_name: String,
    /// Address the upstream connection is connected to.
    pub upstream_remote_address: StreamAddress,
    /// Our own address of the upstream connection.
    pub upstream_local_address: StreamAddress,
    /// Why the last connection attempt failed, in words. Envoy's `upstreamTransportFailureReason`.
    pub upstream_transport_failure_reason: String,
    /// Upstream attempts begun, the first included; 0: none.
    pub attempt_count: u32,
    /// The attempts before the last, in order, at most [`ATTEMPTS_NOTED_MAX`] of them; where a relayed connection's have all
    /// failed, the last, too. Of requests those that got a connection, as in Envoy 1.40 (observed), of relayed connections all
    /// that had a host, as in its TCP proxy. What the `..._ATTEMPTED` operators write, before the last.
    pub earlier_attempts: Vec<EarlierAttempt>,
    /// Whether the last attempt, of which the other fields tell, is to be written with them.
    pub counts_last_attempt: bool,
    /// How the upstream connection ended.
    pub upstream_detected_close: DetectedClose,
    /// Why this side closed the upstream connection; empty: it did not.
    pub upstream_local_close_reason: &'static str,

    /// Name of the chosen cluster.
    pub upstream_cluster: String,
    /// The cluster's `alt_stat_name`; empty if it has none.
    pub upstream_cluster_alt_stat_name: String,
    /// `Route.name` of the matched route.
    pub route_name: String,
    /// How often a route was looked for, found or not; 0: never. Filters that want another one have it looked for again.
    pub route_resolution_count: u32,
    /// `Listener.name` of the connection's listener.
    pub listener_name: String,
    /// `FilterChain.name` of the connection's filter chain.
    pub filter_chain_name: String,
    /// `x-request-id` given or generated, before the upstream could see it changed. Bytes: most requests' is never told, and
    /// only who tells it has to know that it is UTF-8.
    pub request_id: Vec<u8>,
    /// Server name of the TLS ClientHello.
    pub requested_server_name: String,
    /// The name that the request gives to the TLS of its upstream connection, where it gives one.
    pub upstream_server_name: String,
    /// TLS of the downstream connection; `None`: plain text. The connection's own, on its core.
    pub downstream_tls: Option<std::rc::Rc<TlsFacts>>,

    /// TLS of the upstream connection; `None`: plain text, or nobody writes it. The connection's own, on its core.
    pub upstream_tls: Option<std::rc::Rc<TlsFacts>>,
    /// Why TLS of the downstream connection broke; empty: it did not. Envoy's `downstreamTransportFailureReason`.
    pub downstream_transport_failure_reason: String,

    /// Number of the downstream connection, unique in the process.
    pub connection_id: u64,
    /// Number of the upstream connection, unique in the process; 0: none was assigned.
    pub upstream_connection_id: u64,
    /// The request is a health check that the health-check filter answered.
    pub health_check: bool,
}

impl StreamInfo {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it empty again for the next request; texts keep their capacity.
    pub fn reset(&mut self) {
        // In place: to make an empty record, move the texts into it and all of it here costs several times as much.
        // Every field is named, or this does not compile: what one request left is not told of the next.
        macro_rules! empty {
            ($record:ident; $($cleared:ident)*; $($other:ident)*) => {
                let Self { $($cleared,)* $($other,)* } = $record;
                $($cleared.clear();)*
                $(*$other = Default::default();)*
            };
        }
        empty!(self;
            response_code_details connection_termination_details dynamic_metadata earlier_attempts
            upstream_host_name upstream_transport_failure_reason
            upstream_cluster upstream_cluster_alt_stat_name route_name listener_name filter_chain_name
            request_id requested_server_name upstream_server_name downstream_transport_failure_reason;
            start_time_unix_ns start_ns complete_ns downstream_timing upstream_timing
            bytes_received bytes_sent downstream_bytes upstream_bytes
            protocol upstream_protocol response_code response_flags
            downstream_remote_address downstream_direct_remote_address
            downstream_local_address downstream_direct_local_address
            downstream_detected_close downstream_local_close_reason
            upstream_host upstream_remote_address upstream_local_address
            upstream_detected_close upstream_local_close_reason
            attempt_count counts_last_attempt route_resolution_count downstream_tls upstream_tls proxy_tlvs
            connection_id upstream_connection_id health_check
        );
    }

    /// Another attempt follows the last, of whose connection nothing is told any more, as in Envoy. A rare path: it may allocate.
    #[cold]
    pub fn begin_next_attempt(&mut self) {
        let host = std::mem::take(&mut self.upstream_host);
        let host_name = std::mem::take(&mut self.upstream_host_name);
        let connection_id = std::mem::take(&mut self.upstream_connection_id);
        if std::mem::take(&mut self.counts_last_attempt) {
            self.note_earlier_attempt(EarlierAttempt { host, host_name, connection_id });
        }
        self.upstream_remote_address = StreamAddress::None;
        self.upstream_local_address = StreamAddress::None;
        self.upstream_tls = None;
        self.upstream_protocol = None;
        self.upstream_timing = UpstreamTiming::default();
    }

    /// Notes one attempt more, unless there are enough of them.
    pub fn note_earlier_attempt(&mut self, attempt: EarlierAttempt) {
        if self.earlier_attempts.len() < ATTEMPTS_NOTED_MAX {
            self.earlier_attempts.push(attempt);
        }
    }

    /// Hosts of all attempts that are noted: address, and hostname, which may be empty.
    pub fn hosts_attempted(&self) -> impl Iterator<Item = (&StreamAddress, &str)> {
        let earlier = self.earlier_attempts.iter().map(|attempt| (&attempt.host, attempt.host_name.as_str()));
        let last = (&self.upstream_host, self.upstream_host_name.as_str());
        earlier.chain(self.counts_last_attempt.then_some(last))
    }

    /// Numbers of the connections of all attempts that are noted and got one.
    pub fn connection_ids_attempted(&self) -> impl Iterator<Item = u64> {
        let last = self.counts_last_attempt.then_some(self.upstream_connection_id);
        let all = self.earlier_attempts.iter().map(|attempt| attempt.connection_id).chain(last);
        all.filter(|id| *id != 0)
    }

    /// A stamp counted from the start of the request, in ns; `None` if it did not happen.
    pub fn since_start(&self, stamp: Option<u64>) -> Option<u64> {
        stamp.map(|ns| ns.saturating_sub(self.start_ns))
    }
}

/// Puts `value` in place of what `text` held, reusing its memory.
pub fn set_text(text: &mut String, value: &str) {
    text.clear();
    text.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dynamic_metadata::MetadataValue;
    use crate::protocol::response_flags::ResponseFlag;

    #[test]
    fn reset_filled_record_is_empty_and_keeps_capacity() {
        let mut info = StreamInfo::new();
        set_text(&mut info.route_name, "a route with a rather long name");
        set_text(&mut info.requested_server_name, "example.com");
        info.response_flags.set(ResponseFlag::NoRouteFound);
        info.response_code = Some(404);
        info.complete_ns = Some(7);
        info.upstream_timing.first_rx_ns = Some(5);
        info.downstream_bytes.wire_sent = 9;
        info.upstream_host = StreamAddress::Pipe("/run/a".into());
        info.downstream_remote_address = SocketAddr::from(([127, 0, 0, 1], 80)).into();
        info.upstream_local_close_reason = "on_idle_timeout";
        let host = info.upstream_host.clone();
        info.note_earlier_attempt(EarlierAttempt { host, host_name: "a".to_owned(), connection_id: 1 });
        info.counts_last_attempt = true;
        info.downstream_timing.connection_end_ns = Some(8);
        info.dynamic_metadata.set("a", "b", MetadataValue::Bool(true));
        let capacity = info.route_name.capacity();
        let pointer = info.route_name.as_ptr();
        info.reset();
        assert_eq!(info.dynamic_metadata.value("a", "b"), None);
        // It keeps its entries' room.
        info.dynamic_metadata = DynamicMetadata::default();
        assert_eq!(format!("{info:?}"), format!("{:?}", StreamInfo::new()));
        assert_eq!((info.route_name.capacity(), info.route_name.as_ptr()), (capacity, pointer));
    }

    fn attempted(info: &StreamInfo) -> (Vec<(String, String)>, Vec<u64>) {
        let hosts = info.hosts_attempted().map(|(host, name)| (host.to_string(), name.to_owned()));
        (hosts.collect(), info.connection_ids_attempted().collect())
    }

    #[test]
    fn attempts_are_told_in_order_and_those_that_count_alone() {
        let mut info = StreamInfo::new();
        assert_eq!(attempted(&info), (vec![], vec![]));
        let mut begin = |port: u16, id: u64, counts: bool| {
            info.begin_next_attempt();
            info.upstream_host = SocketAddr::from(([127, 0, 0, 1], port)).into();
            set_text(&mut info.upstream_host_name, if port == 2 { "two" } else { "" });
            info.upstream_connection_id = id;
            info.counts_last_attempt = counts;
            attempted(&info)
        };
        let one = ("127.0.0.1:1".to_owned(), String::new());
        let two = ("127.0.0.1:2".to_owned(), "two".to_owned());
        assert_eq!(begin(1, 7, true), (vec![one.clone()], vec![7]));
        assert_eq!(begin(3, 0, false), (vec![one.clone()], vec![7]));
        assert_eq!(begin(2, 9, true), (vec![one, two], vec![7, 9]));
    }

    #[test]
    fn next_attempt_begins_with_nothing_of_the_last() {
        let mut info = StreamInfo::new();
        info.upstream_host = SocketAddr::from(([127, 0, 0, 1], 80)).into();
        info.upstream_remote_address = info.upstream_host.clone();
        info.upstream_local_address = info.upstream_host.clone();
        info.upstream_protocol = Some(Version::Http2);
        info.upstream_connection_id = 3;
        info.upstream_timing.first_tx_ns = Some(5);
        info.begin_next_attempt();
        assert_eq!(format!("{info:?}"), format!("{:?}", StreamInfo::new()));
    }

    #[test]
    fn attempts_beyond_the_bound_are_not_noted() {
        let mut info = StreamInfo::new();
        for id in 1..=2 * ATTEMPTS_NOTED_MAX as u64 {
            info.begin_next_attempt();
            (info.upstream_connection_id, info.counts_last_attempt) = (id, true);
        }
        let ids: Vec<_> = info.connection_ids_attempted().collect();
        assert_eq!(ids.len(), ATTEMPTS_NOTED_MAX + 1);
        assert_eq!((ids[0], ids.last()), (1, Some(&(2 * ATTEMPTS_NOTED_MAX as u64))));
    }

    #[test]
    fn wait_for_a_connection_counts_from_the_begin_of_its_attempt() {
        let mut timing = UpstreamTiming::default();
        timing.pool_answered(9);
        assert_eq!(timing.pool_ready_ns, None);
        timing.begin_ns = Some(4);
        timing.pool_answered(9);
        assert_eq!(timing.pool_ready_ns, Some(5));
    }
}
