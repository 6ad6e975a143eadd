//! `ringway doctor` as a command: text, JSON and exit code, under limits of the test's choosing.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the doctor, below a shell that sets a limit first.
fn doctor(limit: &str, flags: &str) -> Output {
    let script = format!("{limit} exec {} doctor {flags}", env!("CARGO_BIN_EXE_ringway"));
    Command::new("sh").args(["-c", &script]).output().expect("a shell")
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
