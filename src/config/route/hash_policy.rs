//! What of a request decides about its endpoint, where the balancer hashes. Source: Envoy `RouteAction.HashPolicy`.

use std::time::Duration;

use crate::config::matcher::RegexRewrite;

/// One source of a request's hash; those of several are mixed, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// What is hashed. A request that does not have it is hashed by the others, and without any goes anywhere. Source:
    /// `policy_specifier`.
    pub source: HashSource,
    /// Whether the policies that follow do not count once there is a hash. Default false. Source: `terminal`.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    /// A header's values, whatever their order; `:path` and the like too. Source: `header`.
    Header {
        /// Source: `header_name`.
        name: Box<str>,
        /// What is done to each value before. Default `None`: nothing. Source: `regex_rewrite`.
        rewrite: Option<RegexRewrite>,
    },
    /// A cookie's value. Source: `cookie`.
    Cookie(HashCookie),
    /// The client's address, as it is known from the connection or headers of trusted proxies. Source:
    /// `connection_properties.source_ip`.
    SourceIp,
    /// The first value of the query parameter of this name, as sent. Source: `query_parameter.name`.
    QueryParameter(Box<str>),
}

/// A cookie that is hashed, and given to clients that have none.
#[derive(Debug, Clone, PartialEq)]
pub struct HashCookie {
    /// Not empty. Source: `name`.
    pub name: Box<str>,
    /// Whether clients without the cookie are given one, and how long it lives, in whole seconds; zero: as long as the
    /// client's session. Default `None`: they are not. Source: `ttl`.
    pub ttl: Option<Duration>,
    /// For which paths it is given; empty: no word about it. Source: `path`.
    pub path: Box<str>,
    /// Names and values of further attributes of the cookie given; an empty value is left out. Source: `attributes`.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}
