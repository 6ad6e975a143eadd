//! Clusters that ask for the same endpoints. Most are alone, and there are thousands: one takes no list of its own.
use std::ops::Deref;
use std::sync::Arc;

use super::Subscriber;

/// See the file's head. Derefs to all of them.
#[derive(Debug)]
pub(super) enum Askers {
    One(Arc<Subscriber>),
    Several(Box<Several>),
}

/// There is one for each of thousands of clusters.
const _: () = assert!(size_of::<Askers>() <= 16);

#[derive(Debug)]
pub(super) struct Several(Vec<Arc<Subscriber>>);

impl Askers {
    /// Another asks, too.
    pub(super) fn join(&mut self, one: Arc<Subscriber>) {
        match self {
            Self::One(first) => *self = Self::Several(Box::new(Several(vec![Arc::clone(first), one]))),
            Self::Several(several) => several.0.push(one),
        }
    }

    /// The one of that instance of a cluster asks no more; whether nobody does.
    pub(super) fn leave(&mut self, instance: u64) -> bool {
        match self {
            Self::One(one) => one.instance == instance,
            Self::Several(several) => {
                several.0.retain(|one| one.instance != instance);
                several.0.is_empty()
            }
        }
    }
}

impl Deref for Askers {
    type Target = [Arc<Subscriber>];

    fn deref(&self) -> &[Arc<Subscriber>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => &several.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::super::counters::Counters;
    use super::super::super::judge::Kind;
    use super::*;
    use crate::telemetry::Registry;

    #[test]
    fn each_asks_until_it_leaves() {
        let registry = Registry::new(1);
        let asker = |instance: u64| {
            Arc::new(Subscriber {
                kind: Kind::Endpoints,
                name: "a".into(),
                instance,
                counters: Counters::Cluster(registry.cluster("a")),
                waits_until: None,
                is_early: false,
                answered: AtomicBool::new(false),
            })
        };
        let there = |askers: &Askers| askers.iter().map(|one| one.instance).collect::<Vec<_>>();
        let mut askers = Askers::One(asker(1));
        assert!(!askers.leave(2), "it has not asked");
        assert_eq!(there(&askers), [1]);
        askers.join(asker(2));
        askers.join(asker(3));
        assert_eq!(there(&askers), [1, 2, 3]);
        assert!(!askers.leave(2) && !askers.leave(1));
        assert_eq!(there(&askers), [3]);
        assert!(askers.leave(3));
        assert!(Askers::One(asker(4)).leave(4));
    }
}
