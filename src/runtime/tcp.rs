//! TCP connections and listening sockets as the path above sees them.
//!
//! Sending is queueing: [`TcpStream::send`] hands a chunk over, [`TcpStream::flush`] sets it going, and a sender that
//! must not run ahead waits with [`TcpStream::poll_sent`]. Dropping a handle closes the socket; what was queued and not
//! yet taken by the kernel is lost, so end with `poll_sent` (and [`TcpStream::shutdown_write`]).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use super::endpoint::{Accepted, Endpoint, Parcel};
use super::pipe::{Pipe, Spliced};
use super::socket::{Connect, RecvEnd, Shutdown, SocketKey, gone};
use super::sys::RawAddr;
use super::task::TaskId;
use super::{Runtime, Unpacked, internal, pacing};
use crate::base::limits;
use crate::base::socket_address::{InternalAddress, SocketAddress};
use crate::buffer::{Chunk, ChunkSize};

/// Chunks of a connection that is being closed read before other tasks get their turn.
const REST_CHUNKS_PER_TURN: usize = 16;

/// A connection.
#[derive(Debug)]
pub struct TcpStream {
    runtime: Runtime,
    key: SocketKey,
}

/// A listening socket of one worker.
#[derive(Debug)]
pub struct TcpListener {
    runtime: Runtime,
    key: SocketKey,
}

/// TCP keep-alive probes (Envoy `core.v3.TcpKeepalive`); `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Probes without an answer before the connection is dropped.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// One socket option by its numbers (Envoy `core.v3.SocketOption`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption {
    /// Level (SOL_*).
    pub level: i32,
    /// Name within the level.
    pub name: i32,
    /// Value bytes, native order.
    pub value: Box<[u8]>,
}

impl RawOption {
    /// One whose value is a C `int`.
    pub fn int(level: i32, name: i32, value: i32) -> Self {
        Self { level, name, value: value.to_ne_bytes().into() }
    }
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Ip(SocketAddr),
    /// A socket of the Unix domain: a path, or behind a `@` a name of the abstract space.
    Pipe(&'a str),
    /// An internal listener of this worker.
    Internal(&'a InternalAddress),
}

impl From<SocketAddr> for Target<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl<'a> From<&'a SocketAddress> for Target<'a> {
    fn from(address: &'a SocketAddress) -> Self {
        match address {
            SocketAddress::Ip(address) => Self::Ip(*address),
            SocketAddress::Pipe(path) => Self::Pipe(path),
            SocketAddress::Internal(address) => Self::Internal(address),
        }
    }
}

impl TcpStream {
    /// Opens a connection, optionally from `source`, with options set before the connect.
    ///
    /// # Errors
    /// No descriptor or port left, an option refused, or the kernel's verdict on the connect.
    pub fn connect<'a>(
        runtime: &'a Runtime,
        to: impl Into<Target<'a>>,
        source: Option<SocketAddr>,
        options: &'a [RawOption],
    ) -> impl Future<Output = io::Result<Self>> {
        // Apart, so that the future does not hold the target twice.
        Self::connect_to(runtime, to.into(), source, options)
    }

