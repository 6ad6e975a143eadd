//! One stream of an HTTP/2 connection as the path sees it: a head each way, and bytes under the contract of a
//! [`Transport`](crate::protocol::transport::Transport).
//!
//! Sending is queueing here, too: what the peer's windows and the codec's buffer have no room for waits in the stream, and
//! `poll_sent` tells when. Receiving gives the peer window back as bytes are taken, so a slow taker stops the peer. The
//! stream belongs to one task. Dropping it before both directions have ended resets it.

mod pieces;
mod receiving;
mod waiting;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Uri};

use self::pieces::Pieces;
use super::head::{self, Unsendable};
use super::outgoing::{Outgoing, Piece};
use super::received::Received;
use super::requests::RequestSender;
use crate::buffer::{Chunk, ChunkQueue};
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::Head;
use crate::protocol::http1::framing::{Asked, ResponseMeta};
use crate::protocol::http1::head_reader::HeadLimits;
use crate::runtime::{Runtime, TaskId};
pub use receiving::Passed;
use waiting::{SHARED_BYTES_MIN, Waiting};

/// Why a stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The peer reset it.
    Reset(u32),
    /// The peer has not looked at it (REFUSED_STREAM).
    Refused,
    /// The peer takes no more requests on the connection (GOAWAY) and has not looked at this one.
    GoneAway,
    /// The peer broke the protocol.
    Protocol,
    /// A head that is refused here.
    Head(HeadError),
    /// The connection ended.
    Closed,
}

/// A stream. See the file's head.
pub struct Stream {
    runtime: Runtime,
    waker: RefCell<(TaskId, Waker)>,
    state: RefCell<State>,
    /// Bytes that the codec has not taken.
    queued: Cell<usize>,
    /// Those of the connection.
    outgoing: Outgoing,
    /// Its place among the streams that wait for the codec.
    ticket: Cell<u64>,
    /// Bounds of what the peer sends in heads.
    limits: Cell<HeadLimits>,
    /// Bytes of a name or a value of them.
    field_bytes_max: u32,
    /// Little is taken at a time: one of many streams whose bytes wait.
    sparing: Cell<bool>,
    /// In which run of its task the codec was last asked whether the peer has reset it, and it had not.
    watched: Cell<u64>,
}

struct State {
    sender: Sender,
    receiver: Option<RecvStream>,
    response: Option<ResponseFuture>,
    /// Given back by the taker.
    unread: ChunkQueue,
    /// Received, and in no chunk yet: for want of memory, or of a taker. The peer's window does not know of it yet.
    rest: Bytes,
    /// Taken over from the codec before anybody reads it, behind the rest; the peer's window does not know of it yet.
    ahead: Pieces,
    /// All of it has come, and its trailers.
    whole: bool,
    /// Queued, and not with the codec yet.
    waiting: Waiting,
    /// Our direction ends behind what is queued.
    ending: bool,
    trailers_to_send: Option<HeaderMap>,
    ended: bool,
    received_trailers: Option<HeaderMap>,
    broken: Option<StreamError>,
}

/// What can be sent on.
enum Sender {
    /// A server's, before its response.
    Respond(SendResponse<Piece>),
    /// A client's, before its request.
    Request(RequestSender),
    Open(SendStream<Piece>),
    /// Nothing follows.
    Done,
}

impl StreamError {
    pub(super) fn of(error: &h2::Error) -> Self {
        if error.is_io() {
            return Self::Closed;
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Refused,
            // The codec fails those streams with it that lie behind the last the peer names.
            Some(_) if error.is_remote() && error.is_go_away() => Self::GoneAway,
            Some(reason) if error.is_remote() => Self::Reset(reason.into()),
            Some(Reason::NO_ERROR) | None => Self::Closed,
            Some(_) => Self::Protocol,
        }
    }

    /// Whether the peer has reset the stream, whatever it calls that.
    pub fn is_reset(self) -> bool {
        matches!(self, Self::Reset(_) | Self::Refused)
    }
}

