//! The simulated network: connections, listeners, bytes on their way, and the only clock.
//!
//! Everything that a real network leaves open is drawn from one seeded generator: how many bytes a call moves, when they
//! arrive, who is served first. What TCP promises holds: bytes of one direction stay in order, arrive once, and an
//! orderly end comes behind them. A reset may overtake bytes; those are then lost, as in TCP.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::SimConfig;
use crate::base::rng::Rng;
use crate::runtime::Endpoint;
use crate::runtime::socket::SocketKey;

/// A world shared by the runtimes of a test.
#[derive(Clone, Debug)]
pub struct SimNetwork(Rc<RefCell<World>>);

/// An end of a simulated connection, or a simulated listener. Dropping it closes it.
#[derive(Debug)]
pub struct SimEnd {
    network: SimNetwork,
    pub(in crate::runtime) id: usize,
    /// Whether dropping it closes it: not once it is on its way to another runtime.
    attached: bool,
}

/// Names a runtime in the world.
pub(super) type Actor = usize;

/// What a runtime is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// Bytes, the end or an error can be read, or a connection be accepted.
    Readable(SocketKey),
    /// There is room to send again.
    Writable(SocketKey),
    /// A send of so many bytes is complete; or it failed with an errno.
    Sent(SocketKey, Result<usize, i32>),
    /// A connect is complete; or it failed with an errno.
    Connected(SocketKey, Result<(), i32>),
}

impl Notice {
    fn key(&self) -> SocketKey {
        match *self {
            Self::Readable(key) | Self::Writable(key) | Self::Sent(key, _) | Self::Connected(key, _) => key,
        }
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) config: SimConfig,
    now_ns: u64,
    /// What will happen, by time and then by order of its making.
    events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
    nodes: Vec<Node>,
    actors: Vec<State>,
    next_port: u16,
    blackholes: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Node {
    Stream(Stream),
    Listener(Listener),
    Closed,
}

#[derive(Debug)]
struct Stream {
    owner: Option<(Actor, SocketKey)>,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    peer: Option<usize>,
    /// Arrived and not yet read.
    inbox: VecDeque<u8>,
    /// Sent to us and not arrived.
    on_the_way: usize,
    /// Bytes that may be on the way or unread.
    window: usize,
    /// The peer's orderly end has arrived.
    ended: bool,
    /// A reset has arrived; its errno until somebody was told.
    broken: Option<Option<i32>>,
    /// When the last thing sent to us arrives: what follows does not overtake it.
    last_arrival: u64,
    end_sent: bool,
    reset_on_close: bool,
    /// The last send found no room.
    blocked: bool,
}

#[derive(Debug)]
struct Listener {
    owner: Option<(Actor, SocketKey)>,
    local: SocketAddr,
    /// Completed handshakes.
    backlog: VecDeque<usize>,
}

#[derive(Debug)]
enum Event {
    Bytes { to: usize, from: usize, bytes: Vec<u8> },
    End { to: usize },
    Reset { to: usize },
    Connect { from: usize, to: SocketAddr },
    Tell { actor: Actor, notice: Notice },
}

/// A runtime in the world.
#[derive(Debug, Default)]
struct State {
    gone: bool,
    notices: Vec<Notice>,
    /// It has nothing to do before this time.
    idle_until: Option<u64>,
}

/// What a receive finds.
#[derive(Debug)]
pub(super) enum Received {
    Bytes(usize),
    End,
    Error(i32),
    Nothing,
}

impl SimNetwork {
    /// A world that a seed determines wholly. Print the seed: it replays the run.
    pub fn new(seed: u64, config: SimConfig) -> Self {
        Self(Rc::new(RefCell::new(World {
            rng: Rng::from_seed(seed),
            config,
            now_ns: 0,
            events: BTreeMap::new(),
            events_made: 0,
            nodes: Vec::new(),
            actors: Vec::new(),
            next_port: 40_000,
            blackholes: Vec::new(),
        })))
    }

