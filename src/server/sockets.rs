//! The process's listening sockets: bound, or taken from the process before this one, dealt to the workers, and kept for
//! the one that comes after.
//!
//! A copy of each is kept while the process may be replaced, so that its successor accepts from the same queues: no
//! connection is lost that waits in one. The copies are closed before the workers are told to stop, since what is queued
//! at a socket that stays open but is not accepted from would wait in vain.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::restart::Predecessor;
use super::{listen_options, patience};
use crate::base::socket_address::SocketAddress;
use crate::config::address::Address;
use crate::config::listener::{ListenAddress, Listener, TrafficDirection};
use crate::control::admin::ListenerStatus;
use crate::runtime::listen::{self, ListenOptions};
use crate::snapshot::Snapshot;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct ListenSocketSet(Vec<Bound>);

/// The sockets of one address of a listener.
#[derive(Debug)]
struct Bound {
    /// The listener's number.
    number: usize,
    listener: Box<str>,
    /// As configured; its port may be 0.
    asked: SocketAddress,
    listen: ListenAddress,
    is_inbound: bool,
    /// One for each worker, or one for all, as always in the Unix domain. Source: `enable_reuse_port`.
    per_worker: bool,
    /// With the address that was bound.
    options: ListenOptions,
    /// Before they are dealt the sockets, then copies of them: where a next process may come, and of the one for all, by which
    /// a listener that binds otherwise goes on.
    sockets: Vec<OwnedFd>,
    is_dealt: bool,
    /// The next process has been given them.
    is_given: bool,
}

/// Sockets of one worker, each with the number of its listener.
pub(super) type Hand = Vec<(usize, OwnedFd)>;

/// How a listener comes by the sockets of an address, beside those that this process has.
#[derive(Debug)]
enum Way<'a> {
    /// Nobody here has them.
    Binds,
    /// Those that are there share the address.
    Joins,
    /// By the one that is there and is not shared.
    Keeps(&'a OwnedFd),
}

impl ListenSocketSet {
    /// Sockets for every address of every listener that binds, those that the process before this one has taken from it,
    /// and what is bound.
    ///
    /// # Errors
    /// An address that cannot be bound, by name.
    pub(super) fn bind(
        snapshot: &Snapshot,
        workers: usize,
        predecessor: Option<&Predecessor>,
    ) -> Result<(Self, Vec<ListenerStatus>), String> {
        let mut all = Self::default();
        let mut statuses = Vec::new();
        for (number, resource) in snapshot.listeners.iter().enumerate() {
            if let Some(status) = internal_status(&resource.config) {
                statuses.push(status);
            } else if resource.config.bind_to_port {
                // The one that had an address may be on its way out.
                let bind = |what: &str, bind: &dyn Fn() -> io::Result<Vec<OwnedFd>>| {
                    patience::while_in_use(&what, bind)
                };
                let bound = all.add(number, &resource.config, workers, predecessor, bind);
                statuses
                    .push(bound.map_err(|reason| format!("listener {}: {reason}", resource.config.name))?);
            }
        }
        Ok((all, statuses))
    }

    /// Sockets for every address of one listener, and what is bound. `bind` makes one attempt or several.
    ///
    /// # Errors
    /// An address that cannot be bound: there are no sockets of this listener then.
    pub(super) fn add(
        &mut self,
        number: usize,
        config: &Listener,
        workers: usize,
        predecessor: Option<&Predecessor>,
        bind: impl Fn(&str, &dyn Fn() -> io::Result<Vec<OwnedFd>>) -> io::Result<Vec<OwnedFd>>,
    ) -> Result<ListenerStatus, String> {
        let mut own = Vec::new();
        let mut addresses = Vec::new();
        for listen in &config.addresses {
            let asked = listen.address.socket_address();
            let asked = asked.ok_or("no text")?;
            let options = listen_options(config, &asked, listen);
            let per_worker = config.shares(listen);
            let what = format!("listener {} on {asked}", config.name);
            let failed = |error| format!("cannot listen on {asked}: {error}");
            let inherited = predecessor.map_or_else(Vec::new, |process| {
                process.sockets(&asked, &config.name).unwrap_or_else(|error| {
                    log::error!("{what}: the process before this one does not give its sockets: {error}");
                    Vec::new()
                })
            });
            let sockets = if !inherited.is_empty() {
                if let Address::Pipe(pipe) = &listen.address {
                    // Its mode may be another one now.
                    listen::set_mode(&pipe.path, pipe.mode).map_err(failed)?;
                }
                inherited
            } else {
                match self.way(config, listen, &options, &[])? {
                    Way::Keeps(socket) => Ok(vec![listen::again(&options, socket).map_err(failed)?]),
                    Way::Joins => listen::join(&options, workers),
                    Way::Binds if per_worker => bind(&what, &|| listen::bind(&options, workers)),
                    Way::Binds => bind(&what, &|| Ok(vec![listen::bind_exclusive(&options)?])),
                }
                .map_err(failed)?
            };
            let local = match (sockets.first(), &asked) {
                (Some(socket), SocketAddress::Ip(_)) => listen::address(socket).map_err(failed)?,
                _ => asked.clone(),
            };
            addresses.push(Address::from(&local));
            own.push(Bound {
                number,
                listener: config.name.clone(),
                asked,
                listen: listen.clone(),
                is_inbound: config.traffic_direction == TrafficDirection::Inbound,
                per_worker,
                options: ListenOptions { address: local, ..options },
                sockets,
                is_dealt: false,
                is_given: false,
            });
        }
        self.0.extend(own);
        Ok(ListenerStatus { name: (*config.name).into(), addresses })
    }

