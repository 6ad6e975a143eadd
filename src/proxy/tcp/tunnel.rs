//! Reaching an endpoint through the tunnel that it makes: it is an HTTP proxy, asked with CONNECT or POST over HTTP/1.1 or
//! HTTP/2. Source: Envoy `TcpProxy.TunnelingConfig`.
//!
//! An answer that makes no tunnel fails the attempt as a connect that failed does. What the client says meanwhile waits, and
//! the limits of its connection hold.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::connect::{Failure, unless_broken};
use super::relay::{Ended, Why};
use super::{TcpConnection, record};
use crate::base::clock::Now;
use crate::cluster::pool::{self, ConnectError, UpstreamConnection};
use crate::cluster::{Cluster, Host};
use crate::filter::network::{Tunneling, accepts};
use crate::format::context::FormatContext;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::{headers, validate};
use crate::protocol::http1::encode::{RequestEncoding, encode_request};
use crate::protocol::http1::framing::{Asked, ResponseKind, ResponseMeta};
use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
use crate::protocol::http1::parse::{self, ParseOptions};
use crate::protocol::http2::{Received, SendRequestError, Stream as Http2Stream, StreamError};
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::tls::Offer;
use crate::protocol::transport::{Channel, Transport};
use crate::proxy::stream::Stream;
use crate::proxy::wire;
use crate::telemetry::{ClusterStat, TcpStat};

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// There is no connection to the endpoint.
    Connect(ConnectError),
    /// The endpoint makes none.
    Refused,
    /// The client has gone, or a limit has passed: there is to be none.
    Over(Failure),
}

/// What came of asking.
#[derive(Debug)]
enum Unanswered {
    /// The endpoint has not looked at it: another connection may do.
    Unseen,
    /// The endpoint broke off.
    Broken,
    /// Its answer is not what makes a tunnel.
    Refused,
    /// It says that it has not looked at the request.
    Declined,
    /// Its answer is no HTTP, or beyond the limits.
    Invalid,
    /// The client has gone, or a limit has passed.
    Over(Failure),
}

/// What an interim head costs at least of the room that one head has, in bytes: nothing else bounds their number.
const INTERIM_BYTES_MIN: u32 = 256;

/// Connections that are tried of an endpoint whose connections are shared and may be about to end.
const SHARED_TRIES_MAX: usize = 3;

/// A tunnel to the host.
pub(super) async fn open(
    connection: &TcpConnection,
    tunneling: &Tunneling,
    cluster: &Rc<Cluster>,
    origin: &Host,
    host: &Rc<Host>,
) -> Result<UpstreamConnection, NotOpened> {
    let stats = cluster.stats();
    for _ in 0..SHARED_TRIES_MAX {
        let acquired = unless_broken(connection, acquire(connection, cluster, origin, host)).await;
        let mut upstream = acquired.unwrap_or_else(|| Err(NotOpened::Over(Failure::client_gone())))?;
        let outcome = ask(connection, tunneling, &upstream).await;
        let is_shared = upstream.lease().is_some();
        match outcome {
            Ok(body) => {
                if let Some(body) = body.filter(|_| !is_shared) {
                    let _ = connection.rare().posted.set(body);
                }
                return Ok(upstream);
            }
            Err(Unanswered::Unseen) => {
                if let Some(lease) = upstream.lease() {
                    lease.retire();
                }
                continue;
            }
            Err(Unanswered::Broken) if is_shared => stats.inc(ClusterStat::UpstreamRqRxReset),
            Err(Unanswered::Broken) => upstream.set_closed_by_peer(),
            Err(Unanswered::Refused) if is_shared => stats.inc(ClusterStat::UpstreamRqTxReset),
            Err(Unanswered::Refused | Unanswered::Declined) => {}
            Err(Unanswered::Invalid) => {
                stats.inc(ClusterStat::UpstreamCxProtocolError);
                if is_shared {
                    stats.inc(ClusterStat::UpstreamRqTxReset);
                }
            }
            Err(Unanswered::Over(failure)) => {
                if is_shared {
                    stats.inc(ClusterStat::UpstreamRqTxReset);
                }
                return Err(NotOpened::Over(failure));
            }
        }
        return Err(NotOpened::Refused);
    }
    Err(NotOpened::Refused)
}

/// Whether tunnels to the cluster may be streams of connections that outlive them.
pub(super) fn shares_connections(cluster: &Cluster) -> bool {
    cluster.offer(false) != Offer::Http1
}

/// Counts how a tunnel ended that shares its connection.
pub(super) fn count_end(upstream: &UpstreamConnection, ended: &Ended) {
    if upstream.lease().is_none() {
        return;
    }
    match ended.why {
        Why::Finished { .. } => {}
        Why::UpstreamReset => upstream.cluster().stats().inc(ClusterStat::UpstreamRqRxReset),
        Why::DownstreamReset | Why::Idle | Why::TooOld | Why::Drained => {
            upstream.cluster().stats().inc(ClusterStat::UpstreamRqTxReset);
        }
    }
}

