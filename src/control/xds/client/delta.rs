//! Delta: names are asked for once, each resource has a version of its own, and a response has what changed.
//!
//! A new stream asks for all names again and says which versions are there. A resource that was refused keeps the version
//! of its last good state. Endpoints and routes that are removed stay in use until there are others, as in Envoy: a cluster that needs
//! none goes away by itself.
use std::collections::{BTreeMap, BTreeSet};

use super::Protocol;
use super::judge::{Judge, Outcome, Taken, content};
use crate::control::xds::pb;
use pb::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

#[derive(Debug)]
pub(super) struct Delta {
    judge: Judge,
    node: pb::core::Node,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    names: BTreeSet<String>,
    /// Of the resources that are there.
    versions: BTreeMap<String, String>,
}

impl Delta {
    pub(super) fn new(judge: Judge, node: pb::core::Node, names: BTreeSet<String>, node_once: bool) -> Self {
        Self { judge, node, node_once, names, versions: BTreeMap::new() }
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const METHOD: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    fn type_url(response: &DeltaDiscoveryResponse) -> &str {
        &response.type_url
    }

    fn is_of(&self, type_url: &str) -> bool {
        self.judge.type_url() == type_url
    }

    fn open(&mut self, first: bool) -> Option<DeltaDiscoveryRequest> {
        // Without names it would ask for everything there is.
        (!self.names.is_empty()).then(|| DeltaDiscoveryRequest {
            node: (first || !self.node_once).then(|| self.node.clone()),
            type_url: self.judge.type_url().to_owned(),
            resource_names_subscribe: self.names.iter().cloned().collect(),
            initial_resource_versions: self.versions.clone(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) -> Option<Taken<DeltaDiscoveryRequest>> {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            removed_resources,
            removed_resource_names,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        if !self.is_of(&type_url) {
            return None;
        }
        let mut outcome = Outcome::default();
        let hash = content(&system_version_info, resources.iter().filter_map(|one| one.resource.as_ref()));
        let mut versions = BTreeMap::new();
        for resource in resources {
            let Resource {
                name,
                resource_name,
                aliases: _,
                version,
                resource,
                ttl: _,
                cache_control: _,
                metadata: _,
            } = resource;
            let name = resource_name.map_or(name, |given| given.name);
            // Without a body its time to live begins anew; nothing has changed.
            let Some(any) = resource else { continue };
            outcome.resource(&name, &any, &mut self.judge, &self.names);
            versions.insert(name, version);
        }
        for name in outcome.good.keys() {
            if let Some(version) = versions.remove(name) {
                self.versions.insert(name.clone(), version);
            }
        }
        let removed =
            removed_resources.into_iter().chain(removed_resource_names.into_iter().map(|one| one.name));
        for name in removed.filter(|name| self.names.contains(name)) {
            if !outcome.good.contains_key(&name) {
                self.versions.remove(&name);
                outcome.absent.insert(name);
            }
        }
        outcome.errors(resource_errors, &self.names);
        let error = outcome.error();
        let refused = error.is_some().then_some(hash);
        let reply = DeltaDiscoveryRequest {
            node: (!self.node_once).then(|| self.node.clone()),
            type_url: self.judge.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        };
        Some(Taken { kind: self.judge.kind(), reply, outcome, version: system_version_info, refused })
    }
}
