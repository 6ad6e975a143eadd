//! How resources stand between this client and its control planes, in the words of `/config_dump`.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ads::ResourceSource;

/// How far a resource has come. Source: Envoy `admin.v3.ClientResourceStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStatus {
    /// It is asked for, and nothing was told of it yet.
    Requested,
    /// The control plane says that there is none, or no more. Endpoints, routes and secrets that it has told before stay in use.
    DoesNotExist,
    /// It is used as it was told last.
    Acked,
    /// What was told last was refused; the one before it stays in use.
    Nacked,
    /// The control plane says that it cannot tell it, or a file cannot be read; what was told before stays in use.
    ReceivedError,
    /// It was waited for as long as `initial_fetch_timeout` says, in vain.
    Timeout,
}

impl ClientStatus {
    /// Envoy's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::DoesNotExist => "DOES_NOT_EXIST",
            Self::Acked => "ACKED",
            Self::Nacked => "NACKED",
            Self::ReceivedError => "RECEIVED_ERROR",
            Self::Timeout => "TIMEOUT",
        }
    }
}

/// Resources of a type by where they come from and their names. Those that are not among them are used as they were told last.
pub type Standings = BTreeMap<(ResourceSource, Arc<str>), Standing>;

/// How a resource stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub status: ClientStatus,
    /// What went wrong last; `None`: nothing.
    pub failure: Option<Failure>,
}

/// Why a resource is not what it was to become. Source: Envoy `admin.v3.UpdateFailureState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where in it, and what is wrong, or what the control plane says.
    pub reason: String,
    /// What the control plane calls the state that has it; empty: nothing.
    pub version: String,
    /// When, ns since the Unix epoch.
    pub unix_ns: u64,
    /// What was refused, unless it is too long or secret.
    pub wire: Option<Arc<[u8]>>,
}

/// Why there is nothing of a resource that was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) status: ClientStatus,
    /// What the control plane says; empty: nothing.
    pub(super) reason: String,
}

impl Missing {
    /// Nobody says why.
    pub(super) fn new(status: ClientStatus) -> Self {
        Self { status, reason: String::new() }
    }

    /// As it is since then.
    pub(super) fn standing(&self, unix_ns: u64) -> Standing {
        let Self { status, reason } = self;
        let failure = (!reason.is_empty()).then(|| Failure {
            reason: reason.clone(),
            version: String::new(),
            unix_ns,
            wire: None,
        });
        Standing { status: *status, failure }
    }
}