/// A connection of its own, where the cluster speaks HTTP/1.1: how much of one a tunnel has used up nobody knows. Or a stream
/// of a connection that others share.
async fn acquire(
    connection: &TcpConnection,
    cluster: &Rc<Cluster>,
    origin: &Host,
    host: &Rc<Host>,
) -> Result<UpstreamConnection, NotOpened> {
    let TcpConnection { context, timer, .. } = connection;
    let offer = cluster.offer(false);
    if offer != Offer::Http1
        && let Some(ready) = pool::checkout_shared(cluster, host).map_err(NotOpened::Connect)?
    {
        return Ok(ready);
    }
    if !pool::may_pool(cluster, origin, host, offer) {
        let flag = Some(ResponseFlag::NoHealthyUpstream);
        return Err(NotOpened::Over(Failure::stopped(flag, record::NO_HEALTHY_UPSTREAM)));
    }
    let _pending = pool::pend(cluster, host).map_err(NotOpened::Connect)?;
    let next_id = || context.next_id();
    let acquired = if offer == Offer::Http1 {
        pool::connect(cluster, host, timer, next_id(), true).await
    } else {
        pool::negotiate(cluster, host, timer, offer, next_id).await
    };
    acquired.map_err(NotOpened::Connect)
}

/// Asks for the tunnel; the framing of what comes down, where it is the body of a response.
async fn ask(
    connection: &TcpConnection,
    tunneling: &Tunneling,
    upstream: &UpstreamConnection,
) -> Result<Option<BodyLength>, Unanswered> {
    let TcpConnection { context, chain, timer, due, .. } = connection;
    let mut stream = context.streams.take();
    record::describe(connection, &mut stream.info);
    let now = context.runtime.now();
    let secure = upstream.cluster().tls(upstream.host().socket()).is_some();
    let Stream { request, info, .. } = &mut *stream;
    tunneling.write(&FormatContext::new(info, now.0, context.random()), secure, request);
    send(connection, tunneling, upstream, request)?;
    let idle_due = chain.config.idle_timeout.map(|idle| now.after(idle));
    let mut answer = Answer::new(tunneling.asked(), upstream);
    let meta = poll_fn(|_| {
        upstream.channel().pump();
        if let Poll::Ready(outcome) = answer.poll(upstream, &mut stream.response) {
            return Poll::Ready(outcome);
        }
        if is_gone(&connection.channel) {
            return Poll::Ready(Err(Unanswered::Over(Failure::client_gone())));
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(*due) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(Err(Unanswered::Over(unfinished(Failure::too_old()))));
        }
        if is_due(idle_due) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(Err(Unanswered::Over(unfinished(Failure::idle()))));
        }
        Poll::Pending
    })
    .await?;
    if announces_close(&stream.response) {
        upstream.cluster().stats().inc(ClusterStat::UpstreamCxCloseNotify);
    }
    let is_http2 = upstream.lease().is_some();
    let is_over = meta.body == BodyLength::Length(0) || meta.body == BodyLength::None;
    if !accepts(stream.response.status(), is_http2) || is_over || has_ended(upstream) {
        return Err(Unanswered::Refused);
    }
    Ok(Some(meta.body).filter(|_| meta.kind == ResponseKind::Final))
}

