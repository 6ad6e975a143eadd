//! [`MatchTree`]: a compiled matcher, and what it says.

use super::input::{Input, Inputs, Value};
use super::lookup::{Names, Prefixes, Ranges, Sorted};
use super::metadata::MetadataMatcher;
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::matching as config;
use crate::protocol::http::matcher::{MatchScratch, StringMatcher};

/// A compiled matcher. Immutable, shared by all cores.
#[derive(Debug)]
pub struct MatchTree<A>(Node<A>);

/// What a matcher says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It leads to this action.
    Match(T),
    /// It leads to none.
    NoMatch,
    /// An input that decides can not be had here, such as a certificate's names without TLS.
    Unknown,
}

/// A matcher within the tree. Source: `config::matching::Matcher`.
#[derive(Debug)]
struct Node<A> {
    matches: Matches<A>,
    on_no_match: Option<OnMatch<A>>,
}

#[derive(Debug)]
enum Matches<A> {
    Nothing,
    List(Box<[(Predicate, OnMatch<A>)]>),
    Exact(Input, Sorted<OnMatch<A>>),
    Prefix(Input, Prefixes<OnMatch<A>>),
    /// Each with whether it counts only where nothing was tried before.
    Ip(Input, Ranges<(OnMatch<A>, bool)>),
    ServerName(Input, Names<OnMatch<A>>),
}

#[derive(Debug)]
struct OnMatch<A> {
    then: Then<A>,
    keep_matching: bool,
}

#[derive(Debug)]
enum Then<A> {
    Node(Box<Node<A>>),
    Action(A),
}

#[derive(Debug)]
enum Predicate {
    Single(Input, StringMatcher),
    Address(Input, Ranges<()>),
    Metadata(Box<MetadataMatcher>),
    AnyOf(Box<[Self]>),
    All(Box<[Self]>),
    Not(Box<Self>),
}

/// Keys of a map and what follows each.
type Entries<A> = Vec<(Box<[u8]>, OnMatch<A>)>;

/// What compiling needs: numbers of regular expressions, and what becomes of an action.
struct Compiler<'a, C, A> {
    slots: &'a mut RegexSlots,
    action: &'a mut dyn FnMut(&C) -> A,
}

impl<A> MatchTree<A> {
    /// Compiles a matcher; `action` makes of each action what it means here. `path`: the field path of `config` for errors.
    ///
    /// # Errors
    /// A header's name or a regular expression that is none.
    pub fn compile<C>(
        config: &config::Matcher<C>,
        path: &str,
        slots: &mut RegexSlots,
        action: &mut dyn FnMut(&C) -> A,
    ) -> Result<Self, ConfigError> {
        Compiler { slots, action }.node(config, path).map(Self)
    }

    /// Where the tree leads.
    pub fn decide(&self, known: &Inputs<'_>, scratch: &mut MatchScratch) -> Outcome<&A> {
        self.0.decide(known, scratch)
    }
}

impl<A> Node<A> {
    /// Configuration nests as deep as conversion lets it, so that this ends.
    fn decide(&self, known: &Inputs<'_>, scratch: &mut MatchScratch) -> Outcome<&A> {
        let found = match &self.matches {
            Matches::Nothing => Outcome::NoMatch,
            Matches::List(list) => {
                for (predicate, on_match) in list {
                    match predicate.is_met(known, scratch) {
                        None => return Outcome::Unknown,
                        Some(false) => continue,
                        Some(true) => {}
                    }
                    match on_match.follow(known, scratch) {
                        Outcome::NoMatch => {}
                        decided => return decided,
                    }
                }
                Outcome::NoMatch
            }
            Matches::Exact(input, map) => match input.text(known, &mut scratch.text) {
                Value::Unknown => return Outcome::Unknown,
                Value::Absent => Outcome::NoMatch,
                Value::Known(text) => first(map.get(text), known, scratch),
            },
            Matches::Prefix(input, prefixes) => match input.text(known, &mut scratch.text) {
                Value::Unknown => return Outcome::Unknown,
                Value::Absent => Outcome::NoMatch,
                Value::Known(text) => {
                    let longest = prefixes.find(text);
                    first(prefixes.from(longest), known, scratch)
                }
            },
            Matches::Ip(input, ranges) => {
                let Some(address) = input.any_address(known, &mut scratch.text) else {
                    return Outcome::Unknown;
                };
                let candidates = address.into_iter().flat_map(|address| ranges.find(address)).enumerate();
                // One that counts alone is left out behind another.
                let candidates = candidates.filter(|(index, (_, exclusive))| *index == 0 || !exclusive);
                first(candidates.map(|(_, (on_match, _))| on_match), known, scratch)
            }
            Matches::ServerName(input, names) => match input.text(known, &mut scratch.text) {
                Value::Unknown => return Outcome::Unknown,
                Value::Absent | Value::Known([]) => Outcome::NoMatch,
                Value::Known(name) => {
                    let named = names.find(name);
                    first(names.from(named), known, scratch)
                }
            },
        };
        match (found, &self.on_no_match) {
            (Outcome::NoMatch, Some(on_no_match)) => on_no_match.follow(known, scratch),
            (found, _) => found,
        }
    }
}

