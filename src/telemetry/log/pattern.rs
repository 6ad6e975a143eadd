//! `--log-format`: the subset of spdlog's pattern that supervisors use.
//!
//! `%Y %m %d %H %M %S %T %D %e %f %F %E %z %P %t %l %L %n %v %_ %j %g %s %# %%`; alignment and colours are not there.
//! Times are local, as in Envoy.
use super::level::Level;
use std::fmt::{self, Write};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<Piece>);

/// One message, as the pattern sees it.
#[derive(Debug)]
pub struct Entry<'a> {
    pub time: &'a jiff::Zoned,
    pub level: Level,
    pub component: &'a str,
    pub thread: u32,
    /// Source file, empty when unknown.
    pub file: &'a str,
    pub line: u32,
    pub message: fmt::Arguments<'a>,
    /// Whether control characters of the message are written as C escapes.
    pub escaped: bool,
}

/// A pattern that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// What followed the percent sign; nothing at the end of the pattern.
    pub flag: Option<char>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Flag(char),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The first flag that is not in the supported subset.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        let mut plain = String::new();
        while let Some(c) = chars.next() {
            if c != '%' {
                plain.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => plain.push('%'),
                Some(flag) if FLAGS.contains(flag) => {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    pieces.push(Piece::Flag(flag));
                }
                flag => return Err(PatternError { flag }),
            }
        }
        pieces.push(Piece::Text(plain));
        Ok(Self(pieces))
    }

    /// Appends one line, with its end, to `out`.
    pub fn write(&self, entry: &Entry<'_>, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                // Writing to a String cannot fail; a Display that fails leaves its part out.
                Piece::Flag(flag) => drop(entry.write(*flag, out)),
            }
        }
        out.push('\n');
    }
}

impl Entry<'_> {
    fn write(&self, flag: char, out: &mut String) -> fmt::Result {
        let time = self.time;
        let nanos = time.subsec_nanosecond();
        match flag {
            'Y' => write!(out, "{:04}", time.year()),
            'm' => write!(out, "{:02}", time.month()),
            'd' => write!(out, "{:02}", time.day()),
            'H' => write!(out, "{:02}", time.hour()),
            'M' => write!(out, "{:02}", time.minute()),
            'S' => write!(out, "{:02}", time.second()),
            'T' => write!(out, "{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()),
            'D' => write!(out, "{:02}/{:02}/{:02}", time.month(), time.day(), time.year().rem_euclid(100)),
            'e' => write!(out, "{:03}", nanos / 1_000_000),
            'f' => write!(out, "{:06}", nanos / 1_000),
            'F' => write!(out, "{nanos:09}"),
            'E' => write!(out, "{}", time.timestamp().as_second()),
            'z' => {
                let minutes = time.offset().seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(out, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            'P' => write!(out, "{}", std::process::id()),
            't' => write!(out, "{}", self.thread),
            'l' => write!(out, "{}", self.level),
            'L' => out.write_str(self.level.letter()),
            'n' => out.write_str(self.component),
            'g' => out.write_str(self.file),
            's' => out.write_str(self.file.rsplit('/').next().unwrap_or_default()),
            '#' => write!(out, "{}", self.line),
            '_' => write!(Escaped { out, all: true, quotes: false }, "{}", self.message),
            'j' => write!(Escaped { out, all: true, quotes: true }, "{}", self.message),
            _ => write!(Escaped { out, all: self.escaped, quotes: false }, "{}", self.message),
        }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flag {
            Some(flag) => write!(f, "the log format uses %{flag}, which is not supported")?,
            None => write!(f, "the log format ends in a single %")?,
        }
        f.write_str("; supported are")?;
        FLAGS.chars().chain(['%']).try_for_each(|flag| write!(f, " %{flag}"))
    }
}

/// Writes text with its control characters escaped, so that nothing a message quotes can forge a line or move a
/// terminal's cursor. Line ends and tabs pass unless `all` is set.
struct Escaped<'a> {
    out: &'a mut String,
    all: bool,
    /// Escapes quotes and backslashes as well: the text goes into a JSON string.
    quotes: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\n' if self.all => self.out.push_str("\\n"),
                '\t' if self.all => self.out.push_str("\\t"),
                '\r' => self.out.push_str("\\r"),
                '"' | '\\' if self.quotes => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                c if c.is_control() && c != '\n' && c != '\t' => write!(self.out, "\\u{:04x}", u32::from(c))?,
                c => self.out.push(c),
            }
        }
        Ok(())
    }
}

/// What may follow a percent sign.
const FLAGS: &str = "YmdHMSTDefFEzPtlLnvgs#_j";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pattern: &str, message: &str, escaped: bool) -> String {
        let time = "2026-11-22T12:00:00.123456789Z".parse::<jiff::Timestamp>().unwrap();
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        let mut out = String::new();
        Pattern::parse(pattern).unwrap().write(
            &Entry {
                time: &time,
                level: Level::Warning,
                component: "main",
                thread: 7,
                file: "src/a/b.rs",
                line: 9,
                message: format_args!("{message}"),
                escaped,
            },
            &mut out,
        );
        out
    }

    #[test]
    fn pattern_of_envoy_writes_its_line() {
        assert_eq!(
            line("[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v", "hello", false),
            "[2026-11-22 12:00:00.123][7][warning][main] [src/a/b.rs:9] hello\n"
        );
    }

    #[test]
    fn pattern_of_pilot_agent_is_understood() {
        assert_eq!(
            line("%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t", "m", false),
            "2026-11-22T12:00:00.123456Z\twarning\tenvoy main src/a/b.rs:9\tm\tthread=7\n"
        );
    }

    #[test]
    fn every_flag_writes_something() {
        for flag in FLAGS.chars() {
            assert!(line(&format!("%{flag}"), "m", false).len() > 1, "{flag}");
        }
        assert_eq!(
            line("%H%M%S %E %z %L %s %D 100%%", "", false),
            "120000 1795348800 +00:00 W b.rs 11/22/26 100%\n"
        );
    }

    #[test]
    fn unknown_flag_is_refused_by_name() {
        let error = Pattern::parse("%v %q").unwrap_err();
        assert_eq!(error.flag, Some('q'));
        assert!(error.to_string().contains("%q"));
        assert_eq!(Pattern::parse("a%").unwrap_err().flag, None);
    }

    #[test]
    fn control_characters_of_a_message_are_escaped() {
        assert_eq!(line("%v", "a\x1b[1m\rb\nc", false), "a\\u001b[1m\\rb\nc\n");
        assert_eq!(line("%v", "a\nb", true), "a\\nb\n");
        assert_eq!(line("%j", "a\"\\", false), "a\\\"\\\\\n");
    }
}
