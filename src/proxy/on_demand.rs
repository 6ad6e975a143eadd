//! Requests that wait until a control plane has said what virtual host there is for their host (the filter `on_demand`).
//!
//! A core asks once for a name, however many requests wait for it, and not again for a while once there was an answer: those whose
//! host still has no virtual host then are answered as without the filter. The control thread is told by a bounded queue, and
//! answers with the generation that has the table. Whatever else changes routes has those who wait look, too: their virtual host may
//! be there under another name, or the table have all of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::mpsc::Sender;

use super::chain::HttpChain;
use super::downstream::Connection;
use super::error::ProxyError;
use super::http::Request;
use super::routing;
use super::stream::Stream;
use crate::base::clock::Now;
use crate::base::limits::{
    ON_DEMAND_ANSWER_KEPT, ON_DEMAND_HELD_MAX, ON_DEMAND_LOOKS, ON_DEMAND_NAMES_MAX, ON_DEMAND_WAIT,
};
use crate::filter::on_demand::AskedHost;
use crate::runtime::TaskId;
use crate::telemetry::ServerStat;

/// What the requests of one core have asked for.
#[derive(Debug, Default)]
pub struct OnDemand {
    /// How the control thread is asked; empty: it is not.
    control: OnceCell<Sender<AskedHost>>,
    names: RefCell<BTreeMap<AskedHost, State>>,
    /// How many requests wait.
    held: Cell<usize>,
    /// When it was last looked for names that need not be kept.
    looked_at: Cell<Now>,
    /// How often routes have changed under requests that wait.
    changes: Cell<u64>,
}

#[derive(Debug)]
enum State {
    UnderWay(Rc<Waiting>),
    /// There was an answer, and until then none is asked for.
    Answered {
        until: Now,
    },
}

/// Those who wait for one name.
#[derive(Debug, Default)]
struct Waiting {
    /// Until when whoever comes waits with those that are there; later it is asked for again.
    until: Cell<Now>,
    is_answered: Cell<bool>,
    tasks: RefCell<Vec<TaskId>>,
}

/// A request that waits.
#[derive(Debug)]
struct Held<'a> {
    all: &'a OnDemand,
    asked: AskedHost,
    waiting: Rc<Waiting>,
    task: TaskId,
}

/// How a request begins to wait.
#[derive(Debug)]
enum Begun<'a> {
    Held(Held<'a>),
    /// There was an answer a moment ago.
    Answered,
    /// Too many wait or have asked, or its host is no name.
    Refused,
}

impl OnDemand {
    /// Names are asked for there from now on.
    pub fn connect(&self, control: Sender<AskedHost>) {
        // There is one control thread, which is told once.
        let _ = self.control.set(control);
    }

    /// There is an answer; who has waited for it.
    pub fn answer(&self, asked: &AskedHost, now: Now) -> Vec<TaskId> {
        let mut names = self.names.borrow_mut();
        let Some(state) = names.get_mut(asked) else { return Vec::new() };
        let State::UnderWay(waiting) = &*state else { return Vec::new() };
        waiting.is_answered.set(true);
        let tasks = waiting.tasks.take();
        *state = State::Answered { until: now.after(ON_DEMAND_ANSWER_KEPT) };
        tasks
    }

    /// Routes are others now; who waits, and is to look whether they have what it waits for.
    pub fn look_again(&self) -> Vec<TaskId> {
        if self.held.get() == 0 {
            return Vec::new();
        }
        self.changes.set(self.changes.get().wrapping_add(1));
        let mut tasks = Vec::with_capacity(self.held.get());
        for state in self.names.borrow().values() {
            if let State::UnderWay(waiting) = state {
                tasks.extend_from_slice(&waiting.tasks.borrow());
            }
        }
        tasks
    }