    async fn connect_to(
        runtime: &Runtime,
        to: Target<'_>,
        source: Option<SocketAddr>,
        options: &[RawOption],
    ) -> io::Result<Self> {
        if let Target::Internal(to) = to {
            // No socket of the kernel's, and so none of its options and sources.
            let key = runtime.with_internal(|internal, scope| internal.connect(scope, to))?;
            return Ok(Self { runtime: runtime.clone(), key });
        }
        let endpoint = runtime.with_scope(|driver, _| driver.open(to))?;
        if let Target::Ip(to) = to {
            set_nodelay(&endpoint)?;
            if runtime.0.is_paced && pacing::is_local(to) {
                pacing::take_from(endpoint.raw_fd());
            }
        }
        for option in options {
            endpoint.set_option_bytes(option.level, option.name, &option.value)?;
        }
        if let Some(source) = source {
            // The port is chosen at connect time, so that one source port serves many destinations.
            endpoint.set_option(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            endpoint.bind(source)?;
        }
        let stream = Self { runtime: runtime.clone(), key: runtime.adopt(endpoint, false)? };
        stream.begin(to)?;
        poll_fn(|_| {
            stream.runtime.with_socket(stream.key, |socket, current| match socket.connect {
                Connect::Done => Poll::Ready(Ok(())),
                Connect::Failed(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
                Connect::Running => {
                    socket.send_task = current;
                    Poll::Pending
                }
            })
        })
        .await?;
        Ok(stream)
    }

    /// Apart, so that the future does not hold the address that the kernel reads.
    fn begin(&self, to: Target<'_>) -> io::Result<()> {
        let address = match to {
            Target::Ip(to) => RawAddr::new(to),
            Target::Pipe(name) => RawAddr::unix(name)?,
            Target::Internal(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        self.runtime.with_backend(|backend, scope| backend.connect(scope, self.key, address));
        Ok(())
    }

    /// Takes on a connection that this worker, or another, has accepted.
    ///
    /// # Errors
    /// The back end cannot watch it; it is closed.
    pub fn adopt(runtime: &Runtime, accepted: Accepted) -> io::Result<Self> {
        let key = match runtime.with_scope(|driver, _| driver.unpack(accepted)) {
            Unpacked::Endpoint(endpoint) => runtime.adopt(endpoint, false)?,
            Unpacked::Internal(key) => {
                runtime.with_internal(|_, scope| internal::take_on(scope, key));
                key
            }
        };
        Ok(Self { runtime: runtime.clone(), key })
    }

    /// Received bytes in order, `None` once the peer has finished. Pending wakes the current task later.
    ///
    /// # Errors
    /// The connection broke; bytes that arrived before have been returned.
    pub fn poll_recv(&self) -> Poll<io::Result<Option<Chunk>>> {
        self.runtime.with_streams(self.key, |streams, scope| streams.poll_recv(scope, self.key))
    }

    /// [`TcpStream::poll_recv`] as a future.
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&self) -> io::Result<Option<Chunk>> {
        poll_fn(|_| self.poll_recv()).await
    }

    /// The runtime that it belongs to.
    #[inline]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Gives bytes back: the next read returns them first.
    pub fn unread(&self, chunk: Chunk) {
        // Of most that was taken nothing is left.
        if !chunk.is_empty() {
            self.runtime.with_socket(self.key, |socket, _| socket.received.push_front(chunk));
        }
    }

    /// Whether received bytes wait unread in user space.
    pub fn has_unread(&self) -> bool {
        self.runtime.with_socket(self.key, |socket, _| !socket.received.is_empty())
    }

    /// Whether something has arrived that was not read, bytes or the peer's end, as far as is known without asking.
    pub fn may_have_unread(&self) -> bool {
        self.runtime.with_streams(self.key, |streams, scope| {
            let socket = scope.sockets.live(self.key);
            !socket.received.is_empty() || socket.recv_end.is_some() || streams.may_receive(socket)
        })
    }

    /// Whether received bytes wait unread, in user space or with the kernel: that is asked, unless it is known to have none.
    pub fn has_any_unread(&self) -> bool {
        self.runtime.with_streams(self.key, |streams, scope| {
            let socket = scope.sockets.live(self.key);
            !socket.received.is_empty() || (streams.may_receive(socket) && socket.has_arrived())
        })
    }

    /// Ready once the peer is known to have finished or the connection broke. Pending wakes the current task later.
    pub fn poll_peer_closed(&self) -> Poll<()> {
        self.runtime.with_streams(self.key, |streams, scope| {
            let current = scope.tasks.current();
            let socket = scope.sockets.live(self.key);
            if socket.peer_closed || socket.recv_end.is_some() || socket.send_error.is_some() {
                return Poll::Ready(());
            }
            socket.recv_task = current;
            streams.watch(scope, self.key);
            Poll::Pending
        })
    }

    /// Ready once the connection is known to have broken, perhaps behind bytes that nobody has read; as far as reading ahead
    /// goes. Pending wakes the current task later. A reset behind the peer's own end may show only to who sends.
    pub fn poll_broken(&self) -> Poll<()> {
        self.runtime.with_streams(self.key, |streams, scope| {
            let current = scope.tasks.current();
            let socket = scope.sockets.live(self.key);
            let is_broken = matches!(socket.recv_end, Some(RecvEnd::Error(_)));
            if is_broken || socket.broken || socket.send_error.is_some() {
                return Poll::Ready(());
            }
            socket.recv_task = current;
            streams.watch(scope, self.key);
            Poll::Pending
        })
    }

    /// Whether reads take large chunks: worth it while a body streams.
    pub fn set_bulk(&self, bulk: bool) {
        self.runtime.with_socket(self.key, |socket, _| {
            socket.bulk = bulk;
            socket.streamed |= bulk;
        });
    }

    /// Whether reads take one small chunk at a time, and nothing is read ahead: for one of many connections whose bytes wait
    /// for the same receiver.
    pub fn set_sparing(&self, sparing: bool) {
        self.runtime.with_socket(self.key, |socket, _| socket.sparing = sparing);
    }

    /// Reads and forgets what still arrives: ready at the peer's end, or when the connection broke. Other tasks get their turn
    /// however fast the peer sends.
    pub fn poll_rest(&self) -> Poll<()> {
        for _ in 0..REST_CHUNKS_PER_TURN {
            match self.poll_recv() {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.runtime.wake(self.runtime.current_task());
        Poll::Pending
    }

    /// Queues bytes to be sent.
    pub fn send(&self, chunk: Chunk) {
        self.runtime.with_socket(self.key, |socket, _| {
            if socket.send_error.is_none() {
                socket.to_send.push(chunk);
            }
        });
    }

    /// Queues a copy of a few bytes; false when the pool has no chunk for them.
    #[must_use]
    pub fn send_copy(&self, mut bytes: &[u8]) -> bool {
        let extended = self.runtime.with_socket(self.key, |socket, _| {
            socket.send_error.is_some() || socket.to_send.try_extend(bytes)
        });
        if extended {
            return true;
        }
        while !bytes.is_empty() {
            let size =
                if bytes.len() > limits::SMALL_CHUNK_BYTES { ChunkSize::Large } else { ChunkSize::Small };
            let Some(mut chunk) = self.runtime.pool().alloc(size) else { return false };
            let written = chunk.write(bytes);
            bytes = &bytes[written..];
            self.send(chunk.freeze());
        }
        true
    }

    /// Sets what is queued going.
    pub fn flush(&self) {
        self.runtime.with_streams(self.key, |streams, scope| streams.start_send(scope, self.key));
    }

    /// Bytes queued and not yet taken by the kernel.
    pub fn queued(&self) -> usize {
        self.runtime.with_socket(self.key, |socket, _| socket.to_send.bytes())
    }

    /// Ready when at most `left` bytes wait. Pending wakes the current task later.
    ///
    /// # Errors
    /// The connection broke; what was queued is gone.
    pub fn poll_sent(&self, left: usize) -> Poll<io::Result<()>> {
        self.runtime.with_socket(self.key, |socket, current| {
            if let Some(errno) = socket.send_error {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            if socket.to_send.bytes() <= left {
                return Poll::Ready(Ok(()));
            }
            (socket.wake_at, socket.send_task) = (left, current);
            Poll::Pending
        })
    }

    /// Moves up to `max` received bytes into an empty pipe instead of into user space. Pending wakes the current task later.
    /// When splicing is over, [`TcpStream::end_splice`].
    ///
    /// # Errors
    /// The connection broke; bytes that arrived before have been returned.
    pub fn poll_splice_in(&self, pipe: &Pipe, max: usize) -> Poll<io::Result<Spliced>> {
        debug_assert!(pipe.bytes() == 0 && max > 0, "what a full pipe answers tells nothing of the socket");
        self.runtime.with_streams(self.key, |streams, scope| {
            let current = scope.tasks.current();
            let socket = scope.sockets.live(self.key);
            if !socket.received.is_empty() {
                return Poll::Ready(Ok(Spliced::Unread));
            }
            let mut spliced = Some(Spliced::End);
            if socket.recv_end.is_none() {
                socket.recv_task = current;
                spliced = streams.splice_in(scope, self.key, pipe, max);
            }
            if let Some(Spliced::Bytes(count)) = spliced {
                scope.stats.spliced_bytes += count as u64;
                scope.stats.splices += 1;
            }
            match (spliced, scope.sockets.live(self.key).recv_end) {
                (None, _) => Poll::Pending,
                (Some(Spliced::End), Some(RecvEnd::Error(errno))) => {
                    Poll::Ready(Err(io::Error::from_raw_os_error(errno)))
                }
                (Some(spliced), _) => Poll::Ready(Ok(spliced)),
            }
        })
    }

    /// Moves a pipe's bytes to the peer, behind what is queued. Ready once the pipe is empty, or with false: the kernel does
    /// not splice here, and what is left in the pipe has to be read back. Pending wakes the current task later.
    ///
    /// # Errors
    /// The connection broke; what is in the pipe was not sent.
    pub fn poll_splice_out(&self, pipe: &Pipe) -> Poll<io::Result<bool>> {
        self.runtime.with_streams(self.key, |streams, scope| {
            let current = scope.tasks.current();
            let socket = scope.sockets.live(self.key);
            if !socket.to_send.is_empty() && socket.send_error.is_none() {
                streams.start_send(scope, self.key);
            }
            let socket = scope.sockets.live(self.key);
            (socket.wake_at, socket.send_task) = (0, current);
            if socket.to_send.is_empty() && !socket.sending && socket.send_error.is_none() {
                streams.splice_out(scope, self.key, pipe);
            }
            let socket = scope.sockets.live(self.key);
            let outcome = match socket.send_error {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None if pipe.bytes() == 0 || pipe.is_stuck() => Ok(pipe.bytes() == 0),
                None => return Poll::Pending,
            };
            socket.send_task = TaskId::NONE;
            Poll::Ready(outcome)
        })
    }

    /// Receiving goes into user space again.
    pub fn end_splice(&self) {
        self.runtime.with_socket(self.key, |socket, _| socket.splicing = false);
    }

    /// Ends our direction once everything queued has been sent.
    pub fn shutdown_write(&self) {
        self.runtime.with_socket(self.key, |socket, _| {
            if socket.shutdown == Shutdown::Open {
                socket.shutdown = Shutdown::WhenSent;
            }
        });
        self.flush();
    }

    /// Whether the peer's kernel has all that was sent: a reset that follows destroys none of it.
    pub fn is_acknowledged(&self) -> bool {
        self.runtime.with_socket(self.key, |socket, _| socket.is_acknowledged())
    }

    /// Makes the close that follows a reset (RST) instead of an orderly end.
    pub fn set_reset_on_close(&self) {
        self.runtime.with_socket(self.key, |socket, _| socket.set_reset_on_close());
    }

    /// Makes `task` the one that hears of received bytes and of the peer's end: who looks after an idle connection.
    pub fn watch_by(&self, task: super::TaskId) {
        self.runtime.with_streams(self.key, |streams, scope| {
            scope.sockets.live(self.key).recv_task = task;
            streams.watch(scope, self.key);
        });
    }

    /// The peer's address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.with_endpoint(Endpoint::peer_addr)
    }

    /// Our address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.with_endpoint(Endpoint::local_addr)
    }

    /// The peer's address and ours, in the Unix domain, too. A peer there is called as we are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ends(&self) -> io::Result<[SocketAddress; 2]> {
        self.runtime.with_socket(self.key, |socket, _| socket.ends())
    }

    /// Where the peer meant to connect to, before the kernel led it here: by a redirection, which only the kernel knows, or
    /// to a transparent socket, whose own address it is; or where it has told. `None`: nobody led it.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        self.runtime.with_socket(self.key, |socket, _| socket.original_destination())
    }

    /// Tells the other end of a connection within the worker where it was meant to lead to: at once, before that is taken on.
    pub fn tell_destination(&self, destination: SocketAddr) {
        self.runtime.with_internal(|_, scope| internal::tell_destination(scope, self.key, destination));
    }

    /// Whether bytes can come from it and go to it through a pipe: not within the worker, where they are in user space anyway.
    #[inline]
    pub fn may_splice(&self) -> bool {
        !self.key.is_internal()
    }

    /// Keep-alive probes.
    ///
    /// # Errors
    /// The kernel refuses a value.
    pub fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        self.with_endpoint(|endpoint| {
            let seconds = |time: Duration| i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX);
            endpoint.set_option(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
            if let Some(probes) = keepalive.probes {
                let probes = i32::try_from(probes).unwrap_or(i32::MAX);
                endpoint.set_option(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, probes)?;
            }
            if let Some(idle) = keepalive.idle {
                endpoint.set_option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(idle))?;
            }
            if let Some(interval) = keepalive.interval {
                endpoint.set_option(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds(interval))?;
            }
            Ok(())
        })
    }

