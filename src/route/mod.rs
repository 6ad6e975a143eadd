//! Route matching and actions: pure functions over an immutable, compiled routing table.
//!
//! `compile` turns `config::route` into a [`RouteTable`] off the data path, with every mistake named by its field path.
//! Per request `proxy` asks [`RouteTable::find_route`], then what the [`Route`] found says: [`Forward`] (which cluster,
//! how path and host are rewritten, which timeouts), [`Redirect`] or [`DirectResponse`], and at last the header changes
//! of all levels ([`RouteTable::mutate_request`], [`RouteTable::mutate_response`]). Nothing here allocates once a core's
//! [`RouteScratch`] has grown to its traffic.

mod compile;
mod deferred;
mod forward;
mod hash_policy;
mod hosts;
mod matching;
mod mutation;
mod overrides;
mod path_index;
mod prefix_set;
mod redirect;
mod rewrite;
mod scopes;
mod table;
#[cfg(test)]
mod tests;
mod timeout;

pub use compile::CompileContext;
pub use forward::{ClusterChoice, ClusterName, ClusterSlot, Forward, UpgradeRule};
pub use hash_policy::HashedClient;
pub use overrides::{OverrideLevels, OverrideSlot};
pub use redirect::Redirect;
pub use scopes::ScopeTable;
pub use table::{Action, DirectResponse, Outcome, Route, RouteScratch, RouteTable, VirtualHost};
pub use timeout::{RequestTimeouts, TimeoutOptions};
