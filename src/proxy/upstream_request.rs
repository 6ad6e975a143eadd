//! One attempt to have a request answered by a host: the request goes up, the response comes down, both at once.
//!
//! [`Exchange`] is polled as one state machine: upload, download and deadlines are looked at in turn each time the task
//! runs. Nothing here decides what the client is told when it fails; that is `http`'s.

use std::task::Poll;
use std::time::Duration;

use super::connection_bytes;
use super::copy::{BodyCopy, CopyError, Framing, Way};
use super::downstream::Connection;
use super::error::ProxyError;
use super::filters;
use super::http::{self, Request};
use super::load_metrics;
use super::response::{self, Client, Prepared};
use super::routing::Forward;
use super::splice;
use super::stream::Stream;
use crate::base::clock::Now;
use crate::cluster::pool::UpstreamConnection;
use crate::filter::http::Direction;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::headers;
use crate::protocol::http::websocket;
use crate::protocol::http1::framing::{MethodKind, ResponseKind, ResponseMeta};
use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
use crate::protocol::http1::parse::{self, ParseOptions};
use crate::protocol::http2::{Stream as Http2Stream, StreamError};
use crate::protocol::transport::Channel;
use crate::telemetry::names::{ClusterStat, HttpStat};

/// What one attempt works with.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) connection: &'a Connection,
    pub(super) upstream: &'a UpstreamConnection,
    pub(super) stream: &'a mut Stream,
    /// The request; its body is kept over attempts, so that none repeats what was consumed.
    pub(super) request: &'a mut Request,
    pub(super) forward: &'a Forward<'a>,
    pub(super) response_limits: HeadLimits,
    pub(super) response_options: ParseOptions,
    pub(super) state: Download,
    /// The endpoint stopped taking the request's body; its response may still come.
    pub(super) upload_broken: bool,
    /// Bytes of response arrived: a retry could answer twice.
    pub(super) response_begun: bool,
    /// Bytes of interim heads that are still taken: all together as many as one head may have, and each costs
    /// [`INTERIM_BYTES_MIN`] at least.
    pub(super) interim_bytes_left: u32,
    /// One was sent on.
    pub(super) interim_sent: bool,
}

/// What an interim head costs at least, in bytes. Reason: with the default of 80 KiB that is 320 of them.
const INTERIM_BYTES_MIN: u32 = 256;
/// How much later a limit passes where the client alone has kept the rest of a response from being taken in; once for each
/// response. Reason: what an endpoint has said comes out of its system in windows, round trip by round trip.
const TAKE_IN_TIME: Duration = Duration::from_secs(1);

/// How far the response is.
#[derive(Debug)]
pub(super) enum Download {
    Head(HeadReader),
    /// `sent`: what came of its head; `None`: a filter holds it.
    Body {
        copy: BodyCopy,
        meta: ResponseMeta,
        sent: Option<Prepared>,
    },
}

/// What is known of the client's side as the response begins.
pub(super) fn client(connection: &Connection, request: &Request, upstream: &UpstreamConnection) -> Client {
    let asked = request.meta.asked();
    let complete = request.body.is_done();
    let is_whole = complete && !asked.upgrade && asked.method != MethodKind::Connect;
    Client {
        is_11: request.client_is_11,
        upgrade: asked.upgrade,
        trailers: upstream.takes_trailers(),
        request_complete: request.deadlines.request_complete.filter(|_| is_whole),
        is_early: !complete,
        keep_alive: complete && http::goes_on(connection, request),
    }
}

/// How an exchange ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The response is complete and queued.
    Complete {
        /// The upstream connection may carry another request.
        reuse_upstream: bool,
        /// The client was told that the connection ends.
        close_client: bool,
    },
    /// Both sides switched protocols.
    Tunnel,
}

