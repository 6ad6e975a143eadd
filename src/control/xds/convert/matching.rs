//! Matchers: trees of conditions on inputs. What their actions are, whoever has a matcher says.
mod inputs;

use std::collections::HashSet;

use self::inputs::Source;
use super::at::At;
use super::fields::classify;
use super::matcher::checked_regex;
use super::report::Class;
use super::value::type_name;
use super::{address, metadata_matcher};
use crate::base::limits::{MATCHER_DEPTH_MAX, MATCHER_ENTRIES_MAX};
use crate::config::address::CidrRange;
use crate::config::matcher::{MetadataMatcher, StringMatcher, StringPattern, ValueMatcher};
use crate::config::matching::{Domains, Input, IpRanges, Matcher, Matches, OnMatch, Predicate, Then, Tree};
use crate::control::xds::pb::{self, Named};
use pb::matching::{
    MatcherMatcherListPredicateMatchTypeOneOf as MatchType,
    MatcherMatcherListPredicateSinglePredicateMatcherOneOf as SingleMatcher,
    MatcherMatcherTreeTreeTypeOneOf as TreeType, MatcherMatcherTypeOneOf as MatcherType,
    MatcherOnMatchOnMatchOneOf as OnMatchType, StringMatcherMatchPatternOneOf as Pattern,
};

/// Who matches: not every input is there for all. Source: Envoy's `MatchTreeValidationVisitor`s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A connection for which a filter chain is chosen.
    FilterChain,
    /// A connection that asks for access.
    Connection,
    /// A request that asks for access.
    Request,
}

/// A matcher; `action` converts the configuration of an action.
pub(super) fn matcher<A>(
    at: &At<'_>,
    message: pb::matching::Matcher,
    subject: Subject,
    mut action: impl FnMut(&At<'_>, &pb::google::Any) -> Option<A>,
) -> Option<Matcher<A>> {
    Converter { subject, action: &mut action, entries: 0 }.matcher(at, message, MATCHER_DEPTH_MAX)
}

/// What is asked of an input.
enum Condition {
    Text(StringMatcher),
    Address(Vec<CidrRange>),
    Value { value: ValueMatcher, invert: bool },
}

struct Converter<'a, A> {
    subject: Subject,
    action: &'a mut dyn FnMut(&At<'_>, &pb::google::Any) -> Option<A>,
    /// Entries so far.
    entries: usize,
}

