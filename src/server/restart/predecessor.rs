//! The process that this one replaces, as this one sees it: what it is asked while this one starts, and afterwards.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::successor::message;
use super::wire::{MESSAGE_BYTES_MAX, Refusal, Reply, Request, VERSION};
use crate::base::limits::LISTEN_SOCKETS_INHERITED_MAX;
use crate::base::socket_address::SocketAddress;
use crate::control::xds::client::Cache;
use crate::runtime::{listen, packet};
use crate::telemetry::{Registry, ServerStat, Slot};

/// How long an answer may take. The greeting's: it may still read its configuration.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what is left of its connections.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at a process that ends.
const ENDING_PAUSE: Duration = Duration::from_millis(200);

/// A connection to it.
#[derive(Debug)]
pub(in crate::server) struct Predecessor {
    socket: OwnedFd,
}

/// How it is followed once this process serves.
#[derive(Debug)]
pub(in crate::server) struct Following {
    pub(in crate::server) registry: Arc<Registry>,
    /// Whether its statistics go on here.
    pub(in crate::server) with_stats: bool,
    /// Between two questions for them.
    pub(in crate::server) every: Duration,
    /// When it is told to end.
    pub(in crate::server) until: Duration,
    /// Told to end now: this process is replaced itself.
    pub(in crate::server) finish: Arc<Notify>,
    /// What this process keeps its resources in, once the other does so no more; `None`: it keeps none.
    pub(in crate::server) cache: Option<Cache>,
    /// Told when it has closed its admin endpoint.
    pub(in crate::server) taken_over: oneshot::Sender<()>,
}

/// What it has counted, and what is left of it.
#[derive(Clone, Copy, Debug)]
struct Left {
    connections: u64,
    ended: bool,
}

impl Predecessor {
    /// Greets it; with it come the chain's start and how many processes it had. `None`: it is about to end.
    ///
    /// # Errors
    /// It cannot be replaced, in one line.
    pub(super) fn greet(socket: OwnedFd, epoch: u32) -> Result<Option<(Self, u64, u64)>, String> {
        let peer = packet::peer(socket.as_fd()).map_err(|error| format!("hot restart: {error}"))?;
        if peer.user != packet::own_user() {
            let packet::Peer { user, process } = peer;
            return Err(format!(
                "hot restart: process {process} is another user's ({user}): not taking its place"
            ));
        }
        let predecessor = Self { socket };
        let hello = Request::Hello { version: VERSION, epoch };
        let why = match predecessor.ask(&hello, GREETING_PATIENCE) {
            Ok((Reply::Welcome { started_s, generation }, _)) => {
                return Ok(Some((predecessor, started_s, generation)));
            }
            Ok((Reply::Refused(Refusal::Ending), _)) => {
                log::warn!("hot restart: process {} is about to end: starting without it", peer.process);
                return Ok(None);
            }
            Ok((Reply::Refused(reason), _)) => match reason {
                Refusal::Version(other) => format!("speaks version {other} and this one {VERSION}"),
                Refusal::Epoch(other) => format!("is of epoch {other}"),
                Refusal::Replaced => "has been replaced already".to_owned(),
                Refusal::Initializing | Refusal::Ending => {
                    "is still initializing: try again later".to_owned()
                }
            },
            Ok(_) => "does not answer to the point".to_owned(),
            Err(error) => format!("does not answer: {error}"),
        };
        Err(format!("hot restart: process {} {why}", peer.process))
    }