    /// A listening socket; port 0 is resolved. Several on one address share its connections, as with SO_REUSEPORT.
    pub fn listen(&self, mut address: SocketAddr) -> Endpoint {
        let mut world = self.0.borrow_mut();
        if address.port() == 0 {
            address.set_port(world.port());
        }
        world.nodes.push(Node::Listener(Listener { owner: None, local: address, backlog: VecDeque::new() }));
        Endpoint::Sim(SimEnd { network: self.clone(), id: world.nodes.len() - 1, attached: true })
    }

    /// Connects to this address are never answered.
    pub fn blackhole(&self, address: SocketAddr) {
        self.0.borrow_mut().blackholes.push(address);
    }

    /// Time in this world, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }

    /// Sockets that nobody has closed.
    pub fn open_sockets(&self) -> usize {
        self.0.borrow().nodes.iter().filter(|node| !matches!(node, Node::Closed)).count()
    }

    pub(super) fn world(&self) -> std::cell::RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// A socket that is not connected yet.
    pub(super) fn open(&self) -> Endpoint {
        let mut world = self.0.borrow_mut();
        let local = SocketAddr::from(([127, 0, 0, 1], world.port()));
        let stream = Stream::new(local, &mut world);
        world.nodes.push(Node::Stream(stream));
        Endpoint::Sim(SimEnd { network: self.clone(), id: world.nodes.len() - 1, attached: true })
    }

    pub(super) fn accept(&self, listener: usize) -> Option<Endpoint> {
        let mut world = self.0.borrow_mut();
        let Node::Listener(listener) = &mut world.nodes[listener] else { return None };
        let id = listener.backlog.pop_front()?;
        drop(world);
        Some(self.attach(id))
    }

    /// The end that was detached from another runtime of this world.
    pub(in crate::runtime) fn attach(&self, id: usize) -> Endpoint {
        Endpoint::Sim(SimEnd { network: self.clone(), id, attached: true })
    }
}

impl World {
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn join(&mut self) -> Actor {
        self.actors.push(State::default());
        self.actors.len() - 1
    }

    pub(super) fn leave(&mut self, actor: Actor) {
        self.actors[actor].gone = true;
    }

    /// One in `odds`; never with zero.
    pub(super) fn chance(&mut self, odds: u64) -> bool {
        odds != 0 && self.rng.below(odds) == 0
    }

    /// A little time passes; what is due happens. The notices of the actor, in an order of the world's choosing that
    /// keeps each socket's own.
    pub(super) fn pump(&mut self, actor: Actor) -> Vec<Notice> {
        self.now_ns += 1_000;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let event = entry.remove();
            self.happen(event);
        }
        let mut notices = std::mem::take(&mut self.actors[actor].notices);
        // Fisher-Yates over neighbours of different sockets: completions of different sockets have no order.
        for index in (1..notices.len()).rev() {
            if self.rng.below(2) == 0 && notices[index].key() != notices[index - 1].key() {
                notices.swap(index, index - 1);
            }
        }
        notices
    }

    /// Says that an actor has nothing to do until some time, or until it is told. When that holds for all of them, time
    /// moves to the next event.
    ///
    /// # Errors
    /// Nothing will ever happen again: the run hangs.
    pub(super) fn idle(&mut self, actor: Actor, until: Option<u64>) -> io::Result<()> {
        self.actors[actor].idle_until = Some(until.unwrap_or(u64::MAX));
        let here = || self.actors.iter().filter(|state| !state.gone);
        if here().any(|state| state.idle_until.is_none() || !state.notices.is_empty()) {
            return Ok(());
        }
        let next_event = self.events.first_key_value().map_or(u64::MAX, |(&(time, _), _)| time);
        let next = here().filter_map(|state| state.idle_until).min().unwrap_or(u64::MAX).min(next_event);
        if next == u64::MAX {
            return Err(io::Error::other("the simulated world stands still: nothing will ever happen"));
        }
        self.now_ns = self.now_ns.max(next);
        self.actors.iter_mut().for_each(|state| state.idle_until = None);
        Ok(())
    }

