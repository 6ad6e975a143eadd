//! What the doctor says of one thing: what was found, how good that is, and what to do about it.

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// It works; it could be better.
    Advice,
    /// It fails, or will under load.
    Problem,
    /// It cannot be seen from here, as often in a container.
    Unknown,
}

impl Verdict {
    /// As printed, in text and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Stable name for programs, unique in a report.
    pub(super) id: String,
    /// For people.
    pub(super) title: String,
    pub(super) verdict: Verdict,
    /// What was found, one line.
    pub(super) found: String,
    /// There with [`Verdict::Advice`] and [`Verdict::Problem`], and only then.
    pub(super) advice: Option<Advice>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) what: String,
    /// To be typed; with a comment where it depends on the host.
    pub(super) command: String,
    /// What it gains, and whether that was measured.
    pub(super) gain: &'static str,
    /// Where that is written.
    pub(super) source: &'static str,
}

/// Something that is looked at.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    id: String,
    title: String,
}

/// Most characters of what was found: the rest of a strange file helps nobody.
const FOUND_CHARS_MAX: usize = 300;

impl Topic {
    pub(super) fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into() }
    }

    pub(super) fn ok(self, found: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, found.into(), None)
    }

    pub(super) fn unknown(self, why: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, why.into(), None)
    }

    pub(super) fn advice(self, found: impl Into<String>, advice: Advice) -> Finding {
        self.finding(Verdict::Advice, found.into(), Some(advice))
    }

    pub(super) fn problem(self, found: impl Into<String>, advice: Advice) -> Finding {
        self.finding(Verdict::Problem, found.into(), Some(advice))
    }

    fn finding(self, verdict: Verdict, found: String, advice: Option<Advice>) -> Finding {
        Finding {
            id: one_line(&self.id),
            title: one_line(&self.title),
            verdict,
            found: one_line(&found),
            advice,
        }
    }
}

/// No control characters, and not too long: files of a hostile container end up on a terminal.
fn one_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(clean).take(FOUND_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_text_cannot_drive_a_terminal() {
        let finding = Topic::new("a", "b").ok(format!("x\u{1b}[31m\r\ny{}", "z".repeat(1000)));
        assert!(finding.found.starts_with("x [31m  yzz"), "{finding:?}");
        assert_eq!(finding.found.chars().count(), FOUND_CHARS_MAX);
    }
}
