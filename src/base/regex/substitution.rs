//! What the matches of an expression are replaced by: RE2's rewrite strings.

/// A replacement with group references, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Substitution {
    parts: Box<[Part]>,
    /// The highest group named anywhere in the text.
    group_max: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    /// 0 is the whole match.
    Group(u8),
}

impl Substitution {
    /// Parses `\0` to `\9` (groups), `\\` (a backslash) and literal text. A backslash before anything else ends the
    /// replacement there, as in RE2, which Envoy lets pass.
    pub fn parse(text: &str) -> Self {
        let (mut parts, mut literal, mut group_max) = (Vec::new(), Vec::new(), 0);
        let (mut bytes, mut open) = (text.bytes(), true);
        while let Some(byte) = bytes.next() {
            match (byte, byte == b'\\') {
                (_, false) if open => literal.push(byte),
                (_, false) => {}
                (_, true) => match bytes.next() {
                    Some(b'\\') if open => literal.push(b'\\'),
                    Some(digit @ b'0'..=b'9') => {
                        group_max = group_max.max(digit - b'0');
                        if open {
                            parts.extend(take_literal(&mut literal));
                            parts.push(Part::Group(digit - b'0'));
                        }
                    }
                    _ => open = false,
                },
            }
        }
        parts.extend(take_literal(&mut literal));
        Self { parts: parts.into(), group_max }
    }

    pub(super) fn group_max(&self) -> usize {
        usize::from(self.group_max)
    }

    pub(super) fn append_to<'a>(&self, out: &mut Vec<u8>, group: impl Fn(usize) -> &'a [u8]) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Group(number) => out.extend_from_slice(group(usize::from(*number))),
            }
        }
    }
}

fn take_literal(literal: &mut Vec<u8>) -> Option<Part> {
    (!literal.is_empty()).then(|| Part::Literal(std::mem::take(literal).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_ends_at_a_lone_backslash() {
        let literal = |text: &str| Box::from([Part::Literal(text.as_bytes().into())]);
        assert_eq!(Substitution::parse(r"a\xb").parts, literal("a"));
        assert_eq!(Substitution::parse(r"a\").parts, literal("a"));
        assert_eq!(Substitution::parse(r"a\\b").parts, literal(r"a\b"));
        assert_eq!(Substitution::parse(r"a\x\7").group_max(), 7);
    }
}
