//! What rules have said, as it is noted in dynamic metadata: for whoever asks behind, and for records.

use super::engine::Decision;
use crate::protocol::dynamic_metadata::{DynamicMetadata, MetadataValue};
use crate::telemetry::RbacPart;

/// Dynamic metadata that several filters of Envoy share, and the key that the action `LOG` writes there.
const COMMON_NAMESPACE: &str = "envoy.common";
const LOG_HINT: &str = "access_log_hint";

/// The keys of one set of rules in its filter's namespace. Source: Envoy `DynamicMetadataKeys`.
#[derive(Debug)]
pub(crate) struct NoteKeys {
    policy: Box<str>,
    result: Box<str>,
}

impl NoteKeys {
    /// Those behind a prefix.
    pub(crate) fn new(prefix: &str, part: RbacPart) -> Self {
        let what = if part == RbacPart::Enforced { "enforced" } else { "shadow" };
        Self {
            policy: format!("{prefix}{what}_effective_policy_id").into(),
            result: format!("{prefix}{what}_engine_result").into(),
        }
    }

    /// Notes what the rules say.
    pub(crate) fn note(&self, decision: &Decision<'_>, namespace: &str, metadata: &mut DynamicMetadata) {
        if let Some(policy) = decision.policy {
            metadata.set(namespace, &self.policy, MetadataValue::Text(policy));
        }
        let result = if decision.allowed { "allowed" } else { "denied" };
        metadata.set(namespace, &self.result, MetadataValue::Text(result));
    }
}

/// Notes whether enforced rules with the action `LOG` want it logged; others say nothing of it.
pub(crate) fn note_log_hint(decision: &Decision<'_>, metadata: &mut DynamicMetadata) {
    if let Some(hint) = decision.log_hint {
        metadata.set(COMMON_NAMESPACE, LOG_HINT, MetadataValue::Bool(hint));
    }
}
