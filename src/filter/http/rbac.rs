//! `envoy.filters.http.rbac`: a request whose head the rules do not let pass is answered with 403.
//!
//! Shadow rules come first and are only counted. What both say is noted in dynamic metadata. A route's options stand in
//! place of the filter's, but for the names of statistics. Source: Envoy's `RoleBasedAccessControlFilter`.

use std::collections::BTreeMap;

use super::{Arrival, FilterReply};
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::rbac::{HttpRbac, RuleSet};
use crate::filter::rbac::{CountersScope, Decision, Engine, Facts, NoteKeys, note_log_hint};
use crate::protocol::http::head::Head;
use crate::protocol::stream_info::set_text;
use crate::telemetry::{RbacOwner, RbacPart, Registry};

/// Dynamic metadata of this filter.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// The details are noted when it is denied.
const DENIED: FilterReply = FilterReply { status: 403, body: "RBAC: access denied", details: "", flag: None };

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Rbac {
    options: Options,
    rules_prefix: Box<str>,
    shadow_prefix: Box<str>,
    /// The policies that are counted, those of routes included.
    policies: Policies,
}

/// What one level has to say: the filter's own, or a route's.
#[derive(Debug)]
pub(crate) struct Options {
    rules: Option<Part>,
    shadow: Option<Part>,
}

/// A set of rules, and its keys of dynamic metadata.
#[derive(Debug)]
struct Part {
    engine: Engine,
    keys: NoteKeys,
}

#[derive(Debug, Default)]
struct Policies(BTreeMap<(RbacPart, Box<str>), usize>);

impl Policies {
    fn place(&mut self, part: RbacPart, name: &str) -> usize {
        let next = self.0.len();
        *self.0.entry((part, name.into())).or_insert(next)
    }

    fn in_order(&self) -> Vec<(RbacPart, Box<str>)> {
        let mut places: Vec<_> = self.0.iter().collect();
        places.sort_by_key(|(_, place)| **place);
        places.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

impl Rbac {
    /// Compiles the filter's own options.
    pub(super) fn compile(
        config: &HttpRbac,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Self, ConfigError> {
        let mut policies = Policies::default();
        Ok(Self {
            options: Options::compile(config, ["", ""], path, slots, &mut policies)?,
            rules_prefix: config.rules_stat_prefix.clone(),
            shadow_prefix: config.shadow_rules_stat_prefix.clone(),
            policies,
        })
    }

    /// Compiles options of a level for this filter.
    pub(crate) fn options(
        &mut self,
        config: &HttpRbac,
        path: &str,
        slots: &mut RegexSlots,
    ) -> Result<Options, ConfigError> {
        let own = [&*self.rules_prefix, &*self.shadow_prefix];
        Options::compile(config, own, path, slots, &mut self.policies)
    }

    /// Its counters below its owner's prefix.
    pub(crate) fn scope(&self, registry: &Registry, owner: RbacOwner<'_>) -> CountersScope {
        let prefixes = [&*self.rules_prefix, &*self.shadow_prefix];
        CountersScope::new(registry, owner, prefixes, &self.policies.in_order())
    }

    /// The request's head: whether it may pass. `options`: those of a level in place of the filter's.
    pub(super) fn decode_head(
        &self,
        options: Option<&Options>,
        arrival: &mut Arrival<'_>,
        place: usize,
        head: &Head,
    ) -> Result<(), FilterReply> {
        let Options { rules, shadow } = options.unwrap_or(&self.options);
        // What either says is noted once both have been asked: neither hears of the other, as in Envoy.
        let shadow = shadow.as_ref().map(|part| (part, part.ask(RbacPart::Shadow, arrival, place, head)));
        let enforced = rules.as_ref().map(|part| (part, part.ask(RbacPart::Enforced, arrival, place, head)));
        for (part, decision) in shadow.iter().chain(&enforced) {
            part.keys.note(decision, NAMESPACE, arrival.metadata);
        }
        match enforced {
            Some((_, decision)) if !decision.allowed => {
                set_text(arrival.details, decision.details);
                Err(DENIED)
            }
            _ => Ok(()),
        }
    }
}

impl Options {
    /// `own`: the filter's prefixes, for where these have none.
    fn compile(
        config: &HttpRbac,
        own: [&str; 2],
        path: &str,
        slots: &mut RegexSlots,
        policies: &mut Policies,
    ) -> Result<Self, ConfigError> {
        let HttpRbac { rules, shadow_rules, rules_stat_prefix, shadow_rules_stat_prefix, .. } = config;
        let mut part = |part: RbacPart, rules: &Option<RuleSet>, prefix: &str, own| {
            let Some(rules) = rules else { return Ok(None) };
            let fields = if part == RbacPart::Enforced { RuleSet::ENFORCED } else { RuleSet::SHADOW };
            let prefix = if prefix.is_empty() { own } else { prefix };
            let counter = |name: &str| config.track_per_rule_stats.then(|| policies.place(part, name));
            Ok(Some(Part {
                engine: Engine::compile(rules, &format!("{path}.{}", rules.field(fields)), slots, counter)?,
                keys: NoteKeys::new(prefix, part),
            }))
        };
        Ok(Self {
            rules: part(RbacPart::Enforced, rules, rules_stat_prefix, own[0])?,
            shadow: part(RbacPart::Shadow, shadow_rules, shadow_rules_stat_prefix, own[1])?,
        })
    }
}

impl Part {
    /// Asks the rules and counts what they say. Whether the request is to be logged is noted at once.
    fn ask(&self, part: RbacPart, arrival: &mut Arrival<'_>, place: usize, head: &Head) -> Decision<'_> {
        let facts = Facts { request: Some(head), metadata: Some(&*arrival.metadata), ..arrival.connection };
        let decision = self.engine.decide(&facts, arrival.matching);
        if let Some(counters) = arrival.counters.of(place) {
            counters.count(part, &decision);
        }
        if part == RbacPart::Enforced {
            note_log_hint(&decision, arrival.metadata);
        }
        decision
    }
}