    fn with_endpoint<T>(&self, work: impl FnOnce(&Endpoint) -> io::Result<T>) -> io::Result<T> {
        self.runtime.with_socket(self.key, |socket, _| work(socket.endpoint.as_ref().ok_or_else(gone)?))
    }
}

/// A proxy never waits for more bytes to fill a segment.
fn set_nodelay(endpoint: &Endpoint) -> io::Result<()> {
    endpoint.set_option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

#[cfg(test)]
impl TcpStream {
    pub(super) fn key_for_test(&self) -> SocketKey {
        self.key
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.runtime.close(self.key);
    }
}

impl TcpListener {
    /// Takes a bound, listening, non-blocking socket.
    ///
    /// # Errors
    /// The back end cannot watch it.
    pub fn new(runtime: &Runtime, socket: impl Into<Endpoint>) -> io::Result<Self> {
        let endpoint = socket.into();
        if let SocketAddress::Ip(_) = endpoint.address()? {
            // Accepted connections inherit it: a system call less for each.
            set_nodelay(&endpoint)?;
        }
        Ok(Self { runtime: runtime.clone(), key: runtime.adopt(endpoint, true)? })
    }

    /// An internal listener: whoever on this worker connects to its name. One that has the name already gets no more of them.
    pub fn internal(runtime: &Runtime, address: InternalAddress) -> Self {
        let key = runtime.with_internal(|internal, scope| internal.listen(scope, address));
        Self { runtime: runtime.clone(), key }
    }

    /// Whether it is one within the worker.
    pub fn is_internal(&self) -> bool {
        self.key.is_internal()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// It is gone.
    pub fn address(&self) -> io::Result<SocketAddress> {
        self.runtime.with_socket(self.key, |socket, _| socket.local_address())
    }

    /// The next connection, taken on by this worker.
    ///
    /// # Errors
    /// As [`TcpListener::poll_take`] and [`TcpStream::adopt`].
    pub fn poll_accept(&self) -> Poll<io::Result<TcpStream>> {
        self.poll_take().map(|taken| TcpStream::adopt(&self.runtime, taken?))
    }

    /// The next connection, which any worker may take on.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`: out of resources, rest and try again; others concern one connection.
    pub fn poll_take(&self) -> Poll<io::Result<Accepted>> {
        if self.key.is_internal() {
            let accepted = self.runtime.with_internal(|_, scope| internal::poll_accept(scope, self.key));
            return accepted.map(|key| Ok(Accepted(Parcel::Internal(key))));
        }
        let accepted = self.runtime.with_backend(|backend, scope| backend.poll_accept(scope, self.key));
        accepted.map_ok(Accepted::from)
    }

    /// Stops accepting: returns the connections whose handshake is complete, one by one, then `None`. Their peers believe
    /// to be connected; closing the listener would reset them. With `queued` false another process accepts from the same
    /// socket: those that this one has not taken already may be left to it.
    ///
    /// # Errors
    /// As [`TcpListener::poll_take`].
    pub fn poll_take_rest(&self, queued: bool) -> Poll<io::Result<Option<Accepted>>> {
        if self.key.is_internal() {
            let next = self.runtime.with_internal(|_, scope| internal::take_rest(scope, self.key));
            return Poll::Ready(Ok(next.map(|key| Accepted(Parcel::Internal(key)))));
        }
        let accepted =
            self.runtime.with_backend(|backend, scope| backend.poll_accept_rest(scope, self.key, queued));
        accepted.map_ok(|endpoint| endpoint.map(Accepted::from))
    }
}

#[cfg(test)]
impl TcpListener {
    pub(super) fn key_for_test(&self) -> SocketKey {
        self.key
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.runtime.close(self.key);
    }
}
