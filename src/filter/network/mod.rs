//! Network filters, compiled: what stands between a connection's accept and the one that serves it.

mod chain_choice;
mod connection_limit;
mod filter_chain_table;
mod header_tlvs;
mod local_rate_limit;
mod tunneling;

pub use chain_choice::{ChainChoice, ChoiceError, Chosen};
pub use connection_limit::{ConnectionLimit, LimitedConnection, ListenerLimit};
pub use filter_chain_table::{FilterChainTable, Overlap};
pub use header_tlvs::HeaderTlvs;
pub use local_rate_limit::LocalRateLimit;
pub use tunneling::{Tunneling, accepts};