    fn begin(&self, asked: AskedHost, task: TaskId, now: Now) -> Begun<'_> {
        let mut names = self.names.borrow_mut();
        let before = match names.get(&asked) {
            Some(State::Answered { until }) if *until > now => return Begun::Answered,
            Some(State::UnderWay(waiting)) => Some(Rc::clone(waiting)),
            Some(State::Answered { .. }) | None => None,
        };
        let has_room = names.contains_key(&asked) || self.has_room(&mut names, now);
        let is_asked = before.as_ref().is_some_and(|waiting| waiting.until.get() > now);
        if self.held.get() >= ON_DEMAND_HELD_MAX || !has_room {
            return Begun::Refused;
        }
        if !is_asked && !self.ask(&asked) {
            return Begun::Refused;
        }
        let waiting = before.unwrap_or_default();
        if !is_asked {
            waiting.until.set(now.after(ON_DEMAND_WAIT));
            names.insert(asked.clone(), State::UnderWay(Rc::clone(&waiting)));
        }
        waiting.tasks.borrow_mut().push(task);
        self.held.set(self.held.get() + 1);
        Begun::Held(Held { all: self, asked, waiting, task })
    }

    /// Whether one more name may be kept. Many that are refused do not all have it looked through.
    fn has_room(&self, names: &mut BTreeMap<AskedHost, State>, now: Now) -> bool {
        if names.len() >= ON_DEMAND_NAMES_MAX && now >= self.looked_at.get().after(ON_DEMAND_LOOKS) {
            self.looked_at.set(now);
            names.retain(|_, state| !matches!(state, State::Answered { until } if *until <= now));
        }
        names.len() < ON_DEMAND_NAMES_MAX
    }

    /// Asks the control thread, if it can be asked now.
    fn ask(&self, asked: &AskedHost) -> bool {
        self.control.get().is_some_and(|control| control.try_send(asked.clone()).is_ok())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.held.set(self.all.held.get() - 1);
        {
            // Of two that one task has only one.
            let mut tasks = self.waiting.tasks.borrow_mut();
            if let Some(at) = tasks.iter().position(|task| *task == self.task) {
                tasks.swap_remove(at);
            }
        }
        let mut names = self.all.names.borrow_mut();
        let is_there = |own: &Rc<Waiting>| Rc::ptr_eq(own, &self.waiting);
        let is_under_way = matches!(names.get(&self.asked), Some(State::UnderWay(own)) if is_there(own));
        // The table's and its own: nobody else waits.
        if is_under_way && Rc::strong_count(&self.waiting) == 2 {
            names.remove(&self.asked);
        }
    }
}

/// Whether the request has to ask for its virtual host before it goes on.
pub(super) fn is_unknown(connection: &Connection, stream: &Stream, request: &Request) -> bool {
    let chain = &connection.chain;
    chain.manager.on_demand.is_some()
        && !routing::skips_filters(connection, stream, request)
        && !has_host(chain, stream)
}

fn has_host(chain: &HttpChain, stream: &Stream) -> bool {
    let scratch = &mut *chain.scratch.borrow_mut();
    chain.manager.routes.has_virtual_host(&stream.request, &mut scratch.route)
}

/// Whether a request that waits need not wait any longer, by the routes that there are now.
fn is_settled(whole: &Rc<HttpChain>, stream: &Stream) -> bool {
    let chain = newest(Rc::clone(whole)).scope(&stream.request, &mut Vec::new());
    chain.manager.on_demand.is_none() || has_host(&chain, stream)
}

/// Asks for the request's virtual host and lets it wait until it is known what there is, or for as long as it may: the whole chain
/// as it is then. Its body stays where it is.
///
/// # Errors
/// The client is gone, or a limit of the request has passed.
pub(super) async fn hold(
    connection: &Connection,
    whole: Rc<HttpChain>,
    stream: &Stream,
    request: &Request,
) -> Result<Rc<HttpChain>, ProxyError> {
    let Connection { context, chain, channel: downstream, timer, .. } = connection;
    let now = context.runtime.now();
    let table = chain.manager.on_demand.as_ref();
    let begun = match table.and_then(|table| table.asked(stream.request.authority())) {
        Some(asked) => context.on_demand.begin(asked, context.runtime.current_task(), now),
        None => Begun::Refused,
    };
    let held = match begun {
        Begun::Held(held) => held,
        Begun::Answered => return Ok(newest(whole)),
        Begun::Refused => {
            context.server.inc(ServerStat::OnDemandVhdsRefused);
            return Ok(newest(whole));
        }
    };
    context.server.inc(ServerStat::OnDemandVhdsHeld);
    let due = now.after(ON_DEMAND_WAIT);
    let mut seen = context.on_demand.changes.get();
    poll_fn(|_| {
        let changes = context.on_demand.changes.get();
        let is_other = std::mem::replace(&mut seen, changes) != changes;
        if held.waiting.is_answered.get() || is_other && is_settled(&whole, stream) {
            return Poll::Ready(Ok(()));
        }
        // Behind an upgrade or CONNECT, too: what follows waits for the tunnel.
        downstream.gather();
        let gone =
            if request.body.is_done() { downstream.poll_peer_closed() } else { downstream.poll_broken() };
        if gone.is_ready() {
            return Poll::Ready(Err(connection.gone()));
        }
        if timer.poll_at(due).is_ready() {
            context.server.inc(ServerStat::OnDemandVhdsTimeout);
            return Poll::Ready(Ok(()));
        }
        request.deadlines.poll(timer).map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    })
    .await?;
    Ok(newest(whole))
}

