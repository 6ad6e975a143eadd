//! The application log: what happens to the process, not to requests.
//!
//! Code logs through the macros of the `log` crate with a component as target
//! (`log::info!(target: "config", ...)`), never on the path of a request. A message is formatted by the thread
//! that logs and queued; one thread writes. When the queue is full, because the reader of our standard error is
//! stuck, messages are dropped and counted: logging never makes anybody wait.
mod level;
mod pattern;
mod sink;

pub use level::{COMPONENTS, Level, component};
pub use pattern::{Pattern, PatternError};

use crate::base::clock::wall_ns;
use sink::Sink;
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

/// What the command line says about the log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub level: Level,
    /// Components with a level of their own. Source: `--component-log-level`.
    pub components: Vec<(usize, Level)>,
    pub pattern: Pattern,
    /// C escapes for control characters. Source: `--log-format-escaped`.
    pub escaped: bool,
    /// Standard error when `None`. Source: `--log-path`.
    pub path: Option<PathBuf>,
}

/// The process's logger. Lives as long as the process, as the `log` crate wants it.
#[derive(Debug)]
pub struct Logger {
    levels: [AtomicU8; COMPONENTS.len()],
    pattern: Pattern,
    /// In its place; empty: the configuration has none.
    configured: OnceLock<Pattern>,
    escaped: bool,
    zone: jiff::tz::TimeZone,
    sink: Sink,
}

impl Logger {
    /// A logger and its writing thread.
    ///
    /// # Errors
    /// The log file cannot be opened, or the thread not be started.
    pub fn new(options: LogOptions) -> io::Result<Self> {
        let levels = [const { AtomicU8::new(0) }; COMPONENTS.len()];
        levels.iter().for_each(|level| level.store(options.level as u8, Relaxed));
        for (component, level) in options.components {
            if let Some(cell) = levels.get(component) {
                cell.store(level as u8, Relaxed);
            }
        }
        Ok(Self {
            levels,
            pattern: options.pattern,
            configured: OnceLock::new(),
            escaped: options.escaped,
            zone: jiff::tz::TimeZone::system(),
            sink: Sink::start(options.path)?,
        })
    }

    /// Makes this the logger of the `log` crate. Later calls, of other loggers, have no effect: a process has one.
    pub fn install(self) -> &'static Self {
        let logger: &'static Self = Box::leak(Box::new(self));
        if log::set_logger(logger).is_ok() {
            logger.update_filter();
        }
        logger
    }

    /// The level of a component; of `misc` for a number that is none.
    pub fn level(&self, component: usize) -> Level {
        self.levels.get(component).map_or(Level::Off, |level| Level::from_u8(level.load(Relaxed)))
    }

    pub fn set_level(&self, component: usize, level: Level) {
        if let Some(cell) = self.levels.get(component) {
            cell.store(level as u8, Relaxed);
        }
        self.update_filter();
    }

    pub fn set_all(&self, level: Level) {
        self.levels.iter().for_each(|cell| cell.store(level as u8, Relaxed));
        self.update_filter();
    }

    /// Writes lines by that pattern from now on. Only the first call counts: a process is configured once.
    pub fn set_pattern(&self, pattern: Pattern) {
        let _ = self.configured.set(pattern);
    }

    /// Logs at `critical`, which the `log` crate does not have: the process is about to end.
    pub fn critical(&self, component: &str, message: std::fmt::Arguments<'_>) {
        self.write(Level::Critical, component, "", 0, message);
    }

    /// Messages that were dropped because the queue was full or the file could not be written.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Opens the log file anew, for log rotation.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Waits until everything logged so far is written, at most this long. For the end of the process.
    pub fn drain(&self, at_most: Duration) {
        self.sink.drain(at_most);
    }

    fn write(&self, level: Level, target: &str, file: &str, line: u32, message: std::fmt::Arguments<'_>) {
        let component = component(target);
        if level < self.level(component) {
            return;
        }
        let now = jiff::Timestamp::from_nanosecond(i128::from(wall_ns())).unwrap_or_default();
        let time = now.to_zoned(self.zone.clone());
        let mut text = String::with_capacity(LINE_BYTES);
        self.configured.get().unwrap_or(&self.pattern).write(
            &pattern::Entry {
                time: &time,
                level,
                component: COMPONENTS[component],
                thread: thread_id(),
                file,
                line,
                message,
                escaped: self.escaped,
            },
            &mut text,
        );
        if text.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
            text.push_str("...\n");
        }
        self.sink.send(text);
    }

    /// Lets the macros return early when no component wants the level.
    fn update_filter(&self) {
        let lowest = self.levels.iter().map(|level| level.load(Relaxed)).min().unwrap_or_default();
        log::set_max_level(Level::from_u8(lowest).filter());
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        Level::from(metadata.level()) >= self.level(component(metadata.target()))
    }

    fn log(&self, record: &log::Record<'_>) {
        let (file, line) = (record.file().unwrap_or_default(), record.line().unwrap_or_default());
        self.write(record.level().into(), record.target(), file, line, *record.args());
    }

    fn flush(&self) {
        self.drain(Duration::from_secs(1));
    }
}