/// Whether the endpoint says that the connection ends with this exchange; a tunnel's does in any case.
fn announces_close(response: &Head) -> bool {
    let connection = headers::CONNECTION;
    let mut options = response.get_all(&connection).flat_map(validate::list);
    response.version() == Version::Http10 || options.any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// The attempt that a limit stopped has failed, too.
fn unfinished(mut failure: Failure) -> Failure {
    failure.flags.push(ResponseFlag::UpstreamConnectionFailure);
    failure
}

/// Whether a stream's end came with its head: that is no tunnel.
fn has_ended(upstream: &UpstreamConnection) -> bool {
    let Some(stream) = upstream.channel().stream() else { return false };
    match stream.poll_recv() {
        Poll::Ready(Ok(Some(chunk))) => {
            stream.unread(chunk);
            false
        }
        Poll::Ready(Ok(None)) => true,
        // A break shows again.
        Poll::Ready(Err(_)) | Poll::Pending => false,
    }
}

/// Whether the client has broken off. What it says waits here, its end is told again; it may break off behind what waits.
fn is_gone(downstream: &Channel) -> bool {
    if downstream.poll_broken().is_ready() {
        return true;
    }
    if downstream.has_unread() {
        return false;
    }
    match downstream.poll_recv() {
        Poll::Ready(Ok(Some(chunk))) => {
            downstream.unread(chunk);
            false
        }
        Poll::Ready(Err(_)) => true,
        Poll::Ready(Ok(None)) | Poll::Pending => false,
    }
}

fn send(
    connection: &TcpConnection,
    tunneling: &Tunneling,
    upstream: &UpstreamConnection,
    request: &Head,
) -> Result<(), Unanswered> {
    let cluster = upstream.cluster();
    match upstream.channel() {
        Channel::Connection(to) => {
            let encoding = RequestEncoding {
                body: tunneling.length(),
                names: cluster.config().http1.header_key_format,
                absolute_target: cluster.config().http1.send_fully_qualified_url,
            };
            let encode = |room: &mut [u8]| encode_request(request, &encoding, room);
            let sent = wire::send_encoded(&connection.context.runtime, to, encode);
            let sent = sent.map_err(|_| Unanswered::Refused)?;
            cluster.stats().add(ClusterStat::UpstreamCxTxBytesTotal, sent as u64);
            to.flush();
            Ok(())
        }
        Channel::Stream(to) => match to.send_request(request, Received::default(), tunneling.length(), false)
        {
            Ok(()) => Ok(()),
            Err(SendRequestError::Unsendable) => Err(Unanswered::Refused),
            Err(SendRequestError::Broken(_)) => Err(Unanswered::Unseen),
        },
    }
}

/// An answer on its way.
#[derive(Debug)]
struct Answer {
    asked: Asked,
    limits: HeadLimits,
    options: ParseOptions,
    reader: HeadReader,
    /// Bytes of interim heads that are still taken: all together as many as one head may have.
    interim_bytes_left: u32,
}

impl Answer {
    fn new(asked: Asked, upstream: &UpstreamConnection) -> Self {
        let config = upstream.cluster().config();
        let bytes_max = config.common_http.max_response_headers_kb.saturating_mul(1024);
        Self {
            asked,
            limits: HeadLimits { bytes_max, headers_max: config.common_http.max_headers_count },
            options: ParseOptions {
                accept_http_10: true,
                allow_chunked_length: config.http1.allow_chunked_length,
                ..ParseOptions::default()
            },
            reader: HeadReader::response(),
            interim_bytes_left: bytes_max,
        }
    }

    /// The final head.
    fn poll(
        &mut self,
        upstream: &UpstreamConnection,
        head: &mut Head,
    ) -> Poll<Result<ResponseMeta, Unanswered>> {
        loop {
            let received = match upstream.channel() {
                Channel::Connection(from) => self.poll_connection(from, upstream.cluster(), head),
                Channel::Stream(from) => self.poll_stream(from, upstream.cluster(), head),
            };
            let meta = match received {
                Poll::Ready(Ok(meta)) => meta,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            if meta.kind != ResponseKind::Interim {
                return Poll::Ready(Ok(meta));
            }
            let bytes = u32::try_from(head.text_bytes()).unwrap_or(u32::MAX);
            match self.interim_bytes_left.checked_sub(bytes.max(INTERIM_BYTES_MIN)) {
                Some(left) => self.interim_bytes_left = left,
                None => return Poll::Ready(Err(Unanswered::Invalid)),
            }
            head.clear();
            self.reader = HeadReader::response();
        }
    }

    fn poll_connection(
        &mut self,
        from: &Transport,
        cluster: &Cluster,
        head: &mut Head,
    ) -> Poll<Result<ResponseMeta, Unanswered>> {
        loop {
            let mut chunk = match from.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => chunk,
                // Of an end this side draws the conclusion.
                Poll::Ready(Ok(None)) => return Poll::Ready(Err(Unanswered::Refused)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Unanswered::Broken)),
                Poll::Pending => return Poll::Pending,
            };
            let Ok(fed) = self.reader.feed(head, &chunk, &self.limits) else {
                cluster.stats().add(ClusterStat::UpstreamCxRxBytesTotal, chunk.len() as u64);
                return Poll::Ready(Err(Unanswered::Invalid));
            };
            cluster.stats().add(ClusterStat::UpstreamCxRxBytesTotal, fed.consumed as u64);
            chunk.advance(fed.consumed);
            from.unread(chunk);
            if fed.complete {
                let parsed = parse::parse_response(head, self.asked, &self.options);
                return Poll::Ready(parsed.map_err(|error| match error {
                    // Well-formed, and an answer to something else.
                    HeadError::UnexpectedSwitch => Unanswered::Refused,
                    _ => Unanswered::Invalid,
                }));
            }
        }
    }

    fn poll_stream(
        &self,
        from: &Http2Stream,
        cluster: &Cluster,
        head: &mut Head,
    ) -> Poll<Result<ResponseMeta, Unanswered>> {
        head.clear();
        from.poll_response(head, &mut Received::default(), self.asked, &self.limits).map_err(|error| {
            match error {
                StreamError::Head(error) => {
                    cluster.stats().inc(ClusterStat::Http2RxMessagingError);
                    if error.status() == 431 {
                        cluster.stats().inc(ClusterStat::Http2HeaderOverflow);
                    }
                    Unanswered::Invalid
                }
                // Counted with its connection, which ends of it.
                StreamError::Protocol => Unanswered::Refused,
                StreamError::Refused | StreamError::GoneAway => Unanswered::Declined,
                StreamError::Reset(_) | StreamError::Closed => Unanswered::Broken,
            }
        })
    }
}
