//! A connection of HTTP/2, either side: what its one task polls, so that frames move for all of its streams.
//!
//! The codec stores wakers, so each connection has one of its task. Limits of the codec are set on purpose, see
//! [`Settings`]. A flood that the guard sees ends the connection at once.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use h2::{Ping, PingPong, Reason, client, server};
use http::request;

use super::guard::{Flood, Limits, Seen};
use super::head;
use super::io::{Io, Watch};
use super::outgoing::{Outgoing, Piece};
use super::received::Received;
use super::requests::Requests;
use super::stream::{Stream, StreamError};
use crate::config::http2::Http2ProtocolOptions;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::Head;
use crate::protocol::http1::framing::RequestMeta;
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::transport::Transport;
use crate::runtime::Runtime;

/// Streams that the peer reset and nobody has looked at yet, beyond which the connection ends. More than a turn brings, behind
/// which they are taken up: a head counts as sixteen of its 512 frames. How many may be reset is for `resets` to say.
const RESETS_PENDING_MAX: usize = 32;
/// Resets that this side sent because the peer broke the protocol on a stream, beyond which the connection ends
/// (CVE-2025-8671, "MadeYouReset"). Reason: each costs a request's work and frees the peer's place under the limit.
const LOCAL_ERROR_RESETS_MAX: usize = 100;
/// Streams that we have reset and that are remembered, for a second each, so that frames which were on their way are no
/// error: as many as a connection usually has at once.
const RESETS_REMEMBERED: usize = 1024;
/// Bytes of one stream that the codec holds for sending: a full frame. More waits in the stream, under its watermark.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// Streams towards an endpoint before its SETTINGS say how many it takes: what is beyond the unknown limit would be refused.
const STREAMS_BEFORE_SETTINGS: usize = 1;

/// How a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams that the peer may have open at a time.
    pub max_concurrent_streams: u32,
    /// Bytes that the peer may send on a stream ahead of their taking.
    pub stream_window_bytes: u32,
    /// The same for all streams together.
    pub connection_window_bytes: u32,
    /// Bytes of the table of header compression, each way.
    pub hpack_table_bytes: u32,
    /// Whether extended CONNECT is offered (RFC 8441).
    pub allow_connect: bool,
    /// Bytes of a head, as RFC 9113 section 10.5.1 counts them: 32 more per header than its text.
    pub header_list_bytes_max: u32,
    /// Bytes of a name or a value in a head.
    pub field_bytes_max: u32,
    /// Whether pings may be sent. Where they may the codec looks for one, and for its answer, each time that it is polled.
    pub pings: bool,
    /// What the guard allows.
    pub limits: Limits,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(options: &Http2ProtocolOptions, headers_kb_max: u32, headers_max: u32) -> Self {
        // The codec counts 32 bytes more per header than a configured limit speaks of; the limit itself is `head`'s.
        let header_list_bytes_max =
            headers_kb_max.saturating_mul(1024).saturating_add(headers_max.saturating_mul(36));
        Self {
            max_concurrent_streams: options.max_concurrent_streams,
            stream_window_bytes: options.initial_stream_window_size,
            connection_window_bytes: options.initial_connection_window_size,
            hpack_table_bytes: options.hpack_table_size,
            allow_connect: options.allow_connect,
            header_list_bytes_max,
            field_bytes_max: options.max_header_field_size_kb.saturating_mul(1024),
            pings: options.connection_keepalive.is_some(),
            limits: Limits {
                empty_in_a_row_max: options.max_consecutive_inbound_frames_with_empty_payload,
                priority_per_stream_max: options.max_inbound_priority_frames_per_stream,
                window_updates_per_data_max: options.max_inbound_window_update_frames_per_data_frame_sent,
                control_per_second_max: options.max_outbound_control_frames,
            },
        }
    }
}

/// What a server hears of its connection.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "returned once per request and taken apart at once")]
pub enum ServerEvent {
    /// A request began.
    Request(Incoming, Box<Stream>),
    /// The connection is over; `None`: in order.
    Closed(Option<StreamError>),
}

/// The head of a request that has begun.
#[derive(Debug)]
pub struct Incoming {
    parts: request::Parts,
    ended: bool,
    /// Bytes of a name or a value.
    field_bytes_max: u32,
}

