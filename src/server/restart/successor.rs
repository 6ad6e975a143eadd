//! The process that is to replace this one, as this one sees it: somebody who connects and asks. `super::super::control`
//! answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::wire::{MESSAGE_BYTES_MAX, Refusal, Reply, Request};
use crate::base::limits::ACCEPT_BACKOFF_MS;
use crate::runtime::packet;
use crate::telemetry::Bequest;

/// Where it connects, and its connection.
#[derive(Debug)]
pub(in crate::server) struct Successor {
    listener: AsyncFd<OwnedFd>,
    connection: Option<Connection>,
    /// It has taken over: nobody else may.
    is_chosen: bool,
    /// What has been counted, while it is being told part by part.
    parts: Vec<Vec<Bequest>>,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// It has been welcomed.
    is_welcome: bool,
}

/// What it did.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) enum Event {
    Asked(Request),
    /// Its connection ended; whether it had taken over.
    Left(bool),
}

impl Successor {
    /// # Errors
    /// The event loop cannot watch the socket.
    pub(in crate::server) fn await_at(listener: OwnedFd) -> io::Result<Self> {
        Ok(Self { listener: packet::watch(listener)?, connection: None, is_chosen: false, parts: Vec::new() })
    }

    /// The next thing it does. Whoever connects anew takes the place of one that has not taken over: that one may hang.
    pub(in crate::server) async fn next(&mut self) -> Event {
        loop {
            let arrived = tokio::select! {
                accepted = accept(&self.listener) => Ok(accepted),
                received = async {
                    match &self.connection {
                        Some(connection) => message(&connection.socket).await,
                        None => std::future::pending().await,
                    }
                } => Err(received),
            };
            match arrived {
                Ok(Some(socket)) => {
                    if let Some(left) = self.take(socket) {
                        return left;
                    }
                }
                Ok(None) => {}
                Err(received) => return self.received(&received),
            }
        }
    }

    fn take(&mut self, socket: OwnedFd) -> Option<Event> {
        if self.is_chosen {
            // Closing a socket with something unread takes the answer along.
            let _ = packet::receive(socket.as_fd(), &mut vec![0; MESSAGE_BYTES_MAX]);
            // It may be gone already.
            let _ = packet::send(socket.as_fd(), &Reply::Refused(Refusal::Replaced).encode(), &[]);
            return None;
        }
        let socket = packet::watch(socket).inspect_err(|error| log::warn!("hot restart: {error}")).ok()?;
        let had_one = self.connection.replace(Connection { socket, is_welcome: false });
        had_one.map(|_| Event::Left(false))
    }

    fn received(&mut self, received: &io::Result<Vec<u8>>) -> Event {
        let request = received.as_ref().ok().and_then(|bytes| Request::decode(bytes));
        let is_welcome = self.connection.as_ref().is_some_and(|connection| connection.is_welcome);
        match request {
            Some(request) if is_welcome || matches!(request, Request::Hello { .. }) => Event::Asked(request),
            _ => {
                if received.is_ok() {
                    log::warn!("hot restart: a message that is none: its sender is not listened to");
                }
                self.leave()
            }
        }
    }

    /// Answers it.
    pub(in crate::server) fn reply(&mut self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        let Some(connection) = &mut self.connection else { return };
        connection.is_welcome |= matches!(reply, Reply::Welcome { .. });
        self.is_chosen |= *reply == Reply::Draining;
        if let Err(error) = packet::send(connection.socket.get_ref().as_fd(), &reply.encode(), descriptors) {
            log::warn!("hot restart: the next process does not take an answer: {error}");
        }
    }

    /// Answers with a part of what has been counted; the first one counts anew. Whether that was the last part.
    pub(in crate::server) fn reply_stats(
        &mut self,
        part: u32,
        connections: u64,
        ended: bool,
        count: impl FnOnce() -> Vec<Vec<Bequest>>,
    ) -> bool {
        if part == 0 {
            self.parts = count();
        }
        let index = usize::try_from(part).unwrap_or(usize::MAX);
        let bequests = self.parts.get_mut(index).map(std::mem::take).unwrap_or_default();
        let more = index.saturating_add(1) < self.parts.len();
        if !more {
            self.parts = Vec::new();
        }
        self.reply(&Reply::Stats { connections, ended: ended && !more, more, bequests }, &[]);
        !more
    }

