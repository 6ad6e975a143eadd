//! [`Engine`]: the policies of one set of rules, compiled; and what they say of one who asks.

use super::Facts;
use super::rule::{self, Rule};
use crate::base::regex::RegexSlots;
use crate::config::error::ConfigError;
use crate::config::rbac::{self as config, Action, Rules};
use crate::protocol::http::matcher::MatchScratch;

/// A compiled set of rules. Immutable, shared by all cores.
#[derive(Debug)]
pub struct Engine {
    action: Action,
    policies: Box<[Policy]>,
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
        rules: &Rules,
        path: &str,
        slots: &mut RegexSlots,
        mut counter: impl FnMut(&str) -> Option<usize>,
    ) -> Result<Self, ConfigError> {
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
        Ok(Self {
            action: rules.action,
            policies: rules.policies.iter().map(compile).collect::<Result<_, ConfigError>>()?,
        })
    }

    /// What the rules say of one who asks.
    pub fn decide(&self, facts: &Facts<'_>, scratch: &mut MatchScratch) -> Decision<'_> {
        let matched = self.policies.iter().find(|policy| {
            policy.permissions.iter().any(|rule| rule.is_met(facts, scratch))
                && policy.principals.iter().any(|rule| rule.is_met(facts, scratch))
        });
        Decision {
            allowed: match self.action {
                Action::Allow => matched.is_some(),
                Action::Deny => matched.is_none(),
                Action::Log => true,
            },
            policy: matched.map(|policy| &*policy.name).filter(|name| !name.is_empty()),
            details: matched.map_or(NO_POLICY, |policy| &policy.details),
            counter: matched.and_then(|policy| policy.counter),
            log_hint: (self.action == Action::Log).then_some(matched.is_some()),
        }
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
