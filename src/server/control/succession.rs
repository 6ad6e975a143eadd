//! Hot restart, seen from the process that is replaced: the next one is listened for, given what it asks for, and told the
//! last counts.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Control;
use crate::control::admin::ServerState;
use crate::control::xds::client::Cache;
use crate::runtime::packet;
use crate::server::listeners::Stopped;
use crate::server::restart::wire::{Refusal, Reply, Request, VERSION, parts};
use crate::server::restart::{Event, FAREWELL_PATIENCE, Successor, TERMINATE_PATIENCE};
use crate::worker::Command;

impl Control<'_> {
    /// Listens for it.
    pub(super) fn await_successor(&mut self) -> io::Result<()> {
        let Some(place) = &self.succession.place else { return Ok(()) };
        self.succession.successor = Some(Successor::await_at(place.listener.try_clone()?)?);
        if let (Some(endpoint), Some(admin)) = (&self.admin, &self.bootstrap.admin) {
            self.succession.admin = Some((admin.address.to_string(), endpoint.listener.duplicate()?));
        }
        Ok(())
    }

    /// Answers it; whether it takes over.
    pub(super) fn heed(&mut self, event: Event, draining: &mut bool) -> bool {
        let request = match event {
            Event::Asked(request) => request,
            Event::Left(false) => {
                log::warn!("hot restart: the next process is gone before it has taken over");
                self.sockets.take_back();
                return false;
            }
            Event::Left(true) => {
                let patience = self.options.parent_shutdown_time;
                log::info!("hot restart: the next process is gone; ending in {} s", patience.as_secs());
                self.orphaned = Some(Box::pin(sleep(patience)));
                return false;
            }
        };
        match request {
            Request::Hello { version, epoch } => {
                let reply = self.greeting(version, epoch, *draining);
                self.sockets.take_back();
                self.reply(&reply);
            }
            Request::Sockets { address, listener, from } => {
                let Some(successor) = &mut self.succession.successor else { return false };
                let sockets = self.sockets.give(&address, &listener);
                let total = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
                let from = sockets.len().min(usize::try_from(from).unwrap_or(usize::MAX));
                let until = sockets.len().min(from + packet::DESCRIPTORS_MAX);
                successor.reply(&Reply::Sockets { total }, &sockets[from..until]);
            }
            Request::Admin { address } => {
                let Some(successor) = &mut self.succession.successor else { return false };
                let socket = self.succession.admin.as_ref().filter(|(at, _)| **at == *address);
                let socket: Vec<_> = socket.iter().map(|(_, socket)| socket.as_fd()).collect();
                successor.reply(&Reply::Admin, &socket);
            }
            Request::Drain => return true,
            Request::Stats { part } => {
                self.tell_stats(part, false);
            }
            Request::Terminate => {
                log::info!("hot restart: told to end by the next process");
                *draining = true;
                self.workers.drain(TERMINATE_PATIENCE);
                self.reply(&Reply::Terminating);
            }
        }
        false
    }

    fn greeting(&self, version: u32, epoch: u32, draining: bool) -> Reply {
        let own = self.options.hot_restart.epoch;
        Reply::Refused(match &self.succession.place {
            _ if version != VERSION => Refusal::Version(VERSION),
            _ if Some(epoch) != own.checked_add(1) => Refusal::Epoch(own),
            _ if draining => Refusal::Ending,
            _ if self.start.is_some() => Refusal::Initializing,
            None => Refusal::Ending,
            Some(place) => {
                log::info!("hot restart: a process of epoch {epoch} is about to take over");
                return Reply::Welcome { started_s: place.started_s, generation: place.generation };
            }
        })
    }

    /// The next process serves: it accepts from the same sockets, and this one no more. The admin endpoint is closed.
    pub(super) fn hand_over(&mut self) {
        log::info!("hot restart: the next process serves; draining");
        self.succession.admin = None;
        // What is told from now on is the next one's to serve.
        self.stopped = Stopped::All;
        self.metrics.stopped(self.listening(false));
        let handed_over = self.sockets.close(false);
        self.workers.send_all(|| Command::StopListeners {
            inbound_only: false,
            handed_over: Arc::clone(&handed_over),
        });
        self.workers.send_all(|| Command::Spread { over: self.drain_spread(), inbound_only: false });
        self.stops = None;
        self.cache.iter().for_each(Cache::end);
        self.process.set_state(ServerState::Draining);
        self.reply(&Reply::Draining);
        // There are three at most, and the oldest one goes.
        self.succession.finish.notify_one();
    }

    /// The workers have ended: a process that has taken over hears the last counts.
    pub(super) async fn say_farewell(&mut self) {
        let farewell = async {
            while self.succession.successor.as_ref().is_some_and(Successor::is_there) {
                match self.succession.event().await {
                    Event::Asked(Request::Stats { part }) => {
                        // Its own predecessor has counted, too.
                        let ended = self.succession.following.as_ref().is_none_or(JoinHandle::is_finished);
                        if self.tell_stats(part, ended) && ended {
                            return;
                        }
                    }
                    Event::Asked(Request::Terminate) => self.reply(&Reply::Terminating),
                    Event::Asked(_) | Event::Left(_) => return,
                }
            }
        };
        // It has lost them if it is too late.
        let _ = timeout(TERMINATE_PATIENCE + FAREWELL_PATIENCE, farewell).await;
    }

    /// Tells a part of the statistics; whether it was the last.
    fn tell_stats(&mut self, part: u32, ended: bool) -> bool {
        let Some(successor) = &mut self.succession.successor else { return true };
        successor.reply_stats(part, self.registry.connections(), ended, || parts(self.registry.bequests()))
    }

    fn reply(&mut self, reply: &Reply) {
        if let Some(successor) = &mut self.succession.successor {
            successor.reply(reply, &[]);
        }
    }
}
