//! The report as text and as JSON.

use serde_json::{Value, json};

use super::finding::{Finding, Verdict};
use crate::cli::VERSION;

const VERDICTS: [Verdict; 4] = [Verdict::Ok, Verdict::Advice, Verdict::Problem, Verdict::Unknown];

/// One finding per line, what to do indented below it, a count at the end.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.title.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        out.push_str(&format!(
            "{:<8} {:<width$}  {}\n",
            finding.verdict.name(),
            finding.title,
            finding.found
        ));
        if let Some(advice) = &finding.advice {
            out.push_str(&format!("           advised  {}\n", advice.what));
            for (label, line) in
                std::iter::once("command").chain(std::iter::repeat("")).zip(advice.command.lines())
            {
                out.push_str(&format!("           {label:<8} {line}\n"));
            }
            out.push_str(&format!("           gains    {} [{}]\n", advice.gain, advice.source));
        }
    }
    let counts: Vec<_> =
        VERDICTS.map(|verdict| format!("{} {}", count(findings, verdict), verdict.name())).into();
    out.push_str(&format!("\nringway {VERSION} doctor: {}\n", counts.join(", ")));
    out
}

/// `{"version", "summary": {verdict: count}, "findings": [{"id", "title", "verdict", "found", "advised", "command",
/// "gain", "source"}]}`; the last four are null where nothing is to do.
pub(super) fn json(findings: &[Finding]) -> String {
    let entry = |finding: &Finding| {
        let advice = finding.advice.as_ref();
        json!({
            "id": finding.id,
            "title": finding.title,
            "verdict": finding.verdict.name(),
            "found": finding.found,
            "advised": advice.map(|advice| advice.what.as_str()),
            "command": advice.map(|advice| advice.command.as_str()),
            "gain": advice.map(|advice| advice.gain),
            "source": advice.map(|advice| advice.source),
        })
    };
    let summary: serde_json::Map<_, _> = VERDICTS
        .into_iter()
        .map(|verdict| (verdict.name().to_owned(), Value::from(count(findings, verdict))))
        .collect();
    let entries: Vec<_> = findings.iter().map(entry).collect();
    let report = json!({ "version": VERSION, "summary": summary, "findings": entries });
    format!("{report:#}\n")
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::doctor::finding::{Advice, Topic};

    fn findings() -> Vec<Finding> {
        let advice =
            Advice { what: "more".into(), command: "first\nsecond".into(), gain: "speed", source: "a book" };
        vec![Topic::new("a", "one").ok("fine"), Topic::new("b", "another").problem("bad", advice)]
    }

    #[test]
    fn text_has_a_line_per_finding_and_what_to_do_below() {
        let text = text(&findings());
        assert!(
            text.starts_with("ok       one      fine\nproblem  another  bad\n           advised  more\n"),
            "{text}"
        );
        assert!(text.contains(
            "           command  first\n                    second\n           gains    speed [a book]\n"
        ));
        assert!(text.ends_with("1 ok, 0 advice, 1 problem, 0 unknown\n"), "{text}");
    }

    #[test]
    fn json_has_the_same_for_programs() {
        let report: Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(report["summary"]["problem"], 1);
        assert_eq!(report["findings"][0]["advised"], Value::Null);
        assert_eq!(report["findings"][1]["command"], "first\nsecond");
    }
}
