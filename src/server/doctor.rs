//! `ringway doctor`: looks at the host as a worker would and says what to change, with the command and what it gains.
//!
//! Reading (`files`, the runtime's own probing) is thin; deciding is a pure function per finding, from the text of a file
//! to a [`Finding`]. Nothing is changed, no privilege is needed, and what cannot be read is `unknown`, never an error:
//! in a container much of this belongs to the host.

mod cgroup;
mod cpu;
mod device;
mod files;
mod finding;
mod io;
mod limit;
mod netfilter;
mod network;
mod parse;
mod report;

use std::io::Write;

use crate::cli::{EXIT_FAILURE, EXIT_OK, EXIT_PROBLEM, ReportFormat};
use crate::runtime;
use crate::runtime::affinity::Cpus;
use files::Files;
use finding::{Finding, Verdict};

/// Prints the report; the exit code.
pub(super) fn run(format: ReportFormat) -> u8 {
    // As serving does first, so that what is tried meets the same limit; where it is refused, it does there, too.
    let _ = runtime::raise_descriptor_limit();
    let survey = runtime::survey().map_err(|error| error.to_string());
    let findings = examine(&Files::of_this_host(), &Cpus::of_this_process(), &survey);
    let text = match format {
        ReportFormat::Text => report::text(&findings),
        ReportFormat::Json => report::json(&findings),
    };
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        return EXIT_FAILURE;
    }
    let problem = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    if problem { EXIT_PROBLEM } else { EXIT_OK }
}

/// Everything that is looked at, in the order of the report.
fn examine(files: &Files, cpus: &Cpus, survey: &io::Survey) -> Vec<Finding> {
    let mut findings = io::findings(files, survey);
    findings.extend(limit::findings(files, cpus, survey));
    findings.extend(cgroup::findings(files));
    findings.extend(cpu::findings(files, cpus));
    findings.extend(network::findings(files));
    findings.extend(device::findings(files, cpus));
    findings.extend(netfilter::findings(files));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &Files) -> Vec<Finding> {
        let cpus = Cpus { allowed: vec![0, 1], usable: 2 };
        examine(files, &cpus, &Err("no descriptor left".into()))
    }

    #[test]
    fn host_that_shows_nothing_is_unknown_and_never_a_problem() {
        let findings = host(&Files::at("/nonexistent".into()));
        assert!(findings.len() > 20);
        for finding in &findings {
            assert!(finding.verdict != Verdict::Problem, "{finding:?}");
        }
        assert!(findings.iter().filter(|finding| finding.verdict == Verdict::Unknown).count() > 10);
    }

    #[test]
    fn garbage_in_every_file_panics_nowhere_and_is_no_problem() {
        let long = "9".repeat(5000);
        let lines = "\n".repeat(5000);
        for text in [
            "",
            "\n",
            "-1",
            "0",
            "18446744073709551616",
            "garbage",
            "a b c d",
            "0-",
            "-",
            ",,,",
            "0-99999999999",
            "[",
            "] [",
            "\u{0}\u{1}",
            "ffffffff,,",
            "0::",
            "1:cpu,memory:/../..",
            ":::",
            "Max open files",
            "Seccomp:",
            "\u{fffd}",
            "\t\t\t",
            "max",
            "max max",
            "1 0",
            &long,
            &lines,
        ] {
            for finding in host(&Files::same_for_test(text)) {
                let is_number = text.trim().parse::<i64>().is_ok() || text == "1 0";
                assert!(is_number || finding.verdict != Verdict::Problem, "{text:?}: {finding:?}");
                assert!(!finding.found.contains('\n') && finding.found.len() < 600, "{text:?}: {finding:?}");
            }
        }
    }

    #[test]
    fn findings_have_names_of_their_own_and_advice_where_something_is_to_do() {
        for text in ["0", "1", "4294967295", "always", "0 0 0", "1 1\n"] {
            let findings = host(&Files::same_for_test(text));
            let mut ids: Vec<_> = findings.iter().map(|finding| finding.id.clone()).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), findings.len(), "{findings:?}");
            for finding in findings {
                let to_do = matches!(finding.verdict, Verdict::Advice | Verdict::Problem);
                assert_eq!(to_do, finding.advice.is_some(), "{finding:?}");
                if let Some(advice) = finding.advice {
                    assert!(
                        ![advice.what, advice.command, advice.gain.into(), advice.source.into()]
                            .contains(&String::new())
                    );
                }
            }
        }
    }

    #[test]
    fn this_host_is_examined() {
        let findings =
            examine(&Files::of_this_host(), &Cpus::of_this_process(), &Ok(runtime::survey().unwrap()));
        let kernel = findings.iter().find(|finding| finding.id == "kernel").unwrap();
        assert!(kernel.found.starts_with("Linux "), "{kernel:?}");
    }
}
