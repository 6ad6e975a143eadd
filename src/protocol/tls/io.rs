//! [`TlsStream`]: a socket's bytes under TLS, with the contract of the socket itself.
//!
//! Everything happens within the call of the connection's task that reads or writes: there is no task, no buffer and no
//! timer of TLS. An idle connection is a socket and the state of its session.
//!
//! The peer's direction ends in one of three ways, which a reader can tell apart: announced (`close_notify`: the end,
//! `Ok(None)`), bare (FIN without it: the end too, but [`TlsStream::is_truncated`]), or broken (an error).

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};

use super::facts::Facts;
use super::inbound::{Inbound, Next};
use super::inspector::{Inspector, Seen};
use super::meter::{Meter, Owner};
use super::outbound::{Outbound, Records};
use super::resolver::Staple;
use super::session::{Fault, Session};
use super::verifier::VerifyFailure;
use crate::base::limits;
use crate::buffer::{Chunk, ChunkQueue};
use crate::runtime::{Runtime, TcpStream};

/// A connection under TLS.
pub struct TlsStream {
    socket: TcpStream,
    state: RefCell<State>,
}

/// Why a connection under TLS came to nothing, or broke.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsError {
    /// The connection below: an errno.
    Io(i32),
    /// The peer ended the connection within the handshake.
    Closed,
    /// The session cannot go on. The peer has been told.
    Session(Fault),
}

struct State {
    phase: Phase,
    inbound: Inbound,
    end: End,
    meter: Meter,
}