/// The chain that has taken the place of this one, if there is one.
fn newest(chain: Rc<HttpChain>) -> Rc<HttpChain> {
    chain.renewed().unwrap_or(chain)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::config::ads::ResourceSource;
    use crate::filter::on_demand::OnDemandTable;

    /// A core whose control thread takes so many names at once.
    fn asking(queued: usize) -> (OnDemand, Receiver<AskedHost>) {
        let (sender, receiver) = channel(queued);
        let own = OnDemand::default();
        own.connect(sender);
        (own, receiver)
    }

    fn host(name: &str) -> AskedHost {
        let table = Arc::new(OnDemandTable { source: ResourceSource::Ads, name: "routes".into() });
        AskedHost { table, host: name.into() }
    }

    fn held<'a>(core: &'a OnDemand, name: &str, now: Now) -> Held<'a> {
        match core.begin(host(name), TaskId::NONE, now) {
            Begun::Held(held) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn name_is_asked_for_once_while_requests_wait_and_not_again_behind_its_answer() {
        let (core, mut asked) = asking(8);
        let now = Now(1);
        let [first, second] = [(); 2].map(|()| held(&core, "a", now));
        assert_eq!(asked.try_recv().unwrap(), host("a"));
        assert!(asked.try_recv().is_err(), "one of them has asked");
        assert!(core.answer(&host("b"), now).is_empty() && !first.waiting.is_answered.get());
        assert_eq!(core.answer(&host("a"), now).len(), 2);
        assert!(first.waiting.is_answered.get() && second.waiting.is_answered.get());
        drop((first, second));
        assert!(matches!(core.begin(host("a"), TaskId::NONE, now), Begun::Answered));
        let later = now.after(ON_DEMAND_ANSWER_KEPT);
        let again = held(&core, "a", later);
        assert_eq!(asked.try_recv().unwrap(), host("a"));
        assert!(!again.waiting.is_answered.get());
    }

    #[test]
    fn whoever_waits_looks_again_when_routes_change() {
        let (core, _asked) = asking(8);
        assert!(core.look_again().is_empty());
        let requests = ["a", "a", "b"].map(|name| held(&core, name, Now(1)));
        core.answer(&host("b"), Now(1));
        let before = core.changes.get();
        assert_eq!(core.look_again().len(), 2, "the other has its answer");
        assert_ne!(core.changes.get(), before);
        drop(requests);
        assert!(core.look_again().is_empty());
    }

    #[test]
    fn name_that_nobody_waits_for_any_more_is_forgotten() {
        let (core, mut asked) = asking(8);
        let [first, second] = [(); 2].map(|()| held(&core, "a", Now(1)));
        drop(first);
        assert_eq!((core.names.borrow().len(), core.held.get()), (1, 1));
        drop(second);
        assert_eq!((core.names.borrow().len(), core.held.get()), (0, 0));
        assert!(core.answer(&host("a"), Now(1)).is_empty(), "too late");
        let _again = held(&core, "a", Now(1));
        assert!(asked.try_recv().is_ok() && asked.try_recv().is_ok());
    }

    /// As long as somebody waits the next may come: the control thread has given the name up by then.
    #[test]
    fn name_that_is_under_way_too_long_is_asked_for_again() {
        let (core, mut asked) = asking(8);
        let first = held(&core, "a", Now(1));
        let second = held(&core, "a", Now(1).after(ON_DEMAND_WAIT));
        assert!(asked.try_recv().is_ok() && asked.try_recv().is_ok());
        assert_eq!(core.answer(&host("a"), Now(2)).len(), 2);
        assert!(first.waiting.is_answered.get() && second.waiting.is_answered.get());
    }

    #[test]
    fn too_many_names_and_requests_are_refused_and_a_full_queue_is() {
        let (core, _asked) = asking(ON_DEMAND_NAMES_MAX + 1);
        let mut now = Now(1).after(Duration::from_secs(1));
        for number in 0..ON_DEMAND_NAMES_MAX {
            let _held = held(&core, &number.to_string(), now);
            core.answer(&host(&number.to_string()), now);
        }
        assert!(matches!(core.begin(host("more"), TaskId::NONE, now), Begun::Refused));
        assert_eq!(core.names.borrow().len(), ON_DEMAND_NAMES_MAX);
        now = now.after(ON_DEMAND_ANSWER_KEPT);
        let requests: Vec<_> = (0..ON_DEMAND_HELD_MAX).map(|_| held(&core, "more", now)).collect();
        assert_eq!(core.names.borrow().len(), 1, "answers are not kept for ever");
        assert!(matches!(core.begin(host("more"), TaskId::NONE, now), Begun::Refused), "too many wait");
        drop(requests);
        let (full, _asked) = asking(1);
        let _first = held(&full, "a", now);
        assert!(matches!(full.begin(host("b"), TaskId::NONE, now), Begun::Refused));
        assert!(matches!(OnDemand::default().begin(host("a"), TaskId::NONE, now), Begun::Refused));
    }
}
