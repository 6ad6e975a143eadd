//! Limits of the process: descriptors and locked memory.

use super::files::{Files, Text};
use super::finding::{Advice, Finding, Topic};
use super::io::{Survey, highest};
use super::parse;
use crate::runtime::affinity::Cpus;

/// Descriptors below which a proxy is out of them in no time: a request takes two.
const FILES_MIN: u64 = 1024;
/// Descriptors for 32,000 proxied connections: beyond what one host's ports give towards one upstream.
const FILES_GOOD: u64 = 65_536;

/// Locked memory of one worker's ring, its queues and buffer rings. Measured on Linux 6.18: 64 KiB suffice, 60 do not.
const RING_LOCKED: u64 = 64 << 10;
/// The bit of CAP_IPC_LOCK in the masks of `/proc/self/status`.
const CAP_IPC_LOCK: u64 = 1 << 14;

pub(super) fn findings(files: &Files, cpus: &Cpus, survey: &Survey) -> Vec<Finding> {
    let limits = files.read("proc/self/limits");
    let status = files.read("proc/self/status");
    vec![descriptors(&limits), locked(&limits, &status, cpus.workers(), survey)]
}

fn descriptors(limits: &Text) -> Finding {
    let topic = Topic::new("fd_limit", "file descriptors");
    // The soft limit is raised to it at the start.
    let hard = match limit(limits, "Max open files") {
        Ok((_, hard)) => hard,
        Err(why) => return topic.unknown(why),
    };
    let pairs = if hard == u64::MAX { "any number of".to_owned() } else { (hard / 2).to_string() };
    let found = format!("{}, the hard limit: {pairs} proxied connections", shown(hard));
    if hard >= FILES_GOOD {
        return topic.ok(found);
    }
    let advice = Advice {
        what: "twice the connections you expect, and some for upstreams".into(),
        command: "systemctl edit ringway   # [Service] LimitNOFILE=1048576\n\
                  docker run --ulimit nofile=1048576 ..."
            .into(),
        gain: "Room for connections: at the limit Ringway keeps what it has and stops accepting",
        source: "README.md, Limits",
    };
    if hard < FILES_MIN { topic.problem(found, advice) } else { topic.advice(found, advice) }
}

fn locked(limits: &Text, status: &Text, workers: usize, survey: &Survey) -> Finding {
    let topic = Topic::new("memlock", "locked memory");
    let (soft, hard) = match limit(limits, "Max locked memory") {
        Ok(pair) => pair,
        Err(why) => return topic.unknown(why),
    };
    let text = |bytes| if bytes == u64::MAX { "unlimited".to_owned() } else { parse::bytes(bytes) };
    let found = format!("soft {}, hard {}", text(soft), text(hard));
    let capabilities = status.as_deref().ok().and_then(|status| parse::field(status, "CapEff"));
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    if capabilities.is_some_and(|mask| mask & CAP_IPC_LOCK != 0) {
        return topic.ok(format!("{found}; does not bind this process (CAP_IPC_LOCK)"));
    }
    if soft < RING_LOCKED && highest(survey).is_some() {
        return topic.ok(format!("{found}; this kernel does not count rings: one was made"));
    }
    let needed = RING_LOCKED.saturating_mul(workers as u64);
    let rings = if soft == u64::MAX { "any number of".to_owned() } else { (soft / RING_LOCKED).to_string() };
    let found = format!("{found}: {rings} rings, of all processes of this user");
    if soft >= needed {
        return topic.ok(found);
    }
    topic.advice(
        found,
        Advice {
            what: format!("{} per worker: {} here, more where other processes of the user have rings", text(RING_LOCKED), text(needed)),
            command: "systemctl edit ringway   # [Service] LimitMEMLOCK=64M\n\
                      docker run --ulimit memlock=67108864 ..."
                .into(),
            gain: "io_uring instead of epoll on kernels that count rings against the limit: before 5.12, not on 6.1 and 6.12, and \
                   again on 6.18, where a worker's ring was measured to need 64 KiB",
            source: "man 2 io_uring_setup, ENOMEM",
        },
    )
}

