//! Memory of the process, as the kernel counts it.

/// In bytes; zero where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Private memory in use: RSS without pages of files.
    pub(super) allocated: u64,
    /// Private memory the process holds, in use or swapped out: what its allocator could give back at most. Not the
    /// address space it reserved, which is large and costs nothing.
    pub(super) heap_size: u64,
    /// RSS.
    pub(super) physical: u64,
}

/// Reads `/proc/self/status`, which the kernel makes up in memory: it does not wait for a disk.
pub(super) fn usage() -> Usage {
    std::fs::read_to_string("/proc/self/status").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(status: &str) -> Usage {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or_default().saturating_mul(1024)
    };
    Usage {
        allocated: bytes("RssAnon"),
        heap_size: bytes("RssAnon") + bytes("VmSwap"),
        physical: bytes("VmRSS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_the_kernel_is_read_in_bytes() {
        let usage = parse("Name:\tx\nVmSwap:\t 8 kB\nVmRSS:\t      20 kB\nRssAnon:\t      12 kB\n");
        assert_eq!(usage, Usage { allocated: 12 * 1024, heap_size: 20 * 1024, physical: 20 * 1024 });
        assert_eq!(parse(""), Usage::default());
        assert!(super::usage().physical > 0);
    }
}
