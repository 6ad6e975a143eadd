//! [`PathIndex`]: the candidates among a virtual host's routes for a path, in the order of the routes.
//!
//! The first route that matches wins, so the index must not change the order. Routes whose path condition is a plain
//! text stand under that text in a [`PrefixSet`]; a look-up collects those whose text is a prefix of the path, drops
//! everything behind the first that asks nothing more, and merges in the routes that cannot be indexed (regular
//! expressions, CONNECT, ignored case), which stay in a list.

use super::prefix_set::PrefixSet;

/// The index of one virtual host. Immutable.
#[derive(Debug, Clone)]
pub(super) struct PathIndex {
    texts: PrefixSet,
    /// Per text, ascending: the routes with that text.
    routes: Box<[Box<[Candidate]>]>,
    /// Ascending: the routes to try whatever the path.
    others: Box<[u32]>,
}

/// A route under its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) route: u32,
    /// Whether it matches every path that begins with its text: nothing behind it need be tried.
    pub(super) takes_all: bool,
}

impl PathIndex {
    /// Indexes routes given in order: text (none: cannot be indexed) and whether every path with it is taken.
    pub(super) fn new<'a>(routes: impl Iterator<Item = (Option<&'a [u8]>, bool)> + Clone) -> Self {
        let texts = PrefixSet::new(routes.clone().filter_map(|(text, _)| text.map(Box::from)).collect());
        let mut lists: Vec<Vec<Candidate>> = vec![Vec::new(); texts.len()];
        let mut others = Vec::new();
        for (route, (text, takes_all)) in (0..).zip(routes) {
            match text.and_then(|text| texts.index_of(text)) {
                Some(index) => lists[index].push(Candidate { route, takes_all }),
                None => others.push(route),
            }
        }
        let routes = lists.into_iter().map(Vec::into_boxed_slice).collect();
        Self { texts, routes, others: others.into() }
    }

    /// The first route, in order, whose text is a prefix of `path` (or that has none) and for which `matches` says yes.
    /// `candidates` is written to.
    pub(super) fn first(
        &self,
        path: &[u8],
        candidates: &mut Vec<u32>,
        mut matches: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        candidates.clear();
        let mut end = u32::MAX;
        for (index, _) in self.texts.prefixes_of(path) {
            for candidate in self.routes.get(index).into_iter().flatten() {
                if candidate.route >= end {
                    break;
                }
                candidates.push(candidate.route);
                if candidate.takes_all {
                    end = candidate.route;
                }
            }
        }
        candidates.retain(|&route| route <= end);
        candidates.sort_unstable();
        let (mut indexed, mut others) =
            (candidates.iter().copied().peekable(), self.others.iter().copied().peekable());
        loop {
            let next = match (indexed.peek(), others.peek()) {
                (Some(left), Some(right)) if right < left => others.next(),
                (None, _) => others.next(),
                _ => indexed.next(),
            };
            match next {
                Some(route) if matches(route) => return Some(route),
                Some(_) => {}
                None => return None,
            }
        }
    }
}