    pub(super) fn busy(&mut self, actor: Actor) {
        self.actors[actor].idle_until = None;
    }

    pub(super) fn own(&mut self, id: usize, actor: Actor, key: SocketKey) {
        let told = match &mut self.nodes[id] {
            Node::Stream(stream) => {
                stream.owner = Some((actor, key));
                !stream.inbox.is_empty() || stream.ended || stream.broken.is_some()
            }
            Node::Listener(listener) => {
                listener.owner = Some((actor, key));
                !listener.backlog.is_empty()
            }
            Node::Closed => false,
        };
        if told {
            self.actors[actor].notices.push(Notice::Readable(key));
        }
    }

    pub(super) fn connect(&mut self, from: usize, to: SocketAddr) {
        if let Node::Stream(stream) = &mut self.nodes[from] {
            stream.remote = Some(to);
        }
        let time = self.soon();
        self.event(time, Event::Connect { from, to });
    }

    /// Reads into `into`: as much as the world likes of what has arrived.
    pub(super) fn recv(&mut self, id: usize, into: &mut [u8]) -> Received {
        let Node::Stream(stream) = &mut self.nodes[id] else { return Received::Error(libc::EBADF) };
        if stream.inbox.is_empty() {
            return match (&mut stream.broken, stream.ended) {
                (Some(errno), false) => match errno.take() {
                    Some(errno) => Received::Error(errno),
                    // The error was told to a sender: like the kernel, show an end that never was.
                    None => Received::End,
                },
                (_, true) => Received::End,
                (None, false) => Received::Nothing,
            };
        }
        let most = stream.inbox.len().min(into.len());
        let count = if self.rng.below(4) == 0 { 1 + self.rng.below(most as u64) as usize } else { most };
        let (first, second) = stream.inbox.as_slices();
        let from_first = count.min(first.len());
        into[..from_first].copy_from_slice(&first[..from_first]);
        into[from_first..count].copy_from_slice(&second[..count - from_first]);
        stream.inbox.drain(..count);
        let peer = stream.peer;
        if let Some(peer) = peer {
            self.unblock(peer);
        }
        Received::Bytes(count)
    }

    /// Whether a receive would find something.
    pub(super) fn is_readable(&self, id: usize) -> bool {
        match &self.nodes[id] {
            Node::Stream(stream) => !stream.inbox.is_empty() || stream.ended || stream.broken.is_some(),
            _ => false,
        }
    }

    /// Whether the peer's end or a reset has arrived.
    pub(super) fn is_ended(&self, id: usize) -> bool {
        matches!(&self.nodes[id], Node::Stream(stream) if stream.ended || stream.broken.is_some())
    }

    /// Whether a reset has arrived.
    pub(super) fn is_broken(&self, id: usize) -> bool {
        matches!(&self.nodes[id], Node::Stream(stream) if stream.broken.is_some())
    }

    /// Takes bytes to send: as many as the world likes and the peer's window allows; zero when there is no room now.
    pub(super) fn send(&mut self, id: usize, bytes: &[u8]) -> Result<usize, i32> {
        let Node::Stream(stream) = &mut self.nodes[id] else { return Err(libc::EBADF) };
        if let Some(errno) = &mut stream.broken {
            return Err(errno.take().unwrap_or(libc::EPIPE));
        }
        let Some(peer) = stream.peer else { return Err(libc::ENOTCONN) };
        let odds = self.config.reset_odds;
        if self.chance(odds) {
            self.reset(id);
            self.reset(peer);
            return Err(libc::ECONNRESET);
        }
        let room = match &self.nodes[peer] {
            Node::Stream(far) => far.window.saturating_sub(far.inbox.len() + far.on_the_way),
            // Gone: the bytes travel, and are answered with a reset.
            _ => bytes.len(),
        };
        let most = room.min(bytes.len());
        if most == 0 {
            if let Node::Stream(stream) = &mut self.nodes[id] {
                stream.blocked = true;
            }
            return Ok(0);
        }
        let count = if self.rng.below(3) == 0 { 1 + self.rng.below(most as u64) as usize } else { most };
        let time = self.arrival(peer);
        if let Node::Stream(far) = &mut self.nodes[peer] {
            far.on_the_way += count;
        }
        self.event(time, Event::Bytes { to: peer, from: id, bytes: bytes[..count].to_vec() });
        Ok(count)
    }