impl Incoming {
    /// Whether nothing follows the head.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Puts its head into `head`, and keeps in `received` as what it came.
    ///
    /// # Errors
    /// It is refused.
    pub fn take_head(
        &mut self,
        limits: &HeadLimits,
        head: &mut Head,
        received: &mut Received,
    ) -> Result<RequestMeta, HeadError> {
        head::check_lengths(&self.parts.headers, limits, self.field_bytes_max)?;
        let meta = head::take_request(&self.parts, self.ended, limits, head)?;
        let (fields, uri) = (&mut self.parts.headers, &mut self.parts.uri);
        *received = Received::new(std::mem::take(fields), std::mem::take(uri));
        Ok(meta)
    }
}

/// The server's side of a connection.
pub struct ServerConnection<'a> {
    runtime: Runtime,
    waker: Waker,
    watch: Watch,
    pings: Option<PingPong>,
    outgoing: Outgoing,
    field_bytes_max: u32,
    inner: server::Connection<Io<&'a Transport>, Piece>,
}

/// Least room for short frames, in bytes: a turn reads 512 frames, which fall short of 128 KiB at most.
const DATA_FRAME_BUDGET_MIN: usize = 256 * 1024;

/// What the frames of received data may fall short of 256 bytes together, until they are taken, before the codec ends the
/// connection (ENHANCE_YOUR_CALM): each costs it hundreds of bytes, however short. Streams take theirs over whenever their tasks
/// run, be there anybody who reads or not ([`Stream::gather`]), so that what counts is little more than what one turn reads.
fn data_frame_budget(settings: &Settings) -> usize {
    (settings.connection_window_bytes as usize).max(DATA_FRAME_BUDGET_MIN)
}

impl<'a> ServerConnection<'a> {
    /// Exchanges prefaces. Called in the connection's own task.
    ///
    /// # Errors
    /// The peer's preface is none, or the connection broke.
    pub async fn open(
        runtime: &Runtime,
        transport: &'a Transport,
        settings: &Settings,
    ) -> Result<Self, StreamError> {
        let waker = runtime.waker(runtime.current_task());
        let io = Io::new(runtime, transport, settings.limits, true);
        let watch = io.watch();
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(settings.max_concurrent_streams)
            .initial_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            .header_table_size(settings.hpack_table_bytes)
            .max_header_list_size(settings.header_list_bytes_max)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
            .data_frame_budget(data_frame_budget(settings))
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        if settings.allow_connect {
            builder.enable_connect_protocol();
        }
        let mut handshake = pin!(builder.handshake::<_, Piece>(io));
        let opened = poll_fn(|_| {
            let opened = handshake.as_mut().poll(&mut Context::from_waker(&waker));
            if opened.is_pending() {
                watch.rest();
            }
            opened
        })
        .await;
        let mut inner = opened.map_err(|error| StreamError::of(&error))?;
        Ok(Self {
            runtime: runtime.clone(),
            pings: settings.pings.then(|| inner.ping_pong()).flatten(),
            waker,
            watch,
            outgoing: Outgoing::default(),
            field_bytes_max: settings.field_bytes_max,
            inner,
        })
    }

    /// The next thing that happens. While this is polled, frames move.
    pub fn poll(&mut self) -> Poll<ServerEvent> {
        let context = &mut Context::from_waker(&self.waker);
        self.watch.give_up(self.outgoing.take_given_up());
        let accepted = self.inner.poll_accept(context);
        self.outgoing.set_stalled(self.watch.is_paused());
        self.outgoing.give_turns(&self.runtime);
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (parts, body) = request.into_parts();
                let ended = body.is_end_stream();
                let field_bytes_max = self.field_bytes_max;
                let stream = Stream::server(&self.runtime, &self.outgoing, respond, body, field_bytes_max);
                Poll::Ready(ServerEvent::Request(Incoming { parts, ended, field_bytes_max }, stream))
            }
            Poll::Ready(Some(Err(error))) => {
                log::debug!("connection of a client broke: {}", head::describe(&error));
                Poll::Ready(ServerEvent::Closed(Some(StreamError::of(&error))))
            }
            Poll::Ready(None) => Poll::Ready(ServerEvent::Closed(None)),
            Poll::Pending => {
                self.watch.rest();
                Poll::Pending
            }
        }
    }

    /// Tells the peer to begin no more requests; those that are on their way are still taken (RFC 9113 section 6.8).
    pub fn drain(&mut self) {
        self.inner.graceful_shutdown();
    }

    /// Tells the peer that the connection ends now, for its own doing if `calm`.
    pub fn end(&mut self, calm: bool) {
        self.inner.abrupt_shutdown(if calm { Reason::ENHANCE_YOUR_CALM } else { Reason::NO_ERROR });
    }

    /// Whether a ping was sent; not while one is under way, or where there are none ([`Settings::pings`]).
    pub fn ping(&mut self) -> bool {
        self.pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok())
    }

    /// Ready when the ping was answered.
    pub fn poll_pong(&mut self) -> Poll<()> {
        poll_pong(self.pings.as_mut(), &self.waker)
    }

    /// Whether something waits for the peer, of streams that have ended, too.
    pub fn has_unsent(&self) -> bool {
        self.outgoing.bytes() > 0 || self.watch.is_paused()
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.watch.seen()
    }

    /// The flood that ended the connection.
    pub fn flood(&self) -> Option<Flood> {
        self.watch.flood()
    }
}

