//! [`Engine`]: the policies or the matcher of one set of rules, compiled; and what they say of one who asks.

use super::Facts;
use super::rule::{self, Rule};
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::rbac::{self as config, Action, MatchedAction, RuleSet, Rules};
use crate::matching::{MatchTree, Outcome};
use crate::protocol::http::matcher::MatchScratch;

/// A compiled set of rules. Immutable, shared by all cores.
#[derive(Debug)]
pub struct Engine(Decider);

#[derive(Debug)]
enum Decider {
    Policies {
        action: Action,
        policies: Box<[Policy]>,
    },
    Matcher {
        tree: Box<MatchTree<Matched>>,
        /// Whether one of its actions is `LOG`: then each notes whether it is.
        logs: bool,
    },
}

/// Where a matcher leads.
#[derive(Debug)]
struct Matched {
    action: Action,
    name: Box<str>,
    /// As a policy's.
    details: Box<str>,
    /// As a policy's.
    counter: Option<usize>,
}

#[derive(Debug)]
struct Policy {
    name: Box<str>,
    /// `%RESPONSE_CODE_DETAILS%` of what it denies.
    details: Box<str>,
    permissions: Box<[Rule]>,
    principals: Box<[Rule]>,
    /// Its place among the filter's counted policies.
    counter: Option<usize>,
}

/// What rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it may pass.
    pub allowed: bool,
    /// Name of the first policy that matched; `None`: none did.
    pub policy: Option<&'a str>,
    /// The response code details of a denial.
    pub(crate) details: &'a str,
    /// Where the policy is counted, if it is.
    pub(crate) counter: Option<usize>,
    /// Set by the action `LOG`: whether the request is to be logged.
    pub(crate) log_hint: Option<bool>,
}

/// Details of a denial because no policy matched.
const NO_POLICY: &str = "rbac_access_denied_matched_policy[none]";

impl Decision<'_> {
    /// `%CONNECTION_TERMINATION_DETAILS%`, `%RESPONSE_CODE_DETAILS%` of a denial.
    pub fn details(&self) -> &str {
        self.details
    }

    /// There are no rules.
    pub(crate) const NOT_ASKED: Self =
        Self { allowed: true, policy: None, details: "", counter: None, log_hint: None };
}

impl Engine {
    /// Compiles rules. `counter` gives the place where a policy is counted; `path` is the field path of `rules` for errors.
    ///
    /// # Errors
    /// A header's name or a regular expression that is none.
    pub(crate) fn compile(
        rules: &RuleSet,
        path: &str,
        slots: &mut RegexSlots,
        mut counter: impl FnMut(&str) -> Option<usize>,
    ) -> Result<Self, ConfigError> {
        let Rules { action, policies } = match rules {
            RuleSet::Policies(rules) => rules,
            RuleSet::Matcher(matcher) => {
                let mut logs = false;
                let mut matched = |config: &MatchedAction| {
                    logs |= config.action == Action::Log;
                    Matched {
                        action: config.action,
                        details: details(&config.name).into(),
                        counter: counter(&config.name),
                        name: config.name.clone(),
                    }
                };
                let tree = Box::new(MatchTree::compile(matcher, path, slots, &mut matched)?);
                return Ok(Self(Decider::Matcher { tree, logs }));
            }
        };
        let compile = |policy: &config::Policy| {
            let path = format!("{path}.policies[{:?}]", policy.name);
            Ok(Policy {
                permissions: rule::compile_all(&policy.permissions, &format!("{path}.permissions"), slots)?,
                principals: rule::compile_all(&policy.principals, &format!("{path}.principals"), slots)?,
                details: details(&policy.name).into(),
                counter: counter(&policy.name),
                name: policy.name.clone(),
            })
        };
        let policies = policies.iter().map(compile).collect::<Result<_, ConfigError>>()?;
        Ok(Self(Decider::Policies { action: *action, policies }))
    }

    /// What the rules say of one who asks.
    pub fn decide(&self, facts: &Facts<'_>, scratch: &mut MatchScratch) -> Decision<'_> {
        match &self.0 {
            Decider::Policies { action, policies } => by_policies(*action, policies, facts, scratch),
            Decider::Matcher { tree, logs } => match tree.decide(&facts.inputs(), scratch) {
                Outcome::Match(matched) => Decision {
                    allowed: matched.action != Action::Deny,
                    policy: Some(&*matched.name).filter(|name| !name.is_empty()),
                    details: &matched.details,
                    counter: matched.counter,
                    log_hint: logs.then_some(matched.action == Action::Log),
                },
                Outcome::NoMatch | Outcome::Unknown => Decision {
                    allowed: false,
                    policy: None,
                    details: NO_POLICY,
                    counter: None,
                    log_hint: None,
                },
            },
        }
    }
}

fn by_policies<'a>(
    action: Action,
    policies: &'a [Policy],
    facts: &Facts<'_>,
    scratch: &mut MatchScratch,
) -> Decision<'a> {
    let matched = policies.iter().find(|policy| {
        policy.permissions.iter().any(|rule| rule.is_met(facts, scratch))
            && policy.principals.iter().any(|rule| rule.is_met(facts, scratch))
    });
    Decision {
        allowed: match action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        },
        policy: matched.map(|policy| &*policy.name).filter(|name| !name.is_empty()),
        details: matched.map_or(NO_POLICY, |policy| &policy.details),
        counter: matched.and_then(|policy| policy.counter),
        log_hint: (action == Action::Log).then_some(matched.is_some()),
    }
}

/// Blanks of the policy's name become underscores: an access log's reader splits at them. Source: Envoy's
/// `responseDetail`.
fn details(policy: &str) -> String {
    // As in Envoy, which takes a policy without a name for none.
    if policy.is_empty() {
        return NO_POLICY.to_owned();
    }
    let name = policy.replace([' ', '\t', '\n', '\x0b', '\x0c', '\r'], "_");
    format!("rbac_access_denied_matched_policy[{name}]")
}
