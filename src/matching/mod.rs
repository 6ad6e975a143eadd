//! Trees of conditions on what is known of a connection or a request, that end in actions: Envoy's unified matching API.
//!
//! Compiled from `config::matching` off the data path; then pure functions that allocate nothing once their scratch space
//! has grown. Each part of a tree is evaluated at most once per question, so that a question costs no more than the tree is
//! large; depth and size are bounded where configuration is converted. What actions mean is the business of whoever asks.

mod input;
mod lookup;
mod metadata;
#[cfg(test)]
mod tests;
mod tree;

pub use input::Inputs;
pub use metadata::MetadataMatcher;
pub use tree::{MatchTree, Outcome};
