//! Filters that are told by their names: of requests, of connections, and of what is seen before a chain is chosen for them. Source:
//! Envoy `core.v3.ExtensionConfigSource`.
use std::sync::Arc;

use super::ads::Ecds;
use super::filter_chain::NetworkFilter;
use super::http_filter::HttpFilterConfig;
use super::listener_filter::ListenerFilterKind;

/// A filter that is told by its name.
#[derive(Debug, Clone)]
pub struct ToldFilter {
    /// Where it comes from, and what it may be.
    pub ecds: Ecds,
    /// What is in its place before it is told, and after it has gone; `None`: requests are answered with 500, flag NFCF, and
    /// connections are closed. Source: `default_config`.
    pub default: Option<Arc<TypedFilter>>,
    /// Whether it is the last of its chain: for requests that has to be the router, for connections a filter that serves them;
    /// no other can be one of those.
    pub is_last: bool,
    /// What was told; `None`: nothing, or it is gone.
    pub told: Option<Arc<TypedFilter>>,
}

/// A filter as it was told. Source: Envoy `core.v3.TypedExtensionConfig.typed_config`.
#[derive(Debug)]
pub struct TypedFilter {
    /// Full name of its message.
    pub type_name: Box<str>,
    pub config: FilterConfig,
}

/// What was told.
#[derive(Debug, Clone)]
pub enum FilterConfig {
    /// Of a connection manager.
    Http(HttpFilterConfig),
    /// Of a filter chain; `None`: one that is never on.
    Network(Option<NetworkFilter>),
    /// Of a listener.
    Listener(ListenerFilterKind),
}

/// Where filters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterKind {
    /// In a connection manager. Source: `http_connection_manager.v3.HttpFilter`.
    Http,
    /// In a filter chain. Source: `listener.v3.Filter`.
    Network,
    /// In a listener. Source: `listener.v3.ListenerFilter`.
    Listener,
}

impl FilterKind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Network => "network",
            Self::Listener => "listener",
        }
    }
}

impl FilterConfig {
    fn kind(&self) -> FilterKind {
        match self {
            Self::Http(_) => FilterKind::Http,
            Self::Network(_) => FilterKind::Network,
            Self::Listener(_) => FilterKind::Listener,
        }
    }

    fn ends_chain(&self) -> bool {
        match self {
            Self::Http(filter) => filter.ends_chain(),
            Self::Network(filter) => filter.as_ref().is_some_and(NetworkFilter::ends_chain),
            Self::Listener(_) => false,
        }
    }
}

impl ToldFilter {
    /// What runs: what was told, or the default; `None`: neither is there.
    pub fn effective(&self) -> Option<&FilterConfig> {
        self.told.as_ref().or(self.default.as_ref()).map(|filter| &filter.config)
    }

    /// Checks that a filter can stand in this place.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self, filter: &TypedFilter) -> Result<(), String> {
        let TypedFilter { type_name, config } = filter;
        let Ecds { name, kind, types, .. } = &self.ecds;
        if !types.contains(type_name) {
            return Err(format!("has the type {type_name}, and {} is expected", types.join(", ")));
        }
        if config.kind() != *kind {
            return Err(format!("has the type {type_name}, which is no {} filter", kind.name()));
        }
        match (config.ends_chain(), self.is_last) {
            (true, false) => Err(format!("terminal filter {name:?} must be the last filter of its chain")),
            (false, true) => {
                let last = match kind {
                    FilterKind::Http => "the router",
                    FilterKind::Network | FilterKind::Listener => "one that serves the connection itself",
                };
                Err(format!("non-terminal filter {name:?} is the last filter: that must be {last}"))
            }
            _ => Ok(()),
        }
    }
}
