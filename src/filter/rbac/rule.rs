//! One condition of a policy, compiled; and whether it is met.

use std::net::IpAddr;

use super::Facts;
use crate::base::regex::{RegexCaches, RegexSlots};
use crate::config::address::CidrRange;
use crate::config::error::ConfigError;
use crate::config::rbac as config;
use crate::config::tls::SanKind;
use crate::matching::MetadataMatcher;
use crate::protocol::http::matcher::{HeaderMatcher, MatchScratch, StringMatcher};
use crate::protocol::tls::TlsFacts;

/// See the file's head. Source: Envoy's `RBAC::Matcher`s.
#[derive(Debug)]
pub(super) enum Rule {
    Any,
    All(Box<[Self]>),
    AnyOf(Box<[Self]>),
    Not(Box<Self>),
    Header(Box<HeaderMatcher>),
    UrlPath(StringMatcher),
    DestinationIp(CidrRange),
    /// `.0 <= port < .1`
    DestinationPort(u32, u32),
    ServerName(StringMatcher),
    Authenticated(Option<StringMatcher>),
    Peer(CidrRange),
    DirectRemote(CidrRange),
    Remote(CidrRange),
    Metadata(Box<MetadataMatcher>),
}

/// All of a list.
pub(super) fn compile_all(
    rules: &[config::Rule],
    path: &str,
    slots: &mut RegexSlots,
) -> Result<Box<[Rule]>, ConfigError> {
    let compile = |(index, rule)| Rule::compile(rule, &format!("{path}[{index}]"), slots);
    rules.iter().enumerate().map(compile).collect()
}

impl Rule {
    fn compile(rule: &config::Rule, path: &str, slots: &mut RegexSlots) -> Result<Self, ConfigError> {
        let mut string = |matcher, field| StringMatcher::compile(matcher, &format!("{path}.{field}"), slots);
        Ok(match rule {
            config::Rule::Any => Self::Any,
            config::Rule::All(rules) => Self::All(compile_all(rules, &format!("{path}.and"), slots)?),
            config::Rule::AnyOf(rules) => Self::AnyOf(compile_all(rules, &format!("{path}.or"), slots)?),
            config::Rule::Not(rule) => {
                Self::Not(Box::new(Self::compile(rule, &format!("{path}.not"), slots)?))
            }
            config::Rule::Header(matcher) => {
                Self::Header(Box::new(HeaderMatcher::compile(matcher, &format!("{path}.header"), slots)?))
            }
            config::Rule::UrlPath(matcher) => Self::UrlPath(string(matcher, "url_path.path")?),
            config::Rule::DestinationIp(range) => Self::DestinationIp(*range),
            config::Rule::DestinationPort(port) => {
                Self::DestinationPort(u32::from(*port), u32::from(*port) + 1)
            }
            config::Rule::DestinationPortRange { start, end } => Self::DestinationPort(*start, *end),
            config::Rule::RequestedServerName(matcher) => {
                Self::ServerName(string(matcher, "requested_server_name")?)
            }
            config::Rule::Authenticated(None) => Self::Authenticated(None),
            config::Rule::Authenticated(Some(matcher)) => {
                Self::Authenticated(Some(string(matcher, "authenticated.principal_name")?))
            }
            config::Rule::SourceIp(range) => Self::Peer(*range),
            config::Rule::DirectRemoteIp(range) => Self::DirectRemote(*range),
            config::Rule::RemoteIp(range) => Self::Remote(*range),
            config::Rule::Metadata(matcher) => {
                let path = format!("{path}.metadata.value");
                Self::Metadata(Box::new(MetadataMatcher::compile(matcher, &path, slots)?))
            }
        })
    }

    /// Whether it is met. Configuration nests as deep as its messages may, so that this ends.
    pub(super) fn is_met(&self, facts: &Facts<'_>, scratch: &mut MatchScratch) -> bool {
        let lies_in = |range: &CidrRange, address: Option<IpAddr>| {
            address.is_some_and(|address| range.contains(address))
        };
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.is_met(facts, scratch)),
            Self::AnyOf(rules) => rules.iter().any(|rule| rule.is_met(facts, scratch)),
            Self::Not(rule) => !rule.is_met(facts, scratch),
            Self::Header(matcher) => facts.request.is_some_and(|head| matcher.matches(head, scratch)),
            Self::UrlPath(matcher) => facts.request.is_some_and(|head| {
                let path = without_query_and_fragment(head.path());
                // Only a CONNECT has no path.
                !head.path().is_empty() && matcher.matches(path, &mut scratch.regexes)
            }),
            Self::DestinationIp(range) => lies_in(range, facts.local.map(|local| local.ip())),
            Self::DestinationPort(start, end) => {
                facts.local.is_some_and(|local| (*start..*end).contains(&u32::from(local.port())))
            }
            Self::ServerName(matcher) => matcher.matches(facts.server_name.as_bytes(), &mut scratch.regexes),
            Self::Authenticated(matcher) => facts.tls.is_some_and(|tls| {
                matcher.as_ref().is_none_or(|matcher| is_named(tls, matcher, &mut scratch.regexes))
            }),
            Self::Peer(range) => lies_in(range, facts.peer),
            Self::DirectRemote(range) => lies_in(range, facts.direct_remote),
            Self::Remote(range) => lies_in(range, facts.remote),
            Self::Metadata(matcher) => matcher.is_met(facts.metadata, &mut scratch.regexes),
        }
    }
}

/// Whether one of the certificate's URIs, or of its DNS names, or its subject is as asked. As in Envoy, who shows no
/// certificate has the empty subject.
fn is_named(tls: &TlsFacts, matcher: &StringMatcher, regexes: &mut RegexCaches) -> bool {
    let Some(peer) = &tls.peer else { return matcher.matches(b"", regexes) };
    let certificate = &peer.certificate;
    certificate.names(SanKind::Uri).any(|name| matcher.matches(name.as_bytes(), regexes))
        || certificate.names(SanKind::Dns).any(|name| matcher.matches(name.as_bytes(), regexes))
        || matcher.matches(certificate.subject.as_bytes(), regexes)
}

fn without_query_and_fragment(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}
