//! RE2's spelling into that of `regex-syntax`, where the two differ.
//!
//! RE2 takes a brace that is no repetition, and `[`, `&&`, `--`, `~~` inside a class, as themselves; Rust gives them a
//! meaning or refuses them. RE2 alone has `\Q..\E`, `\C` and octal escapes; `\<` is a plain `<` there. What neither
//! knows passes through, for the parser to refuse.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// `pattern` with the same meaning, for the parser of `regex-automata`.
pub(super) fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '\\' if rest.peek() == Some(&'Q') => quoted(&mut rest, &mut out),
            '\\' if rest.peek() == Some(&'C') => {
                rest.next();
                out.push_str("(?s-u:.)");
            }
            '\\' => escape(&mut rest, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !is_repetition(rest.clone()) => out.push_str("\\{"),
            _ => out.push(char),
        }
    }
    out
}

/// The text up to `\E` or the end, as itself.
fn quoted(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    rest.next();
    while let Some(char) = rest.next() {
        if char == '\\' && rest.peek() == Some(&'E') {
            rest.next();
            return;
        }
        literal(char, out);
    }
}

/// What stands behind a backslash.
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let Some(char) = rest.next() else { return out.push('\\') };
    let octal_follows = |rest: &mut Peekable<Chars<'_>>| rest.peek().is_some_and(|next| next.is_digit(8));
    match char {
        '0'..='7' if char == '0' || octal_follows(rest) => {
            let mut value = char.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                let Some(digit) = rest.peek().and_then(|next| next.to_digit(8)) else { break };
                value = value * 8 + digit;
                rest.next();
            }
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{{{value:x}}}");
        }
        'p' | 'P' | 'x' if rest.peek() == Some(&'{') => {
            out.extend(['\\', char]);
            for braced in rest.by_ref() {
                out.push(braced);
                if braced == '}' {
                    break;
                }
            }
        }
        _ if char.is_ascii_punctuation() => literal(char, out),
        _ => out.extend(['\\', char]),
    }
}

/// A character class, from behind its bracket to the closing one.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if rest.peek() == Some(&'^') {
        out.extend(rest.next());
    }
    let mut first = true;
    while let Some(char) = rest.next() {
        match char {
            ']' if first => out.push_str("\\]"),
            ']' => return out.push(']'),
            '\\' => escape(rest, out),
            '[' if rest.peek() == Some(&':') => posix_class(rest, out),
            '[' | '&' | '~' => literal(char, out),
            '-' if rest.peek() == Some(&'-') => out.push_str("\\-"),
            _ => out.push(char),
        }
        first = false;
    }
}

/// `[:name:]`, or a bracket as itself when no `:]` follows.
fn posix_class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let ahead: String = rest.clone().collect();
    let Some(end) = ahead.find(":]") else { return literal('[', out) };
    let name = &ahead[..end + 2];
    out.push('[');
    out.push_str(name);
    rest.nth(name.chars().count() - 1);
}

/// `n}`, `n,}` or `n,m}`.
fn is_repetition(mut rest: Peekable<Chars<'_>>) -> bool {
    let mut digits = 0;
    while rest.next_if(char::is_ascii_digit).is_some() {
        digits += 1;
    }
    if rest.next_if_eq(&',').is_some() {
        while rest.next_if(char::is_ascii_digit).is_some() {}
    }
    digits > 0 && rest.next() == Some('}')
}

/// The character as itself, in a class or outside.
fn literal(char: char, out: &mut String) {
    // `\<` and `\>` are word boundaries in Rust.
    if char.is_ascii_punctuation() && !matches!(char, '<' | '>') {
        out.push('\\');
    }
    out.push(char);
}

#[cfg(test)]
mod tests {
    use crate::base::regex::{Regex, RegexCaches, RegexSlots};

    /// Verdicts of Envoy 1.40 (`--mode validate`).
    const ACCEPTED: &[&str] = &[
        r"/a{id}",
        r"/a{1",
        r"/x{",
        r"[[]",
        r"[a[]+",
        r"[a&&b]",
        r"[--a]",
        r"\Qa.b\E",
        r"\C",
        r"\z",
        r"\pN",
        r"\p{Greek}",
        r"\d",
        r"(?<n>a)",
        r"(?P<n>a)",
        r"\x{41}",
        r"\07",
        r"\123",
        r"(?i)a",
        r"[[:alpha:]]",
        r"[]a]",
        r"[a~~b]",
        r"a{,3}",
        r"\_",
        r"\<",
        r"(?-i:a)",
        r"(?U)a+",
        r"é[é]",
        r"(?s).",
        r"\/a\-b",
        r"{",
        r"}",
        r"]",
        r"a{2,3}",
        r"a{2,}",
        r"^/a$",
        r"[^/[]*",
    ];
    const REFUSED: &[&str] =
        &[r"\Z", r"(?=a)", r"\1", r"a)(b", r"\e", r"\G", r"[^]", r"a|*", r"\h", r"(?P=n)", r"[z-a]", r"\"];

    #[test]
    fn translate_verdicts_are_those_of_envoy() {
        let compile = |pattern: &str| Regex::full_match(pattern, &mut RegexSlots::default());
        for pattern in ACCEPTED {
            assert!(compile(pattern).is_ok(), "{pattern}: {:?}", compile(pattern));
        }
        for pattern in REFUSED {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn translate_keeps_the_meaning_of_re2() {
        for (pattern, text, expected) in [
            (r"/a{id}", "/a{id}", true),
            (r"a{2}", "aa", true),
            (r"[[]", "[", true),
            (r"[a&&b]", "&", true),
            (r"[a&&b]", "b", true),
            (r"[--a]", "A", true),
            (r"[]a]", "]", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"\Qa\.b", r"a\.b", true),
            (r"\07", "\x07", true),
            (r"\101", "A", true),
            (r"\<x", "<x", true),
            (r"[[:digit:]]+", "123", true),
            (r"[[:x]+", ":[x", true),
        ] {
            let regex = Regex::full_match(pattern, &mut RegexSlots::default()).unwrap();
            assert_eq!(
                regex.is_full_match(text.as_bytes(), &mut RegexCaches::new()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