enum Phase {
    /// No byte of the client's hello has arrived: an idle connection that never says anything costs nothing more.
    Silent(Arc<ServerConfig>),
    /// The hello is read. Apart, as the next: for a moment each, and the room would be kept for ever.
    Hello(Box<(Arc<ServerConfig>, Inspector)>),
    /// To greet the server.
    Greet(Box<(Arc<ClientConfig>, ServerName<'static>)>),
    /// The handshake goes on, or is done.
    Session(Box<Begun>),
}

/// A session, and all that there is only with one. In one block: rustls' part leaves room in its size class, and every
/// connection has it.
struct Begun {
    session: Session,
    outbound: Outbound,
    /// Plaintext that was read ahead or given back.
    ahead: ChunkQueue,
    /// The server that the client asked for.
    server_name: Option<Box<str>>,
    /// The handshake is complete.
    shaken: bool,
    /// `close_notify` was queued.
    closed: bool,
}

/// How the peer's direction has ended.
#[derive(Clone, Debug)]
enum End {
    Open,
    /// As announced.
    Closed,
    /// The connection ended without an announcement.
    Truncated,
    /// Apart: few connections have failed, and all have room for this.
    Failed(Box<TlsError>),
}

/// Most bytes of what every connection under TLS has beside its session: a size class of the allocator's.
const STREAM_BYTES_MAX: usize = 112;
const _: () = assert!(size_of::<TlsStream>() <= STREAM_BYTES_MAX);
/// Most bytes of a session and what is with it: the size class that rustls' connection alone has with 1,096.
const BEGUN_BYTES_MAX: usize = 1280;
const _: () = assert!(size_of::<Begun>() <= BEGUN_BYTES_MAX);

impl Begun {
    fn new(session: Session, server_name: Option<Box<str>>) -> Box<Self> {
        let (outbound, ahead) = (Outbound::default(), ChunkQueue::default());
        Box::new(Self { session, outbound, ahead, server_name, shaken: false, closed: false })
    }
}

impl State {
    fn is_shaken(&self) -> bool {
        matches!(&self.phase, Phase::Session(begun) if begun.shaken)
    }

    /// Where plaintext goes that is to be sent; `None`: nothing is sent before there is a session, nor behind its end.
    fn outbound(&mut self) -> Option<&mut Outbound> {
        let Self { phase: Phase::Session(begun), end, .. } = self else { return None };
        let is_over = begun.closed || matches!(end, End::Failed(_));
        if is_over { None } else { Some(&mut begun.outbound) }
    }

    /// Bytes that are to be sent and not encrypted yet.
    fn unencrypted(&self) -> usize {
        match &self.phase {
            Phase::Session(begun) => begun.outbound.bytes(),
            Phase::Silent(_) | Phase::Hello(_) | Phase::Greet(_) => 0,
        }
    }
}

impl TlsStream {
    /// The server's side of a connection; [`TlsStream::handshake`] comes first.
    pub fn server(socket: TcpStream, config: Arc<ServerConfig>, meter: Meter) -> Box<Self> {
        Self::new(socket, Phase::Silent(config), meter)
    }

    /// The client's side of a connection; [`TlsStream::handshake`] comes first.
    pub fn client(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        meter: Meter,
    ) -> Box<Self> {
        Self::new(socket, Phase::Greet(Box::new((config, name))), meter)
    }

    fn new(socket: TcpStream, phase: Phase, meter: Meter) -> Box<Self> {
        let state = State { phase, inbound: Inbound::default(), end: End::Open, meter };
        Box::new(Self { socket, state: RefCell::new(state) })
    }

    fn runtime(&self) -> &Runtime {
        self.socket.runtime()
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Makes the handshake. It has no time limit of its own.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn handshake(&self) -> Result<(), TlsError> {
        poll_fn(|_| self.poll_handshake()).await
    }

    /// [`TlsStream::handshake`], step by step.
    ///
    /// # Errors
    /// As there.
    pub fn poll_handshake(&self) -> Poll<Result<(), TlsError>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            if state.is_shaken() {
                return Poll::Ready(Ok(()));
            }
            match &state.end {
                End::Open => {}
                End::Closed | End::Truncated => return Poll::Ready(Err(TlsError::Closed)),
                End::Failed(error) => return Poll::Ready(Err(TlsError::clone(error))),
            }
            match state.inbound.unpark().and_then(|()| self.shake(state)) {
                Ok(true) => {}
                Ok(false) => match self.socket.poll_recv() {
                    Poll::Pending => match self.keep(state, 0) {
                        Ok(()) => return Poll::Pending,
                        Err(fault) => self.fail(state, TlsError::Session(fault)),
                    },
                    Poll::Ready(received) => self.receive(state, received),
                },
                Err(fault) => self.fail(state, TlsError::Session(fault)),
            }
        }
    }

    /// Goes on with the handshake; whether there is something new. Otherwise more has to be received.
    fn shake(&self, state: &mut State) -> Result<bool, Fault> {
        match &mut state.phase {
            Phase::Silent(_) if state.inbound.is_empty() => Ok(false),
            Phase::Silent(config) => {
                state.phase = Phase::Hello(Box::new((Arc::clone(config), Inspector::default())));
                Ok(true)
            }
            Phase::Hello(hello) => {
                let (config, inspector) = &mut **hello;
                let received = state.inbound.bytes();
                if inspector.look(received) == Seen::More {
                    return Ok(false);
                }
                // What is no hello the session refuses in its own words.
                let hello = inspector.hello(received).unwrap_or_default();
                let mut session = Session::server(for_protocols(config, &hello.protocols))?;
                session.set_asks_for_staple(inspector.asks_for_staple(received));
                state.phase = Phase::Session(Begun::new(session, hello.server_name));
                Ok(true)
            }
            Phase::Greet(greeting) => {
                let (config, name) = &**greeting;
                let mut session = Session::client(Arc::clone(config), name.clone())?;
                let greeted = self.write(|out| session.ingest(&mut [], out).outcome);
                state.phase = Phase::Session(Begun::new(session, None));
                greeted.map(|()| true)
            }
            Phase::Session(begun) => {
                let Begun { session, ahead, shaken, .. } = &mut **begun;
                let inbound = &mut state.inbound;
                match self.write(|out| inbound.next(self.runtime().pool(), session, out))? {
                    // The first bytes may come with the end of the handshake.
                    Next::Data(data) => ahead.push(data),
                    Next::Closed => state.end = End::Closed,
                    Next::More if session.is_handshaking() => return Ok(false),
                    Next::More => {}
                }
                *shaken = !session.is_handshaking();
                Ok(true)
            }
        }
    }

    /// What the handshake agreed on; `None` before it is complete. Put together when asked for, which is when the handshake is
    /// over: every connection would keep it else.
    pub fn facts(&self) -> Option<Facts> {
        match &self.state.borrow().phase {
            Phase::Session(begun) if begun.shaken => {
                Some(Facts::of(&begun.session, begun.server_name.clone()))
            }
            _ => None,
        }
    }

    /// What was done about the OCSP response that the client asked for, whatever became of the handshake; `None`: nothing.
    pub fn staple(&self) -> Option<Staple> {
        match &self.state.borrow().phase {
            Phase::Session(begun) => begun.session.staple(),
            Phase::Silent(_) | Phase::Hello(..) | Phase::Greet(..) => None,
        }
    }

    /// Looks at the certificates that the peer has shown.
    pub fn with_peer_certificates<T>(&self, look: impl FnOnce(&[CertificateDer<'static>]) -> T) -> T {
        match &self.state.borrow().phase {
            Phase::Session(begun) => look(begun.session.peer_certificates().unwrap_or_default()),
            Phase::Silent(_) | Phase::Hello(..) | Phase::Greet(..) => look(&[]),
        }
    }

    /// [`TcpStream::poll_recv`], of plaintext.
    ///
    /// # Errors
    /// The connection or its session broke; bytes that arrived before have been returned.
    pub fn poll_recv(&self) -> Poll<io::Result<Option<Chunk>>> {
        let state = &mut *self.state.borrow_mut();
        if let Phase::Session(begun) = &mut state.phase
            && let Some(data) = begun.ahead.pop()
        {
            return Poll::Ready(Ok(Some(data)));
        }
        loop {
            match &state.end {
                End::Open => {}
                End::Closed | End::Truncated => return Poll::Ready(Ok(None)),
                End::Failed(error) => return Poll::Ready(Err(TlsError::clone(error).into())),
            }
            let Phase::Session(begun) = &mut state.phase else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let (session, inbound) = (&mut begun.session, &mut state.inbound);
            match self.write(|out| inbound.next(self.runtime().pool(), session, out)) {
                Ok(Next::Data(data)) => return Poll::Ready(Ok(Some(data))),
                Ok(Next::Closed) => state.end = End::Closed,
                Ok(Next::More) => match self.socket.poll_recv() {
                    // A record may wait; what is more is a message in several.
                    Poll::Pending => match self.keep(state, limits::RECORD_CHUNK_BYTES) {
                        Ok(()) => return Poll::Pending,
                        Err(fault) => self.fail(state, TlsError::Session(fault)),
                    },
                    Poll::Ready(received) => self.receive(state, received),
                },
                Err(fault) => self.fail(state, TlsError::Session(fault)),
            }
        }
    }

    /// More has to be waited for: asks whether what is not whole may be kept, where it is more than so many bytes.
    fn keep(&self, state: &mut State, free: usize) -> Result<(), Fault> {
        let State { inbound, meter, phase, .. } = state;
        let waker = || self.runtime().waker(self.runtime().current_task());
        let owner = Owner { meter, free, waker: &waker };
        match phase {
            Phase::Session(_) => inbound.keep(owner),
            Phase::Silent(_) | Phase::Hello(_) | Phase::Greet(_) => inbound.park(owner),
        }
    }

    /// Takes what the socket had.
    fn receive(&self, state: &mut State, received: io::Result<Option<Chunk>>) {
        let chunk = match received {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return state.end = End::Truncated,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                return state.end = End::Failed(Box::new(TlsError::Io(errno)));
            }
        };
        let State { inbound, phase, .. } = state;
        let pool = self.runtime().pool();
        let taken = match phase {
            Phase::Silent(_) | Phase::Hello(..) => inbound.gather(pool, chunk),
            Phase::Greet(..) | Phase::Session(_) => inbound.take(pool, chunk).map(|rest| {
                if let Some(rest) = rest {
                    self.socket.unread(rest);
                }
            }),
        };
        if let Err(fault) = taken {
            self.fail(state, TlsError::Session(fault));
        }
    }

    /// Has something written and sent.
    fn write<T>(&self, work: impl FnOnce(&mut Records<'_>) -> T) -> T {
        let mut sent = false;
        let mut send = |chunk| {
            sent = true;
            self.socket.send(chunk);
        };
        let mut records = Records::new(self.runtime().pool(), &mut send);
        let outcome = work(&mut records);
        records.finish();
        if sent {
            self.socket.flush();
        }
        outcome
    }

    fn fail(&self, state: &mut State, error: TlsError) {
        if let Phase::Session(begun) = &mut state.phase {
            begun.outbound.clear();
        }
        state.end = End::Failed(Box::new(error));
    }

    /// Reads and forgets what still arrives, undeciphered: ready at the end. For a connection that is being closed.
    pub fn poll_rest(&self) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        state.inbound = Inbound::default();
        if let Phase::Session(begun) = &mut state.phase {
            begun.ahead = ChunkQueue::default();
        }
        self.socket.poll_rest()
    }

    /// [`TcpStream::unread`]. What has been read came of a session.
    pub fn unread(&self, chunk: Chunk) {
        if let Phase::Session(begun) = &mut self.state.borrow_mut().phase {
            begun.ahead.push_front(chunk);
        }
    }

    /// [`TcpStream::has_unread`].
    pub fn has_unread(&self) -> bool {
        let state = self.state.borrow();
        let has_ahead = matches!(&state.phase, Phase::Session(begun) if !begun.ahead.is_empty());
        has_ahead || !state.inbound.is_empty() || self.socket.has_unread()
    }

    /// [`TcpStream::poll_peer_closed`].
    pub fn poll_peer_closed(&self) -> Poll<()> {
        if matches!(self.state.borrow().end, End::Open) {
            self.socket.poll_peer_closed()
        } else {
            Poll::Ready(())
        }
    }

    /// [`TcpStream::poll_broken`].
    pub fn poll_broken(&self) -> Poll<()> {
        self.socket.poll_broken()
    }

    /// Whether the peer's direction ended without the announcement: somebody between may have cut it off.
    pub fn is_truncated(&self) -> bool {
        matches!(self.state.borrow().end, End::Truncated)
    }

    /// Whether the session broke once its handshake was complete: by what the peer has sent, which may be its alert.
    pub fn has_broken(&self) -> bool {
        let state = self.state.borrow();
        state.is_shaken() && matches!(&state.end, End::Failed(error) if !error.is_io())
    }

    /// Why the session broke; `None`: it did not.
    pub fn failure(&self) -> Option<TlsError> {
        match &self.state.borrow().end {
            End::Failed(error) => Some(TlsError::clone(error)),
            End::Open | End::Closed | End::Truncated => None,
        }
    }

    /// [`TcpStream::send`], once the handshake is complete.
    pub fn send(&self, chunk: Chunk) {
        if let Some(outbound) = self.state.borrow_mut().outbound() {
            outbound.push(chunk);
        }
    }

    /// [`TcpStream::send_copy`].
    #[must_use]
    pub fn send_copy(&self, mut bytes: &[u8]) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Some(outbound) = state.outbound() else { return true };
        if outbound.try_extend(bytes) {
            return true;
        }
        while !bytes.is_empty() {
            let wanted = bytes.len().min(limits::LARGE_CHUNK_BYTES);
            let Some(mut chunk) = self.runtime().pool().alloc_for(wanted) else { return false };
            let written = chunk.write(bytes);
            bytes = &bytes[written..];
            outbound.push(chunk.freeze());
        }
        true
    }

    /// [`TcpStream::flush`]: encrypts what is queued, and sets it going.
    pub fn flush(&self) {
        self.encrypt(&mut self.state.borrow_mut());
        self.socket.flush();
    }

    fn encrypt(&self, state: &mut State) {
        let State { inbound, phase: Phase::Session(begun), .. } = state else { return };
        let Begun { session, outbound, .. } = &mut **begun;
        if outbound.bytes() == 0 {
            return;
        }
        let now = self.runtime().now();
        let mut send = |chunk| self.socket.send(chunk);
        let mut records = Records::new(self.runtime().pool(), &mut send);
        let encrypted = outbound.encrypt(now, session, inbound.held(), &mut records);
        records.finish();
        if let Err(fault) = encrypted {
            self.fail(state, TlsError::Session(fault));
        }
    }

    /// [`TcpStream::queued`]: what is not encrypted yet counts, too.
    pub fn queued(&self) -> usize {
        self.state.borrow().unencrypted() + self.socket.queued()
    }

    /// [`TcpStream::poll_sent`].
    ///
    /// # Errors
    /// The connection or its session broke; what was queued is gone.
    pub fn poll_sent(&self, left: usize) -> Poll<io::Result<()>> {
        let state = &mut *self.state.borrow_mut();
        if state.unencrypted() > 0 {
            self.encrypt(state);
            self.socket.flush();
        }
        if let End::Failed(error) = &state.end {
            return Poll::Ready(Err(TlsError::clone(error).into()));
        }
        self.socket.poll_sent(left)
    }

    /// [`TcpStream::shutdown_write`]: announces the end, then ends our direction.
    pub fn shutdown_write(&self) {
        let state = &mut *self.state.borrow_mut();
        self.encrypt(state);
        self.announce_end(state);
        self.socket.shutdown_write();
    }

    fn announce_end(&self, state: &mut State) {
        let State { inbound, end, phase: Phase::Session(begun), .. } = state else { return };
        let Begun { session, closed, .. } = &mut **begun;
        if *closed || session.is_handshaking() || matches!(end, End::Failed(_)) {
            return;
        }
        *closed = true;
        // Without memory for it the end shows as a truncated one. Nor is it announced where a connection is dropped: a body
        // that only the end delimits would pass for complete.
        let _ = self.write(|out| session.close(inbound.held(), out));
    }
}

impl TlsError {
    /// What is wrong with the peer's certificate; `None`: it is about something else.
    pub fn verify_failure(&self) -> Option<VerifyFailure> {
        match self {
            Self::Session(Fault::Protocol(error)) => VerifyFailure::of(error),
            Self::Session(_) | Self::Io(_) | Self::Closed => None,
        }
    }

