//! What a regular expression says, and what searches run on: all places that say the same share it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use once_cell::race::OnceBox;
use regex_automata::meta;
use regex_automata::util::syntax;

use super::{RegexError, re2};
use crate::base::deferred::Deferred;
use crate::base::limits::{REGEX_CACHE_BYTES_MAX, REGEX_PROGRAM_BYTES_MAX};
use crate::base::xx_hash::xx_hash;

/// One expression. Its engine takes some kilobytes, what it says a few dozen bytes.
pub(super) struct Program {
    pattern: Box<str>,
    /// Whether it is a full match.
    whole: bool,
    engine: OnceBox<meta::Regex>,
}

impl Program {
    /// With its engine.
    pub(super) fn made(pattern: &str, whole: bool) -> Result<Self, RegexError> {
        let engine = OnceBox::with_value(Box::new(build(pattern, whole)?));
        Ok(Self { pattern: pattern.into(), whole, engine })
    }

    /// Found good; its engine is made when it is needed.
    fn checked(pattern: &str, whole: bool) -> Result<Self, RegexError> {
        build(pattern, whole)?;
        Ok(Self { pattern: pattern.into(), whole, engine: OnceBox::new() })
    }

    /// Makes it, unless it is there. `None`: it cannot be made although it was found good.
    pub(super) fn engine(&self) -> Option<&meta::Regex> {
        if let Some(engine) = self.engine.get() {
            return Some(engine);
        }
        let made = build(&self.pattern, self.whole);
        debug_assert!(made.is_ok(), "{}", self.pattern);
        let _ = self.engine.set(Box::new(made.ok()?));
        self.engine.get()
    }

    pub(super) fn is_made(&self) -> bool {
        self.engine.get().is_some()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Program").field(&self.pattern).finish()
    }
}

fn build(pattern: &str, whole: bool) -> Result<meta::Regex, RegexError> {
    let pattern = re2::translate(pattern);
    // Bytes first: RE2's `\d`, `\w` and `\b` are ASCII, and the automata are smaller. Expressions that name
    // characters beyond ASCII in classes need Unicode.
    let bytes = syntax::Config::new().unicode(false).utf8(false);
    let config = match syntax::parse_with(&pattern, &bytes) {
        Ok(_) => bytes,
        Err(_) => bytes.unicode(true),
    };
    // Parsed alone first, or `a)(b` would become valid by the parentheses around it.
    syntax::parse_with(&pattern, &config).map_err(|error| RegexError::syntax(&error.to_string()))?;
    let program = if whole { format!(r"\A(?:{pattern})\z") } else { pattern };
    meta::Builder::new()
        .syntax(config)
        .configure(
            meta::Config::new()
                .utf8_empty(false)
                .nfa_size_limit(Some(REGEX_PROGRAM_BYTES_MAX))
                .onepass_size_limit(Some(REGEX_CACHE_BYTES_MAX))
                .hybrid_cache_capacity(REGEX_CACHE_BYTES_MAX),
        )
        .build(&program)
        .map_err(|error| match error.size_limit() {
            Some(limit) => RegexError(format!("its program takes more than {limit} bytes")),
            None => RegexError::syntax(&error.to_string()),
        })
}

/// Expressions that are in use, for tables that come later: an update of a table makes none of those again that it keeps.
#[derive(Debug, Default)]
pub struct KnownRegexes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By hash of what they say. Of two with the same hash one is not known.
    all: BTreeMap<u64, Weak<Program>>,
    /// How many there were when those were forgotten that nobody has any more.
    swept: usize,
}

impl KnownRegexes {
    /// Fewer than this are not looked through for those that nobody has.
    const SWEPT_MIN: usize = 64;

    pub(super) fn checked(&self, pattern: &str, whole: bool) -> Result<Arc<Program>, RegexError> {
        let known = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = xx_hash(pattern.as_bytes(), u64::from(whole));
        if let Some(program) = known.all.get(&key).and_then(Weak::upgrade)
            && *program.pattern == *pattern
            && program.whole == whole
        {
            return Ok(program);
        }
        let program = Arc::new(Program::checked(pattern, whole)?);
        known.all.insert(key, Arc::downgrade(&program));
        if known.all.len() >= Self::SWEPT_MIN.max(2 * known.swept) {
            known.all.retain(|_, program| program.strong_count() > 0);
            known.swept = known.all.len();
        }
        Ok(program)
    }
}

/// Expressions that are made together, when one of them is needed first.
#[derive(Debug)]
pub struct Expressions {
    programs: Box<[Arc<Program>]>,
    is_made: AtomicBool,
    left: ExpressionsLeft,
}

/// How many of a set of [`Expressions`] are not made yet.
#[derive(Debug, Clone, Default)]
pub struct ExpressionsLeft(Arc<AtomicUsize>);

impl ExpressionsLeft {
    /// Whether there are some.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// One of the set; `None`: there is nothing to make.
    pub(super) fn expressions(&self, programs: Vec<Arc<Program>>) -> Option<Arc<Expressions>> {
        if programs.iter().all(|program| program.is_made()) {
            return None;
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        let (is_made, left) = (AtomicBool::new(false), self.clone());
        Some(Arc::new(Expressions { programs: programs.into(), is_made, left }))
    }
}

impl Deferred for Expressions {
    fn is_made(&self) -> bool {
        self.is_made.load(Ordering::Acquire)
    }

    fn make(&self) {
        for program in &self.programs {
            program.engine();
        }
        if !self.is_made.swap(true, Ordering::AcqRel) {
            self.left.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_in_use_are_shared_and_others_forgotten() {
        let known = KnownRegexes::default();
        let first = known.checked("a+", true).unwrap();
        assert!(!first.is_made());
        assert!(Arc::ptr_eq(&first, &known.checked("a+", true).unwrap()));
        assert!(!Arc::ptr_eq(&first, &known.checked("a+", false).unwrap()), "a search is another");
        assert!(known.checked("a(", true).is_err());
        for number in 0..10 * KnownRegexes::SWEPT_MIN {
            drop(known.checked(&format!("b{number}"), true).unwrap());
        }
        assert!(known.0.lock().unwrap().all.len() <= KnownRegexes::SWEPT_MIN);
        assert!(Arc::ptr_eq(&first, &known.checked("a+", true).unwrap()));
    }

    #[test]
    fn set_knows_whether_something_is_left_to_make() {
        let known = KnownRegexes::default();
        let left = ExpressionsLeft::default();
        let program = |pattern| known.checked(pattern, true).unwrap();
        let (a, b, c) = (program("a"), program("b"), program("c"));
        let both = left.expressions(vec![Arc::clone(&a), Arc::clone(&b)]).unwrap();
        let other = left.expressions(vec![Arc::clone(&b), c]).unwrap();
        both.make();
        both.make();
        assert!(both.is_made() && a.is_made() && !other.is_made() && left.any());
        other.make();
        assert!(!left.any());
        assert!(left.expressions(vec![a, b]).is_none() && left.expressions(Vec::new()).is_none());
    }
}
