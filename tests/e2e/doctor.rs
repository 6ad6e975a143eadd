//! `ringway doctor` as a command: text, JSON and exit code, under limits of the test's choosing.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Confinement, Io, binary};

/// Runs the doctor, below a shell that sets a limit first.
fn doctor(limit: &str, flags: &str) -> Output {
    let script = format!("{limit} exec {} doctor {flags}", binary().get_program().display());
    Command::new("sh").args(["-c", &script]).output().expect("a shell")
}

/// What it reports to programs, where the kernel withholds something from it.
fn report(confinement: Confinement) -> Value {
    let mut command = binary();
    confinement.apply(&mut command);
    let output = command.args(["doctor", "--json"]).output().expect("the binary");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The verdict of a finding, and all that is said.
fn finding(report: &Value, id: &str) -> (String, String) {
    let findings = report["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["id"] == id).expect("a finding");
    (finding["verdict"].as_str().expect("a text").to_owned(), finding.to_string())
}

#[test]
fn doctor_names_the_filter_that_refuses_the_ring() {
    for (errno, why) in [(libc::EPERM, "forbidden"), (libc::ENOSYS, "hidden by a seccomp profile")] {
        let report = report(Confinement::Call(libc::SYS_io_uring_setup, errno));
        for id in ["io_uring_level_1", "io_uring_level_2", "io_uring_level_3", "io_backend", "seccomp"] {
            let (verdict, text) = finding(&report, id);
            assert!(verdict == "advice" && text.contains("deploy/seccomp-io_uring.json"), "{text}");
            assert!(text.contains(why) || !id.starts_with("io_uring_level"), "{text}");
        }
        assert!(finding(&report, "seccomp").1.contains("io_uring does not work"));
        assert_eq!(report["summary"]["problem"], 0, "epoll serves");
    }
}

#[test]
fn doctor_advises_locked_memory_only_where_rings_count() {
    let report = report(Confinement::LockedMemory(0));
    let (_, backend) = finding(&report, "io_backend");
    let (verdict, text) = finding(&report, "memlock");
    if backend.contains("io_uring, ring-") {
        return assert!(verdict == "ok" && text.contains("does not count rings"), "{text}");
    }
    assert!(verdict == "advice" && text.contains("LimitMEMLOCK"), "{text}");
    if Io::IoUring.works() {
        let (_, level) = finding(&report, "io_uring_level_3");
        assert!(
            level.contains("RLIMIT_MEMLOCK") && backend.contains("line locked memory"),
            "{level} {backend}"
        );
    }
}

#[test]
fn doctor_without_descriptors_for_a_ring_says_that() {
    let short = doctor("ulimit -n 8;", "--json");
    assert_eq!(short.status.code(), Some(2));
    let report = serde_json::from_slice(&short.stdout).expect("JSON");
    if Io::IoUring.works() {
        for id in ["io_backend", "io_uring_level_3"] {
            let (verdict, text) = finding(&report, id);
            assert!(verdict == "advice" && text.contains("line file descriptors"), "{text}");
        }
    }
    assert_eq!(finding(&report, "fd_limit").0, "problem");
}

#[test]
fn doctor_exits_with_2_only_when_there_is_a_problem() {
    let short = doctor("ulimit -n 200;", "--json");
    let report: Value = serde_json::from_slice(&short.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let descriptors = findings.iter().find(|finding| finding["id"] == "fd_limit").expect("a finding");
    assert_eq!(descriptors["verdict"], "problem", "{descriptors}");
    assert!(descriptors["command"].is_string() && descriptors["gain"].is_string(), "{descriptors}");
    assert_eq!(short.status.code(), Some(2));

    let usual = doctor("", "--json");
    let report: Value = serde_json::from_slice(&usual.stdout).expect("JSON");
    let problems = report["summary"]["problem"].as_u64().expect("a count");
    assert_eq!(usual.status.code(), Some(if problems == 0 { 0 } else { 2 }));
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn doctor_in_text_ends_with_the_count_and_logs_nothing() {
    let output = doctor("", "");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("io_uring level 3"), "{text}");
    assert!(text.lines().last().expect("a line").contains(" ok, "), "{text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn doctor_that_cannot_write_says_so_by_its_exit_code() {
    assert_eq!(doctor("", "> /dev/full").status.code(), Some(1));
    assert_eq!(doctor("", "--concurrency 3").status.code(), Some(1));
}