impl From<StreamError> for io::Error {
    fn from(_: StreamError) -> Self {
        io::ErrorKind::ConnectionReset.into()
    }
}

impl Stream {
    /// Where it is to stay: it is too large to be handed on.
    fn new(
        runtime: &Runtime,
        outgoing: &Outgoing,
        sender: Sender,
        receiver: Option<RecvStream>,
        field_bytes_max: u32,
    ) -> Box<Self> {
        Box::new(Self {
            waker: RefCell::new((TaskId::NONE, Waker::noop().clone())),
            runtime: runtime.clone(),
            state: RefCell::new(State {
                sender,
                receiver,
                response: None,
                unread: ChunkQueue::default(),
                rest: Bytes::new(),
                ahead: Pieces::default(),
                whole: false,
                waiting: Waiting::default(),
                ending: false,
                trailers_to_send: None,
                ended: false,
                received_trailers: None,
                broken: None,
            }),
            queued: Cell::new(0),
            outgoing: outgoing.clone(),
            ticket: Cell::new(0),
            limits: Cell::default(),
            field_bytes_max,
            sparing: Cell::new(false),
            watched: Cell::new(u64::MAX),
        })
    }

    /// The server's end.
    pub(super) fn server(
        runtime: &Runtime,
        outgoing: &Outgoing,
        respond: SendResponse<Piece>,
        body: RecvStream,
        field_bytes_max: u32,
    ) -> Box<Self> {
        let whole = body.is_end_stream();
        let mut stream = Self::new(runtime, outgoing, Sender::Respond(respond), Some(body), field_bytes_max);
        stream.state.get_mut().whole = whole;
        stream
    }

    /// A client's end, whose request is yet to be sent.
    pub(super) fn client(
        runtime: &Runtime,
        outgoing: &Outgoing,
        request: RequestSender,
        field_bytes_max: u32,
    ) -> Box<Self> {
        Self::new(runtime, outgoing, Sender::Request(request), None, field_bytes_max)
    }

