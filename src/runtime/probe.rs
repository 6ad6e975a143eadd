//! Chooses the back end by trying: each level of the ring is set up and made to work once; versions are not asked.
//!
//! Distributions backport, containers forbid: what counts is whether the calls succeed here and now.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::Driver;
use super::epoll::Epoll;
use super::refusal::{Cause, Refusal};
use super::ring::{QUEUE_SIZE, Ring, RingLevel};
use crate::buffer::Pool;

/// Which back end to use. Source: `--io-backend`; default `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring where the kernel offers it and lets us, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoChoice {
    /// The back end.
    pub backend: IoBackend,
    /// Exactly this level of the ring; default: the highest that works. Source: `--io-level`.
    pub level: Option<RingLevel>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// Level of the ring; `None`: epoll.
    pub level: Option<RingLevel>,
    /// Why, in a sentence for the log and `/server_info`.
    pub reason: String,
}

impl BackendInfo {
    /// `io_uring` or `epoll`.
    pub fn name(&self) -> &'static str {
        if self.level.is_some() { "io_uring" } else { "epoll" }
    }
}

impl fmt::Display for BackendInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "io_uring ({level}): {}", self.reason),
            None => write!(f, "epoll: {}", self.reason),
        }
    }
}

const LEVELS: [RingLevel; 3] = [RingLevel::Three, RingLevel::Two, RingLevel::One];

/// Makes the back end of the calling thread's worker.
///
/// # Errors
/// `IoUring` was asked for and no level works; no descriptor left for epoll.
pub(super) fn open(choice: IoChoice, bell: RawFd, pool: &Pool) -> io::Result<(Driver, BackendInfo)> {
    if choice.backend == IoBackend::Epoll {
        let reason = "asked for".to_owned();
        return Ok((Driver::Epoll(Epoll::new(bell)?), BackendInfo { level: None, reason }));
    }
    let attempt =
        |level| Ring::open(level, QUEUE_SIZE, bell, pool).and_then(|mut ring| ring.prove().map(|()| ring));
    match climb_down(choice.level, attempt) {
        Ok((ring, info)) => Ok((Driver::Ring(Box::new(ring)), info)),
        Err(refused) => {
            let reason = format!("io_uring does not work here ({})", refused.why);
            if choice.backend == IoBackend::IoUring {
                return Err(io::Error::new(
                    refused.last,
                    format!("{reason}; --io-backend auto would use epoll"),
                ));
            }
            Ok((Driver::Epoll(Epoll::new(bell)?), BackendInfo { level: None, reason }))
        }
    }
}

/// No level works.
#[derive(Debug)]
struct Refused {
    /// Each level that was tried, and why not.
    why: String,
    last: io::ErrorKind,
}

/// The highest level with which `attempt` succeeds, or the one asked for; what the kernel forbids altogether is not asked
/// for again.
fn climb_down<R>(
    asked: Option<RingLevel>,
    mut attempt: impl FnMut(RingLevel) -> io::Result<R>,
) -> Result<(R, BackendInfo), Refused> {
    let mut refused = Refused { why: String::new(), last: io::ErrorKind::Unsupported };
    for level in LEVELS.into_iter().filter(|&level| asked.is_none_or(|asked| asked == level)) {
        let error = match attempt(level) {
            Ok(ring) => {
                let reason = match (asked, refused.why.is_empty()) {
                    (Some(_), _) => "this level was asked for, and works".to_owned(),
                    (None, true) => "everything used was tried and works".to_owned(),
                    (None, false) => format!("the highest level that works; {}", refused.why),
                };
                return Ok((ring, BackendInfo { level: Some(level), reason }));
            }
            Err(error) => error,
        };
        if !refused.why.is_empty() {
            refused.why.push_str(", ");
        }
        let refusal = Refusal::of(&error);
        refused.why.push_str(&format!("{level}: {refusal}"));
        refused.last = error.kind();
        if refusal.is_final() {
            break;
        }
    }
    Err(refused)
}

/// What one level of the ring answers here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelSurvey {
    /// The level.
    pub level: RingLevel,
    /// Its options, or why it does not work.
    pub outcome: Result<RingOptions, Refusal>,
}