/// The kernel's number of this thread, read once per thread: libc's `gettid` would need an unsafe room for a
/// number that only the log prints.
fn thread_id() -> u32 {
    thread_local!(static ID: Cell<Option<u32>> = const { Cell::new(None) });
    ID.get().unwrap_or_else(|| {
        let link = std::fs::read_link("/proc/thread-self").ok();
        let id = link.as_deref().and_then(|path| path.file_name()?.to_str()?.parse().ok());
        let id = id.unwrap_or_else(std::process::id);
        ID.set(Some(id));
        id
    })
}

/// Envoy's default without the place in the source.
pub const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] %v";
/// Room made for a line before it is formatted, in bytes.
const LINE_BYTES: usize = 160;
/// Longest line, in bytes; more is cut. Bounds what one message can cost.
const LINE_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use log::Log;

    fn logged(options: impl FnOnce(&mut LogOptions), log: impl FnOnce(&Logger)) -> String {
        let file = TempFile::new();
        let mut all = LogOptions {
            level: Level::Info,
            components: Vec::new(),
            pattern: Pattern::parse("[%l][%n] %v").unwrap(),
            escaped: false,
            path: Some(file.0.clone()),
        };
        options(&mut all);
        let logger = Logger::new(all).unwrap();
        log(&logger);
        logger.drain(Duration::from_secs(60));
        assert_eq!(logger.dropped(), 0);
        std::fs::read_to_string(&file.0).unwrap()
    }

    fn send(logger: &Logger, level: log::Level, target: &str, message: &str) {
        logger
            .log(&log::Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    struct TempFile(PathBuf);

    impl TempFile {
        fn new() -> Self {
            use std::sync::atomic::AtomicUsize;
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("ringway-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    #[test]
    fn message_below_the_level_is_not_written() {
        let text = logged(
            |_| {},
            |logger| {
                send(logger, log::Level::Debug, "main", "no");
                send(logger, log::Level::Info, "main", "yes");
                send(logger, log::Level::Error, "hyper::x", "other");
                logger.critical("main", format_args!("end"));
            },
        );
        assert_eq!(text, "[info][main] yes\n[error][misc] other\n[critical][main] end\n");
    }

    #[test]
    fn component_has_a_level_of_its_own_and_it_changes_at_run_time() {
        let upstream = component("upstream");
        let text = logged(
            |options| options.components.push((upstream, Level::Trace)),
            |logger| {
                send(logger, log::Level::Trace, "upstream", "1");
                logger.set_level(upstream, Level::Off);
                send(logger, log::Level::Error, "upstream", "2");
                logger.set_all(Level::Error);
                send(logger, log::Level::Warn, "main", "3");
                send(logger, log::Level::Error, "upstream", "4");
            },
        );
        assert_eq!(text, "[trace][upstream] 1\n[error][upstream] 4\n");
    }

    #[test]
    fn pattern_that_is_set_counts_from_then_on() {
        let text = logged(
            |_| {},
            |logger| {
                send(logger, log::Level::Info, "main", "before");
                logger.set_pattern(Pattern::parse("%v, %l").unwrap());
                send(logger, log::Level::Info, "main", "after");
            },
        );
        assert_eq!(text, "[info][main] before\nafter, info\n");
    }

    #[test]
    fn line_longer_than_the_limit_is_cut() {
        let text =
            logged(|_| {}, |logger| send(logger, log::Level::Info, "main", &"ä".repeat(LINE_BYTES_MAX)));
        assert!(text.len() <= LINE_BYTES_MAX + 4 && text.ends_with("ä...\n"));
    }

    #[test]
    fn log_file_that_cannot_be_opened_is_an_error() {
        let options = LogOptions {
            level: Level::Info,
            components: Vec::new(),
            pattern: Pattern::parse(DEFAULT_PATTERN).unwrap(),
            escaped: false,
            path: Some("/nonexistent/file".into()),
        };
        assert_eq!(Logger::new(options).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
