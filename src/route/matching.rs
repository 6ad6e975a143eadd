//! What one route asks of a request, compiled: its path, headers, query parameters, share of traffic.

use crate::base::regex::{Regex, RegexCaches, RegexSlots};
use crate::config::error::ConfigError;
use crate::config::matcher::{FractionalPercent, QueryParameterCondition, RuntimeFraction};
use crate::config::route as config;
use crate::config::runtime::RuntimeKey;
use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::protocol::http::matcher::{HeaderMatcher, MatchScratch, StringMatcher, starts_with_ignore_case};
use crate::protocol::http::path::{query_parameter, without_query};

/// The condition on the path. It is asked of the path without query, fragment and (when the table ignores them)
/// parameters.
#[derive(Debug, Clone)]
pub(super) enum PathTest {
    Prefix {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    Path {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    SeparatedPrefix {
        text: Box<[u8]>,
        ignore_case: bool,
    },
    /// Boxed: few routes have one.
    Regex(Box<Regex>),
    Connect,
}

/// The conditions beside the path.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    fraction: Option<RuntimeFraction>,
    /// Weights of the clusters that it leads to, where runtime may have others; else empty.
    weights: Box<[(u64, Option<RuntimeKey>)]>,
    grpc: bool,
    headers: Box<[HeaderMatcher]>,
    query_parameters: Box<[QueryParameterMatcher]>,
}

#[derive(Debug, Clone)]
struct QueryParameterMatcher {
    name: Box<[u8]>,
    condition: QueryParameterTest,
}

#[derive(Debug, Clone)]
enum QueryParameterTest {
    Present(bool),
    String(StringMatcher),
}

impl PathTest {
    pub(super) fn compile(
        config: &config::RouteMatch,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let ignore_case = !config.case_sensitive;
        Ok(match &config.path {
            config::PathMatch::Prefix(text) => Self::Prefix { text: text.as_bytes().into(), ignore_case },
            config::PathMatch::Path(text) => Self::Path { text: text.as_bytes().into(), ignore_case },
            config::PathMatch::PathSeparatedPrefix(text) => {
                Self::SeparatedPrefix { text: text.as_bytes().into(), ignore_case }
            }
            config::PathMatch::SafeRegex(pattern) => {
                Self::Regex(Box::new(Regex::full_match(pattern, slots).map_err(|error| {
                    ConfigError::new(format!("{path}.safe_regex.regex"), error.to_string())
                })?))
            }
            config::PathMatch::Connect => Self::Connect,
        })
    }

