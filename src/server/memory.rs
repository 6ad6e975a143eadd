//! Where the resident memory is: `/memory?ledger`. The kernel says which mapping holds how much of it, the allocator how
//! much of the heap is live, and the owners how much of that is theirs.
//!
//! Every line is counted by somebody who knows; what nobody knows is a line of its own. The workers' part is that of their
//! last upkeep, which follows their last activity by a second.

use serde_json::{Map, Value, json};

use crate::runtime::allocator;
use crate::telemetry::{Registry, ServerStat, Slot};

/// What the start has put into the heap for good, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Started {
    /// The bootstrap as loaded.
    pub(super) configuration: u64,
    /// What it was compiled to, and the counters of it.
    pub(super) snapshot: u64,
}

/// The ledger as JSON. Reads `/proc/self/smaps`, for which the kernel walks the page tables.
pub(super) fn ledger(registry: &Registry, started: Started) -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let marks = Marks {
        program: &program.to_string_lossy(),
        stacks: &allocator::stacks().collect::<Vec<_>>(),
        owned: &|from, to| (from..to).step_by(allocator::HEAP_PAGE_BYTES).any(allocator::owns),
    };
    let mapped = Mapped::read(&smaps, &marks);
    let of_workers = |stat| {
        let each = |worker| registry.server(Slot::Worker(worker)).value(stat);
        (0..registry.workers()).map(each).sum()
    };
    let heap = heap(mapped.heap, allocator::live_bytes(), started, of_workers);
    document(resident(&status), &mapped, &heap)
}

/// How mappings without a name are recognised.
struct Marks<'a> {
    program: &'a str,
    stacks: &'a [usize],
    owned: &'a dyn Fn(usize, usize) -> bool,
}

/// Resident bytes by mapping.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapped {
    code: u64,
    constants: u64,
    /// Constants with addresses in them, which the loader has written.
    relocated: u64,
    /// The program's variables.
    data: u64,
    libraries: u64,
    stacks: u64,
    /// Queues shared with the kernel, and the rings of buffer descriptions.
    rings: u64,
    /// Chunks of the pools.
    buffers: u64,
    /// Memory of the allocator.
    heap: u64,
    /// Memory of the C library's allocator: its threads and loaded libraries, and what AWS-LC keeps of sessions.
    libc_heap: u64,
}

/// Where the C library's allocator has heaps of threads: at multiples of this, reserved whole. Source: glibc `arena.c`,
/// `HEAP_MAX_SIZE` where addresses have 64 bits.
const LIBC_HEAP_BYTES: usize = 64 * 1024 * 1024;

impl Mapped {
    fn read(smaps: &str, marks: &Marks<'_>) -> Self {
        let mut mapped = Self::default();
        let mut program_end = None;
        let mut mappings = smaps.lines().peekable();
        while let Some(line) = mappings.next() {
            let Some(mapping) = Mapping::parse(line) else { continue };
            let (mut rss, mut dirty, mut flags) = (0, 0, "");
            while let Some(line) = mappings.next_if(|line| Mapping::parse(line).is_none()) {
                match line.split_once(':') {
                    Some(("Rss", value)) => rss = kilobytes(value),
                    Some(("Private_Dirty", value)) => dirty = kilobytes(value),
                    Some(("VmFlags", value)) => flags = value,
                    _ => {}
                }
            }
            let has = |flag| flags.split_whitespace().any(|set| set == flag);
            let Mapping { from, to, access, name } = mapping;
            let of_program = name == marks.program;
            if of_program {
                program_end = Some(to);
            }
            let line = match name {
                _ if of_program && access.contains('x') => &mut mapped.code,
                _ if of_program && access.contains('w') => &mut mapped.data,
                // Read-only and written: relocated before it was protected.
                _ if of_program && dirty > 0 => &mut mapped.relocated,
                _ if of_program => &mut mapped.constants,
                // What has no bytes in the file lies right behind what has.
                "" if program_end == Some(from) => &mut mapped.data,
                "[stack]" => &mut mapped.stacks,
                "[heap]" => &mut mapped.libc_heap,
                _ if name.contains("io_uring") => &mut mapped.rings,
                "" if marks.stacks.iter().any(|address| (from..to).contains(address)) => &mut mapped.stacks,
                // Kept from child processes is only what the kernel may write to: large and reserved the pools, else rings.
                "" if has("dc") && has("nr") => &mut mapped.buffers,
                "" if has("dc") => &mut mapped.rings,
                "" if access.contains('w') && (marks.owned)(from, to) => &mut mapped.heap,
                "" if has("nr") && from.is_multiple_of(LIBC_HEAP_BYTES) => &mut mapped.libc_heap,
                "" => continue,
                _ => &mut mapped.libraries,
            };
            *line += rss;
        }
        mapped
    }
}

