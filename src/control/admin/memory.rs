//! Memory of the process in Envoy's terms: what is in use as the allocator and the pools count it, the rest as the kernel
//! does. Where it all is, says the ledger, which the composition root makes.

use super::Admin;
use crate::telemetry::{ServerStat, Slot};

/// In bytes; zero where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Heap allocated and not freed, and the pools' chunks.
    pub(super) allocated: u64,
    /// Private memory the process holds, in use or swapped out: what its allocator could give back at most. Not the
    /// address space it reserved, which is large and costs nothing.
    pub(super) heap_size: u64,
    /// RSS.
    pub(super) physical: u64,
}

impl Usage {
    /// Held and not in use: the allocator's free pages and what it loses, stacks, variables of the program.
    pub(super) fn free(&self) -> u64 {
        self.heap_size.saturating_sub(self.allocated)
    }
}

/// Reads `/proc/self/status`, which the kernel makes up in memory: it does not wait for a disk.
pub(super) fn usage(admin: &Admin) -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let chunks = |worker| admin.registry.server(Slot::Worker(worker)).value(ServerStat::BufferResidentBytes);
    let chunks: u64 = (0..admin.registry.workers()).map(chunks).sum();
    parse(&status, admin.state.live_heap_bytes() + chunks)
}

fn parse(status: &str, allocated: u64) -> Usage {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or_default().saturating_mul(1024)
    };
    Usage { allocated, heap_size: bytes("RssAnon") + bytes("VmSwap"), physical: bytes("VmRSS") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_the_kernel_is_read_in_bytes() {
        let status = "Name:\tx\nVmSwap:\t 8 kB\nVmRSS:\t      20 kB\nRssAnon:\t      12 kB\n";
        let usage = parse(status, 5 * 1024);
        assert_eq!(usage, Usage { allocated: 5 * 1024, heap_size: 20 * 1024, physical: 20 * 1024 });
        assert_eq!(usage.free(), 15 * 1024);
        assert_eq!(parse("", 0), Usage::default());
    }
}
