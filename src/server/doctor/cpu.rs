//! CPUs: how many workers there would be and where, clock frequency, huge pages, memory nodes.

use super::files::{Files, Text};
use super::finding::{Advice, Finding, Topic};
use super::parse;
use crate::runtime::affinity::{Affinity, Cpus};

pub(super) fn findings(files: &Files, cpus: &Cpus) -> Vec<Finding> {
    let policies = files.list(CPUFREQ).into_iter().filter(|name| name.starts_with("policy"));
    let governors: Vec<_> =
        policies.map(|policy| files.read(&format!("{CPUFREQ}/{policy}/scaling_governor"))).collect();
    vec![
        workers(cpus),
        governor(&governors),
        numa(&files.read("sys/devices/system/node/online"), cpus),
        huge_pages(&files.read("sys/kernel/mm/transparent_hugepage/enabled")),
    ]
}

const CPUFREQ: &str = "sys/devices/system/cpu/cpufreq";

fn workers(cpus: &Cpus) -> Finding {
    let topic = Topic::new("workers", "workers");
    let count = cpus.workers();
    let allowed = match parse::shown(&cpus.allowed) {
        list if list.is_empty() => return topic.unknown("the CPUs this process may use cannot be asked for"),
        list => list,
    };
    let bound = cpus.of_worker(&Affinity::Auto, 0, count).is_some();
    let placed = if bound {
        "each bound to its CPU by --cpu-affinity auto"
    } else {
        "not bound by --cpu-affinity auto, as a quota or a smaller number leaves CPUs to others"
    };
    topic.ok(format!("{count} by default (--concurrency {count}) on CPUs {allowed}, {placed}"))
}

fn governor(governors: &[Text]) -> Finding {
    let topic = Topic::new("cpu_governor", "CPU frequency governor");
    let mut names: Vec<&str> = governors.iter().flatten().map(|name| name.trim()).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => topic.unknown("no frequency control is visible: a virtual machine, or the host's own affair"),
        ["performance"] => topic.ok("performance"),
        [""] => topic.unknown("the governor has no name"),
        _ => topic.advice(
            names.join(", "),
            Advice {
                what: "performance, where latency counts more than power".into(),
                command: "cpupower frequency-set -g performance".into(),
                gain: "No slow first requests after idleness while the clock rises. Not measured here (no frequency control on the \
                       measuring machine)",
                source: "kernel: admin-guide/pm/cpufreq.rst",
            },
        ),
    }
}

fn numa(online: &Text, cpus: &Cpus) -> Finding {
    let topic = Topic::new("numa", "memory nodes (NUMA)");
    let nodes = match online {
        Err(why) => return topic.unknown(why.reason()),
        Ok(text) => match parse::list(text) {
            Some(nodes) if !nodes.is_empty() => nodes,
            _ => return topic.unknown("the list of nodes is not understood"),
        },
    };
    let found = format!("{} online: {}", nodes.len(), parse::shown(&nodes));
    if nodes.len() == 1 {
        return topic.ok(found);
    }
    if cpus.of_worker(&Affinity::Auto, 0, cpus.workers()).is_some() {
        return topic.ok(format!(
            "{found}; workers are bound before they touch their memory, which is then on their node"
        ));
    }
    topic.advice(
        found,
        Advice {
            what: "keep it on the node of its network card: the workers are not bound here".into(),
            command: "numactl --cpunodebind=N --membind=N ringway ...   # N: cat /sys/class/net/eth0/device/numa_node".into(),
            gain: "Memory of the own node. Not measured here (one node on the measuring machine)",
            source: "kernel: admin-guide/mm/numaperf.rst",
        },
    )
}

fn huge_pages(enabled: &Text) -> Finding {
    let topic = Topic::new("thp", "transparent huge pages");
    match enabled.as_deref().map(parse::chosen) {
        Err(why) => topic.unknown(why.reason()),
        Ok(Some(mode @ ("madvise" | "never"))) => topic.ok(mode),
        Ok(Some("always")) => topic.advice(
            "always",
            Advice {
                what: "madvise, for small proxies on a host with many; Ringway's allocator declines huge pages, stacks and \
                       libraries cannot"
                    .into(),
                command: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".into(),
                gain: "Resident memory: 4.7 MB instead of 10.3 MB was what declining huge pages gained in the allocator; the rest \
                       was not measured",
                source: "ARCHITECTURE.md, choice 15; kernel: admin-guide/mm/transhuge.rst",
            },
        ),
        Ok(_) => topic.unknown("the mode is not understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::files::Unreadable;
    use crate::server::doctor::finding::Verdict;

    fn text(text: &str) -> Text {
        Ok(text.to_owned())
    }

    fn cpus(count: usize, usable: usize) -> Cpus {
        Cpus { allowed: (0..count).collect(), usable }
    }

    #[test]
    fn workers_are_those_the_server_would_start() {
        let whole = workers(&cpus(4, 4)).found;
        assert!(whole.starts_with("4 by default (--concurrency 4) on CPUs 0-3, each bound"), "{whole}");
        let cut = workers(&cpus(4, 2)).found;
        assert!(cut.starts_with("2 by default") && cut.contains("not bound"), "{cut}");
        assert_eq!(workers(&cpus(0, 1)).verdict, Verdict::Unknown);
    }

    #[test]
    fn governors_other_than_performance_get_advice() {
        let missing = Err(Unreadable::Missing("/x".into()));
        for (all, verdict) in [
            (vec![text("performance\n"), text("performance\n")], Verdict::Ok),
            (vec![text("performance\n"), text("powersave\n")], Verdict::Advice),
            (vec![text("schedutil")], Verdict::Advice),
            (vec![], Verdict::Unknown),
            (vec![text("\n")], Verdict::Unknown),
            (vec![missing], Verdict::Unknown),
        ] {
            assert_eq!(governor(&all).verdict, verdict, "{all:?}");
        }
    }

    #[test]
    fn several_nodes_matter_only_to_unbound_workers() {
        assert_eq!(numa(&text("0\n"), &cpus(2, 1)).verdict, Verdict::Ok);
        assert_eq!(numa(&text("0-1\n"), &cpus(2, 2)).verdict, Verdict::Ok);
        assert_eq!(numa(&text("0-1\n"), &cpus(2, 1)).verdict, Verdict::Advice);
        assert_eq!(numa(&text(""), &cpus(2, 1)).verdict, Verdict::Unknown);
    }

    #[test]
    fn huge_pages_always_get_advice() {
        for (mode, verdict) in [
            ("always [madvise] never", Verdict::Ok),
            ("always madvise [never]", Verdict::Ok),
            ("[always] madvise never", Verdict::Advice),
            ("always", Verdict::Unknown),
            ("[strange]", Verdict::Unknown),
        ] {
            assert_eq!(huge_pages(&text(mode)).verdict, verdict, "{mode}");
        }
    }
}
