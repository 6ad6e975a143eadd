//! State of the world: each request lists every name, each response has a version for all of them.
//!
//! The version of the last good response outlives a stream, its nonce does not. A name that a response does not have is
//! one of which there is nothing new.
use std::collections::BTreeSet;

use prost::Message;

use super::Protocol;
use super::judge::{Judge, Kind, Outcome, Taken, content};
use crate::control::xds::pb::{self, Named};
use pb::discovery::{DiscoveryRequest, DiscoveryResponse, Resource};

#[derive(Debug)]
pub(super) struct Sotw {
    judge: Judge,
    node: pb::core::Node,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    names: BTreeSet<String>,
    /// Of the last response that was good.
    version: String,
}

impl Sotw {
    pub(super) fn new(judge: Judge, node: pb::core::Node, names: BTreeSet<String>, node_once: bool) -> Self {
        Self { judge, node, node_once, names, version: String::new() }
    }

    pub(super) fn kind(&self) -> Kind {
        self.judge.kind()
    }

    /// The type's URL.
    pub(super) fn type_url_of(&self) -> &'static str {
        self.judge.type_url()
    }

    fn request(&self, nonce: String, first: bool) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            node: (first || !self.node_once).then(|| self.node.clone()),
            resource_names: self.names.iter().cloned().collect(),
            type_url: self.judge.type_url().to_owned(),
            response_nonce: nonce,
            ..DiscoveryRequest::default()
        }
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const METHOD: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

    fn type_url(response: &DiscoveryResponse) -> &str {
        &response.type_url
    }

    fn is_of(&self, type_url: &str) -> bool {
        self.judge.type_url() == type_url
    }

    fn open(&mut self, first: bool) -> Option<DiscoveryRequest> {
        // Without names it would ask for everything there is.
        (!self.names.is_empty()).then(|| self.request(String::new(), first))
    }

    fn take(&mut self, response: DiscoveryResponse) -> Option<Taken<DiscoveryRequest>> {
        let DiscoveryResponse {
            version_info,
            resources,
            canary: _,
            type_url,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        if !self.is_of(&type_url) {
            return None;
        }
        let mut outcome = Outcome::default();
        let hash = content(&version_info, resources.iter());
        for any in resources {
            let (name, any) = match unwrapped(any) {
                Ok(Some(resource)) => resource,
                // Its time to live begins anew; nothing has changed.
                Ok(None) => continue,
                Err(reason) => {
                    outcome.nameless.push(reason);
                    continue;
                }
            };
            outcome.resource(&name, &any, &mut self.judge, &self.names);
        }
        outcome.errors(resource_errors, &self.names);
        let error = outcome.error();
        if error.is_none() {
            self.version.clone_from(&version_info);
        }
        let refused = error.is_some().then_some(hash);
        let reply = DiscoveryRequest { error_detail: error, ..self.request(nonce, false) };
        Some(Taken { kind: self.judge.kind(), reply, outcome, version: version_info, refused })
    }
}

/// A resource, which may be in an envelope of its own; `None`: the envelope is empty.
fn unwrapped(any: pb::google::Any) -> Result<Option<(String, pb::google::Any)>, String> {
    if any.type_url.rsplit('/').next() != Some(Resource::NAME) {
        return Ok(Some((String::new(), any)));
    }
    let resource =
        Resource::decode(&*any.value).map_err(|error| format!("an envelope cannot be decoded: {error}"))?;
    Ok(resource.resource.map(|any| (resource.name, any)))
}