impl<A> Converter<'_, A> {
    /// `depth`: how many levels there may be from here on.
    fn matcher(&mut self, at: &At<'_>, message: pb::matching::Matcher, depth: usize) -> Option<Matcher<A>> {
        let depth = self.deeper(at, depth)?;
        classify!(at, message => pb::matching::Matcher { implemented: matcher_type, on_no_match; });
        let matches = match matcher_type {
            None => Some(Matches::Nothing),
            Some(MatcherType::MatcherList(list)) => self.list(&at.field("matcher_list"), list, depth),
            Some(MatcherType::MatcherTree(tree)) => self.tree(&at.field("matcher_tree"), tree, depth),
        };
        let on_no_match = match on_no_match {
            None => None,
            Some(message) => Some(self.on_match(&at.field("on_no_match"), Some(message), depth)?),
        };
        Some(Matcher { matches: matches?, on_no_match })
    }

    fn deeper(&mut self, at: &At<'_>, depth: usize) -> Option<usize> {
        self.entries += 1;
        if self.entries > MATCHER_ENTRIES_MAX {
            // Once: what follows is more of the same.
            if self.entries == MATCHER_ENTRIES_MAX + 1 {
                at.error(format!("a matcher of more than {MATCHER_ENTRIES_MAX} conditions and actions"));
            }
            return None;
        }
        let left = depth.checked_sub(1);
        if left.is_none() {
            at.error(format!("more than {MATCHER_DEPTH_MAX} matchers and conditions within one another"));
        }
        left
    }

    fn list(
        &mut self,
        at: &At<'_>,
        message: pb::matching::MatcherMatcherList,
        depth: usize,
    ) -> Option<Matches<A>> {
        classify!(at, message => pb::matching::MatcherMatcherList { implemented: matchers; });
        if matchers.is_empty() {
            at.field("matchers").error("must not be empty");
        }
        let mut convert = |(index, message): (usize, pb::matching::MatcherMatcherListFieldMatcher)| {
            let at = &at.item("matchers", index);
            classify!(at, message => pb::matching::MatcherMatcherListFieldMatcher {
                implemented: predicate, on_match;
            });
            let predicate = self.predicate(&at.field("predicate"), predicate, depth);
            let on_match = self.on_match(&at.field("on_match"), on_match, depth);
            predicate.zip(on_match)
        };
        let converted: Vec<_> = matchers.into_iter().enumerate().map(&mut convert).collect();
        Some(Matches::List(converted.into_iter().collect::<Option<_>>()?))
    }

    fn predicate(
        &mut self,
        at: &At<'_>,
        message: Option<pb::matching::MatcherMatcherListPredicate>,
        depth: usize,
    ) -> Option<Predicate> {
        let depth = self.deeper(at, depth)?;
        let message = message.unwrap_or_default();
        classify!(at, message => pb::matching::MatcherMatcherListPredicate { implemented: match_type; });
        match match_type {
            Some(MatchType::SinglePredicate(message)) => self.single(&at.field("single_predicate"), message),
            Some(MatchType::OrMatcher(list)) => {
                self.predicates(&at.field("or_matcher"), list, depth).map(Predicate::AnyOf)
            }
            Some(MatchType::AndMatcher(list)) => {
                self.predicates(&at.field("and_matcher"), list, depth).map(Predicate::All)
            }
            Some(MatchType::NotMatcher(message)) => {
                let predicate = self.predicate(&at.field("not_matcher"), Some(*message), depth)?;
                Some(Predicate::Not(Box::new(predicate)))
            }
            None => {
                at.error("one of single_predicate, or_matcher, and_matcher, not_matcher must be set");
                None
            }
        }
    }

    fn predicates(
        &mut self,
        at: &At<'_>,
        message: pb::matching::MatcherMatcherListPredicatePredicateList,
        depth: usize,
    ) -> Option<Vec<Predicate>> {
        classify!(at, message => pb::matching::MatcherMatcherListPredicatePredicateList {
            implemented: predicate;
        });
        if predicate.len() < 2 {
            at.field("predicate").error("must be at least 2");
        }
        let list = predicate.into_iter().enumerate();
        let converted: Vec<_> = list
            .map(|(index, message)| self.predicate(&at.item("predicate", index), Some(message), depth))
            .collect();
        converted.into_iter().collect()
    }

    fn single(
        &mut self,
        at: &At<'_>,
        message: pb::matching::MatcherMatcherListPredicateSinglePredicate,
    ) -> Option<Predicate> {
        classify!(at, message => pb::matching::MatcherMatcherListPredicateSinglePredicate {
            implemented: input = "the inputs listed here; others are refused",
                matcher = "value_match; custom_match: Ip, and Metadata of a DynamicMetadataInput; others are refused";
        });
        let source = self.source(&at.field("input"), input);
        let condition = match matcher {
            Some(SingleMatcher::ValueMatch(message)) => {
                string(&at.field("value_match"), message).map(Condition::Text)
            }
            Some(SingleMatcher::CustomMatch(extension)) => {
                self.condition(&at.field("custom_match"), extension)
            }
            None => {
                at.error("one of value_match, custom_match must be set");
                None
            }
        };
        Some(match source.zip(condition)? {
            (Source::Text(input), Condition::Text(matcher)) => Predicate::Single(input, matcher),
            (Source::Text(input), Condition::Address(ranges)) => Predicate::Address(input, ranges),
            (Source::Metadata { filter, path }, Condition::Value { value, invert }) => {
                Predicate::Metadata(MetadataMatcher { filter, path, value, invert })
            }
            // Envoy takes it.
            (Source::Text(_), Condition::Value { .. })
            | (Source::Metadata { .. }, Condition::Text(_) | Condition::Address(_)) => {
                at.error("nothing meets it: Metadata and DynamicMetadataInput go together only");
                return None;
            }
        })
    }

    /// A condition that is an extension.
    fn condition(&mut self, at: &At<'_>, custom: pb::matching::TypedExtensionConfig) -> Option<Condition> {
        let any = typed_config(at, custom)?;
        let at = &at.field("typed_config");
        match type_name(&any) {
            pb::matching::Ip::NAME => self.addresses(at, at.unpack(&any)?).map(Condition::Address),
            pb::matching::Metadata::NAME => value(at, at.unpack(&any)?),
            _ => {
                at.extension(Class::Refused, &any, "");
                None
            }
        }
    }

    fn addresses(&mut self, at: &At<'_>, message: pb::matching::Ip) -> Option<Vec<CidrRange>> {
        classify!(at, message => pb::matching::Ip {
            implemented: cidr_ranges;
            no_effect: stat_prefix = "texts that are no addresses match nothing and are not counted";
        });
        self.entries += cidr_ranges.len();
        let convert = |(index, message)| address::cidr_range(&at.item("cidr_ranges", index), message);
        // All of them, so that each mistake is told.
        let converted: Vec<_> = cidr_ranges.into_iter().enumerate().map(convert).collect();
        converted.into_iter().collect()
    }

    fn tree(
        &mut self,
        at: &At<'_>,
        message: pb::matching::MatcherMatcherTree,
        depth: usize,
    ) -> Option<Matches<A>> {
        classify!(at, message => pb::matching::MatcherMatcherTree {
            implemented: input = "the inputs listed here; others are refused",
                tree_type = "custom_match: IPMatcher and ServerNameMatcher; others are refused";
        });
        let input = self.input(&at.field("input"), input);
        let tree = match tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                self.map(&at.field("exact_match_map"), map, depth).map(Tree::Exact)
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                self.map(&at.field("prefix_match_map"), map, depth).map(Tree::Prefix)
            }
            Some(TreeType::CustomMatch(extension)) => {
                self.custom(&at.field("custom_match"), extension, depth)
            }
            None => {
                at.error("one of exact_match_map, prefix_match_map, custom_match must be set");
                None
            }
        };
        let (input, tree) = input.zip(tree)?;
        Some(Matches::Tree(input, tree))
    }

    fn map(
        &mut self,
        at: &At<'_>,
        message: pb::matching::MatcherMatcherTreeMatchMap,
        depth: usize,
    ) -> Option<Vec<(Box<str>, OnMatch<A>)>> {
        classify!(at, message => pb::matching::MatcherMatcherTreeMatchMap { implemented: map; });
        if map.is_empty() {
            at.field("map").error("must not be empty");
        }
        let convert = |(key, message): (String, pb::matching::MatcherOnMatch)| {
            let on_match = self.on_match(&at.key("map", &key), Some(message), depth)?;
            Some((key.into_boxed_str(), on_match))
        };
        let converted: Vec<_> = map.into_iter().map(convert).collect();
        converted.into_iter().collect()
    }

    fn custom(
        &mut self,
        at: &At<'_>,
        extension: pb::matching::TypedExtensionConfig,
        depth: usize,
    ) -> Option<Tree<A>> {
        let any = typed_config(at, extension)?;
        let at = &at.field("typed_config");
        match type_name(&any) {
            pb::matching::IPMatcher::NAME => self.ip(at, at.unpack(&any)?, depth).map(Tree::Ip),
            pb::matching::ServerNameMatcher::NAME => {
                self.server_name(at, at.unpack(&any)?, depth).map(Tree::ServerName)
            }
            _ => {
                at.extension(Class::Refused, &any, "");
                None
            }
        }
    }

    fn ip(
        &mut self,
        at: &At<'_>,
        message: pb::matching::IPMatcher,
        depth: usize,
    ) -> Option<Vec<IpRanges<A>>> {
        classify!(at, message => pb::matching::IPMatcher { implemented: range_matchers; });
        let convert = |(index, message): (usize, pb::matching::IPMatcherIPRangeMatcher)| {
            let at = &at.item("range_matchers", index);
            classify!(at, message => pb::matching::IPMatcherIPRangeMatcher {
                implemented: ranges, on_match, exclusive;
            });
            let ranges: Vec<_> = ranges
                .into_iter()
                .enumerate()
                .map(|(index, message)| {
                    self.entries += 1;
                    cidr_range(&at.item("ranges", index), message)
                })
                .collect();
            let on_match = self.on_match(&at.field("on_match"), on_match, depth)?;
            Some(IpRanges { ranges: ranges.into_iter().collect::<Option<_>>()?, on_match, exclusive })
        };
        let converted: Vec<_> = range_matchers.into_iter().enumerate().map(convert).collect();
        converted.into_iter().collect()
    }

    fn server_name(
        &mut self,
        at: &At<'_>,
        message: pb::matching::ServerNameMatcher,
        depth: usize,
    ) -> Option<Vec<Domains<A>>> {
        classify!(at, message => pb::matching::ServerNameMatcher { implemented: domain_matchers; });
        let mut seen = HashSet::new();
        let mut convert = |(index, message): (usize, pb::matching::ServerNameMatcherDomainMatcher)| {
            let at = &at.item("domain_matchers", index);
            classify!(at, message => pb::matching::ServerNameMatcherDomainMatcher {
                implemented: domains, on_match;
            });
            for (index, domain) in domains.iter().enumerate() {
                self.entries += 1;
                let at = &at.item("domains", index);
                if !is_domain(domain) {
                    at.error(format!("{domain:?}: a name, \"*.\" and what names end with, or \"*\""));
                }
                if !seen.insert(domain.clone()) {
                    at.error(format!("duplicate domain: {domain}"));
                }
            }
            let on_match = self.on_match(&at.field("on_match"), on_match, depth)?;
            Some(Domains { domains: domains.into_iter().map(Into::into).collect(), on_match })
        };
        let converted: Vec<_> = domain_matchers.into_iter().enumerate().map(&mut convert).collect();
        converted.into_iter().collect()
    }

    fn on_match(
        &mut self,
        at: &At<'_>,
        message: Option<pb::matching::MatcherOnMatch>,
        depth: usize,
    ) -> Option<OnMatch<A>> {
        let depth = self.deeper(at, depth)?;
        let message = message.unwrap_or_default();
        classify!(at, message => pb::matching::MatcherOnMatch {
            implemented: on_match, keep_matching = "of filter chains; RBAC refuses it, as in Envoy";
        });
        if keep_matching && self.subject != Subject::FilterChain {
            at.field("keep_matching").error("not supported by RBAC");
        }
        let then = match on_match {
            Some(OnMatchType::Matcher(message)) => {
                Then::Matcher(Box::new(self.matcher(&at.field("matcher"), *message, depth)?))
            }
            Some(OnMatchType::Action(extension)) => {
                let at = &at.field("action");
                let any = typed_config(at, extension)?;
                Then::Action((self.action)(&at.field("typed_config"), &any)?)
            }
            None => {
                at.error("one of matcher, action must be set");
                return None;
            }
        };
        Some(OnMatch { then, keep_matching })
    }

    /// What a map looks at.
    fn input(&self, at: &At<'_>, extension: Option<pb::matching::TypedExtensionConfig>) -> Option<Input> {
        match self.source(at, extension)? {
            Source::Text(input) => Some(input),
            Source::Metadata { .. } => {
                at.error("maps are of texts and addresses: metadata is asked by a single_predicate");
                None
            }
        }
    }

    fn source(&self, at: &At<'_>, extension: Option<pb::matching::TypedExtensionConfig>) -> Option<Source> {
        let any = typed_config(at, extension.unwrap_or_default())?;
        let at = &at.field("typed_config");
        let source = inputs::source(at, &any)?;
        let is_there = match &source {
            Source::Metadata { .. } => self.subject == Subject::Request,
            Source::Text(input) => self.is_there(at, input),
        };
        if !is_there {
            let who = match self.subject {
                Subject::FilterChain => "filter chains",
                Subject::Connection => "the RBAC network filter",
                Subject::Request => "the RBAC HTTP filter",
            };
            at.error(format!("{who} cannot match {}", type_name(&any)));
            return None;
        }
        Some(source)
    }

    fn is_there(&self, at: &At<'_>, input: &Input) -> bool {
        match input {
            Input::UriSan | Input::DnsSan | Input::Subject => {
                if self.subject == Subject::FilterChain {
                    at.warn("nobody has shown a certificate yet: this leads to the default filter chain");
                }
                true
            }
            Input::RequestHeader(_) => self.subject == Subject::Request,
            Input::SourceType | Input::TransportProtocol | Input::ApplicationProtocol => {
                self.subject == Subject::FilterChain
            }
            Input::DestinationIp
            | Input::DestinationPort
            | Input::SourceIp
            | Input::SourcePort
            | Input::DirectSourceIp
            | Input::ServerName => true,
        }
    }
}