/// The client's side of a connection: its task polls it until it is over.
pub struct ClientConnection {
    waker: Waker,
    watch: Watch,
    pings: Option<PingPong>,
    runtime: Runtime,
    outgoing: Outgoing,
    inner: client::Connection<Io<Transport>, Piece>,
}

impl ClientConnection {
    /// Sends our preface; the peer's is awaited by [`ClientConnection::poll`]. Called in the connection's own task.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn open(
        runtime: &Runtime,
        transport: Transport,
        settings: &Settings,
    ) -> Result<(Requests, Self), StreamError> {
        let waker = runtime.waker(runtime.current_task());
        let io = Io::new(runtime, transport, settings.limits, false);
        let watch = io.watch();
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            .header_table_size(settings.hpack_table_bytes)
            .max_header_list_size(settings.header_list_bytes_max)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            // Clients that go away have their streams reset here, all at once: what the endpoint still sends on them is no
            // mistake of its, and must not cost the others their connection.
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .max_local_error_reset_streams(None)
            .data_frame_budget(data_frame_budget(settings))
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        let mut handshake = pin!(builder.handshake::<_, Piece>(io));
        let opened = poll_fn(|_| handshake.as_mut().poll(&mut Context::from_waker(&waker))).await;
        let (requests, mut inner) = opened.map_err(|error| StreamError::of(&error))?;
        let (runtime, outgoing) = (runtime.clone(), Outgoing::default());
        let requests = Requests::new(&runtime, &outgoing, requests, settings.field_bytes_max);
        let pings = settings.pings.then(|| inner.ping_pong()).flatten();
        Ok((requests, Self { waker, watch, pings, runtime, outgoing, inner }))
    }

    /// Ready when the connection is over; `None`: in order. While this is polled, frames move.
    pub fn poll(&mut self) -> Poll<Option<StreamError>> {
        self.watch.give_up(self.outgoing.take_given_up());
        let polled = Pin::new(&mut self.inner).poll(&mut Context::from_waker(&self.waker));
        self.watch.rest();
        self.outgoing.give_turns(&self.runtime);
        polled.map(|ended| {
            let error = ended.err()?;
            log::debug!("connection to an endpoint broke: {}", head::describe(&error));
            Some(StreamError::of(&error))
        })
    }

    /// Whether a ping was sent; not while one is under way, or where there are none ([`Settings::pings`]).
    pub fn ping(&mut self) -> bool {
        self.pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok())
    }

    /// Ready when the ping was answered.
    pub fn poll_pong(&mut self) -> Poll<()> {
        poll_pong(self.pings.as_mut(), &self.waker)
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.watch.seen()
    }

    /// Whether it has ended or broken, be it that [`ClientConnection::poll`] says so in the next turn.
    pub fn is_over(&self) -> bool {
        self.watch.is_over()
    }

    /// [`Transport::has_broken_tls`], of what bears it.
    pub fn has_broken_tls(&self) -> bool {
        self.watch.has_broken_tls()
    }

    /// The flood that ended the connection.
    pub fn flood(&self) -> Option<Flood> {
        self.watch.flood()
    }
}

fn poll_pong(pings: Option<&mut PingPong>, waker: &Waker) -> Poll<()> {
    pings.map_or(Poll::Pending, |pings| pings.poll_pong(&mut Context::from_waker(waker)).map(drop))
}

impl std::fmt::Debug for ServerConnection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConnection").field("seen", &self.seen()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConnection").field("seen", &self.seen()).finish_non_exhaustive()
    }
}
