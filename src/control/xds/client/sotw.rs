//! State of the world: each request lists every name, each response has a version for all of them.
//!
//! The version of the last good response outlives a stream, its nonce does not. A name that a response does not have is
//! one of which there is nothing new, but where everything is asked for: there it is one that is gone.
//!
//! What has a time to live is told in an envelope of its own. Of heartbeats the version is that of the whole response, as in Envoy,
//! whatever their envelopes say.
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tokio::time::Instant;

use super::Protocol;
use super::cache::Restored;
use super::judge::{Considered, Judge, Kind, Outcome, Taken, called, content};
use super::ttl::{self, Ttls};
use super::wanted::Wanted;
use crate::base::packed;
use crate::control::xds::pb::{self, Named};
use pb::discovery::{DiscoveryRequest, DiscoveryResponse, Resource};

#[derive(Debug)]
pub(super) struct Sotw {
    judge: Judge,
    node: pb::core::Node,
    /// Whether only the first request of a stream has the node.
    node_once: bool,
    wanted: Wanted,
    /// Where everything is asked for: what is there, used or refused.
    there: BTreeSet<Box<str>>,
    /// Of those that go by themselves.
    ttls: Ttls,
    /// Whether some have gone so since the stream began: the version stands for them, too.
    has_lost: bool,
    /// Of the last response that was good.
    version: String,
    /// Of the last response, good or not.
    heard: String,
    /// Of the stream's last response.
    nonce: String,
    /// Whether the stream has asked for the type.
    is_open: bool,
    /// Whether what is accepted is kept.
    keeps: bool,
}

impl Sotw {
    pub(super) fn new(judge: Judge, node: pb::core::Node, wanted: Wanted, node_once: bool) -> Self {
        Self {
            judge,
            node,
            node_once,
            wanted,
            there: BTreeSet::new(),
            ttls: Ttls::default(),
            has_lost: false,
            version: String::new(),
            heard: String::new(),
            nonce: String::new(),
            is_open: false,
            keeps: false,
        }
    }

