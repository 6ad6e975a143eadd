//! [`HostIndex`]: from a request's host to its virtual host.
//!
//! Order as in Envoy: the exact host, the longest suffix wildcard (`*.b`), the longest prefix wildcard (`a.*`), `*`.
//! Built by `compile`, asked once per request by `table`; its cost does not grow with the number of domains.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use super::prefix_set::PrefixSet;
use crate::base::hash::SeededState;

/// Domains of a routing table, each with the index of its virtual host. Immutable.
#[derive(Debug, Clone)]
pub(super) struct HostIndex {
    exact: HashSet<Exact, SeededState>,
    /// Over reversed texts: a suffix wildcard is a prefix there.
    suffixes: Wildcards,
    prefixes: Wildcards,
    default: Option<u32>,
}

/// A host, and behind it the index of its virtual host; known by the host.
#[derive(Debug, Clone)]
struct Exact(Box<[u8]>);

const INDEX_BYTES: usize = size_of::<u32>();

/// There is room for one or two of each of thousands of hosts.
const _: () = assert!(size_of::<Exact>() <= 16);

#[derive(Debug, Clone, Default)]
struct Wildcards {
    texts: PrefixSet,
    virtual_hosts: Box<[u32]>,
}

/// A domain that stands twice in the table; it is given in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DuplicateDomain(pub(super) Box<str>);

impl HostIndex {
    /// Indexes `(domain, virtual host)` pairs.
    pub(super) fn new<'a>(
        domains: impl Iterator<Item = (&'a str, u32)>,
        seed: u64,
    ) -> Result<Self, DuplicateDomain> {
        let mut exact = HashSet::with_hasher(SeededState::new(seed));
        let (mut suffixes, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
        let mut default = None;
        for (domain, virtual_host) in domains {
            let lower = domain.to_ascii_lowercase();
            let is_new = if lower == "*" {
                default.replace(virtual_host).is_none()
            } else if let Some(suffix) = lower.strip_prefix('*') {
                suffixes.insert(suffix.bytes().rev().collect(), virtual_host).is_none()
            } else if let Some(prefix) = lower.strip_suffix('*') {
                prefixes.insert(prefix.as_bytes().into(), virtual_host).is_none()
            } else {
                exact.insert(Exact::new(&lower, virtual_host))
            };
            if !is_new {
                return Err(DuplicateDomain(lower.into()));
            }
        }
        Ok(Self { exact, suffixes: Wildcards::new(suffixes), prefixes: Wildcards::new(prefixes), default })
    }

    /// The virtual host of `host`; `scratch` is written to.
    pub(super) fn find(&self, host: &[u8], scratch: &mut Vec<u8>) -> Option<u32> {
        scratch.clear();
        scratch.extend(host.iter().map(u8::to_ascii_lowercase));
        if let Some(exact) = self.exact.get(scratch.as_slice()) {
            return Some(exact.parts().1);
        }
        let by_prefix = self.prefixes.find(scratch);
        scratch.reverse();
        self.suffixes.find(scratch).or(by_prefix).or(self.default)
    }

    /// Whether the host matters at all: not when every request goes to the same virtual host.
    pub(super) fn needs_host(&self) -> bool {
        !self.exact.is_empty() || self.suffixes.texts.len() > 0 || self.prefixes.texts.len() > 0
    }
}

impl Exact {
    fn new(host: &str, virtual_host: u32) -> Self {
        Self([host.as_bytes(), &virtual_host.to_ne_bytes()[..]].concat().into())
    }

    fn parts(&self) -> (&[u8], u32) {
        // Each has an index.
        let (host, index) = self.0.split_last_chunk::<INDEX_BYTES>().unwrap_or((&[], &[0; INDEX_BYTES]));
        (host, u32::from_ne_bytes(*index))
    }
}

impl Borrow<[u8]> for Exact {
    fn borrow(&self) -> &[u8] {
        self.parts().0
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

impl Eq for Exact {}

/// As that of the host.
impl Hash for Exact {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().0.hash(state);
    }
}

impl Wildcards {
    fn new(pairs: BTreeMap<Box<[u8]>, u32>) -> Self {
        let virtual_hosts = pairs.values().copied().collect();
        Self { texts: PrefixSet::new(pairs.into_keys().collect()), virtual_hosts }
    }

    /// The longest wildcard; the asterisk stands for at least one byte.
    fn find(&self, host: &[u8]) -> Option<u32> {
        let (index, _) = self.texts.prefixes_of(host).find(|&(_, len)| len < host.len())?;
        self.virtual_hosts.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(domains: &[&str], host: &str) -> Option<u32> {
        let index = HostIndex::new(domains.iter().copied().zip(0..), 1).unwrap();
        index.find(host.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn find_prefers_exact_then_suffix_then_prefix_then_any() {
        let domains = ["*", "foo.*", "*.com", "*-bar.baz.com", "*.baz.com", "a.baz.com", "foo.b*"];
        for (host, expected) in [
            ("a.baz.com", 5),
            ("A.Baz.COM", 5),
            ("x-bar.baz.com", 3),
            ("x.baz.com", 4),
            (".baz.com", 2),
            ("foo.com", 2),
            ("foo.net", 1),
            ("foo.bar", 6),
            ("foo.", 0),
            ("foo.b", 1),
            ("other", 0),
            ("", 0),
            ("a.baz.com:80", 0),
        ] {
            assert_eq!(find(&domains, host), Some(expected), "{host}");
        }
        assert_eq!(find(&["a"], "b"), None);
        assert_eq!(find(&[], "b"), None);
    }

    #[test]
    fn exact_hosts_have_their_own_virtual_hosts_whatever_their_bytes() {
        // Also where one is another with what looks like an index behind it.
        let domains = ["a", "a\0\0\0\0", "a\u{1}\0\0\0", "", "b"];
        for (host, expected) in domains.iter().zip(0..) {
            assert_eq!(find(&domains, host), Some(expected), "{host:?}");
        }
        let index = HostIndex::new([("a", u32::MAX), ("b", 1 << 16)].into_iter(), 1).unwrap();
        let found = ["A", "b", "c"].map(|host| index.find(host.as_bytes(), &mut Vec::new()));
        assert_eq!(found, [Some(u32::MAX), Some(1 << 16), None]);
    }

    #[test]
    fn duplicate_domain_is_refused_in_any_case() {
        for (left, right) in [("*", "*"), ("a.B", "A.b"), ("*.a", "*.A"), ("a.*", "a.*")] {
            let result = HostIndex::new([(left, 0), (right, 1)].into_iter(), 1);
            assert_eq!(result.unwrap_err(), DuplicateDomain(right.to_ascii_lowercase().into()));
        }
    }
}
