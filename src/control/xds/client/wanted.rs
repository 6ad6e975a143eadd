//! What is asked for of a type of resources.
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names are shared with who asks: there may be tens of thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All there are, whatever their names.
    All,
    /// The same, and those of these names: more than what all are may be behind them.
    AllAnd(BTreeSet<Arc<str>>),
    /// Those of these names.
    Names(BTreeSet<Arc<str>>),
}

impl Wanted {
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All | Self::AllAnd(_) => true,
            Self::Names(names) => names.contains(name),
        }
    }

    /// Whether everything is asked for.
    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All | Self::AllAnd(_))
    }

    /// Whether that name is asked for beside everything.
    pub(super) fn adds(&self, name: &str) -> bool {
        matches!(self, Self::AllAnd(names) if names.contains(name))
    }

    /// Whether there is nothing to ask for. A request without names would ask for everything.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }

    /// The names that a request lists: none for all, which has a name of its own beside others. Source: the xDS protocol,
    /// "How the client specifies what resources to return".
    pub(super) fn listed(&self) -> Vec<String> {
        let everything = matches!(self, Self::AllAnd(_)).then(|| "*".to_owned());
        everything.into_iter().chain(self.names().map(str::to_owned)).collect()
    }

    /// The names that this has and the other has not.
    pub(super) fn beyond(&self, other: &Self) -> Vec<String> {
        let has = |name: &str| match (self, other) {
            // What is asked for beside everything is asked for by its name.
            (Self::AllAnd(_), Self::All) => false,
            (Self::AllAnd(_), Self::AllAnd(names)) => names.contains(name),
            _ => other.contains(name),
        };
        self.names().filter(|name| !has(name)).map(str::to_owned).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::All => None,
            Self::AllAnd(names) | Self::Names(names) => Some(names),
        };
        names.into_iter().flatten().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn names_beside_everything_are_asked_for_and_given_up_by_themselves() {
        let [one, both] = [&["a"][..], &["a", "b"]].map(|of| Wanted::AllAnd(names(of)));
        assert_eq!((one.beyond(&Wanted::All), Wanted::All.beyond(&one)), (vec!["a".to_owned()], vec![]));
        assert_eq!((both.beyond(&one), one.beyond(&both)), (vec!["b".to_owned()], vec![]));
        assert!(one.contains("x") && one.is_all() && !one.is_nothing());
        assert!(one.adds("a") && !one.adds("x") && !Wanted::All.adds("a"));
        assert_eq!((one.listed(), Wanted::All.listed()), (vec!["*".to_owned(), "a".to_owned()], vec![]));
        assert_eq!(Wanted::Names(names(&["a", "b"])).beyond(&Wanted::Names(names(&["a"]))), ["b"]);
    }
}