/// What the kernel offers within a level: used where it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingOptions {
    /// A multishot receive ends by itself after a number of bytes (Linux 6.17).
    pub receive_cap: bool,
    /// Waiting does not count as waiting for a disk (Linux 6.15).
    pub no_iowait: bool,
    /// The ring's descriptor is registered, which saves a look-up per call (Linux 5.18).
    pub registered_descriptor: bool,
}

/// Tries every level, the highest first, as [`open`] would.
///
/// # Errors
/// No descriptor or address space left for trying.
pub fn survey() -> io::Result<Vec<LevelSurvey>> {
    let pool = Pool::with_capacity(SURVEY_CHUNKS, 1)?;
    let bell = super::sys::event_fd()?;
    let mut works = false;
    let mut outcome = |level| {
        let ring = Ring::open(level, QUEUE_SIZE, bell.as_raw_fd(), &pool);
        let proven = ring.and_then(|mut ring| ring.prove().map(|()| ring.options()));
        let explained = proven.map_err(|error| Refusal::of(&error)).map_err(|refusal| match refusal.cause {
            // The kernel takes its time to free the ring before.
            Cause::Memory if works => Refusal::no_second_ring(),
            _ => refusal,
        });
        works |= explained.is_ok();
        explained
    };
    Ok(LEVELS.into_iter().map(|level| LevelSurvey { level, outcome: outcome(level) }).collect())
}

/// Small chunks that trying takes.
const SURVEY_CHUNKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Which levels were tried, and the outcome, where `refuse` says what the kernel has against a level.
    fn climbed(
        asked: Option<RingLevel>,
        refuse: impl Fn(RingLevel) -> Option<i32>,
    ) -> (Vec<RingLevel>, Result<BackendInfo, Refused>) {
        let mut tried = Vec::new();
        let outcome = climb_down(asked, |level| {
            tried.push(level);
            refuse(level).map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        });
        (tried, outcome.map(|((), info)| info))
    }

    #[test]
    fn unknown_level_is_left_for_the_one_below() {
        let (tried, outcome) = climbed(None, |level| (level > RingLevel::One).then_some(libc::EINVAL));
        assert_eq!(tried, LEVELS);
        let info = outcome.unwrap();
        assert_eq!(info.level, Some(RingLevel::One));
        assert!(info.reason.contains("ring-3: unknown") && info.reason.contains("ring-2: unknown"), "{info}");
    }

    #[test]
    fn level_asked_for_is_the_only_one_tried() {
        for asked in LEVELS {
            let (tried, outcome) = climbed(Some(asked), |_| None);
            assert_eq!((tried, outcome.unwrap().level), (vec![asked], Some(asked)));
            let (tried, outcome) = climbed(Some(asked), |level| (level == asked).then_some(libc::EINVAL));
            assert_eq!(tried, [asked]);
            assert_eq!(outcome.unwrap_err().last, io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn forbidden_ring_is_tried_once() {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            let (tried, outcome) = climbed(None, |_| Some(errno));
            assert_eq!(tried, [RingLevel::Three]);
            assert!(outcome.unwrap_err().why.starts_with("ring-3: "));
        }
    }

    #[test]
    fn survey_agrees_with_what_is_chosen() {
        let bell = super::super::sys::event_fd().unwrap();
        let pool = Pool::with_capacity(64, 1).unwrap();
        let (_, info) = open(IoChoice::default(), bell.as_raw_fd(), &pool).unwrap();
        let levels = survey().unwrap();
        assert_eq!(levels.iter().map(|one| one.level).collect::<Vec<_>>(), LEVELS);
        let highest = levels.iter().find(|one| one.outcome.is_ok()).map(|one| one.level);
        assert_eq!(highest, info.level, "{levels:?}");
    }

    #[test]
    fn epoll_asked_for_is_epoll() {
        let bell = super::super::sys::event_fd().unwrap();
        let pool = Pool::with_capacity(64, 1).unwrap();
        let choice = IoChoice { backend: IoBackend::Epoll, level: None };
        let (_, info) = open(choice, bell.as_raw_fd(), &pool).unwrap();
        assert_eq!((info.name(), info.level), ("epoll", None));
    }
}
