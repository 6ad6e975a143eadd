//! Regular expressions of configuration, compiled once and shared by all cores; what a search writes to is per core.
//!
//! `regex::Regex` hides a locked pool of scratch memory; here every search is handed the core's own [`RegexCaches`].
//! A set of expressions that lives and dies together (a routing table, an access log) numbers them with one
//! [`RegexSlots`]; each core that uses the set owns one `RegexCaches` for it, filled on first use of each expression.
//!
//! Syntax is RE2's, as in Envoy (`re2` translates what differs). Searches are linear in the text whatever the
//! expression. What still differs from RE2: an expression over the size limit is refused at another size; in expressions
//! with `\p{..}` or non-ASCII classes `.` matches no byte that is not UTF-8.

mod program;
mod re2;
mod substitution;
mod tag;

pub use program::{Expressions, ExpressionsLeft, KnownRegexes};
pub use substitution::Substitution;
pub use tag::{TagGroups, TagRegex};

use regex_automata::meta::{self, Cache};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input};
use std::fmt;
use std::sync::Arc;

use super::heaps;
use program::Program;

/// A compiled expression. Immutable; searches need the [`RegexCaches`] of the set it was numbered in.
#[derive(Debug, Clone)]
pub struct Regex {
    program: Arc<Program>,
    slot: u32,
}

/// Numbers the expressions of one set.
#[derive(Debug, Default)]
pub struct RegexSlots {
    count: u32,
    deferring: Option<Deferring>,
}

/// Whose engines are not made when they are compiled.
#[derive(Debug)]
struct Deferring {
    known: Arc<KnownRegexes>,
    /// Those since [`RegexSlots::take_deferred`].
    programs: Vec<Arc<Program>>,
}

/// What searches of one core in one set of expressions write to. Empty until the first search.
#[derive(Debug, Default)]
pub struct RegexCaches(Vec<Option<Box<Cache>>>);

/// Why an expression is refused, in one clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegexError(String);

impl Regex {
    /// Compiles an expression for [`Self::is_full_match`].
    ///
    /// # Errors
    /// When it is not RE2 syntax or its program is larger than [`REGEX_PROGRAM_BYTES_MAX`](super::limits::REGEX_PROGRAM_BYTES_MAX).
    pub fn full_match(pattern: &str, slots: &mut RegexSlots) -> Result<Self, RegexError> {
        Self::compile(pattern, true, slots)
    }

    /// Compiles an expression for [`Self::replace_all`].
    ///
    /// # Errors
    /// As [`Self::full_match`].
    pub fn search(pattern: &str, slots: &mut RegexSlots) -> Result<Self, RegexError> {
        Self::compile(pattern, false, slots)
    }

    fn compile(pattern: &str, whole: bool, slots: &mut RegexSlots) -> Result<Self, RegexError> {
        let program = match &mut slots.deferring {
            None => Arc::new(Program::made(pattern, whole)?),
            Some(Deferring { known, programs }) => {
                let program = known.checked(pattern, whole)?;
                programs.push(Arc::clone(&program));
                program
            }
        };
        let slot = slots.count;
        slots.count += 1;
        Ok(Self { program, slot })
    }

    /// Whether the whole of `text` matches.
    pub fn is_full_match(&self, text: &[u8], caches: &mut RegexCaches) -> bool {
        let Some(engine) = self.engine() else { return false };
        let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
        // What the search allocates is its cache.
        heaps::lasting(|| engine.search_half_with(caches.of(self.slot, engine), &input)).is_some()
    }

    /// Appends `text` to `out` with every match that does not overlap an earlier one replaced, as RE2's `GlobalReplace`.
    /// A substitution that names a group the expression does not have replaces nothing, as there.
    pub fn replace_all(
        &self,
        text: &[u8],
        substitution: &Substitution,
        caches: &mut RegexCaches,
        out: &mut Vec<u8>,
    ) {
        let Some(engine) = self.engine() else { return out.extend_from_slice(text) };
        if substitution.group_max() >= engine.group_info().group_len(regex_automata::PatternID::ZERO) {
            return out.extend_from_slice(text);
        }
        let cache = heaps::lasting(|| caches.of(self.slot, engine));
        let mut groups: [Option<NonMaxUsize>; 20] = [None; 20];
        let mut input = Input::new(text);
        let (mut copied, mut last_end) = (0, None);
        while heaps::lasting(|| engine.search_slots_with(cache, &input, &mut groups)).is_some() {
            let (Some(start), Some(end)) = (groups[0], groups[1]) else { break };
            let (start, end) = (start.get(), end.get());
            if start == end && last_end == Some(end) {
                // An empty match right behind the last one does not count; look one byte further.
                if end == text.len() {
                    break;
                }
                input.set_start(end + 1);
                last_end = None;
                continue;
            }
            out.extend_from_slice(&text[copied..start]);
            substitution.append_to(out, |group| match (groups[2 * group], groups[2 * group + 1]) {
                (Some(start), Some(end)) => &text[start.get()..end.get()],
                _ => &[],
            });
            (copied, last_end) = (end, Some(end));
            input.set_start(end);
        }
        out.extend_from_slice(&text[copied..]);
    }