    /// Whether an address of a listener can be had once those of the numbers `leaving` are gone. `is_left`: workers may still have
    /// what is in its way.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn probe(
        &self,
        config: &Listener,
        listen: &ListenAddress,
        leaving: &[usize],
        is_left: bool,
    ) -> Result<(), String> {
        let asked = listen.address.socket_address().ok_or("no text")?;
        let options = listen_options(config, &asked, listen);
        let beside = match self.way(config, listen, &options, leaving)? {
            Way::Keeps(_) => return Ok(()),
            Way::Binds if is_left => return Ok(()),
            Way::Joins => true,
            Way::Binds => false,
        };
        listen::probe(&options, beside).map_err(|error| format!("cannot listen on {asked}: {error}"))
    }

    /// How a listener comes by the sockets of an address that no other is to have. Those of the numbers `leaving` do not count.
    ///
    /// # Errors
    /// What is there does not share the address, or cannot become what is wanted.
    fn way(
        &self,
        config: &Listener,
        listen: &ListenAddress,
        wanted: &ListenOptions,
        leaving: &[usize],
    ) -> Result<Way<'_>, String> {
        let shares = config.shares(listen);
        let is_beside = |bound: &&Bound| !leaving.contains(&bound.number) && bound.listen.overlaps(listen);
        let beside = || self.0.iter().filter(is_beside);
        let cannot = |what: String| Err(format!("cannot listen on {}: {what}", listen.address));
        let Some(there) = beside().find(|bound| bound.listen.address.is_at(&listen.address)) else {
            return match beside().find(|bound| !(shares && bound.per_worker)) {
                Some(Bound { listener, asked, .. }) => {
                    cannot(format!("already in use by listener {listener} on {asked}"))
                }
                None if beside().next().is_some() => Ok(Way::Joins),
                None => Ok(Way::Binds),
            };
        };
        match there.sockets.first() {
            _ if shares != there.per_worker => {
                cannot("enable_reuse_port cannot change at the same address".into())
            }
            _ if shares => Ok(Way::Joins),
            Some(_) if !there.options.fits(wanted) => {
                cannot("the options of a socket that is not shared cannot change".into())
            }
            Some(socket) => Ok(Way::Keeps(socket)),
            None => Ok(Way::Binds),
        }
    }

    /// The sockets of one listener are another's from now on.
    pub(super) fn pass_on(&mut self, from: usize, to: usize, name: &str) {
        for bound in self.0.iter_mut().filter(|bound| bound.number == from) {
            bound.number = to;
            bound.listener = name.into();
        }
    }

    /// That listener is no more.
    pub(super) fn remove(&mut self, number: usize) {
        self.0.retain(|bound| bound.number != number);
    }

    /// Deals those that are not dealt yet to so many workers; with `keep` a copy of each stays.
    pub(super) fn deal(&mut self, workers: usize, keep: bool) -> Vec<Hand> {
        let mut hands: Vec<Hand> = (0..workers).map(|_| Vec::new()).collect();
        for bound in self.0.iter_mut().filter(|bound| !bound.is_dealt) {
            bound.is_dealt = true;
            for (hand, sockets) in hands.iter_mut().zip(bound.deal(workers, keep)) {
                hand.extend(sockets.into_iter().map(|socket| (bound.number, socket)));
            }
        }
        hands
    }

    /// The sockets of an address, for the next process. A port 0 names as many addresses as there are listeners.
    pub(super) fn give(&mut self, address: &SocketAddress, listener: &str) -> Vec<BorrowedFd<'_>> {
        let is_any = address.socket().is_some_and(|address| address.port() == 0);
        let is_asked =
            |bound: &&mut Bound| bound.asked == *address && (!is_any || *bound.listener == *listener);
        self.0.iter_mut().find(is_asked).map_or_else(Vec::new, |bound| {
            bound.is_given = true;
            bound.sockets.iter().map(AsFd::as_fd).collect()
        })
    }

    /// Whoever was given sockets has not taken over.
    pub(super) fn take_back(&mut self) {
        self.0.iter_mut().for_each(|bound| bound.is_given = false);
    }

    /// Closes the copies; where the next process accepts.
    pub(super) fn close(&mut self, inbound_only: bool) -> Arc<[SocketAddress]> {
        let mut given = Vec::new();
        for bound in self.0.iter_mut().filter(|bound| bound.is_inbound || !inbound_only) {
            if std::mem::take(&mut bound.is_given) && !bound.sockets.is_empty() {
                given.push(bound.options.address.clone());
            }
            bound.sockets.clear();
        }
        given.into()
    }
}