    /// Its listening sockets at an address; none: it has none there.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub(in crate::server) fn sockets(
        &self,
        address: &SocketAddress,
        listener: &str,
    ) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        loop {
            let from = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
            let request = Request::Sockets { address: address.clone(), listener: listener.into(), from };
            let (reply, passed) = self.ask(&request, REPLY_PATIENCE)?;
            let Reply::Sockets { total } = reply else { return Err(unexpected()) };
            let is_it = |socket: &OwnedFd| {
                listen::address(socket).is_ok_and(|local| match (&local, address) {
                    (SocketAddress::Ip(local), SocketAddress::Ip(address)) => {
                        local.ip() == address.ip() && (local.port() == address.port() || address.port() == 0)
                    }
                    _ => local == *address,
                }) && packet::is_listening(socket.as_fd())
            };
            if !passed.iter().all(is_it) {
                return Err(unexpected());
            }
            let is_last = passed.is_empty();
            sockets.extend(passed);
            if sockets.len() >= total as usize || is_last || sockets.len() > LISTEN_SOCKETS_INHERITED_MAX {
                return Ok(sockets);
            }
        }
    }

    /// The socket of its admin endpoint, if that is at this address.
    ///
    /// # Errors
    /// As above.
    pub(in crate::server) fn admin(&self, address: &str) -> io::Result<Option<OwnedFd>> {
        let (reply, passed) = self.ask(&Request::Admin { address: address.into() }, REPLY_PATIENCE)?;
        if reply != Reply::Admin {
            return Err(unexpected());
        }
        Ok(passed.into_iter().next().filter(|socket| packet::is_listening(socket.as_fd())))
    }

    /// Asks before there is an event loop.
    fn ask(&self, request: &Request, patience: Duration) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let socket = self.socket.as_fd();
        packet::send(socket, &request.encode(), &[])?;
        if !packet::wait(socket, patience)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let (length, passed) = packet::receive(socket, &mut bytes)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((Reply::decode(&bytes[..length]).ok_or_else(unexpected)?, passed))
    }

    /// This process serves: tells the other to accept no more, goes on with its statistics, tells it in time to end, and
    /// stays until it has.
    pub(in crate::server) async fn follow(self, how: Following) {
        let Following { registry, with_stats, every, until, finish, cache, taken_over } = how;
        let control = registry.server(Slot::Control);
        let outcome = async {
            let socket = packet::watch(self.socket)?;
            if ask(&socket, &Request::Drain).await? != Reply::Draining {
                return Err(unexpected());
            }
            log::info!("hot restart: the process before this one accepts no more");
            cache.iter().for_each(Cache::begin);
            // Before the first scrape: counters never seem to begin anew.
            let mut left = look(&socket, &registry, with_stats).await?;
            let _ = taken_over.send(());
            let end = sleep(until);
            tokio::pin!(end);
            let (mut is_ending, mut since_stats) = (false, Duration::ZERO);
            while !left.ended {
                control.gauge_set(ServerStat::ParentConnections, left.connections);
                let pause = if is_ending { ENDING_PAUSE } else { every.min(LOOK_PAUSE) };
                let is_due = tokio::select! {
                    () = sleep(pause) => left.connections == 0,
                    () = &mut end, if !is_ending => true,
                    () = finish.notified(), if !is_ending => true,
                };
                if is_due && !is_ending {
                    is_ending = true;
                    if ask(&socket, &Request::Terminate).await? != Reply::Terminating {
                        return Err(unexpected());
                    }
                }
                // Its last counts must not be missed; before, many clusters make them dear.
                since_stats += pause;
                let are_due = is_ending || since_stats >= every;
                left = look(&socket, &registry, with_stats && are_due).await?;
                if are_due {
                    since_stats = Duration::ZERO;
                }
            }
            Ok(())
        };
        match outcome.await {
            Ok(()) => log::info!("hot restart: the process before this one has ended"),
            Err(error) => log::warn!("hot restart: the process before this one is gone: {error}"),
        }
        // If it has not said so.
        cache.iter().for_each(Cache::begin);
        control.gauge_set(ServerStat::ParentConnections, 0);
        registry.parent_is_gone();
    }
}

/// Takes its statistics over, and sees what is left of it.
async fn look(socket: &AsyncFd<OwnedFd>, registry: &Registry, with_stats: bool) -> io::Result<Left> {
    // Beyond the last part there are none.
    let mut part = if with_stats { 0 } else { u32::MAX };
    loop {
        let Reply::Stats { connections, ended, more, bequests } =
            ask(socket, &Request::Stats { part }).await?
        else {
            return Err(unexpected());
        };
        if with_stats {
            registry.inherit(&bequests);
        }
        part = part.saturating_add(1);
        if !more || part == u32::MAX {
            return Ok(Left { connections, ended });
        }
    }
}

async fn ask(socket: &AsyncFd<OwnedFd>, request: &Request) -> io::Result<Reply> {
    packet::send(socket.get_ref().as_fd(), &request.encode(), &[])?;
    let bytes = timeout(REPLY_PATIENCE, message(socket)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Reply::decode(&bytes).ok_or_else(unexpected)
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not the answer to the question")
}
