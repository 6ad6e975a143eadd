//! The worker threads: started, commanded, awaited.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;

use super::{maker, output, seed};
use crate::cli::{self, EXIT_FAILURE, EXIT_PANIC, Options};
use crate::config::bootstrap::Bootstrap;
use crate::control::log_writer::LogWriter;
use crate::filter::on_demand::AskedHost;
use crate::proxy::ConnectionLimit;
use crate::runtime::affinity::{self, Affinity, Cpus};
use crate::runtime::mailbox::{MailboxSender, mailbox};
use crate::runtime::{BackendInfo, IoBackend, IoChoice, RingLevel, Runtime};
use crate::snapshot::Snapshot;
use crate::telemetry::Registry;
use crate::worker::{self, AccessLogSetup, Command, Setup};

/// All workers of the process.
#[derive(Debug)]
pub(super) struct Workers {
    mailboxes: Vec<MailboxSender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    running: Arc<Running>,
    backend: BackendInfo,
}

/// Tells the control thread when the last worker has ended.
#[derive(Debug)]
struct Running {
    left: std::sync::atomic::AtomicUsize,
    ended: Notify,
}

impl Workers {
    /// Starts `count` workers, which wait for their first command.
    ///
    /// # Errors
    /// A thread or an event loop cannot be made, in one line.
    pub(super) fn start(
        options: &Options,
        bootstrap: &Bootstrap,
        registry: &Arc<Registry>,
        log_writer: &LogWriter,
        asked_hosts: &Sender<AskedHost>,
        count: usize,
    ) -> Result<Self, String> {
        let choice = io_choice(options);
        let (cpus, affinity) = (Cpus::of_this_process(), affinity_choice(options));
        let (chosen, backends) = std::sync::mpsc::channel();
        let connections = ConnectionLimit::new(&bootstrap.overload);
        let running =
            Arc::new(Running { left: std::sync::atomic::AtomicUsize::new(count), ended: Notify::new() });
        let boxed = |index| mailbox().map_err(|error| format!("worker {index} has no mailbox: {error}"));
        let (mailboxes, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(boxed).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let maker = maker::start(mailboxes.clone()).map_err(|error| {
            format!("the thread for what is made with its first use cannot start: {error}")
        })?;
        let mut threads = Vec::new();
        for (index, receiver) in receivers.into_iter().enumerate() {
            let setup = Setup {
                index,
                workers: count,
                peers: mailboxes.clone(),
                seed: seed(index),
                connections: connections.clone(),
                access_log: AccessLogSetup {
                    queue: log_writer.queue(),
                    flush_interval: options.file_flush_interval,
                    flush_min_bytes: options.file_flush_min_bytes,
                },
                asked_hosts: Some(asked_hosts.clone()),
                maker: Some(maker.clone()),
            };
            let (registry, running) = (Arc::clone(registry), Arc::clone(&running));
            let chosen = chosen.clone();
            let cpu = cpus.of_worker(&affinity, index, count);
            let body = move || {
                finish_or_end_process(index, || {
                    // Before the worker's memory is touched, so that it lies close to its CPU.
                    if let Some(cpu) = cpu.filter(|&cpu| !affinity::bind_thread(cpu)) {
                        log::warn!(
                            "worker {index} cannot be bound to CPU {cpu}; the kernel decides where it runs"
                        );
                    }
                    // The control thread waits for it, and says what went wrong.
                    match Runtime::new(choice, receiver.bell()) {
                        Ok((runtime, backend)) => {
                            let _ = chosen.send(Ok(backend));
                            drop(chosen);
                            worker::run(&setup, &runtime, &registry, receiver)
                        }
                        Err(error) => {
                            let _ = chosen.send(Err(format!("worker {index} cannot start: {error}")));
                            Ok(())
                        }
                    }
                });
                if running.left.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
                    running.ended.notify_one();
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(body)
                .map_err(|error| format!("worker {index} cannot start: {error}"))?;
            threads.push(thread);
        }
        drop(chosen);
        // The first to answer speaks for all, and those that differ are named.
        let answers: Vec<BackendInfo> = backends.iter().collect::<Result<_, String>>()?;
        let backend = answers.first().cloned().ok_or_else(|| "no worker could start".to_owned())?;
        if let Some(warning) = mixed(&answers) {
            log::warn!("{warning}");
        }
        Ok(Self { mailboxes, threads: Mutex::new(threads), running, backend })
    }

    /// Which I/O back end, and why; how many workers.
    pub(super) fn description(&self) -> String {
        format!("I/O: {}; {} workers", self.backend, self.mailboxes.len())
    }

    /// Tells one worker something. A worker that has ended does not hear.
    pub(super) fn send(&self, worker: usize, command: Command) {
        if let Some(mailbox) = self.mailboxes.get(worker) {
            mailbox.send(command);
        }
    }

    /// Tells all of them something.
    pub(super) fn send_all(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            mailbox.send(command());
        }
    }

    /// Gives every worker the configuration.
    pub(super) fn start_serving(&self, snapshot: &Arc<Snapshot>) {
        self.send_all(|| Command::Start { snapshot: Arc::clone(snapshot) });
    }

    /// The I/O back end that was chosen.
    pub(super) fn backend(&self) -> &BackendInfo {
        &self.backend
    }

    /// Lets all of them finish what runs, for `deadline` at most.
    pub(super) fn drain(&self, deadline: Duration) {
        for worker in 0..self.mailboxes.len() {
            self.send(worker, Command::Drain { deadline });
        }
    }

    /// When the last worker has ended.
    pub(super) async fn ended(&self) {
        self.running.ended.notified().await;
    }

    /// Waits for the threads themselves.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // Its panics end the process before they get here.
            let _ = thread.join();
        }
    }
}

