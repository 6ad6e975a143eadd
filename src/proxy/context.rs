//! What all connections of a worker share.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::by_address::ListenersByAddress;
use super::chain::HttpChain;
use super::date::DateCache;
use super::drain::Drain;
use super::listener::ConnectionLimit;
use super::on_demand::OnDemand;
use super::stream::{Stream, StreamPool};
use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::cluster::ClusterManager;
use crate::config::access_log::AccessLogType;
use crate::filter::on_demand::AskedHost;
use crate::format::access_log::AccessLog;
use crate::format::access_log_buffer::AccessLogBuffer;
use crate::format::context::FormatContext;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::load_report::LoadReport;
use crate::runtime::{Runtime, TaskId};
use crate::telemetry::metrics::ServerCells;

/// The shared state of one core.
#[derive(Debug)]
pub struct WorkerContext {
    /// The event loop.
    pub runtime: Runtime,
    /// Clusters, by name.
    pub clusters: ClusterManager,
    /// The process's counters, this core's part.
    pub server: ServerCells,
    /// Recycled request state.
    pub streams: StreamPool,
    /// Whether connections are being ended.
    pub drain: Drain,
    /// The process's limit of connections.
    pub connections: ConnectionLimit,
    /// Virtual hosts that requests ask for.
    pub on_demand: OnDemand,
    /// Listeners that others hand connections to.
    pub listeners: ListenersByAddress,
    /// Balancing, request ids, fractions.
    pub rng: RefCell<Rng>,
    /// The `date` header of this second.
    pub date: DateCache,
    /// What an endpoint has reported of its load: room for one at a time.
    pub(super) load_report: RefCell<LoadReport>,
    /// Access-log records on their way to the log thread.
    pub access_log: RefCell<AccessLogBuffer>,
    access_log_task: Cell<TaskId>,
    /// Accept loops that have not ended: a drain waits for them, their clients have completed a handshake.
    pub accepting: Cell<usize>,
    /// Open connections of clients on this core.
    pub open: Cell<usize>,
    ids: Cell<u64>,
    ids_step: u64,
}

impl WorkerContext {
    /// The state of worker `index` of `workers`.
    pub fn new(
        runtime: Runtime,
        server: ServerCells,
        connections: ConnectionLimit,
        access_log: AccessLogBuffer,
        seed: u64,
        index: usize,
        workers: usize,
    ) -> Rc<Self> {
        let context = Rc::new(Self {
            clusters: ClusterManager::new(&runtime, index, !seed),
            runtime,
            server,
            streams: StreamPool::default(),
            drain: Drain::default(),
            connections,
            on_demand: OnDemand::default(),
            listeners: ListenersByAddress::default(),
            rng: RefCell::new(Rng::from_seed(seed)),
            date: DateCache::default(),
            load_report: RefCell::default(),
            access_log: RefCell::new(access_log),
            access_log_task: Cell::new(TaskId::NONE),
            accepting: Cell::new(0),
            open: Cell::new(0),
            ids: Cell::new(index as u64),
            ids_step: workers.max(1) as u64,
        });
        context.access_log_task.set(context.runtime.spawn(flush_access_log(Rc::clone(&context))));
        context
    }

    /// A number no other connection of the process has; never 0.
    pub fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + self.ids_step);
        self.ids.get()
    }

    /// It has been told what there is of a virtual host that requests asked for: those who wait for it go on.
    pub fn answer_host(&self, asked: &AskedHost) {
        for task in self.on_demand.answer(asked, self.runtime.now()) {
            self.runtime.wake(task);
        }
    }

    /// Routes are others now: requests that wait for a virtual host may find it in them.
    pub fn look_again_for_hosts(&self) {
        for task in self.on_demand.look_again() {
            self.runtime.wake(task);
        }
    }

    /// Records a request that is over in the logs of its chain.
    pub(super) fn log_access(&self, chain: &HttpChain, stream: &Stream) {
        if chain.manager.access_logs.is_empty() {
            return;
        }
        let format = FormatContext {
            request: Some(&stream.request),
            response: Some(&stream.response),
            trailers: Some(&stream.trailers),
            log_type: AccessLogType::DownstreamEnd,
            ..FormatContext::new(&stream.info, self.runtime.now().0, self.random())
        };
        self.write_logs(&chain.manager.access_logs, &format, &mut chain.scratch.borrow_mut().matching);
    }

    /// Writes a record to these logs.
    pub(super) fn write_logs(
        &self,
        logs: &[AccessLog],
        format: &FormatContext<'_>,
        matching: &mut MatchScratch,
    ) {
        let mut buffer = self.access_log.borrow_mut();
        let waiting = buffer.flush_at_ns().is_some();
        for log in logs {
            log.log(format, matching, &mut buffer);
        }
        if !waiting && buffer.flush_at_ns().is_some() {
            self.runtime.wake(self.access_log_task.get());
        }
    }

    /// 64 random bits.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }
}

/// Hands access-log records over when they have waited long enough.
async fn flush_access_log(context: Rc<WorkerContext>) {
    let timer = context.runtime.timer();
    timer.claim();
    poll_fn(|_| -> Poll<()> {
        let mut buffer = context.access_log.borrow_mut();
        buffer.flush_due(context.runtime.now().0);
        if let Some(due) = buffer.flush_at_ns() {
            // What was due by now is gone, so this arms.
            let _ = timer.poll_at(Now(due));
        }
        Poll::Pending
    })
    .await;
}