    /// Runs `work` with a context that wakes the current task.
    fn with<T>(&self, work: impl FnOnce(&mut State, &mut Context<'_>) -> T) -> T {
        let task = self.runtime.current_task();
        let mut waker = self.waker.borrow_mut();
        if waker.0 != task {
            *waker = (task, self.runtime.waker(task));
        }
        work(&mut self.state.borrow_mut(), &mut Context::from_waker(&waker.1))
    }

    /// Bounds the trailers that the peer sends.
    pub fn set_limits(&self, limits: &HeadLimits) {
        self.limits.set(*limits);
    }

    /// Why it broke, as far as is known.
    pub fn broken(&self) -> Option<StreamError> {
        self.state.borrow().broken
    }

    /// Whether the peer has said that it takes extended CONNECT (RFC 8441 section 3). Asked before the request is sent.
    pub fn may_extend_connect(&self) -> bool {
        match &self.state.borrow().sender {
            Sender::Request(request) => request.may_extend_connect(),
            Sender::Respond(_) | Sender::Open(_) | Sender::Done => false,
        }
    }

    // === heads ===

    /// Sends the response's head, as which it was received; `ends`: nothing follows.
    ///
    /// # Errors
    /// The head is not fit to be sent; a stream that broke takes it and drops it.
    pub fn send_response(
        &self,
        response: &Head,
        received: Received,
        body: BodyLength,
        ends: bool,
    ) -> Result<(), Unsendable> {
        let response = head::response(response, body, received)?;
        let state = &mut *self.state.borrow_mut();
        let Sender::Respond(respond) = &mut state.sender else { return Ok(()) };
        match respond.send_response(response, ends) {
            Ok(send) => {
                state.ended |= ends;
                state.sender = if ends { Sender::Done } else { Sender::Open(send) };
            }
            Err(error) => state.fail(&error),
        }
        Ok(())
    }

    /// Sends an interim response (1xx).
    ///
    /// # Errors
    /// The head is not fit to be sent.
    pub fn send_interim(&self, response: &Head) -> Result<(), Unsendable> {
        let response = head::response(response, BodyLength::None, Received::default())?;
        let state = &mut *self.state.borrow_mut();
        if let Sender::Respond(respond) = &mut state.sender
            && let Err(error) = respond.send_informational(response)
        {
            state.fail(&error);
        }
        Ok(())
    }

    /// Sends the request's head, as which it was received; `ends`: nothing follows.
    ///
    /// # Errors
    /// The head is not fit to be sent, or the connection takes no request any more.
    pub fn send_request(
        &self,
        request: &Head,
        received: Received,
        body: BodyLength,
        ends: bool,
    ) -> Result<(), SendRequestError> {
        let request =
            head::request(request, body, received).map_err(|Unsendable| SendRequestError::Unsendable)?;
        let state = &mut *self.state.borrow_mut();
        let Sender::Request(sender) = &state.sender else { return Ok(()) };
        match sender.send(request, ends) {
            Ok((response, send)) => {
                state.response = Some(response);
                state.ended |= ends;
                state.sender = if ends { Sender::Done } else { Sender::Open(send) };
                Ok(())
            }
            Err(error) => {
                log::debug!("request not sent: {}", head::describe(&error));
                // Nothing of it is on the wire.
                state.broken = Some(StreamError::GoneAway);
                Err(SendRequestError::Broken(StreamError::GoneAway))
            }
        }
    }

    /// Receives the next head of the response into `head`: interim ones, then the final one, of which `received` keeps as what
    /// it came.
    pub fn poll_response(
        &self,
        head: &mut Head,
        received: &mut Received,
        asked: Asked,
        limits: &HeadLimits,
    ) -> Poll<Result<ResponseMeta, StreamError>> {
        self.limits.set(*limits);
        self.with(|state, context| {
            if let Some(broken) = state.broken.filter(|_| state.response.is_none()) {
                return Poll::Ready(Err(broken));
            }
            let Some(response) = &mut state.response else { return Poll::Pending };
            let arrived = match response.poll_informational(context) {
                Poll::Ready(Some(interim)) => interim.map(|interim| (interim.into_parts().0, None)),
                Poll::Ready(None) => match Pin::new(response).poll(context) {
                    Poll::Ready(received) => received.map(|response| {
                        let (parts, body) = response.into_parts();
                        (parts, Some(body))
                    }),
                    Poll::Pending => return Poll::Pending,
                },
                // Nothing has come, whichever it is, and the task is told of either.
                Poll::Pending => return Poll::Pending,
            };
            let (parts, body) = match arrived {
                Ok(arrived) => arrived,
                Err(error) => {
                    state.response = None;
                    state.fail(&error);
                    return Poll::Ready(Err(StreamError::of(&error)));
                }
            };
            let ended = body.as_ref().is_some_and(RecvStream::is_end_stream);
            let is_final = body.is_some();
            if is_final {
                (state.receiver, state.response, state.whole) = (body, None, ended);
            }
            head::check_lengths(&parts.headers, limits, self.field_bytes_max).map_err(StreamError::Head)?;
            let meta = head::take_response(&parts, asked, ended, limits, head).map_err(StreamError::Head)?;
            if is_final {
                *received = Received::new(parts.headers, Uri::default());
            }
            Poll::Ready(Ok(meta))
        })
    }

    // === bytes ===

    /// Ready once the peer has reset the stream or the connection ended. Pending wakes the current task later.
    pub fn poll_peer_closed(&self) -> Poll<()> {
        let run = self.runtime.run_number();
        if self.watched.get() == run && self.state.borrow().broken.is_none() {
            // Nothing has come since. The codec has its waker; if that was used, by what the task itself has done, it runs again.
            return Poll::Pending;
        }
        self.with(|state, context| {
            if state.broken.is_some() {
                return Poll::Ready(());
            }
            let reset = match &mut state.sender {
                Sender::Respond(respond) => respond.poll_reset(context),
                Sender::Open(send) => send.poll_reset(context),
                Sender::Request(_) | Sender::Done => return Poll::Pending,
            };
            match reset {
                Poll::Pending => {
                    self.watched.set(run);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(reason)) => state.broken = Some(StreamError::Reset(reason.into())),
                Poll::Ready(Err(error)) => state.fail(&error),
            }
            Poll::Ready(())
        })
    }

    /// Queues bytes to be sent.
    pub fn send(&self, chunk: Chunk) {
        // A few bytes are cheaper to copy than to hold a whole chunk for.
        if chunk.len() < SHARED_BYTES_MIN {
            return self.send_copy(&chunk);
        }
        self.queue(chunk.len(), |waiting| waiting.push(chunk.into_bytes()));
    }

    /// Queues a copy of a few bytes.
    pub fn send_copy(&self, bytes: &[u8]) {
        self.queue(bytes.len(), |waiting| waiting.gather(bytes));
    }

    fn queue(&self, bytes: usize, put: impl FnOnce(&mut Waiting)) {
        let mut state = self.state.borrow_mut();
        if state.broken.is_none() && bytes > 0 {
            self.queued.set(self.queued.get() + bytes);
            self.outgoing.add(bytes);
            put(&mut state.waiting);
        }
    }

    /// Hands the codec what it has room for.
    pub fn flush(&self) {
        // Most often nothing waits.
        if self.queued.get() == 0 && !self.state.borrow().is_ending() {
            return;
        }
        self.with(|state, context| {
            self.pump(state, context);
        });
    }

    /// Bytes that the codec has not taken.
    pub fn queued(&self) -> usize {
        self.queued.get()
    }

    /// Whether the peer of the connection took nothing when that was looked at last.
    pub fn is_stalled(&self) -> bool {
        self.outgoing.is_stalled()
    }

    /// Bytes that wait for the peer on all streams of the connection.
    pub fn queued_on_connection(&self) -> usize {
        self.outgoing.bytes()
    }

    /// Ready when at most `left` bytes wait, and with 0 once an end that was asked for is with the codec, too. Pending wakes
    /// the current task later.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_sent(&self, left: usize) -> Poll<io::Result<()>> {
        self.with(|state, context| {
            self.pump(state, context);
            if let Some(broken) = state.broken {
                return Poll::Ready(Err(broken.into()));
            }
            let through = self.queued.get() <= left && (left > 0 || !state.is_ending());
            if through { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
    }

    /// Ready when nothing waits and the codec has written what was queued, of which a reset would take back the rest: all that it
    /// holds, since of which stream it has written is not known. Pending wakes the current task later.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_written(&self) -> Poll<io::Result<()>> {
        let sent = self.poll_sent(0);
        let is_through = matches!(sent, Poll::Ready(Ok(())));
        if is_through && !self.outgoing.is_written(self.runtime.current_task(), &self.ticket) {
            return Poll::Pending;
        }
        sent
    }

    /// Moves what the peer's windows and the codec have room for.
    fn pump(&self, state: &mut State, context: &mut Context<'_>) {
        let (queued, outgoing) = (&self.queued, &self.outgoing);
        if state.broken.is_some() {
            state.waiting = Waiting::default();
            outgoing.forget(queued.replace(0));
            return outgoing.leave(&self.ticket);
        }
        let is_ending = state.is_ending();
        let Sender::Open(send) = &mut state.sender else { return };
        while state.waiting.has_first() {
            if !outgoing.has_room(self.runtime.current_task(), &self.ticket) {
                // Its turn may be long in coming, or never come, and the peer not want it any more.
                return match send.poll_reset(context) {
                    Poll::Ready(Ok(reason)) => state.broken = Some(StreamError::Reset(reason.into())),
                    Poll::Ready(Err(error)) => state.fail(&error),
                    Poll::Pending => {}
                };
            }
            send.reserve_capacity(queued.get());
            let mut room = send.capacity();
            if room == 0 {
                room = match send.poll_capacity(context) {
                    Poll::Ready(Some(Ok(0))) => continue,
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(Some(Err(error))) => return state.fail(&error),
                    // It is over, by the peer's doing perhaps, whose reason is known.
                    Poll::Ready(None) => {
                        state.broken = Some(match send.poll_reset(context) {
                            Poll::Ready(Ok(reason)) => StreamError::Reset(reason.into()),
                            Poll::Ready(Err(_)) | Poll::Pending => StreamError::Closed,
                        });
                        return;
                    }
                    Poll::Pending => return,
                };
            }
            let piece = state.waiting.take(room);
            queued.set(queued.get() - piece.len());
            let ends = state.ending && state.waiting.is_empty() && state.trailers_to_send.is_none();
            if let Err(error) = send.send_data(outgoing.piece(piece), ends) {
                return state.fail(&error);
            }
            state.ended |= ends;
        }
        if is_ending && !state.ended {
            let end = match state.trailers_to_send.take() {
                Some(trailers) => send.send_trailers(trailers),
                None => send.send_data(Piece::default(), true),
            };
            state.ended = true;
            if let Err(error) = end {
                state.fail(&error);
            }
        }
    }

    /// Ends our direction behind what is queued.
    pub fn finish(&self, trailers: Option<&Head>) {
        // Trailers that cannot be sent are no reason to break off a body that is whole.
        let map = trailers.filter(|trailers| !trailers.is_empty()).and_then(|head| head::trailers(head).ok());
        self.with(|state, context| {
            if !state.ending {
                state.ending = true;
                state.trailers_to_send = map;
            }
            self.pump(state, context);
        });
    }

    /// Breaks the stream off in both directions, unless it is over. `complete`: there is a whole response, and the rest of the
    /// request is not wanted (RFC 9113 section 8.1).
    pub fn reset(&self, complete: bool) {
        let reason = if complete { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR };
        self.reset_with(reason);
    }

    /// Breaks off the tunnel of a CONNECT whose other end has broken off (RFC 9113 section 8.5).
    pub fn break_tunnel(&self) {
        self.reset_with(Reason::CONNECT_ERROR);
    }

    /// Breaks the stream off for a message that is against the protocol.
    pub fn refuse(&self) {
        self.reset_with(Reason::PROTOCOL_ERROR);
    }

    fn reset_with(&self, reason: Reason) {
        let state = &mut *self.state.borrow_mut();
        match &mut state.sender {
            Sender::Respond(respond) => respond.send_reset(reason),
            Sender::Open(send) => send.send_reset(reason),
            Sender::Request(_) | Sender::Done => {}
        }
        state.sender = Sender::Done;
        state.broken = state.broken.or(Some(StreamError::Closed));
    }
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendRequestError {
    /// Its head cannot be written.
    Unsendable,
    /// The connection did not take it.
    Broken(StreamError),
}

impl State {
    /// Whether the codec has not been told yet that our direction ends.
    fn is_ending(&self) -> bool {
        self.ending && !self.ended
    }

    /// The stream's number, if more of it may come.
    fn coming(&self) -> Option<u32> {
        match (&self.receiver, &self.response) {
            (Some(receiver), _) if !self.whole && !receiver.is_end_stream() => {
                Some(receiver.stream_id().into())
            }
            (None, Some(response)) => Some(response.stream_id().into()),
            _ => None,
        }
    }

    fn fail(&mut self, error: &h2::Error) {
        if self.broken.is_none() {
            log::debug!("stream broke: {}", head::describe(error));
            self.broken = Some(StreamError::of(error));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.outgoing.forget(self.queued.get());
        self.outgoing.leave(&self.ticket);
        if !std::thread::panicking() {
            // The codec resets it with this.
            if let Some(stream) = self.state.get_mut().coming() {
                self.outgoing.give_up(stream);
            }
        } else if self.state.try_borrow_mut().is_ok() {
            // What a panic has left is not the peer's fault, and not a message's end.
            self.reset_with(Reason::INTERNAL_ERROR);
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("queued", &self.queued).finish_non_exhaustive()
    }
}