impl Exchange<'_> {
    /// Moves everything that can be moved.
    pub(super) fn poll(&mut self) -> Poll<Result<Ended, ProxyError>> {
        let (moved, received) = (self.request.body.wire_bytes, self.stream.info.upstream_bytes.wire_received);
        self.upstream.channel().pump();
        self.poll_upload()?;
        let outcome = self.poll_download();
        if outcome.is_ready() {
            return outcome;
        }
        let uploaded = self.request.body.wire_bytes;
        if uploaded != moved {
            self.request.deadlines.last_activity = self.connection.context.runtime.now();
        }
        // What ends here and now is counted once, at the end.
        if uploaded != moved || self.stream.info.upstream_bytes.wire_received != received {
            connection_bytes::count_downstream(self.connection, self.stream, uploaded);
            connection_bytes::count_upstream(self.upstream.cluster(), self.stream);
        }
        // A client that only waits is watched for its going away; on a stream always, as an upload that is not taken may wait
        // for long, and what waits of it is the codec's.
        let is_watched = self.request.body.is_done() || self.connection.shared().is_some();
        if is_watched && self.connection.channel.poll_peer_closed().is_ready() {
            return Poll::Ready(Err(self.connection.gone()));
        }
        match self.request.deadlines.poll(&self.connection.timer) {
            Some(_) if self.takes_in_rest() => Poll::Pending,
            Some(error) => Poll::Ready(Err(error)),
            None if self.has_tried_enough() => Poll::Ready(Err(ProxyError::PerTryTimeout { status: 504 })),
            None => Poll::Pending,
        }
    }

    /// Whether a limit that has passed is put off, since the endpoint may have said everything: what a client that stalls keeps in
    /// a pipe and with the system, and fits below the watermark, goes by chunks from now on. As in Envoy, where it always does,
    /// the limits end with the endpoint's last byte, whenever the client takes it.
    fn takes_in_rest(&mut self) -> bool {
        let Download::Body { copy, .. } = &self.state else { return false };
        let left = copy.decoder().left().unwrap_or(0);
        let splicer = &mut self.stream.response_splicer;
        if !splicer.holds_back(left, self.connection.watermark()) {
            return false;
        }
        splicer.give_up();
        let runtime = &self.connection.context.runtime;
        self.request.deadlines.put_off(runtime.now().after(TAKE_IN_TIME));
        runtime.wake(runtime.current_task());
        true
    }

    /// Whether the attempt's own timeout has passed. It begins with the attempt or, where that is later, with the request's end.
    fn has_tried_enough(&self) -> bool {
        let (Some(limit), Some(complete), Some(begun)) = (
            self.stream.per_try_timeout,
            self.request.deadlines.request_complete,
            self.stream.info.upstream_timing.first_tx_ns,
        ) else {
            return false;
        };
        self.connection.timer.poll_at(complete.max(Now(begun)).after(limit)).is_ready()
    }

    fn poll_upload(&mut self) -> Result<(), ProxyError> {
        if self.request.body.is_done() {
            // What follows an upgrade or CONNECT waits for the tunnel.
            if self.request.meta.upgrade || self.request.meta.method == MethodKind::Connect {
                self.connection.channel.gather();
            }
            return Ok(());
        }
        if self.upload_broken {
            self.connection.channel.gather();
            return Ok(());
        }
        let Connection { context, channel: downstream, .. } = self.connection;
        let limit = self.connection.upload_watermark(self.upstream);
        let body = &self.request.body;
        let (sent, pauses, resumes) = (body.sent_bytes, body.pauses, body.resumes);
        let Stream { filters, request: head, request_trailers, request_splicer, info, .. } =
            &mut *self.stream;
        let mut upload = filters::Upload::new(self.connection, filters, head, info.protocol);
        let outcome = self.request.body.poll(
            &context.runtime,
            downstream,
            self.upstream.channel(),
            limit,
            request_trailers,
            upload.as_mut().map_or(Way::Clear(request_splicer), |upload| Way::Filters(upload)),
        );
        self.stream.info.upstream_bytes.wire_sent += self.request.body.sent_bytes - sent;
        let paused = self.request.body.pauses - pauses;
        if paused > 0 {
            self.connection.chain.stats.add(HttpStat::DownstreamFlowControlPausedReadingTotal, paused);
            self.upstream.cluster().stats().add(ClusterStat::UpstreamFlowControlBackedUpTotal, paused);
        }
        let resumed = self.request.body.resumes - resumes;
        if resumed > 0 {
            self.connection.chain.stats.add(HttpStat::DownstreamFlowControlResumedReadingTotal, resumed);
            self.upstream.cluster().stats().add(ClusterStat::UpstreamFlowControlDrainedTotal, resumed);
        }
        match outcome {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                let now = context.runtime.now();
                self.request_is_complete(now);
                Ok(())
            }
            Poll::Ready(Err(CopyError::SourceGone)) => Err(self.connection.gone()),
            Poll::Ready(Err(CopyError::Body(error))) => Err(ProxyError::RequestBody(error)),
            Poll::Ready(Err(CopyError::Filter(reply))) => Err(ProxyError::Filter(reply)),
            Poll::Ready(Err(CopyError::SinkGone | CopyError::Exhausted | CopyError::Overflow)) => {
                self.upload_broken = true;
                // Nobody reads the rest.
                downstream.gather();
                Ok(())
            }
        }
    }

    /// The request's last byte was handed on: the route's timeout begins, unless it was known to be there before.
    pub(super) fn request_is_complete(&mut self, now: crate::base::clock::Now) {
        self.request.deadlines.request_complete.get_or_insert(now);
        self.request.deadlines.last_activity = now;
        self.stream.info.downstream_timing.last_rx_ns = Some(now.0);
        self.stream.info.upstream_timing.last_tx_ns = Some(now.0);
    }

    fn poll_download(&mut self) -> Poll<Result<Ended, ProxyError>> {
        loop {
            match &mut self.state {
                Download::Head(_) => match self.poll_head() {
                    Poll::Ready(Ok(Some(ended))) => return Poll::Ready(Ok(ended)),
                    Poll::Ready(Ok(None)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
                Download::Body { .. } => return self.poll_body(),
            }
        }
    }

    /// Reads heads until the final one has been sent on.
    fn poll_head(&mut self) -> Poll<Result<Option<Ended>, ProxyError>> {
        let Download::Head(reader) = &mut self.state else { return Poll::Ready(Ok(None)) };
        let upstream = match self.upstream.channel() {
            Channel::Connection(upstream) => upstream,
            Channel::Stream(upstream) => return self.poll_stream_head(upstream),
        };
        let now = self.connection.context.runtime.now();
        let mut chunk = match upstream.poll_recv() {
            Poll::Ready(Ok(Some(chunk))) => chunk,
            Poll::Ready(Ok(None)) => return Poll::Ready(Err(self.closed(false))),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(self.closed(true))),
            Poll::Pending => return Poll::Pending,
        };
        self.request.deadlines.last_activity = now;
        self.response_begun = true;
        let fed = match reader.feed(&mut self.stream.response, &chunk, &self.response_limits) {
            Ok(fed) => fed,
            Err(error) => {
                // The record has what was understood, the counter what was read.
                let stats = self.upstream.cluster().stats();
                stats.add(ClusterStat::UpstreamCxRxBytesTotal, chunk.len() as u64);
                return Poll::Ready(Err(self.refused(error)));
            }
        };
        self.stream.info.upstream_bytes.header_received += fed.consumed as u64;
        self.stream.info.upstream_bytes.wire_received += fed.consumed as u64;
        chunk.advance(fed.consumed);
        upstream.unread(chunk);
        if !fed.complete {
            return Poll::Ready(Ok(None));
        }
        let meta = match parse::parse_response(
            &mut self.stream.response,
            self.request.meta.asked(),
            &self.response_options,
        ) {
            Ok(meta) => meta,
            Err(error) => return Poll::Ready(Err(self.refused(error))),
        };
        if meta.kind == ResponseKind::Tunnel
            && self.request.was_given_key
            && !websocket::take_accept(&self.stream.request, &mut self.stream.response)
        {
            return Poll::Ready(Err(self.refused(HeadError::UnexpectedSwitch)));
        }
        self.take_head(meta, now)
    }

    /// Takes over the next head of the response on a stream.
    fn poll_stream_head(&mut self, upstream: &Http2Stream) -> Poll<Result<Option<Ended>, ProxyError>> {
        let asked = self.request.meta.asked();
        let now = self.connection.context.runtime.now();
        self.stream.response.clear();
        let Stream { response, received_response, .. } = &mut *self.stream;
        let arrived = upstream.poll_response(response, received_response, asked, &self.response_limits);
        let meta = match arrived {
            Poll::Ready(Ok(meta)) => meta,
            Poll::Ready(Err(StreamError::Head(error))) => {
                let stats = self.upstream.cluster().stats();
                stats.inc(ClusterStat::Http2RxMessagingError);
                if error.status() == 431 {
                    stats.inc(ClusterStat::Http2HeaderOverflow);
                }
                return Poll::Ready(Err(self.refused(error)));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.stream_broke(error, false))),
            Poll::Pending => return Poll::Pending,
        };
        self.request.deadlines.last_activity = now;
        self.response_begun = true;
        let bytes = self.stream.response.text_bytes() as u64;
        self.stream.info.upstream_bytes.header_received += bytes;
        self.stream.info.upstream_bytes.wire_received += bytes;
        if meta.kind == ResponseKind::Tunnel && asked.upgrade {
            // RFC 8441 section 5: what HTTP/1.1 says with 101.
            self.stream.response.set_status(101);
            let protocol = self.stream.request.get(&headers::UPGRADE).unwrap_or_default();
            self.stream.response.set(&headers::UPGRADE, protocol);
            if self.connection.shared().is_none() {
                websocket::give_accept(&self.stream.request, &mut self.stream.response);
            }
        }
        self.take_head(meta, now)
    }

    /// What a stream that broke means.
    fn stream_broke(&self, error: StreamError, begun: bool) -> ProxyError {
        match error {
            StreamError::Reset(_) => ProxyError::UpstreamReset { refused: false, begun },
            StreamError::Refused | StreamError::GoneAway => {
                ProxyError::UpstreamReset { refused: true, begun }
            }
            StreamError::Closed if begun => ProxyError::UpstreamTruncated,
            StreamError::Closed => ProxyError::UpstreamClosed { reset: false },
            StreamError::Protocol | StreamError::Head(_) if begun => ProxyError::UpstreamTruncated,
            StreamError::Protocol | StreamError::Head(_) => ProxyError::ResponseHeadTruncated,
        }
    }

    /// Acts on a head: sends it on, or makes a tunnel.
    fn take_head(&mut self, meta: ResponseMeta, now: Now) -> Poll<Result<Option<Ended>, ProxyError>> {
        // As in Envoy what has begun to be answered goes on until the route's timeout.
        self.stream.per_try_timeout = None;
        if meta.kind != ResponseKind::Interim {
            self.stream.info.upstream_timing.first_rx_ns = Some(now.0);
            // Likewise: who is answered may take the time it likes for the rest of the request.
            self.request.deadlines.request_due = None;
            let Stream { response, load_reported, .. } = &mut *self.stream;
            load_metrics::take(self.connection, self.upstream, response, load_reported);
        }
        match meta.kind {
            ResponseKind::Interim => {
                let bytes = u32::try_from(self.stream.response.text_bytes()).unwrap_or(u32::MAX);
                match self.interim_bytes_left.checked_sub(bytes.max(INTERIM_BYTES_MIN)) {
                    Some(left) => self.interim_bytes_left = left,
                    None => return Poll::Ready(Err(self.refused(HeadError::TooLarge))),
                }
                // Each is a response to statistics, as in Envoy.
                let status = self.stream.response.status();
                self.upstream.cluster().stats().upstream_response(self.forward.origin, status);
                let Connection { chain, channel: downstream, .. } = self.connection;
                let passes =
                    self.request.client_is_11 && (status != 100 || chain.manager.config.proxy_100_continue);
                // To HTTP/2 they go without regard to windows: of those for a client that takes nothing the codec keeps the first,
                // and what came in one turn.
                let stalled = downstream.stream().is_some_and(Http2Stream::is_stalled);
                if passes && !(self.interim_sent && stalled) {
                    response::send_interim(self.connection, self.stream, self.forward, &meta)?;
                    chain.stats.downstream_response(status);
                    self.interim_sent = true;
                }
                self.stream.response.clear();
                self.state = Download::Head(HeadReader::response());
                Poll::Ready(Ok(None))
            }
            ResponseKind::Tunnel => {
                // Of a body that the endpoint has not waited for some may lie in a pipe: it goes before what the tunnel takes.
                let endpoint = splice::socket(self.upstream.channel());
                if !self.stream.request_splicer.release(&self.connection.context.runtime, endpoint) {
                    return Poll::Ready(Err(ProxyError::UpstreamClosed { reset: false }));
                }
                response::send_tunnel(self.connection, self.stream, self.forward, &meta)?;
                Poll::Ready(Ok(Some(Ended::Tunnel)))
            }
            // To a client of HTTP/2 any success is its tunnel (RFC 8441 section 5): that there is none is to be said otherwise.
            ResponseKind::Final
                if self.request.meta.upgrade
                    && self.connection.shared().is_some()
                    && (200..300).contains(&self.stream.response.status()) =>
            {
                Poll::Ready(Err(ProxyError::ResponseHead(HeadError::UnexpectedSwitch)))
            }
            ResponseKind::Final => {
                if !meta.keep_alive {
                    self.upstream.cluster().stats().inc(ClusterStat::UpstreamCxCloseNotify);
                }
                let client = client(self.connection, self.request, self.upstream);
                let sent = response::send_final(self.connection, self.stream, self.forward, &meta, client)?;
                let framing = sent.map_or(Framing::Plain, |sent| sent.framing);
                // A stream's end is the body's, whatever length was announced.
                let read_as = match meta.body {
                    BodyLength::Length(1..) if self.upstream.lease().is_some() => BodyLength::UntilClose,
                    body => body,
                };
                let copy = BodyCopy::new(read_as, self.response_limits, framing);
                self.state = Download::Body { copy, meta, sent };
                Poll::Ready(Ok(None))
            }
        }
    }

    fn poll_body(&mut self) -> Poll<Result<Ended, ProxyError>> {
        let Download::Body { copy, meta, sent: prepared } = &mut self.state else { return Poll::Pending };
        let Connection { context, channel: downstream, .. } = self.connection;
        let limit = self.connection.watermark();
        let (moved, sent) = (copy.wire_bytes, copy.sent_bytes);
        let (pauses, resumes) = (copy.pauses, copy.resumes);
        let outcome = if self.stream.filters.want_data(Direction::Encode) {
            let mut trailers = std::mem::take(&mut self.stream.trailers);
            let mut filters = filters::Download {
                connection: self.connection,
                stream: &mut *self.stream,
                forward: self.forward,
                request: self.request,
                meta,
                sent: prepared,
                upstream: self.upstream,
            };
            let from = self.upstream.channel();
            let outcome = copy.poll(
                &context.runtime,
                from,
                downstream,
                limit,
                &mut trailers,
                Way::Filters(&mut filters),
            );
            self.stream.trailers = trailers;
            outcome
        } else {
            let from = self.upstream.channel();
            let Stream { trailers, response_splicer, .. } = &mut *self.stream;
            copy.poll(&context.runtime, from, downstream, limit, trailers, Way::Clear(response_splicer))
        };
        let now = context.runtime.now();
        if copy.wire_bytes != moved {
            self.request.deadlines.last_activity = now;
            let timing = &mut self.stream.info.upstream_timing;
            timing.first_rx_body_ns = timing.first_rx_body_ns.or(Some(now.0));
            self.stream.info.upstream_bytes.wire_received += copy.wire_bytes - moved;
        }
        if copy.pauses != pauses {
            self.upstream
                .cluster()
                .stats()
                .add(ClusterStat::UpstreamFlowControlPausedReadingTotal, copy.pauses - pauses);
        }
        if copy.resumes != resumes {
            let resumed = copy.resumes - resumes;
            self.upstream.cluster().stats().add(ClusterStat::UpstreamFlowControlResumedReadingTotal, resumed);
        }
        self.stream.info.bytes_sent = copy.bytes;
        self.stream.info.downstream_bytes.wire_sent += copy.sent_bytes - sent;
        match outcome {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                downstream.flush();
                self.stream.info.upstream_timing.last_rx_ns = Some(now.0);
                self.stream.info.downstream_timing.last_tx_ns = Some(now.0);
                if !self.upstream.takes_trailers() {
                    // Not asked for, so not there: not for the access log either.
                    self.stream.trailers.clear();
                }
                let Stream { trailers, load_reported, .. } = &mut *self.stream;
                load_metrics::take(self.connection, self.upstream, trailers, load_reported);
                let reuse_upstream = meta.keep_alive && self.request.body.is_done() && !self.upload_broken;
                let close_client = prepared.is_none_or(|prepared| prepared.close_client);
                Poll::Ready(Ok(Ended::Complete { reuse_upstream, close_client }))
            }
            Poll::Ready(Err(error)) => {
                if matches!(error, CopyError::Body(_)) {
                    self.upstream.cluster().stats().inc(ClusterStat::UpstreamCxProtocolError);
                }
                if error == CopyError::SourceGone
                    && let Some(broken) = self.upstream.channel().stream().and_then(|stream| stream.broken())
                {
                    return Poll::Ready(Err(self.stream_broke(broken, true)));
                }
                if error == CopyError::SinkGone {
                    return Poll::Ready(Err(self.connection.gone()));
                }
                if matches!(error, CopyError::Filter(_)) && prepared.is_none() {
                    // The client has seen nothing: it gets the filter's answer.
                    self.stream.info.response_code = None;
                }
                Poll::Ready(Err(error.into()))
            }
        }
    }

    /// The endpoint ended the connection while its response head was awaited.
    fn closed(&self, reset: bool) -> ProxyError {
        // Within the head it is a broken response; before its first byte, or after an interim one, a broken connection.
        if matches!(&self.state, Download::Head(reader) if !reader.is_idle()) {
            ProxyError::ResponseHeadTruncated
        } else {
            ProxyError::UpstreamClosed { reset }
        }
    }

    fn refused(&self, error: HeadError) -> ProxyError {
        self.upstream.cluster().stats().inc(ClusterStat::UpstreamCxProtocolError);
        ProxyError::ResponseHead(error)
    }
}
