//! The admin endpoint: Envoy's paths, on hyper, on the control thread.
pub mod state;

pub use state::{
    AdminCommand, AdminState, ClusterStatus, DrainListeners, DumpEntry, DumpField, DumpSection, HostStatus,
    ListenerStatus, ServerInfo, ServerState,
};
