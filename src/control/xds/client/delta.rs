//! Delta: names are asked for once, each resource has a version of its own, and a response has what changed.
//!
//! A new stream asks for all names again and says which versions are there. A resource that was refused keeps the version
//! of its last good state. Endpoints and routes that are removed stay in use until there are others, as in Envoy: a cluster that needs
//! none goes away by itself. A filter that is removed is gone.
use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Protocol;
use super::cache::Restored;
use super::judge::{Considered, Judge, Kind, Outcome, Taken, called, content};
use super::ttl::{self, Ttls};
use super::versions::Versions;
use super::wanted::Wanted;
use crate::control::xds::pb;
use pb::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

#[derive(Debug)]
pub(super) struct Delta {
    judge: Judge,
    node: pb::core::Node,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    wanted: Wanted,
    /// Of the resources that are there.
    versions: Versions,
    /// Of those that go by themselves.
    ttls: Ttls,
    /// Whether the stream has asked for the type.
    is_open: bool,
    /// Whether what is accepted is kept.
    keeps: bool,
}

impl Delta {
    pub(super) fn new(judge: Judge, node: pb::core::Node, wanted: Wanted, node_once: bool) -> Self {
        let (versions, ttls) = Default::default();
        Self { judge, node, node_once, wanted, versions, ttls, is_open: false, keeps: false }
    }

    /// The type's first request of a stream. Names that are known need not be listed where everything is asked for.
    fn first(&self, with_node: bool) -> DeltaDiscoveryRequest {
        let versions = self.versions.iter();
        DeltaDiscoveryRequest {
            node: with_node.then(|| self.node.clone()),
            type_url: self.judge.type_url().to_owned(),
            resource_names_subscribe: self.wanted.listed(),
            initial_resource_versions: versions
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn method(&self, is_own: bool) -> &'static str {
        if is_own {
            self.judge.kind().methods().1
        } else {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
    }

    fn kind(&self) -> Kind {
        self.judge.kind()
    }

    fn type_url(response: &DeltaDiscoveryResponse) -> &str {
        &response.type_url
    }

    fn is_of(&self, type_url: &str) -> bool {
        self.judge.type_url() == type_url
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn open(&mut self, first: bool) -> Option<DeltaDiscoveryRequest> {
        self.is_open = !self.wanted.is_nothing();
        self.is_open.then(|| self.first(first || !self.node_once))
    }

    fn want(
        &mut self,
        wanted: Wanted,
        _held: Option<&mut DeltaDiscoveryRequest>,
    ) -> Option<DeltaDiscoveryRequest> {
        let (more, fewer) = (wanted.beyond(&self.wanted), self.wanted.beyond(&wanted));
        self.wanted = wanted;
        // Where everything is asked for, what is there is no matter of a name that is asked for beside it.
        for name in fewer.iter().filter(|_| !self.wanted.is_all()) {
            self.versions.remove(name);
            self.ttls.remove(name);
            self.judge.forget(name);
        }
        if !self.is_open {
            // Everything, too, may be wanted only now.
            self.is_open = !self.wanted.is_nothing();
            return self.is_open.then(|| self.first(!self.node_once));
        }
        if more.is_empty() && fewer.is_empty() {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            node: (!self.node_once).then(|| self.node.clone()),
            type_url: self.judge.type_url().to_owned(),
            resource_names_subscribe: more,
            resource_names_unsubscribe: fewer,
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn keep(&mut self) {
        self.keeps = true;
    }

    fn version(&self, name: &str) -> &str {
        self.versions.get(name)
    }

    fn restore(&mut self, restored: &Restored, wanted: &Wanted) -> Outcome {
        restored.judge(&mut self.judge, wanted)
    }

    fn take_restored(&mut self, restored: Restored, outcome: &Outcome, _wanted: &Wanted) {
        self.judge.know(outcome);
        let good = restored.resources.iter().filter(|kept| outcome.good.contains_key(&kept.name));
        self.versions.extend(good.map(|kept| (kept.name.as_str(), kept.version.as_str())));
    }

    fn consider(&mut self, response: DeltaDiscoveryResponse) -> Option<Considered> {
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
        let mut outcome = Outcome { accepted: self.keeps.then(Default::default), ..Outcome::default() };
        let content = content(&system_version_info, resources.iter().filter_map(|one| one.resource.as_ref()));
        let (mut versions, mut told, mut ttls) = (Vec::new(), Vec::new(), BTreeMap::new());
        for resource in resources {
            let Resource {
                name,
                resource_name,
                aliases,
                version,
                resource,
                ttl,
                cache_control: _,
                metadata: _,
            } = resource;
            let name = resource_name.map_or(name, |given| given.name);
            let by = resource.is_some().then_some(&name);
            outcome.note_answered(std::iter::once(&name).chain(&aliases), by, &self.wanted);
            match (ttl::told(ttl.as_ref()), resource) {
                (Err(reason), _) => outcome.refuse_untried(name, reason, &self.wanted),
                (Ok(ttl), Some(any)) => {
                    ttls.extend(ttl.map(|ttl| (called(&name, &any, &type_url), ttl)));
                    versions.push(version);
                    told.push((name, any));
                }
                // A heartbeat.
                (Ok(ttl), None) if self.versions.has(&name, &version) => self.ttls.put(&name, ttl),
                // Nothing is behind a name that was asked for, or a heartbeat is of what is not there: nothing has changed.
                (Ok(_), None) => {}
            }
        }
        outcome.resources(&told, &mut self.judge, &self.wanted);
        let removed =
            removed_resources.into_iter().chain(removed_resource_names.into_iter().map(|one| one.name));
        for name in removed.filter(|name| self.wanted.contains(name)) {
            outcome.note_answered([&name], None, &self.wanted);
            if outcome.good.contains_key(&name) {
                continue;
            }
            if self.judge.kind() == Kind::Secrets {
                self.versions.remove(&name);
                self.ttls.remove(&name);
            }
            outcome.remove(name, self.judge.kind());
        }
        outcome.agree(&told, &self.judge);
        for name in &outcome.absent {
            self.versions.remove(name);
            self.judge.lose(name);
        }
        self.judge.settle(&mut outcome);
        let missing = resource_errors.iter().filter_map(|error| Some(&error.resource_name.as_ref()?.name));
        outcome.note_answered(missing, None, &self.wanted);
        outcome.errors(self.judge.kind(), resource_errors, &self.wanted);
        let versions = told.into_iter().map(|(name, _)| name).zip(versions).collect();
        Some(Considered { outcome, version: system_version_info, content, nonce, versions, ttls })
    }

    fn answer(&mut self, considered: Considered) -> Taken<DeltaDiscoveryRequest> {
        let Considered { outcome, version, content, nonce, versions, ttls } = considered;
        self.judge.know(&outcome);
        self.ttls.note(&outcome, &ttls);
        let good = versions.iter().filter(|(name, _)| outcome.good.contains_key(name));
        self.versions.extend(good.map(|(name, version)| (name.as_str(), version.as_str())));
        let error = outcome.error();
        let refused = error.is_some().then_some(content);
        let reply = DeltaDiscoveryRequest {
            node: (!self.node_once).then(|| self.node.clone()),
            type_url: self.judge.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        };
        Taken { kind: self.judge.kind(), reply, outcome, version, refused }
    }

    fn ttls(&self) -> &Ttls {
        &self.ttls
    }

    fn expire(&mut self, now: Instant) -> Option<Outcome> {
        let expired = self.ttls.expired(now);
        // On the next stream they are asked for anew.
        expired.iter().for_each(|name| self.versions.remove(name));
        ttl::gone(expired, &mut self.judge)
    }
}
