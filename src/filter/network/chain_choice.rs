//! How a listener chooses the chain of a connection: by what its chains ask, or by a matcher that names them.

use super::filter_chain_table::{FilterChainTable, Overlap};
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::listener::Listener;
use crate::matching::{Inputs, MatchTree, Outcome};
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::http::matcher::MatchScratch;

/// The choice of one listener. Immutable, shared by all cores.
#[derive(Debug)]
pub enum ChainChoice {
    Table(FilterChainTable),
    /// Actions are places of chains; `None`: there is no chain of that name.
    Matcher(Box<MatchTree<Option<usize>>>),
}

/// What is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// This chain, by its place in the configuration.
    Chain(usize),
    /// The default chain, if there is one.
    Default,
    /// No chain, not even the default one: a matcher names one that does not exist, as in Envoy.
    Nothing,
}

/// Why a listener's chains cannot be chosen from.
#[derive(Debug)]
pub enum ChoiceError {
    Overlap(Overlap),
    Matcher(ConfigError),
}

impl ChainChoice {
    /// The choice of a listener.
    ///
    /// # Errors
    /// A connection could take either of two chains, or the matcher has a regular expression that is none.
    pub fn compile(listener: &Listener) -> Result<Self, ChoiceError> {
        let chains = &listener.filter_chains;
        let Some(matcher) = &listener.filter_chain_matcher else {
            let table = FilterChainTable::compile(chains.iter().map(|chain| &**chain));
            return table.map(Self::Table).map_err(ChoiceError::Overlap);
        };
        let tree =
            MatchTree::compile(matcher, "filter_chain_matcher", &mut RegexSlots::default(), &mut |name| {
                chains.iter().position(|chain| chain.name == *name)
            });
        tree.map(|tree| Self::Matcher(Box::new(tree))).map_err(ChoiceError::Matcher)
    }

    /// What a connection gets. `scratch` is one of the core for this choice.
    pub fn find(&self, connection: &ConnectionInfo, scratch: &mut MatchScratch) -> Chosen {
        match self {
            Self::Table(table) => table.find(connection).map_or(Chosen::Default, Chosen::Chain),
            Self::Matcher(tree) => match tree.decide(&Inputs::of_connection(connection), scratch) {
                Outcome::Match(Some(place)) => Chosen::Chain(*place),
                Outcome::Match(None) => Chosen::Nothing,
                Outcome::NoMatch | Outcome::Unknown => Chosen::Default,
            },
        }
    }
}
