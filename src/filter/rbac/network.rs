//! [`NetworkRbac`]: access of connections, for the network filter `envoy.filters.network.rbac`.
//!
//! When it is asked and how a denied connection ends (`delay_deny`) are the business of whoever asks.

use std::time::Duration;

use super::Facts;
use super::counters::{Counters, CountersScope};
use super::engine::{Decision, Engine};
use super::notes::{NoteKeys, note_log_hint};
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::rbac::{NetworkRbac as Config, RuleSet};
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::matcher::MatchScratch;
use crate::telemetry::{RbacOwner, RbacPart, Registry};

/// Dynamic metadata of this filter.
const NAMESPACE: &str = "envoy.filters.network.rbac";

/// See the file's head. Immutable, shared by all cores.
#[derive(Debug)]
pub struct NetworkRbac {
    rules: Option<Engine>,
    shadow_rules: Option<Engine>,
    stat_prefix: Box<str>,
    shadow_prefix: Box<str>,
    shadow_keys: NoteKeys,
    /// How long a denied connection stays open, unread; `None`: it is closed at once.
    pub delay_deny: Option<Duration>,
}

impl NetworkRbac {
    /// Compiles a filter's options; their regular expressions are numbered in `slots`.
    ///
    /// # Errors
    /// A header's name or a regular expression that is none.
    pub fn compile(config: &Config, slots: &mut RegexSlots) -> Result<Self, ConfigError> {
        let mut engine = |rules: &Option<RuleSet>, fields| {
            let compile = |rules: &RuleSet| Engine::compile(rules, rules.field(fields), slots, |_| None);
            rules.as_ref().map(compile).transpose()
        };
        Ok(Self {
            rules: engine(&config.rules, RuleSet::ENFORCED)?,
            shadow_rules: engine(&config.shadow_rules, RuleSet::SHADOW)?,
            stat_prefix: config.stat_prefix.clone(),
            shadow_prefix: config.shadow_rules_stat_prefix.clone(),
            shadow_keys: NoteKeys::new(&config.shadow_rules_stat_prefix, RbacPart::Shadow),
            delay_deny: config.delay_deny,
        })
    }

    /// Its counters: `<stat_prefix>.rbac.allowed` and so on.
    pub fn scope(&self, registry: &Registry) -> CountersScope {
        CountersScope::new(registry, RbacOwner::Network(&self.stat_prefix), ["", &self.shadow_prefix], &[])
    }

    /// Asks both sets of rules and counts what they say; only the enforced ones' word counts. Without those everything
    /// may pass. `metadata` is the connection's, about which the rules may ask; what the shadow rules say is noted there
    /// before the others are asked, and what the action `LOG` says. `scratch` is one of the core for the expressions
    /// numbered with this filter's.
    pub fn decide(
        &self,
        facts: &Facts<'_>,
        metadata: &mut DynamicMetadata,
        scratch: &mut MatchScratch,
        counters: &Counters,
    ) -> Decision<'_> {
        if let Some(shadow) = &self.shadow_rules {
            let decision = shadow.decide(&Facts { metadata: Some(&*metadata), ..*facts }, scratch);
            counters.count(RbacPart::Shadow, &decision);
            self.shadow_keys.note(&decision, NAMESPACE, metadata);
        }
        let Some(rules) = &self.rules else { return Decision::NOT_ASKED };
        let decision = rules.decide(&Facts { metadata: Some(&*metadata), ..*facts }, scratch);
        counters.count(RbacPart::Enforced, &decision);
        note_log_hint(&decision, metadata);
        decision
    }
}
