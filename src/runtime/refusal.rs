//! Why a level of the ring does not work here: the kernel's error number, in the operator's terms.

use std::fmt;
use std::io;

/// What stands in the way, as far as the error number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The sysctl `kernel.io_uring_disabled`.
    SwitchedOff,
    /// A seccomp profile, or another security module.
    Forbidden,
    /// A kernel without io_uring, or a sandbox that pretends to be one.
    Absent,
    /// RLIMIT_MEMLOCK, or no memory at all.
    Memory,
    /// RLIMIT_NOFILE, or the host's limit.
    Descriptors,
    /// A kernel older than the level.
    TooOld,
    /// Something else; the text has the kernel's words.
    Unexpected,
}

/// Why a level does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way.
    pub cause: Cause,
    /// The same in a sentence, with the kernel's words.
    pub text: String,
}

impl Refusal {
    pub(super) fn of(error: &io::Error) -> Self {
        let cause = Cause::of(error.raw_os_error(), is_switched_off);
        let text = cause.hint().map_or_else(|| error.to_string(), |hint| format!("{hint} ({error})"));
        Self { cause, text }
    }

    /// There is no room for a second ring beside one that works.
    pub(super) fn no_second_ring() -> Self {
        Self {
            cause: Cause::Memory,
            text: "not tried: RLIMIT_MEMLOCK has no room for a second ring".to_owned(),
        }
    }

    /// Whether lower levels would be refused as well.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.cause, Cause::TooOld | Cause::Unexpected)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cause {
    fn of(errno: Option<i32>, is_switched_off: impl Fn() -> bool) -> Self {
        match errno {
            Some(libc::EPERM | libc::EACCES) if is_switched_off() => Self::SwitchedOff,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::Absent,
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::TooOld,
            _ => Self::Unexpected,
        }
    }

    fn hint(self) -> Option<&'static str> {
        match self {
            Self::SwitchedOff => Some("switched off by kernel.io_uring_disabled"),
            Self::Forbidden => Some("forbidden, as container runtimes' default seccomp profiles do"),
            Self::Absent => Some("not in this kernel, or hidden by a seccomp profile"),
            Self::Memory => Some("out of memory, or beyond RLIMIT_MEMLOCK"),
            Self::TooOld => Some("unknown to this kernel"),
            // The kernel's words suffice.
            Self::Descriptors | Self::Unexpected => None,
        }
    }
}

fn is_switched_off() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_number_is_put_in_the_operators_terms() {
        for (errno, cause, word, is_final) in [
            (libc::ENOSYS, Cause::Absent, "hidden by a seccomp profile", true),
            (libc::ENOMEM, Cause::Memory, "RLIMIT_MEMLOCK", true),
            (libc::EMFILE, Cause::Descriptors, "Too many open files", true),
            (libc::EINVAL, Cause::TooOld, "unknown to this kernel", false),
            (libc::EOPNOTSUPP, Cause::TooOld, "unknown to this kernel", false),
            (libc::EIO, Cause::Unexpected, "Input/output error", false),
        ] {
            let refusal = Refusal::of(&io::Error::from_raw_os_error(errno));
            assert_eq!((refusal.cause, refusal.is_final()), (cause, is_final), "{refusal}");
            assert!(refusal.text.contains(word) && refusal.text.contains("os error"), "{refusal}");
        }
    }

    #[test]
    fn sysctl_is_told_from_a_filter() {
        for errno in [libc::EPERM, libc::EACCES] {
            assert_eq!(Cause::of(Some(errno), || true), Cause::SwitchedOff);
            assert_eq!(Cause::of(Some(errno), || false), Cause::Forbidden);
        }
        assert_eq!(Cause::of(Some(libc::EINVAL), || true), Cause::TooOld);
    }
}
