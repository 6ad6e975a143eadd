//! A child process from which the kernel withholds something, as sandboxes and limits do. Needs no privilege.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What is withheld.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Confinement {
    /// This system call, by a seccomp filter that answers with this error.
    Call(libc::c_long, i32),
    /// Locked memory, beyond so many bytes.
    LockedMemory(u64),
}

/// Lifts the limit of locked memory (`linux/capability.h`).
const CAP_IPC_LOCK: libc::c_ulong = 14;

impl Confinement {
    /// Applies it to a command's process, before its program runs.
    #[allow(unsafe_code, reason = "a filter and a capability are set between fork and exec only")]
    pub(crate) fn apply(self, command: &mut Command) {
        match self {
            Self::Call(call, errno) => {
                let mut program = refusing(call, errno);
                // SAFETY: the closure makes system calls only; it allocates nothing.
                unsafe { command.pre_exec(move || install(&mut program)) };
            }
            Self::LockedMemory(bytes) => {
                // SAFETY: as above.
                unsafe { command.pre_exec(move || limit_locked_memory(bytes)) };
            }
        }
    }
}

/// "If the call's number is this, then fail it; else let it pass", as classic BPF.
fn refusing(call: libc::c_long, errno: i32) -> [libc::sock_filter; 4] {
    let line = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        // The number is the first field of `struct seccomp_data`.
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[allow(unsafe_code, reason = "std has no seccomp")]
fn install(program: &mut [libc::sock_filter; 4]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes no pointers.
    let kept = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program lives through the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if kept < 0 || set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code, reason = "std has no limits")]
fn limit_locked_memory(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the structure lives through the call.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    // SAFETY: takes no pointers. Refused to those who do not have the capability anyway.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
