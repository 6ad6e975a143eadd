//! The proxy as a child process.

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::{Client, Config, Io, Message, PATIENCE, until};

/// The program under test.
pub(crate) fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
}

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    pub(crate) port: u16,
    admin: u16,
    log: Arc<Log>,
    /// Connections made by [`Proxy::connect`].
    clients: Mutex<Vec<Weak<TcpStream>>>,
    /// Where its bootstrap is.
    _folder: TempFolder,
}

/// What it has written to its standard error.
#[derive(Debug, Default)]
struct Log {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

impl Proxy {
    /// Starts it and waits until it serves.
    pub(crate) fn start(io: Io, config: &Config) -> Self {
        let proxy = Self::launch(io, config, free_port(), free_port());
        proxy.wait_for_log("serving");
        assert_eq!(proxy.admin("GET", "/ready").text(), "LIVE\n");
        proxy
    }

    /// Starts another at the same ports, which is to replace it, and waits until it has.
    pub(crate) fn next(&self, io: Io, config: &Config) -> Self {
        let proxy = Self::launch(io, config, self.port, self.admin);
        proxy.wait_for_log("the process before this one accepts no more");
        assert_eq!(proxy.admin("GET", "/ready").text(), "LIVE\n");
        proxy
    }

    /// Starts it at these ports.
    pub(crate) fn launch(io: Io, config: &Config, port: u16, admin: u16) -> Self {
        let folder = TempFolder::new();
        let path = folder.path().join("bootstrap.yaml");
        std::fs::write(&path, config.text(port, admin)).unwrap();
        let mut command = match config.open_files {
            None => binary(),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    &format!("ulimit -n {limit} && exec \"$0\" \"$@\""),
                    env!("CARGO_BIN_EXE_ringway"),
                ]);
                shell
            }
        };
        if let Some(confinement) = &config.confinement {
            confinement.apply(&mut command);
        }
        command.arg("-c").arg(&path).args(["--io-backend", io.name()]);
        // Records that a test waits for are not to come as late as it may wait.
        for (flag, value) in
            [("--concurrency", "1"), ("--drain-time-s", "10"), ("--file-flush-interval-msec", "10")]
        {
            if !config.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, value]);
            }
        }
        command.args(&config.arguments);
        if !config.arguments.iter().any(|argument| argument == "--base-id") {
            // Others run beside it.
            command.arg("--disable-hot-restart");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let log = Arc::new(Log::default());
        let (writer, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || writer.fill(BufReader::new(stderr)));
        Self { child, port, admin, log, clients: Mutex::default(), _folder: folder }
    }

    pub(crate) fn connect(&self) -> Client {
        let client = Client::connect(self.port);
        self.clients.lock().unwrap().push(client.socket());
        client
    }

    /// Its ports: where it serves, and its admin endpoint.
    pub(crate) fn ports(&self) -> (u16, u16) {
        (self.port, self.admin)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the admin endpoint.
    pub(crate) fn admin(&self, method: &str, path: &str) -> Message {
        let mut client = Client::connect(self.admin);
        client.ask(&format!("{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"))
    }

    /// A counter or gauge.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let text = self.admin("GET", "/stats").text();
        value_of(name, &text).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// Waits until a counter or gauge has that value. Some, as that of a status, are not there before they have one.
    pub(crate) fn wait_for_stat(&self, name: &str, value: u64) {
        let text = || self.admin("GET", "/stats").text();
        until(&format!("{name} is {value}"), || value_of(name, &text()) == Some(value));
    }

    /// Waits until no connection of a client and no request is left.
    pub(crate) fn wait_until_idle(&self) {
        for gauge in ["http.test.downstream_cx_active", "http.test.downstream_rq_active"] {
            self.wait_for_stat(gauge, 0);
        }
    }

    /// Resident memory in bytes, without the pages of the program's file: those come in as its code is first used.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let kib = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        (kib("RssAnon:") + kib("RssShmem:")) * 1024
    }

    /// Waits for a line in its log.
    pub(crate) fn wait_for_log(&self, part: &str) {
        let text = self.log.text.lock().unwrap();
        let (text, waited) = self
            .log
            .changed
            .wait_timeout_while(text, PATIENCE, |(text, ended)| !text.contains(part) && !*ended)
            .unwrap();
        assert!(!waited.timed_out() && text.0.contains(part), "no {part:?} in its log:\n{}", text.0);
    }

    /// What follows a text on its first line in the log so far.
    pub(crate) fn after_in_log(&self, part: &str) -> Option<String> {
        let text = self.log.text.lock().unwrap();
        Some(text.0.split_once(part)?.1.lines().next()?.to_owned())
    }

    /// How often a text is in its log so far.
    pub(crate) fn count_in_log(&self, part: &str) -> usize {
        self.log.text.lock().unwrap().0.matches(part).count()
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        // SAFETY: takes no pointers; the child was not waited for, so its id is its own.
        #[allow(unsafe_code, reason = "std can only kill")]
        let sent = unsafe { libc::kill(self.id().cast_signed(), signal) };
        assert_eq!(sent, 0);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Ends it by SIGTERM; it must drain and exit with 0. Clients of [`Proxy::connect`] leave before: a drain gives those
    /// that stay a second of grace.
    pub(crate) fn end(mut self) {
        for client in self.clients.lock().unwrap().drain(..).filter_map(|client| client.upgrade()) {
            // It may be gone already.
            let _ = client.shutdown(Shutdown::Both);
        }
        self.signal(libc::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "its log:\n{}", self.log.text.lock().unwrap().0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Whoever waited for a line in vain has left the lock poisoned.
            let text = self.log.text.lock().unwrap_or_else(PoisonError::into_inner);
            println!("log of the proxy:\n{}", text.0);
        }
    }
}

impl Log {
    fn fill(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            let mut text = self.text.lock().unwrap();
            text.0.push_str(&line);
            text.0.push('\n');
            drop(text);
            self.changed.notify_all();
        }
        self.text.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// What a text of statistics says of a counter or gauge; `None`: nothing.
fn value_of(name: &str, stats: &str) -> Option<u64> {
    let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
    Some(value.parse().unwrap())
}

/// A port that nothing listens on, from below the range the kernel gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = (std::process::id().wrapping_mul(97).wrapping_add(step)) % 20_000;
        let port = u16::try_from(11_000 + place).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder of a test's own, removed with it.
#[derive(Debug)]
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringway-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
