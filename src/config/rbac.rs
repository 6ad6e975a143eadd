//! Who may do what: rules of access by role, as configured for HTTP requests and for connections.
//!
//! Plain data; `filter::rbac` compiles and evaluates it. Source: Envoy `envoy.config.rbac.v3` and the two filters.
use std::time::Duration;

use super::address::CidrRange;
use super::matcher::{HeaderMatcher, MetadataMatcher, StringMatcher};
use super::matching::Matcher;

/// What decides who may do what.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleSet {
    /// Source: `rules`, `shadow_rules`.
    Policies(Rules),
    /// What leads to no action is denied. Source: `matcher`, `shadow_matcher`.
    Matcher(Matcher<MatchedAction>),
}

impl RuleSet {
    /// Fields of what is enforced: policies, or the matcher that goes before them.
    pub const ENFORCED: [&'static str; 2] = ["rules", "matcher"];
    /// The same of what is only counted and noted.
    pub const SHADOW: [&'static str; 2] = ["shadow_rules", "shadow_matcher"];

    /// Which of the two fields it is from.
    pub fn field(&self, [policies, matcher]: [&'static str; 2]) -> &'static str {
        match self {
            Self::Policies(_) => policies,
            Self::Matcher(_) => matcher,
        }
    }
}

/// Where a matcher of access leads. Source: Envoy `config.rbac.v3.Action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedAction {
    /// Its name, in statistics, metadata and response code details. Source: `name`.
    pub name: Box<str>,
    /// Whether it may pass: `Deny` alone does not let it. Default `Allow`. Source: `action`.
    pub action: Action,
}

/// A set of policies and what follows from a match. Source: Envoy `config.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What a matching policy means. Default `Allow`. Source: `action`.
    pub action: Action,
    /// The policies, sorted by name: the first that matches counts. None: nothing matches, so that `Allow` denies all and
    /// `Deny` allows all. Source: `policies`.
    pub policies: Vec<Policy>,
}

/// Source: Envoy `RBAC.Action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// What matches no policy is denied.
    #[default]
    Allow,
    /// What matches a policy is denied.
    Deny,
    /// Nothing is denied; whether a policy matches is written to dynamic metadata, `envoy.common:access_log_hint`.
    Log,
}

/// Matches what meets one of the permissions and one of the principals. Source: Envoy `Policy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name, in statistics, metadata and response code details. Source: the key of the map.
    pub name: Box<str>,
    /// What is asked for; never empty. Source: `permissions`.
    pub permissions: Vec<Rule>,
    /// Who asks; never empty. Source: `principals`.
    pub principals: Vec<Rule>,
}

/// One condition of a policy: what a permission or a principal may ask. Source: Envoy `Permission.rule`,
/// `Principal.identifier`.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Always met. Source: `any`.
    Any,
    /// All of these, at least one. Source: `and_rules`, `and_ids`.
    All(Vec<Self>),
    /// One of these, at least one. Source: `or_rules`, `or_ids`.
    AnyOf(Vec<Self>),
    /// Not this one. Source: `not_rule`, `not_id`.
    Not(Box<Self>),
    /// A header of the request; never met by a connection. Source: `header`.
    Header(HeaderMatcher),
    /// The request's path without query and fragment; never met by a connection. Source: `url_path`.
    UrlPath(StringMatcher),
    /// The address that the client meant to connect to. Source: `destination_ip`.
    DestinationIp(CidrRange),
    /// Its port. Source: `destination_port`.
    DestinationPort(u16),
    /// Its port: `start <= port < end`. Source: `destination_port_range`.
    DestinationPortRange { start: u32, end: u32 },
    /// The server's name of the TLS hello; the empty text where there is none. Source: `requested_server_name`.
    RequestedServerName(StringMatcher),
    /// The connection is under TLS, and one of the client certificate's URIs, else of its DNS names, else its subject is as
    /// asked; `None`: TLS is enough. Source: `authenticated`.
    Authenticated(Option<StringMatcher>),
    /// The connection's peer; whom the PROXY protocol names, if it was spoken. Source: `source_ip`.
    SourceIp(CidrRange),
    /// The peer of the socket. Source: `direct_remote_ip`.
    DirectRemoteIp(CidrRange),
    /// The client, after `x-forwarded-for` was believed. Source: `remote_ip`.
    RemoteIp(CidrRange),
    /// What other filters have noted of the request, or the listener's of the connection. Source: `metadata`,
    /// `sourced_metadata` with source `DYNAMIC`.
    Metadata(MetadataMatcher),
}

/// Access of HTTP requests: a filter's options, or those of a route in their place. Source: Envoy
/// `extensions.filters.http.rbac.v3.RBAC`; of a route's, `RBACPerRoute.rbac`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpRbac {
    /// What is enforced; `None`: nothing is. Source: `rules`, `matcher`.
    pub rules: Option<RuleSet>,
    /// What is only counted and noted; `None`: nothing is. Source: `shadow_rules`,
    /// `shadow_matcher`.
    pub shadow_rules: Option<RuleSet>,
    /// Put before the names of the enforced rules' statistics, and before their keys of dynamic metadata. A route's counts
    /// for the keys only; empty there: the filter's. Source: `rules_stat_prefix`.
    pub rules_stat_prefix: Box<str>,
    /// The same of the shadow rules. Source: `shadow_rules_stat_prefix`.
    pub shadow_rules_stat_prefix: Box<str>,
    /// Whether each policy is counted. Default false. Source: `track_per_rule_stats`.
    pub track_per_rule_stats: bool,
}

/// Access of connections. Source: Envoy `extensions.filters.network.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRbac {
    /// What is enforced; `None`: nothing is. Source: `rules`, `matcher`.
    pub rules: Option<RuleSet>,
    /// What is only counted; `None`: nothing is. Source: `shadow_rules`,
    /// `shadow_matcher`.
    pub shadow_rules: Option<RuleSet>,
    /// What the names of its statistics begin with; never empty. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// Put before the names of the shadow rules' statistics. Source: `shadow_rules_stat_prefix`.
    pub shadow_rules_stat_prefix: Box<str>,
    /// How long a denied connection stays open, unread, before it is closed; `None`: it is closed at once.
    /// Source: `delay_deny`.
    pub delay_deny: Option<Duration>,
}
