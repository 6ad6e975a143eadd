//! Scopes of a connection manager: tables of routes, of which a request takes the one that its headers name. Source: Envoy
//! `extensions.filters.network.http_connection_manager.v3.ScopedRoutes`.
use std::sync::Arc;

use super::ads::Srds;
use super::route::RouteConfiguration;

/// The scopes, and what names them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopedRoutes {
    /// What a request's key is made of, in this order; never empty. A request that lacks one of the fragments is in no scope.
    /// Source: `scope_key_builder.fragments`.
    pub fragments: Vec<FragmentBuilder>,
    /// The scopes; no two have the same name, or the same key. Source:
    /// `scoped_route_configurations_list.scoped_route_configurations`.
    pub scopes: Vec<Scope>,
    /// Where they come from instead; until they are there, no request has a route. Default `None`: there are no others. Source:
    /// `scoped_rds`.
    pub told: Option<Srds>,
}

/// Where a fragment of a request's key stands. Source: Envoy `HeaderValueExtractor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentBuilder {
    /// The header that has it; of several the first. Source: `name`.
    pub header: Box<str>,
    /// What stands between the elements of the header's value. Default empty: the value is one element. Source:
    /// `element_separator`.
    pub element_separator: Box<str>,
    /// Which of the elements it is.
    pub element: Element,
}

/// Which element of a header is a fragment. Source: Envoy `HeaderValueExtractor.extract_type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// The one at this place, from 0. Source: `index`.
    At(u32),
    /// What stands behind the separator in the first element that has this key before it. Source: `element`.
    Of {
        /// Source: `element.key`.
        key: Box<str>,
        /// Never empty. Source: `element.separator`.
        separator: Box<str>,
    },
}

/// A scope. Source: Envoy `config.route.v3.ScopedRouteConfiguration`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The fragments of a request's key, in order. Source: `key.fragments`.
    pub key: Vec<Box<str>>,
    /// Where its requests go. Source: `route_configuration`.
    pub route_config: Arc<RouteConfiguration>,
}

/// A scope as a control plane or a file tells it. Source: Envoy `config.route.v3.ScopedRouteConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldScope {
    /// The fragments of a request's key, in order. Source: `key.fragments`.
    pub key: Vec<Box<str>>,
    /// The name of its table, which is asked for at once; never empty. Source: `route_configuration_name`.
    pub table: Box<str>,
    /// Whether Envoy would not ask for the table before the first request of the scope; counted, no more. Default false.
    /// Source: `on_demand`.
    pub on_demand: bool,
}