    /// Where it has not been made it is made here: who can waits for it first (`runtime::deferred`). It outlives the request.
    fn engine(&self) -> Option<&meta::Regex> {
        if self.program.is_made() { self.program.engine() } else { heaps::lasting(|| self.program.engine()) }
    }
}

impl RegexSlots {
    /// For expressions that are found good, and whose engines are made when they are needed.
    pub fn deferring(known: Arc<KnownRegexes>) -> Self {
        Self { count: 0, deferring: Some(Deferring { known, programs: Vec::new() }) }
    }

    /// Those numbered since this was asked last that are not made yet, with the others that are numbered by the same `left`.
    pub fn take_deferred(&mut self, left: &ExpressionsLeft) -> Option<Arc<Expressions>> {
        left.expressions(std::mem::take(&mut self.deferring.as_mut()?.programs))
    }
}

impl RegexCaches {
    /// Caches for a set of expressions. Allocates nothing until a search.
    pub fn new() -> Self {
        Self::default()
    }

    fn of(&mut self, slot: u32, engine: &meta::Regex) -> &mut Cache {
        let slot = slot as usize;
        if slot >= self.0.len() {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot].get_or_insert_with(|| Box::new(engine.create_cache()))
    }
}

impl RegexError {
    /// The clause at the end of a parser's drawing of the error.
    fn syntax(drawn: &str) -> Self {
        let last = drawn.lines().last().unwrap_or_default();
        Self(last.strip_prefix("error: ").unwrap_or(last).to_owned())
    }
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad regular expression: {}", self.0)
    }
}

impl std::error::Error for RegexError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deferred::Deferred;

    fn full(pattern: &str, text: &[u8]) -> bool {
        Regex::full_match(pattern, &mut RegexSlots::default())
            .unwrap()
            .is_full_match(text, &mut RegexCaches::new())
    }

    fn replaced(pattern: &str, substitution: &str, text: &str) -> String {
        let regex = Regex::search(pattern, &mut RegexSlots::default()).unwrap();
        let mut out = b"<".to_vec();
        let substitution = Substitution::parse(substitution);
        regex.replace_all(text.as_bytes(), &substitution, &mut RegexCaches::new(), &mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    #[test]
    fn full_match_prefers_no_alternative_over_the_whole() {
        assert!(full("a|ab", b"ab"), "leftmost-first alone would stop after `a`");
        assert!(!full("a", b"ab"));
        assert!(!full("b", b"ab"));
        assert!(!full("a", b"a\n"));
        assert!(full("/x/.*", b"/x/\xff"));
        assert!(full("", b""));
    }

    #[test]
    fn perl_classes_are_ascii_as_in_re2() {
        assert!(!full(r"\d", "\u{663}".as_bytes()));
        assert!(!full(r"\w+", "é".as_bytes()));
        assert!(full(r"[é]", "é".as_bytes()));
        assert!(full(r"\p{Greek}", "α".as_bytes()));
    }

    #[test]
    fn unbalanced_parenthesis_is_refused() {
        assert!(Regex::full_match("a)(b", &mut RegexSlots::default()).is_err());
    }

    #[test]
    fn huge_program_is_refused() {
        let error = Regex::full_match("((a{500}){500}){500}", &mut RegexSlots::default()).unwrap_err();
        assert!(error.to_string().contains("bytes"), "{error}");
    }

    #[test]
    fn replace_all_follows_global_replace() {
        for (pattern, substitution, text, expected) in [
            ("b", "x", "abcb", "axcx"),
            ("^/(api)/v([0-9]+)/", r"/\2/\1/", "/api/v3/users", "/3/api/users"),
            ("z", "x", "abc", "abc"),
            ("x*", "-", "abxc", "-a-b-c-"),
            ("", "-", "ab", "-a-b-"),
            ("(a)|(b)", r"[\1\2]", "ab", "[a][b]"),
            ("a", r"\0\0\\", "a", r"aa\"),
            ("a", r"\9", "a", "a"),
        ] {
            assert_eq!(replaced(pattern, substitution, text), expected, "{pattern} {substitution} {text}");
        }
    }

    #[test]
    fn deferred_expression_matches_as_any_other_waited_for_or_not() {
        let mut slots = RegexSlots::deferring(Arc::default());
        let [a, b] = ["a+", "b+"].map(|pattern| Regex::full_match(pattern, &mut slots).unwrap());
        assert!(Regex::full_match("a(", &mut slots).is_err(), "mistakes are told at once");
        let left = ExpressionsLeft::default();
        let expressions = slots.take_deferred(&left).unwrap();
        assert!(slots.take_deferred(&left).is_none() && left.any());
        let mut caches = RegexCaches::new();
        assert!(a.is_full_match(b"aaa", &mut caches) && !a.is_full_match(b"b", &mut caches));
        expressions.make();
        assert!(b.is_full_match(b"b", &mut caches) && !left.any());
    }

    #[test]
    fn caches_serve_many_expressions_of_a_set() {
        let mut slots = RegexSlots::default();
        let regexes: Vec<_> =
            (0..20).map(|n| Regex::full_match(&format!("x{n}+"), &mut slots).unwrap()).collect();
        let mut caches = RegexCaches::new();
        for (n, regex) in regexes.iter().enumerate().rev() {
            assert!(regex.is_full_match(format!("x{n}").as_bytes(), &mut caches));
            assert!(!regex.is_full_match(b"y", &mut caches));
        }
    }
}
