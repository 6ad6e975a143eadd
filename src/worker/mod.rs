//! One core: a runtime, the shared state of its connections, and the commands that reach it.
mod apply;
mod listeners;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use crate::base::socket_address::SocketAddress;
use crate::filter::on_demand::AskedHost;
use crate::format::access_log_buffer::AccessLogBuffer;
use crate::format::access_log_queue::LogQueue;
use crate::proxy::{ConnectionLimit, Handover, WorkerContext};
#[cfg(test)]
use crate::runtime::Endpoint;
use crate::runtime::deferred::Job;
use crate::runtime::mailbox::{Mailbox, MailboxSender};
use crate::runtime::{Runtime, TaskId, allocator};
use crate::snapshot::{Generation, Snapshot};
use crate::telemetry::{Registry, ServerStat, Slot};

/// What a worker can be told.
#[derive(Debug)]
pub enum Command {
    /// Serve this configuration, as soon as there are sockets. A listener's number is its place in the snapshot.
    Start { snapshot: Arc<Snapshot> },
    /// Serve a connection that another worker has accepted.
    Serve(Handover),
    /// What this task waits for has been made.
    Made(TaskId),
    /// What has changed, with the sockets of listeners that are new, by their numbers.
    Generation { generation: Arc<Generation>, sockets: Vec<(usize, OwnedFd)> },
    /// Responses tell their clients to close, or no longer.
    HealthFailed(bool),
    /// Responses tell their clients to close, more and more of them over this time; listeners still accept.
    Spread { over: Duration, inbound_only: bool },
    /// Stop accepting on the listeners for which the filter holds; their queued connections are still accepted, but where
    /// another process goes on accepting.
    StopListeners { inbound_only: bool, handed_over: Arc<[SocketAddress]> },
    /// End: finish what runs, for this long at most.
    Drain { deadline: Duration },
}

/// What a worker is made from.
#[derive(Debug)]
pub struct Setup {
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub workers: usize,
    /// How to reach all of them, by number.
    pub peers: Vec<MailboxSender<Command>>,
    /// Seed of its random generator.
    pub seed: u64,
    /// The process's limit of connections.
    pub connections: ConnectionLimit,
    /// The log thread's queue, and when records go there.
    pub access_log: AccessLogSetup,
    /// How it asks the control thread for virtual hosts; `None`: it asks nobody.
    pub asked_hosts: Option<Sender<AskedHost>>,
    /// Who makes what is made with its first use; `None`: the worker itself.
    pub maker: Option<Sender<Job>>,
}

/// How a worker hands over access-log records.
#[derive(Clone, Debug)]
pub struct AccessLogSetup {
    pub queue: LogQueue,
    /// Longest time a record waits.
    pub flush_interval: Duration,
    /// Bytes that are handed over at once.
    pub flush_min_bytes: usize,
}

/// One core, moved on turn by turn by the thread that owns it.
#[derive(Debug)]
pub struct Core {
    runtime: Runtime,
    context: Rc<WorkerContext>,
    worker: Rc<apply::Worker>,
}

/// Runs a worker until it has drained.
///
/// # Errors
/// The kernel refuses the event loop's visits: the worker cannot go on.
pub fn run(
    setup: &Setup,
    runtime: &Runtime,
    registry: &Registry,
    mailbox: Mailbox<Command>,
) -> io::Result<()> {
    let core = Core::new(setup, runtime, registry, mailbox);
    allocator::pass_from_now_on();
    while !core.is_finished() {
        core.turn()?;
    }
    core.end();
    Ok(())
}

impl Core {
    /// A core that waits for its first command.
    pub fn new(setup: &Setup, runtime: &Runtime, registry: &Registry, mailbox: Mailbox<Command>) -> Self {
        let server = registry.server(Slot::Worker(setup.index));
        let AccessLogSetup { queue, flush_interval, flush_min_bytes } = setup.access_log.clone();
        let context = WorkerContext::new(
            runtime.clone(),
            server,
            setup.connections.clone(),
            AccessLogBuffer::new(queue, flush_interval, flush_min_bytes),
            setup.seed,
            setup.index,
            setup.workers,
        );
        setup.asked_hosts.iter().for_each(|control| context.on_demand.connect(control.clone()));
        setup.maker.iter().for_each(|maker| runtime.set_maker(maker.clone(), setup.index));
        let worker = Rc::new(apply::Worker::new(Rc::clone(&context), setup.index, setup.peers.clone()));
        let receiving = Rc::clone(&worker);
        let handle = runtime.clone();
        runtime.spawn(async move {
            loop {
                while let Some(command) = mailbox.try_recv() {
                    receiving.obey(command);
                }
                handle.mailbox_rung().await;
            }
        });
        context.server.gauge_inc(ServerStat::Workers);
        Self { runtime: runtime.clone(), context, worker }
    }

    /// One turn of its event loop.
    ///
    /// # Errors
    /// The kernel refuses the visit: the worker cannot go on.
    pub fn turn(&self) -> io::Result<()> {
        self.runtime.turn()?;
        self.worker.report();
        if self.runtime.has_trimmed() {
            self.runtime.trimmed(self.worker.trim());
            self.worker.report_memory();
        }
        Ok(())
    }

    /// Whether it has drained.
    pub fn is_finished(&self) -> bool {
        self.worker.is_finished()
    }

    /// Closes what is left and hands over the last access-log records.
    pub fn end(self) {
        let Self { runtime, context, .. } = self;
        context.server.gauge_dec(ServerStat::Workers);
        runtime.shut_down();
        context.clusters.clear();
        context.access_log.borrow_mut().flush();
    }

    /// Serves on sockets of the simulation, which cannot be sent between threads as a command can.
    #[cfg(test)]
    pub(crate) fn start_for_test(&self, snapshot: &Snapshot, sockets: Vec<(usize, Endpoint)>) {
        self.worker.start(snapshot, sockets);
    }
}
