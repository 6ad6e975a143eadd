//! What of a response is used: each resource by itself. The good ones go on; each bad one is named with its reason, and
//! what was good of it before stays.
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use prost::Message as _;

use super::ENDPOINTS;
use crate::base::limits::XDS_REFUSAL_BYTES_MAX;
use crate::config::endpoint::ClusterLoadAssignment;
use crate::control::xds::convert::convert_endpoints;
use crate::control::xds::pb::{self, Named};
use crate::control::xds::schema::Message;
use crate::control::xds::validate;

/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;

/// What a response means, and its answer.
#[derive(Debug)]
pub(super) struct Taken<R> {
    /// The ACK or NACK.
    pub(super) reply: R,
    /// What changes.
    pub(super) outcome: Outcome,
    /// The version that the control plane gives the response.
    pub(super) version: String,
    /// With a NACK: a hash of what was refused.
    pub(super) refused: Option<u64>,
}

/// What a response changes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Resources to use from now on, by name.
    pub(super) good: BTreeMap<String, ClusterLoadAssignment>,
    /// Resources that stay as they were, and why.
    pub(super) bad: BTreeMap<String, String>,
    /// Why parts without a name are no good.
    pub(super) nameless: Vec<String>,
    /// Names of which the control plane says that it has nothing.
    pub(super) absent: BTreeSet<String>,
}

impl Outcome {
    /// The reason of a NACK; `None`: everything is good.
    pub(super) fn error(&self) -> Option<pb::discovery::Status> {
        if self.bad.is_empty() && self.nameless.is_empty() {
            return None;
        }
        let mut message = String::new();
        let named = self.bad.iter().map(|(name, reason)| format!("{name}: {reason}"));
        let reasons: Vec<String> = named.chain(self.nameless.iter().cloned()).collect();
        for (index, reason) in reasons.iter().enumerate() {
            if message.len() + reason.len() > XDS_REFUSAL_BYTES_MAX {
                message.push_str(&format!("and {} more", reasons.len() - index));
                break;
            }
            message.push_str(reason);
            message.push('\n');
        }
        let message = message.trim_end().to_owned();
        Some(pb::discovery::Status { code: INVALID_ARGUMENT, message, details: Vec::new() })
    }

    /// Takes one resource of the response.
    ///
    /// `name` is what the envelope calls it; empty: nothing.
    pub(super) fn resource(&mut self, name: &str, any: pb::google::Any, asked: &BTreeSet<String>) {
        let converted = endpoints(&any);
        let own =
            converted.as_ref().map_or_else(|bad| bad.0.clone(), |good| String::from(&*good.cluster_name));
        let key = if name.is_empty() { own.clone() } else { name.to_owned() };
        if key.is_empty() {
            let reason = converted.err().map_or_else(|| "cluster_name must be set".to_owned(), |bad| bad.1);
            self.nameless.push(format!("a resource without a name: {reason}"));
            return;
        }
        // A control plane may send more than was asked for.
        if !asked.contains(&key) {
            return;
        }
        if self.bad.contains_key(&key) || self.good.remove(&key).is_some() {
            self.bad.insert(key, "stands more than once in the response".to_owned());
            return;
        }
        match converted {
            Ok(_) if own != key => {
                self.bad.insert(key, format!("has the cluster_name {own:?}"));
            }
            Ok(good) => {
                self.good.insert(key, good);
            }
            Err((_, reason)) => {
                self.bad.insert(key, reason);
            }
        }
    }

    /// What the control plane says of resources that it does not send.
    pub(super) fn errors(&mut self, errors: Vec<pb::discovery::ResourceError>, asked: &BTreeSet<String>) {
        for error in errors {
            let pb::discovery::ResourceError { resource_name, error_detail } = error;
            let name = resource_name.map(|name| name.name).unwrap_or_default();
            if asked.contains(&name) {
                let reason = error_detail.map(|status| status.message).unwrap_or_default();
                log::warn!("xDS: the control plane does not send {name}: {reason}");
                self.absent.insert(name);
            }
        }
    }
}

/// The endpoints in an `Any`; otherwise the name, as far as it can be read, and the reason.
fn endpoints(any: &pb::google::Any) -> Result<ClusterLoadAssignment, (String, String)> {
    let nameless = |reason: String| (String::new(), reason);
    if any.type_url != ENDPOINTS {
        return Err(nameless(format!("has the type {:?}, not {ENDPOINTS:?}", any.type_url)));
    }
    let message = pb::endpoint::ClusterLoadAssignment::decode(&*any.value)
        .map_err(|error| nameless(format!("cannot be decoded: {error}")))?;
    let name = message.cluster_name.clone();
    if let Some(schema) = Message::find(pb::endpoint::ClusterLoadAssignment::NAME) {
        let violations = validate::check(schema, &any.value).violations;
        if !violations.is_empty() {
            let reasons: Vec<_> = violations.iter().map(ToString::to_string).collect();
            return Err((name, reasons.join("; ")));
        }
    }
    match convert_endpoints(message) {
        Ok((assignment, report)) => {
            for finding in &report.findings {
                log::debug!("xDS: endpoints {name}: {finding}");
            }
            Ok(assignment)
        }
        Err(report) => {
            let reasons: Vec<_> = report.errors.0.iter().map(ToString::to_string).collect();
            Err((name, reasons.join("; ")))
        }
    }
}

/// A hash of a response's content, by which it is known again.
pub(super) fn content<'a>(version: &str, parts: impl Iterator<Item = &'a pb::google::Any>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    parts.for_each(|part| {
        hasher.write_usize(part.value.len());
        hasher.write(&part.value);
    });
    hasher.finish()
}
