//! Quotas of the process's control groups, version 1 and 2: CPU and memory.
//!
//! `/proc/self/cgroup` says which group, `/proc/self/mountinfo` where its files are. A limit may stand on any group up to
//! the root of what is mounted: the smallest counts.

use super::files::Files;
use super::finding::{Advice, Finding, Topic};
use super::parse;

/// Groups above one another that are looked at: systemd and Kubernetes nest six.
const DEPTH_MAX: usize = 32;
/// Memory below which Ringway with a few thousand connections does not fit. Idle it takes 6 MB, a connection up to 1.3 kB, under TLS 4.9,
/// a streaming body up to half a megabyte.
const MEMORY_MIN: u64 = 32 << 20;
/// Version 1 says "no limit" with the greatest multiple of a page; anything near it means none.
const MEMORY_UNLIMITED: u64 = 1 << 60;

pub(super) fn findings(files: &Files) -> Vec<Finding> {
    let groups = files.read("proc/self/cgroup");
    let mounts = files.read("proc/self/mountinfo");
    let (groups, mounts) = match (groups, mounts) {
        (Ok(groups), Ok(mounts)) => (groups, mounts),
        (Err(why), _) | (_, Err(why)) => {
            let unknown = |topic: Topic| topic.unknown(why.reason());
            return vec![unknown(cpu_topic()), unknown(throttled_topic()), unknown(memory_topic())];
        }
    };
    let folders = |controller| folders(&groups, &mounts, controller);
    let read = |folder: &str, file: &str| files.read(&format!("{folder}/{file}")).ok();
    let cpu_folders = folders("cpu");
    let quota = cpu_folders.iter().filter_map(|folder| {
        let pair = |quota: &str, period: &str| quota_of(&read(folder, quota)?, &read(folder, period)?);
        read(folder, "cpu.max")
            .and_then(|text| text.split_once(' ').and_then(|(quota, period)| quota_of(quota, period)))
            .or_else(|| pair("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    });
    let quota = quota.min_by(f64::total_cmp);
    let stat = cpu_folders.first().and_then(|folder| read(folder, "cpu.stat"));
    let memory_folders = folders("memory");
    let limits = memory_folders.iter().filter_map(|folder| {
        let text = read(folder, "memory.max").or_else(|| read(folder, "memory.limit_in_bytes"))?;
        parse::number(&text).filter(|&bytes| bytes < MEMORY_UNLIMITED)
    });
    vec![
        cpu(!cpu_folders.is_empty(), quota),
        throttled(stat.as_deref()),
        memory(!memory_folders.is_empty(), limits.min()),
    ]
}

fn cpu_topic() -> Topic {
    Topic::new("cgroup_cpu", "cgroup CPU quota")
}

fn throttled_topic() -> Topic {
    Topic::new("cgroup_throttled", "cgroup throttling")
}

fn memory_topic() -> Topic {
    Topic::new("cgroup_memory", "cgroup memory limit")
}

/// CPUs that a quota of microseconds per period is worth; none for `max` and -1.
fn quota_of(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (parse::number(quota)?, parse::number(period)?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

fn cpu(visible: bool, quota: Option<f64>) -> Finding {
    match quota {
        _ if !visible => cpu_topic().unknown("no mounted control group of this process has a CPU controller"),
        None => cpu_topic().ok("none"),
        Some(cpus) if cpus < 1.0 => cpu_topic().advice(
            format!("{cpus:.2} CPUs"),
            Advice {
                what: "at least one whole CPU: below it the kernel stops the worker for the rest of every period".into(),
                command: "kubectl set resources deployment NAME --limits=cpu=1   # or no CPU limit, only a request".into(),
                gain: "No pauses of up to a period (100 ms) in the middle of requests. Not measured here",
                source: "kernel: scheduler/sched-bwc.rst",
            },
        ),
        Some(cpus) => cpu_topic().ok(format!("{cpus:.2} CPUs; workers are counted by it")),
    }
}

fn throttled(stat: Option<&str>) -> Finding {
    let value = |name| {
        let line = stat?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(parse::number)
    };
    match (value("nr_throttled"), value("nr_periods")) {
        (Some(throttled), Some(periods)) if throttled > 0 => throttled_topic().advice(
            format!("stopped in {throttled} of {periods} periods"),
            Advice {
                what: "a larger quota, or fewer workers than CPUs in it".into(),
                command:
                    "kubectl set resources deployment NAME --limits=cpu=N   # or ringway --concurrency N"
                        .into(),
                gain: "Each stop is latency of every request under way, up to a period. Not measured here",
                source: "kernel: scheduler/sched-bwc.rst",
            },
        ),
        (Some(_), Some(periods)) => throttled_topic().ok(format!("never stopped in {periods} periods")),
        _ => throttled_topic().unknown("cpu.stat of this control group does not tell"),
    }
}

fn memory(visible: bool, limit: Option<u64>) -> Finding {
    match limit {
        _ if !visible => memory_topic().unknown("no mounted control group of this process has a memory controller"),
        None => memory_topic().ok("none"),
        Some(bytes) if bytes < MEMORY_MIN => memory_topic().problem(
            parse::bytes(bytes),
            Advice {
                what: "32 MiB or more; the kernel's socket buffers count as well".into(),
                command: "kubectl set resources deployment NAME --limits=memory=64Mi".into(),
                gain: "No end by the out-of-memory killer: idle it takes up to 6 MB, an idle connection up to 1.3 kB, under TLS \
                       4.9 (budgets of CI), one that streams up to 0.5 MB",
                source: "tests/peers/budgets.py; kernel: admin-guide/cgroup-v2.rst, memory.max",
            },
        ),
        Some(bytes) => memory_topic().ok(parse::bytes(bytes)),
    }
}

/// Folders of the groups that hold this process, the innermost first; paths without a leading slash.
fn folders(groups: &str, mounts: &str, controller: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let is_unified = controllers.is_empty();
        if !is_unified && !controllers.split(',').any(|one| one == controller) {
            continue;
        }
        let Some((root, point)) = mount(mounts, (!is_unified).then_some(controller)) else { continue };
        // A mount made in another namespace shows another root: then what is mounted is the group itself.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or_default().trim_matches('/');
        let mut steps: Vec<_> =
            below.split('/').filter(|step| !step.is_empty() && *step != "..").take(DEPTH_MAX).collect();
        loop {
            let folder = std::iter::once(point.trim_matches('/')).chain(steps.iter().copied());
            found.push(folder.collect::<Vec<_>>().join("/"));
            if steps.pop().is_none() {
                break;
            }
        }
    }
    found
}

/// Root and mount point of the file system of a controller of version 1, or of version 2.
fn mount<'t>(mounts: &'t str, controller: Option<&str>) -> Option<(&'t str, &'t str)> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match controller {
            None => kind == "cgroup2",
            Some(controller) => kind == "cgroup" && options.split(',').any(|option| option == controller),
        };
        fits.then_some((root, point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::finding::Verdict;
    use std::path::PathBuf;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_are_walked_from_the_innermost_to_what_is_mounted() {
        assert_eq!(
            folders("0::/a.slice/b\n", V2, "cpu"),
            ["sys/fs/cgroup/a.slice/b", "sys/fs/cgroup/a.slice", "sys/fs/cgroup"]
        );
        assert_eq!(folders("3:cpu,cpuacct:/\n", V1, "cpu"), ["sys/fs/cgroup/cpu,cpuacct"]);
        assert_eq!(folders("4:memory:/docker/abc\n", V1, "memory"), ["sys/fs/cgroup/memory"]);
        assert_eq!(folders("0::/../x\n", V2, "cpu"), ["sys/fs/cgroup/x", "sys/fs/cgroup"]);
        assert_eq!(folders("5:cpuset:/\n", V1, "cpu"), [""; 0]);
    }

    /// A folder with these files; removed when dropped.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("ringway-doctor-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn findings(&self) -> Vec<(Verdict, String)> {
            let found = findings(&Files::at(self.0.clone()));
            found.into_iter().map(|finding| (finding.verdict, finding.found)).collect()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn smallest_limit_of_version_2_counts_wherever_it_stands() {
        let host = Fixture::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pod/app\n"),
                ("proc/self/mountinfo", V2),
                ("sys/fs/cgroup/pod/app/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pod/cpu.max", "50000 100000\n"),
                ("sys/fs/cgroup/pod/app/cpu.stat", "usage_usec 5\nnr_periods 100\nnr_throttled 7\n"),
                ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/memory.max", "16777216\n"),
            ],
        );
        assert_eq!(
            host.findings(),
            [
                (Verdict::Advice, "0.50 CPUs".into()),
                (Verdict::Advice, "stopped in 7 of 100 periods".into()),
                (Verdict::Problem, "16 MiB".into()),
            ]
        );
    }

    #[test]
    fn limits_of_version_1_are_read() {
        let host = Fixture::new(
            "v1",
            &[
                ("proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/\n0::/\n"),
                ("proc/self/mountinfo", V1),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_periods 3\nnr_throttled 0\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        assert_eq!(
            host.findings(),
            [
                (Verdict::Ok, "1.50 CPUs; workers are counted by it".into()),
                (Verdict::Ok, "never stopped in 3 periods".into()),
                (Verdict::Ok, "none".into()),
            ]
        );
    }

    #[test]
    fn quota_that_says_none_or_nonsense_is_none() {
        for (quota, period) in [("max", "100000"), ("-1", "100000"), ("5", "0"), ("0", "5"), ("", "")] {
            assert_eq!(quota_of(quota, period), None, "{quota} {period}");
        }
        assert_eq!(quota_of("50000\n", "100000\n"), Some(0.5));
    }
}