    /// Tells an actor something after a while.
    pub(super) fn tell_later(&mut self, actor: Actor, notice: Notice) {
        let time = self.soon();
        self.event(time, Event::Tell { actor, notice });
    }

    fn port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        self.next_port
    }

    fn soon(&mut self) -> u64 {
        self.now_ns + 1 + self.rng.below(self.config.delay_ns_max)
    }

    /// When something sent now reaches a stream: behind all that was sent before.
    fn arrival(&mut self, to: usize) -> u64 {
        let time = self.soon();
        match &mut self.nodes[to] {
            Node::Stream(stream) => {
                stream.last_arrival = stream.last_arrival.max(time);
                stream.last_arrival
            }
            _ => time,
        }
    }

    fn event(&mut self, time: u64, event: Event) {
        self.events_made += 1;
        self.events.insert((time, self.events_made), event);
    }

    fn tell(&mut self, owner: Option<(Actor, SocketKey)>, notice: impl FnOnce(SocketKey) -> Notice) {
        if let Some((actor, key)) = owner {
            self.actors[actor].notices.push(notice(key));
        }
    }

    fn unblock(&mut self, id: usize) {
        let Node::Stream(stream) = &mut self.nodes[id] else { return };
        if let (true, Some((actor, key))) = (std::mem::take(&mut stream.blocked), stream.owner) {
            self.tell_later(actor, Notice::Writable(key));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tell { actor, notice } => self.actors[actor].notices.push(notice),
            Event::Connect { from, to } => self.handshake(from, to),
            Event::Reset { to } => self.reset(to),
            Event::End { to } => {
                let Node::Stream(stream) = &mut self.nodes[to] else { return };
                stream.ended |= stream.broken.is_none();
                let owner = stream.owner;
                self.tell(owner, Notice::Readable);
            }
            Event::Bytes { to, from, bytes } => match &mut self.nodes[to] {
                Node::Stream(stream) => {
                    stream.on_the_way -= bytes.len();
                    // A reset has overtaken them.
                    if stream.broken.is_none() {
                        stream.inbox.extend(&bytes);
                        let owner = stream.owner;
                        self.tell(owner, Notice::Readable);
                    }
                }
                _ => {
                    let time = self.soon();
                    self.event(time, Event::Reset { to: from });
                }
            },
        }
    }

    fn reset(&mut self, id: usize) {
        let Node::Stream(stream) = &mut self.nodes[id] else { return };
        if stream.broken.is_some() {
            return;
        }
        // As Linux: after the peer's orderly end a reset is a broken pipe.
        stream.broken = Some(Some(if stream.ended { libc::EPIPE } else { libc::ECONNRESET }));
        stream.blocked = false;
        let owner = stream.owner;
        self.tell(owner, Notice::Readable);
        self.tell(owner, Notice::Writable);
    }

    fn handshake(&mut self, from: usize, to: SocketAddr) {
        if self.blackholes.contains(&to) {
            return;
        }
        let Node::Stream(near) = &self.nodes[from] else { return };
        let (owner, local) = (near.owner, near.local);
        let listeners: Vec<_> = (0..self.nodes.len())
            .filter(|&id| matches!(&self.nodes[id], Node::Listener(listener) if listener.local == to))
            .collect();
        let odds = self.config.refuse_odds;
        if listeners.is_empty() || self.chance(odds) {
            self.tell(owner, |key| Notice::Connected(key, Err(libc::ECONNREFUSED)));
            return;
        }
        let listener = listeners[self.rng.below(listeners.len() as u64) as usize];
        let mut far = Stream::new(to, self);
        (far.remote, far.peer) = (Some(local), Some(from));
        self.nodes.push(Node::Stream(far));
        let far = self.nodes.len() - 1;
        if let Node::Stream(near) = &mut self.nodes[from] {
            near.peer = Some(far);
        }
        self.tell(owner, |key| Notice::Connected(key, Ok(())));
        if let Node::Listener(listener) = &mut self.nodes[listener] {
            listener.backlog.push_back(far);
            let owner = listener.owner;
            self.tell(owner, Notice::Readable);
        }
    }

    fn close(&mut self, id: usize) {
        match std::mem::replace(&mut self.nodes[id], Node::Closed) {
            Node::Stream(stream) => {
                let Some(peer) = stream.peer else { return };
                if stream.reset_on_close || !stream.inbox.is_empty() {
                    let time = self.soon();
                    self.event(time, Event::Reset { to: peer });
                } else if !stream.end_sent {
                    let time = self.arrival(peer);
                    self.event(time, Event::End { to: peer });
                }
                // Who waits for room here waits in vain: its bytes now travel to be answered with a reset.
                self.unblock(peer);
            }
            Node::Listener(listener) => {
                for id in listener.backlog {
                    if let Node::Stream(stream) = &mut self.nodes[id] {
                        stream.reset_on_close = true;
                    }
                    self.close(id);
                }
            }
            Node::Closed => {}
        }
    }
}