/// Does a worker's work. When it cannot go on, neither can the process: nobody would serve its connections.
fn finish_or_end_process(index: usize, work: impl FnOnce() -> io::Result<()>) {
    // A panic outside of a connection's task, or within an edit of shared state: this core can't be trusted.
    if let Err(error) = or_end_process(work) {
        output::complain(&format!("worker {index} cannot go on: {error}\n"));
        std::process::exit(i32::from(EXIT_FAILURE));
    }
}

/// Does what the process cannot be without: a panic ends it.
pub(super) fn or_end_process<T>(work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| std::process::exit(i32::from(EXIT_PANIC)))
}

/// What to say when workers have not all got the same back end: locked memory, or descriptors, sufficed for some of them.
fn mixed(answers: &[BackendInfo]) -> Option<String> {
    let first = answers.first()?;
    let others: Vec<_> = answers.iter().filter(|other| other.level != first.level).collect();
    let other = others.first()?;
    Some(format!("{} of {} workers differ from the first and use {other}", others.len(), answers.len()))
}

/// What the command line says about CPUs.
fn affinity_choice(options: &Options) -> Affinity {
    match &options.cpu_affinity {
        cli::CpuAffinity::Auto => Affinity::Auto,
        cli::CpuAffinity::Off => Affinity::Off,
        cli::CpuAffinity::List(cpus) => Affinity::List(cpus.clone()),
    }
}

/// What the command line says about I/O.
fn io_choice(options: &Options) -> IoChoice {
    IoChoice {
        backend: match options.io_backend {
            cli::IoBackend::Auto => IoBackend::Auto,
            cli::IoBackend::IoUring => IoBackend::IoUring,
            cli::IoBackend::Epoll => IoBackend::Epoll,
        },
        level: options.io_level.map(|level| match level {
            1 => RingLevel::One,
            2 => RingLevel::Two,
            _ => RingLevel::Three,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test of this file in a process of its own; its exit code, or `None` in that process itself.
    fn exit_code_of(name: &str) -> Option<i32> {
        if std::env::var_os("RINGWAY_TEST_ALONE").is_some() {
            return None;
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("server::workers::tests::{name}"), "--nocapture"])
            .env("RINGWAY_TEST_ALONE", "1")
            .stderr(std::process::Stdio::null())
            .status();
        Some(status.unwrap().code().unwrap())
    }

    fn runtime() -> (MailboxSender<()>, Runtime) {
        let (sender, receiver) = mailbox().unwrap();
        let runtime = Runtime::epoll(receiver.bell()).unwrap();
        // The bell stays with the sender.
        (sender, runtime)
    }

    #[test]
    fn panic_of_the_workers_own_task_ends_the_process_with_its_code() {
        let code = exit_code_of("panic_of_the_workers_own_task_ends_the_process_with_its_code");
        if code.is_some() {
            return assert_eq!(code, Some(i32::from(EXIT_PANIC)));
        }
        let (_bell, runtime) = runtime();
        runtime.spawn(async { panic!("injected") });
        finish_or_end_process(0, || runtime.turn());
    }

    #[test]
    fn panic_within_an_edit_of_shared_state_ends_the_process_with_its_code() {
        let code = exit_code_of("panic_within_an_edit_of_shared_state_ends_the_process_with_its_code");
        if code.is_some() {
            return assert_eq!(code, Some(i32::from(EXIT_PANIC)));
        }
        let (_bell, runtime) = runtime();
        let handle = runtime.clone();
        runtime.spawn_isolated(async move { handle.edit(|| panic!("injected")) });
        finish_or_end_process(0, || runtime.turn());
    }

    /// Where RLIMIT_MEMLOCK had room for one ring of two, the log spoke of io_uring for both.
    #[test]
    fn workers_that_got_another_back_end_are_named() {
        let ring = BackendInfo { level: Some(RingLevel::Three), reason: "works".into() };
        let epoll = BackendInfo { level: None, reason: "out of memory".into() };
        assert_eq!(mixed(&[ring.clone(), ring.clone()]), None);
        assert_eq!(mixed(&[]), None);
        let said = mixed(&[ring.clone(), epoll, ring]).unwrap();
        assert_eq!(said, "1 of 3 workers differ from the first and use epoll: out of memory");
    }

    #[test]
    fn panic_of_a_connections_task_ends_nothing() {
        let (_bell, runtime) = runtime();
        runtime.spawn_isolated(async { panic!("injected") });
        finish_or_end_process(0, || runtime.turn());
        assert_eq!((runtime.panics(), runtime.leaks().tasks), (1, 0));
    }
}