    /// The connection below broke, or was ended by the peer: nothing is wrong with the session.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
            Self::Closed => f.write_str("connection closed during the handshake"),
            Self::Session(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Io(errno) => Self::from_raw_os_error(errno),
            TlsError::Closed => io::ErrorKind::UnexpectedEof.into(),
            TlsError::Session(_) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// The configuration for a client that offers these protocols. When none of them is ours, none is agreed on, as in Envoy: RFC
/// 7301 section 3.2 would have the handshake fail, and clients that offer more than they need would not come in.
fn for_protocols(config: &Arc<ServerConfig>, offered: &[Box<[u8]>]) -> Arc<ServerConfig> {
    let ours = &config.alpn_protocols;
    let is_ours = |protocol: &[u8]| ours.iter().any(|known| **known == *protocol);
    if ours.is_empty() || offered.is_empty() || offered.iter().any(|protocol| is_ours(protocol)) {
        return Arc::clone(config);
    }
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols.clear();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::SocketAddr;
    use std::rc::Rc;

    use super::super::recipe::{Recipe, server_name};
    use super::*;
    use crate::base::rng::Rng;
    use crate::runtime::mailbox::mailbox;
    use crate::runtime::sim::{SimConfig, SimNetwork};
    use crate::runtime::{Leaks, TcpListener};

    const ADDRESS: &str = "10.0.0.1:443";
    const WATERMARK: usize = 100 * 1024;

    /// Writes all of `bytes` in pieces while it reads until the peer's end; then ends, in order.
    async fn talk(stream: &TlsStream, bytes: &[u8], rng: &mut Rng) -> io::Result<Vec<u8>> {
        let (mut read, mut at, mut ended) = (Vec::new(), 0, false);
        let mut shut = false;
        poll_fn(|_| {
            while at < bytes.len() && stream.poll_sent(WATERMARK)?.is_ready() {
                let piece = (1 + rng.below(30_000) as usize).min(bytes.len() - at);
                assert!(stream.send_copy(&bytes[at..at + piece]));
                at += piece;
                if rng.below(3) > 0 {
                    stream.flush();
                }
            }
            stream.flush();
            if at == bytes.len() && !shut {
                shut = true;
                stream.shutdown_write();
            }
            stream.socket().set_bulk(rng.below(2) == 0);
            while !ended {
                match stream.poll_recv()? {
                    Poll::Ready(Some(mut chunk)) => {
                        let count = 1 + rng.below(chunk.len() as u64) as usize;
                        read.extend_from_slice(&chunk[..count]);
                        chunk.advance(count);
                        if !chunk.is_empty() {
                            stream.unread(chunk);
                        }
                    }
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if shut { stream.poll_sent(0) } else { Poll::Pending }
        })
        .await?;
        Ok(read)
    }

    fn pattern(len: usize, salt: u8) -> Vec<u8> {
        (0..len).map(|at| (at % 253) as u8 ^ (at >> 8) as u8 ^ salt).collect()
    }

    /// Both sides of one connection in the simulation, which breaks everything into pieces.
    fn run(seed: u64, recipe: &Recipe) {
        println!("seed {seed}");
        let mut rng = Rng::from_seed(seed);
        let network = SimNetwork::new(seed, SimConfig::KIND);
        let bells = [(); 2].map(|()| mailbox::<()>().unwrap());
        let [servers, clients] = [0, 1].map(|end| Runtime::sim(&network, bells[end].1.bell()).unwrap());
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let listener = TcpListener::new(&servers, network.listen(address)).unwrap();
        let (server_config, client_config) = recipe.configs();
        let [down, up] = [1, 2].map(|salt| pattern(rng.below(300_000) as usize, salt));
        let done = Rc::new(Cell::new(0));
        let (over, mut own) = (Rc::clone(&done), Rng::from_seed(rng.next_u64()));
        let (to_send, expected) = (down.clone(), up.clone());
        servers.spawn(async move {
            let socket = poll_fn(|_| listener.poll_accept()).await.unwrap();
            let stream = TlsStream::server(socket, server_config, Meter::default());
            assert!(stream.facts().is_none());
            stream.handshake().await.unwrap();
            assert_eq!(stream.facts().unwrap().server_name.as_deref(), Some("server.example"));
            let read = talk(&stream, &to_send, &mut own).await.unwrap();
            assert!(read == expected && !stream.is_truncated() && stream.failure().is_none());
            poll_fn(|_| stream.poll_rest()).await;
            over.set(over.get() + 1);
        });
        let (handle, over, mut own) = (clients.clone(), Rc::clone(&done), Rng::from_seed(rng.next_u64()));
        clients.spawn(async move {
            let socket = TcpStream::connect(&handle, address, None, &[]).await.unwrap();
            let stream = TlsStream::client(socket, client_config, server_name(), Meter::default());
            stream.handshake().await.unwrap();
            let read = talk(&stream, &up, &mut own).await.unwrap();
            assert!(read == down && !stream.is_truncated());
            poll_fn(|_| stream.poll_rest()).await;
            over.set(over.get() + 1);
        });
        for turn in 0.. {
            assert!(turn < 5_000_000, "no end");
            servers.turn().unwrap();
            clients.turn().unwrap();
            if done.get() == 2 {
                break;
            }
        }
        for runtime in [&servers, &clients] {
            runtime.shut_down();
            for _ in 0..10_000 {
                if runtime.leaks() == Leaks::default() {
                    break;
                }
                runtime.spawn(async {});
                runtime.turn().unwrap();
            }
            assert_eq!(runtime.leaks(), Leaks::default());
        }
    }

    #[test]
    fn bytes_pass_both_ways_exactly_over_a_network_that_breaks_them_into_pieces() {
        for seed in 0..12 {
            run(seed, &Recipe { alpn: vec![b"http/1.1".to_vec()], ..Recipe::default() });
        }
        for seed in 100..104 {
            let recipe = Recipe { client_certificate: true, fragment: Some(500), ..Recipe::default() };
            run(seed, &recipe);
        }
    }
}
