//! What is asked for of a type of resources.
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All there are, whatever their names.
    All,
    /// Those of these names.
    Names(BTreeSet<String>),
}

impl Wanted {
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains(name),
        }
    }

    /// Whether there is nothing to ask for. A request without names would ask for everything.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }

    /// The names that a request lists: none for all.
    pub(super) fn listed(&self) -> Vec<String> {
        match self {
            Self::All => Vec::new(),
            Self::Names(names) => names.iter().cloned().collect(),
        }
    }

    /// The names that this has and the other has not.
    pub(super) fn beyond(&self, other: &Self) -> Vec<String> {
        self.listed().into_iter().filter(|name| !other.contains(name)).collect()
    }
}