/// The first line of a mapping in `smaps`.
struct Mapping<'a> {
    from: usize,
    to: usize,
    access: &'a str,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (access, rest) = rest.split_once(' ')?;
        // Offset, device, inode; then, after some spaces, the name.
        let name = rest.splitn(4, ' ').nth(3).unwrap_or_default().trim();
        let name = name.strip_prefix("[anon:").map_or(name, |_| "");
        Some(Self { from: address(from)?, to: address(to)?, access, name })
    }
}

fn kilobytes(value: &str) -> u64 {
    let number = value.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

/// `VmRSS`, in bytes.
fn resident(status: &str) -> u64 {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or(0, kilobytes)
}

/// What the workers count of their own memory.
const WORKERS: [(&str, ServerStat); 7] = [
    ("tasks", ServerStat::MemoryTasks),
    ("connections_and_requests", ServerStat::MemoryFutures),
    ("sockets", ServerStat::MemorySockets),
    ("socket_queues", ServerStat::MemorySocketQueues),
    ("timers", ServerStat::MemoryTimers),
    ("spare_streams", ServerStat::MemoryStreams),
    ("upstream_connections", ServerStat::MemoryPools),
];

/// The heap by owner; the lines come to `resident`, unless live memory was never touched.
fn heap(
    resident: u64,
    live: u64,
    started: Started,
    of_workers: impl Fn(ServerStat) -> u64,
) -> Vec<(&'static str, u64)> {
    let mut lines = Vec::new();
    // Whatever is left over to be told apart: counts of different moments must not come to more than there is.
    let mut take = |left: &mut u64, name, bytes: u64| {
        let bytes = bytes.min(*left);
        *left -= bytes;
        lines.push((name, bytes));
    };
    let mut workers = of_workers(ServerStat::MemoryHeap).min(live);
    let mut control = live - workers;
    for (name, stat) in WORKERS {
        take(&mut workers, name, of_workers(stat));
    }
    let rest = workers;
    take(&mut workers, "workers_other", rest);
    take(&mut control, "configuration", started.configuration);
    take(&mut control, "snapshot_and_counters", started.snapshot);
    let rest = control;
    take(&mut control, "control_other", rest);
    lines.push(("free_and_overhead", resident.saturating_sub(live)));
    lines
}

fn document(resident: u64, mapped: &Mapped, heap: &[(&'static str, u64)]) -> Value {
    let program = json!({
        "code": mapped.code,
        "constants": mapped.constants,
        "relocated": mapped.relocated,
        "data": mapped.data,
    });
    let known = [mapped.code, mapped.constants, mapped.relocated, mapped.data].into_iter().sum::<u64>()
        + mapped.libraries
        + mapped.stacks
        + mapped.rings
        + mapped.buffers
        + mapped.libc_heap
        + heap.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let heap: Map<_, _> = heap.iter().map(|&(name, bytes)| (name.to_owned(), bytes.into())).collect();
    json!({
        "resident": resident,
        "program": program,
        "libraries": mapped.libraries,
        "stacks": mapped.stacks,
        "rings": mapped.rings,
        "buffers": mapped.buffers,
        "heap": heap,
        "libc_heap": mapped.libc_heap,
        "unaccounted": resident as i64 - known as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it, shortened.
    const SMAPS: &str = "\
1000000-9000000 rw-p 00000000 00:00 0 
Rss:                3000 kB
Private_Dirty:      3000 kB
VmFlags: rd wr mr mw me nr 
a000000-a100000 r--p 00000000 fe:00 7    /bin/a program
Rss:                 500 kB
Private_Dirty:         0 kB
VmFlags: rd mr mw me 
a100000-a500000 r-xp 00100000 fe:00 7    /bin/a program
Rss:                1600 kB
a500000-a540000 r--p 00500000 fe:00 7    /bin/a program
Rss:                 244 kB
Private_Dirty:       240 kB
a540000-a544000 rw-p 00540000 fe:00 7    /bin/a program
Rss:                  16 kB
a544000-a54d000 rw-p 00000000 00:00 0 
Rss:                  20 kB
b000000-b021000 rw-p 00000000 00:00 0    [heap]
Rss:                  12 kB
c000000-d000000 rw-p 00000000 00:00 0 
Rss:                1280 kB
VmFlags: rd wr mr mw me dc nr nh 
d000000-d003000 rw-p 00000000 00:00 0 
Rss:                   8 kB
VmFlags: rd wr mr mw me dc ac 
d010000-d019000 rw-s 00000000 00:0f 11   anon_inode:[io_uring]
Rss:                  36 kB
d100000-d300000 rw-p 00000000 00:00 0 
Rss:                  80 kB
VmFlags: rd wr mr mw me ac 
d400000-d401000 rw-p 00000000 00:00 0 
Rss:                   4 kB
d500000-d523000 r-xp 00000000 fe:00 9    /usr/lib/libc.so.6
Rss:                 576 kB
e000000-e021000 rw-p 00000000 00:00 0    [stack]
Rss:                  68 kB
10000000-10021000 rw-p 00000000 00:00 0 
Rss:                 100 kB
VmFlags: rd wr mr mw me nr 
10021000-14000000 ---p 00000000 00:00 0 
Rss:                   0 kB
VmFlags: mr mw me nr 
";

    #[test]
    fn mappings_are_told_apart_and_what_nobody_owns_is_left_out() {
        let marks = Marks {
            program: "/bin/a program",
            stacks: &[0xd2f_f000],
            owned: &|from, to| (from..to).contains(&0x200_0000),
        };
        let mapped = Mapped::read(SMAPS, &marks);
        let kb = |kilobytes: u64| kilobytes * 1024;
        let expected = Mapped {
            code: kb(1600),
            constants: kb(500),
            relocated: kb(244),
            data: kb(36),
            libraries: kb(576),
            stacks: kb(148),
            rings: kb(44),
            buffers: kb(1280),
            heap: kb(3000),
            libc_heap: kb(112),
        };
        assert_eq!(mapped, expected);
        let known = 1600 + 500 + 244 + 36 + 576 + 148 + 44 + 1280 + 3000 + 112;
        let heap = [("tasks", kb(1000)), ("free_and_overhead", kb(2000))];
        let document = document(kb(known + 4), &mapped, &heap);
        assert_eq!(document["unaccounted"], kb(4));
        assert_eq!(Mapped::read("garbage\n1-2\n-\nRss: x\n", &marks), Mapped::default());
    }

    #[test]
    fn heap_lines_come_to_what_is_resident_whatever_the_owners_say() {
        let total = |lines: &[(&str, u64)]| lines.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let started = Started { configuration: 10, snapshot: 20 };
        let of_workers = |stat| if matches!(stat, ServerStat::MemoryHeap) { 69 } else { 9 };
        let lines = heap(139, 109, started, of_workers);
        assert_eq!(total(&lines), 139);
        assert!(lines.contains(&("workers_other", 6)) && lines.contains(&("control_other", 10)));
        assert!(lines.contains(&("free_and_overhead", 30)));
        // Counts of another moment.
        assert_eq!(total(&heap(130, 100, started, |_| 1000)), 130);
        assert_eq!(total(&heap(130, 20, Started { configuration: 1000, snapshot: 1 }, |_| 0)), 130);
    }

    #[test]
    fn ledger_of_this_process_is_a_document() {
        let document = ledger(&Registry::new(1), Started::default());
        assert!(document["resident"].as_u64() > Some(0) && document["program"]["code"].as_u64() > Some(0));
    }
}
