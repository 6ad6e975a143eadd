//! Kernel, io_uring level by level, and what may forbid it.

use super::files::{Files, Text};
use super::finding::{Advice, Finding, Topic};
use super::parse;
use crate::runtime::{Cause, LevelSurvey, RingLevel};

/// What the runtime's own probing said, or why it could not be tried.
pub(super) type Survey = Result<Vec<LevelSurvey>, String>;

/// The kernel from which all that Ringway uses is there.
const KERNEL_FULL: (u64, u64) = (6, 1);
/// The kernel below which io_uring is not used.
const KERNEL_RING: (u64, u64) = (5, 19);

const NEWER_KERNEL: &str = "apt-get dist-upgrade   # or the distribution's newer kernel";

/// What ring, levels and epoll cost a request.
const MEASURED: &str = "ARCHITECTURE.md, choice 3";

pub(super) fn findings(files: &Files, survey: &Survey) -> Vec<Finding> {
    let status = files.read("proc/self/status");
    let mut findings = vec![kernel(&files.read("proc/sys/kernel/osrelease")), backend(survey)];
    findings.extend(survey.iter().flatten().map(level));
    findings.push(options(survey));
    findings.push(disabled(&files.read("proc/sys/kernel/io_uring_disabled")));
    findings.push(seccomp(&status, survey));
    findings
}

fn kernel(release: &Text) -> Finding {
    let topic = Topic::new("kernel", "kernel");
    let release = match release {
        Ok(release) => release.trim(),
        Err(why) => return topic.unknown(why.reason()),
    };
    let Some(version) = version(release) else {
        return topic.unknown(format!("no version that is understood: {release}"));
    };
    let found = format!("Linux {release}");
    if version >= KERNEL_FULL {
        return topic.ok(found);
    }
    let missing = if version < KERNEL_RING {
        "Linux 5.19 or newer has what Ringway needs of io_uring; epoll is used here"
    } else {
        "Linux 6.1 or newer runs completions only when a worker waits for them (DEFER_TASKRUN)"
    };
    topic.advice(
        found,
        Advice {
            what: format!("{missing}; 6.1 is Debian 12's"),
            command: NEWER_KERNEL.into(),
            gain: "The ring instead of epoll, or its next level. Not measured across kernels here",
            source: MEASURED,
        },
    )
}

/// `6.18.44-fc` is (6, 18).
fn version(release: &str) -> Option<(u64, u64)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn backend(survey: &Survey) -> Finding {
    let topic = Topic::new("io_backend", "I/O back end");
    let levels = match survey {
        Ok(levels) => levels,
        Err(why) => return topic.unknown(format!("nothing can be tried: {why}")),
    };
    match highest(survey) {
        Some(RingLevel::Three) => topic.ok("io_uring, ring-3: everything used was tried and works"),
        Some(level) => topic.ok(format!("io_uring, {level}: the highest level that works")),
        None => {
            let refusal = levels.iter().find_map(|one| one.outcome.as_ref().err());
            let (what, command) = way_out(refusal.map_or(Cause::Unexpected, |refusal| refusal.cause));
            topic.advice(
                "epoll: no level of io_uring works",
                Advice {
                    what: format!("{what}, if calls are dear where it runs; epoll serves the same otherwise"),
                    command: command.into(),
                    gain: "One system call per 3-4 requests instead of 4 per request. CPU per request, Linux 6.18: 15.4 us (ring) \
                           and 17.3 us (epoll) at 64 connections, 84 and 81 us with one",
                    source: MEASURED,
                },
            )
        }
    }
}

/// What to do about a refusal, and the command.
fn way_out(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::SwitchedOff => (
            "switch it on, for all or for a group (line kernel.io_uring_disabled)",
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        Cause::Forbidden => (
            "run under a profile that allows the three io_uring calls",
            "docker run --security-opt seccomp=deploy/seccomp-io_uring.json ...",
        ),
        Cause::Absent => (
            "run under a profile that allows the three io_uring calls, or on a kernel built with CONFIG_IO_URING",
            "docker run --security-opt seccomp=deploy/seccomp-io_uring.json ...",
        ),
        Cause::Memory => (
            "give it memory that may be locked (line locked memory)",
            "systemctl edit ringway   # [Service] LimitMEMLOCK=64M",
        ),
        Cause::Descriptors => (
            "give it descriptors (line file descriptors)",
            "systemctl edit ringway   # [Service] LimitNOFILE=1048576",
        ),
        Cause::TooOld => ("run it on a newer kernel (line kernel)", NEWER_KERNEL),
        Cause::Unexpected => (
            "find the call that fails, and why",
            "strace -f -e trace=io_uring_setup,io_uring_register,io_uring_enter ringway doctor",
        ),
    }
}

