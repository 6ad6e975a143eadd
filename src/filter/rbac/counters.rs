//! Counters of one filter's rules: the scopes, and the cells of one core.

use std::sync::Arc;

use super::engine::Decision;
use crate::telemetry::{RbacCells, RbacOwner, RbacPart, RbacStat, Registry, Scope, Slot};

/// The scopes of one filter.
#[derive(Debug)]
pub struct CountersScope {
    enforced: Arc<Scope<RbacStat>>,
    shadow: Arc<Scope<RbacStat>>,
    policies: Box<[Arc<Scope<RbacStat>>]>,
}

/// The cells of one filter on one core.
#[derive(Debug)]
pub struct Counters {
    enforced: RbacCells,
    shadow: RbacCells,
    policies: Box<[RbacCells]>,
}

impl CountersScope {
    /// Those of a filter with these prefixes and counted policies.
    pub(crate) fn new(
        registry: &Registry,
        owner: RbacOwner<'_>,
        [rules_prefix, shadow_prefix]: [&str; 2],
        policies: &[(RbacPart, Box<str>)],
    ) -> Self {
        let prefix = |part| if part == RbacPart::Enforced { rules_prefix } else { shadow_prefix };
        let scope = |part, policy| registry.rbac(owner, part, prefix(part), policy);
        Self {
            enforced: scope(RbacPart::Enforced, None),
            shadow: scope(RbacPart::Shadow, None),
            policies: policies.iter().map(|(part, name)| scope(*part, Some(name))).collect(),
        }
    }

    /// The cells of one writer.
    pub fn cells(&self, slot: Slot) -> Counters {
        Counters {
            enforced: self.enforced.cells(slot),
            shadow: self.shadow.cells(slot),
            policies: self.policies.iter().map(|scope| scope.cells(slot)).collect(),
        }
    }
}

impl Counters {
    /// Counts what rules have said.
    pub(crate) fn count(&self, part: RbacPart, decision: &Decision<'_>) {
        let (cells, stat) = match (part, decision.allowed) {
            (RbacPart::Enforced, true) => (&self.enforced, RbacStat::Allowed),
            (RbacPart::Enforced, false) => (&self.enforced, RbacStat::Denied),
            (RbacPart::Shadow, true) => (&self.shadow, RbacStat::ShadowAllowed),
            (RbacPart::Shadow, false) => (&self.shadow, RbacStat::ShadowDenied),
        };
        cells.inc(stat);
        if let Some(policy) = decision.counter.and_then(|counter| self.policies.get(counter)) {
            policy.inc(stat);
        }
    }
}