/// Where an internal listener is to be found, which has no sockets.
pub(super) fn internal_status(config: &Listener) -> Option<ListenerStatus> {
    let addresses = vec![Address::Internal(config.internal()?.clone())];
    Some(ListenerStatus { name: (*config.name).into(), addresses })
}

impl Bound {
    /// The sockets of each worker. Where there are more than workers nothing queued at the rest may be lost, so that some
    /// workers have several; where there are fewer, further ones are bound, or some workers share one.
    fn deal(&mut self, workers: usize, keep: bool) -> Vec<Vec<OwnedFd>> {
        let Self { listener, options, sockets, per_worker, .. } = self;
        let mut all = std::mem::take(sockets);
        if *per_worker && all.len() < workers {
            // Only now: a process that dies before it serves must not have connections in a queue of its own.
            match listen::join(options, workers - all.len()) {
                Ok(more) => all.extend(more),
                Err(error) => log::warn!(
                    "listener {listener} on {}: workers share {} sockets, as no others can be bound: {error}",
                    options.address,
                    all.len()
                ),
            }
        }
        let copy = |socket: &OwnedFd| {
            let copied = socket.try_clone();
            copied
                .inspect_err(|error| log::warn!("listener {listener}: its socket cannot be copied: {error}"))
                .ok()
        };
        if keep || !*per_worker {
            *sockets = all.iter().filter_map(copy).collect();
        }
        let shared: Vec<_> =
            (all.len()..workers).map(|worker| copy(all.get(worker % all.len().max(1))?)).collect();
        let mut dealt: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
        let first_shared = all.len();
        for (index, socket) in all.into_iter().enumerate() {
            dealt[index % workers].push(socket);
        }
        for (worker, socket) in (first_shared..).zip(shared) {
            dealt[worker].extend(socket);
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(sockets: Vec<OwnedFd>, per_worker: bool) -> ListenSocketSet {
        let address = listen::address(&sockets[0]).unwrap();
        ListenSocketSet(vec![Bound {
            number: 3,
            listener: "l".into(),
            asked: any_port(),
            listen: ListenAddress {
                address: Address::from(&any_port()),
                ipv4_compat: false,
                socket_options: Vec::new(),
                tcp_keepalive: None,
            },
            is_inbound: false,
            per_worker,
            options: ListenOptions { address, ..plain() },
            sockets,
            is_dealt: false,
            is_given: false,
        }])
    }

    fn any_port() -> SocketAddress {
        SocketAddress::Ip(([127, 0, 0, 1], 0).into())
    }

    fn plain() -> ListenOptions {
        ListenOptions::plain(([127, 0, 0, 1], 0).into(), 8)
    }

    /// How many sockets each worker has, and how many are kept.
    fn dealt(mut set: ListenSocketSet, workers: usize) -> (Vec<usize>, usize) {
        let hands = set.deal(workers, true);
        assert!(hands.iter().flatten().all(|(number, _)| *number == 3));
        (hands.iter().map(Vec::len).collect(), set.0[0].sockets.len())
    }

    #[test]
    fn every_worker_has_a_socket_and_every_socket_a_worker() {
        let per_worker = |count| bound(listen::bind(&plain(), count).unwrap(), true);
        assert_eq!(dealt(per_worker(2), 2), (vec![1, 1], 2));
        // Fewer workers than before: nobody else would accept what is queued.
        assert_eq!(dealt(per_worker(5), 2), (vec![3, 2], 5));
        // More than before: further sockets.
        assert_eq!(dealt(per_worker(1), 3), (vec![1, 1, 1], 3));
        // One for all, or none other to be had: shared.
        for per_worker in [false, true] {
            let one = vec![listen::bind_exclusive(&plain()).unwrap()];
            assert_eq!(dealt(bound(one, per_worker), 3), (vec![1, 1, 1], 1));
        }
    }

    #[test]
    fn sockets_are_given_by_address_and_listener_and_taken_back() {
        let mut set = bound(listen::bind(&plain(), 2).unwrap(), true);
        let local = &set.0[0].options.address.clone();
        drop(set.deal(2, true));
        let asked = &any_port();
        assert_eq!(set.give(asked, "other").len(), 0);
        assert_eq!(set.give(local, "l").len(), 0, "that port is not configured");
        assert_eq!(set.give(asked, "l").len(), 2);
        set.take_back();
        assert_eq!(set.close(true).len(), 0, "not inbound");
        assert_eq!(set.give(asked, "l").len(), 2);
        assert_eq!(*set.close(false), *std::slice::from_ref(local));
        assert_eq!(set.give(asked, "l").len(), 0);
        assert!(
            listen::bind(&ListenOptions { address: local.clone(), ..plain() }, 1).is_ok(),
            "the copies are closed"
        );
    }
}