    /// The type's URL.
    pub(super) fn type_url_of(&self) -> &'static str {
        self.judge.type_url()
    }

    /// Whether nobody wants anything of the type.
    pub(super) fn wants_nothing(&self) -> bool {
        self.wanted.is_nothing()
    }

    /// Takes note of what is there from now on.
    fn note_there<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let new = names.filter(|name| !self.there.contains(name.as_str()));
        let new = new.map(|name| Box::<str>::from(name.as_str())).collect();
        packed::extend(&mut self.there, new);
    }

    fn request(&self, first: bool) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            node: (first || !self.node_once).then(|| self.node.clone()),
            resource_names: self.wanted.listed(),
            type_url: self.judge.type_url().to_owned(),
            response_nonce: self.nonce.clone(),
            ..DiscoveryRequest::default()
        }
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn method(&self, is_own: bool) -> &'static str {
        if is_own {
            self.judge.kind().methods().0
        } else {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
    }

    fn kind(&self) -> Kind {
        self.judge.kind()
    }

    fn type_url(response: &DiscoveryResponse) -> &str {
        &response.type_url
    }

    fn is_of(&self, type_url: &str) -> bool {
        self.judge.type_url() == type_url
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn open(&mut self, first: bool) -> Option<DiscoveryRequest> {
        self.nonce.clear();
        if std::mem::take(&mut self.has_lost) {
            // They are to be told again, which nobody would who is said to have told all of it.
            self.version.clear();
        }
        self.is_open = !self.wanted.is_nothing();
        self.is_open.then(|| self.request(first))
    }

    fn want(&mut self, wanted: Wanted, held: Option<&mut DiscoveryRequest>) -> Option<DiscoveryRequest> {
        if self.wanted == wanted {
            return None;
        }
        for name in self.wanted.beyond(&wanted) {
            self.ttls.remove(&name);
            self.judge.forget(&name);
        }
        self.wanted = wanted;
        if let Some(held) = held {
            // Another request with this nonce would take back the refusal.
            held.resource_names = self.wanted.listed();
            return None;
        }
        if !self.is_open && self.wanted.is_nothing() {
            return None;
        }
        self.is_open = true;
        Some(self.request(false))
    }

    fn keep(&mut self) {
        self.keeps = true;
    }

    fn restore(&mut self, restored: &Restored, wanted: &Wanted) -> Outcome {
        restored.judge(&mut self.judge, wanted)
    }

    fn take_restored(&mut self, restored: Restored, outcome: &Outcome, wanted: &Wanted) {
        self.judge.know(outcome);
        // Where not all of it is used the rest is to be told again, which nobody would who is said to have told all of it.
        if self.version.is_empty() && outcome.error().is_none() {
            self.version = restored.version;
        }
        if *wanted == Wanted::All {
            self.note_there(outcome.good.keys());
        }
    }

    fn consider(&mut self, response: DiscoveryResponse) -> Option<Considered> {
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
        self.nonce = nonce;
        let mut outcome = Outcome { accepted: self.keeps.then(Default::default), ..Outcome::default() };
        let content = content(&version_info, resources.iter());
        let (mut heartbeats, mut told, mut ttls) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for any in resources {
            let Resource { name, resource, ttl, .. } = match unwrapped(any) {
                Ok(resource) => resource,
                Err(reason) => {
                    outcome.nameless.push(reason);
                    continue;
                }
            };
            match (ttl::told(ttl.as_ref()), resource) {
                (Err(reason), _) => outcome.refuse_untried(name, reason, &self.wanted),
                (Ok(ttl), Some(any)) => {
                    ttls.extend(ttl.map(|ttl| (called(&name, &any, &type_url), ttl)));
                    told.push((name, any));
                }
                (Ok(ttl), None) => {
                    heartbeats.insert(name, ttl);
                }
            }
        }
        outcome.resources(&told, &mut self.judge, &self.wanted);
        let is_known = version_info == self.heard;
        self.heard.clone_from(&version_info);
        for (name, ttl) in heartbeats.iter().filter(|_| is_known) {
            // Of what is not there nothing would go.
            if self.ttls.has(name) || self.there.contains(name.as_str()) {
                self.ttls.put(name, *ttl);
            }
        }
        // Nothing but heartbeats, of a state that is known: what it leaves out is as it was. go-control-plane sends those alone of
        // what has a time to live; Envoy takes the rest for gone.
        let is_heartbeat = is_known && told.is_empty() && !heartbeats.is_empty();
        // Of what cannot be read nobody knows the name: it is not gone.
        if self.wanted == Wanted::All && outcome.nameless.is_empty() && !is_heartbeat {
            let is_there = |name: &str| {
                outcome.good.contains_key(name)
                    || outcome.bad.contains_key(name)
                    || heartbeats.contains_key(name)
            };
            let gone = self.there.iter().filter(|name| !is_there(name)).map(|name| String::from(&**name));
            let gone: Vec<_> = gone.collect();
            outcome.absent.extend(gone);
        }
        outcome.agree(&told, &self.judge);
        for name in &outcome.absent {
            self.there.remove(name.as_str());
            self.judge.forget(name);
        }
        outcome.errors(self.judge.kind(), resource_errors, &self.wanted);
        if self.wanted == Wanted::All {
            self.note_there(outcome.good.keys().chain(outcome.bad.keys()));
        }
        let (nonce, versions) = Default::default();
        Some(Considered { outcome, version: version_info, content, nonce, versions, ttls })
    }

    fn answer(&mut self, considered: Considered) -> Taken<DiscoveryRequest> {
        let Considered { outcome, version, content, nonce: _, versions: _, ttls } = considered;
        self.judge.know(&outcome);
        self.ttls.note(&outcome, &ttls);
        let error = outcome.error();
        if error.is_none() {
            self.version.clone_from(&version);
        }
        let refused = error.is_some().then_some(content);
        let reply = DiscoveryRequest { error_detail: error, ..self.request(false) };
        Taken { kind: self.judge.kind(), reply, outcome, version, refused }
    }

    fn ttls(&self) -> &Ttls {
        &self.ttls
    }

    fn expire(&mut self, now: Instant) -> Option<Outcome> {
        let expired = self.ttls.expired(now);
        for name in &expired {
            self.there.remove(name.as_str());
        }
        self.has_lost |= !expired.is_empty();
        ttl::gone(expired, &mut self.judge)
    }
}

/// A resource in its envelope: its own, or one that says nothing.
fn unwrapped(any: pb::google::Any) -> Result<Resource, String> {
    if any.type_url.rsplit('/').next() != Some(Resource::NAME) {
        return Ok(Resource { resource: Some(any), ..Resource::default() });
    }
    Resource::decode(&*any.value).map_err(|error| format!("an envelope cannot be decoded: {error}"))
}
