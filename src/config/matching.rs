//! Trees of conditions on inputs that end in actions, as configured. Source: `xds.type.matcher.v3.Matcher`.
//!
//! Plain data; `matching` compiles and evaluates it. What an action is depends on who matches.

use super::address::CidrRange;
use super::matcher::{MetadataMatcher, StringMatcher};

/// A matcher. Source: `Matcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matcher<A> {
    /// How it matches. Source: `matcher_type`.
    pub matches: Matches<A>,
    /// What follows where nothing matches; `None`: no match. Source: `on_no_match`.
    pub on_no_match: Option<OnMatch<A>>,
}

/// How a matcher matches. Source: `Matcher.matcher_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum Matches<A> {
    /// Nothing; `on_no_match` alone counts. Source: a matcher without a type.
    Nothing,
    /// The first whose condition is met, and that leads to an action. Source: `matcher_list`.
    List(Vec<(Predicate, OnMatch<A>)>),
    /// By one input. Source: `matcher_tree`.
    Tree(Input, Tree<A>),
}

/// What an input is looked up in. Source: `Matcher.MatcherTree.tree_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree<A> {
    /// The whole text, sorted; each once. Source: `exact_match_map`.
    Exact(Vec<(Box<str>, OnMatch<A>)>),
    /// The longest that the text begins with and that leads to an action, sorted; each once. Source: `prefix_match_map`.
    Prefix(Vec<(Box<str>, OnMatch<A>)>),
    /// The smallest range that contains the address and leads to an action. Source: `IPMatcher`.
    Ip(Vec<IpRanges<A>>),
    /// The whole name, then the longest wildcard, then `*`. Source: `ServerNameMatcher`.
    ServerName(Vec<Domains<A>>),
}

/// Ranges that lead to the same. Source: `IPMatcher.IPRangeMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct IpRanges<A> {
    /// Never empty. Source: `ranges`.
    pub ranges: Vec<CidrRange>,
    /// What follows. Source: `on_match`.
    pub on_match: OnMatch<A>,
    /// Whether they count only where no smaller range was tried. Default false. Source: `exclusive`.
    pub exclusive: bool,
}

/// Names that lead to the same. Source: `ServerNameMatcher.DomainMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct Domains<A> {
    /// Whole names, `*.` and what names end with, or `*`; each once in a matcher. Source: `domains`.
    pub domains: Vec<Box<str>>,
    /// What follows. Source: `on_match`.
    pub on_match: OnMatch<A>,
}

/// What follows a match. Source: `Matcher.OnMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct OnMatch<A> {
    /// Another matcher, or an action. Source: `on_match`.
    pub then: Then<A>,
    /// Whether matching goes on as if this had not matched. Default false. Source: `keep_matching`.
    pub keep_matching: bool,
}

/// Source: `Matcher.OnMatch.on_match`.
#[derive(Debug, Clone, PartialEq)]
pub enum Then<A> {
    Matcher(Box<Matcher<A>>),
    Action(A),
}

/// A condition. Source: `Matcher.MatcherList.Predicate`.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// An input's text is as asked; one that is not there never is. Source: `single_predicate`.
    Single(Input, StringMatcher),
    /// An input's address lies in one of these ranges, of which there is at least one; a text that is no address lies in none.
    /// Source: `single_predicate.custom_match`, `envoy.extensions.matching.input_matchers.ip.v3.Ip`.
    Address(Input, Vec<CidrRange>),
    /// What filters have noted is as asked; of connections for which a filter chain is chosen nobody has. Source:
    /// `single_predicate` of a `DynamicMetadataInput`, with a `custom_match` that is an
    /// `envoy.extensions.matching.input_matchers.metadata.v3.Metadata`.
    Metadata(MetadataMatcher),
    /// One of these, at least two. Source: `or_matcher`.
    AnyOf(Vec<Self>),
    /// All of these, at least two. Source: `and_matcher`.
    All(Vec<Self>),
    /// Not this one. Source: `not_matcher`.
    Not(Box<Self>),
}

/// What is matched. Source: `envoy.extensions.matching.common_inputs`, `envoy.type.matcher.v3.Http…Input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Where the client meant to connect to. Source: `DestinationIPInput`.
    DestinationIp,
    /// Its port. Source: `DestinationPortInput`.
    DestinationPort,
    /// The client. Source: `SourceIPInput`.
    SourceIp,
    /// The client's port. Source: `SourcePortInput`.
    SourcePort,
    /// The peer of the socket. Source: `DirectSourceIPInput`.
    DirectSourceIp,
    /// `local` of a client on this host, else nothing. Source: `SourceTypeInput`.
    SourceType,
    /// The server's name of the TLS hello. Source: `ServerNameInput`.
    ServerName,
    /// `tls` or `raw_buffer`. Source: `TransportProtocolInput`.
    TransportProtocol,
    /// Protocols that the client offers: `'h2','http/1.1'`. Source: `ApplicationProtocolInput`.
    ApplicationProtocol,
    /// URIs of the client's certificate, with commas between. Source: `UriSanInput`.
    UriSan,
    /// DNS names of the client's certificate, with commas between. Source: `DnsSanInput`.
    DnsSan,
    /// The subject of the client's certificate. Source: `SubjectInput`.
    Subject,
    /// A header of the request, several lines with commas between. Source: `HttpRequestHeaderMatchInput`.
    RequestHeader(Box<str>),
}