    /// Whether a process has taken over and is connected.
    pub(in crate::server) fn is_there(&self) -> bool {
        self.is_chosen && self.connection.is_some()
    }

    fn leave(&mut self) -> Event {
        self.connection = None;
        self.parts = Vec::new();
        Event::Left(self.is_chosen)
    }
}

/// The next connection of a process of the same user; `None`: it was another's, or is gone.
async fn accept(listener: &AsyncFd<OwnedFd>) -> Option<OwnedFd> {
    let mut ready = listener.readable().await.ok()?;
    let socket = match ready.try_io(|listener| packet::accept(listener.get_ref().as_fd())).ok()? {
        Ok(socket) => socket,
        Err(error) => {
            // Out of descriptors, most likely: others will be closed.
            log::warn!("hot restart: accept: {error}");
            sleep(Duration::from_millis(ACCEPT_BACKOFF_MS)).await;
            return None;
        }
    };
    let peer = packet::peer(socket.as_fd()).ok()?;
    if peer.user != packet::own_user() {
        log::warn!("hot restart: process {} of user {} is not listened to", peer.process, peer.user);
        return None;
    }
    Some(socket)
}

/// The next message; whatever came with it is closed.
pub(super) async fn message(socket: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let mut ready = socket.readable().await?;
        let Ok(received) = ready.try_io(|socket| packet::receive(socket.get_ref().as_fd(), &mut bytes))
        else {
            continue;
        };
        let (length, _) = received?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(length);
        return Ok(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::VERSION;
    use super::*;

    fn name(of: &str) -> String {
        format!("@ringway-successor-{of}-{}", std::process::id())
    }

    fn on_a_loop(test: impl Future<Output = ()>) {
        crate::server::event_loop::new().unwrap().block_on(test);
    }

    const HELLO: Request = Request::Hello { version: VERSION, epoch: 1 };
    const WELCOME: Reply = Reply::Welcome { started_s: 1, generation: 1 };

    #[test]
    fn who_sends_no_message_or_does_not_greet_is_not_listened_to() {
        on_a_loop(async {
            let mut successor = Successor::await_at(packet::listen(&name("garbage")).unwrap()).unwrap();
            for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0; MESSAGE_BYTES_MAX + 1], &Request::Drain.encode()] {
                let socket = packet::connect(&name("garbage")).unwrap();
                packet::send(socket.as_fd(), bytes, &[]).unwrap();
                assert_eq!(successor.next().await, Event::Left(false));
                assert_eq!(packet::receive(socket.as_fd(), &mut [0; 8]).unwrap().0, 0, "closed");
            }
            let socket = packet::connect(&name("garbage")).unwrap();
            packet::send(socket.as_fd(), &HELLO.encode(), &[]).unwrap();
            assert_eq!(successor.next().await, Event::Asked(HELLO));
        });
    }

    #[test]
    fn one_that_hangs_is_followed_by_another_until_one_has_taken_over() {
        on_a_loop(async {
            let name = name("hangs");
            let mut successor = Successor::await_at(packet::listen(&name).unwrap()).unwrap();
            let greet = || {
                let socket = packet::connect(&name).unwrap();
                packet::send(socket.as_fd(), &HELLO.encode(), &[]).unwrap();
                socket
            };
            let _hangs = greet();
            assert_eq!(successor.next().await, Event::Asked(HELLO));
            successor.reply(&WELCOME, &[]);
            let second = greet();
            assert_eq!(successor.next().await, Event::Left(false));
            assert_eq!(successor.next().await, Event::Asked(HELLO));
            successor.reply(&WELCOME, &[]);
            packet::send(second.as_fd(), &Request::Drain.encode(), &[]).unwrap();
            assert_eq!(successor.next().await, Event::Asked(Request::Drain));
            successor.reply(&Reply::Draining, &[]);
            assert!(successor.is_there());
            let third = greet();
            drop(second);
            assert_eq!(successor.next().await, Event::Left(true));
            let third = packet::watch(third).unwrap();
            let answer =
                tokio::select! { _ = successor.next() => panic!(), answer = message(&third) => answer };
            assert_eq!(Reply::decode(&answer.unwrap()), Some(Reply::Refused(Refusal::Replaced)));
        });
    }
}