impl Stream {
    fn new(local: SocketAddr, world: &mut World) -> Self {
        let SimConfig { window_bytes_min, window_bytes_max, .. } = world.config;
        let window = (window_bytes_min + world.rng.below(window_bytes_max)) as usize;
        Self {
            owner: None,
            local,
            remote: None,
            peer: None,
            inbox: VecDeque::new(),
            on_the_way: 0,
            window,
            ended: false,
            broken: None,
            last_arrival: 0,
            end_sent: false,
            reset_on_close: false,
            blocked: false,
        }
    }
}

impl SimEnd {
    /// Its number, by which another runtime of the same world attaches it.
    pub(in crate::runtime) fn detach(mut self) -> usize {
        self.attached = false;
        self.id
    }

    fn with_stream<T>(&self, work: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        match &mut self.network.0.borrow_mut().nodes[self.id] {
            Node::Stream(stream) => Some(work(stream)),
            _ => None,
        }
    }

    pub(in crate::runtime) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let remote = self.with_stream(|stream| stream.remote).flatten();
        remote.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    pub(in crate::runtime) fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.network.0.borrow().nodes[self.id] {
            Node::Stream(stream) => Ok(stream.local),
            Node::Listener(listener) => Ok(listener.local),
            Node::Closed => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    pub(in crate::runtime) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.with_stream(|stream| {
            let port = if address.port() == 0 { stream.local.port() } else { address.port() };
            stream.local = SocketAddr::new(address.ip(), port);
        });
        Ok(())
    }

    pub(in crate::runtime) fn set_reset_on_close(&self) {
        self.with_stream(|stream| stream.reset_on_close = true);
    }

    pub(in crate::runtime) fn shutdown_write(&self) {
        let mut world = self.network.0.borrow_mut();
        let Node::Stream(stream) = &mut world.nodes[self.id] else { return };
        if let (false, Some(peer)) = (std::mem::replace(&mut stream.end_sent, true), stream.peer) {
            let time = world.arrival(peer);
            world.event(time, Event::End { to: peer });
        }
    }
}

impl Drop for SimEnd {
    fn drop(&mut self) {
        if self.attached {
            self.network.0.borrow_mut().close(self.id);
        }
    }
}