    pub(super) fn matches(&self, path: &[u8], is_connect: bool, regexes: &mut RegexCaches) -> bool {
        // Only a CONNECT has no path, and only this condition is for it.
        if path.is_empty() || matches!(self, Self::Connect) {
            return is_connect && matches!(self, Self::Connect);
        }
        match self {
            Self::Prefix { text, ignore_case } => begins(path, text, *ignore_case),
            Self::Path { text, ignore_case } => path.len() == text.len() && begins(path, text, *ignore_case),
            Self::SeparatedPrefix { text, ignore_case } => {
                begins(path, text, *ignore_case) && matches!(path.get(text.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_full_match(path, regexes),
            Self::Connect => false,
        }
    }

    /// How many bytes of the path (with its query) a prefix rewrite replaces: what the condition's text matched, or the
    /// whole path where it has none.
    pub(super) fn matched_len(&self, path: &[u8]) -> usize {
        match self {
            Self::Prefix { text, .. } | Self::Path { text, .. } | Self::SeparatedPrefix { text, .. } => {
                text.len().min(path.len())
            }
            Self::Regex(_) | Self::Connect => without_query(path).len(),
        }
    }

    /// The text every matching path begins with, byte for byte; none when it cannot be looked up by it.
    pub(super) fn index_text(&self) -> Option<&[u8]> {
        match self {
            Self::Prefix { text, ignore_case: false }
            | Self::Path { text, ignore_case: false }
            | Self::SeparatedPrefix { text, ignore_case: false } => Some(text),
            _ => None,
        }
    }
}

fn begins(path: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if ignore_case { starts_with_ignore_case(path, text) } else { path.starts_with(text) }
}

impl Conditions {
    /// None when nothing is asked: every request with the right path matches.
    pub(super) fn compile(
        config: &config::RouteMatch,
        action: &config::Action,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Option<Box<Self>>, ConfigError> {
        let mut headers = Vec::with_capacity(config.headers.len());
        for (index, header) in config.headers.iter().enumerate() {
            headers.push(HeaderMatcher::compile(header, &format!("{path}.headers[{index}]"), slots)?);
        }
        let mut query_parameters = Vec::with_capacity(config.query_parameters.len());
        for (index, parameter) in config.query_parameters.iter().enumerate() {
            let path = format!("{path}.query_parameters[{index}].string_match");
            query_parameters.push(QueryParameterMatcher {
                name: parameter.name.as_bytes().into(),
                condition: match &parameter.condition {
                    QueryParameterCondition::Present(present) => QueryParameterTest::Present(*present),
                    QueryParameterCondition::String(string) => {
                        QueryParameterTest::String(StringMatcher::compile(string, &path, slots)?)
                    }
                },
            });
        }
        let is_all = |share: &RuntimeFraction| {
            share.runtime_key.is_none() && share.default_value.numerator >= share.default_value.denominator
        };
        let asked = Self {
            fraction: config.runtime_fraction.clone().filter(|share| !is_all(share)),
            weights: weights(action),
            grpc: config.grpc,
            headers: headers.into(),
            query_parameters: query_parameters.into(),
        };
        Ok((!asked.is_empty()).then(|| Box::new(asked)))
    }

    fn is_empty(&self) -> bool {
        let Self { fraction, weights, grpc, headers, query_parameters } = self;
        fraction.is_none() && weights.is_empty() && !grpc && headers.is_empty() && query_parameters.is_empty()
    }

    pub(super) fn matches(&self, head: &Head, random: u64, scratch: &mut MatchScratch) -> bool {
        let drawn = |share: &RuntimeFraction| {
            let FractionalPercent { numerator, denominator } = share.value();
            random % u64::from(denominator.max(1)) < u64::from(numerator)
        };
        self.fraction.as_ref().is_none_or(drawn)
            && has_weight(&self.weights)
            && (!self.grpc || grpc::is_request(head))
            && self.headers.iter().all(|matcher| matcher.matches(head, scratch))
            && self.query_parameters.iter().all(|matcher| matcher.matches(head.path(), &mut scratch.regexes))
    }
}

/// Those of an action whose clusters have weights that may change.
fn weights(action: &config::Action) -> Box<[(u64, Option<RuntimeKey>)]> {
    let config::Action::Forward(action) = action else { return Box::default() };
    let config::ClusterSpecifier::WeightedClusters(weighted) = &action.cluster else { return Box::default() };
    if weighted.clusters.iter().all(|cluster| cluster.runtime_key.is_none()) {
        return Box::default();
    }
    weighted.clusters.iter().map(|cluster| (cluster.weight.into(), cluster.runtime_key.clone())).collect()
}

/// Whether a cluster can be drawn. As in Envoy a route without weights, or with more than configuration may have, matches nothing.
fn has_weight(weights: &[(u64, Option<RuntimeKey>)]) -> bool {
    let Some(key) = weights.iter().find_map(|(_, key)| key.as_ref()) else { return true };
    let sum = key.together(|value| {
        let weight =
            |(weight, key): &(u64, Option<RuntimeKey>)| key.as_ref().and_then(value).unwrap_or(*weight);
        weights.iter().map(weight).try_fold(0, u64::checked_add)
    });
    sum.is_some_and(|sum| (1..=u64::from(u32::MAX)).contains(&sum))
}

impl QueryParameterMatcher {
    /// Names and values are compared as sent, not decoded; of several values the first counts. Both as in Envoy.
    fn matches(&self, path: &[u8], regexes: &mut RegexCaches) -> bool {
        let value = query_parameter(path, &self.name);
        match &self.condition {
            QueryParameterTest::Present(present) => value.is_some() == *present,
            QueryParameterTest::String(string) => value.is_some_and(|value| string.matches(value, regexes)),
        }
    }
}