/// The highest level that works.
pub(super) fn highest(survey: &Survey) -> Option<RingLevel> {
    survey.iter().flatten().filter(|one| one.outcome.is_ok()).map(|one| one.level).max()
}

fn level(one: &LevelSurvey) -> Finding {
    let (number, offers) = match one.level {
        RingLevel::One => (1, "buffer rings, multishot accept (Linux 5.19)"),
        RingLevel::Two => (2, "multishot receive, single issuer (Linux 6.0)"),
        RingLevel::Three => (3, "deferred task running (Linux 6.1)"),
    };
    let topic = Topic::new(format!("io_uring_level_{number}"), format!("io_uring level {number}"));
    match &one.outcome {
        Ok(_) => topic.ok(format!("works: {offers}")),
        Err(refusal) => {
            let (what, command) = way_out(refusal.cause);
            topic.advice(
                format!("refused: {offers}: {refusal}"),
                Advice {
                    what: what.into(),
                    command: command.into(),
                    gain: "The ring, where no other level works (line I/O back end). Between levels CPU per request was within 1 %: \
                           64 connections, Linux 6.18",
                    source: MEASURED,
                },
            )
        }
    }
}

fn options(survey: &Survey) -> Finding {
    let topic = Topic::new("io_uring_options", "io_uring options");
    let best = survey.iter().flatten().filter(|one| one.outcome.is_ok()).max_by_key(|one| one.level);
    let Some(Ok(options)) = best.map(|one| &one.outcome) else {
        return topic.unknown("no level of io_uring works");
    };
    let named = [
        (options.receive_cap, "receives that end after a number of bytes (6.17)"),
        (options.no_iowait, "waiting not counted as disk wait (6.15)"),
        (options.registered_descriptor, "registered ring descriptor (5.18)"),
    ];
    let list = |there: bool| {
        let names: Vec<_> = named.iter().filter(|one| one.0 == there).map(|one| one.1).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    topic.ok(format!("used: {}; not in this kernel: {}", list(true), list(false)))
}

fn disabled(value: &Text) -> Finding {
    let topic = Topic::new("io_uring_disabled", "kernel.io_uring_disabled");
    let source = "kernel: admin-guide/sysctl/kernel.rst, io_uring_disabled";
    let gain = "The ring becomes available; see the I/O back end for what that is worth";
    let number = match value {
        // Before Linux 6.6 there is no such switch.
        Err(why) if why.is_missing() => {
            return topic.ok("not there: this kernel has no such switch (Linux 6.6), or hides it");
        }
        Err(why) => return topic.unknown(why.reason()),
        Ok(text) => parse::number(text),
    };
    match number {
        Some(0) => topic.ok("0: every process may make rings"),
        Some(1) => topic.advice(
            "1: only members of kernel.io_uring_group and processes with CAP_SYS_ADMIN may make rings",
            Advice {
                what: "name a group of Ringway's process in kernel.io_uring_group".into(),
                command: "sysctl -w kernel.io_uring_group=$(id -g USER)".into(),
                gain,
                source,
            },
        ),
        Some(2) => topic.advice(
            "2: io_uring is switched off for everybody",
            Advice {
                what: "switch it on if the host's policy allows it, best for one group".into(),
                command: "sysctl -w kernel.io_uring_disabled=1 kernel.io_uring_group=$(id -g USER)".into(),
                gain,
                source,
            },
        ),
        _ => topic.unknown("the value is not one of 0, 1, 2"),
    }
}

fn seccomp(status: &Text, survey: &Survey) -> Finding {
    let topic = Topic::new("seccomp", "seccomp");
    let status = match status {
        Ok(status) => status,
        Err(why) => return topic.unknown(why.reason()),
    };
    let filters = parse::field(status, "Seccomp_filters").and_then(parse::number);
    let works = highest(survey).is_some();
    match parse::field(status, "Seccomp").and_then(parse::number) {
        Some(0) => topic.ok("off: no system call is filtered"),
        Some(1) => topic.ok("strict"),
        Some(2) => {
            let count = filters.map(|count| format!(" ({count} installed)")).unwrap_or_default();
            let found =
                format!("filtered{count}; io_uring {}", if works { "is allowed" } else { "does not work" });
            if works || survey.is_err() {
                return topic.ok(found);
            }
            topic.advice(
                found,
                Advice {
                    what: "run under a profile that allows the three io_uring calls, if the filter is what refuses them".into(),
                    command: "docker run --security-opt seccomp=deploy/seccomp-io_uring.json ...".into(),
                    gain: "The ring becomes available; weigh it against what a ring hides from seccomp",
                    source: "README.md, Containers and io_uring",
                },
            )
        }
        _ => topic.unknown("/proc/self/status has no line Seccomp that is understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Refusal, RingOptions};
    use crate::server::doctor::files::Unreadable;
    use crate::server::doctor::finding::Verdict::{Advice, Ok as Fine, Unknown};

    fn text(text: &str) -> Text {
        Ok(text.to_owned())
    }

    fn survey(works: [bool; 3]) -> Survey {
        refused_by(Cause::Forbidden, works)
    }

    fn refused_by(cause: Cause, works: [bool; 3]) -> Survey {
        let levels = [RingLevel::Three, RingLevel::Two, RingLevel::One].into_iter().zip(works);
        let outcome = |works| match works {
            true => Ok(RingOptions::default()),
            false => Err(Refusal { cause, text: "in the kernel's words".into() }),
        };
        Ok(levels.map(|(level, works)| LevelSurvey { level, outcome: outcome(works) }).collect())
    }

    #[test]
    fn kernel_is_judged_by_its_version() {
        for (release, verdict) in [
            ("6.18.44-fc\n", Fine),
            ("6.1.0-13-amd64", Fine),
            ("6.0.1", Advice),
            ("5.10.0", Advice),
            ("4.19", Advice),
            ("x.y", Unknown),
            ("6", Unknown),
            ("99999999999999999999.1", Unknown),
        ] {
            assert_eq!(kernel(&text(release)).verdict, verdict, "{release}");
        }
        let old = kernel(&text("5.10.0")).advice.unwrap();
        assert!(old.what.contains("epoll is used here"), "{old:?}");
    }

    #[test]
    fn back_end_is_the_highest_level_that_works() {
        assert!(backend(&survey([true, true, true])).found.contains("ring-3"));
        assert!(backend(&survey([false, true, true])).found.contains("ring-2"));
        let none = backend(&survey([false; 3]));
        assert_eq!(none.verdict, Advice);
        assert!(none.advice.unwrap().gain.contains("17.3 us (epoll)"));
        assert_eq!(backend(&Err("no descriptor".into())).verdict, Unknown);
    }

    #[test]
    fn level_that_is_refused_says_why() {
        let refused = &survey([false; 3]).unwrap()[0];
        let finding = level(refused);
        assert_eq!((finding.id.as_str(), finding.verdict), ("io_uring_level_3", Advice));
        assert!(finding.found.ends_with("in the kernel's words"), "{finding:?}");
    }

    /// On Linux 5.10 the doctor advised a seccomp profile and a sysctl that is not there.
    #[test]
    fn way_out_is_that_of_the_cause() {
        for (cause, what, command) in [
            (Cause::SwitchedOff, "line kernel.io_uring_disabled", "sysctl"),
            (Cause::Forbidden, "profile", "seccomp-io_uring.json"),
            (Cause::Absent, "profile", "seccomp-io_uring.json"),
            (Cause::Memory, "line locked memory", "LimitMEMLOCK"),
            (Cause::Descriptors, "line file descriptors", "LimitNOFILE"),
            (Cause::TooOld, "line kernel", "dist-upgrade"),
            (Cause::Unexpected, "the call that fails", "strace"),
        ] {
            let levels = refused_by(cause, [false; 3]);
            for finding in [backend(&levels), level(&levels.unwrap()[1])] {
                let advice = finding.advice.unwrap();
                assert!(advice.what.contains(what) && advice.command.contains(command), "{advice:?}");
            }
        }
    }

    #[test]
    fn options_of_the_best_level_are_listed() {
        let mut levels = survey([false, true, true]).unwrap();
        levels[1].outcome = Ok(RingOptions { no_iowait: true, ..RingOptions::default() });
        let found = options(&Ok(levels)).found;
        let (used, missing) = found.split_once("not in this kernel").unwrap();
        assert!(used.contains("6.15") && missing.contains("6.17"), "{found}");
        assert_eq!(options(&survey([false; 3])).verdict, Unknown);
    }

    #[test]
    fn switch_of_the_kernel_is_understood() {
        for (value, verdict) in [("0\n", Fine), ("1", Advice), ("2", Advice), ("3", Unknown), ("", Unknown)] {
            assert_eq!(disabled(&text(value)).verdict, verdict, "{value}");
        }
        assert_eq!(disabled(&Err(Unreadable::Missing("/x".into()))).verdict, Fine);
        assert_eq!(disabled(&Err(Unreadable::Refused("/x: no".into()))).verdict, Unknown);
    }

    #[test]
    fn filter_is_blamed_only_where_nothing_works() {
        let filtered = text("Seccomp:\t2\nSeccomp_filters:\t1\n");
        assert_eq!(seccomp(&filtered, &survey([true; 3])).verdict, Fine);
        let blamed = seccomp(&filtered, &survey([false; 3]));
        assert_eq!(blamed.verdict, Advice);
        assert!(blamed.found.contains("1 installed"));
        assert_eq!(seccomp(&text("Seccomp:\t0"), &survey([false; 3])).verdict, Fine);
        assert_eq!(seccomp(&text("Seccomp:\t7"), &survey([false; 3])).verdict, Unknown);
    }
}