/// The configuration of an extension, which is found by its type.
fn typed_config(at: &At<'_>, extension: pb::matching::TypedExtensionConfig) -> Option<pb::google::Any> {
    classify!(at, extension => pb::matching::TypedExtensionConfig {
        implemented: typed_config;
        no_effect: name = "an extension is found by the type of its typed_config";
    });
    if typed_config.is_none() {
        at.field("typed_config").error("must be set");
    }
    typed_config
}

/// What is asked of a value that filters have noted.
fn value(at: &At<'_>, message: pb::matching::Metadata) -> Option<Condition> {
    classify!(at, message => pb::matching::Metadata { implemented: value, invert; });
    let Some(message) = value else {
        at.field("value").error("must be set");
        return None;
    };
    let value = metadata_matcher::value(&at.field("value"), message)?;
    Some(Condition::Value { value, invert })
}

fn is_domain(domain: &str) -> bool {
    match domain.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*'),
        None => !domain.is_empty() && !domain.contains('*'),
    }
}

fn cidr_range(at: &At<'_>, message: pb::matching::CidrRange) -> Option<CidrRange> {
    classify!(at, message => pb::matching::CidrRange { implemented: address_prefix, prefix_len; });
    match address_prefix.parse() {
        Ok(address) => Some(CidrRange::new(address, prefix_len.unwrap_or(0))),
        Err(_) => {
            at.field("address_prefix").error(format!("malformed IP address: {address_prefix}"));
            None
        }
    }
}

