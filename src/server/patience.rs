//! Binding a port that is on its way to become free, and meeting a process that is on its way to listen.
//!
//! The sockets of a killed process live on until the kernel has taken its io_uring apart, which happens after the process
//! is gone: its successor can meet them for some milliseconds. Any other error, and a port that stays in use, is told at
//! once and in the kernel's words.

use std::fmt::Display;
use std::io;
use std::time::Duration;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Tries after the first: one second.
const RETRIES_MAX: usize = 20;

/// Tries after the first to find the process before this one: five seconds. It may still read its configuration.
const MEETINGS_MAX: usize = 100;

/// Binds `what`, again for a second while its address is in use.
pub(super) fn while_in_use<T>(what: &dyn Display, bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    with_pause(what, std::thread::sleep, bind)
}

/// Connects to a process, again for five seconds while nobody listens.
pub(super) fn while_nobody_listens<T>(mut connect: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..MEETINGS_MAX {
        match connect() {
            Err(error) if is_nobody(&error) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    connect()
}

/// Whether nobody listens there, which may change.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn with_pause<T>(
    what: &dyn Display,
    pause: impl Fn(Duration),
    mut bind: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut outcome = bind();
    for retry in 0..RETRIES_MAX {
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
        if retry == 0 {
            log::warn!("{what}: the address is in use; trying again for {:?}", PAUSE * RETRIES_MAX as u32);
        }
        pause(PAUSE);
        outcome = bind();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(mut answers: Vec<io::Result<()>>) -> (usize, io::Result<()>) {
        let mut tries = 0;
        let outcome = with_pause(
            &"x",
            |_| {},
            || {
                tries += 1;
                if answers.is_empty() { Err(io::ErrorKind::AddrInUse.into()) } else { answers.remove(0) }
            },
        );
        (tries, outcome)
    }

    #[test]
    fn address_that_becomes_free_is_bound() {
        let busy = || Err(io::ErrorKind::AddrInUse.into());
        let (count, outcome) = tries(vec![busy(), busy(), Ok(())]);
        assert!(outcome.is_ok() && count == 3);
    }

    #[test]
    fn address_that_stays_in_use_is_given_up_after_a_second() {
        let (count, outcome) = tries(Vec::new());
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(count, RETRIES_MAX + 1);
    }

    #[test]
    fn other_errors_are_told_at_once() {
        let (count, outcome) = tries(vec![Err(io::ErrorKind::PermissionDenied.into())]);
        assert!(count == 1 && outcome.is_err());
    }
}
