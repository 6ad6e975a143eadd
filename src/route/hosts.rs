//! [`HostIndex`]: from a request's host to its virtual host.
//!
//! Order as in Envoy: the exact host, the longest suffix wildcard (`*.b`), the longest prefix wildcard (`a.*`), `*`.
//! Built by `compile`, asked once per request by `table`; its cost does not grow with the number of domains.

use std::collections::{BTreeMap, HashMap};

use super::prefix_set::PrefixSet;
use crate::base::hash::SeededState;

/// Domains of a routing table, each with the index of its virtual host. Immutable.
#[derive(Debug, Clone)]
pub(super) struct HostIndex {
    exact: HashMap<Box<[u8]>, u32, SeededState>,
    /// Over reversed texts: a suffix wildcard is a prefix there.
    suffixes: Wildcards,
    prefixes: Wildcards,
    default: Option<u32>,
}

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
        let mut exact = HashMap::with_hasher(SeededState::new(seed));
        let (mut suffixes, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
        let mut default = None;
        for (domain, virtual_host) in domains {
            let lower = domain.to_ascii_lowercase();
            let before = if lower == "*" {
                default.replace(virtual_host)
            } else if let Some(suffix) = lower.strip_prefix('*') {
                suffixes.insert(suffix.bytes().rev().collect(), virtual_host)
            } else if let Some(prefix) = lower.strip_suffix('*') {
                prefixes.insert(prefix.as_bytes().into(), virtual_host)
            } else {
                exact.insert(lower.as_bytes().into(), virtual_host)
            };
            if before.is_some() {
                return Err(DuplicateDomain(lower.into()));
            }
        }
        Ok(Self { exact, suffixes: Wildcards::new(suffixes), prefixes: Wildcards::new(prefixes), default })
    }

    /// The virtual host of `host`; `scratch` is written to.
    pub(super) fn find(&self, host: &[u8], scratch: &mut Vec<u8>) -> Option<u32> {
        scratch.clear();
        scratch.extend(host.iter().map(u8::to_ascii_lowercase));
        if let Some(&virtual_host) = self.exact.get(scratch.as_slice()) {
            return Some(virtual_host);
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
    fn duplicate_domain_is_refused_in_any_case() {
        for (left, right) in [("*", "*"), ("a.B", "A.b"), ("*.a", "*.A"), ("a.*", "a.*")] {
            let result = HostIndex::new([(left, 0), (right, 1)].into_iter(), 1);
            assert_eq!(result.unwrap_err(), DuplicateDomain(right.to_ascii_lowercase().into()));
        }
    }
}