fn string(at: &At<'_>, message: pb::matching::StringMatcher) -> Option<StringMatcher> {
    classify!(at, message => pb::matching::StringMatcher {
        implemented: match_pattern = "custom matchers are refused", ignore_case;
    });
    let pattern = match match_pattern {
        Some(Pattern::Exact(text)) => StringPattern::Exact(text.into()),
        Some(Pattern::Prefix(text)) => StringPattern::Prefix(text.into()),
        Some(Pattern::Suffix(text)) => StringPattern::Suffix(text.into()),
        Some(Pattern::Contains(text)) => StringPattern::Contains(text.into()),
        Some(Pattern::SafeRegex(message)) => {
            let at = &at.field("safe_regex");
            classify!(at, message => pb::matching::RegexMatcher {
                implemented: regex;
                no_effect: engine_type = "there is one engine, of RE2's syntax and linear time";
            });
            StringPattern::SafeRegex(checked_regex(&at.field("regex"), regex)?)
        }
        Some(Pattern::Custom(_)) => {
            at.field("custom").value_refused("xds.type.matcher.v3.StringMatcher.custom", "");
            return None;
        }
        None => {
            at.error("one of exact, prefix, suffix, safe_regex, contains must be set");
            return None;
        }
    };
    Some(StringMatcher { pattern, ignore_case })
}