/// The first that does not lead to nothing.
fn first<'a, A: 'a>(
    candidates: impl IntoIterator<Item = &'a OnMatch<A>>,
    known: &Inputs<'_>,
    scratch: &mut MatchScratch,
) -> Outcome<&'a A> {
    let mut outcomes = candidates.into_iter().map(|on_match| on_match.follow(known, scratch));
    outcomes.find(|outcome| !matches!(outcome, Outcome::NoMatch)).unwrap_or(Outcome::NoMatch)
}

impl<A> OnMatch<A> {
    fn follow(&self, known: &Inputs<'_>, scratch: &mut MatchScratch) -> Outcome<&A> {
        let found = match &self.then {
            Then::Node(node) => node.decide(known, scratch),
            Then::Action(action) => Outcome::Match(action),
        };
        match found {
            Outcome::Match(_) if self.keep_matching => Outcome::NoMatch,
            found => found,
        }
    }
}

impl Predicate {
    /// `None`: an input that decides can not be had.
    fn is_met(&self, known: &Inputs<'_>, scratch: &mut MatchScratch) -> Option<bool> {
        match self {
            Self::Single(input, matcher) => match input.text(known, &mut scratch.text) {
                Value::Unknown => None,
                Value::Absent => Some(false),
                Value::Known(text) => Some(matcher.matches(text, &mut scratch.regexes)),
            },
            Self::Address(input, ranges) => {
                let address = input.any_address(known, &mut scratch.text)?;
                Some(address.is_some_and(|address| ranges.find(address).next().is_some()))
            }
            Self::Metadata(matcher) => Some(matcher.is_met(known.metadata, &mut scratch.regexes)),
            Self::AnyOf(predicates) => {
                let mut unknown = false;
                for predicate in predicates {
                    match predicate.is_met(known, scratch) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => unknown = true,
                    }
                }
                (!unknown).then_some(false)
            }
            Self::All(predicates) => {
                for predicate in predicates {
                    if !predicate.is_met(known, scratch)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
            Self::Not(predicate) => Some(!predicate.is_met(known, scratch)?),
        }
    }
}

impl<C, A> Compiler<'_, C, A> {
    fn node(&mut self, config: &config::Matcher<C>, path: &str) -> Result<Node<A>, ConfigError> {
        let matches = match &config.matches {
            config::Matches::Nothing => Matches::Nothing,
            config::Matches::List(list) => {
                let mut compiled = Vec::with_capacity(list.len());
                for (index, (predicate, on_match)) in list.iter().enumerate() {
                    let path = format!("{path}.matcher_list.matchers[{index}]");
                    let predicate = self.predicate(predicate, &format!("{path}.predicate"))?;
                    compiled.push((predicate, self.on_match(on_match, &format!("{path}.on_match"))?));
                }
                Matches::List(compiled.into())
            }
            config::Matches::Tree(input, tree) => {
                let path = &format!("{path}.matcher_tree");
                self.tree(Input::compile(input, path)?, tree, path)?
            }
        };
        let on_no_match = config.on_no_match.as_ref();
        let on_no_match = on_no_match.map(|on_match| self.on_match(on_match, &format!("{path}.on_no_match")));
        Ok(Node { matches, on_no_match: on_no_match.transpose()? })
    }

