//! Versions of resources, of which delta keeps one each: tens of thousands of them, so a name and its version are one block of
//! memory, in a set whose nodes are full.
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::base::packed;

/// Stands between a name and its version: UTF-8 has no such byte.
const BETWEEN: u8 = 0xff;

/// Of the resources that are there.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeSet<Versioned>);

/// A name, [`BETWEEN`], and a version; known by the name.
#[derive(Debug)]
struct Versioned(Box<[u8]>);

/// There are two for each of thousands of clusters.
const _: () = assert!(size_of::<Versioned>() <= 16);

impl Versions {
    /// The one of that resource; empty: it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name.as_bytes()).map_or("", |versioned| versioned.parts().1)
    }

    /// Whether that resource is there, of that version.
    pub(super) fn has(&self, name: &str, version: &str) -> bool {
        self.0.get(name.as_bytes()).is_some_and(|versioned| versioned.parts().1 == version)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name.as_bytes());
    }

    /// Adds resources, each name once; those that are there have another version from now on.
    pub(super) fn extend<'a>(&mut self, told: impl Iterator<Item = (&'a str, &'a str)>) {
        let told = told.map(|(name, version)| Versioned::new(name, version));
        packed::extend(&mut self.0, told.collect());
    }

    /// Names and versions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(Versioned::parts)
    }
}

impl Versioned {
    fn new(name: &str, version: &str) -> Self {
        Self([name.as_bytes(), &[BETWEEN][..], version.as_bytes()].concat().into_boxed_slice())
    }

    fn name(&self) -> &[u8] {
        self.0.split(|&byte| byte == BETWEEN).next().unwrap_or_default()
    }

    fn parts(&self) -> (&str, &str) {
        let (name, rest) = self.0.split_at(self.name().len());
        // Both were text.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        (text(name), text(rest.get(1..).unwrap_or_default()))
    }
}

impl Borrow<[u8]> for Versioned {
    fn borrow(&self) -> &[u8] {
        self.name()
    }
}

impl PartialEq for Versioned {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Versioned {}

impl PartialOrd for Versioned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Versioned {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(versions: &Versions) -> Vec<(&str, &str)> {
        versions.iter().collect()
    }

    #[test]
    fn each_name_has_the_version_that_was_told_last() {
        let mut versions = Versions::default();
        assert_eq!(versions.get("a"), "");
        // Names that begin as others do, one with the last of Unicode's characters, and a version that is empty.
        versions.extend([("ab", "2"), ("a", "1"), ("a\u{10ffff}", "3"), ("c", "")].into_iter());
        assert_eq!(shown(&versions), [("a", "1"), ("ab", "2"), ("a\u{10ffff}", "3"), ("c", "")]);
        versions.extend(std::iter::once(("a", "the longer é")));
        assert_eq!((versions.get("a"), versions.get("ab"), versions.get("abc")), ("the longer é", "2", ""));
        assert!(versions.has("ab", "2") && !versions.has("ab", "3"));
        assert!(versions.has("c", "") && !versions.has("abc", ""), "it is not there");
        for name in ["a", "abc", "c", "a\u{10ffff}"] {
            versions.remove(name);
        }
        assert_eq!(shown(&versions), [("ab", "2")]);
        versions.extend([("b", "5"), ("ab", "4")].into_iter());
        assert_eq!(shown(&versions), [("ab", "4"), ("b", "5")], "more than there were");
    }
}