/// Soft and hard value of a line of `/proc/self/limits`; unlimited is the greatest number.
fn limit(limits: &Text, name: &str) -> Result<(u64, u64), String> {
    let text = limits.as_ref().map_err(|why| why.reason())?;
    let value = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { parse::number(word) };
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.into_iter().flat_map(str::split_whitespace).map(value);
    match (words.next().flatten(), words.next().flatten()) {
        (Some(soft), Some(hard)) => Ok((soft, hard)),
        _ => Err(format!("/proc/self/limits has no line {name} that is understood")),
    }
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{LevelSurvey, RingLevel, RingOptions};
    use crate::server::doctor::finding::Verdict;

    fn limits(files: &str, memory: &str) -> Text {
        Ok(format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            {files}                files     \n\
             Max locked memory         {memory}              bytes     \n"
        ))
    }

    #[test]
    fn descriptors_are_judged_by_the_hard_limit() {
        for (line, verdict) in [
            ("1048576 1048576", Verdict::Ok),
            ("unlimited unlimited", Verdict::Ok),
            ("256 524288", Verdict::Ok),
            ("20000 20000", Verdict::Advice),
            ("256 256", Verdict::Problem),
            ("x 5", Verdict::Unknown),
            ("5", Verdict::Unknown),
        ] {
            assert_eq!(descriptors(&limits(line, "0 0")).verdict, verdict, "{line}");
        }
        let few = descriptors(&limits("512 1024", "0 0"));
        assert!(few.advice.unwrap().command.contains("LimitNOFILE"));
        assert!(few.found.contains("512 proxied"), "{}", few.found);
    }

    #[test]
    fn locked_memory_has_room_for_a_ring_per_worker_or_gets_advice() {
        let status = |capabilities: &str| Ok(format!("CapPrm:\t0\nCapEff:\t{capabilities}\n"));
        let judged = |memory: &str, capabilities, workers| {
            locked(&limits("1 1", memory), &status(capabilities), workers, &untried())
        };
        assert_eq!(judged("8388608 unlimited", "0", 2).verdict, Verdict::Ok);
        assert!(
            judged("8388608 unlimited", "0", 2).found.starts_with("soft 8 MiB, hard unlimited: 128 rings")
        );
        let short = judged("65536 65536", "0", 2);
        assert_eq!(short.verdict, Verdict::Advice);
        assert!(short.advice.unwrap().what.starts_with("64 KiB per worker: 128 KiB here"));
        assert_eq!(judged("0 0", "000001ffffffffff", 2).verdict, Verdict::Ok, "it is not bound by the limit");
        assert_eq!(judged("0 0", "zz", 2).verdict, Verdict::Advice);
        assert_eq!(judged("unlimited unlimited", "0", usize::MAX).verdict, Verdict::Ok);
        assert_eq!(locked(&Ok(String::new()), &status("0"), 1, &untried()).verdict, Verdict::Unknown);
    }

    /// On Linux 6.1, as a user of no privilege without locked memory, the doctor advised more of it.
    #[test]
    fn ring_that_was_made_without_locked_memory_needs_none() {
        let outcome = Ok(RingOptions::default());
        let survey = Ok(vec![LevelSurvey { level: RingLevel::One, outcome }]);
        let status = Ok("CapEff:\t0\n".to_owned());
        let judged = |memory: &str, survey: &Survey| locked(&limits("1 1", memory), &status, 4, survey);
        assert_eq!(judged("0 0", &survey).verdict, Verdict::Ok);
        assert!(judged("0 0", &survey).found.contains("does not count"));
        assert_eq!(judged("0 0", &untried()).verdict, Verdict::Advice);
        assert_eq!(
            judged("65536 65536", &survey).verdict,
            Verdict::Advice,
            "one ring fits: it proves nothing"
        );
    }

    fn untried() -> Survey {
        Ok(Vec::new())
    }
}