    fn tree(&mut self, input: Input, tree: &config::Tree<C>, path: &str) -> Result<Matches<A>, ConfigError> {
        Ok(match tree {
            config::Tree::Exact(map) => {
                Matches::Exact(input, Sorted::new(self.map(map, &format!("{path}.exact_match_map"))?))
            }
            config::Tree::Prefix(map) => {
                Matches::Prefix(input, Prefixes::new(self.map(map, &format!("{path}.prefix_match_map"))?))
            }
            config::Tree::Ip(ranges) => {
                let mut compiled = Vec::with_capacity(ranges.len());
                for (index, ranges) in ranges.iter().enumerate() {
                    let path = format!("{path}.custom_match.range_matchers[{index}].on_match");
                    let value = (self.on_match(&ranges.on_match, &path)?, ranges.exclusive);
                    compiled.push((ranges.ranges.clone(), value));
                }
                Matches::Ip(input, Ranges::new(compiled))
            }
            config::Tree::ServerName(names) => {
                let mut compiled = Vec::with_capacity(names.len());
                for (index, domains) in names.iter().enumerate() {
                    let path = format!("{path}.custom_match.domain_matchers[{index}].on_match");
                    let names = domains.domains.iter().map(|name| &**name);
                    compiled.push((names, self.on_match(&domains.on_match, &path)?));
                }
                Matches::ServerName(input, Names::new(compiled))
            }
        })
    }

    fn map(&mut self, map: &[(Box<str>, config::OnMatch<C>)], path: &str) -> Result<Entries<A>, ConfigError> {
        let compile = |(key, on_match): &(Box<str>, config::OnMatch<C>)| {
            let on_match = self.on_match(on_match, &format!("{path}.map[{key:?}]"))?;
            Ok((Box::from(key.as_bytes()), on_match))
        };
        map.iter().map(compile).collect()
    }

    fn on_match(&mut self, config: &config::OnMatch<C>, path: &str) -> Result<OnMatch<A>, ConfigError> {
        let then = match &config.then {
            config::Then::Matcher(matcher) => {
                Then::Node(Box::new(self.node(matcher, &format!("{path}.matcher"))?))
            }
            config::Then::Action(action) => Then::Action((self.action)(action)),
        };
        Ok(OnMatch { then, keep_matching: config.keep_matching })
    }

    fn predicate(&mut self, config: &config::Predicate, path: &str) -> Result<Predicate, ConfigError> {
        let mut all = |list: &[config::Predicate], field| {
            let compile =
                |(index, predicate)| self.predicate(predicate, &format!("{path}.{field}.predicate[{index}]"));
            list.iter().enumerate().map(compile).collect::<Result<_, _>>()
        };
        Ok(match config {
            config::Predicate::Single(input, matcher) => {
                let path = format!("{path}.single_predicate");
                let matcher = StringMatcher::compile(matcher, &format!("{path}.value_match"), self.slots)?;
                Predicate::Single(Input::compile(input, &path)?, matcher)
            }
            config::Predicate::Address(input, ranges) => {
                let input = Input::compile(input, &format!("{path}.single_predicate"))?;
                Predicate::Address(input, Ranges::new(vec![(ranges.clone(), ())]))
            }
            config::Predicate::Metadata(matcher) => {
                let path = format!("{path}.single_predicate.custom_match.value");
                Predicate::Metadata(Box::new(MetadataMatcher::compile(matcher, &path, self.slots)?))
            }
            config::Predicate::AnyOf(list) => Predicate::AnyOf(all(list, "or_matcher")?),
            config::Predicate::All(list) => Predicate::All(all(list, "and_matcher")?),
            config::Predicate::Not(predicate) => {
                Predicate::Not(Box::new(self.predicate(predicate, &format!("{path}.not_matcher"))?))
            }
        })
    }
}
